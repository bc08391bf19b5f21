//! What plugins may not do: settings of the kernel that are read-only, folders that are another's, capabilities that a
//! container does not have. What a pod can do without is said and done without; all else is refused with its reason.

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tests::{
    Host, Place, Snapshot, case,
    chained::{self, Chain, everything},
    config::{self, with},
    published::{CONTAINER_PORT, NAME, at},
    settings::not_for_reference,
    traffic::{Server, Transport, ask, assert_reaches, outside::SERVER4, outside::SERVER6},
    userns::{self, Users},
};

const REASON: &str = "it stops at what it may not write, and says neither values nor capabilities";

/// As the machine's root, and without root.
fn hosts() -> [Host; 2] {
    [Host::new(), Host::rootless(Users::Many)]
}

fn forward(host: &Host, on: bool) {
    let value = u8::from(on);
    host.run(&format!("sysctl -q -w net.ipv4.ip_forward={value} net.ipv6.conf.all.forwarding={value}"));
}

/// What IPv6's settings of a new link are.
fn by_default(place: &impl Place, settings: &[&str]) {
    for setting in settings {
        place.run(&format!("sysctl -q -w net.ipv6.conf.default.{setting}"));
    }
}

fn read_only(host: &Host, folder: &str) {
    host.run(&format!("mount --bind {folder} {folder}"));
    host.run(&format!("mount -o remount,ro,bind {folder}"));
}

/// Everything but what asks for settings itself.
fn chain(host: &Host) -> Chain<'_> {
    let tuning = with(&chained::tuning(), json!({ "sysctl": null }));
    Chain::new(host, vec![chained::bridge(), chained::portmap(), chained::firewall(), tuning, chained::bandwidth()])
}

/// What `bridge` says at ADD of a pod, which is checked, connected, and detached.
fn lives(host: &Host) -> String {
    let chain = chain(host);
    let pod = host.pod();
    by_default(
        &pod.ns,
        &["accept_dad=1", "accept_ra=1", "router_solicitations=-1", "keep_addr_on_down=0", "ndisc_notify=0"],
    );
    let bridge = &chain.plugins[0];
    let reply = host.plugin("bridge").pod(&pod).config(bridge).add();
    let result = chain.plugins[1..].iter().fold(reply.result(), |result, plugin| {
        let reply = chain.call(plugin).pod(&pod).config_with(plugin, &result).add();
        assert!(plugin["type"] == "tuning" || reply.stderr.is_empty(), "{reply}");
        reply.result()
    });
    chain.check(&pod, &result);
    for to in [config::GATEWAY4, config::GATEWAY6, SERVER4, SERVER6] {
        assert_reaches(&pod, to);
    }
    let address = pod.addresses()[0].split('/').next().unwrap().to_owned();
    let _server = Server::start(&pod, NAME, at(&address, CONTAINER_PORT));
    let loopback = at("127.0.0.1", chained::HOST_PORT);
    assert_eq!(ask(host, Transport::Tcp, loopback).unwrap().server, NAME);
    chain.del(&pod, &result);
    reply.stderr
}

/// The mask of containers: podman in a container, Docker in Docker.
#[test]
fn a_read_only_proc_sys_is_named_and_the_pod_works() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            host.outside();
            forward(&host, true);
            by_default(host.netns(), &["accept_dad=1", "accept_ra=1"]);
            read_only(&host, "/proc/sys");
            let said = lives(&host);
            for (link, setting, present, wanted) in [
                ("br0", "accept_ra", 1, 0),
                ("br0", "accept_dad", 1, 0),
                ("eth0", "accept_dad", 1, 0),
                ("eth0", "accept_ra", 1, 0),
                ("eth0", "router_solicitations", -1, 0),
                ("eth0", "keep_addr_on_down", 0, 1),
                ("eth0", "ndisc_notify", 0, 1),
            ] {
                let text =
                    format!("conf/{link}/{setting} stays {present} and should be {wanted}: Read-only file system");
                assert!(said.contains(&text), "{text} is not in: {said}");
            }
            // One line for the pod, two for the bridge, made by this call.
            assert_eq!(said.lines().count(), 3, "{said}");
            let before = host.snapshot();
            lives(&host);
            host.assert_as(&before);
        }
    });
}

#[test]
fn a_setting_that_is_right_is_not_mentioned() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            forward(&host, true);
            let pod = host.pod();
            by_default(host.netns(), &["accept_dad=0", "accept_ra=0"]);
            by_default(
                &pod.ns,
                &["accept_dad=0", "accept_ra=0", "router_solicitations=0", "keep_addr_on_down=1", "ndisc_notify=1"],
            );
            read_only(&host, "/proc/sys");
            let reply = host.plugin("bridge").pod(&pod).config(&config::everything()).add();
            assert_eq!(reply.ok().stderr, "");
        }
    });
}

#[test]
fn forwarding_that_may_not_be_enabled() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            forward(&host, false);
            let before = host.snapshot();
            read_only(&host, "/proc/sys");
            let pod = host.pod();
            let call = |config: &Value| host.plugin("bridge").pod(&pod).config(config);
            let no_routes = with(&config::dual_stack(), json!({ "ipam": { "routes": null } }));
            let masquerading = with(&no_routes, json!({ "ipMasq": true }));
            for config in [config::dual_stack(), masquerading] {
                let text = "failed to enable forwarding: /proc/sys/net/ipv4/ip_forward: cannot set 0 to 1: Read-only|\
                            whoever makes this network namespace has to set it";
                call(&config).add().failure().is(999, text);
                host.assert_nothing_made(&before);
            }
            // Who goes no further than its gateway needs none.
            let reply = call(&no_routes).add();
            for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                let text =
                    format!("/proc/sys/net/{setting}: cannot set 0 to 1: Read-only file system (os error 30); the pod");
                assert!(reply.ok().stderr.contains(&text), "{reply}");
            }
            host.plugin("bridge").pod(&pod).config_with(&no_routes, &reply.result()).check().ok();
            assert_reaches(&pod, config::GATEWAY4);
            assert_reaches(&pod, config::GATEWAY6);
            call(&no_routes).del().ok();
        }
    });
}

#[test]
fn a_pod_that_may_not_have_ipv6() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            forward(&host, true);
            let before = host.snapshot();
            let pod = host.pod();
            pod.run("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
            read_only(&host, "/proc/sys");
            let add = |config: &Value| host.plugin("bridge").pod(&pod).config(config).add();
            let text = "failed to enable IPv6 in the container: /proc/sys/net/ipv6/conf/lo/disable_ipv6: cannot set 1 to 0: \
                        Read-only|leave the IPv6 ranges away";
            add(&config::dual_stack()).failure().is(999, text);
            host.assert_nothing_made(&before);
            add(&config::bridge()).ok();
            assert_reaches(&pod, config::GATEWAY4);
        }
    });
}

#[test]
fn a_proc_sys_that_is_hidden() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            forward(&host, true);
            host.run("mount -t tmpfs -o ro tmpfs /proc/sys");
            let pod = host.pod();
            let add = |config: &Value| host.plugin("bridge").pod(&pod).config(config).add();
            add(&config::dual_stack()).failure().is(999, "/proc/sys/net is hidden from the plugins");
            assert!(
                host.link(config::BRIDGE).is_none()
                    && host.files(config::STORE).iter().all(|name| !name.contains("10."))
            );
            let result = add(&config::bridge()).result();
            assert_reaches(&pod, config::GATEWAY4);
            host.plugin("bridge").pod(&pod).config_with(&config::bridge(), &result).check().ok();
            host.plugin("bridge").pod(&pod).config_with(&config::bridge(), &result).del().ok();
        }
    });
}

/// What the config asks for itself is not done without.
#[test]
fn settings_of_tuning_that_may_not_be_written() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            let pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config::layer2()).add().ok();
            read_only(&host, "/proc/sys");
            let before = Snapshot::with_pod(&host, &pod);
            let add = |value: &str| {
                let tuning =
                    with(&chained::tuning(), json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": value } }));
                host.plugin("tuning").pod(&pod).config_with(&tuning, &json!({ "cniVersion": "1.0.0" })).add()
            };
            let text = "(/proc/sys/net/ipv4/conf/eth0/arp_filter) from \"0\" to \"1\": Read-only file system|\
                        let the container's runtime set it";
            add("1").failure().is(999, text);
            let diff = before.diff_without_skeleton(&Snapshot::with_pod(&host, &pod));
            assert!(diff.is_empty(), "{diff}");
            add("0").ok();
        }
    });
}

/// A pod, by the chain with the backups of `tuning` where they can be, of which nothing stays. Returns what ADD said.
fn lives_backed_up(host: &Host) -> Value {
    let chain = Chain::new(host, everything()).with(&json!({ "dataDir": "/var/lib/cni/tuning" }));
    chain.warm_up();
    let before = host.snapshot();
    let pod = host.pod();
    let result = chain.add(&pod);
    chain.check(&pod, &result);
    assert_reaches(&pod, SERVER4);
    chain.del(&pod, &result);
    host.assert_as(&before);
    result
}

/// The locks are then the namespace's own file; what is looked for once a minute is not looked for.
#[test]
fn a_run_that_may_not_be_written() {
    case(|| {
        not_for_reference("it keeps nothing there but the backups of tuning");
        for host in hosts() {
            host.outside();
            host.run("mount --rbind /run/test /run/test");
            host.run("mount -o remount,ro,bind /run");
            let result = lives_backed_up(&host);
            let tuning = with(&chained::tuning(), json!({ "cniVersion": "1.1.0" }));
            let status = host.plugin("tuning").verb("STATUS").config(&tuning).run();
            status.failure().is(50, "/run/cni/tuning|read-only|dataDir");
            let pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config::layer2()).add().ok();
            let add = host.plugin("tuning").pod(&pod).config_with(&chained::tuning(), &result).add();
            add.failure().is(999, "/run/cni/tuning|read-only|dataDir");
        }
    });
}

/// As users see `/run` who have none of their own.
#[test]
fn a_run_that_is_anothers() {
    case(|| {
        not_for_reference("it keeps nothing there but the backups of tuning");
        let host = Host::rootless(Users::Many);
        host.outside();
        host.run("mkdir /run/oxbridge");
        // The machine's root has it to itself.
        let machine = host.enter(|| {
            userns::own_files(false);
            let mode = Some("mode=0700");
            mount(None::<&str>, "/run/oxbridge", Some("tmpfs"), MsFlags::empty(), mode)
        });
        machine.unwrap();
        lives_backed_up(&host);
    });
}

#[test]
fn a_store_that_may_not_be_written() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = Host::rootless(Users::Many);
        let before = host.snapshot();
        host.run("mount -o remount,ro,bind /var/lib/cni");
        let config = with(&config::everything(), json!({ "cniVersion": "1.1.0" }));
        let call = || host.plugin("bridge").pod(&host.pod()).config(&config);
        call().add().failure().is(999, "/var/lib/cni/networks|Read-only file system|dataDir");
        call().verb("STATUS").run().failure().is(50, "/var/lib/cni|not writable");
        host.assert_nothing_made(&before);
    });
}

/// Of a container, or a service's sandbox.
#[test]
fn capabilities() {
    case(|| {
        not_for_reference(REASON);
        for host in hosts() {
            host.outside();
            chain(&host).warm_up();
            let pod = host.named_pod();
            let before = host.snapshot();
            let call = |plugin: &Value, bound: &str, result: &Value| {
                let config = with(plugin, json!({ "prevResult": result }));
                host.plugin_of(plugin).pod(&pod).config(&config).under(&["setpriv", "--bounding-set", bound])
            };
            for bound in ["-all,+net_admin", "-all"] {
                for plugin in
                    [config::everything(), json!({ "cniVersion": "1.0.0", "name": "net", "type": "loopback" })]
                {
                    let text = "failed to enter netns|operation not permitted|CAP_SYS_ADMIN, in the user namespace";
                    call(&plugin, bound, &Value::Null).add().failure().is(999, text);
                }
            }
            for plugin in &chain(&host).plugins[..3] {
                let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.22.0.2/24" }] });
                call(plugin, "-all,+sys_admin", &result)
                    .add()
                    .failure()
                    .is(999, "(EPERM): has this process CAP_NET_ADMIN");
            }
            host.assert_nothing_made(&before);
            let enough = "-all,+net_admin,+sys_admin";
            let chain = chain(&host);
            let result =
                chain.plugins.iter().fold(Value::Null, |result, plugin| call(plugin, enough, &result).add().result());
            for plugin in &chain.plugins {
                call(plugin, enough, &result).check().ok();
            }
            assert_reaches(&pod, SERVER4);
            for plugin in chain.plugins.iter().rev() {
                call(plugin, enough, &result).del().ok();
            }
            host.assert_as(&before);
        }
    });
}
