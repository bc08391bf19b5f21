//! The protocol, the same for every plugin: about text, VERSION, environment, versions, decoding, arguments.

use serde_json::{Value, json};
use tests::{
    Host, case,
    config::{self, with},
    settings::{has, is_reference, versions},
};

use crate::flannel_add::{LEASE4, node};

/// Every plugin, with a config that it accepts.
fn plugins() -> Vec<(&'static str, Value)> {
    let host_local = with(&config::bridge(), json!({ "type": "host-local" }));
    let fixed = with(&config::fixed(&[("10.22.0.5/24", "10.22.0.1")]), json!({ "type": "static" }));
    let loopback = json!({ "cniVersion": "1.0.0", "name": "net", "type": "loopback" });
    let mut all =
        vec![("bridge", config::bridge()), ("host-local", host_local), ("loopback", loopback), ("static", fixed)];
    for plugin in ["bandwidth", "firewall", "flannel", "portmap", "tuning"] {
        // The reference's flannel is not in its suite; these two of it do not speak all versions.
        if has(plugin) && !(is_reference() && ["bandwidth", "firewall"].contains(&plugin)) {
            all.push((plugin, json!({ "cniVersion": "1.0.0", "name": "net", "type": plugin })));
        }
    }
    all
}

#[test]
fn without_a_command_a_plugin_says_what_it_is() {
    case(|| {
        let host = Host::new();
        for (plugin, _) in plugins() {
            for call in [host.plugin(plugin), host.plugin(plugin).verb("")] {
                let reply = call.run();
                assert_eq!(reply.ok().stdout, "", "{plugin}");
                let lines: Vec<&str> = reply.stderr.lines().collect();
                assert!(lines[0].starts_with(&format!("CNI {plugin} plugin ")), "{lines:?}");
                assert_eq!(lines[1..], [format!("CNI protocol versions supported: {}", versions().join(", "))]);
            }
        }
    });
}

#[test]
fn version_is_one_line_whatever_else_is_said() {
    case(|| {
        let host = Host::new();
        let list = versions().iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(",");
        let newest = versions().last().unwrap();
        let line = format!("{{\"cniVersion\":\"{newest}\",\"supportedVersions\":[{list}]}}\n");
        for (plugin, _) in plugins() {
            for stdin in ["", r#"{"cniVersion":"0.2.0"}"#, "no json"] {
                let call =
                    host.plugin(plugin).verb("VERSION").id("/bad/").ifname("..").without("CNI_PATH").stdin(stdin);
                assert_eq!(call.run().ok().stdout, line, "{plugin} with {stdin:?}");
            }
        }
    });
}

#[test]
fn one_point_one_is_spoken() {
    case(|| assert!(Host::new().plugin("bridge").verb("VERSION").run().stdout.contains("1.1.0")));
}

#[test]
fn missing_variables_are_named_all_at_once_in_order() {
    case(|| {
        let host = Host::new();
        let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
        let missing = |verb: &str, empty: bool| {
            let mut call = host.plugin("bridge").verb(verb).config(&config::bridge());
            for name in all {
                call = if empty { call.env(name, "") } else { call.without(name) };
            }
            call.run().failure()
        };
        for empty in [false, true] {
            let everything = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing";
            assert_eq!(missing("ADD", empty).is(4, "").msg, everything);
            assert_eq!(missing("CHECK", empty).is(4, "").msg, everything);
            let without_netns = "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing";
            assert_eq!(missing("DEL", empty).is(4, "").msg, without_netns);
        }
    });
}

#[test]
fn gc_and_status_need_the_path_alone() {
    case(|| {
        let host = Host::new();
        for verb in ["GC", "STATUS"] {
            let call = host.plugin("bridge").verb(verb).id("").netns("").ifname("").without("CNI_PATH");
            let failure = call.stdin(r#"{"cniVersion":"1.1.0","name":"n"}"#).run().failure();
            assert_eq!(failure.is(4, "").msg, "required env variables [CNI_PATH] missing", "{verb}");
        }
    });
}

#[test]
fn bad_variables_are_refused() {
    case(|| {
        let host = Host::new();
        for (plugin, config) in plugins() {
            let call = |verb: &str| host.plugin(plugin).verb(verb).config(&config);
            for id in ["-a", "_a", ".a", "a/b", "a b", "ä", "a\n", "a:b"] {
                call("ADD").id(id).run().failure().is(4, "");
                call("DEL").id(id).run().failure().is(4, "");
            }
            for name in [".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{a0}b", "a234567890123456", "äääääääää"] {
                call("ADD").ifname(name).run().failure().is(4, "");
                call("CHECK").ifname(name).run().failure().is(4, "");
            }
            assert_eq!(call("ADD").id("-a").run().failure().details, "-a");
        }
    });
}

#[test]
fn the_first_bad_variable_comes_before_missing_ones() {
    case(|| {
        let host = Host::new();
        let call = || host.plugin("bridge").config(&config::bridge());
        for call in [call().id("-a").without("CNI_NETNS"), call().ifname("a/b").id("")] {
            let failure = call.add().failure();
            assert!(!failure.is(4, "").msg.contains("missing"), "{failure:?}");
        }
    });
}

#[test]
fn stdin_comes_before_version_and_command() {
    case(|| {
        let host = Host::new();
        for (plugin, _) in plugins() {
            let call = |verb: &str, stdin: &str| host.plugin(plugin).verb(verb).stdin(stdin).run().failure();
            for verb in ["ADD", "DEL", "CHECK"] {
                for stdin in ["", "no json", "[]", "{", r#"{"name":5}"#, r#"{"cniVersion":"9.9.9","name":["n"]}"#] {
                    call(verb, stdin).is(6, "");
                }
                for stdin in ["{}", r#"{"name":""}"#, r#"{"name":null}"#, r#"{"cniVersion":"9.9.9"}"#, "null"] {
                    call(verb, stdin).is(7, "");
                }
                for name in ["-n", "a/b", "a b", "ä", "n\\n"] {
                    let failure = call(verb, &format!(r#"{{"name":"{name}"}}"#));
                    assert_eq!(failure.is(7, "").details, name.replace("\\n", "\n"));
                }
                call(verb, r#"{"name":"n","cniVersion":5}"#).is(6, "");
            }
        }
    });
}

#[test]
fn an_unknown_command_is_named() {
    case(|| {
        let host = Host::new();
        for (plugin, config) in plugins() {
            for verb in ["add", "UPDATE", " ADD"] {
                let failure = host.plugin(plugin).verb(verb).config(&config).run().failure();
                assert_eq!(failure.is(4, "").msg, format!("unknown CNI_COMMAND: {verb}"));
            }
            host.plugin(plugin).verb("UPDATE").stdin("no json").run().failure().is(6, "");
        }
    });
}

#[test]
fn versions_are_gated() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        for (plugin, config) in plugins() {
            let call = |verb: &str, version: &str| {
                host.plugin(plugin).verb(verb).config(&with(&config, json!({ "cniVersion": version }))).run().failure()
            };
            for verb in ["ADD", "DEL"] {
                for version in ["2.0.0", "0.4", "1.0", "abc", "v1.0.0", "1.0.0 ", "1.2.0"] {
                    let failure = call(verb, version);
                    failure.is(1, "incompatible");
                    assert!(failure.details.contains(&format!("\"{version}\"")), "{failure:?}");
                    assert!(failure.details.contains("\"0.3.1\""), "{failure:?}");
                }
            }
            for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "2.0.0", "0.4", "1.2.0"] {
                call("CHECK", version).is(1, "");
            }
            for version in ["abc", "v1.0.0", "1.0.0 ", "1.0.0.0"] {
                call("CHECK", version).is(6, "");
            }
        }
        host.assert_as(&before);
    });
}

#[test]
fn gc_and_status_need_one_point_one() {
    case(|| {
        let host = node(LEASE4);
        for (plugin, config) in plugins() {
            for verb in ["GC", "STATUS"] {
                let call = |version: &str| {
                    host.plugin(plugin).verb(verb).config(&with(&config, json!({ "cniVersion": version }))).run()
                };
                for version in ["0.1.0", "0.4.0", "1.0.0", "1.2.0"] {
                    call(version).failure().is(1, "");
                }
                call("abc").failure().is(6, "");
                assert_eq!(call("1.1.0").ok().stdout, "", "{plugin} {verb}");
            }
        }
    });
}

#[test]
fn keys_are_read_as_go_reads_them() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = r#"{ "CNIVERSION": "1.0.0", "Name": "ignored", "NAME": "net", "type": "bridge", "unknown": { "a": [1] },
            "BRIDGE": "br-a", "bridge": "br-b", "Bridge": "br-c", "ISGATEWAY": true, "mtu": null, "hairpinMode": null,
            "dns": null, "prevResult": null, "runtimeConfig": {}, "vlanTrunk": null,
            "ipam": { "type": "host-local" }, "IPAM": { "Ranges": [[{ "SubNet": "10.22.0.0/24", "extra": 1 }]], "routes": null } }"#;
        let result = host.plugin("bridge").pod(&pod).stdin(config).add().result();
        assert_eq!(result["interfaces"][0]["name"], "br-c", "the last one counts");
        assert_eq!(result["ips"][0]["address"], "10.22.0.2/24");
        host.plugin("bridge").pod(&pod).stdin(config).del().ok();
    });
}

#[test]
fn cni_args_are_strict_unless_told_otherwise() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "type": "host-local" }));
        let before = host.snapshot();
        for (args, fragment) in [
            ("IP", "invalid"),
            ("IP=10.22.0.9;", "invalid"),
            ("IP=10.22.0.9=1", "invalid"),
            ("FOO=1", "FOO"),
            ("ip=10.22.0.9", "ip"),
            ("IgnoreUnknown=maybe;FOO=1", ""),
            ("IgnoreUnknown=0;FOO=1;BAR=2", "BAR"),
            ("IP=10.22.0.300", "10.22.0.300"),
        ] {
            let failure = host.plugin("host-local").config(&config).args(args).add().failure();
            failure.is(999, fragment);
            host.assert_as(&before);
        }
        host.plugin("bridge").config(&config::bridge()).args("FOO=1").add().failure().is(999, "FOO");
        host.assert_as(&before);
        for (number, yes) in ["1", "true", "TRUE", "True"].iter().enumerate() {
            let args = format!("IgnoreUnknown={yes};K8S_POD_NAME=a;K8S_POD_NAMESPACE=b;IP=10.22.0.{}", 20 + number);
            let call = host.plugin("host-local").config(&config).id(&format!("c{number}")).args(&args);
            assert_eq!(call.add().result()["ips"][0]["address"], format!("10.22.0.{}/24", 20 + number));
        }
    });
}

#[test]
fn the_hosts_own_namespace_is_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        for (plugin, config) in plugins() {
            let reply = host.plugin(plugin).netns(&host.netns().path()).config(&config).add();
            reply.failure().is(8, "");
            host.assert_as(&before);
        }
    });
}

#[test]
fn the_hosts_own_namespace_passes_with_the_override() {
    case(|| {
        let host = Host::new();
        for value in ["1", "true", "TRUE"] {
            let config = json!({ "cniVersion": "1.0.0", "name": "net", "type": "loopback" });
            let call = || host.plugin("loopback").netns(&host.netns().path()).ifname("lo").config(&config);
            call().env("CNI_NETNS_OVERRIDE", value).add().ok();
        }
    });
}

#[test]
fn an_error_is_one_object_with_version_code_and_message() {
    case(|| {
        let host = Host::new();
        for (plugin, config) in plugins() {
            let reply = host.plugin(plugin).config(&config).verb("UPDATE").run();
            let failure = reply.failure();
            assert_eq!(failure.json["cniVersion"], "1.0.0", "{reply}");
            assert!(failure.json["code"].is_u64() && failure.json["msg"].is_string(), "{reply}");
            assert!(reply.stdout.starts_with("{\n    \"c"), "indented by four: {reply}");
        }
    });
}

#[test]
fn a_namespace_that_is_none_is_named() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        host.write("/run/test/file", "");
        for (path, fragment) in [("/run/netns/none", "/run/netns/none"), ("/run/test/file", "/run/test/file")] {
            host.plugin("bridge").netns(path).config(&config::layer2()).add().failure().is(999, fragment);
            let loopback = json!({ "cniVersion": "1.0.0", "name": "net", "type": "loopback" });
            host.plugin("loopback").netns(path).config(&loopback).add().failure().is(999, fragment);
        }
        let mount = format!("/proc/{}/ns/mnt", std::process::id());
        host.plugin("bridge").netns(&mount).config(&config::layer2()).add().failure().is(999, "");
        if !tests::settings::is_reference() {
            // The reference has made its bridge by then.
            host.assert_as(&before);
        }
    });
}
