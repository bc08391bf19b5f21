//! The world outside: a namespace at the other end of the host's `uplink`.
//!
//! It knows no way back to a pod's address: only what is masqueraded gets an answer.

use std::fs;

use crate::{Host, NetNs, Place, kernel::Part};

/// The host's link to the outside, and its default route.
pub const UPLINK: &str = "uplink";
/// The host's IPv4 address on the uplink.
pub const HOST4: &str = "192.0.2.1";
/// The host's IPv6 address on the uplink.
pub const HOST6: &str = "2001:db8:1::1";
/// IPv4 address of the server outside.
pub const SERVER4: &str = "192.0.2.9";
/// IPv6 address of the server outside.
pub const SERVER6: &str = "2001:db8:1::9";

pub(crate) fn connect(host: &Host) -> NetNs {
    let outside = NetNs::new();
    // Not by the root of the host's own user namespace, if it has one: that has no say outside.
    host.netns().run(&format!("ip link add {UPLINK} type veth peer name eth0 netns {}", outside.path()));
    let v6 = Part::Ipv6.works();
    if v6 {
        without_dad(&outside, "eth0");
        without_dad(host, UPLINK);
        outside.run(&format!("ip address add {SERVER6}/64 dev eth0 nodad"));
        host.run(&format!("ip address add {HOST6}/64 dev {UPLINK} nodad"));
    }
    outside.run(&format!("ip address add {SERVER4}/24 dev eth0"));
    outside.run("ip link set eth0 up");
    outside.run("ip link set lo up");
    host.run(&format!("ip address add {HOST4}/24 dev {UPLINK}"));
    host.run(&format!("ip link set {UPLINK} up"));
    host.run(&format!("ip route add default via {SERVER4}"));
    if v6 {
        host.run(&format!("ip -6 route add default via {SERVER6}"));
    }
    outside
}

/// A link-local address that is still being checked cannot ask for neighbours, for a second or two.
fn without_dad(place: &impl Place, link: &str) {
    place.enter(|| fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"), "0").unwrap());
}
