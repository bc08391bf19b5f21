//! Servers that say who asked them, and clients that ask.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use crate::{
    Place, settings,
    traffic::{PATIENCE, SILENCE},
};

/// How often a server looks whether it shall end, and how long a client waits before it asks again.
const TURN: Duration = Duration::from_millis(100);
const ATTEMPT: Duration = Duration::from_millis(300);

/// What goes over IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Tcp { "tcp" } else { "udp" })
    }
}

/// Answers everyone with its name and the address it sees the client with, over TCP and UDP, until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// At one address and port of this place.
    ///
    /// # Panics
    /// When the address is not there or stays under duplicate detection.
    pub fn start(place: &impl Place, name: &str, at: impl Into<SocketAddr>) -> Self {
        let at = at.into();
        let udp = place.enter(|| until_bound(at, || UdpSocket::bind(at)));
        let tcp = place.enter(|| until_bound(at, || TcpListener::bind(at)));
        udp.set_read_timeout(Some(TURN)).unwrap();
        // What `accept` waits at most.
        setsockopt(&tcp, ReceiveTimeout, &TimeVal::new(0, TURN.subsec_micros().into())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let turns = |mut turn: Box<dyn FnMut() -> io::Result<()> + Send>| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Nobody asked, or somebody who has gone already.
                    _ = turn();
                }
            })
        };
        let (first, second) = (name.to_owned(), name.to_owned());
        let threads = vec![
            turns(Box::new(move || {
                let (_, peer) = udp.recv_from(&mut [0; 64])?;
                udp.send_to(format!("{first} {}", peer.ip()).as_bytes(), peer).map(drop)
            })),
            turns(Box::new(move || {
                let (mut stream, peer) = tcp.accept()?;
                stream.write_all(format!("{second} {}", peer.ip()).as_bytes())
            })),
        ];
        Self { stop, threads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            _ = thread.join();
        }
    }
}

/// An IPv6 address may still be under duplicate detection.
fn until_bound<T>(at: SocketAddr, bind: impl Fn() -> io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE * settings::slowness();
    loop {
        match bind() {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < deadline, "listening at {at}: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a [`Server`] said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The client's address as the server saw it.
    pub seen: IpAddr,
}

/// Asks until there is an answer; `None`: none came in time.
pub fn ask(from: &impl Place, transport: Transport, to: SocketAddr) -> Option<Answer> {
    ask_within(from, transport, to, PATIENCE * settings::slowness())
}

/// Asks for a moment only, where no answer is expected.
pub fn ask_briefly(from: &impl Place, transport: Transport, to: SocketAddr) -> Option<Answer> {
    ask_within(from, transport, to, SILENCE * settings::slowness())
}

fn ask_within(from: &impl Place, transport: Transport, to: SocketAddr, within: Duration) -> Option<Answer> {
    let deadline = Instant::now() + within;
    from.enter(|| {
        loop {
            let attempt = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
            if attempt.is_zero() {
                return None;
            }
            // Each from a port of its own: nothing is left of an earlier failure.
            let answer = match transport {
                Transport::Tcp => over_tcp(to, attempt),
                Transport::Udp => over_udp(to, attempt),
            };
            match answer.ok().and_then(|text| parse(&text)) {
                Some(answer) => return Some(answer),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    })
}

fn over_tcp(to: SocketAddr, within: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, within)?;
    stream.set_read_timeout(Some(within))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn over_udp(to: SocketAddr, within: Duration) -> io::Result<String> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    // Only what comes from there is received.
    socket.connect(to)?;
    socket.set_read_timeout(Some(within))?;
    socket.send(b"?")?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn parse(text: &str) -> Option<Answer> {
    let (server, seen) = text.split_once(' ')?;
    Some(Answer { server: server.to_owned(), seen: seen.parse().ok()? })
}
