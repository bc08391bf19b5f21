use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    name: String,
    is_gateway: bool,
    mtu: i64,
    small: u8,
    mask: Option<u32>,
    ipam: Ipam,
    sysctl: BTreeMap<String, String>,
    raw: Node,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default)]
struct Ipam {
    r#type: String,
    ranges: Vec<Vec<Range>>,
}

impl Default for Ipam {
    fn default() -> Self {
        Self { r#type: "none".into(), ranges: Vec::new() }
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Range {
    subnet: String,
    skip: bool,
}

fn read(json: &str) -> Config {
    from_slice(json.as_bytes()).unwrap()
}

fn refused(json: impl AsRef<[u8]>) -> String {
    from_slice::<Config>(json.as_ref()).unwrap_err().to_string()
}

#[test]
fn keys_fold_as_in_go() {
    for (key, found) in [
        ("isGateway", true),
        ("ISGATEWAY", true),
        ("isgateway", true),
        ("i\u{17f}Gateway", true),
        ("isGateway ", false),
        ("is_gateway", false),
        ("isGatewaÿ", false),
    ] {
        assert_eq!(read(&format!("{{\"{key}\":true}}")).is_gateway, found, "{key}");
    }
    assert_eq!(read("{\"ma\u{17f}\u{212a}\":7}").mask, Some(7));
    // Escaped keys are the same keys.
    assert_eq!(read(r#"{"ma\u017f\u212A":7}"#).mask, Some(7));
    // A map's keys are data.
    let config = read(r#"{"SYSCTL":{"net.A":"1","NET.a":"2","net.A":"3"}}"#);
    assert_eq!(config.sysctl, BTreeMap::from([("net.A".into(), "3".into()), ("NET.a".into(), "2".into())]));
}

#[test]
fn of_equal_keys_the_last_counts_and_objects_merge() {
    assert_eq!(read(r#"{"mtu":1,"MTU":2}"#).mtu, 2);
    assert_eq!(read(r#"{"MTU":1,"mtu":2}"#).mtu, 2);
    assert_eq!(read(r#"{"mtu":1,"mtu":null}"#).mtu, 1);
    let config = read(r#"{"ipam":{"type":"a","ranges":[[{}]]},"IPAM":{"TYPE":"b"},"ipam":null}"#);
    assert_eq!(config.ipam, Ipam { r#type: "b".into(), ranges: vec![vec![Range::default()]] });
    // What is kept for later merges later.
    let config = read(r#"{"raw":{"type":"a"},"RAW":{"Ranges":[]}}"#);
    assert_eq!(config.raw.decode::<Ipam>().unwrap(), Ipam { r#type: "a".into(), ranges: vec![] });
}

#[test]
fn null_is_not_given() {
    let nulls = r#"{"name":null,"isGateway":null,"mtu":null,"mask":null,"ipam":null,"sysctl":null,"raw":null}"#;
    assert_eq!(read(nulls), Config::default());
    assert_eq!(read("null"), Config::default());
    let config = read(r#"{"ipam":{"type":null,"ranges":[null,[null]]},"sysctl":{"a":null}}"#);
    assert_eq!(config.ipam, Ipam { r#type: "none".into(), ranges: vec![vec![], vec![Range::default()]] });
    assert_eq!(config.sysctl["a"], "");
}

#[test]
fn types_are_strict() {
    for (json, expected) in [
        (r#"{"mtu":"1500"}"#, "mtu: expected a number, found a string (\"1500\")"),
        (r#"{"mtu":1.5}"#, "mtu: expected an integer, found a number (1.5)"),
        (r#"{"mtu":1.0}"#, "mtu: expected an integer, found a number (1.0)"),
        (r#"{"mtu":1e3}"#, "mtu: expected an integer, found a number (1000.0)"),
        (r#"{"small":256}"#, "small: expected a number from 0 to 255, found a number (256)"),
        (r#"{"small":-1}"#, "small: expected a number from 0 to 255, found a number (-1)"),
        (r#"{"mask":true}"#, "mask: expected a number, found a boolean (true)"),
        (r#"{"ISGATEWAY":"true"}"#, "isGateway: expected a boolean, found a string (\"true\")"),
        (r#"{"name":{}}"#, "name: expected a string, found an object"),
        (r#"{"ipam":[]}"#, "ipam: expected an object, found an array"),
        (r#"{"ipam":{"ranges":{}}}"#, "ipam.ranges: expected an array, found an object"),
        (r#"{"sysctl":{"a.b":1}}"#, "sysctl.a.b: expected a string, found a number (1)"),
        (
            r#"{"ipam":{"ranges":[[{},{"subnet":5}]]}}"#,
            "ipam.ranges[0][1].subnet: expected a string, found a number (5)",
        ),
        ("[]", "expected an object, found an array"),
        ("5", "expected an object, found a number (5)"),
    ] {
        assert_eq!(refused(json), expected);
    }
    assert!(refused(r#"{"mtu":9223372036854775808}"#).starts_with("mtu: expected a number from -9223372036854775808"));
    assert!(refused(r#"{"mtu":1e400}"#).starts_with("mtu: expected an integer"));
    assert_eq!(read(r#"{"mtu":-9223372036854775808}"#).mtu, i64::MIN);
    assert_eq!(read(r#"{"mtu":-0}"#).mtu, 0);
}

#[test]
fn required_fields() {
    #[derive(Debug, Deserialize)]
    struct Outer {
        #[allow(dead_code)]
        list: Vec<Inner>,
    }
    #[derive(Debug, Deserialize)]
    struct Inner {
        #[allow(dead_code)]
        dst: crate::Cidr,
    }
    let refused = |json: &str| from_slice::<Outer>(json.as_bytes()).unwrap_err().to_string();
    assert_eq!(refused("{}"), "list: required, but missing");
    assert_eq!(refused(r#"{"list":[{}]}"#), "list[0].dst: required, but missing");
    assert_eq!(refused(r#"{"list":[{"dst":"10"}]}"#), "list[0].dst: invalid CIDR address: 10");
}

#[test]
fn strings_that_only_go_takes() {
    assert_eq!(read(r#"{"name":"\ud83d\ude00\ud800x\udfff"}"#).name, "\u{1f600}\u{fffd}x\u{fffd}");
    assert_eq!(read(r#"{"name":"\ud800\ud800\udc00"}"#).name, "\u{fffd}\u{10000}");
    assert_eq!(read(r#"{"name":"\\ud800"}"#).name, "\\ud800");
    assert_eq!(from_slice::<Config>(b"{\"name\":\"a\xff\"}").unwrap().name, "a\u{fffd}");
    assert_eq!(read(r#"{"x":1e400,"y":-1e400,"name":"n"}"#).name, "n");
}

#[test]
fn deep_nesting() {
    let nested = |levels: usize, inner: &str| format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels));
    let config = |raw: &str| format!("{{\"raw\":{raw},\"name\":\"n\"}}");
    assert_eq!(read(&config(&nested(63, "5"))).raw, parse(nested(63, "5").as_bytes()).unwrap());
    assert_eq!(read(&config(&nested(64, "5"))).raw, parse(nested(63, "null").as_bytes()).unwrap());
    assert_eq!(read(&config(&nested(9_999, "\"\\ud800]\""))).name, "n");
    assert_eq!(refused(config(&nested(10_000, ""))), "nested deeper than 10000 levels");
    // What vanishes is looked at.
    for inner in ["[,]", "{\"a\"}", "x", "\"", "}", "01", "1 2"] {
        refused(config(&nested(70, inner)));
    }
    refused("[".repeat(70));
    refused(format!("{}]", nested(70, "")));
}

#[test]
fn malformed() {
    for json in ["", "x", "{", "{\"a\":1,}", "{} {}", "{}x", "{'a':1}", "[1", "\"a\nb\"", "01", "1e400x", "\u{feff}{}"]
    {
        refused(json);
    }
    assert_eq!(refused(""), "unexpected end of JSON input at line 1 column 0");
    assert_eq!(refused("{} {}"), "trailing characters at line 1 column 4");
    assert!(parse(b"  {} \r\n\t").is_ok());
}

#[test]
fn other_readers_see_the_same() {
    let json = r#"{"a":[1,-2,0.5,"x",null,true,{"b":{}}]}"#;
    let node = parse(json.as_bytes()).unwrap();
    assert_eq!(node.decode::<serde_json::Value>().unwrap(), serde_json::from_str::<serde_json::Value>(json).unwrap());
    assert_eq!(node.decode::<Node>().unwrap(), node);

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Bridge,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Flag(bool),
        Text(String),
    }
    assert_eq!(from_slice::<Mode>(b"\"bridge\"").unwrap(), Mode::Bridge);
    assert!(from_slice::<Mode>(b"\"x\"").is_err() && from_slice::<Mode>(b"1").is_err());
    assert_eq!(from_slice::<Vec<Either>>(b"[true,\"x\"]").unwrap(), [Either::Flag(true), Either::Text("x".into())]);
    assert_eq!(from_slice::<(u8, String)>(b"[1,\"x\"]").unwrap(), (1, "x".into()));
}

proptest! {
    #[test]
    fn never_panics(bytes: Vec<u8>) {
        let _ = from_slice::<Config>(&bytes);
    }

    #[test]
    fn never_panics_on_what_looks_like_json(text in r#"([\[\]{},:]|"(name|IPAM|mtu|[a\\u0dD8f]{0,8})"|-?[0-9.e]{1,5}|null|true){0,30}"#) {
        let _ = from_slice::<Config>(text.as_bytes());
    }

    /// What serde_json takes, is taken and means the same.
    #[test]
    fn agrees_with_serde_json(text in r#"[\[\]{},:0-9"a\\e. -]{0,12}"#) {
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
            prop_assert_eq!(parse(text.as_bytes()).unwrap().decode::<serde_json::Value>().unwrap(), value);
        }
    }
}
