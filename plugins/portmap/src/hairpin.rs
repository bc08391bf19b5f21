//! A pod that reaches itself by its published port, where bridges show their packets to the IP rules.
//!
//! With `bridge-nf-call-iptables` (Kubernetes wants it) the destination is rewritten while the frame is on the bridge,
//! which then sends it out by the port it came in by: only a port in hairpin mode does that.

use cni::Error;
use host::undo::Undo;
use netlink::bridge::push_port;
use netlink::link::Link;
use netlink::nft::Family;
use netlink::wire::Request;
use netlink::{Socket, link};

use crate::add::failed;
use crate::config::Target;

/// Turns it on.
pub(crate) fn turn_on(route: &mut Socket, link: &Link, undo: &mut Undo<'_>) -> Result<(), Error> {
    if !is_off(link) {
        return Ok(());
    }
    let isolated = link.port.as_ref().is_some_and(|p| p.isolated);
    let set = move |route: &mut Socket, index, on| {
        let mut request = Request::new();
        push_port(&mut request, index, on, isolated);
        route.transact(&request, |_| ())
    };
    let index = link.index;
    undo.push("setting hairpin mode off", move || {
        let mut route = Socket::open(netlink::Protocol::Route)?;
        match link::by_index(&mut route, index)? {
            Some(_) => set(&mut route, index, false),
            None => Ok(()),
        }
    });
    set(route, link.index, true).map_err(|e| failed(&format!("set hairpin mode of \"{}\"", link.name), &e))
}

pub(crate) fn is_off(link: &Link) -> bool {
    link.port.as_ref().is_some_and(|port| !port.hairpin)
}

/// Whether a pod reaches itself by this host link of our bridge plugin's in that mode alone, as the node is now.
pub(crate) fn is_needed(link: &Link, targets: &[Target<'_>]) -> bool {
    link.port.is_some() && shows_frames(targets)
}

fn shows_frames(targets: &[Target<'_>]) -> bool {
    targets.iter().filter(|t| t.plan.snat).any(|t| {
        let program = if t.family() == Family::Ip { "iptables" } else { "ip6tables" };
        host::sysctl::get(&format!("net/bridge/bridge-nf-call-{program}")).is_ok_and(|value| value == "1")
    })
}
