//! The wire format of netlink: a growing request and readers that borrow.
//!
//! Writing cannot fail; reading is bounds-checked and stops at the first malformed length.
//! Source: `include/uapi/linux/netlink.h`. All integers are in host order unless a name says `be`.

use rtnetlink::packet_core::Emitable;

/// Length of `struct nlmsghdr` in bytes.
pub const HEADER_LEN: usize = 16;
/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer even if all went well.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: answer with all objects.
pub const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: refuse if it exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it does not exist.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: at the end of the list.
pub const APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// One or more requests that go to the kernel in a single system call.
#[derive(Debug, Default)]
pub struct Request {
    buf: Vec<u8>,
    starts: Vec<usize>,
}

impl Request {
    /// An empty request.
    #[must_use]
    pub fn new() -> Self {
        Self { buf: Vec::with_capacity(1024), starts: Vec::new() }
    }

    /// The bytes to send; sequence numbers count from 1 in the order of the messages.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// The same in pieces of at most `messages` messages each.
    pub(crate) fn slices(&self, messages: usize) -> Vec<&[u8]> {
        let starts: Vec<usize> = self.starts.iter().copied().step_by(messages.max(1)).collect();
        let ends = starts.iter().copied().skip(1).chain([self.buf.len()]);
        starts.iter().copied().zip(ends).map(|(start, end)| &self.buf[start..end]).collect()
    }

    /// Number of messages.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.starts.len()
    }

    /// Appends a message of type `kind`; `body` writes its fixed header and attributes.
    pub fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) {
        let start = self.begin(kind, flags);
        body(&mut Writer { buf: &mut self.buf });
        self.finish(start);
    }

    /// Appends a message whose payload one of `rtnetlink`'s builders has made.
    pub fn typed(&mut self, kind: u16, flags: u16, payload: &impl Emitable) {
        let start = self.begin(kind, flags);
        let at = self.buf.len();
        self.buf.resize(at + payload.buffer_len(), 0);
        payload.emit(&mut self.buf[at..]);
        self.buf.resize(align(self.buf.len()), 0);
        self.finish(start);
    }

    fn begin(&mut self, kind: u16, flags: u16) -> usize {
        let start = self.buf.len();
        self.starts.push(start);
        let sequence = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.buf.extend_from_slice(&sequence.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        start
    }

    fn finish(&mut self, start: usize) {
        let len = u32::try_from(self.buf.len() - start).unwrap_or(u32::MAX);
        self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }
}

/// Writes the payload of one message.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// The fixed header (`ifinfomsg`, `nfgenmsg`, …) as raw bytes.
    pub fn header(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self.pad()
    }

    /// An attribute of raw bytes; netlink's limit of 64 KiB an attribute is the caller's to keep.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.start(kind, value.len());
        self.buf.extend_from_slice(value);
        self.pad()
    }

    /// An attribute of 8 bits.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// An attribute of 16 bits in host order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute of 32 bits in host order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute of 32 bits in network order, as nf_tables wants them.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute of 64 bits in network order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A NUL-terminated string.
    pub fn str(&mut self, kind: u16, value: &str) -> &mut Self {
        self.start(kind, value.len() + 1);
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.pad()
    }

    /// A nest; its length is set when `inner` returns.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let start = self.buf.len();
        self.attr(kind | NLA_F_NESTED, &[]);
        inner(self);
        let len = u16::try_from(self.buf.len() - start).unwrap_or(u16::MAX);
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    fn start(&mut self, kind: u16, len: usize) {
        let len = u16::try_from(len + 4).unwrap_or(u16::MAX);
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) -> &mut Self {
        self.buf.resize(align(self.buf.len()), 0);
        self
    }
}

/// The attributes of a payload, in order.
#[derive(Debug, Clone, Copy)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attrs<'a> {
    /// The attributes behind a fixed header of `len` bytes.
    #[must_use]
    pub fn behind(body: &'a [u8], len: usize) -> Self {
        Self(body.get(align(len)..).unwrap_or_default())
    }

    /// The first attribute of this type.
    #[must_use]
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(k, v)| (k == kind).then_some(v))
    }

    /// The attributes of a nest.
    #[must_use]
    pub fn nested(self, kind: u16) -> Attrs<'a> {
        Attrs(self.find(kind).unwrap_or_default())
    }

    /// A string attribute, without its NUL.
    #[must_use]
    pub fn string(self, kind: u16) -> Option<String> {
        self.find(kind).map(text)
    }
}

/// Text of a string attribute: up to the first NUL, invalid UTF-8 replaced.
#[must_use]
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// 32 bits in host order; `None` if the value is shorter.
#[must_use]
pub fn u32_ne(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// 32 bits in network order; `None` if the value is shorter.
#[must_use]
pub fn u32_be(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// 64 bits in network order; `None` if the value is shorter.
#[must_use]
pub fn u64_be(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: the position of the request it answers, counted from 1.
    pub seq: u32,
    /// All behind the header.
    pub body: &'a [u8],
}

/// The messages of a datagram, in order.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let head = self.0.get(..HEADER_LEN)?;
        let len = usize::try_from(u32_ne(head)?).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            seq: u32_ne(&head[8..])?,
            body: self.0.get(HEADER_LEN..len)?,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut request = Request::new();
        request.message(16, ACK, |w| {
            w.header(&[7; 16]).str(3, "veth0").u32(4, 1500).nest(18, |w| {
                w.str(1, "bridge").nest(2, |w| {
                    w.u8(7, 1).be32(9, 0xe000_0000);
                });
            });
        });
        request.message(17, 0, |w| {
            w.header(&[1; 5]);
        });
        let messages: Vec<_> = Messages(request.bytes()).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].flags, messages[0].seq), (16, ACK | REQUEST, 1));
        assert_eq!((messages[1].kind, messages[1].seq, messages[1].body.len()), (17, 2, 8));
        let slices = request.slices(1);
        assert_eq!((slices.len(), slices.concat()), (2, request.bytes().to_vec()));
        assert_eq!(request.slices(2), [request.bytes()]);
        let attrs = Attrs::behind(messages[0].body, 16);
        assert_eq!(attrs.string(3).as_deref(), Some("veth0"));
        assert_eq!(attrs.find(4).and_then(u32_ne), Some(1500));
        let data = attrs.nested(18).nested(2);
        assert_eq!(data.find(7), Some(&[1u8][..]));
        assert_eq!(data.find(9).and_then(u32_be), Some(0xe000_0000));
    }

    #[test]
    fn malformed_lengths_end_the_iteration() {
        assert_eq!(Attrs(&[3, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(Attrs(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(Messages(&[0; 16]).count(), 0);
        assert_eq!(Messages(&[255; 40]).count(), 0);
    }
}
