//! From any bytes to a text that `serde_json` takes if Go would.
//!
//! Only what differs between the two is touched: invalid UTF-8 and lone surrogate escapes become U+FFFD, as in Go;
//! what is nested too deeply becomes `null`; a number too large for a float becomes the largest one. The last two
//! lose nothing: no config has a key there, or of such a value, that anyone reads.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::Error;

/// Go refuses what is nested deeper.
const GO_MAX_DEPTH: usize = 10_000;
/// Deeper than any config; shallow enough for recursion (`serde_json` refuses 128).
const MAX_DEPTH: usize = 64;

pub(super) fn prepare(json: &[u8]) -> Result<Cow<'_, str>, Error> {
    let text = String::from_utf8_lossy(json);
    let mut rewriter = Rewriter { text: &text, copied: 0, out: String::new(), pruned: false };
    rewriter.run()?;
    if rewriter.pruned {
        // What is about to vanish must be JSON all the same. This check does not recurse.
        serde_json::from_str::<IgnoredAny>(&text).map_err(|e| syntax_error(&e))?;
    }
    match rewriter.finish() {
        Some(rewritten) => Ok(Cow::Owned(rewritten)),
        None => Ok(text),
    }
}

pub(super) fn syntax_error(error: &serde_json::Error) -> Error {
    if error.is_eof() {
        return Error::new(format!("unexpected end of JSON input at line {} column {}", error.line(), error.column()));
    }
    Error::new(error.to_string())
}

/// Walks over the text's tokens. It need not understand them: what is no JSON stays none.
struct Rewriter<'a> {
    text: &'a str,
    /// How far the text is in `out` already.
    copied: usize,
    /// The rewritten text; empty as long as nothing had to be rewritten.
    out: String,
    /// Whether something was replaced without being looked at closely.
    pruned: bool,
}

impl Rewriter<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let bytes = self.text.as_bytes();
        let mut depth = 0_usize;
        let mut too_deep_from = None;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    at = self.string(at + 1, too_deep_from.is_some());
                    continue;
                }
                b'[' | b'{' => {
                    depth += 1;
                    if depth > GO_MAX_DEPTH {
                        return Err(Error::new(format!("nested deeper than {GO_MAX_DEPTH} levels")));
                    }
                    if depth == MAX_DEPTH + 1 {
                        too_deep_from.get_or_insert(at);
                    }
                }
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == MAX_DEPTH
                        && let Some(start) = too_deep_from.take()
                    {
                        self.replace_unseen(start, at + 1, "null");
                    }
                }
                b'-' | b'0'..=b'9' => {
                    at = self.number(at, too_deep_from.is_some());
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        Ok(())
    }

    /// From behind the opening quote; returns the place behind the closing one.
    fn string(&mut self, mut at: usize, too_deep: bool) -> usize {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' => match self.code_unit(at) {
                    Some(0xd800..=0xdbff) if matches!(self.code_unit(at + 6), Some(0xdc00..=0xdfff)) => at += 12,
                    Some(0xd800..=0xdfff) => {
                        if !too_deep {
                            self.replace(at, at + 6, "\\ufffd");
                        }
                        at += 6;
                    }
                    _ => at += 2,
                },
                _ => at += 1,
            }
        }
        at
    }

    /// The value of a `\uXXXX` at this place.
    fn code_unit(&self, at: usize) -> Option<u16> {
        let digits = self.text.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits
            .iter()
            .try_fold(0, |value, digit| Some(value << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?))
    }

    fn number(&mut self, start: usize, too_deep: bool) -> usize {
        let part = |b: &u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = self.text.as_bytes()[start..].iter().take_while(|b| part(b)).count();
        let token = &self.text[start..start + length];
        if !too_deep && token.parse::<f64>().is_ok_and(f64::is_infinite) {
            let largest = if token.starts_with('-') { "-1.7976931348623157e308" } else { "1.7976931348623157e308" };
            self.replace_unseen(start, start + length, largest);
        }
        start + length
    }

    fn replace_unseen(&mut self, start: usize, end: usize, by: &str) {
        self.pruned = true;
        self.replace(start, end, by);
    }

    fn replace(&mut self, start: usize, end: usize, by: &str) {
        self.out.push_str(&self.text[self.copied..start]);
        self.out.push_str(by);
        self.copied = end;
    }

    fn finish(mut self) -> Option<String> {
        if self.copied == 0 {
            return None;
        }
        self.out.push_str(&self.text[self.copied..]);
        Some(self.out)
    }
}
