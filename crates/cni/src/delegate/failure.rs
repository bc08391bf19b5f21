//! What a delegate that exited with an error wanted to say.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::Deserialize;

use crate::{Error, code, decode, text};

/// Longest quotation of what a delegate said, in bytes.
const MAX_QUOTE: usize = 2048;

/// The delegate's own error object, or one that quotes it.
pub(super) fn describe(what: &str, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Error {
    if let Some(error) = own(stdout) {
        return error;
    }
    let status = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    };
    let msg = match (quote(stdout), quote(stderr)) {
        (None, None) => format!("{what} failed with no error message: {status}"),
        (None, Some(stderr)) => format!("{what} failed: {status}: {stderr}"),
        (Some(stdout), None) => format!("{what} failed: {status}: no error object on stdout: {stdout}"),
        (Some(stdout), Some(stderr)) => {
            format!("{what} failed: {status}: no error object on stdout: {stdout}; stderr: {stderr}")
        }
    };
    Error::internal(msg)
}

fn own(stdout: &[u8]) -> Option<Error> {
    #[derive(Deserialize)]
    struct Object {
        code: Option<u32>,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let Object { code, msg, details } = decode::from_slice(stdout).ok()?;
    if code.is_none() && msg.is_empty() {
        // Any other object.
        return None;
    }
    Some(Error { code: code.unwrap_or(code::INTERNAL), msg, details })
}

fn quote(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let text = text.trim();
    let quoted = text::cut(text, MAX_QUOTE);
    (!text.is_empty()).then(|| format!("{quoted:?}{}", if quoted.len() < text.len() { "…" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw_status: i32, stdout: &str, stderr: &str) -> String {
        let error =
            describe("plugin \"x\" ADD", ExitStatus::from_raw(raw_status), stdout.as_bytes(), stderr.as_bytes());
        assert_eq!(error.code, code::INTERNAL);
        error.msg
    }

    #[test]
    fn without_an_error_object() {
        assert_eq!(text(0x300, " \n", ""), "plugin \"x\" ADD failed with no error message: exit status 3");
        assert_eq!(text(9, "", ""), "plugin \"x\" ADD failed with no error message: killed by signal 9");
        assert_eq!(text(0x200, "", "panic: \"x\"\n"), "plugin \"x\" ADD failed: exit status 2: \"panic: \\\"x\\\"\"");
        assert_eq!(text(0x100, "so", ""), "plugin \"x\" ADD failed: exit status 1: no error object on stdout: \"so\"");
        assert_eq!(
            text(0x100, "{\"cniVersion\":\"1.0.0\",\"ips\":[]}", "oh"),
            "plugin \"x\" ADD failed: exit status 1: no error object on stdout: \"{\\\"cniVersion\\\":\\\"1.0.0\\\",\\\"ips\\\":[]}\"; stderr: \"oh\""
        );
        assert!(text(0x100, "", &"ä".repeat(5000)).len() < 2200);
    }

    #[test]
    fn its_own_error_object() {
        let own = |stdout: &str| describe("x", ExitStatus::from_raw(0x100), stdout.as_bytes(), b"ignored");
        let full = r#"{"cniVersion":"1.0.0","code":11,"msg":"a","details":"b","more":1}"#;
        assert_eq!(own(full), Error::new(11, "a").with_details("b"));
        assert_eq!(own(r#"{"Code":0,"Msg":"a"}"#), Error::new(0, "a"));
        assert_eq!(own(r#"{"msg":"a"}"#), Error::new(999, "a"));
        assert_eq!(own(r#"{"code":7}"#), Error::new(7, ""));
    }
}
