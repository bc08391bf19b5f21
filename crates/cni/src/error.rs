//! What a failed call reports (CNI spec 1.1.0, section 5 "Error").

use std::fmt;

use serde::Serialize;

use crate::Version;
use crate::output;

/// Error codes: the spec's, and two that the reference made customary.
pub mod code {
    /// The config's `cniVersion` is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The container is unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading stdin or writing stdout failed.
    pub const IO_FAILURE: u32 = 5;
    /// Stdin is not what it should be: not JSON, or a common key of another type.
    pub const DECODE_FAILURE: u32 = 6;
    /// The network config is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// `CNI_NETNS` cannot be the pod's namespace (not in the spec; the reference's).
    pub const INVALID_NETNS: u32 = 8;
    /// A transient condition: the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: an ADD could not work now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: an ADD could work, but existing containers have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Anything else that a plugin reports (not in the spec; the reference's).
    pub const INTERNAL: u32 = 999;
}

/// A failure as the runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// One of [`code`], or what a delegate said.
    pub code: u32,
    /// What failed, in one line, with the values in it.
    pub msg: String,
    /// The step, the system's reason, what can be done. May be empty.
    pub details: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl Error {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// An error of the plugin itself: code 999.
    pub fn internal(msg: impl Into<String>) -> Self {
        Self::new(code::INTERNAL, msg)
    }

    /// The same error with these details.
    #[must_use]
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }

    /// The same error, its message after `prefix: `. The code stays: it may be a delegate's.
    #[must_use]
    pub fn context(self, prefix: &str) -> Self {
        Self { msg: format!("{prefix}: {}", self.msg), ..self }
    }

    /// One error for all that a verb went on past: the first, the others in its details.
    ///
    /// # Errors
    /// If there is any.
    pub fn first_of(errors: Vec<Self>) -> Result<(), Self> {
        let mut errors = errors.into_iter();
        let Some(first) = errors.next() else { return Ok(()) };
        let others: Vec<String> = errors.map(|e| format!("also: {}", e.msg)).collect();
        if others.is_empty() {
            return Err(first);
        }
        let details =
            [first.details.clone()].into_iter().filter(|d| !d.is_empty()).chain(others).collect::<Vec<_>>().join("; ");
        Err(first.with_details(details))
    }

    /// The error object for stdout. `version` is that of the config where it is known.
    pub(crate) fn to_json(&self, version: Version) -> Vec<u8> {
        output::pretty(&Object {
            cni_version: version.as_str(),
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        })
    }
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object() {
        let error = Error::new(code::TRY_AGAIN, "pool is <full>").context("static");
        let expected = "{\n    \"cniVersion\": \"0.4.0\",\n    \"code\": 11,\n    \"msg\": \"static: pool is \\u003cfull\\u003e\"\n}";
        assert_eq!(String::from_utf8(error.to_json(Version::V0_4_0)).unwrap(), expected);
        let error = error.with_details("try\nlater");
        let expected = format!("{},\n    \"details\": \"try\\nlater\"\n}}", expected.strip_suffix("\n}").unwrap());
        assert_eq!(String::from_utf8(error.to_json(Version::V0_4_0)).unwrap(), expected);
        assert_eq!(error.to_string(), "static: pool is <full>: try\nlater");
    }
}
