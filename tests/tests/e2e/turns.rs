//! The reference and ours take turns on one store.

use serde_json::{Value, json};
use tests::{
    Host, case,
    config::{self, STORE, with},
    plugin::Reply,
};

fn config() -> Value {
    with(&config::dual_stack(), json!({ "type": "host-local" }))
}

fn address(reply: &Reply) -> String {
    reply.result()["ips"][0]["address"].as_str().unwrap().to_owned()
}

#[test]
fn addresses_are_unique_and_in_order() {
    case(|| {
        let host = Host::new();
        for n in 2..20 {
            let call = if n % 2 == 0 { host.plugin("host-local") } else { host.reference("host-local") };
            assert_eq!(address(&call.id(&format!("c{n}")).config(&config()).add()), format!("10.22.0.{n}/24"));
        }
        // Each releases what the other reserved.
        for n in 2..20 {
            let call = if n % 2 == 1 { host.plugin("host-local") } else { host.reference("host-local") };
            call.id(&format!("c{n}")).config(&config()).del().ok();
        }
        assert_eq!(host.files(STORE), ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    });
}

#[test]
fn each_sees_what_the_other_did() {
    case(|| {
        let host = Host::new();
        let ours = || host.plugin("host-local").config(&config());
        let theirs = || host.reference("host-local").config(&config());
        let result = ours().id("a").add().result();
        theirs().id("a").add().failure().is(999, "duplicate allocation is not allowed");
        theirs().id("a").config_with(&config(), &result).check().ok();
        theirs().id("a").del().ok();
        ours().id("a").config_with(&config(), &result).check().failure().is(999, "");
        // Freed and given to another by the reference: ours must not take it for its own.
        theirs().id("b").args("IP=10.22.0.2").add().ok();
        ours().id("a").del().ok();
        assert!(host.exists(&format!("{STORE}/10.22.0.2")));
        assert_eq!(address(&ours().id("a").add()), "10.22.0.3/24");
        let result = theirs().id("c").add().result();
        ours().id("c").config_with(&config(), &result).check().ok();
        ours().id("c").add().failure().is(999, "duplicate allocation is not allowed");
        ours().id("c").del().ok();
        theirs().id("c").config_with(&config(), &result).check().failure();
    });
}

#[test]
fn at_the_same_time_no_address_is_given_twice() {
    case(|| {
        let host = Host::new();
        host.reference("host-local");
        let mut given: Vec<String> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let host = &host;
                    s.spawn(move || {
                        let add = |n: u32| {
                            let call =
                                if thread % 2 == 0 { host.plugin("host-local") } else { host.reference("host-local") };
                            address(&call.id(&format!("c{thread}-{n}")).config(&config()).add())
                        };
                        (0..20).map(add).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 80);
    });
}
