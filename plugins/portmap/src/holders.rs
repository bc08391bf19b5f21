//! Who has a port already, for the iptables backend: its rules are looked through in order, and before our own tables, so
//! a second one for a port would be dead, or the first one would be from then on.

use std::net::IpAddr;

use cni::{Attachment, Error};
use netlink::Socket;
use netlink::nft::{Family, Nft};
use plugin::host_end;
use ruleset::TABLE;

use crate::add::failed;
use crate::condition::Conditions;
use crate::config::{Mapping, Protocol, Target};
use crate::iptables::{ENTRIES, FIRST_INTERFACE};
use crate::native::layout;
use crate::reference;

/// Somebody whose rules in iptables take what a mapping is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) chain: String,
    /// For people.
    pub(crate) name: String,
    /// Of its rule.
    pub(crate) comment: String,
}

/// Whether a rule with this comment is of another interface of the attachment's container, which is alive: our bridge
/// plugin made its host link, and that is there.
pub(crate) fn is_same_pod(route: &mut Socket, comment: &str, attachment: &Attachment) -> bool {
    let Some((network, container, ifname)) = reference::owner(comment) else { return false };
    let ifname = ifname.unwrap_or(FIRST_INTERFACE);
    let other =
        Attachment { network: network.to_owned(), container_id: container.to_owned(), ifname: ifname.to_owned() };
    container == attachment.container_id
        && other != *attachment
        && host_end::find(route, &other).is_ok_and(|link| link.is_some())
}

/// The one that has the port of a mapping by these rules. A mapping for another address of the host is for another port,
/// and so is one under other conditions. `is_own`: of a chain and the comment of the rule that leads there, whether they
/// are nobody else's; a container may have its ports by several networks.
pub(crate) fn find(
    saved: &str,
    mut is_own: impl FnMut(&str, &str) -> bool,
    family: Family,
    mapping: &Mapping,
    conditions: &[String],
) -> Option<Holder> {
    let head = format!("-A {ENTRIES} ");
    saved.lines().filter(|line| line.starts_with(&head)).find_map(|line| {
        let entry = Entry::read(line)?;
        let is_held = entry.protocol == mapping.protocol
            && entry.has(mapping.host_port)
            && (entry.conditions.is_empty() || are_same(family, &entry.conditions, conditions))
            && takes(saved, &entry.chain, mapping, |ip| ip == mapping.address())
            && !is_own(&entry.chain, &entry.comment);
        is_held.then(|| entry.into())
    })
}

/// Whoever's rules take some of what a mapping is for.
pub(crate) fn of_some<'s>(saved: &'s str, mapping: &'s Mapping) -> impl Iterator<Item = Holder> + 's {
    let head = format!("-A {ENTRIES} ");
    let entries = saved.lines().filter(move |line| line.starts_with(&head)).filter_map(Entry::read);
    let is_meant = |ip| ip == mapping.address() || mapping.address().is_none();
    let takes = move |entry: &Entry| {
        entry.protocol == mapping.protocol
            && entry.has(mapping.host_port)
            && takes(saved, &entry.chain, mapping, is_meant)
    };
    entries.filter(takes).map(Holder::from)
}

impl From<Entry> for Holder {
    fn from(entry: Entry) -> Self {
        Self { name: entry.name(), chain: entry.chain, comment: entry.comment }
    }
}

/// A rule that leads into the chain of an attachment.
#[derive(Debug)]
struct Entry {
    protocol: Protocol,
    /// Of `multiport`: ports, and ranges of them.
    ports: String,
    comment: String,
    /// The words of everything else.
    conditions: Vec<String>,
    chain: String,
}

impl Entry {
    fn read(line: &str) -> Option<Self> {
        let words = split(line);
        let mut rest = words.get(2..)?;
        let (mut protocol, mut ports, mut comment, mut chain) = (None, None, None, None);
        let mut conditions = Vec::new();
        while let [first, more @ ..] = rest {
            let words: Vec<&str> = rest.iter().take(4).map(String::as_str).collect();
            rest = match words[..] {
                ["-p", name, ..] => {
                    protocol = Protocol::parse(name);
                    &rest[2..]
                }
                ["-j", name, ..] => {
                    chain = Some(name.to_owned());
                    &rest[2..]
                }
                ["-m", "multiport", "--dports", list] if ports.is_none() => {
                    ports = Some(list.to_owned());
                    &rest[4..]
                }
                ["-m", "comment", "--comment", text] if comment.is_none() => {
                    comment = Some(text.to_owned());
                    &rest[4..]
                }
                _ => {
                    conditions.push(first.clone());
                    more
                }
            };
        }
        let comment = comment.unwrap_or_default();
        Some(Self { protocol: protocol?, ports: ports?, comment, conditions, chain: chain? })
    }

    fn has(&self, port: u16) -> bool {
        self.ports.split(',').any(|part| {
            let (first, last) = part.split_once(':').unwrap_or((part, part));
            matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
        })
    }

    fn name(&self) -> String {
        match reference::owner(&self.comment) {
            Some((network, id, Some(ifname))) => format!("container {id} (network {network}, interface {ifname})"),
            Some((network, id, None)) => format!("container {id} (network {network})"),
            None => format!("an unknown owner (chain {})", self.chain),
        }
    }
}

/// Whether the chain takes packets for the mapping's port, to any address or to one that is meant.
fn takes(saved: &str, chain: &str, mapping: &Mapping, is_meant: impl Fn(Option<IpAddr>) -> bool) -> bool {
    let head = format!("-A {chain} ");
    saved.lines().filter(|line| line.starts_with(&head) && line.contains(" --to-destination ")).any(|line| {
        let words = split(line);
        let after = |option: &str| words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1].as_str());
        let address = after("-d").and_then(|ip| ip.split('/').next()).and_then(|ip| ip.parse().ok());
        after("-p").and_then(Protocol::parse) == Some(mapping.protocol)
            && after("--dport") == Some(&mapping.host_port.to_string())
            && (address.is_none() || is_meant(address))
    })
}

/// Whether two lists of words say the same. `iptables-save` shows them in another order than they were given.
fn are_same(family: Family, one: &[String], other: &[String]) -> bool {
    let sorted = |words: &[String]| {
        let mut texts: Vec<String> = match Conditions::parse(family, words) {
            Ok(Some(conditions)) => {
                let one = |condition| Conditions { family, all: vec![condition], ifname: None }.text();
                conditions.all.into_iter().map(one).collect()
            }
            _ => words.to_vec(),
        };
        texts.sort_unstable();
        texts
    };
    sorted(one) == sorted(other)
}

/// The words of a line, without their quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted, mut is_begun) = (String::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => {
                if is_begun {
                    words.push(std::mem::take(&mut word));
                }
                is_begun = false;
                continue;
            }
            c => word.push(c),
        }
        is_begun = true;
    }
    if is_begun {
        words.push(word);
    }
    words
}

/// Errors: another attachment has a port, that is wanted for one address, for any address in our own tables: it would lose
/// a part of it. (For the same address, see [`native::make_way`](crate::native::make_way).)
pub(crate) fn refuse_for_any(nft: &mut Nft, attachment: &Attachment, targets: &[Target<'_>]) -> Result<(), Error> {
    for target in targets {
        for mapping in target.mappings().filter(|m| m.address().is_some()) {
            let (set, key) = layout::entry(&Mapping { host_ip: None, ..*mapping }, None);
            let element = match nft.element(target.family(), TABLE, &set, &key) {
                Err(error) if ruleset::is_unsupported(&error) => return Ok(()),
                element => element.map_err(|e| failed("read the rules", &e))?,
            };
            if let Some(holder) = element.filter(|e| !ruleset::is_owned(e, attachment)) {
                let name = name(holder.comment.as_deref().unwrap_or_default());
                return Err(Error::internal(format!("host port {mapping} is already published by {name}"))
                    .with_details("for any address, by our own tables; DEL or GC of its network gives it back"));
            }
        }
    }
    Ok(())
}

/// Whose an element is, by its comment, for people.
fn name(comment: &str) -> String {
    match comment.split(' ').collect::<Vec<_>>()[..] {
        [_, network, container, ifname] => format!("container {container} (network {network}, interface {ifname})"),
        [_, network, container] => format!("container {container}… (network {network})"),
        _ => format!("an unknown owner (comment \"{comment}\")"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::with_ports;

    const SAVED: &str = r#"*nat
:CNI-DN-a - [0:0]
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"tn\" id: \"c1\"" -m multiport --dports 8080,8443,90:99 -j CNI-DN-a
-A CNI-HOSTPORT-DNAT ! -d 192.0.2.0/24 -i eth0 -p udp -m comment --comment "dnat name: \"tn\" id: \"c2\" if: \"net1\"" -m multiport --dports 53 -j CNI-DN-b
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "dnat name: \"tn\" id: \"c3\"" -m multiport --dports 54 -m mark --mark 0x1 -j CNI-DN-c
-A CNI-DN-a -s 10.0.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-a -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80
-A CNI-DN-a -p tcp -m tcp --dport 95 -j DNAT --to-destination 10.0.0.2:80
-A CNI-DN-a -d 10.1.2.3/32 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.0.0.2:443
-A CNI-DN-b -p udp -m udp --dport 53 -j DNAT --to-destination 10.0.0.3:53
-A CNI-DN-c -p udp -m udp --dport 54 -j DNAT --to-destination 10.0.0.4:53
COMMIT
"#;

    fn holder(port: u16, protocol: &str, ip: &str, conditions: &[&str]) -> Option<String> {
        let json =
            format!("{{\"hostPort\":{port},\"containerPort\":1,\"protocol\":\"{protocol}\",\"hostIP\":\"{ip}\"}}");
        let mapping = with_ports(&json).unwrap().mappings[0];
        let conditions: Vec<_> = conditions.iter().map(|&w| w.to_owned()).collect();
        find(SAVED, |chain, _| chain == "CNI-DN-own", Family::Ip, &mapping, &conditions).map(|holder| holder.name)
    }

    #[test]
    fn whoever_takes_the_packets_has_the_port() {
        let first = Some("container c1 (network tn)".to_owned());
        assert_eq!(holder(8080, "tcp", "", &[]), first);
        // The first rule takes what is for one address too, and whatever the conditions are.
        assert_eq!(holder(8080, "tcp", "10.1.2.3", &[]), first);
        assert_eq!(holder(8080, "tcp", "", &["-s", "10.0.0.1"]), first);
        assert_eq!(holder(95, "tcp", "", &[]), first);
        assert_eq!(holder(8443, "tcp", "10.1.2.3", &[]), first);
        for (port, protocol, ip) in
            [(8443, "tcp", ""), (8443, "tcp", "10.1.2.4"), (8080, "udp", ""), (96, "tcp", ""), (100, "tcp", "")]
        {
            assert_eq!(holder(port, protocol, ip, &[]), None, "{port} {protocol} {ip}");
        }
    }

    #[test]
    fn other_conditions_are_for_other_packets() {
        let second = Some("container c2 (network tn, interface net1)".to_owned());
        assert_eq!(holder(53, "udp", "", &["-i", "eth0", "!", "-d", "192.0.2.0/24"]), second);
        assert_eq!(holder(53, "udp", "", &["-i", "eth1"]), None);
        assert_eq!(holder(53, "udp", "", &[]), None);
        assert_eq!(
            holder(54, "udp", "", &["-m", "mark", "--mark", "0x1"]),
            Some("container c3 (network tn)".to_owned())
        );
    }

    #[test]
    fn the_own_chain_holds_nothing() {
        let mapping = with_ports(r#"{"hostPort":8080,"containerPort":1,"protocol":"tcp"}"#).unwrap().mappings[0];
        assert_eq!(find(SAVED, |chain, _| chain == "CNI-DN-a", Family::Ip, &mapping, &[]), None);
        // Nor does one of the same container's, for another network.
        assert_eq!(find(SAVED, |_, comment| comment.contains("\"c1\""), Family::Ip, &mapping, &[]), None);
    }

    #[test]
    fn lines_are_split_as_iptables_quotes_them() {
        assert_eq!(
            split(r#"-A X --comment "a \"b\" \\c" -j "" Y"#),
            ["-A", "X", "--comment", "a \"b\" \\c", "-j", "", "Y"]
        );
    }
}
