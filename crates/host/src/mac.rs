//! Link layer addresses.

use nix::errno::Errno;
use nix::libc;

/// A random address, locally administered and unicast.
pub fn random() -> Result<[u8; 6], Errno> {
    let mut mac = [0; 6];
    random_bytes(&mut mac)?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

/// Reads an address as Go's `net.ParseMAC` does, of 6 bytes only: `00:11:22:33:44:55`, with `-` for `:`, or
/// `0011.2233.4455`. `None` if it is none, or one that no link can have (a multicast address or all zeros).
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 6]> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let mut mac = Vec::with_capacity(6);
    for part in text.split(separator) {
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for pair in 0..digits / 2 {
            mac.push(u8::from_str_radix(&part[pair * 2..pair * 2 + 2], 16).ok()?);
        }
    }
    let mac: [u8; 6] = mac.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// Lower-case hexadecimal, colons between the bytes.
#[must_use]
pub fn format(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Fills a buffer of at most 256 bytes from the kernel's random number generator; needs no device file.
pub fn random_bytes(buffer: &mut [u8]) -> Result<(), Errno> {
    loop {
        // SAFETY: the kernel writes at most `len` bytes into the living buffer.
        let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match Errno::result(got) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        let mac = Some([0x00, 0x11, 0x22, 0xaa, 0xBB, 0xcc]);
        for text in ["00:11:22:aa:BB:cc", "00-11-22-AA-bb-cc", "0011.22aa.bbcc"] {
            assert_eq!(parse(text), mac, "{text}");
        }
        for text in [
            "",
            "0",
            "00:11:22:aa:bb",
            "00:11:22:aa:bb:cc:dd",
            "00:11-22:aa:bb:cc",
            "0:1:2:3:4:5",
            "+0:11:22:aa:bb:cc",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "é0:11",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn random_addresses_are_local_and_unicast() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a[0] & 3, 2);
        assert_eq!(parse(&format(a)), Some(a));
    }
}
