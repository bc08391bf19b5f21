use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::AddResult;

thread_local! {
    static PRINTED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Does nothing, and says so in the result. A config's `name` of `panic` makes it panic, and `fail` fail.
struct Noop;

impl Plugin for Noop {
    const NAME: &'static str = "noop";

    fn add(&self, call: &Call) -> Result<(), Error> {
        match call.network.as_str() {
            "panic" => panic!("boom {}", 1),
            "fail" => Err(Error::new(77, "as asked").with_details("why not")),
            _ => call.reply(&AddResult::default()),
        }
    }

    fn del(&self, _: &Call) -> Result<(), Error> {
        Ok(())
    }

    fn check(&self, _: &Call) -> Result<(), Error> {
        Ok(())
    }

    fn status(&self, _: &Call) -> Result<(), Error> {
        Err(Error::new(code::NOT_AVAILABLE, "not now"))
    }
}

/// Like a plugin that came with 0.4.0 and left before 1.1.0.
struct Few;

impl Plugin for Few {
    const NAME: &'static str = "few";
    const VERSIONS: &'static [Version] = &[Version::V0_3_1, Version::V1_0_0];

    fn add(&self, _: &Call) -> Result<(), Error> {
        Ok(())
    }

    fn del(&self, _: &Call) -> Result<(), Error> {
        Ok(())
    }

    fn check(&self, _: &Call) -> Result<(), Error> {
        Ok(())
    }
}

/// Runs one call; returns the outcome and what the plugin printed itself.
fn call_of(plugin: &impl Plugin, env: &[(&str, &str)], stdin: &str) -> (Outcome, String) {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    PRINTED.take();
    let outcome = respond(
        plugin,
        |name| env.get(name).map(OsString::from),
        || Ok(stdin.as_bytes().to_vec()),
        |bytes| {
            PRINTED.with_borrow_mut(|printed| printed.extend_from_slice(bytes));
            Ok(())
        },
    );
    (outcome, String::from_utf8(PRINTED.take()).unwrap())
}

/// A whole environment for this verb, with some variables set otherwise.
fn environment<'a>(verb: &'a str, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let whole = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nowhere"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nowhere"),
    ];
    whole.into_iter().chain(changes.iter().copied()).collect()
}

/// Code, message and details of an error object.
fn error_of(outcome: &Outcome) -> (u32, String, String) {
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (1, ""));
    let object: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let text = |key: &str| object.get(key).map_or("", |v| v.as_str().unwrap()).to_owned();
    (u32::try_from(object["code"].as_u64().unwrap()).unwrap(), text("msg"), text("details"))
}

fn failure(verb: &str, changes: &[(&str, &str)], stdin: &str) -> (u32, String, String) {
    error_of(&call_of(&Noop, &environment(verb, changes), stdin).0)
}

fn said(code: u32, msg: &str, details: &str) -> (u32, String, String) {
    (code, msg.to_owned(), details.to_owned())
}

const FINE: &str = r#"{"cniVersion":"1.1.0","name":"n"}"#;

#[test]
fn without_a_command() {
    for env in [&[][..], &[("CNI_COMMAND", "")], &[("CNI_CONTAINERID", "!")]] {
        let (outcome, printed) = call_of(&Noop, env, "");
        assert_eq!((outcome.exit, outcome.stdout.len(), printed.as_str()), (0, 0, ""));
        let lines: Vec<_> = outcome.stderr.lines().collect();
        assert_eq!(lines[0], concat!("CNI noop plugin v", env!("CARGO_PKG_VERSION"), " (Oxbridge)"));
        assert_eq!(lines[1], "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
        assert_eq!(lines.len(), 2);
    }
}

#[test]
fn version() {
    let outcome = respond(
        &Noop,
        |name| (name == "CNI_COMMAND").then(|| "VERSION".into()),
        || panic!("stdin is not read"),
        |_| Ok(()),
    );
    let expected = concat!(
        r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
        "\n"
    );
    assert_eq!(outcome, Outcome { stdout: expected.into(), ..Outcome::default() });
    let (outcome, _) = call_of(&Few, &[("CNI_COMMAND", "VERSION")], "");
    assert_eq!(outcome.stdout, b"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"1.0.0\"]}\n");
}

#[test]
fn missing_variables() {
    let missing = |verb: &str, changes: &[(&str, &str)]| {
        let (code, msg, details) = failure(verb, changes, "not even read");
        assert_eq!((code, details.as_str()), (4, ""));
        msg
    };
    let all = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", ""), ("CNI_PATH", "")];
    for (verb, names) in [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("GC", "CNI_PATH"),
        ("STATUS", "CNI_PATH"),
    ] {
        assert_eq!(missing(verb, &all), format!("required env variables [{names}] missing"));
    }
    assert_eq!(missing("ADD", &[("CNI_NETNS", "")]), "required env variables [CNI_NETNS] missing");
}

#[test]
fn invalid_variables() {
    // The first one is reported, before what is missing.
    let invalid = |changes: &[(&str, &str)]| failure("ADD", &[&[("CNI_PATH", "")], changes].concat(), "");
    for id in ["-c", ".c", "_c", "a/b", "a b", "ä", "a\n"] {
        assert_eq!(
            invalid(&[("CNI_CONTAINERID", id), ("CNI_IFNAME", "..")]),
            said(4, "invalid characters in containerID", id)
        );
    }
    for (name, msg, details) in [
        ("sixteen_bytes_xx", "interface name is too long", "interface name should be less than 16 characters"),
        ("ääääääää", "interface name is too long", "interface name should be less than 16 characters"),
        (".", "interface name is . or ..", ""),
        ("..", "interface name is . or ..", ""),
        ("a/b", "interface name contains / or : or whitespace characters", ""),
        ("a:b", "interface name contains / or : or whitespace characters", ""),
        ("a\u{a0}b", "interface name contains / or : or whitespace characters", ""),
    ] {
        assert_eq!(invalid(&[("CNI_IFNAME", name)]), said(4, msg, details));
    }
    for fine in ["a", "0", "a_b.c-d", "0123456789abcdef0123456789abcdef0123456789abcdef"] {
        assert_eq!(call_of(&Noop, &environment("DEL", &[("CNI_CONTAINERID", fine)]), FINE).0, Outcome::default());
    }
    // Where they are not needed, they are not looked at.
    let env = environment("GC", &[("CNI_CONTAINERID", "-"), ("CNI_IFNAME", "..")]);
    assert_eq!(call_of(&Noop, &env, FINE).0, Outcome::default());
    assert_eq!(call_of(&Noop, &environment("DEL", &[("CNI_NETNS", "")]), FINE).0, Outcome::default());
}

#[test]
fn invalid_configs() {
    for verb in ["ADD", "CHECK", "DEL", "GC", "STATUS", "NONSENSE"] {
        for (stdin, code, msg, details) in [
            ("", 6, "error unmarshall network config: unexpected end of JSON input at line 1 column 0", ""),
            ("x", 6, "error unmarshall network config: expected value at line 1 column 1", ""),
            ("[]", 6, "error unmarshall network config: expected an object, found an array", ""),
            ("{\"name\":5}", 6, "error unmarshall network config: name: expected a string, found a number (5)", ""),
            ("{}", 7, "missing network name", ""),
            ("null", 7, "missing network name", ""),
            ("{\"name\":\"\",\"cniVersion\":5}", 7, "missing network name", ""),
            ("{\"NAME\":\"-a\"}", 7, "invalid characters found in network name", "-a"),
        ] {
            assert_eq!(failure(verb, &[], stdin), said(code, msg, details), "{verb} {stdin}");
        }
    }
    assert_eq!(
        failure("NONSENSE", &[], "{\"name\":\"n\",\"cniVersion\":5}"),
        said(4, "unknown CNI_COMMAND: NONSENSE", "")
    );
    let outcome = respond(
        &Noop,
        |name| Some(if name == "CNI_COMMAND" { "GC".into() } else { "x".into() }),
        || Err(io::ErrorKind::StorageFull.into()),
        |_| Ok(()),
    );
    assert_eq!(error_of(&outcome), said(5, "error reading from stdin: no storage space", ""));
}

#[test]
fn version_gates() {
    let incompatible = |version: &str| {
        let list = r#"["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#;
        said(1, "incompatible CNI versions", &format!("config is \"{version}\", plugin supports {list}"))
    };
    let refusal = |who: &str, verb: &str| said(1, &format!("{who} version does not allow {verb}"), "");
    let invalid = |version: &str, why: &str| said(6, &format!("invalid version \"{version}\": {why}"), "");
    let gate =
        |verb: &str, version: &str| failure(verb, &[], &format!("{{\"name\":\"n\",\"cniVersion\":\"{version}\"}}"));
    for verb in ["ADD", "DEL"] {
        for version in ["abc", "2.0.0", "0.4", "1.0.0.0", "1.2.0"] {
            assert_eq!(gate(verb, version), incompatible(version));
        }
    }
    for (verb, too_old) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        assert_eq!(gate(verb, ""), refusal("config", verb));
        assert_eq!(gate(verb, too_old), refusal("config", verb));
        assert_eq!(gate(verb, "2.0.0"), refusal("plugin", verb));
        assert_eq!(gate(verb, "1.1"), incompatible("1.1"));
        assert_eq!(gate(verb, "abc"), invalid("abc", "\"abc\" is not a number"));
        assert_eq!(gate(verb, "1..0"), invalid("1..0", "\"\" is not a number"));
        assert_eq!(gate(verb, "1.0.0.0"), invalid("1.0.0.0", "too many parts"));
    }
    assert_eq!(gate("CHECK", "0.4"), incompatible("0.4"));
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(
            failure(verb, &[], r#"{"name":"n","cniVersion":5}"#),
            said(6, "decoding version from network config: cniVersion: expected a string, found a number (5)", "")
        );
    }
    // A gap in the list, and its end.
    let few = |verb: &str, version: &str| {
        call_of(&Few, &environment(verb, &[]), &format!("{{\"name\":\"n\",\"cniVersion\":\"{version}\"}}")).0
    };
    assert_eq!(few("CHECK", "1.0.0"), Outcome::default());
    assert_eq!(error_of(&few("CHECK", "0.4.0")).1, "incompatible CNI versions");
    assert_eq!(error_of(&few("GC", "1.1.0")), refusal("plugin", "GC"));
}

#[test]
fn verbs() {
    for version in Version::ALL {
        let stdin = format!("{{\"name\":\"n\",\"cniVersion\":\"{version}\"}}");
        let silent = |verb| call_of(&Noop, &environment(verb, &[]), &stdin);
        assert_eq!(silent("DEL"), (Outcome::default(), String::new()));
        let (outcome, printed) = silent("ADD");
        if *version < Version::V0_3_0 {
            assert_eq!(error_of(&outcome).1, "cannot convert: no valid IP addresses");
        } else {
            assert_eq!((outcome, printed.contains(version.as_str())), (Outcome::default(), true));
        }
        assert_eq!(silent("CHECK").0.exit == 0, *version >= Version::V0_4_0);
        assert_eq!(silent("GC").0.exit == 0, *version >= Version::V1_1_0);
    }
    assert_eq!(failure("STATUS", &[], FINE), said(50, "not now", ""));
}

#[test]
fn errors_are_in_the_version_of_the_config() {
    for (stdin, version) in [
        (r#"{"cniVersion":"0.4.0","name":"fail"}"#, "0.4.0"),
        (r#"{"name":"fail"}"#, "0.1.0"),
        (r#"{"cniVersion":"0.3.1"}"#, "0.3.1"),
        (r#"{"cniVersion":"7","name":"n"}"#, "1.1.0"),
        ("{", "1.1.0"),
    ] {
        let (outcome, _) = call_of(&Noop, &environment("ADD", &[]), stdin);
        let expected = format!("{{\n    \"cniVersion\": \"{version}\",\n    \"code\": ");
        assert!(outcome.stdout.starts_with(expected.as_bytes()), "{stdin}");
    }
    assert_eq!(failure("ADD", &[], r#"{"name":"fail"}"#), said(77, "as asked", "why not"));
}

#[test]
fn a_panic_is_an_error_like_any_other() {
    let (code, msg, details) = failure("ADD", &[], r#"{"name":"panic"}"#);
    assert_eq!((code, msg.as_str()), (999, "noop panicked: boom 1"));
    assert!(details.contains("this is a bug in noop"));
}

#[test]
fn own_namespace() {
    let own = [("CNI_NETNS", "/proc/self/ns/net")];
    let (code, msg, details) = failure("ADD", &own, FINE);
    assert_eq!((code, msg.as_str()), (8, "plugin's netns and netns from CNI_NETNS should not be the same"));
    assert!(details.contains("CNI_NETNS=/proc/self/ns/net"));
    for verb in ["DEL", "CHECK"] {
        assert_eq!(call_of(&Noop, &environment(verb, &own), FINE).0, Outcome::default());
    }
    for (value, allowed) in [("1", true), ("true", true), ("TRUE", true), ("0", false), ("yes", false), ("", false)] {
        let env = environment("ADD", &[own[0], ("CNI_NETNS_OVERRIDE", value)]);
        assert_eq!(call_of(&Noop, &env, FINE).0.exit == 0, allowed, "{value}");
    }
}

#[test]
fn a_config_without_end_is_refused() {
    assert_eq!(read_config(&b"{}"[..]).unwrap(), b"{}");
    let error = read_config(io::repeat(b' ')).unwrap_err();
    assert_eq!(error.to_string(), "the config is larger than 16 MiB");
}
