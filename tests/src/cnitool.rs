//! A network as an operator configures it, driven by the CNI project's `cnitool`, which is libcni.

use serde_json::{Value, json};

use crate::{Call, Host, Pod, Reply, host::SCRATCH, report::Subject, settings};

/// A configured network.
pub struct Network<'h> {
    host: &'h Host,
    name: String,
}

impl<'h> Network<'h> {
    /// Configures a network of this one plugin; `name` and `cniVersion` are taken from its config.
    pub fn of_plugin(host: &'h Host, config: &Value) -> Self {
        let (name, version) = (&config["name"], &config["cniVersion"]);
        Self::of_list(host, &json!({ "cniVersion": version, "name": name, "plugins": [config] }))
    }

    /// Configures a network by a whole list; skips the test if the reference has not all its plugins.
    pub fn of_list(host: &'h Host, list: &Value) -> Self {
        for plugin in list["plugins"].as_array().into_iter().flatten() {
            plugin["type"].as_str().into_iter().for_each(settings::require);
        }
        let name = list["name"].as_str().unwrap();
        Self::of_file(host, name, &format!("{name}.conflist"), &list.to_string())
    }

    /// Configures a network by the text of a file; `cnitool` tells forms apart by the file's name.
    pub fn of_file(host: &'h Host, name: &str, file: &str, text: &str) -> Self {
        host.write(&format!("{SCRATCH}/net.d/{file}"), text);
        Self { host, name: name.to_owned() }
    }

    /// `cnitool` with this command, for a pod; more variables can be set before it is run.
    pub fn call(&self, command: &str, pod: &Pod) -> Call<'h> {
        self.host
            .plugin("")
            .under(&[self.host.cnitool().to_str().unwrap(), command, &self.name])
            .program(&pod.path)
            .ifname(&pod.ifname)
            .env("NETCONFPATH", &format!("{SCRATCH}/net.d"))
    }

    /// The pod is attached. The container id is one that `cnitool` makes from the path.
    pub fn add(&self, pod: &Pod) -> Reply {
        self.call("add", pod).run()
    }

    /// CHECK of an attached pod.
    pub fn check(&self, pod: &Pod) -> Reply {
        self.call("check", pod).run()
    }

    /// The pod is detached.
    pub fn del(&self, pod: &Pod) -> Reply {
        self.call("del", pod).run()
    }
}

/// For rows of the compatibility matrix. It does not print its version; its linker has written it into it.
pub fn subject() -> Subject {
    let program = std::fs::read(settings::cnitool()).unwrap();
    let text = String::from_utf8_lossy(&program);
    let version = text.split("containernetworking/cni@").nth(1).and_then(|rest| rest.split('/').next());
    Subject { kind: "runtime", name: "cnitool".to_owned(), version: version.unwrap_or("unknown").to_owned() }
}
