//! JSON on stdout as Go prints it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use serde::Serialize;
use serde_json::ser::PrettyFormatter;

/// Four spaces of indent, no newline at the end, and `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b"    "));
    // It can fail for maps with odd keys and for failing writers; there are none here.
    if value.serialize(&mut serializer).is_err() {
        json.clear();
    }
    escaped(&json)
}

/// These occur only within strings, so that the text may be treated as a whole.
fn escaped(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some((&byte, tail)) = rest.split_first() {
        let (escape, tail): (&[u8], _) = match byte {
            b'<' => (b"\\u003c", tail),
            b'>' => (b"\\u003e", tail),
            b'&' => (b"\\u0026", tail),
            0xe2 if tail.starts_with(&[0x80, 0xa8]) => (b"\\u2028", &tail[2..]),
            0xe2 if tail.starts_with(&[0x80, 0xa9]) => (b"\\u2029", &tail[2..]),
            _ => (&rest[..1], tail),
        };
        out.extend_from_slice(escape);
        rest = tail;
    }
    out
}

/// Writes the document to stdout in one piece.
///
/// Not by `std::io::Stdout`: it swallows EBADF and holds back what follows the last newline. A descriptor 1 that was
/// closed when the process began does not show: Rust's runtime has put `/dev/null` in its place by then.
pub(crate) fn write_stdout(document: &[u8]) -> io::Result<()> {
    File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(document)
}

/// Writes to stderr, if anybody is there to read it: `eprintln` panics if not.
pub(crate) fn log(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go_does() {
        let text = "<a&b> \u{2028}\u{2029}\u{2027} ä \"\\ \u{1}\n";
        let expected = "\"\\u003ca\\u0026b\\u003e \\u2028\\u2029\u{2027} ä \\\"\\\\ \\u0001\\n\"";
        assert_eq!(String::from_utf8(pretty(&text)).unwrap(), expected);
        assert_eq!(serde_json::from_slice::<String>(&pretty(&text)).unwrap(), text);
    }
}
