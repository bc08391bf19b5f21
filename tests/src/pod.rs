//! A pod: a network namespace, and who the runtime says it is.

use std::net::IpAddr;

use serde_json::Value;

use crate::{NetNs, Place};

/// A pod, or one attachment of it.
pub struct Pod {
    /// Container id.
    pub id: String,
    /// Name of the interface to be made in it.
    pub ifname: String,
    /// What the runtime gives as `CNI_NETNS`.
    pub path: String,
    /// The namespace itself.
    pub ns: NetNs,
}

impl Place for Pod {
    fn move_thread(&self) {
        self.ns.move_thread();
    }
}

impl Pod {
    /// The addresses of the pod's interface, as `10.22.0.2/24`; without link-local ones.
    pub fn addresses(&self) -> Vec<String> {
        let link = self.interface();
        let addresses = link["addr_info"].as_array().unwrap().iter();
        addresses
            .filter(|a| a["scope"] != "link")
            .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
            .collect()
    }

    /// What `ip -d -j address` says of the pod's interface.
    ///
    /// # Panics
    /// When there is none.
    pub fn interface(&self) -> Value {
        self.link(&self.ifname).unwrap_or_else(|| panic!("{} has no {}", self.id, self.ifname))
    }

    /// The pod's main routes that a table of `ip` shows, of one family (4 or 6).
    pub fn routes(&self, family: u8) -> Vec<Value> {
        self.json(&format!("ip -{family} -j -d route show")).as_array().unwrap().clone()
    }
}

/// The addresses in a result of ADD (0.3.0 or newer).
pub fn ips(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}
