//! The DNS part of the result, from a file in the form of resolv.conf(5).

use std::path::Path;

use cni::{Dns, Error};
use host::fsutil;

/// Reads the file. An unreadable one fails the ADD: the pod would silently be without DNS.
pub(crate) fn read(path: &Path) -> Result<Dns, Error> {
    let bytes = fsutil::read_small(path)
        .map_err(|e| Error::internal(format!("cannot read resolvConf {}: {e}", path.display())))?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// `domain`: the last one counts; `search` and `options` add up over lines; lines without a value are skipped.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(key), Some(first)) = (words.next(), words.next()) else { continue };
        let all = std::iter::once(first.clone()).chain(words);
        match key.as_str() {
            "nameserver" => dns.nameservers.push(first),
            "domain" => dns.domain = first,
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let dns = parse(
            "# c\n; c\n\n nameserver 10.0.0.10 # rest\nnameserver\nnameserver fd00::a\ndomain one\ndomain two\n\
             search a b\n\tsearch c\noptions ndots:5 edns0\noptions rotate\nsortlist x\n#nameserver 1.1.1.1\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.10", "fd00::a"]);
        assert_eq!(dns.domain, "two");
        assert_eq!(dns.search, ["a", "b", "c"]);
        assert_eq!(dns.options, ["ndots:5", "edns0", "rotate"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nonexistent/resolv.conf")).unwrap_err();
        assert!(error.msg.contains("/nonexistent/resolv.conf"), "{error}");
    }
}
