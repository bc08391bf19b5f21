//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`, read as strictly as the reference reads it.

use std::collections::BTreeMap;

use crate::Error;

/// The key by which a runtime allows keys that the plugin does not know.
const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

/// The pairs of `CNI_ARGS` whose keys the plugin knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// The value of a key; the last one if it is given twice. It may be empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Reads `CNI_ARGS`. `known` are the plugin's own keys, case and all; `IgnoreUnknown` belongs to every plugin.
///
/// Errors (code 999): a part without exactly one `=` (an empty one, as after a trailing `;`, too); an unknown key,
/// unless `IgnoreUnknown` is `1` or `true`; another value of it than these, `0` and `false`, in any case.
pub fn parse(text: &str, known: &[&str]) -> Result<Args, Error> {
    let mut args = Args::default();
    let mut unknown = Vec::new();
    let mut ignore_unknown = false;
    if text.is_empty() {
        return Ok(args);
    }
    for pair in text.split(';') {
        let (key, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| Error::internal(format!("ARGS: invalid pair {pair:?}")))?;
        if key == IGNORE_UNKNOWN {
            ignore_unknown = boolean(value).ok_or_else(|| {
                Error::internal(format!(
                    "ARGS: error parsing value of pair {pair:?}: boolean unmarshal error: invalid input {value}"
                ))
            })?;
        } else if known.contains(&key) {
            args.0.insert(key.to_owned(), value.to_owned());
        } else {
            unknown.push(format!("{pair:?}"));
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        return Err(Error::internal(format!("ARGS: unknown args [{}]", unknown.join(" ")))
            .with_details(format!("known are {} and {IGNORE_UNKNOWN}, case included", known.join(", "))));
    }
    Ok(args)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        parse(text, &["IP", "GATEWAY"]).unwrap_err().msg
    }

    #[test]
    fn values() {
        let args = parse("IP=10.1.2.3/24,fd00::1/64;GATEWAY=", &["IP", "GATEWAY"]).unwrap();
        assert_eq!(args.get("IP"), Some("10.1.2.3/24,fd00::1/64"));
        assert_eq!(args.get("GATEWAY"), Some(""));
        assert_eq!(args.get("MAC"), None);
        assert_eq!(parse("IP=1;IP=2", &["IP"]).unwrap().get("IP"), Some("2"));
        assert_eq!(parse("", &["IP"]).unwrap(), Args::default());
    }

    #[test]
    fn unknown_keys() {
        for yes in ["1", "true", "TRUE", "True"] {
            let args = parse(&format!("K8S_POD_NAME=a;IP=1;IgnoreUnknown={yes}"), &["IP"]).unwrap();
            assert_eq!(args.get("IP"), Some("1"));
            assert_eq!(args.get("K8S_POD_NAME"), None);
        }
        for no in ["0", "false", "FALSE"] {
            assert!(parse(&format!("IgnoreUnknown={no};IP=1"), &["IP"]).is_ok());
            assert_eq!(message(&format!("FOO=1;IgnoreUnknown={no};ip=2")), "ARGS: unknown args [\"FOO=1\" \"ip=2\"]");
        }
        assert_eq!(
            message("FOO=1;IgnoreUnknown=maybe"),
            "ARGS: error parsing value of pair \"IgnoreUnknown=maybe\": boolean unmarshal error: invalid input maybe"
        );
    }

    #[test]
    fn malformed() {
        assert_eq!(message("IP=1;"), "ARGS: invalid pair \"\"");
        assert_eq!(message("IP"), "ARGS: invalid pair \"IP\"");
        assert_eq!(message("IP=1=2"), "ARGS: invalid pair \"IP=1=2\"");
        // Even then: what cannot be read cannot be ignored.
        assert_eq!(message("IgnoreUnknown=1;;"), "ARGS: invalid pair \"\"");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A-Za-z=;1\u{0}ſ]{0,20}") {
            let _ = parse(&text, &["IP"]);
        }
    }
}
