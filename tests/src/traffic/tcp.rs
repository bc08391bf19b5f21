//! TCP: as whom a server sees its client.

use std::{
    iter,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use crate::{Place, settings, traffic::PATIENCE};

/// Connects from one place to a server at this address in another, and returns the client's address that the
/// server sees. `None`: no connection in time.
pub fn source_seen(from: &impl Place, server: &impl Place, address: &str) -> Option<IpAddr> {
    let address: IpAddr = address.parse().unwrap();
    let deadline = Instant::now() + PATIENCE * settings::slowness();
    // A socket stays in the namespace it was made in. An IPv6 address may still be under duplicate detection.
    let listener = loop {
        match server.enter(|| TcpListener::bind((address, 0))) {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < deadline, "listening at {address}: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    let target: SocketAddr = listener.local_addr().unwrap();
    // Anew, instead of waiting for TCP's own retransmissions, which take seconds.
    let connect = || TcpStream::connect_timeout(&target, Duration::from_millis(300)).ok();
    let _client =
        from.enter(|| iter::repeat_with(connect).take_while(|_| Instant::now() < deadline).flatten().next())?;
    // It may be another server that was connected to.
    setsockopt(&listener, ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs().try_into().unwrap(), 0)).unwrap();
    let (_, peer) = listener.accept().expect("the client is connected to another server");
    Some(peer.ip())
}
