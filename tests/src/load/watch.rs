//! Who has which address, all the time.

use std::{net::IpAddr, sync::atomic::Ordering, thread, time::Duration};

use nix::ifaddrs::getifaddrs;

use super::{
    Node,
    network::{Attachment, State},
};
use crate::{Place, Pod, chained::Suite, pod::ips};

impl Node<'_> {
    /// Compares what attached pods really have with what ADD has said, all the time.
    pub(super) fn watch(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            for slot in &self.slots {
                let Ok(slot) = slot.attachment.try_lock() else { continue };
                let Some(attachment) = slot.as_ref().filter(|a| a.state == State::Attached) else { continue };
                self.compare(attachment);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn compare(&self, attachment: &Attachment) {
        let pod = &attachment.pod;
        let (mut wanted, mut found) = (ips(&attachment.result), addresses(pod));
        wanted.sort_unstable();
        found.sort_unstable();
        if wanted != found {
            self.log.fault(format!("{} has {found:?}, ADD said {wanted:?}", pod.id));
        }
        for ip in found {
            let holder = self.books.holder(ip);
            if holder.as_deref() != Some(&pod.id) {
                self.log.fault(format!("{ip} of {} belongs to {holder:?}", pod.id));
            }
        }
    }

    /// Nobody else may have these addresses, nor be able to use them.
    pub(super) fn claim(&self, pod: &Pod, ips: &[IpAddr]) {
        let (twice, leaving) = self.books.claim(&pod.id, ips);
        if !twice.is_empty() {
            self.log.fault(format!("{} was given addresses that others have: {twice:?}", pod.id));
        }
        for (ip, other) in leaving {
            // The reference frees the address first, and then removes the interface.
            if other.by == Suite::Tested && other.pod.id != pod.id && addresses(&other.pod).contains(&ip) {
                self.log.fault(format!("{} was given {ip}, which {} could still use", pod.id, other.pod.id));
            }
        }
    }
}

/// The pod's addresses, without link-local ones and the loopback's.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let is_meant = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    pod.enter(|| {
        let all = getifaddrs().unwrap().filter_map(|a| a.address);
        let v4 = |a: &nix::sys::socket::SockaddrStorage| a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = |a: &nix::sys::socket::SockaddrStorage| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        all.filter_map(|a| v4(&a).or_else(|| v6(&a))).filter(is_meant).collect()
    })
}
