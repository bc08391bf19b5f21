//! Enough of HTTP/1.0 to ask a container's server.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Place, image, settings,
    traffic::{Answer, PATIENCE},
};

/// How long one attempt may take, whatever becomes of its packets.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The page, once there is one. `None`: not in time.
pub fn get(from: &impl Place, at: SocketAddr, page: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE * settings::slowness();
    from.enter(|| {
        loop {
            match attempt(at, page) {
                Ok(body) => return Some(body),
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Err(_) => return None,
            }
        }
    })
}

/// Which pod of [`image`] answers there, and as whom it sees who asks.
pub fn who(from: &impl Place, at: SocketAddr) -> Option<Answer> {
    let page = get(from, at, image::WHO)?;
    let (server, seen) = page.trim().split_once(' ')?;
    let seen: IpAddr = seen.trim_matches(['[', ']']).parse().ok()?;
    Some(Answer { server: server.to_owned(), seen: seen.to_canonical() })
}

fn attempt(at: SocketAddr, page: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    write!(stream, "GET {page} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") && head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}
