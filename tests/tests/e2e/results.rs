//! Results, in the shape of each version of the protocol, to the byte where others parse them loosely.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::{self, with},
    plugin::Reply,
    settings::versions,
};

fn at(config: &Value, version: &str) -> Value {
    with(config, json!({ "cniVersion": version }))
}

/// One document indented by four, without a newline at its end.
fn assert_layout(reply: &Reply, keys: &[&str]) {
    let text = &reply.ok().stdout;
    assert!(text.starts_with("{\n    \"") && text.ends_with("\n}"), "{text:?}");
    let top = text.lines().filter_map(|line| line.strip_prefix("    \"")?.split('"').next());
    assert_eq!(top.collect::<Vec<_>>(), keys, "{text}");
}

#[test]
fn host_local_to_the_byte() {
    case(|| host_local(&newer()));
}

#[test]
fn host_local_to_the_byte_before_one_point_zero() {
    case(|| host_local(&older()));
}

fn older() -> Vec<&'static str> {
    versions().iter().copied().filter(|version| *version < "1.0.0").collect()
}

fn newer() -> Vec<&'static str> {
    versions().iter().copied().filter(|version| *version >= "1.0.0").collect()
}

fn host_local(versions: &[&str]) {
    let config = with(
        &config::dual_stack(),
        json!({
            "type": "host-local", "ipam": { "resolvConf": "/run/test/resolv.conf",
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.22.0.1" }, { "dst": "fd01::/48" }] } }),
    );
    let old = r#"{
    "cniVersion": "VERSION",
    "ip4": {
        "ip": "10.22.0.2/24",
        "gateway": "10.22.0.1",
        "routes": [
            {
                "dst": "0.0.0.0/0",
                "gw": "10.22.0.1"
            }
        ]
    },
    "ip6": {
        "ip": "fd00:22::2/64",
        "gateway": "fd00:22::1",
        "routes": [
            {
                "dst": "fd01::/48"
            }
        ]
    },
    "dns": {
        "nameservers": [
            "192.0.2.53"
        ],
        "domain": "example.org"
    }
}"#;
    let middle = r#"{
    "cniVersion": "VERSION",
    "ips": [
        {
            "version": "4",
            "address": "10.22.0.2/24",
            "gateway": "10.22.0.1"
        },
        {
            "version": "6",
            "address": "fd00:22::2/64",
            "gateway": "fd00:22::1"
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.22.0.1"
        },
        {
            "dst": "fd01::/48"
        }
    ],
    "dns": {
        "nameservers": [
            "192.0.2.53"
        ],
        "domain": "example.org"
    }
}"#;
    let new = r#"{
    "cniVersion": "VERSION",
    "dns": {
        "domain": "example.org",
        "nameservers": [
            "192.0.2.53"
        ]
    },
    "ips": [
        {
            "address": "10.22.0.2/24",
            "gateway": "10.22.0.1"
        },
        {
            "address": "fd00:22::2/64",
            "gateway": "fd00:22::1"
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.22.0.1"
        },
        {
            "dst": "fd01::/48"
        }
    ]
}"#;
    for version in versions {
        let host = Host::new();
        host.write("/run/test/resolv.conf", "nameserver 192.0.2.53\ndomain example.org\n");
        let text = match *version {
            "0.1.0" | "0.2.0" => old,
            "0.3.0" | "0.3.1" | "0.4.0" => middle,
            _ => new,
        };
        let reply = host.plugin("host-local").config(&at(&config, version)).add();
        assert_eq!(reply.ok().stdout, text.replace("VERSION", version));
    }
}

#[test]
fn bridge_in_each_version() {
    case(|| bridge(&newer()));
}

#[test]
fn bridge_in_each_version_before_one_point_zero() {
    case(|| bridge(&older()));
}

fn bridge(versions: &[&str]) {
    let config = with(&config::dual_stack(), json!({ "dns": { "nameservers": ["192.0.2.53"] } }));
    for version in versions {
        let host = Host::new();
        let pod = host.pod();
        let reply = host.plugin("bridge").pod(&pod).config(&at(&config, version)).add();
        let result = reply.result();
        assert_eq!(result["cniVersion"], *version);
        assert_eq!(result["dns"], json!({ "nameservers": ["192.0.2.53"] }));
        if *version < "0.3.0" {
            assert_layout(&reply, &["cniVersion", "ip4", "ip6", "dns"]);
            assert_eq!(
                result["ip4"],
                json!({
                    "ip": "10.22.0.2/24", "gateway": "10.22.0.1", "routes": [{ "dst": "0.0.0.0/0" }] })
            );
            assert_eq!(
                result["ip6"],
                json!({
                    "ip": "fd00:22::2/64", "gateway": "fd00:22::1", "routes": [{ "dst": "::/0" }] })
            );
            continue;
        }
        let mut ips = vec![
            json!({ "address": "10.22.0.2/24", "gateway": "10.22.0.1", "interface": 2 }),
            json!({ "address": "fd00:22::2/64", "gateway": "fd00:22::1", "interface": 2 }),
        ];
        if *version < "1.0.0" {
            assert_layout(&reply, &["cniVersion", "interfaces", "ips", "routes", "dns"]);
            ips[0]["version"] = json!("4");
            ips[1]["version"] = json!("6");
        } else {
            assert_layout(&reply, &["cniVersion", "dns", "interfaces", "ips", "routes"]);
        }
        assert_eq!(result["ips"], json!(ips), "{version}");
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]));
        let veth = &result["interfaces"][1]["name"];
        let mac = |link: &Value| link["address"].clone();
        assert_eq!(
            result["interfaces"],
            json!([
                { "name": "br0", "mac": mac(&host.link("br0").unwrap()) },
                { "name": veth, "mac": mac(&host.link(veth.as_str().unwrap()).unwrap()) },
                { "name": "eth0", "mac": mac(&pod.interface()), "sandbox": pod.path },
            ])
        );
    }
}

#[test]
fn static_in_each_version() {
    case(|| {
        let host = Host::new();
        let config = json!({ "name": "net", "type": "static", "ipam": {
            "type": "static",
            "addresses": [{ "address": "10.1.2.3/24", "gateway": "10.1.2.1" }, { "address": "fd00::5/64" }],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "fd01::/64", "gw": "fd00::1" }],
            "dns": { "nameservers": ["192.0.2.53"], "domain": "x", "search": ["y"], "options": ["ndots:2"] } } });
        for version in versions() {
            let result = host.plugin("static").config(&at(&config, version)).add().result();
            let dns = json!({ "nameservers": ["192.0.2.53"], "domain": "x", "search": ["y"], "options": ["ndots:2"] });
            let routes = json!([{ "dst": "0.0.0.0/0" }, { "dst": "fd01::/64", "gw": "fd00::1" }]);
            let expected = match *version {
                "0.1.0" | "0.2.0" => json!({
                    "ip4": { "ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [routes[0]] },
                    "ip6": { "ip": "fd00::5/64", "routes": [routes[1]] } }),
                "0.3.0" | "0.3.1" | "0.4.0" => json!({ "routes": routes, "ips": [
                    { "version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1" },
                    { "version": "6", "address": "fd00::5/64" }] }),
                _ => json!({ "routes": routes, "ips": [
                    { "address": "10.1.2.3/24", "gateway": "10.1.2.1" }, { "address": "fd00::5/64" }] }),
            };
            assert_eq!(result, with(&expected, json!({ "cniVersion": version, "dns": dns })));
        }
    });
}

#[test]
fn loopback_in_each_version() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = json!({ "name": "lo", "type": "loopback" });
        for version in versions() {
            let result = host.plugin("loopback").pod(&pod).ifname("lo").config(&at(&config, version)).add().result();
            let link = json!([{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path }]);
            let expected = match *version {
                "0.1.0" | "0.2.0" => json!({
                    "ip4": { "ip": "127.0.0.1/8" }, "ip6": { "ip": "::1/128" }, "dns": {} }),
                "0.3.0" | "0.3.1" | "0.4.0" => json!({ "interfaces": link, "dns": {}, "ips": [
                    { "version": "4", "interface": 0, "address": "127.0.0.1/8" },
                    { "version": "6", "interface": 0, "address": "::1/128" }] }),
                _ => json!({ "interfaces": link, "ips": [
                    { "interface": 0, "address": "127.0.0.1/8" }, { "interface": 0, "address": "::1/128" }] }),
            };
            assert_eq!(result, with(&expected, json!({ "cniVersion": version })), "{version}");
        }
    });
}

#[test]
fn without_a_version_the_result_is_the_oldest() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "cniVersion": null }));
        let result = host.plugin("bridge").pod(&host.pod()).config(&config).add().result();
        assert_eq!(result["cniVersion"], "0.1.0");
        assert_eq!(result["ip4"]["ip"], "10.22.0.2/24");
    });
}

#[test]
fn the_old_shapes_keep_one_address_per_family() {
    case(|| {
        let host = Host::new();
        // Several addresses per family are refused by the IPAM plugins themselves for these versions.
        let config = with(
            &config::bridge(),
            json!({
            "cniVersion": "0.2.0", "ipam": config::host_local(&["10.22.0.0/24", "10.23.0.0/24"]) }),
        );
        let before = host.snapshot();
        let failure = host.plugin("bridge").pod(&host.pod()).config(&config).add().failure();
        failure.is(999, "more than 1 address per family");
        if !tests::settings::is_reference() {
            host.assert_as(&before);
        }
    });
}

#[test]
fn html_characters_are_escaped_as_go_does() {
    case(|| {
        let host = Host::new();
        let config = json!({ "cniVersion": "1.0.0", "name": "net", "type": "static",
            "ipam": { "type": "static", "addresses": [{ "address": "10.1.2.3/24" }], "dns": { "domain": "<a&b>" } } });
        let text = host.plugin("static").config(&config).add().stdout;
        assert!(text.contains(r"\u003ca\u0026b\u003e"), "{text}");
    });
}

#[test]
fn one_point_one_keeps_all_that_a_route_has() {
    case(|| {
        let host = Host::new();
        let route = json!({ "dst": "192.168.7.0/24", "gw": "10.22.0.1", "mtu": 1300, "advmss": 1200, "priority": 50,
            "table": 100, "scope": 0 });
        let config = with(&config::bridge(), json!({ "cniVersion": "1.1.0", "ipam": { "routes": [route] } }));
        let result = host.plugin("bridge").pod(&host.pod()).config(&config).add().result();
        assert_eq!(result["routes"], json!([route]));
    });
}
