//! The pod's end: settings, addresses, routes, and telling the neighbours.

use std::time::Duration;

use cni::{AddResult, Error};
use host::netns::NetNs;
use host::sysctl::Dir;
use netlink::addr::{self, Dad};
use netlink::link;
use netlink::monitor::Monitor;
use netlink::route::{self, MAIN_TABLE, Route};
use netlink::wire::Request;
use netlink::{Errno, Socket};

use crate::bridge::V6_CONF;
use crate::config::Plan;
use crate::veth::Veth;
use crate::wait;

/// Duplicate address detection takes one to two seconds per address by default.
const DAD_PATIENCE: Duration = Duration::from_secs(8);

/// IPv6's settings of links in the pod, opened before there is anything to set; `None` on a kernel without IPv6.
pub(crate) fn v6_settings(netns: &NetNs) -> Result<Option<Dir>, Error> {
    match netns.enter(|| Dir::open(V6_CONF)).map_err(|e| Error::internal(e.to_string()))? {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal(format!("failed to look at the container's IPv6 settings: {error}"))),
    }
}

/// Prepares the pod's kernel for the addresses to come. What may not be written, and what comes of it, if the pod works
/// without it.
pub(crate) fn prepare(
    settings: Option<&Dir>,
    plan: &Plan,
    ifname: &str,
    result: &AddResult,
) -> Result<Vec<String>, Error> {
    let Some(settings) = settings else { return Ok(Vec::new()) };
    let has_v6 = result.ips.iter().any(|ip| !ip.address.is_ipv4());
    let mut refused = Vec::new();
    let mut set = |name: &str, value, without: &str| {
        refused.extend(settings.attempt(&format!("{ifname}/{name}"), value).map(|r| format!("{r}, {without}")));
    };
    if plan.detect_duplicates {
        set("enhanced_dad", "1", "so the pod's own packets that come back to it count as a duplicate's");
        set("accept_dad", "1", "so duplicate addresses may not be found");
    } else {
        set("accept_dad", "0", "so IPv6 takes a second or two to be ready");
    }
    if plan.gateway {
        // The bridge is the router and answers none; each would be flooded to every port (1-2 ms for 500 of them).
        set("router_solicitations", "0", "so the pod asks all its neighbours for routers");
    }
    if plan.gateway || result.routes.iter().any(|route| !route.dst.is_ipv4() && is_default(route)) {
        // The pod's router is known. Whatever calls itself one is another pod that wants the traffic of its neighbours.
        set("accept_ra", "0", "so any neighbour can be the pod's IPv6 router");
    }
    if has_v6 {
        set("keep_addr_on_down", "1", "so the pod's IPv6 addresses are lost if its link is set down");
        for link in ["lo", ifname] {
            settings.set(&format!("{link}/disable_ipv6"), "0").map_err(|e| {
                Error::internal(format!("failed to enable IPv6 in the container: {e}"))
                    .with_details("whoever makes the container's namespace can set it, or leave the IPv6 ranges away")
            })?;
        }
    }
    Ok(refused)
}

/// Tells which settings the pod has to do without, in one line.
pub(crate) fn tell(refused: &[String]) {
    if !refused.is_empty() {
        let list = refused.join("; ");
        host::syslog::notice(
            "bridge",
            &format!("settings of the pod that may not be written, with which it works as it is: {list}"),
        );
    }
}

/// Adds the addresses, sets the link up and adds the routes.
pub(crate) fn configure(pod: &mut Socket, plan: &Plan, veth: &Veth, result: &AddResult) -> Result<(), Error> {
    let dad = if plan.detect_duplicates { Dad::Detect } else { Dad::Skip };
    let mut request = Request::new();
    let mut steps = Vec::new();
    for ip in &result.ips {
        let address = ip.address;
        addr::push_add(&mut request, veth.pod, address.addr(), address.prefix(), dad);
        steps.push(format!("failed to add IP addr {address} to the container's link"));
    }
    link::push_up(&mut request, veth.pod);
    steps.push("failed to set the container's link up".to_owned());
    for route in &result.routes {
        let route = planned_route(route, result, veth.pod)?;
        route::push_add(&mut request, &route);
        steps.push(format!("failed to add route '{}'", describe(&route)));
    }
    pod.transact_each(&request).map_err(|error| {
        let step = steps.get(error.request).cloned().unwrap_or_default();
        Error::internal(format!("{step}: {error}")).with_details(hint(&error))
    })
}

/// Sets the link up without addresses (layer 2).
pub(crate) fn set_up(pod: &mut Socket, veth: &Veth) -> Result<(), Error> {
    link::set_up(pod, veth.pod).map_err(|e| Error::internal(format!("failed to set the container's link up: {e}")))
}

/// Waits until no address is tentative: those that duplicate address detection looks at (`enabledad`), and the
/// link-local one, which the kernel settles a moment after the link came up.
pub(crate) fn settle(netns: &NetNs, pod: &mut Socket, veth: &Veth, plan: &Plan) -> Result<(), Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to settle addresses: {e}"));
    let is_settled = || -> Result<Option<()>, Error> {
        let addresses = addr::list_v6(pod, veth.pod).map_err(failed)?;
        if let Some(duplicate) = addresses.iter().find(|a| a.is_duplicate()) {
            return Err(Error::internal(format!(
                "failed to settle addresses: {}/{} is used by another host (DADFAILED)",
                duplicate.ip, duplicate.prefix
            ))
            .with_details(
                "find the other user of the address: it answered duplicate address detection on this bridge",
            ));
        }
        Ok((!addresses.iter().any(addr::Address::is_tentative)).then_some(()))
    };
    let open = || netns.enter(Monitor::v6_addresses).map_err(|e| Error::internal(e.to_string()))?.map_err(failed);
    let settled = wait::until(DAD_PATIENCE, open, failed, is_settled)?;
    if settled.is_none() && !plan.detect_duplicates {
        // The pod's own addresses were never tentative.
        let text =
            format!("the pod's link-local address is still tentative after {DAD_PATIENCE:?}: the kernel is busy");
        host::syslog::notice("bridge", &text);
        return Ok(());
    }
    settled.ok_or_else(|| {
        Error::new(cni::code::TRY_AGAIN, format!("failed to settle addresses: still tentative after {DAD_PATIENCE:?}"))
            .with_details(
                "duplicate address detection has not ended; see dad_transmits and retrans_time_ms of the link",
            )
    })
}

/// Lets the link announce all its addresses.
///
/// Its settings for this (which stay: it announces itself again whenever its address is set) come only now: a link that
/// announces itself while it is set up floods all ports with what nobody can answer yet. As [`prepare`], what may not be
/// written.
pub(crate) fn announce(
    pod: &mut Socket,
    settings: Option<&Dir>,
    veth: &Veth,
    ifname: &str,
) -> Result<Option<String>, Error> {
    let refused = host::announce::set_mac(pod, settings, veth.pod, ifname, veth.pod_mac)
        .map_err(|e| Error::internal(format!("failed to announce the container's addresses: {e}")))?;
    Ok(refused
        .map(|r| format!("{r}, so neighbours may look for an IPv6 address where it was before, for half a minute")))
}

/// A route of the result as the kernel is to have it: its next hop is its own, else the first gateway of its family.
pub(crate) fn planned_route(route: &cni::Route, result: &AddResult, link: u32) -> Result<Route, Error> {
    let is_v4 = route.dst.is_ipv4();
    let first_gateway = result.ips.iter().filter_map(|ip| ip.gateway).find(|g| g.is_ipv4() == is_v4);
    let number = |name: &str, value: i64| {
        u32::try_from(value)
            .map_err(|_| Error::internal(format!("route to {}: {name} {value} is out of range", route.dst)))
    };
    let stated = |name, value| if value == 0 { Ok(None) } else { number(name, value).map(Some) };
    Ok(Route {
        dst: route.dst.addr(),
        prefix: route.dst.prefix(),
        gateway: route.gw.or(first_gateway),
        link: Some(link),
        table: route.table.map(|t| number("table", t)).transpose()?,
        scope: route
            .scope
            .map(|s| {
                u8::try_from(s)
                    .map_err(|_| Error::internal(format!("route to {}: scope {s} is out of range", route.dst)))
            })
            .transpose()?,
        priority: stated("priority", route.priority)?,
        mtu: stated("mtu", route.mtu)?,
        advmss: stated("advmss", route.advmss)?,
    })
}

/// All that was asked for, for messages.
pub(crate) fn describe(route: &Route) -> String {
    use std::fmt::Write;
    let mut text = format!("{}/{}", route.dst, route.prefix);
    if let Some(gateway) = route.gateway {
        let _ = write!(text, " via {gateway}");
    }
    let numbers = [
        ("metric", route.priority),
        ("scope", route.scope.map(u32::from)),
        ("table", route.table),
        ("mtu", route.mtu),
        ("advmss", route.advmss),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            let _ = write!(text, " {name} {value}");
        }
    }
    text
}

fn hint(error: &netlink::Error) -> &'static str {
    match error.errno {
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => "the gateway is in none of the container's subnets",
        Errno::EEXIST => "it is stated twice, or the container's namespace had it before",
        Errno::EINVAL => {
            "a destination must not have bits behind its prefix, and the gateway must be another's address"
        }
        _ => "",
    }
}

/// An address that this kernel cannot have.
pub(crate) fn no_ipv6() -> Error {
    Error::internal("IPAM gave an IPv6 address, but the kernel has no IPv6").with_details(
        "the kernel was built or booted without IPv6 (ipv6.disable=1): remove the IPv6 ranges from the config; or \
         /proc/sys/net is hidden from the plugins: let them see it",
    )
}

/// Whether this is a default route of the main table.
pub(crate) fn is_default(route: &cni::Route) -> bool {
    let is_main = route.table.is_none_or(|table| table == 0 || table == i64::from(MAIN_TABLE));
    is_main && route.dst.prefix() == 0 && route.dst.addr().is_unspecified()
}
