//! Messages of D-Bus, as far as calling a method needs them: a call with texts as its arguments, and the answer.
//!
//! Source: the D-Bus specification, sections "Type System" and "Message Format".

use super::Error;

/// Longest message that is read: the bus's own limit is 128 MiB, the answers looked for here are a few bytes.
const MAX_LEN: usize = 1 << 20;
/// Length of what comes before the header's fields, in bytes.
const FIXED: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// Nobody is to be started in order to answer.
const NO_AUTO_START: u8 = 2;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    /// Name on the bus of the program that has it.
    pub(crate) destination: &'static str,
    /// The object.
    pub(crate) path: &'static str,
    /// The interface.
    pub(crate) interface: &'static str,
    /// The method's own name.
    pub(crate) member: &'static str,
}

/// An answer's only value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// None, or one of a type that nothing here asks for.
    Other,
    /// `b`
    Bool(bool),
    /// `s`
    Text(String),
}

/// A message that came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The answer to the call of this serial number.
    Return(u32, Value),
    /// The refusal of the call of this serial number: the error's name, and what it says.
    Refusal(u32, String, String),
    /// Something else, e.g. a signal.
    Unasked,
}

/// A method call with texts as its arguments.
pub(super) fn call(serial: u32, method: Method, arguments: &[&str]) -> Vec<u8> {
    let mut body = Writer(Vec::new());
    for argument in arguments {
        body.text(argument);
    }
    let mut message = Writer(vec![b'l', METHOD_CALL, NO_AUTO_START, 1]);
    message.number(body.0.len());
    message.number(usize::try_from(serial).unwrap_or_default());
    let mut fields = Writer(Vec::new());
    for (code, kind, text) in [
        (PATH, b'o', method.path),
        (INTERFACE, b's', method.interface),
        (MEMBER, b's', method.member),
        (DESTINATION, b's', method.destination),
    ] {
        fields.align(8);
        fields.0.extend([code, 1, kind, 0]);
        fields.text(text);
    }
    if !arguments.is_empty() {
        fields.align(8);
        fields.0.extend([SIGNATURE, 1, b'g', 0]);
        fields.0.push(u8::try_from(arguments.len()).unwrap_or(u8::MAX));
        fields.0.extend(arguments.iter().map(|_| b's'));
        fields.0.push(0);
    }
    // The fields begin at a multiple of eight, so their own alignment is that of the message.
    message.number(fields.0.len());
    message.0.extend(fields.0);
    message.align(8);
    message.0.extend(body.0);
    message.0
}

/// How many bytes the message has whose beginning this is; `None` if more of it has to be read to know.
pub(super) fn length(start: &[u8]) -> Result<Option<usize>, Error> {
    if start.len() < FIXED {
        return Ok(None);
    }
    let reader = Reader::new(start)?;
    let (body, fields) = (reader.number_at(4)?, reader.number_at(12)?);
    if fields > MAX_LEN || body > MAX_LEN {
        return Err(Error::Malformed);
    }
    Ok(Some((FIXED + fields).next_multiple_of(8) + body))
}

/// Reads one whole message.
pub(super) fn parse(message: &[u8]) -> Result<Incoming, Error> {
    let mut reader = Reader::new(message)?;
    let end = FIXED.saturating_add(reader.number_at(12)?);
    reader.at = FIXED;
    let (mut serial, mut name, mut signature) = (None, String::new(), String::new());
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (REPLY_SERIAL, "u") => serial = Some(reader.number()?),
            (ERROR_NAME, "s") => name = reader.text()?,
            (SIGNATURE, "g") => signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.number()?),
            _ => return Err(Error::Malformed),
        }
    }
    reader.align(8);
    let value = match signature.as_bytes().first() {
        Some(b's') => Value::Text(reader.text()?),
        Some(b'b') => Value::Bool(reader.number()? != 0),
        _ => Value::Other,
    };
    let serial = serial.and_then(|s| u32::try_from(s).ok());
    Ok(match (message.get(1), serial, value) {
        (Some(&METHOD_RETURN), Some(serial), value) => Incoming::Return(serial, value),
        (Some(&ERROR), Some(serial), Value::Text(text)) => Incoming::Refusal(serial, name, text),
        (Some(&ERROR), Some(serial), _) => Incoming::Refusal(serial, name, String::new()),
        _ => Incoming::Unasked,
    })
}

/// Writes values, little endian, each at a multiple of its own alignment.
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: usize) {
        self.align(4);
        self.0.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
}

/// Reads what [`Writer`] writes, in either byte order.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_little: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let is_little = match bytes.first() {
            Some(b'l') => true,
            Some(b'B') => false,
            _ => return Err(Error::Malformed),
        };
        Ok(Self { bytes, at: 0, is_little })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(len).ok_or(Error::Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Error::Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(*self.take(1)?.first().ok_or(Error::Malformed)?)
    }

    fn number(&mut self) -> Result<usize, Error> {
        self.align(4);
        let bytes = <[u8; 4]>::try_from(self.take(4)?).map_err(|_| Error::Malformed)?;
        let value = if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
        usize::try_from(value).map_err(|_| Error::Malformed)
    }

    fn number_at(&self, at: usize) -> Result<usize, Error> {
        Reader { at, ..*self }.number()
    }

    /// A text with the NUL behind it.
    fn text(&mut self) -> Result<String, Error> {
        let len = self.number()?;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn signature(&mut self) -> Result<String, Error> {
        let len = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METHOD: Method = Method { destination: "org.x", path: "/org/x", interface: "org.x.y", member: "addSource" };

    /// An answer as the bus would write it.
    fn answer(kind: u8, fields: &[(u8, &str, &str)], signature: &str, body: &[u8]) -> Vec<u8> {
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.number(body.len());
        message.number(9);
        let mut list = Writer(Vec::new());
        list.0.extend([REPLY_SERIAL, 1, b'u', 0]);
        list.number(7);
        for (code, kind, text) in fields {
            list.align(8);
            list.0.extend([*code, 1, kind.as_bytes()[0], 0]);
            list.text(text);
        }
        if !signature.is_empty() {
            list.align(8);
            list.0.extend([SIGNATURE, 1, b'g', 0, u8::try_from(signature.len()).unwrap()]);
            list.0.extend(signature.bytes().chain([0]));
        }
        message.number(list.0.len());
        message.0.extend(list.0);
        message.align(8);
        message.0.extend(body);
        message.0
    }

    fn text(text: &str) -> Vec<u8> {
        let mut body = Writer(Vec::new());
        body.text(text);
        body.0
    }

    #[test]
    fn a_call_has_the_length_it_says_and_is_aligned() {
        for arguments in [&[][..], &["trusted"], &["trusted", "10.22.0.5/32"]] {
            let message = call(3, METHOD, arguments);
            assert_eq!(length(&message).unwrap(), Some(message.len()));
            assert_eq!(parse(&message).unwrap(), Incoming::Unasked);
            assert_eq!(length(&message[..15]).unwrap(), None);
        }
        let with = call(3, METHOD, &["trusted"]);
        assert!(with.ends_with(b"\x07\0\0\0trusted\0"));
    }

    #[test]
    fn answers_are_understood() {
        let fine = answer(METHOD_RETURN, &[(DESTINATION, "s", ":1.4")], "s", &text("trusted"));
        assert_eq!(parse(&fine).unwrap(), Incoming::Return(7, Value::Text("trusted".to_owned())));
        let yes = answer(METHOD_RETURN, &[], "b", &1_u32.to_le_bytes());
        assert_eq!(parse(&yes).unwrap(), Incoming::Return(7, Value::Bool(true)));
        assert_eq!(parse(&answer(METHOD_RETURN, &[], "", &[])).unwrap(), Incoming::Return(7, Value::Other));
        let refused = answer(ERROR, &[(ERROR_NAME, "s", "org.x.E")], "s", &text("ZONE_ALREADY_SET: 10.0.0.2/32"));
        assert_eq!(
            parse(&refused).unwrap(),
            Incoming::Refusal(7, "org.x.E".to_owned(), "ZONE_ALREADY_SET: 10.0.0.2/32".to_owned())
        );
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..200_usize, with in any::<u8>()) {
            let _ = (length(&bytes), parse(&bytes));
            let mut message = answer(ERROR, &[(ERROR_NAME, "s", "org.x.E")], "s", &text("no"));
            let at = at % message.len();
            message[at] = with;
            let _ = (length(&message), parse(&message));
        }
    }
}
