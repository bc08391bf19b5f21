//! Which sysctls the operator of the node allows, whatever the config says.

use std::io::ErrorKind;
use std::path::Path;

use cni::Error;
use host::fsutil;
use regex_lite::Regex;

use crate::sysctl::Setting;

/// The reference's, and as there not to be configured: a config could else leave the list.
const FILE: &str = "/etc/cni/tuning/allowlist.conf";

/// Refuses a sysctl that no line of the list matches; without a file all are allowed.
///
/// A line is a regular expression, matched anywhere in the key as configured. One that cannot be read allows nothing.
pub(crate) fn check(settings: &[Setting]) -> Result<(), Error> {
    if settings.is_empty() {
        return Ok(());
    }
    check_with(Path::new(FILE), settings)
}

fn check_with(file: &Path, settings: &[Setting]) -> Result<(), Error> {
    let shown = file.display();
    let text = match fsutil::read_small(file) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::internal(format!("failed to read the list of allowed sysctls, {shown}: {error}"))
                .with_details("no sysctl is set while it is not known which are allowed"));
        }
    };
    let lines: Vec<(usize, &str)> =
        (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty()).collect();
    let mut unreadable = None;
    let mut patterns = Vec::new();
    for (number, line) in &lines {
        match Regex::new(line) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => drop(unreadable.get_or_insert((*number, *line, error))),
        }
    }
    let Some(refused) = settings.iter().find(|s| !patterns.iter().any(|p| p.is_match(&s.key))) else { return Ok(()) };
    if let Some((number, line, error)) = unreadable {
        return Err(Error::internal(format!(
            "{shown}, line {number}: {line:?} is no regular expression that can be read here: {error}"
        ))
        .with_details(format!("so it cannot be told whether sysctl {:?} is allowed", refused.key)));
    }
    let allowed: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
    Err(Error::internal(format!(
        "Sysctl {} is not allowed. Only the following sysctls are allowed: [{}]",
        refused.key,
        allowed.join(" ")
    ))
    .with_details(format!("{shown} on this node says so; its operator can add the key")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, keys: &[&str]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("allowlist.conf");
        std::fs::write(&file, list).unwrap();
        let setting = |key: &&str| Setting { key: (*key).to_owned(), path: String::new(), value: String::new() };
        let settings: Vec<_> = keys.iter().map(setting).collect();
        check_with(&file, &settings).map_err(|e| e.msg)
    }

    #[test]
    fn every_key_needs_a_line_that_matches_somewhere() {
        let list = "  ^net\\.core\\.somaxconn$ \r\n\n^net.ipv4.conf.[a-zA-Z0-9]*.log_martians$\nrmem\n";
        check(list, &["net.core.somaxconn", "net.ipv4.conf.IFNAME.log_martians", "net.ipv4.tcp_rmem"]).unwrap();
        let error = check(list, &["net.core.somaxconn", "net.core.somaxconn2"]).unwrap_err();
        assert!(error.contains("Sysctl net.core.somaxconn2 is not allowed"), "{error}");
        assert!(check("", &["net.core.somaxconn"]).is_err());
        assert!(check_with(Path::new("/nonexistent/list"), &[]).is_ok());
    }

    #[test]
    fn what_go_writes_is_read() {
        for (line, key) in [
            (r"^net\.ipv4\.(tcp|udp)_[rw]mem$", "net.ipv4.tcp_rmem"),
            (r"(?i)NET\.CORE", "net.core.x"),
            (r"^net/ipv[46]/conf/[[:alnum:]]+/\w+$", "net/ipv4/conf/eth0/forwarding"),
            (r"(?P<family>ipv4)\.(?:a|b)", "net.ipv4.b"),
            (r"\Anet\..*\z", "net.x"),
            (r"^net\.\D+\d{1,3}?", "net.ipv4"),
            (r"^net[^\s.]*\.x$", "net.x"),
            (r"n\x65t", "net.x"),
        ] {
            assert_eq!(check(line, &[key]), Ok(()), "{line}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_once_it_matters() {
        check("[\nnet", &["net.x"]).unwrap();
        let error = check("net.y\n\n[\n", &["net.x"]).unwrap_err();
        assert!(error.contains("allowlist.conf, line 3: \"[\""), "{error}");
    }
}
