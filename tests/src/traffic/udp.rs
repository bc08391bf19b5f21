//! UDP: whether something comes, and from whom.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use crate::{settings, traffic::PATIENCE};

/// Who sent the next datagram. `None`: none came in time.
pub fn sender_of_next(socket: &UdpSocket) -> Option<SocketAddr> {
    let deadline = Instant::now() + PATIENCE * settings::slowness();
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.recv_from(&mut [0; 8]) {
            Ok((_, sender)) => return Some(sender),
            // signal(7): with a timeout, recv(2) is not resumed. Children of other tests end all the time.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("receiving at {:?}: {error}", socket.local_addr()),
        }
    }
}
