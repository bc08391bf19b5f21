//! What a call must pass before the plugin sees it: environment, network name, version. Every verb's rules, in the
//! reference's order, because runtimes tell its errors apart.

use std::ffi::OsString;

use serde::Deserialize;

use crate::decode::{self, Node};
use crate::{Error, Version, code};

/// What a verb of the spec needs of the environment, and since when it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "CHECK" => Self::Check,
            "DEL" => Self::Del,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    fn is_about_an_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Check | Self::Del)
    }
}

/// The environment of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// `CNI_CONTAINERID`; empty in GC and STATUS.
    pub container_id: String,
    /// `CNI_NETNS`: path of the container's namespace; may be empty in DEL, GC and STATUS.
    pub netns: String,
    /// `CNI_IFNAME`; empty in GC and STATUS.
    pub ifname: String,
    /// `CNI_ARGS`, for [`args::parse`](crate::args::parse).
    pub args: String,
    /// `CNI_PATH`: folders with plugins, separated by `:`.
    pub path: String,
    /// `CNI_NETNS_OVERRIDE`: the container's namespace may be the plugin's own.
    pub netns_override: bool,
}

/// The environment, read and checked.
#[derive(Debug)]
pub(crate) struct Command {
    /// `CNI_COMMAND`.
    pub(crate) text: String,
    /// `None` for one that nobody knows: said only after the config was checked, as by the reference.
    pub(crate) verb: Option<Verb>,
    pub(crate) env: Env,
}

/// Reads the environment. Errors: code 4, for the first invalid value, or else for all missing variables.
pub(crate) fn environment(var: impl Fn(&str) -> Option<OsString>) -> Result<Command, Error> {
    let get = |name: &str| var(name).unwrap_or_default().to_string_lossy().into_owned();
    let text = get("CNI_COMMAND");
    let verb = Verb::from_text(&text);
    let attachment = verb.is_some_and(Verb::is_about_an_attachment);
    let env = Env {
        container_id: get("CNI_CONTAINERID"),
        netns: get("CNI_NETNS"),
        ifname: get("CNI_IFNAME"),
        args: get("CNI_ARGS"),
        path: get("CNI_PATH"),
        netns_override: matches!(get("CNI_NETNS_OVERRIDE").to_ascii_lowercase().as_str(), "1" | "true"),
    };
    if attachment && !env.container_id.is_empty() {
        container_id(&env.container_id)?;
    }
    if attachment && !env.ifname.is_empty() {
        interface_name(&env.ifname)?;
    }
    let required = [
        ("CNI_COMMAND", true, &text),
        ("CNI_CONTAINERID", attachment, &env.container_id),
        ("CNI_NETNS", matches!(verb, Some(Verb::Add | Verb::Check)), &env.netns),
        ("CNI_IFNAME", attachment, &env.ifname),
        ("CNI_PATH", verb.is_some_and(|v| v != Verb::Version), &env.path),
    ];
    let missing: Vec<&str> =
        required.into_iter().filter(|(_, needed, value)| *needed && value.is_empty()).map(|(name, ..)| name).collect();
    if !missing.is_empty() {
        return Err(invalid_environment(format!("required env variables [{}] missing", missing.join(","))));
    }
    Ok(Command { text, verb, env })
}

fn invalid_environment(msg: impl Into<String>) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, msg)
}

fn container_id(id: &str) -> Result<(), Error> {
    if is_name(id) {
        return Ok(());
    }
    Err(invalid_environment("invalid characters in containerID").with_details(id))
}

/// The pattern of container ids and network names.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn interface_name(name: &str) -> Result<(), Error> {
    if name.len() > 15 {
        return Err(invalid_environment("interface name is too long")
            .with_details("interface name should be less than 16 characters"));
    }
    if name == "." || name == ".." {
        return Err(invalid_environment("interface name is . or .."));
    }
    if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Err(invalid_environment("interface name contains / or : or whitespace characters"));
    }
    Ok(())
}

/// The config and its `name`. Errors: code 6 (not JSON, `name` not a string), 7 (no valid `name`).
pub(crate) fn network(stdin: &[u8]) -> Result<(Node, String), Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Head {
        name: String,
    }
    let undecodable =
        |e: decode::Error| Error::new(code::DECODE_FAILURE, format!("error unmarshall network config: {e}"));
    let document = decode::parse(stdin).map_err(undecodable)?;
    let Head { name } = document.decode().map_err(undecodable)?;
    if name.is_empty() {
        return Err(Error::new(code::INVALID_CONFIG, "missing network name"));
    }
    if !is_name(&name) {
        return Err(Error::new(code::INVALID_CONFIG, "invalid characters found in network name").with_details(name));
    }
    Ok((document, name))
}

/// The config's `cniVersion` as it stands there, 0.1.0 if it does not. Error: code 6.
pub(crate) fn stated_version(document: &Node) -> Result<String, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Head {
        cni_version: String,
    }
    let Head { cni_version } = document
        .decode()
        .map_err(|e| Error::new(code::DECODE_FAILURE, format!("decoding version from network config: {e}")))?;
    Ok(if cni_version.is_empty() { Version::UNSTATED.to_string() } else { cni_version })
}

/// The config's version, if the verb exists in it and the plugin supports it. Errors: code 1, and 6 for what is no
/// version at all where versions must be compared.
pub(crate) fn version(verb: Verb, text: &str, plugin: &[Version]) -> Result<Version, Error> {
    let since = match verb {
        Verb::Check => Some(("CHECK", [0, 4, 0])),
        Verb::Gc => Some(("GC", [1, 1, 0])),
        Verb::Status => Some(("STATUS", [1, 1, 0])),
        Verb::Add | Verb::Del | Verb::Version => None,
    };
    if let Some((verb, since)) = since {
        let numbers = numbers(text)?;
        let refusal = |who| Error::new(code::INCOMPATIBLE_VERSION, format!("{who} version does not allow {verb}"));
        if numbers < since {
            return Err(refusal("config"));
        }
        let newest = plugin.iter().max().map(|version| self::numbers(version.as_str())).transpose()?;
        if newest.is_none_or(|newest| newest < numbers) {
            return Err(refusal("plugin"));
        }
    }
    supported(text, plugin)
}

/// The version with exactly this text. Error: code 1.
pub(crate) fn supported(text: &str, plugin: &[Version]) -> Result<Version, Error> {
    plugin.iter().copied().find(|version| version.as_str() == text).ok_or_else(|| {
        let list: Vec<_> = plugin.iter().map(|version| format!("\"{version}\"")).collect();
        Error::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
            .with_details(format!("config is {text:?}, plugin supports [{}]", list.join(" ")))
    })
}

/// One to three numbers with dots between them.
fn numbers(text: &str) -> Result<[i64; 3], Error> {
    let invalid = |why: String| Error::new(code::DECODE_FAILURE, format!("invalid version {text:?}: {why}"));
    let mut numbers = [0; 3];
    for (index, part) in text.split('.').enumerate() {
        let number = numbers.get_mut(index).ok_or_else(|| invalid("too many parts".into()))?;
        *number = part.parse().map_err(|_| invalid(format!("{part:?} is not a number")))?;
    }
    Ok(numbers)
}
