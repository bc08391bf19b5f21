//! The whole chain with nothing around it: no `nft`, no `iptables`, no `PATH`, nothing but `/proc`.

use std::fs;

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, case,
    chained::{HOST_PORT, everything, valid},
    config::{self, with},
    published::at,
    settings::bin_dir,
    traffic::{Server, Transport, ask, assert_reaches, outside::HOST4},
};

const ROOT: &str = "/run/test/root";

/// A host with an empty root of the plugins' own.
fn bare() -> Host {
    let host = Host::new();
    host.outside();
    let plugins = everything();
    let programs = plugins.iter().map(|plugin| plugin["type"].as_str().unwrap()).chain(["host-local"]);
    host.enter(|| {
        for folder in ["cni", "proc", "data"] {
            fs::create_dir_all(format!("{ROOT}/{folder}")).unwrap();
        }
        for program in programs {
            fs::copy(bin_dir().join(program), format!("{ROOT}/cni/{program}")).unwrap();
        }
    });
    host.run(&format!("mount -t proc proc {ROOT}/proc"));
    host
}

fn plugins() -> Vec<Value> {
    let data = json!({ "ipam": { "dataDir": "/data" }, "cniVersion": "1.1.0" });
    everything()
        .iter()
        .map(|plugin| {
            if plugin["type"] == "bridge" {
                with(plugin, data.clone())
            } else {
                with(plugin, json!({ "cniVersion": "1.1.0" }))
            }
        })
        .collect()
}

fn call<'h>(host: &'h Host, plugin: &Value) -> Call<'h> {
    let name = plugin["type"].as_str().unwrap();
    host.plugin(name).program(format!("/cni/{name}")).chroot(ROOT).env("CNI_PATH", "/cni").without("PATH")
}

fn add(host: &Host, pod: &Pod) -> Value {
    plugins()
        .iter()
        .fold(Value::Null, |result, plugin| call(host, plugin).pod(pod).config_with(plugin, &result).add().result())
}

fn for_each_backwards(host: &Host, f: impl Fn(Call<'_>, &Value)) {
    plugins().iter().rev().for_each(|plugin| f(call(host, plugin), plugin));
}

#[test]
fn add_check_del_and_gc_need_no_program() {
    case(|| {
        let host = bare();
        for _ in 0..2 {
            let pod = host.pod();
            let result = add(&host, &pod);
            for_each_backwards(&host, |call, plugin| _ = call.pod(&pod).config_with(plugin, &result).del().ok());
        }
        let before = host.snapshot();
        let pod = host.pod();
        let result = add(&host, &pod);
        for plugin in plugins() {
            call(&host, &plugin).pod(&pod).config_with(&plugin, &result).check().ok();
            call(&host, &plugin).verb("STATUS").config(&plugin).run().ok();
        }
        assert_reaches(&pod, config::GATEWAY4);
        let address = pod.addresses()[0].replace("/24", "");
        let _server = Server::start(&pod, "pod", at(&address, 80));
        assert!(ask(host.outside(), Transport::Tcp, at(HOST4, HOST_PORT)).is_some());
        let with_one = host.snapshot();
        let gc = |list: &Value| {
            for_each_backwards(&host, |call, plugin| {
                let config = with(plugin, json!({ "cni.dev/valid-attachments": list }));
                call.verb("GC").id("").netns("").ifname("").config(&config).run().ok();
            });
        };
        gc(&valid(&[&pod]));
        host.assert_as(&with_one);
        for_each_backwards(&host, |call, plugin| _ = call.pod(&pod).config_with(plugin, &result).del().ok());
        host.assert_as(&before);
        add(&host, &host.pod());
        gc(&json!([]));
        host.assert_as(&before);
    });
}
