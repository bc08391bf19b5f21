use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Every field has a value, and every list two kinds of element.
fn full() -> AddResult {
    let cidr = |text: &str| text.parse::<Cidr>().unwrap();
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    AddResult {
        interfaces: vec![
            Interface { name: "cni0".into(), mac: "0a:00:00:00:00:01".into(), ..Interface::default() },
            Interface {
                name: "eth0".into(),
                mac: "0a:00:00:00:00:02".into(),
                mtu: Some(1400),
                sandbox: "/run/netns/a<b".into(),
                socket_path: "/s".into(),
                pci_id: "0000:00:01.0".into(),
            },
        ],
        ips: vec![
            IpConfig { interface: Some(0), address: cidr("10.1.2.3/24"), gateway: ip("10.1.2.1") },
            IpConfig { interface: None, address: cidr("10.1.3.3/24"), gateway: None },
            IpConfig { interface: Some(1), address: cidr("fd00::5/64"), gateway: ip("fd00::1") },
        ],
        routes: vec![
            Route::default_via(ip("10.1.2.1").unwrap()),
            Route {
                dst: cidr("10.9.1.0/8"),
                gw: None,
                mtu: 1300,
                advmss: 1200,
                priority: 7,
                table: Some(0),
                scope: Some(0),
            },
            Route::new(cidr("fd01::/64"), None),
        ],
        dns: Dns {
            nameservers: vec!["1.1.1.1".into()],
            domain: "d".into(),
            search: vec!["s".into()],
            options: vec!["o".into()],
        },
    }
}

fn json(result: &AddResult, version: &str) -> String {
    String::from_utf8(result.to_json(version.parse().unwrap()).unwrap()).unwrap()
}

/// Without the layout, which [`layout`] has.
fn compact(result: &AddResult, version: &str) -> String {
    json(result, version).lines().map(str::trim_start).collect::<String>().replace("\": ", "\":")
}

#[test]
fn shape_of_1() {
    let expected = concat!(
        r#"{"cniVersion":"VERSION","dns":{"domain":"d","nameservers":["1.1.1.1"],"options":["o"],"search":["s"]},"#,
        r#""interfaces":[{"mac":"0a:00:00:00:00:01","name":"cni0"},{"mac":"0a:00:00:00:00:02","mtu":1400,"name":"eth0","#,
        r#""pciID":"0000:00:01.0","sandbox":"/run/netns/a\u003cb","socketPath":"/s"}],"#,
        r#""ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1","interface":0},{"address":"10.1.3.3/24"},"#,
        r#"{"address":"fd00::5/64","gateway":"fd00::1","interface":1}],"#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"},"#,
        r#"{"advmss":1200,"dst":"10.9.1.0/8","mtu":1300,"priority":7,"scope":0,"table":0},{"dst":"fd01::/64"}]}"#,
    );
    for version in ["1.0.0", "1.1.0"] {
        assert_eq!(compact(&full(), version), expected.replace("VERSION", version));
        assert_eq!(compact(&AddResult::default(), version), format!("{{\"cniVersion\":\"{version}\"}}"));
    }
}

#[test]
fn shape_of_0_3() {
    let expected = concat!(
        r#"{"cniVersion":"VERSION","interfaces":[{"name":"cni0","mac":"0a:00:00:00:00:01"},"#,
        r#"{"name":"eth0","mac":"0a:00:00:00:00:02","sandbox":"/run/netns/a\u003cb"}],"#,
        r#""ips":[{"version":"4","interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"},"#,
        r#"{"version":"4","address":"10.1.3.3/24"},"#,
        r#"{"version":"6","interface":1,"address":"fd00::5/64","gateway":"fd00::1"}],"#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"},"#,
        r#"{"dst":"10.9.1.0/8","mtu":1300,"advmss":1200,"priority":7,"table":0,"scope":0},{"dst":"fd01::/64"}],"#,
        r#""dns":{"nameservers":["1.1.1.1"],"domain":"d","search":["s"],"options":["o"]}}"#,
    );
    for version in ["0.3.0", "0.3.1", "0.4.0"] {
        assert_eq!(compact(&full(), version), expected.replace("VERSION", version));
        assert_eq!(compact(&AddResult::default(), version), format!("{{\"cniVersion\":\"{version}\",\"dns\":{{}}}}"));
    }
}

#[test]
fn shape_of_0_1() {
    let expected = concat!(
        r#"{"cniVersion":"VERSION","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"},{"dst":"10.9.1.0/8"}]},"#,
        r#""ip6":{"ip":"fd00::5/64","gateway":"fd00::1","routes":[{"dst":"fd01::/64"}]},"#,
        r#""dns":{"nameservers":["1.1.1.1"],"domain":"d","search":["s"],"options":["o"]}}"#,
    );
    for version in ["0.1.0", "0.2.0"] {
        assert_eq!(compact(&full(), version), expected.replace("VERSION", version));
        let no_ips = AddResult { ips: Vec::new(), ..full() };
        let error = no_ips.to_json(version.parse().unwrap()).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (999, "cannot convert: no valid IP addresses"));
        // Routes of a family without an address vanish.
        let only_v6 = AddResult { ips: full().ips.split_off(2), dns: Dns::default(), ..full() };
        let expected = r#"{"cniVersion":"VERSION","ip6":{"ip":"fd00::5/64","gateway":"fd00::1","routes":[{"dst":"fd01::/64"}]},"dns":{}}"#;
        assert_eq!(compact(&only_v6, version), expected.replace("VERSION", version));
    }
}

#[test]
fn layout() {
    let result = AddResult { ips: full().ips.split_off(2), ..AddResult::default() };
    let expected = "{\n    \"cniVersion\": \"0.4.0\",\n    \"ips\": [\n        {\n            \"version\": \"6\",\n            \
        \"interface\": 1,\n            \"address\": \"fd00::5/64\",\n            \"gateway\": \"fd00::1\"\n        }\n    \
        ],\n    \"dns\": {}\n}";
    assert_eq!(json(&result, "0.4.0"), expected);
}

#[test]
fn read_in_the_stated_version() {
    let read = |json: &str| AddResult::from_json(json.as_bytes(), Version::V0_4_0);
    let rich = r#"{"cniVersion":"VERSION","interfaces":[{"name":"e","mtu":5,"socketPath":"s","pciID":"p"}]}"#;
    let of_1 = read(&rich.replace("VERSION", "1.0.0")).unwrap();
    let expected = Interface {
        name: "e".into(),
        mtu: Some(5),
        socket_path: "s".into(),
        pci_id: "p".into(),
        ..Interface::default()
    };
    assert_eq!(of_1.interfaces, [expected]);
    for older in [rich.replace("VERSION", ""), rich.replace("VERSION", "0.3.0")] {
        assert_eq!(read(&older).unwrap().interfaces, [Interface { name: "e".into(), ..Interface::default() }]);
    }
    assert_eq!(read("null").unwrap(), AddResult::default());
    assert_eq!(read("{}").unwrap(), AddResult::default());
    let error = read(r#"{"cniVersion":"9"}"#).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (999, "unsupported CNI result version \"9\""));
}

#[test]
fn of_0_1_into_lists() {
    let json = r#"{"cniVersion":"0.2.0","ip6":{"ip":"fd00::5/64","routes":[{"dst":"::/0","gw":"fd00::1","mtu":9}]},
        "ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"10.0.0.0/8"}]},"dns":{"domain":"d"}}"#;
    let result = AddResult::from_json(json.as_bytes(), Version::CURRENT).unwrap();
    let texts: Vec<_> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(texts, ["10.1.2.3/24", "fd00::5/64"]);
    let gateway = Some("fd00::1".parse().unwrap());
    assert_eq!(
        result.routes,
        [Route::new("10.0.0.0/8".parse().unwrap(), None), Route::new("::/0".parse().unwrap(), gateway)]
    );
    assert_eq!(result.dns.domain, "d");
    assert!(result.interfaces.is_empty());
}

#[test]
fn details_of_reading() {
    let read = |json: &str| AddResult::from_json(json.as_bytes(), Version::CURRENT);
    // An empty text is no address; keys fold; what is unknown is dropped.
    let json =
        r#"{"IPs":[{"Address":"::ffff:10.1.2.3/120","gateway":"","version":"4"}],"routes":[{"dst":"::/0","gw":""}]}"#;
    let result = read(json).unwrap();
    assert_eq!(result.ips, [IpConfig { interface: None, address: "10.1.2.3/24".parse().unwrap(), gateway: None }]);
    assert_eq!(result.routes, [Route::new("::/0".parse().unwrap(), None)]);
    for (json, expected) in [
        (r#"{"ips":[{}]}"#, "ips[0].address: required, but missing"),
        (r#"{"ips":[null]}"#, "ips[0].address: required, but missing"),
        (r#"{"routes":[{"dst":"0.0.0.0"}]}"#, "routes[0].dst: invalid CIDR address: 0.0.0.0"),
        (r#"{"routes":[{"dst":"::/0","gw":"x"}]}"#, "routes[0].gw: invalid IP address: x"),
        (
            r#"{"interfaces":[{"mtu":-1}]}"#,
            "interfaces[0].mtu: expected a number from 0 to 4294967295, found a number (-1)",
        ),
        ("[]", "expected an object, found an array"),
        ("", "unexpected end of JSON input at line 1 column 0"),
    ] {
        assert_eq!(read(json).unwrap_err().msg, expected);
    }
}

prop_compose! {
    fn cidrs()(addr: IpAddr, bits in 0u8..=128) -> Cidr {
        let prefix = if addr.is_ipv4() { bits % 33 } else { bits };
        Cidr::new(addr, prefix).unwrap_or_else(|| Cidr::whole_family(addr))
    }
}

fn addresses() -> impl Strategy<Value = Option<IpAddr>> {
    option::of(any::<IpAddr>().prop_map(|ip| ip.to_canonical()))
}

prop_compose! {
    fn interfaces()(
        name: String, mac: String, mtu in option::of(1u32..), sandbox: String, socket_path: String, pci_id: String,
    ) -> Interface {
        Interface { name, mac, mtu, sandbox, socket_path, pci_id }
    }
}

prop_compose! {
    fn routes()(
        dst in cidrs(), gw in addresses(), mtu: i64, advmss: i64, priority: i64,
        table in option::of(any::<i64>()), scope in option::of(any::<i64>()),
    ) -> Route {
        Route { dst, gw, mtu, advmss, priority, table, scope }
    }
}

prop_compose! {
    fn results()(
        interfaces in vec(interfaces(), 0..3),
        ips in vec((option::of(any::<i64>()), cidrs(), addresses()), 0..4),
        routes in vec(routes(), 0..4),
        nameservers in vec(any::<String>(), 0..2), domain: String,
        search in vec(any::<String>(), 0..2), options in vec(any::<String>(), 0..2),
    ) -> AddResult {
        let ip = |(interface, address, gateway)| IpConfig { interface, address, gateway };
        let dns = Dns { nameservers, domain, search, options };
        AddResult { interfaces, ips: ips.into_iter().map(ip).collect(), routes, dns }
    }
}

proptest! {
    #[test]
    fn round_trip_of_1(result in results()) {
        for version in [Version::V1_0_0, Version::V1_1_0] {
            let json = result.to_json(version).unwrap();
            prop_assert_eq!(&AddResult::from_json(&json, Version::V0_1_0).unwrap(), &result);
        }
    }

    #[test]
    fn round_trip_of_0_3(result in results()) {
        let mut expected = result.clone();
        for interface in &mut expected.interfaces {
            *interface = Interface { mtu: None, socket_path: String::new(), pci_id: String::new(), ..interface.clone() };
        }
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let json = result.to_json(version).unwrap();
            prop_assert_eq!(&AddResult::from_json(&json, Version::V0_1_0).unwrap(), &expected);
        }
    }

    /// What 0.1.0 keeps, it keeps: a second conversion changes nothing more.
    #[test]
    fn round_trip_of_0_1(result in results()) {
        for version in [Version::V0_1_0, Version::V0_2_0] {
            let Ok(json) = result.to_json(version) else {
                prop_assert!(result.ips.is_empty());
                continue;
            };
            let once = AddResult::from_json(&json, Version::CURRENT).unwrap();
            prop_assert_eq!(once.ips.len(), [true, false].iter().filter(|v4| result.ips.iter().any(|ip| ip.address.is_ipv4() == **v4)).count());
            prop_assert_eq!(once.to_json(version).unwrap(), json);
        }
    }

    #[test]
    fn never_panics(bytes: Vec<u8>) {
        let _ = AddResult::from_json(&bytes, Version::CURRENT);
    }
}
