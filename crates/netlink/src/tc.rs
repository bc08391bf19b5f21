//! Traffic control of a link: queueing disciplines (`RTM_*QDISC`) and the filter that sends all that comes in to
//! another link (`RTM_*TFILTER`).
//!
//! Only what shapes a pod's traffic: the token bucket filter as a link's root, the hook for what comes in, one
//! match-all filter on it. Sources: `net/sched/sch_api.c`, `sch_tbf.c`, `sch_ingress.c`, `cls_api.c`, `cls_u32.c`,
//! `act_mirred.c` and `include/uapi/linux/pkt_sched.h`, `pkt_cls.h`, `tc_act/tc_mirred.h`.
//!
//! Units: rates are bytes a second, sizes are bytes; the kernel counts a packet with its Ethernet header (14 bytes). The
//! kernel's own unit of time, the tick, is 64 ns long.

use nix::errno::Errno;
use nix::libc;

use crate::wire::{ACK, Attrs, CREATE, DUMP, EXCL, Message, Request, Writer, u32_ne};
use crate::{Result, Socket};

const TCMSG_LEN: usize = 20;
/// `NLM_F_ECHO`: kernels before 6.8 answer RTM_GETQDISC by a notification, which the asker gets only with it.
const ECHO: u16 = 0x8;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
/// `struct tc_mirred`.
const MIRRED_LEN: usize = 28;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// `1:`, which the root discipline is given.
const ROOT_HANDLE: u32 = 0x1_0000;
const FLOW: u32 = 0x1_0001;
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TC_U32_TERMINAL: u8 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const ETH_P_ALL: u16 = 3;
const FILTER_PRIORITY: u32 = 1;
/// `800::800`, the first of the first hash table; with a number chosen by the kernel, asking twice would make two.
const FILTER_HANDLE: u32 = 0x8000_0800;
const NANOSECONDS: u128 = 1_000_000_000;
/// Length of a tick in nanoseconds (`PSCHED_SHIFT` is 6).
const TICK: u128 = 64;

/// A token bucket filter (`tc-tbf(8)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes a second.
    pub rate: u64,
    /// Size of the bucket in bytes. A packet that is larger never passes: one that the sender left to be segmented later
    /// (GSO) is segmented first, any other is dropped.
    pub burst: u32,
    /// How many bytes may wait.
    pub limit: u32,
}

impl Tbf {
    /// The time to send a whole bucket, in ticks: what the kernel says in the place of the bucket's size. It tells the
    /// lower 32 bits only, which are 274 s.
    #[must_use]
    pub fn burst_ticks(&self) -> u32 {
        u32::try_from(self.all_burst_ticks() & u128::from(u32::MAX)).unwrap_or(u32::MAX)
    }

    /// By how many ticks the kernel's answer may differ: it reckons with a rate of 31 significant bits
    /// (`psched_ratecfg_precompute__`), and rounds down, as we do.
    #[must_use]
    pub fn burst_ticks_tolerance(&self) -> u32 {
        u32::try_from(2 + (self.all_burst_ticks() >> 30)).unwrap_or(u32::MAX)
    }

    /// Whether [`burst_ticks`](Self::burst_ticks) is all of it.
    #[must_use]
    pub fn is_burst_told_in_full(&self) -> bool {
        self.all_burst_ticks() <= u128::from(u32::MAX)
    }

    fn all_burst_ticks(&self) -> u128 {
        u128::from(self.burst) * NANOSECONDS / u128::from(self.rate.max(1)) / TICK
    }
}

/// A queueing discipline as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// `tbf`, `ingress`, `clsact`, …
    pub kind: String,
    /// Major number in the upper 16 bits.
    pub handle: u32,
    /// Of a token bucket filter.
    pub tbf: Option<TbfState>,
}

impl Qdisc {
    /// Whether it is a token bucket filter that was made as [`push_tbf`] makes it.
    #[must_use]
    pub fn is_our_tbf(&self) -> bool {
        self.kind == "tbf" && self.handle == ROOT_HANDLE
    }
}

/// What the kernel says of a token bucket filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TbfState {
    /// Bytes a second.
    pub rate: u64,
    /// As [`Tbf::burst_ticks`] has it; conversions round it down.
    pub burst_ticks: u32,
    /// How many bytes may wait.
    pub limit: u32,
}

/// A filter of what a link receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `u32`, `matchall`, `bpf`, …
    pub kind: String,
    /// Of a u32 filter: the links that its actions send packets to, in order; 0 for one that is gone.
    pub redirects: Vec<u32>,
}

/// The discipline of what a link sends; `None` if nobody has given it one.
pub fn root(socket: &mut Socket, link: u32) -> Result<Option<Qdisc>> {
    get(socket, link, TC_H_ROOT)
}

/// The hook for what a link receives, kind `ingress` or `clsact`; `None` if there is none.
pub fn ingress(socket: &mut Socket, link: u32) -> Result<Option<Qdisc>> {
    get(socket, link, TC_H_INGRESS)
}

/// Asked for one by one: a dump would be of all links, whatever it is asked for.
fn get(socket: &mut Socket, link: u32, parent: u32) -> Result<Option<Qdisc>> {
    let mut request = Request::new();
    request.message(libc::RTM_GETQDISC, ACK | ECHO, |w| {
        w.header(&tcmsg(link, 0, parent, 0));
    });
    socket.get(&request, |e| e.is(Errno::ENOENT) || e.is(Errno::ENODEV), |m| read_qdisc(&m))
}

/// Appends the request that makes a token bucket filter the root of a link, with handle `1:`. `EEXIST` if the link has
/// a discipline already. `ENOENT`: the kernel has none (module `sch_tbf`).
pub fn push_tbf(request: &mut Request, link: u32, tbf: &Tbf) {
    request.message(libc::RTM_NEWQDISC, ACK | CREATE | EXCL, |w| {
        w.header(&tcmsg(link, ROOT_HANDLE, TC_H_ROOT, 0)).str(TCA_KIND, "tbf").nest(TCA_OPTIONS, |w| {
            w.attr(TCA_TBF_PARMS, &tbf_qopt(tbf));
            if tbf.rate > u64::from(u32::MAX) {
                w.attr(TCA_TBF_RATE64, &tbf.rate.to_ne_bytes());
            }
            // In bytes; the time in the parameters would not hold a large bucket of a slow link.
            w.u32(TCA_TBF_BURST, tbf.burst);
        });
    });
}

/// Appends the request that gives a link the hook for what it receives (`ingress`, `ffff:`). `EEXIST` if it has one.
pub fn push_ingress(request: &mut Request, link: u32) {
    request.message(libc::RTM_NEWQDISC, ACK | CREATE | EXCL, |w| {
        w.header(&tcmsg(link, INGRESS_HANDLE, TC_H_INGRESS, 0)).str(TCA_KIND, "ingress");
    });
}

/// Appends the request that sends all packets a link receives out of the link `to` instead: a u32 filter that matches
/// everything, with one action. `ENOENT`: the kernel has no such filter or action (modules `cls_u32`, `act_mirred`).
pub fn push_redirect(request: &mut Request, link: u32, to: u32) {
    let info = FILTER_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    request.message(libc::RTM_NEWTFILTER, ACK | CREATE | EXCL, |w| {
        w.header(&tcmsg(link, FILTER_HANDLE, INGRESS_HANDLE, info)).str(TCA_KIND, "u32").nest(TCA_OPTIONS, |w| {
            w.u32(TCA_U32_CLASSID, FLOW).attr(TCA_U32_SEL, &match_all());
            w.nest(TCA_U32_ACT, |w| {
                w.nest(1, |w| push_mirred(w, to));
            });
        });
    });
}

/// The filters of what a link receives; none without the hook.
pub fn filters(socket: &mut Socket, link: u32) -> Result<Vec<Filter>> {
    let mut request = Request::new();
    request.message(libc::RTM_GETTFILTER, DUMP, |w| {
        w.header(&tcmsg(link, 0, INGRESS_HANDLE, 0));
    });
    let mut found = Vec::new();
    match socket.transact(&request, |m| found.extend(read_filter(&m))) {
        Err(error) if error.is(Errno::EINVAL) || error.is(Errno::ENODEV) => Ok(Vec::new()),
        result => result.map(|()| found),
    }
}

/// Removes the discipline of what a link sends; no error if there is none.
pub fn delete_root(socket: &mut Socket, link: u32) -> Result<()> {
    delete(socket, link, TC_H_ROOT)
}

/// Removes the hook for what a link receives, with its filters; no error if there is none.
pub fn delete_ingress(socket: &mut Socket, link: u32) -> Result<()> {
    delete(socket, link, TC_H_INGRESS)
}

fn delete(socket: &mut Socket, link: u32, parent: u32) -> Result<()> {
    let deleted = socket.request(libc::RTM_DELQDISC, 0, |w| {
        w.header(&tcmsg(link, 0, parent, 0));
    });
    match deleted {
        // EINVAL: of what comes in, where there is no hook.
        Err(error) if [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL].contains(&error.errno) => Ok(()),
        result => result,
    }
}

/// Whether the kernel has (or can load) the token bucket filter. Nothing is made: the discipline is asked for without
/// its parameters, which `tbf_init` refuses.
pub fn has_tbf(socket: &mut Socket, link: u32) -> Result<bool> {
    let asked = socket.request(libc::RTM_NEWQDISC, CREATE | EXCL, |w| {
        w.header(&tcmsg(link, ROOT_HANDLE, TC_H_ROOT, 0)).str(TCA_KIND, "tbf");
    });
    match asked {
        Err(error) if error.is(Errno::ENOENT) => Ok(false),
        Err(error) if error.is(Errno::EPERM) => Err(error),
        _ => Ok(true),
    }
}

/// `struct tcmsg`.
fn tcmsg(link: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG_LEN] {
    let mut header = [0; TCMSG_LEN];
    put(&mut header, 4, &[link, handle, parent, info]);
    header
}

/// `struct tc_tbf_qopt`: two `struct tc_ratespec` of 12 bytes (the second, the peak rate, is unused), limit, time to
/// send the bucket, its equivalent for the peak rate. With the link layer stated, the kernel wants no rate tables.
fn tbf_qopt(tbf: &Tbf) -> [u8; 36] {
    let mut parameters = [0; 36];
    parameters[1] = TC_LINKLAYER_ETHERNET;
    put(&mut parameters, 8, &[u32::try_from(tbf.rate).unwrap_or(u32::MAX)]);
    put(&mut parameters, 24, &[tbf.limit, tbf.burst_ticks()]);
    parameters
}

/// `struct tc_u32_sel` with one key that compares nothing.
fn match_all() -> [u8; 32] {
    let mut selector = [0; 32];
    selector[0] = TC_U32_TERMINAL;
    selector[2] = 1;
    selector
}

fn push_mirred(w: &mut Writer<'_>, to: u32) {
    let mut parameters = [0; MIRRED_LEN];
    // index, capab, action, refcnt, bindcnt, eaction, ifindex
    put(&mut parameters, 8, &[TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to]);
    w.str(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |w| {
        w.attr(TCA_MIRRED_PARMS, &parameters);
    });
}

fn put(bytes: &mut [u8], at: usize, values: &[u32]) {
    for (to, value) in bytes[at..].chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

fn read_qdisc(message: &Message<'_>) -> Option<Qdisc> {
    if message.kind != libc::RTM_NEWQDISC {
        return None;
    }
    let attrs = Attrs::behind(message.body, TCMSG_LEN);
    let kind = attrs.string(TCA_KIND)?;
    let tbf = (kind == "tbf").then(|| read_tbf(attrs.nested(TCA_OPTIONS))).flatten();
    // Those that a link has by nature have no number.
    Some(Qdisc { kind, handle: u32_ne(message.body.get(8..)?)?, tbf }).filter(|q| q.handle != 0)
}

fn read_tbf(options: Attrs<'_>) -> Option<TbfState> {
    let parameters = options.find(TCA_TBF_PARMS)?;
    let word = |at: usize| parameters.get(at..).and_then(u32_ne);
    let rate64 = options.find(TCA_TBF_RATE64).and_then(|v| Some(u64::from_ne_bytes(v.get(..8)?.try_into().ok()?)));
    Some(TbfState { rate: rate64.unwrap_or(u64::from(word(8)?)), limit: word(24)?, burst_ticks: word(28)? })
}

fn read_filter(message: &Message<'_>) -> Option<Filter> {
    if message.kind != libc::RTM_NEWTFILTER {
        return None;
    }
    let attrs = Attrs::behind(message.body, TCMSG_LEN);
    let kind = attrs.string(TCA_KIND)?;
    if kind != "u32" {
        return Some(Filter { kind, redirects: Vec::new() });
    }
    let options = attrs.nested(TCA_OPTIONS);
    // Its hash tables are told as well.
    options.find(TCA_U32_SEL)?;
    let target = |(_, action): (u16, &[u8])| {
        let parameters = Attrs(action).nested(TCA_ACT_OPTIONS).find(TCA_MIRRED_PARMS)?;
        parameters.get(MIRRED_LEN - 4..).and_then(u32_ne)
    };
    Some(Filter { kind, redirects: options.nested(TCA_U32_ACT).filter_map(target).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_bucket() {
        // As `tc` has it: 10,000 bytes at 8 Mbit/s take 10 ms, which are 156,250 ticks.
        assert_eq!(Tbf { rate: 1_000_000, burst: 10_000, limit: 0 }.burst_ticks(), 156_250);
        // 268 MB at 1 Mbit/s take 2147 s: the lower 32 bits of 33,554,431,875 ticks.
        assert_eq!(Tbf { rate: 125_000, burst: 268_435_455, limit: 0 }.burst_ticks(), 3_489_660_803);
        assert_eq!(Tbf { rate: 0, burst: 1, limit: 0 }.burst_ticks(), 15_625_000);
    }
}
