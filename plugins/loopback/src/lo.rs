//! `lo`, whatever name the runtime gives in `CNI_IFNAME`.

use std::net::IpAddr;

use cni::{AddResult, Call, Cidr, Error, Interface, IpConfig};
use host::netns::{self, NetNs};
use host::undo::Undo;
use netlink::addr::{self, Address};
use netlink::link::{self, Link};
use netlink::{Protocol, Socket};

const NAME: &str = "lo";

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    check_config(call)?;
    let previous = call.prev_result()?;
    let (mut socket, netns) = open(call)?;
    let link = lo(&mut socket)?;
    let mut undo = Undo::new();
    if !link.is_up() {
        let index = link.index;
        undo.push("setting \"lo\" down", move || match netns.enter(|| Socket::open(Protocol::Route)) {
            Ok(Ok(mut socket)) => link::set_down(&mut socket, index).map_err(|e| e.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        });
        link::set_up(&mut socket, link.index).map_err(|e| failed("set \"lo\" up", &e))?;
    }
    let addresses = addr::list(&mut socket, link.index).map_err(|e| failed("list the addresses of \"lo\"", &e))?;
    if let Some(foreign) = addresses.iter().find(|a| !a.ip.is_loopback()) {
        return Err(Error::internal(format!(
            "loopback interface has a non-loopback address: {}/{}",
            foreign.ip, foreign.prefix
        ))
        .with_details("another program put it there; remove it, or start the pod in a fresh namespace"));
    }
    // Later in a chain the result of the plugins before is passed on.
    call.reply(&previous.unwrap_or_else(|| describe(call, &link, &addresses)))?;
    undo.disarm();
    Ok(())
}

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let netns = match NetNs::open(&call.env.netns) {
        Ok(netns) => netns,
        // No namespace, no loopback.
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) => {
            host::syslog::warn("loopback", error);
            return Ok(());
        }
    };
    // A path may have become the host's: whose loopback stays up.
    if netns.is_own().map_err(|e| Error::internal(e.to_string()))? {
        return Ok(());
    }
    let mut socket = match netns.enter(|| Socket::open(Protocol::Route)) {
        Err(netns::Error::NotANamespace { .. }) => return Ok(()),
        socket => {
            socket.map_err(|e| Error::internal(e.to_string()))?.map_err(|e| failed("open a netlink socket", &e))?
        }
    };
    let Some(link) = link::by_name(&mut socket, NAME).map_err(|e| failed("look for \"lo\"", &e))? else {
        return Ok(());
    };
    link::set_down(&mut socket, link.index).map_err(|e| failed("set \"lo\" down", &e))
}

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    check_config(call)?;
    let (mut socket, _) = open(call)?;
    if lo(&mut socket)?.is_up() {
        return Ok(());
    }
    Err(Error::internal("loopback interface is down: found down, expected up")
        .with_details("in the container: ip link set lo up"))
}

/// It has no keys of its own; those that all configs share must be of their types.
fn check_config(call: &Call) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Config {}
    call.config::<Config>().map(drop)
}

fn open(call: &Call) -> Result<(Socket, NetNs), Error> {
    let netns = NetNs::open(&call.env.netns).map_err(|e| Error::internal(e.to_string()))?;
    let socket = netns
        .enter(|| Socket::open(Protocol::Route))
        .map_err(|e| Error::internal(e.to_string()))?
        .map_err(|e| failed("open a netlink socket", &e))?;
    Ok((socket, netns))
}

fn lo(socket: &mut Socket) -> Result<Link, Error> {
    link::by_name(socket, NAME)
        .map_err(|e| failed("look for \"lo\"", &e))?
        .ok_or_else(|| Error::internal("the container's namespace has no \"lo\""))
}

/// The first address of each family.
fn describe(call: &Call, link: &Link, addresses: &[Address]) -> AddResult {
    let first = |v4: bool| addresses.iter().find(|a| matches!(a.ip, IpAddr::V4(_)) == v4);
    let ips = [first(true), first(false)]
        .into_iter()
        .flatten()
        .filter_map(|a| Some(IpConfig { interface: Some(0), address: Cidr::new(a.ip, a.prefix)?, gateway: None }));
    AddResult {
        interfaces: vec![Interface {
            name: NAME.to_owned(),
            mac: host::mac::format(link.mac.unwrap_or_default()),
            sandbox: call.env.netns.clone(),
            ..Interface::default()
        }],
        ips: ips.collect(),
        ..AddResult::default()
    }
}

fn failed(what: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to {what}: {error}"))
}
