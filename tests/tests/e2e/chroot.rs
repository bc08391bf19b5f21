//! The binaries need nothing around them.

use std::{fs, path::PathBuf};

use serde_json::json;
use tests::{
    Host, Place, case,
    config::{self, with},
    settings::bin_dir,
    traffic::assert_reaches,
};

const PLUGINS: [&str; 9] =
    ["bandwidth", "bridge", "firewall", "flannel", "host-local", "loopback", "portmap", "static", "tuning"];
const ROOT: &str = "/run/test/root";

/// A folder with the plugins in `/cni` and nothing else.
fn bare(host: &Host) {
    host.enter(|| {
        fs::create_dir_all(format!("{ROOT}/cni")).unwrap();
        for plugin in PLUGINS {
            fs::copy(bin_dir().join(plugin), format!("{ROOT}/cni/{plugin}")).unwrap();
        }
    });
}

#[test]
fn version_and_about_work_with_nothing_at_all() {
    case(|| {
        let host = Host::new();
        bare(&host);
        for plugin in PLUGINS {
            let call = || host.plugin(plugin).program(PathBuf::from("/cni").join(plugin)).chroot(ROOT);
            assert!(call().verb("VERSION").run().ok().stdout.contains("supportedVersions"));
            assert!(call().run().ok().stderr.contains(&format!("CNI {plugin} plugin")));
        }
    });
}

#[test]
fn add_needs_proc_alone() {
    case(|| {
        let host = Host::new();
        bare(&host);
        host.run(&format!("mkdir {ROOT}/proc {ROOT}/data"));
        host.run(&format!("mount -t proc proc {ROOT}/proc"));
        let config = with(&config::everything(), json!({ "ipam": { "dataDir": "/data" } }));
        let pod = host.pod();
        let call = || {
            let call = host.plugin("bridge").program("/cni/bridge").chroot(ROOT).env("CNI_PATH", "/cni");
            call.without("PATH").pod(&pod).config(&config)
        };
        call().add().ok();
        assert_reaches(&pod, config::GATEWAY4);
        call().del().ok();
        assert!(pod.link("eth0").is_none());
        assert!(!host.files(&format!("{ROOT}/data/net")).iter().any(|name| name.starts_with("10.")));
    });
}
