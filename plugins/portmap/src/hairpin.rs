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

/// Turns it on where it is needed. `link`: the pod's host link, if our bridge plugin made it.
pub(crate) fn turn_on(
    route: &mut Socket,
    link: Option<&Link>,
    targets: &[Target<'_>],
    undo: &mut Undo<'_>,
) -> Result<(), Error> {
    let Some(link) = link.filter(|l| is_off(l) && is_needed(targets)) else { return Ok(()) };
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

/// The name of the pod's host link, if it is needed there and off.
pub(crate) fn missing<'l>(link: Option<&'l Link>, targets: &[Target<'_>]) -> Option<&'l str> {
    link.filter(|l| is_off(l) && is_needed(targets)).map(|l| l.name.as_str())
}

fn is_off(link: &Link) -> bool {
    link.port.as_ref().is_some_and(|port| !port.hairpin)
}

fn is_needed(targets: &[Target<'_>]) -> bool {
    targets.iter().filter(|t| t.plan.snat).any(|t| {
        let program = if t.family() == Family::Ip { "iptables" } else { "ip6tables" };
        host::sysctl::get(&format!("net/bridge/bridge-nf-call-{program}")).is_ok_and(|value| value == "1")
    })
}
