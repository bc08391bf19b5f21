//! A node whose plugins are replaced under its running pods, and put back: by the commands of `docs/migrating.md`.

use std::{path::Path, thread};

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, case,
    chained::{self, Chain, INSTALLED, bandwidth, firewall, portmap, tuning, valid},
    config::with,
    docs,
    published::at,
    settings::{self, is_reference},
    snapshot::elements,
    traffic::{
        PATIENCE, Server, Transport, ask, assert_reaches,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

use crate::{delegate::script, flannel_add};

/// What the document tells an operator to type, by the name in the comment before it.
fn command(name: &str) -> String {
    docs::command("migrating.md", name).replace("./bin", settings::bin_dir().to_str().unwrap())
}

/// Types it.
fn run(host: &Host, name: &str) -> String {
    host.write("/run/test/command", command(name));
    host.run("sh -e /run/test/command")
}

/// A node with the reference's plugins.
fn node() -> Host {
    if is_reference() {
        tests::skip("about our plugins in the place of the reference's");
    }
    let host = Host::new();
    host.outside();
    host.reference("bridge");
    let folder = settings::reference_dir().unwrap();
    for path in [folder.as_path(), &settings::bin_dir()] {
        assert!(!path.starts_with("/opt"), "{} is hidden by the node's own /opt", path.display());
    }
    host.run("mount -t tmpfs tmpfs /opt");
    host.run(&format!("mkdir -p {INSTALLED}"));
    host.run(&format!("cp -a {}/. {INSTALLED}", folder.display()));
    run(&host, "keep");
    host
}

/// All plugins behind `bridge`, as they are installed; pods that talk to each other, so each has a MAC address of its own.
fn chain(host: &Host, port: u16) -> Chain<'_> {
    // Debian's reference does not know txQLen, nor IFNAME in CHECK.
    let tuning = with(&tuning(), json!({ "mac": null, "txQLen": null, "sysctl": null }));
    let tuning = with(&tuning, json!({ "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } }));
    let chain = Chain::new(host, vec![chained::bridge(), portmap(), firewall(), tuning, bandwidth()]).installed();
    let mapping =
        |protocol: Transport| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol.to_string() });
    chain.with(&json!({ "runtimeConfig": { "portMappings": Transport::ALL.map(mapping) } }))
}

/// A pod of the chain, and its result.
struct Attached {
    pod: Pod,
    result: Value,
    port: u16,
}

fn attach(host: &Host, port: u16) -> Attached {
    let pod = host.named_pod();
    let result = chain(host, port).add(&pod);
    Attached { pod, result, port }
}

impl Attached {
    fn addresses(&self) -> Vec<String> {
        tests::pod::ips(&self.result).iter().map(ToString::to_string).collect()
    }
}

/// Everybody reaches everybody: each other, the world outside, by it the published ports.
fn assert_work(host: &Host, pods: &[&Attached]) {
    let mut addresses: Vec<String> = pods.iter().flat_map(|a| a.addresses()).collect();
    let count = addresses.len();
    for one in pods {
        // Itself by `lo`, which is up only where `loopback` was called.
        for to in addresses.iter().filter(|to| !one.addresses().contains(*to)) {
            assert_reaches(&one.pod, to);
        }
        for to in [SERVER4, SERVER6] {
            assert_reaches(&one.pod, to);
        }
        let serve = |ip: &String| Server::start(&one.pod, &one.pod.id, at(ip, 80));
        let _servers: Vec<_> = one.addresses().iter().map(serve).collect();
        for host_ip in [HOST4, HOST6] {
            for transport in Transport::ALL {
                let answer = ask(host.outside(), transport, at(host_ip, one.port)).map(|a| a.server);
                assert_eq!(answer.as_deref(), Some(&*one.pod.id), "{host_ip}:{}/{transport}", one.port);
            }
        }
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "an address is given twice");
}

/// What both suites leave for good is there.
fn warm_up(host: &Host) {
    chain(host, 1).warm_up();
    run(host, "install");
    chain(host, 1).warm_up();
    chain(host, 1).warm_up();
    run(host, "back");
    host.run("mkdir -p /run/netns");
}

/// The host's veths that are limited.
fn limited(host: &Host) -> usize {
    let qdiscs = host.json("tc -j qdisc show");
    let is_limited = |q: &&Value| q["kind"] == "tbf" && q["dev"].as_str().unwrap().starts_with("veth");
    qdiscs.as_array().unwrap().iter().filter(is_limited).count()
}

#[test]
fn pods_of_the_reference_live_on_when_ours_are_copied_over() {
    case(|| {
        let host = node();
        warm_up(&host);
        let before = host.snapshot();
        let old: Vec<Attached> = (8001..8006).map(|port| attach(&host, port)).collect();
        run(&host, "install");
        for a in &old {
            chain(&host, a.port).check(&a.pod, &a.result);
        }
        assert_eq!(run(&host, "look"), "");
        let new = attach(&host, 9001);
        assert_work(&host, &[&old[0], &new]);
        assert_eq!(limited(&host), old.len() + 1);
        chain(&host, new.port).check(&new.pod, &new.result);
        // GC takes what is not valid, whoever made it, and nothing else.
        let [first, second, third, fourth, fifth] = <[Attached; 5]>::try_from(old).ok().unwrap();
        chain(&host, 1).gc(&valid(&[&first.pod, &third.pod, &fourth.pod, &fifth.pod, &new.pod]));
        assert_work(&host, &[&first, &new]);
        // What names no network goes by DEL: the backup here, beside link, ifb and firewall rules.
        let now = host.snapshot();
        let named: Vec<&str> = now.lines(&second.pod.id).filter(|line| !line.contains("/run/netns/")).collect();
        assert!(named.iter().all(|line| line.starts_with("file /run/cni/tuning/")), "{named:?}");
        chain(&host, second.port).del(&second.pod, &second.result);
        // DEL, with everything, without a result, without a path, without a namespace.
        chain(&host, first.port).del(&first.pod, &first.result);
        chain(&host, third.port).del(&third.pod, &Value::Null);
        host.unmount(&fourth.pod.path);
        chain(&host, fourth.port).del(&fourth.pod, &fourth.result);
        chain(&host, fifth.port).del(&host.end(fifth.pod), &fifth.result);
        assert_work(&host, &[&new]);
        chain(&host, new.port).del(&new.pod, &new.result);
        for pod in [&first.pod, &second.pod, &third.pod, &new.pod] {
            host.unmount(&pod.path);
        }
        host.assert_as(&before);
    });
}

/// What CHECK of the reference says of pods of ours, by plugin; `None`: that all is well.
const CHECK_SAYS: [(&str, Option<&str>); 5] = [
    ("bridge", None),
    ("portmap", Some("CNI-DN-")),
    ("firewall", Some("expected rule [")),
    ("tuning", None),
    ("bandwidth", None),
];

/// What is there after the reference's DEL of pods of ours, as the document says.
fn is_told(line: &str) -> bool {
    let told = [
        "+ nft ",
        "+ file /run/oxbridge/",
        "+ folder /run/oxbridge",
        "+ file /run/cni/tuning/.oxbridge/",
        "+ folder /run/cni/tuning/.oxbridge",
        "+ file /var/lib/cni/networks/.oxbridge/",
        "+ folder /var/lib/cni/networks/.oxbridge",
    ];
    told.iter().any(|start| line.starts_with(start))
}

#[test]
fn pods_of_ours_live_on_when_the_reference_is_put_back() {
    case(|| {
        let host = node();
        chain(&host, 1).warm_up();
        chain(&host, 1).warm_up();
        host.run("mkdir -p /run/netns");
        let before = host.snapshot();
        run(&host, "install");
        let pods: Vec<Attached> = (8001..8004).map(|port| attach(&host, port)).collect();
        run(&host, "back");
        assert!(run(&host, "look").contains("bridge is not Oxbridge's"));
        let new = attach(&host, 9001);
        assert_work(&host, &[&pods[0], &new]);
        for (plugin, (name, expected)) in chain(&host, pods[0].port).plugins.iter().zip(CHECK_SAYS) {
            assert_eq!(plugin["type"], name);
            let Attached { pod, result, port } = &pods[0];
            let reply = chain(&host, *port).call(plugin).pod(pod).config_with(plugin, result).check();
            match expected {
                Some(text) => _ = reply.failure().is(999, text),
                None => _ = reply.ok(),
            }
        }
        let [first, second, third] = <[Attached; 3]>::try_from(pods).ok().unwrap();
        // With the namespace its first DEL looks for masquerading rules of its own, when all else is done.
        for (a, result) in [(&first, &first.result), (&second, &Value::Null)] {
            let errors = chain(&host, a.port).del_until_done(&a.pod, result);
            assert!(matches!(&errors[..], [e] if e.contains("-D POSTROUTING") && e.contains("CNI-")), "{errors:?}");
        }
        let third_pod = host.end(third.pod);
        assert_eq!(chain(&host, third.port).del_until_done(&third_pod, &third.result), [""; 0]);
        assert_work(&host, &[&new]);
        // A pod of the reference may have any address and port that one of ours had.
        let again = attach(&host, first.port);
        assert_work(&host, &[&new, &again]);
        for a in [&new, &again] {
            assert_eq!(chain(&host, a.port).del_until_done(&a.pod, &a.result), [""; 0]);
        }
        for pod in [&first.pod, &second.pod, &new.pod, &again.pod] {
            host.unmount(&pod.path);
        }
        // It forgets its own pods' backup as well, where the namespace is gone.
        host.run(&format!("rm /run/cni/tuning/{}_eth0.json", third_pod.id));
        let left = before.diff(&host.snapshot());
        assert!(left.lines().all(is_told), "{left}");
        assert!(left.contains("oxbridge ports-any") && left.contains("/.oxbridge/"), "{left}");
        run(&host, "remove");
        run(&host, "records");
        host.assert_as(&before);
        run(&host, "remove");
    });
}

/// With the iptables backends it knows all of ours but the firewall's, which say whose they are.
#[test]
fn with_the_iptables_backends_del_of_the_reference_takes_all_but_the_firewalls_rules() {
    case(|| {
        let host = node();
        let iptables = json!({ "backend": "iptables", "ipMasqBackend": "iptables" });
        let chain = |port| chain(&host, port).with(&iptables);
        chain(1).warm_up();
        chain(1).warm_up();
        let before = host.snapshot();
        run(&host, "install");
        let pod = host.pod();
        let result = chain(8001).add(&pod);
        run(&host, "back");
        // Its CHECK of ports and rules of two families fails for its own pods, too.
        let fails = |plugin: &&Value| plugin["type"] == "portmap" || plugin["type"] == "firewall";
        for plugin in chain(8001).plugins.iter().filter(|plugin| !fails(plugin)) {
            chain(8001).call(plugin).pod(&pod).config_with(plugin, &result).check().ok();
        }
        assert_eq!(chain(8001).del_until_done(&pod, &result), [""; 0]);
        // Whose the addresses are is always remembered by `firewall`.
        assert!(elements(&host, &pod.id).iter().all(|e| e.set.ends_with(" oxbridge fw-pods")));
        assert!(host.run("iptables -S CNI-FORWARD").contains(&pod.id));
        run(&host, "rules");
        run(&host, "remove");
        run(&host, "records");
        host.assert_as(&before);
    });
}

/// Somebody's ADD is under way at any moment.
#[test]
fn plugins_are_replaced_while_they_run() {
    case(|| {
        let host = node();
        // An IPAM plugin that takes its time once.
        script(
            &host,
            "slow",
            "echo >>/run/test/asked; [ $CNI_COMMAND != ADD ] || read -r _ </run/test/go\n\
                               printf %s \"$stdin\" | exec /opt/cni/bin/host-local",
        );
        host.run(&format!("cp /run/test/plugins/slow {INSTALLED}"));
        host.run("mkfifo /run/test/go");
        let config = with(&chained::bridge(), json!({ "ipam": { "type": "slow" } }));
        let pod = host.pod();
        let bridge = || Call::new(&host, Path::new(INSTALLED), "bridge").pod(&pod);
        let result = thread::scope(|s| {
            let add = s.spawn(|| bridge().config(&config).add());
            let deadline = std::time::Instant::now() + PATIENCE;
            while !host.exists("/run/test/asked") && std::time::Instant::now() < deadline {
                thread::yield_now();
            }
            let over = host.try_run(&format!("cp {}/bridge {INSTALLED}/bridge", settings::bin_dir().display()));
            assert!(over.unwrap_err().contains("Text file busy"), "it would have been torn");
            run(&host, "install");
            host.write("/run/test/go", "\n");
            add.join().unwrap().result()
        });
        assert_eq!(
            host.files(INSTALLED),
            host.files("/opt/cni/bin.reference")
                .into_iter()
                .chain(["flannel".into(), "slow".into()])
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
        bridge().config_with(&config, &result).check().ok();
        assert_reaches(&pod, SERVER4);
        bridge().config_with(&config, &result).del().ok();
        assert!(host.files("/var/lib/cni/networks/net").iter().all(|name| !name.starts_with("10.")));
        assert!(pod.link("eth0").is_none());
    });
}

/// Debian has no flannel of the reference: it writes down its delegate's config, and calls the delegate by it.
#[test]
fn flannels_pods_are_taken_over_and_given_back() {
    case(|| {
        let host = node();
        host.write(flannel_add::SUBNET_ENV, flannel_add::LEASE46);
        let plugin = |name| Call::new(&host, Path::new(INSTALLED), name);
        let flannel = || plugin("flannel");
        let config = flannel_add::config();
        run(&host, "install");
        let delegates = {
            let pod = host.pod();
            flannel().pod(&pod).config(&config).add().ok();
            let text = host.read(&format!("{}/{}", flannel_add::DATA_DIR, pod.id)).unwrap();
            flannel().pod(&pod).config(&config).del().ok();
            text
        };
        run(&host, "back");
        run(&host, "records");
        let (old, own) = (host.pod(), host.pod());
        for _ in 0..2 {
            let bridge = || plugin("bridge").pod(&old).stdin(delegates.clone());
            bridge().add().ok();
            bridge().del().ok();
        }
        let before = host.snapshot();
        let result = plugin("bridge").pod(&old).stdin(delegates.clone()).add().result();
        host.write(&format!("{}/{}", flannel_add::DATA_DIR, old.id), &delegates);
        run(&host, "install");
        flannel().pod(&old).config_with(&config, &result).check().ok();
        flannel().pod(&own).config(&config).add().ok();
        assert_reaches(&old, own.addresses()[0].split('/').next().unwrap());
        flannel().pod(&old).config_with(&config, &result).del().ok();
        assert!(old.link("eth0").is_none());
        run(&host, "back");
        // The reference's DEL: what the file says, then the file goes.
        let file = format!("{}/{}", flannel_add::DATA_DIR, own.id);
        let kept = host.read(&file).unwrap();
        let del = || plugin("bridge").pod(&own).stdin(kept.clone()).del();
        del();
        del().ok();
        host.run(&format!("rm {file}"));
        run(&host, "remove");
        run(&host, "records");
        host.assert_as(&before);
    });
}
