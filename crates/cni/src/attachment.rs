//! What identifies an attachment, and the names that are derived from it.
//!
//! A link, a rule or a record that carries such a name is found again without any memory of ADD. The three parts are
//! joined by NUL, which none of them can contain: ("ab", "c") and ("a", "bc") differ.

use sha2::{Digest, Sha512};

use crate::text;

/// How many names [`Attachment::host_ifname`] has to offer.
pub const MAX_HOST_IFNAME_ATTEMPTS: u8 = 4;

/// Longest alias of a link, in bytes (`IFALIASZ` without the NUL).
const MAX_ALIAS: usize = 255;
/// Longest comment of an nftables element that `nft -f` reads back, in bytes, without the NUL.
const MAX_COMMENT: usize = 127;
/// What follows the identity in the comment of an attachment that was seen to have a host link by our bridge plugin.
pub const LINK_MARK: &str = ":veth";

/// One interface of one container on one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// `name` of the network config.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface's name in the container.
    pub ifname: String,
}

impl Attachment {
    /// First 16 bytes of SHA-512 of network, NUL, container id, NUL, interface name.
    pub fn identity(&self) -> [u8; 16] {
        let mut hash = Sha512::new();
        hash.update(&self.network);
        hash.update([0]);
        hash.update(&self.container_id);
        hash.update([0]);
        hash.update(&self.ifname);
        first(&hash.finalize())
    }

    /// [`identity`](Self::identity) as 32 lower-case hex digits.
    pub fn identity_hex(&self) -> String {
        hex(&self.identity())
    }

    /// Name of the host's end of the veth pair: `veth` and 8 hex digits. If a foreign link has the name of attempt 0,
    /// the next one is taken, below [`MAX_HOST_IFNAME_ATTEMPTS`].
    pub fn host_ifname(&self, attempt: u8) -> String {
        host_ifname(&self.identity(), attempt)
    }

    /// MAC address of the host's end: bytes 4 to 9 of the identity, made unicast and locally administered.
    pub fn host_mac(&self) -> [u8; 6] {
        host_mac(&self.identity())
    }

    /// Alias of the host's end, for people and for telling ours from others': at most 255 bytes, without control
    /// characters (`ip` prints it as it is).
    pub fn alias(&self) -> String {
        self.alias_of(MAX_ALIAS)
    }

    /// The same with one more word, which is there whole.
    pub fn alias_with(&self, word: &str) -> String {
        format!("{} {word}", self.alias_of(MAX_ALIAS.saturating_sub(word.len() + 1)))
    }

    fn alias_of(&self, max: usize) -> String {
        let text = format!("oxbridge {} {} {} {}", self.identity_hex(), self.network, self.container_id, self.ifname);
        truncated(text.replace(char::is_control, "?"), max)
    }

    /// Comment of an nftables element: the identity's 32 hex digits, then what people want to know. At most 127 bytes,
    /// printable ASCII without quotes and backslashes, or `nft -f` could not read back what `nft list` prints.
    pub fn comment(&self) -> String {
        self.comment_of(&self.identity_hex())
    }

    /// The same, with the [`LINK_MARK`]: once such an attachment has no host link any more, it is gone.
    pub fn marked_comment(&self) -> String {
        self.comment_of(&format!("{}{LINK_MARK}", self.identity_hex()))
    }

    fn comment_of(&self, owner: &str) -> String {
        let text = format!("{owner} {} {} {}", self.network, self.container_id, self.ifname);
        let plain =
            |c: char| if (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\'' | '\\') { c } else { '?' };
        truncated(text.chars().map(plain).collect(), MAX_COMMENT)
    }
}

/// [`Attachment::host_ifname`] of an attachment of which only the identity is known.
pub fn host_ifname(identity: &[u8; 16], attempt: u8) -> String {
    let bytes: [u8; 4] = match attempt {
        0 => first(identity),
        _ => first(&Sha512::new().chain_update(identity).chain_update([attempt]).finalize()),
    };
    format!("veth{}", hex(&bytes))
}

/// [`Attachment::host_mac`] of an attachment of which only the identity is known.
pub fn host_mac(identity: &[u8; 16]) -> [u8; 6] {
    let mut mac: [u8; 6] = first(&identity[4..]);
    mac[0] = mac[0] & !0x01 | 0x02;
    mac
}

/// The identity that a text begins with: its first word, with or without the [`LINK_MARK`].
pub fn read_identity(text: &str) -> Option<[u8; 16]> {
    let word = text.split(' ').next()?;
    let digits = word.strip_suffix(LINK_MARK).unwrap_or(word).as_bytes();
    let mut identity = [0; 16];
    if digits.len() != 2 * identity.len() {
        return None;
    }
    for (byte, pair) in identity.iter_mut().zip(digits.chunks(2)) {
        for digit in pair {
            let value = char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok())?;
            *byte = *byte << 4 | value;
        }
    }
    Some(identity)
}

/// First `digits` hex digits of the text's SHA-512 (128 at most): what the reference builds its names of.
pub fn sha512_hex(text: &str, digits: usize) -> String {
    let mut hex = hex(&Sha512::digest(text));
    hex.truncate(digits);
    hex
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 0xf)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]).collect()
}

fn truncated(mut text: String, max: usize) -> String {
    text.truncate(text::cut(&text, max).len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment { network: network.into(), container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn names_of_the_reference() {
        for (text, digits, expected) in [
            ("tnc1", 24, "5a0e4b11e4ca823ae73b9333"),
            ("tnc2", 24, "ba7b20496f30cf6149599226"),
            ("test1234", 24, "2bbe0c48b91a7d1b8a6753a8"),
            ("ptc1", 24, "e45612ee56144063b7dfce8d"),
            ("tnc7", 21, "e878f78307fd53992f36c"),
            ("tnc1", 12, "5a0e4b11e4ca"),
            ("tn", 16, "bcc05d298e683559"),
            ("eth0:c1", 16, "f4d01f2ef4b92245"),
            ("eth1:c1", 16, "ce22e8fef5c0a4f4"),
        ] {
            assert_eq!(sha512_hex(text, digits), expected);
        }
    }

    #[test]
    fn derived_names() {
        let a = attachment("tn", "c1", "eth0");
        let whole = sha512_hex("tn\0c1\0eth0", 128);
        assert_eq!(a.identity_hex(), whole[..32]);
        assert_eq!(a.host_ifname(0), format!("veth{}", &whole[..8]));
        let names: Vec<_> = (0..MAX_HOST_IFNAME_ATTEMPTS).map(|n| a.host_ifname(n)).collect();
        assert!(names.iter().all(|n| n.len() == 12));
        assert!(names.iter().enumerate().all(|(i, n)| !names[..i].contains(n)));
        assert_eq!(a.host_mac()[1..], a.identity()[5..10]);
        assert_eq!(a.host_mac()[0] & 3, 2);
        assert_eq!(a.alias(), format!("oxbridge {} tn c1 eth0", &whole[..32]));
        assert_eq!(a.alias_with("x:1"), format!("{} x:1", a.alias()));
        assert_eq!(a.comment(), format!("{} tn c1 eth0", &whole[..32]));
        assert_eq!(a.marked_comment(), format!("{}:veth tn c1 eth0", &whole[..32]));
    }

    #[test]
    fn the_parts_are_kept_apart() {
        assert_ne!(attachment("ab", "c", "e").identity(), attachment("a", "bc", "e").identity());
        assert_ne!(attachment("a", "b", "e1").identity(), attachment("a", "b", "e2").identity());
    }

    #[test]
    fn identities_stand_in_comments() {
        let a = attachment("n", "c", "eth0");
        for text in [a.comment(), a.marked_comment(), a.identity_hex()] {
            assert_eq!(read_identity(&text), Some(a.identity()), "{text}");
        }
        for text in ["", "x", ":veth", &"g".repeat(32), &"é".repeat(16), &format!("{}:ipvlan n", a.identity_hex())] {
            assert_eq!(read_identity(text), None, "{text}");
        }
    }

    #[test]
    fn long_and_odd_parts() {
        let a = attachment(&"n".repeat(200), &"c".repeat(64), "ä\"b\\");
        assert_eq!(a.alias().len(), 255);
        assert!(a.alias_with("x:1").len() == 255 && a.alias_with("x:1").ends_with("c x:1"));
        assert_eq!(a.comment().len(), 127);
        assert_eq!(a.marked_comment().len(), 127);
        let a = attachment("n", "c", "ä\"b\\'\u{7f}");
        assert!(a.comment().ends_with(" n c ??b???"));
        let a = attachment("n", "c", "ä\u{1b}[31m");
        assert!(a.alias().ends_with(" n c ä?[31m"));
        let a = attachment(&"ä".repeat(200), "c", "e");
        assert!(a.alias().len() >= 254);
    }
}
