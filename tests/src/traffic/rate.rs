//! How much gets through in a steady state.
//!
//! Rates are in bits a second on the wire: payload with the headers of full packets of 1,500 bytes and the Ethernet
//! header, which is what the kernel's queueing disciplines count.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Place,
    traffic::{PATIENCE, SILENCE},
};

/// Until a full bucket is empty and TCP has found its pace.
const WARM_UP: Duration = Duration::from_millis(600);
/// Over which is measured.
const WINDOW: Duration = Duration::from_secs(2);
/// Bytes of a packet with its Ethernet header.
const PACKET: f64 = 1514.0;
/// Ethernet header and TCP header with time stamps, in bytes.
const ETHERNET_AND_TCP: f64 = 14.0 + 32.0;
/// Payload of a datagram, in bytes.
const DATAGRAM: usize = 1400;

/// What TCP gets through from one place to another, which has this address.
///
/// # Panics
/// When there is no connection.
pub fn tcp(from: &impl Place, to: &impl Place, address: IpAddr) -> f64 {
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    let mut client = from.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(SILENCE)).unwrap();
    // Ends the writing; the other side's closing may never be heard of.
    let closing = client.try_clone().unwrap();
    let payload = thread::scope(|s| {
        s.spawn(|| while client.write_all(&[0; 16 * 1024]).is_ok() {});
        let mut buffer = vec![0; 1 << 20];
        let payload = measure(|| server.read(&mut buffer).unwrap_or(0));
        _ = closing.shutdown(Shutdown::Both);
        payload
    });
    payload * PACKET / (PACKET - ip_header(target) - ETHERNET_AND_TCP)
}

/// What of UDP datagrams gets through, of which this many bits are sent a second.
pub fn udp(from: &impl Place, to: &impl Place, address: IpAddr, sent: f64) -> f64 {
    let server = to.enter(|| UdpSocket::bind((address, 0))).unwrap();
    server.set_read_timeout(Some(SILENCE)).unwrap();
    let target = server.local_addr().unwrap();
    let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let client = from.enter(|| UdpSocket::bind(any)).unwrap();
    let header = 14.0 + ip_header(target) + 8.0;
    let gap = Duration::from_secs_f64((DATAGRAM as f64 + header) * 8.0 / sent);
    let done = AtomicBool::new(false);
    let mut buffer = [0; 2048];
    let payload = thread::scope(|s| {
        s.spawn(|| {
            let mut next = Instant::now();
            while !done.load(Ordering::Relaxed) {
                // Late ones are made up for; a full queue may be told to the sender.
                while next <= Instant::now() && !done.load(Ordering::Relaxed) {
                    _ = client.send_to(&[0; DATAGRAM], target);
                    next += gap;
                }
                thread::sleep(gap.min(Duration::from_millis(1)));
            }
        });
        let payload = measure(|| server.recv(&mut buffer).unwrap_or(0));
        done.store(true, Ordering::Relaxed);
        payload
    });
    payload * (DATAGRAM as f64 + header) / DATAGRAM as f64
}

/// Keeps TCP sending from one place to another while `work` is done, which begins in the steady state.
pub fn under_load<T>(from: &impl Place, to: &impl Place, address: IpAddr, work: impl FnOnce() -> T) -> T {
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    let mut client = from.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let closing = client.try_clone().unwrap();
    thread::scope(|s| {
        s.spawn(|| while client.write_all(&[0; 16 * 1024]).is_ok() {});
        s.spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while server.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        });
        thread::sleep(WARM_UP);
        let result = work();
        _ = closing.shutdown(Shutdown::Both);
        result
    })
}

/// Bits a second of what `read` returns, in bytes.
fn measure(mut read: impl FnMut() -> usize) -> f64 {
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP {
        read();
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < WINDOW {
        bytes += read();
    }
    bytes as f64 * 8.0 / begin.elapsed().as_secs_f64()
}

fn ip_header(address: SocketAddr) -> f64 {
    if address.is_ipv4() { 20.0 } else { 40.0 }
}
