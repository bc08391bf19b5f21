//! VLANs. Where the kernel has no VLAN filtering, what is tested is how that is said.

use serde_json::json;
use tests::{
    Host, case,
    config::{self, with},
};

/// Whether this kernel can filter VLANs on a bridge.
pub(crate) fn can_filter(host: &Host) -> bool {
    use tests::Place;
    let made = host.try_run("ip link add probe type bridge vlan_filtering 1").is_ok();
    let filters = made && host.link("probe").unwrap()["linkinfo"]["info_data"]["vlan_filtering"] == 1;
    _ = host.try_run("ip link del probe");
    filters
}

#[test]
fn without_vlan_filtering_in_the_kernel_it_is_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        if can_filter(&host) {
            tests::skip("this kernel filters VLANs");
        }
        for patch in [json!({ "vlan": 100 }), json!({ "vlanTrunk": [{ "minID": 5, "maxID": 9 }, { "id": 20 }] })] {
            // The bridge is there already, or is yet to be made.
            for first in [None, Some(config::bridge())] {
                let host = Host::new();
                if let Some(config) = first {
                    host.warm_up(&config);
                }
                let before = host.snapshot();
                let config = with(&config::bridge(), patch.clone());
                let failure = host.plugin("bridge").pod(&host.pod()).config(&config).add().failure();
                failure.is(999, "vlan filtering|kernel");
                host.assert_nothing_made(&before);
            }
        }
    });
}
