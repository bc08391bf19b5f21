//! Values as the kernel keeps and compares them.

use std::net::IpAddr;

use cni::Cidr;

/// An address as it stands in a packet.
pub fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The mask of a subnet, as long as its addresses.
pub fn mask(subnet: Cidr) -> Vec<u8> {
    let len = if subnet.is_ipv4() { 4 } else { 16 };
    let prefix = usize::from(subnet.prefix());
    (0..len)
        .map(|byte| u8::try_from(0xff00_u16 >> prefix.saturating_sub(byte * 8).min(8) & 0xff).unwrap_or(0))
        .collect()
}

/// An interface name: 16 bytes, filled with zeros.
pub fn name_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn masks_are_as_long_as_the_prefix() {
        assert_eq!(mask(cidr("10.0.0.0/16")), [255, 255, 0, 0]);
        assert_eq!(mask(cidr("10.0.0.0/29")), [255, 255, 255, 248]);
        assert_eq!(mask(cidr("10.0.0.1/32")), [255; 4]);
        assert_eq!(mask(cidr("0.0.0.0/0")), [0; 4]);
        assert_eq!(mask(cidr("fd00::/65"))[7..10], [255, 128, 0]);
    }
}
