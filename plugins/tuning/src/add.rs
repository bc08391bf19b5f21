//! ADD: one transaction. Whatever fails, all that this call changed is what it was.

use std::cell::Cell;

use cni::{AddResult, Attachment, Call, Error};
use host::netns::{NetNs, own_cookie};
use host::undo::Undo;
use netlink::link::{self, Link};
use netlink::{Protocol, Socket};
use plugin::host_end;

use crate::attributes::Attributes;
use crate::backup::{LinkId, Record, Store};
use crate::config::Plan;
use crate::pod::Pod;
use crate::{allowlist, sweep, sysctl};

/// The least that IPv6 needs of a link, in bytes (RFC 8200, section 5).
const IPV6_MIN_MTU: u32 = 1280;

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    tune(call, &plan)?;
    // The runtime has its answer, and nothing that happens now changes it.
    sweep::sweep(call, &plan);
    Ok(())
}

fn tune(call: &Call, plan: &Plan) -> Result<(), Error> {
    allowlist::check(&plan.sysctls)?;
    let previous = required_result(call)?;
    let attachment = call.attachment();
    let netns = NetNs::open(&call.env.netns).map_err(|e| Error::internal(e.to_string()))?;
    let pod = Pod { netns: &netns, attachment: &attachment, result: Some(&previous) };
    let link = if plan.attributes.is_empty() { None } else { Some(pod.find()?) };

    let mut result = previous.clone();
    // What could not be set back needs its backup still.
    let is_set_back = Cell::new(true);
    let mut undo = Undo::new();
    if !plan.sysctls.is_empty() {
        sysctl::apply(&netns, &plan.sysctls, &mut undo)?;
        plugin::step()?;
    }
    if let Some((mut socket, link)) = link {
        warn_of_small_mtu(plan, &previous);
        back_up(call, plan, pod, &link, &is_set_back, &mut undo)?;
        plugin::step()?;
        set(pod, &mut socket, link, &plan.attributes, &is_set_back, &mut undo)?;
        if let Some(mac) = plan.attributes.mac {
            tell(&mut result, call, &netns, &host::mac::format(mac));
        }
    }
    plugin::step()?;
    call.reply(&result)?;
    undo.disarm();
    Ok(())
}

/// The result of the plugins before, without which there is nothing to tune.
pub(crate) fn required_result(call: &Call) -> Result<AddResult, Error> {
    call.prev_result()?.ok_or_else(|| {
        Error::internal("Required prevResult missing").with_details(
            "tuning changes an interface that another plugin has made: it belongs into a list, behind that plugin",
        )
    })
}

fn warn_of_small_mtu(plan: &Plan, previous: &AddResult) {
    if plan.attributes.mtu.is_some_and(|mtu| mtu < IPV6_MIN_MTU) && previous.ips.iter().any(|ip| !ip.address.is_ipv4())
    {
        host::syslog::warn(
            "tuning",
            format_args!("an MTU below {IPV6_MIN_MTU} makes the kernel take IPv6 away from the interface"),
        );
    }
}

/// Keeps what the link is before it is changed. What an earlier ADD of the same link has kept, stays: the link is
/// tuned by now.
fn back_up<'a>(
    call: &Call,
    plan: &Plan,
    pod: Pod<'a>,
    link: &Link,
    is_set_back: &'a Cell<bool>,
    undo: &mut Undo<'a>,
) -> Result<(), Error> {
    let store = Store::new(plan.data_dir.clone());
    let found = store.find(pod.attachment);
    if let Some(other) = found.others_record(pod.attachment) {
        refuse_collision(pod.attachment, other)?;
    }
    let before = store.snapshot(pod.attachment);
    let id = LinkId::new(pod.netns, link.index);
    let present = Attributes::of(link).only(&plan.attributes);
    let originals = match found.of_earlier_add(&id) {
        Some(kept) => kept.or(&present),
        None => present,
    };
    let record = Record::new(pod.attachment, &call.env.netns, id, originals, bridge_netns_cookie(pod.attachment));
    let folder = plan.data_dir.clone();
    undo.push("the backup", move || {
        if is_set_back.get() { Store::new(folder).put_back(pod.attachment, &before) } else { Ok(()) }
    });
    store.save(&record).map_err(|error| {
        Error::internal(format!(
            "failed to keep what \"{}\" was before in {}: {error}",
            pod.attachment.ifname,
            store.folder().display()
        ))
        .with_details("without it DEL could not restore the interface; set another dataDir")
    })
}

/// The kernel's number of the namespace that this call runs in, if our `bridge`'s end of the pair is there.
fn bridge_netns_cookie(attachment: &Attachment) -> Option<u64> {
    let mut host = Socket::open(Protocol::Route).ok()?;
    host_end::find(&mut host, attachment).ok()??;
    own_cookie()
}

/// The file's name, which is the reference's, does not keep ("a_b", "c") and ("a", "b_c") apart: what is kept of a link
/// that still exists must not be lost.
fn refuse_collision(attachment: &Attachment, record: &Record) -> Result<(), Error> {
    let other = record.attachment();
    if (&other.container_id, &other.ifname) == (&attachment.container_id, &attachment.ifname) {
        return Ok(());
    }
    let Ok(netns) = NetNs::open(record.netns()) else { return Ok(()) };
    match (Pod { netns: &netns, attachment: &other, result: None }).of(record) {
        None => Ok(()),
        Some(_) => Err(Error::internal(format!(
            "failed to keep what \"{}\" was before: the file of that name is that of \"{}\" of container {}",
            attachment.ifname, other.ifname, other.container_id
        ))
        .with_details("another dataDir keeps them apart")),
    }
}

fn set<'a>(
    pod: Pod<'a>,
    socket: &mut Socket,
    link: Link,
    wanted: &Attributes,
    is_set_back: &'a Cell<bool>,
    undo: &mut Undo<'a>,
) -> Result<(), Error> {
    let present = Attributes::of(&link).only(wanted);
    let index = link.index;
    undo.push("the interface", move || {
        is_set_back.set(false);
        let (mut socket, _) = pod.look().map_err(|e| e.to_string())?;
        // As it is by now: what follows a changed address goes by it.
        let link = link::by_index(&mut socket, index).map_err(|e| e.to_string())?.ok_or("it is gone")?;
        match pod.restore(&mut socket, &link, &present).join("; ") {
            failures if failures.is_empty() => {
                is_set_back.set(true);
                Ok(())
            }
            failures => Err(failures),
        }
    });
    for attribute in wanted.list() {
        pod.set(socket, &link, attribute)
            .map_err(|e| Error::internal(format!("failed to set {attribute} of \"{}\": {e}", link.name)))?;
        plugin::step()?;
    }
    Ok(())
}

/// Puts the new address into the result, for the plugins and runtimes that go by it.
///
/// The reference changes every entry of the name. A link on the host may have it as well, so that only entries of this
/// sandbox are changed, if there are any.
fn tell(result: &mut AddResult, call: &Call, netns: &NetNs, mac: &str) {
    let is_here = |sandbox: &str| {
        sandbox == call.env.netns || !sandbox.is_empty() && NetNs::open(sandbox).is_ok_and(|ns| ns.is(netns))
    };
    let named: Vec<usize> =
        (0..result.interfaces.len()).filter(|i| result.interfaces[*i].name == call.env.ifname).collect();
    let here: Vec<usize> = named.iter().copied().filter(|i| is_here(&result.interfaces[*i].sandbox)).collect();
    for index in if here.is_empty() { named } else { here } {
        mac.clone_into(&mut result.interfaces[index].mac);
    }
}
