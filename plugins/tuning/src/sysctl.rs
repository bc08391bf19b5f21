//! Settings below `/proc/sys/net`, of the container's namespace: which, setting them, taking them back, comparing.

use std::io::{self, ErrorKind};
use std::net::Ipv6Addr;
use std::path::{Component, Path};

use cni::Error;
use cni::decode::Node;
use host::netns::NetNs;
use host::sysctl;
use host::undo::Undo;

/// Stands for the interface's name in a key.
const IFNAME: &str = "IFNAME";

/// The one setting that can be empty. To all others an empty value says nothing, as with the reference.
const CLEARABLE: &str = "net/ipv4/ip_local_reserved_ports";

/// What reading a setting without a value answers (`errno-base.h`).
const EIO: i32 = 5;

/// A sysctl to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As the config has it, for messages and the allow-list.
    pub(crate) key: String,
    /// Below `/proc/sys`.
    pub(crate) path: String,
    pub(crate) value: String,
}

/// What the config's `sysctl` and that of its args come to, which replaces the former's keys.
///
/// Errors (code 999): a key twice, or two keys for one file; a key that leads elsewhere than below `net`; a value that
/// is no text.
pub(crate) fn plan(config: &Node, args: &Node, ifname: &str) -> Result<Vec<Setting>, Error> {
    let mut all = members("sysctl", config, ifname)?;
    for over in members("args.cni.sysctl", args, ifname)? {
        match all.iter_mut().find(|setting| setting.path == over.path) {
            Some(setting) => *setting = over,
            None => all.push(over),
        }
    }
    Ok(all)
}

fn members(name: &str, node: &Node, ifname: &str) -> Result<Vec<Setting>, Error> {
    let members = match node {
        Node::Null => return Ok(Vec::new()),
        Node::Object(members) => members,
        other => {
            return Err(Error::internal(format!("failed to load netconf: {name}: expected an object, found {other}")));
        }
    };
    let mut settings: Vec<Setting> = Vec::new();
    for (key, value) in members {
        let value = match value {
            Node::String(value) => value.clone(),
            Node::Null => String::new(),
            other => {
                return Err(Error::internal(format!(
                    "failed to load netconf: {name}.{key}: expected a string, found {other}"
                )));
            }
        };
        let path = path(key, ifname)?;
        if let Some(twin) = settings.iter().find(|setting| setting.path == path) {
            // Which of the two would be meant?
            return Err(Error::internal(format!("duplicated sysctl keys are not allowed: {key:?}"))
                .with_details(format!("{name} has both {:?} and {key:?}", twin.key)));
        }
        settings.push(Setting { key: key.clone(), path, value });
    }
    Ok(settings)
}

/// The file of a key, below `/proc/sys`: dots are slashes, save those in the name of the interface.
fn path(key: &str, ifname: &str) -> Result<String, Error> {
    let written = key.replace('.', "/").replacen(IFNAME, ifname, 1);
    let mut parts = Vec::new();
    for component in Path::new(&written).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    let path = parts.join("/");
    if !path.starts_with("net/") || path.contains('\0') {
        return Err(Error::internal(format!("invalid net sysctl key: {key:?}"))
            .with_details("only settings below /proc/sys/net are the network namespace's own"));
    }
    Ok(path)
}

/// Sets them all in the namespace. Nothing is written if one of them does not exist.
pub(crate) fn apply<'a>(netns: &'a NetNs, settings: &[Setting], undo: &mut Undo<'a>) -> Result<(), Error> {
    let enter = |e: host::netns::Error| Error::internal(e.to_string());
    let before = netns.enter(|| read(settings)).map_err(enter)??;
    undo.push("setting the sysctls back", move || netns.enter(|| restore(&before)).map_err(|e| e.to_string())?);
    netns.enter(|| settings.iter().try_for_each(write)).map_err(enter)?
}

/// What a file said, where it can be read.
type Before = (String, Option<String>);

fn read(settings: &[Setting]) -> Result<Vec<Before>, Error> {
    let mut before = Vec::new();
    for setting in settings {
        let value = match sysctl::get(&setting.path) {
            Ok(value) => Some(value),
            Err(error) if has_none(&setting.path, &error) => None,
            Err(error) => return Err(failed(setting, &error)),
        };
        // In the order of restoring backwards: what a setting for all links passes on to them comes first.
        before.extend(dependents(&setting.path).into_iter().map(|path| {
            let value = sysctl::get(&path).ok();
            (path, value)
        }));
        before.push((setting.path.clone(), value));
    }
    Ok(before)
}

/// Some can only be written (net.ipv4.route.flush), some have no value before the first (stable_secret): there is nothing
/// that could be set back.
fn has_none(path: &str, error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied || path.ends_with("/stable_secret") && error.raw_os_error() == Some(EIO)
}

/// The files that the kernel may write when this one is written: the same setting of each link.
fn dependents(path: &str) -> Vec<String> {
    let (folder, name) = match path {
        "net/ipv4/ip_forward" => ("net/ipv4/conf", "forwarding"),
        _ => match path.split_once("/all/") {
            Some((folder @ ("net/ipv4/conf" | "net/ipv6/conf"), name)) => (folder, name),
            _ => return Vec::new(),
        },
    };
    let entries = std::fs::read_dir(format!("/proc/sys/{folder}"));
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.map(|link| format!("{folder}/{link}/{name}")).filter(|other| other != path).collect()
}

fn write(setting: &Setting) -> Result<(), Error> {
    match overwrite(&setting.path, &setting.value) {
        // A read-only /proc/sys that says the right thing as it is.
        Err(_) if sysctl::get(&setting.path).is_ok_and(|present| is_same(&present, &setting.value)) => Ok(()),
        result => result.map_err(|error| failed(setting, &error)),
    }
}

/// To write nothing at all leaves a setting as it is; a list is cleared by a line without anything.
fn overwrite(path: &str, value: &str) -> io::Result<()> {
    sysctl::overwrite(path, if value.is_empty() && path == CLEARABLE { "\n" } else { value })
}

/// Writes back whatever differs, in reverse, past errors. Error: the first.
fn restore(before: &[Before]) -> Result<(), String> {
    let mut result = Ok(());
    for (path, value) in before.iter().rev() {
        if let Some(value) = value
            && sysctl::get(path).is_ok_and(|present| present != *value)
            && let Err(error) = overwrite(path, value)
        {
            result = result.and(Err(error.to_string()));
        }
    }
    result
}

fn failed(setting: &Setting, error: &io::Error) -> Error {
    let text = error.to_string();
    let prefix = format!("/proc/sys/{}: ", setting.path);
    let reason = text.strip_prefix(&prefix).unwrap_or(&text);
    let hint = match error.kind() {
        ErrorKind::NotFound => {
            "the container's namespace has no such setting: is the key right, has its module been loaded, is there such \
             an interface?"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "the setting is the whole machine's, or /proc/sys is read-only here: let the container's runtime set it, or \
             leave it out of the config"
        }
        ErrorKind::InvalidInput => "the kernel does not take this value",
        _ => "",
    };
    let present = sysctl::get(&setting.path).map(|value| format!(" from {value:?}")).unwrap_or_default();
    Error::internal(format!(
        "failed to set sysctl {:?} (/proc/sys/{}){present} to {:?}: {reason}",
        setting.key, setting.path, setting.value
    ))
    .with_details(hint)
}

/// Compares with what is configured, in the calling thread's namespace. Error: found and expected.
pub(crate) fn check(settings: &[Setting]) -> Result<(), Error> {
    for setting in settings {
        let Setting { key, path, value } = setting;
        match sysctl::get(path) {
            // It has left the setting as it was.
            Ok(_) if value.is_empty() && path != CLEARABLE => {}
            Ok(present) if is_same(&present, value) => {}
            Ok(present) => {
                return Err(Error::internal(format!("sysctl {key:?}: found {present:?}, expected {value:?}"))
                    .with_details(format!("/proc/sys/{path} in the container's namespace was changed after ADD")));
            }
            // It can only be written.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => {
                return Err(Error::internal(format!(
                    "sysctl {key:?}: found nothing (/proc/sys/{path}: {error}), expected {value:?}"
                )));
            }
        }
    }
    Ok(())
}

/// Whether the kernel's text means what was written: it puts tabs between numbers, prints them in decimal, sorts lists of
/// ports, and prints all digits of an address (stable_secret) and of a key (tcp_fastopen_key). Of numbers it reads as many
/// as the setting has, and drops the rest without a word.
fn is_same(present: &str, wanted: &str) -> bool {
    let (a, b): (Vec<_>, Vec<_>) = (present.split_whitespace().collect(), wanted.split_whitespace().collect());
    let words = |(a, b): (&&str, &&str)| {
        a.eq_ignore_ascii_case(b)
            || number(a).is_some() && number(a) == number(b)
            || address(a).is_some() && address(a) == address(b)
            || fastopen_keys(a).is_some() && fastopen_keys(a) == fastopen_keys(b)
    };
    let is_cut = !a.is_empty() && a.len() < b.len() && a.iter().all(|word| number(word).is_some());
    (a.len() == b.len() || is_cut) && a.iter().zip(&b).all(words)
        || wanted.contains([',', '-']) && ranges(present).is_some_and(|ranges_a| ranges(wanted) == Some(ranges_a))
}

fn address(word: &str) -> Option<Ipv6Addr> {
    word.parse().ok()
}

/// One key or more: four hexadecimal numbers each.
fn fastopen_keys(word: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for key in word.split(',') {
        let before = numbers.len();
        for part in key.split('-') {
            // Only digits: Rust would also take a plus.
            numbers.push(u32::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+'))?);
        }
        (numbers.len() - before == 4).then_some(())?;
    }
    Some(numbers)
}

/// A number as the kernel reads it: with 0x in front hexadecimal, with 0 octal.
fn number(word: &str) -> Option<i128> {
    let (sign, digits) = word.strip_prefix('-').map_or((1, word), |digits| (-1, digits));
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => i128::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i128::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    // Only digits: Rust would also take a plus.
    digits.starts_with(|c: char| c.is_ascii_digit()).then(|| value.ok())?.map(|value| sign * value)
}

/// A list as `8080,9000-9010`, sorted, with neighbours made one.
fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.push((first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?));
    }
    all.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: &str) -> Node {
        cni::decode::parse(json.as_bytes()).unwrap()
    }

    fn plan(config: &str, args: &str) -> Result<Vec<(String, String)>, Error> {
        let settings = super::plan(&node(config), &node(args), "eth0.5")?;
        Ok(settings.into_iter().map(|s| (s.path, s.value)).collect())
    }

    #[test]
    fn keys_lead_to_files_below_net() {
        for (key, expected) in [
            ("net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/eth0.5/arp_filter"),
            ("net/ipv4/conf/IFNAME/arp_filter", "net/ipv4/conf/eth0.5/arp_filter"),
            ("net.ipv4.IFNAME.IFNAME", "net/ipv4/eth0.5/IFNAME"),
            ("net..core//somaxconn", "net/core/somaxconn"),
            (".net.core.somaxconn", "net/core/somaxconn"),
        ] {
            assert_eq!(path(key, "eth0.5").unwrap(), expected);
        }
        for key in ["", "net", "kernel.msgmax", "network.x", "vm/swappiness", "net.\0", "IFNAME"] {
            assert!(path(key, "eth0").unwrap_err().msg.starts_with("invalid net sysctl key"), "{key}");
        }
        // No interface can have this name; should one, it does not lead out of the folder.
        assert!(path("net.IFNAME.kernel.x", "..").is_err());
    }

    #[test]
    fn args_replace_key_by_key() {
        let pair = |path: &str, value: &str| (path.to_owned(), value.to_owned());
        let config = r#"{"net.ipv4.a":"1","net.ipv4.b":"2"}"#;
        assert_eq!(plan(config, "null").unwrap(), [pair("net/ipv4/a", "1"), pair("net/ipv4/b", "2")]);
        assert_eq!(
            plan(config, r#"{"net.ipv4.c":"3","net/ipv4/a":"4"}"#).unwrap(),
            [pair("net/ipv4/a", "4"), pair("net/ipv4/b", "2"), pair("net/ipv4/c", "3")]
        );
        assert_eq!(plan("null", r#"{"net.ipv4.c":"3"}"#).unwrap(), [pair("net/ipv4/c", "3")]);
        assert_eq!(plan("null", "null").unwrap(), []);
    }

    #[test]
    fn keys_given_twice_are_refused() {
        for config in [
            r#"{"net.ipv4.a":"1","net.ipv4.a":"1"}"#,
            r#"{"net.ipv4.a":"1","n\u0065t.ipv4.a":"2"}"#,
            r#"{"net.ipv4.a":"1","net/ipv4/a":"1"}"#,
        ] {
            let error = plan(config, "null").unwrap_err();
            assert!(error.msg.starts_with("duplicated sysctl keys"), "{error:?}");
            assert!(plan("null", config).is_err());
        }
        let error = plan(r#"{"net.ipv4.a":1}"#, "null").unwrap_err();
        assert!(error.msg.ends_with("sysctl.net.ipv4.a: expected a string, found a number (1)"), "{error:?}");
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        for (present, wanted) in [
            ("32768\t60999", "32768 60999"),
            ("4096\t131072\t6291456", " 4096  131072 6291456\n"),
            ("16", "0x10"),
            ("8", "010"),
            ("1", "1\n"),
            ("-1", "-1"),
            ("1", "1 2"),
            ("1\t2\t3", "1 2 3 4"),
            ("", ""),
            ("cubic", "cubic"),
            ("8080,9000-9010", "9000-9004,8080,9005-9010"),
            ("8080-8081", "8080,8081"),
            ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
            ("00000001-00000002-00000003-0000000a", "1-2-3-A"),
            ("00000001-00000002-00000003-00000004,00000005-00000006-00000007-00000008", "1-2-3-4,5-6-7-8"),
        ] {
            assert!(is_same(present, wanted), "{present:?} {wanted:?}");
        }
        for (present, wanted) in [
            ("1", "0"),
            ("1", ""),
            ("1 2", "1"),
            ("12", "1 2"),
            ("2", "1 2"),
            ("", "1 2"),
            ("reno", "reno cubic"),
            ("reno", "cubic"),
            ("8080", "8081"),
            ("1", "+2"),
            ("8", "08"),
            ("1-2", "1,3"),
            ("00000001-00000002-00000003-00000004", "1-2-3-5"),
            ("00000001-00000002-00000003-00000004", "1-2-3"),
            ("00000001-00000002-00000003-00000004", "1-2-3-4,1-2-3-4"),
        ] {
            assert!(!is_same(present, wanted), "{present:?} {wanted:?}");
        }
    }
}
