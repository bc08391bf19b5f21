//! bridge's GC of masquerading in iptables' chains, which name the network: the reference's, and those of its backend.

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, case,
    chained::{gc, valid},
    config::{self, with},
    settings::not_for_reference,
};

/// First in PATH: programs of the tests' own choice.
const PROGRAMS: &str = "/run/test/programs";

fn masquerading() -> Value {
    with(&config::dual_stack(), json!({ "ipMasq": true, "ipMasqBackend": "iptables" }))
}

/// `iptables` is what this says: `nft` or `legacy`.
fn choose_iptables(host: &Host, flavour: &str) {
    host.run(&format!("mkdir -p {PROGRAMS}"));
    for program in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            host.run(&format!("ln -sf /usr/sbin/{program}-{flavour}{suffix} {PROGRAMS}/{program}{suffix}"));
        }
    }
}

fn with_programs(call: Call<'_>) -> Call<'_> {
    call.env("PATH", &format!("{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin"))
}

/// The chains of containers in this flavour of iptables.
fn chains(host: &Host, flavour: &str) -> Vec<String> {
    let mut chains = Vec::new();
    for program in ["iptables", "ip6tables"] {
        let saved = host.run(&format!("{program}-{flavour}-save -t nat"));
        chains.extend(saved.lines().filter(|line| line.starts_with(":CNI-")).map(str::to_owned));
    }
    chains
}

fn exactly_the_stale_go(host: &Host, flavour: &str, reference: bool) {
    choose_iptables(host, flavour);
    let add = |pod: &Pod, config: &Value| {
        let call = if reference { host.reference("bridge") } else { host.plugin("bridge") };
        with_programs(call).pod(pod).config(config).add().ok();
    };
    let other = with(&masquerading(), json!({ "name": "net-2" }));
    let pods = [host.pod(), host.pod()];
    let of_other = host.pod();
    add(&pods[0], &masquerading());
    add(&of_other, &other);
    let (kept, rules) = (chains(host, flavour), host.run(&format!("iptables-{flavour}-save -t nat")));
    add(&pods[1], &masquerading());
    assert_eq!(chains(host, flavour).len(), kept.len() + 2, "{flavour}");
    let call = || with_programs(host.plugin("bridge"));
    let everything = chains(host, flavour);
    gc(call(), &masquerading(), &Value::Null).ok();
    gc(call(), &masquerading(), &valid(&[&pods[0], &pods[1]])).ok();
    assert_eq!(chains(host, flavour), everything);
    // Whatever backend is configured by then.
    let native = with(&masquerading(), json!({ "ipMasqBackend": null }));
    let reply = gc(call(), &native, &valid(&[&pods[0]]));
    assert!(reply.ok().stderr.contains(&format!("masquerade container {}", pods[1].id)), "{reply}");
    assert_eq!(chains(host, flavour), kept);
    let strip = |saved: String| saved.lines().filter(|l| l.starts_with('-')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(strip(host.run(&format!("iptables-{flavour}-save -t nat"))), strip(rules));
    gc(call(), &native, &json!([])).ok();
    assert_eq!(chains(host, flavour).len(), 2, "{flavour}: those of the other network");
    for (pod, config) in [(&pods[0], masquerading()), (&pods[1], masquerading()), (&of_other, other)] {
        with_programs(host.plugin("bridge")).pod(pod).config(&config).del().ok();
    }
    assert!(chains(host, flavour).is_empty(), "{flavour}: DEL removes the rest");
}

#[test]
fn in_nf_tables() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        for reference in [false, true] {
            exactly_the_stale_go(&Host::new(), "nft", reference);
        }
    });
}

#[test]
fn in_x_tables() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        if host.try_run("iptables-legacy -t nat -S").is_err() || host.try_run("ip6tables-legacy -t nat -S").is_err() {
            tests::skip("this kernel has no iptables-legacy");
        }
        for reference in [false, true] {
            exactly_the_stale_go(&host, "legacy", reference);
        }
    });
}
