//! `conditionsV4` and `conditionsV6`: which packets a published port is meant for.
//!
//! They are written in the syntax of `nft` or of `iptables`. What both can say becomes one small type, from which the
//! rules of our own tables are made; the iptables backend passes the words on as they are.

use cni::{Cidr, Error};
use netlink::nft::Family;

/// Longest name of a link, in bytes (`IFNAMSIZ` without the NUL).
const MAX_NAME: usize = 15;
/// For error messages.
const SUPPORTED: &str = "supported are `ip saddr`, `ip daddr` (`ip6 …` in conditionsV6) with an address or a subnet, \
                         `iifname` and `oifname` with a name, each with `!=`, or iptables' `-s`, `-d`, `-i`, `-o` with `!`";

/// One test of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) what: What,
    /// The packet must not be so.
    pub(crate) negated: bool,
}

/// What is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Source address.
    Source(Cidr),
    /// Destination address, before it is rewritten.
    Destination(Cidr),
    /// The link that the packet came in by.
    Input(Name),
    /// The link that it leaves by: only of what the host itself sends.
    Output(Name),
}

/// Name of a link, or what it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) is_prefix: bool,
}

/// The conditions of one family: all of them must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) family: Family,
    pub(crate) all: Vec<Condition>,
    /// The interface that has a rule and maps of its own, in spite of equal conditions.
    pub(crate) ifname: Option<String>,
}

/// Whose words they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Nft,
    Iptables,
}

/// By the first character, as the reference tells them apart.
pub(crate) fn syntax(words: &[String]) -> Option<Syntax> {
    let first = words.iter().flat_map(|w| w.split_whitespace()).next()?;
    Some(if first.starts_with(['-', '!']) { Syntax::Iptables } else { Syntax::Nft })
}

impl Conditions {
    /// Reads the words of either syntax; `None` if there are none. Errors: code 999, what cannot be understood.
    pub(crate) fn parse(family: Family, words: &[String]) -> Result<Option<Self>, Error> {
        let Some(syntax) = syntax(words) else { return Ok(None) };
        let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
        let mut rest = words.as_slice();
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (condition, more) = match syntax {
                Syntax::Nft => nft(family, rest),
                Syntax::Iptables => iptables(family, rest),
            }
            .map_err(|why| {
                let key = if family == Family::Ip { "conditionsV4" } else { "conditionsV6" };
                Error::internal(format!("{key}: {why} in \"{}\"", words.join(" "))).with_details(SUPPORTED)
            })?;
            all.push(condition);
            rest = more;
        }
        Ok(Some(Self { family, all, ifname: None }))
    }

    /// In nft's words, as `nft list` will show them.
    pub(crate) fn text(&self) -> String {
        let ip = if self.family == Family::Ip { "ip" } else { "ip6" };
        let one = |condition: &Condition| {
            let not = if condition.negated { "!= " } else { "" };
            let name = |n: &Name| format!("{}{}", n.text, if n.is_prefix { "*" } else { "" });
            match &condition.what {
                What::Source(cidr) => format!("{ip} saddr {not}{cidr}"),
                What::Destination(cidr) => format!("{ip} daddr {not}{cidr}"),
                What::Input(link) => format!("iifname {not}{}", name(link)),
                What::Output(link) => format!("oifname {not}{}", name(link)),
            }
        };
        self.all.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    /// Names their rule and map: equal conditions share them. With an interface: `<of its name>`, and `-<of the
    /// conditions>` if there are any.
    pub(crate) fn id(&self) -> String {
        let of_conditions = || cni::attachment::sha512_hex(&self.text(), 12);
        match self.ifname.as_ref().map(|ifname| cni::attachment::sha512_hex(ifname, 6)) {
            None => of_conditions(),
            Some(of_interface) if self.all.is_empty() => of_interface,
            Some(of_interface) => format!("{of_interface}-{}", of_conditions()),
        }
    }
}

type Reader = fn(Family, &str) -> Result<What, String>;
type Parsed<'a, 'b> = Result<(Condition, &'a [&'b str]), String>;

fn nft<'a, 'b>(family: Family, words: &'a [&'b str]) -> Parsed<'a, 'b> {
    let ip = if family == Family::Ip { "ip" } else { "ip6" };
    let (what, rest): (Reader, _) = match words {
        [of, "saddr", rest @ ..] if *of == ip => (source, rest),
        [of, "daddr", rest @ ..] if *of == ip => (destination, rest),
        ["meta", "iifname", rest @ ..] | ["iifname", rest @ ..] => (nft_input, rest),
        ["meta", "oifname", rest @ ..] | ["oifname", rest @ ..] => (nft_output, rest),
        [first, ..] => return Err(format!("\"{first}\" is not understood")),
        [] => return Err("a condition is missing".to_owned()),
    };
    let (negated, rest) = match rest {
        ["!=", rest @ ..] => (true, rest),
        ["==", rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let [value, rest @ ..] = rest else { return Err("a value is missing".to_owned()) };
    Ok((Condition { what: what(family, value)?, negated }, rest))
}

fn iptables<'a, 'b>(family: Family, words: &'a [&'b str]) -> Parsed<'a, 'b> {
    let (negated, words) = match words {
        ["!", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let [option, value, rest @ ..] = words else { return Err("a value is missing".to_owned()) };
    let what = match *option {
        "-s" | "--source" | "--src" => source(family, value)?,
        "-d" | "--destination" | "--dst" => destination(family, value)?,
        "-i" | "--in-interface" => What::Input(name(value, '+')?),
        "-o" | "--out-interface" => What::Output(name(value, '+')?),
        other => return Err(format!("\"{other}\" is not understood")),
    };
    Ok((Condition { what, negated }, rest))
}

fn source(family: Family, value: &str) -> Result<What, String> {
    subnet(family, value).map(What::Source)
}

fn destination(family: Family, value: &str) -> Result<What, String> {
    subnet(family, value).map(What::Destination)
}

fn nft_input(_: Family, value: &str) -> Result<What, String> {
    name(value, '*').map(What::Input)
}

fn nft_output(_: Family, value: &str) -> Result<What, String> {
    name(value, '*').map(What::Output)
}

fn subnet(family: Family, value: &str) -> Result<Cidr, String> {
    let bits = if family == Family::Ip { 32 } else { 128 };
    let cidr = if value.contains('/') {
        value.parse::<Cidr>().ok()
    } else {
        cni::cidr::parse_ip(value).ok().and_then(|ip| Cidr::new(ip, bits))
    };
    cidr.filter(|c| Family::of(c.addr()) == family)
        .map(|c| c.network())
        .ok_or_else(|| format!("\"{value}\" is no {} address or subnet", if bits == 32 { "IPv4" } else { "IPv6" }))
}

fn name(value: &str, wildcard: char) -> Result<Name, String> {
    let value = value.trim_matches('"');
    let text = value.strip_suffix(wildcard).unwrap_or(value);
    if text.is_empty() || text.len() > MAX_NAME || text.contains(['/', '{', '}', '@', '*', '"', ',']) {
        return Err(format!("\"{value}\" is no name of a link"));
    }
    Ok(Name { text: text.to_owned(), is_prefix: text.len() < value.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(family: Family, text: &str) -> Result<Option<Conditions>, Error> {
        Conditions::parse(family, &text.split('|').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn both_syntaxes_mean_the_same() {
        for (words, expected) in [
            ("ip|saddr|10.0.0.0/8", "ip saddr 10.0.0.0/8"),
            ("ip saddr != 10.1.2.3", "ip saddr != 10.1.2.3/32"),
            ("-s|10.1.2.3/8", "ip saddr 10.0.0.0/8"),
            ("!|-d|192.0.2.0/24", "ip daddr != 192.0.2.0/24"),
            ("! --destination 192.0.2.1", "ip daddr != 192.0.2.1/32"),
            ("iifname|\"eth0\"", "iifname eth0"),
            ("meta iifname != eth*|ip daddr == 10.0.0.1", "iifname != eth* ip daddr 10.0.0.1/32"),
            ("-i|eth+|!|-o|lo", "iifname eth* oifname != lo"),
        ] {
            assert_eq!(parse(Family::Ip, words).unwrap().unwrap().text(), expected, "{words}");
        }
        assert_eq!(parse(Family::Ip6, "!|-s|fd00::1/64").unwrap().unwrap().text(), "ip6 saddr != fd00::/64");
        assert_eq!(Conditions::parse(Family::Ip, &[]).unwrap(), None);
        assert_eq!(parse(Family::Ip, " ").unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (family, words, fragment) in [
            (Family::Ip, "tcp|dport|80", "conditionsV4: \"tcp\" is not understood in \"tcp dport 80\""),
            (Family::Ip, "ip6|saddr|fd00::1", "\"ip6\" is not understood"),
            (Family::Ip6, "ip6|saddr|10.0.0.1", "conditionsV6: \"10.0.0.1\" is no IPv6 address"),
            (Family::Ip, "ip|saddr", "a value is missing"),
            (Family::Ip, "ip|saddr|@pods", "\"@pods\" is no IPv4 address"),
            (Family::Ip, "-m|mark", "\"-m\" is not understood"),
            (Family::Ip, "!|-s", "a value is missing"),
            (Family::Ip, "iifname|a-very-long-name", "is no name of a link"),
            (Family::Ip, "-s|10.0.0.1,10.0.0.2", "is no IPv4 address"),
        ] {
            let error = parse(family, words).unwrap_err();
            assert!(error.msg.contains(fragment) && error.details.contains("saddr"), "{error:?}");
        }
    }

    #[test]
    fn equal_conditions_have_one_name() {
        let id = |words| parse(Family::Ip, words).unwrap().unwrap().id();
        assert_eq!(id("-s|10.0.0.0/8"), id("ip saddr 10.0.0.0/8"));
        assert_ne!(id("-s|10.0.0.0/8"), id("!|-s|10.0.0.0/8"));
        assert_eq!(id("-s|10.0.0.0/8").len(), 12);
    }
}
