//! Changing the pod's address, and all that goes by it: the spoof filter, the neighbours, the host's memory.

use std::net::IpAddr;

use host::sysctl::{self, Dir};
use netlink::link::{self, Link, Mac};
use netlink::{Errno, Protocol, Socket, neigh};

use crate::pod::Pod;
use crate::spoof;

/// Gives the link another address. The filter first: else the announcement would not pass it.
pub(crate) fn change(pod: &Pod<'_>, socket: &mut Socket, link: &Link, to: Mac) -> Result<(), String> {
    let from = link.mac.ok_or("it has no MAC address of six bytes")?;
    follow(pod, from, to)?;
    if let Err(error) = announce(pod, socket, link, to) {
        return Err(match follow(pod, to, from) {
            Ok(()) => error,
            Err(also) => format!("{error}; the spoof filter goes by the new address nevertheless: {also}"),
        });
    }
    if from != to {
        forget_neighbours(pod);
    }
    Ok(())
}

/// Lets the spoof filter go by the address `to`.
fn follow(pod: &Pod<'_>, from: Mac, to: Mac) -> Result<(), String> {
    if from == to { Ok(()) } else { spoof::follow(pod.attachment, from, to).map_err(|e| e.to_string()) }
}

/// Sets the address, and lets the link announce its IP addresses by it, whatever its settings say of this.
fn announce(pod: &Pod<'_>, socket: &mut Socket, link: &Link, mac: Mac) -> Result<(), String> {
    let name = &link.name;
    let settings = [format!("net/ipv4/conf/{name}/arp_notify"), format!("net/ipv6/conf/{name}/ndisc_notify")];
    let work = || {
        // The bridge plugin has switched them on for its pods; elsewhere they stay as they were.
        let before = settings.each_ref().map(|path| sysctl::get(path).ok().filter(|value| value != "1"));
        let v6 = Dir::open("net/ipv6/conf").ok();
        let result = host::announce::set_mac(socket, v6.as_ref(), link.index, name, mac);
        for (path, value) in settings.iter().zip(before) {
            if let Some(value) = value {
                let _ = sysctl::overwrite(path, &value);
            }
        }
        result
    };
    let refused = pod.netns.enter(work).map_err(|e| e.to_string())?.map_err(|error| match error.errno {
        Errno::EBUSY => format!("{error}: its driver changes the address only while the link is down"),
        _ => error.to_string(),
    })?;
    if let Some(refused) = refused {
        let text = format!("{refused}, so IPv6 neighbours may go by the old MAC address for half a minute");
        host::syslog::notice("tuning", &text);
    }
    Ok(())
}

/// The host must not go on sending to the old address.
fn forget_neighbours(pod: &Pod<'_>) {
    let Some(result) = pod.result else { return };
    let ips: Vec<IpAddr> = result.ips.iter().map(|ip| ip.address.addr()).collect();
    // The bridge, the gateway's port, the host's end of a pair: whichever of them has the route to the pod.
    let mut names = result.interfaces.iter().filter(|i| i.sandbox.is_empty()).map(|i| &i.name);
    let forgotten = Socket::open(Protocol::Route).and_then(|mut host| {
        names.try_for_each(|name| {
            let Some(link) = link::by_name(&mut host, name)? else { return Ok(()) };
            ips.iter().try_for_each(|ip| neigh::forget(&mut host, link.index, *ip))
        })
    });
    if let Err(error) = forgotten {
        // It finds out by itself within a minute.
        host::syslog::warn("tuning", format_args!("failed to forget the pod's old MAC address: {error}"));
    }
}
