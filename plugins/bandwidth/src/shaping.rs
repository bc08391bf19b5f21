//! What limits a pod: a token bucket filter on the host's end for what it receives, one on the ifb for what it sends.

use cni::{Attachment, Error};
use host::undo::Undo;
use netlink::link::{self, Link, NewIfb};
use netlink::tc::{self, Tbf};
use netlink::wire::Request;
use netlink::{Errno, Protocol, Socket};
use plugin::host_end;

use crate::config::Plan;
use crate::ifb::{self, Owner};

/// Removes what limits the pod at this end; `ifbs` are those that its packets go through. Errors: another program's
/// queueing discipline or filter is there, of which nothing was touched.
pub(crate) fn clear(socket: &mut Socket, end: &Link, ifbs: &[Link]) -> Result<(), Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to look for the limits of \"{}\": {e}", end.name));
    let root = tc::root(socket, end.index).map_err(failed)?;
    let hook = tc::ingress(socket, end.index).map_err(failed)?;
    if let Some(root) = root.as_ref().filter(|r| !r.is_our_tbf()) {
        return Err(taken(end, &format!("queueing discipline {}", root.kind)));
    }
    if let Some(hook) = &hook
        && !is_ours(socket, end, &hook.kind, ifbs).map_err(failed)?
    {
        return Err(taken(end, &format!("{} hook with filters of another program", hook.kind)));
    }
    let failed = |e: netlink::Error| Error::internal(format!("failed to remove the limits of \"{}\": {e}", end.name));
    if root.is_some() {
        tc::delete_root(socket, end.index).map_err(failed)?;
    }
    if hook.is_some() {
        tc::delete_ingress(socket, end.index).map_err(failed)?;
    }
    Ok(())
}

/// Whether the hook does nothing but send packets to these ifbs, or to a link that is gone.
fn is_ours(socket: &mut Socket, end: &Link, kind: &str, ifbs: &[Link]) -> netlink::Result<bool> {
    if kind != "ingress" {
        return Ok(false);
    }
    for filter in tc::filters(socket, end.index)? {
        if filter.redirects.is_empty() {
            return Ok(false);
        }
        for target in filter.redirects {
            // The action forgets a link that is gone.
            if target != 0 && !ifbs.iter().any(|i| i.index == target) && link::by_index(socket, target)?.is_some() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn taken(end: &Link, by: &str) -> Error {
    Error::internal(format!("\"{}\" already has a {by}", end.name))
        .with_details("another program shapes or filters this link: see `tc qdisc show` and `tc filter show … ingress`")
}

/// Puts the limits in force; returns the ifb, if the pod's sending is limited.
pub(crate) fn install(
    socket: &mut Socket,
    end: &Link,
    plan: &Plan,
    attachment: &Attachment,
    undo: &mut Undo<'_>,
) -> Result<Option<Link>, Error> {
    let ifb = plan.egress.map(|_| create_ifb(socket, end, attachment, undo)).transpose()?;
    let mut steps = Steps::default();
    if let Some(limit) = plan.ingress {
        steps.tbf(end, &limit.tbf);
    }
    if let (Some(limit), Some(ifb)) = (plan.egress, &ifb) {
        steps.tbf(ifb, &limit.tbf);
        steps.set_up(ifb, attachment, end);
        tc::push_ingress(&mut steps.request, end.index);
        steps.names.push(format!("hook into what \"{}\" receives (module sch_ingress)", end.name));
        tc::push_redirect(&mut steps.request, end.index, ifb.index);
        steps.names.push(format!("send what \"{}\" receives through it (modules cls_u32, act_mirred)", end.name));
    }
    let (index, target) = (end.index, ifb.as_ref().map(|i| i.index));
    undo.push("removing the limits", move || clear_made(index, target));
    steps.run(socket)?;
    Ok(ifb)
}

/// Takes back what this call made on the host's end; the ifb goes by a step of its own.
fn clear_made(end: u32, ifb: Option<u32>) -> netlink::Result<()> {
    let mut socket = Socket::open(Protocol::Route)?;
    if tc::root(&mut socket, end)?.is_some_and(|r| r.is_our_tbf()) {
        tc::delete_root(&mut socket, end)?;
    }
    let is_made = |target: &u32| Some(*target) == ifb;
    if ifb.is_some() && tc::filters(&mut socket, end)?.iter().all(|f| f.redirects.iter().any(is_made)) {
        tc::delete_ingress(&mut socket, end)?;
    }
    Ok(())
}

fn create_ifb(socket: &mut Socket, end: &Link, attachment: &Attachment, undo: &mut Undo<'_>) -> Result<Link, Error> {
    let failed = |e: netlink::Error| match e.errno {
        Errno::EOPNOTSUPP => Error::internal("this kernel has no ifb links, which limiting what a pod sends needs")
            .with_details("load the module: modprobe ifb"),
        _ => Error::internal(format!("failed to make the ifb for \"{}\": {e}", end.name)),
    };
    let mac = ifb::mac(attachment);
    for name in ifb::names(attachment) {
        let created = link::create_ifb(socket, &NewIfb { name: &name, mac, mtu: end.mtu });
        if created.as_ref().is_err_and(link::is_taken) {
            // Another attachment of the container has it.
            continue;
        }
        // Also where it was not certainly refused: an answer that gets lost says nothing.
        let undone = name.clone();
        undo.push("removing the ifb", move || {
            let mut socket = Socket::open(Protocol::Route)?;
            match link::by_name(&mut socket, &undone)?.filter(|l| l.is("ifb") && l.mac == Some(mac)) {
                Some(link) => link::delete(&mut socket, link.index),
                None => Ok(()),
            }
        });
        created.map_err(failed)?;
        return link::by_name(socket, &name).map_err(failed)?.ok_or_else(|| failed(Errno::ENODEV.into()));
    }
    Err(Error::internal(format!(
        "failed to make the ifb for \"{}\": both its names are taken, {}",
        end.name,
        ifb::names(attachment).map(|n| format!("\"{n}\"")).join(" and ")
    )))
}

/// Requests that go out together, each with what it is for.
#[derive(Default)]
struct Steps {
    request: Request,
    names: Vec<String>,
}

impl Steps {
    fn tbf(&mut self, link: &Link, tbf: &Tbf) {
        tc::push_tbf(&mut self.request, link.index, tbf);
        self.names.push(format!("limit what \"{}\" sends (module sch_tbf)", link.name));
    }

    fn set_up(&mut self, ifb: &Link, attachment: &Attachment, end: &Link) {
        ifb::push_mark(&mut self.request, ifb, attachment, end);
        link::push_up(&mut self.request, ifb.index);
        self.names.extend([(); 2].map(|()| format!("set \"{}\" up", ifb.name)));
    }

    fn run(self, socket: &mut Socket) -> Result<(), Error> {
        socket.transact(&self.request, |_| ()).map_err(|e| {
            let name = self.names.get(e.request).map_or("limit the bandwidth", String::as_str);
            Error::internal(format!("failed to {name}: {e}"))
        })
    }
}

/// The ifbs that are the attachment's; an unmarked one only if this end's packets go to it.
pub(crate) fn own_ifbs(socket: &mut Socket, end: &Link, attachment: &Attachment) -> netlink::Result<Vec<Link>> {
    let candidates = ifb::candidates(socket, attachment)?;
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let filters = tc::filters(socket, end.index)?;
    let is_used = |link: &Link| filters.iter().any(|f| f.redirects.contains(&link.index));
    let is_own = |link: &Link, owner| owner == Owner::Own || owner == Owner::Unmarked && is_used(link);
    Ok(candidates.into_iter().filter(|(link, owner)| is_own(link, *owner)).map(|(link, _)| link).collect())
}

/// Whether what a link receives goes to the ifb.
pub(crate) fn redirects_to(socket: &mut Socket, link: &Link, ifb: &Link) -> netlink::Result<bool> {
    Ok(tc::filters(socket, link.index)?.iter().any(|f| f.redirects.contains(&ifb.index)))
}

/// What an earlier ADD of an attachment has limited.
pub(crate) struct Earlier {
    /// The host's end, if it has a limit or sends packets to the ifbs.
    end: Option<Link>,
    /// Whether it has a token bucket filter of ours.
    has_tbf: bool,
    ifbs: Vec<Link>,
}

/// Looks for the limits of an attachment of which nothing else is known. Nobody looks into the pod: what is on a pair that
/// another suite made is seen by its ifb only.
pub(crate) fn earlier(socket: &mut Socket, attachment: &Attachment) -> Result<Earlier, Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to look for earlier limits: {e}"));
    let end = host_end::find(socket, attachment).map_err(failed)?;
    let Some(end) = end else {
        let ifbs = ifb::candidates(socket, attachment).map_err(failed)?;
        let ifbs = ifbs.into_iter().filter(|(_, owner)| *owner == Owner::Own).map(|(link, _)| link).collect();
        return Ok(Earlier { end: None, has_tbf: false, ifbs });
    };
    let ifbs = own_ifbs(socket, &end, attachment).map_err(failed)?;
    let has_tbf = tc::root(socket, end.index).map_err(failed)?.is_some_and(|r| r.is_our_tbf());
    Ok(Earlier { end: Some(end).filter(|_| has_tbf || !ifbs.is_empty()), has_tbf, ifbs })
}

impl Earlier {
    /// What there is, if there is anything.
    pub(crate) fn describe(&self) -> Option<String> {
        match (self.ifbs.first(), &self.end) {
            (_, Some(end)) if self.has_tbf => Some(describe_tbf(end)),
            (Some(ifb), _) => Some(describe_ifb(ifb)),
            _ => None,
        }
    }

    /// Removes it.
    pub(crate) fn remove(self, socket: &mut Socket) -> Result<(), Error> {
        if let Some(end) = &self.end {
            clear(socket, end, &self.ifbs)?;
        }
        ifb::delete(socket, self.ifbs)
    }
}

pub(crate) fn describe_tbf(end: &Link) -> String {
    format!("a tbf on \"{}\"", end.name)
}

pub(crate) fn describe_ifb(ifb: &Link) -> String {
    format!("the ifb \"{}\"", ifb.name)
}
