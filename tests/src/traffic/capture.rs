//! Somebody who looks at all packets, as tcpdump does.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

use crate::Place;

/// Sees all packets of all links that a place has now, in promiscuous mode, until it is dropped.
pub struct Capture {
    _socket: OwnedFd,
}

impl Capture {
    /// Begins.
    pub fn of(place: &impl Place) -> Self {
        let links = place.json("ip -j link show");
        let socket = place.enter(|| {
            // SAFETY: a plain system call.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: it was opened just now, and nobody else knows it.
            unsafe { OwnedFd::from_raw_fd(fd) }
        });
        for link in links.as_array().unwrap() {
            for kind in [libc::PACKET_MR_PROMISC, libc::PACKET_MR_ALLMULTI] {
                join(&socket, link["ifindex"].as_i64().unwrap(), kind);
            }
        }
        Self { _socket: socket }
    }
}

fn join(socket: &OwnedFd, link: i64, kind: libc::c_int) {
    let request = libc::packet_mreq {
        mr_ifindex: link.try_into().unwrap(),
        mr_type: kind.try_into().unwrap(),
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let length = size_of::<libc::packet_mreq>().try_into().unwrap();
    // SAFETY: the kernel reads one living packet_mreq of the given length.
    let result = unsafe {
        let option = (&raw const request).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, option, length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
