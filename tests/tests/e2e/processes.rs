//! No process but the plugin and its IPAM delegate.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
};

/// The file names of the programs that a call starts.
fn programs(host: &Host, pod: &Pod, config: &Value, verb: &str) -> Vec<String> {
    if host.try_run("strace -V").is_err() {
        tests::skip("there is no strace");
    }
    let strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", "/run/test/trace"];
    host.plugin_of(config).pod(pod).config(config).under(&strace).verb(verb).run().ok();
    let trace = host.read("/run/test/trace").unwrap();
    let started = trace.lines().filter(|line| line.ends_with(" = 0"));
    started.map(|line| line.split('"').nth(1).unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn add_and_del_start_ipam_alone() {
    case(|| {
        let host = Host::new();
        for config in [config::bridge(), config::everything()] {
            for _ in 0..2 {
                let pod = host.pod();
                assert_eq!(programs(&host, &pod, &config, "ADD"), ["bridge", "host-local"]);
                assert_eq!(programs(&host, &pod, &config, "DEL"), ["bridge", "host-local"]);
            }
        }
    });
}

#[test]
fn without_ipam_nothing_is_started() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = with(&config::layer2(), json!({ "hairpinMode": true }));
        assert_eq!(programs(&host, &pod, &config, "ADD"), ["bridge"]);
        assert_eq!(programs(&host, &pod, &config, "DEL"), ["bridge"]);
        let ipam = with(&config::bridge(), json!({ "type": "host-local" }));
        assert_eq!(programs(&host, &pod, &ipam, "ADD"), ["host-local"]);
    });
}

#[test]
fn the_iptables_backend_needs_one_restore_per_family() {
    case(|| {
        let host = Host::new();
        let config = with(&config::dual_stack(), json!({ "ipMasq": true, "ipMasqBackend": "iptables" }));
        let pod = host.pod();
        let count = |names: &[String]| names.iter().filter(|name| name.contains("tables")).count();
        let add = programs(&host, &pod, &config, "ADD");
        assert_eq!(count(&add), 2, "{add:?}");
        let del = programs(&host, &pod, &config, "DEL");
        assert!(count(&del) <= 4, "one to look and one to restore, for each family: {del:?}");
    });
}
