//! `backend: "iptables"`: chains and rules of the reference's layout.
//!
//! ```text
//! *nat
//! -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT            (OUTPUT the same)
//! -A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
//! -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: …" -m multiport --dports 8080 -j CNI-DN-5a0e…
//! -A CNI-DN-5a0e… -s 10.88.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-5a0e… -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-5a0e… -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.2:80
//! ```
//!
//! All of a family's is made by one `iptables-restore --noflush`, in the words in which `iptables-save` will show it:
//! CHECK compares lines.

use std::cell::Cell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use cni::attachment::sha512_hex;
use cni::{Attachment, Error};
use host::lock::Lock;
use netlink::nft::{Family, Translation};

use crate::config::{Mapping, Mark, Protocol, Target};
use crate::holders;

pub(crate) const TABLE: &str = "nat";
/// Where the entry rules of all containers are.
pub(crate) const ENTRIES: &str = "CNI-HOSTPORT-DNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";
/// That all containers use.
const SHARED: [&str; 3] = [SET_MARK, MASQUERADE, ENTRIES];
/// How often others may make one of these chains just before we do: three at most are to be made.
const ATTEMPTS: u32 = 4;
const MASQUERADE_COMMENT: &str = "CNI portfwd requiring masquerade";
const MARK_COMMENT: &str = "CNI portfwd masquerade mark";
/// The `multiport` match takes so many.
const MAX_PORTS: usize = 15;
/// `XT_MAX_COMMENT_LEN` without the NUL.
const MAX_COMMENT: usize = 255;
/// Other calls are waited for as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The interface whose chain has the reference's name: the first of a container, with every runtime.
pub(crate) const FIRST_INTERFACE: &str = "eth0";

/// The attachment's chain: the reference's, or for another interface than the first one of its own.
pub(crate) fn chain(attachment: &Attachment) -> String {
    if is_first(attachment) {
        return reference_chain(attachment);
    }
    let Attachment { network, container_id, ifname } = attachment;
    format!("CNI-DN-{}", sha512_hex(&format!("{network}\0{container_id}\0{ifname}"), 21))
}

/// The reference's chain: shared by all interfaces that a container has in a network.
pub(crate) fn reference_chain(attachment: &Attachment) -> String {
    format!("CNI-DN-{}", digest(attachment))
}

/// Whether the reference's chain is this attachment's, as long as nothing tells otherwise.
pub(crate) fn is_first(attachment: &Attachment) -> bool {
    attachment.ifname == FIRST_INTERFACE
}

/// What versions of the reference before 0.7 made for the way back.
pub(crate) fn source_chain(attachment: &Attachment) -> String {
    format!("CNI-SN-{}", digest(attachment))
}

fn digest(attachment: &Attachment) -> String {
    sha512_hex(&format!("{}{}", attachment.network, attachment.container_id), 21)
}

/// Publishes the ports of one address. What is there of the attachment's chain is replaced; `made` tells whether anything
/// may have been made that was not there.
///
/// Errors: a port is another attachment's; nothing was changed then.
pub(crate) fn install(attachment: &Attachment, target: &Target<'_>, made: &Cell<bool>) -> Result<(), Error> {
    // The lock keeps us apart; the reference may still come in between.
    let _lock = lock()?;
    let mut saved = save(target.family())?;
    for _ in 0..ATTEMPTS {
        refuse_taken(attachment, target, &saved)?;
        made.set(made.get() || first_missing(attachment, target, &saved).is_some());
        let script = addition(attachment, target, &saved)?;
        let Err(error) = restore(target.family(), &script) else { return Ok(()) };
        let now = save(target.family())?;
        if SHARED.iter().all(|shared| has_chain(&saved, shared) || !has_chain(&now, shared)) {
            return Err(error);
        }
        saved = now;
    }
    Err(Error::new(cni::code::TRY_AGAIN, "another program keeps changing the iptables rules"))
}

/// Errors: a port is another attachment's by these rules.
fn refuse_taken(attachment: &Attachment, target: &Target<'_>, saved: &str) -> Result<(), Error> {
    let own_chain = chain(attachment);
    let mut route = crate::add::open(netlink::Protocol::Route)?;
    let mut is_own =
        |chain: &str, comment: &str| chain == own_chain || holders::is_same_pod(&mut route, comment, attachment);
    for mapping in target.mappings() {
        let Some(holder) = holders::find(saved, &mut is_own, target.family(), mapping, &words(target)) else {
            continue;
        };
        return Err(Error::internal(format!("host port {mapping} is already published by {}", holder.name))
            .with_details(format!(
                "it may be alive; a container that is gone gives its ports back by DEL or GC of its network; see \
                 `iptables -t {TABLE} -S {ENTRIES}`"
            )));
    }
    Ok(())
}

/// What is missing of the attachment's and the shared rules, as the first line that should be there; `None`: nothing.
pub(crate) fn missing(attachment: &Attachment, target: &Target<'_>) -> Result<Option<String>, Error> {
    let saved = save(target.family())?;
    Ok(first_missing(attachment, target, &saved))
}

/// Whether the programs that make the rules are there. Errors: code 50.
pub(crate) fn ensure_installed(family: Family) -> Result<(), Error> {
    let error = |e: Error| e.context("backend \"iptables\"").with_details("install iptables, or leave backend out");
    ruleset::iptables::ensure_installed(family).map_err(error)
}

fn lock() -> Result<Lock, Error> {
    Lock::in_namespace("portmap-iptables", PATIENCE)
        .map_err(|e| Error::new(cni::code::TRY_AGAIN, format!("failed to lock the iptables rules: {e}")))
}

fn save(family: Family) -> Result<String, Error> {
    ruleset::iptables::read(family, TABLE).map_err(with_hint)
}

fn restore(family: Family, script: &str) -> Result<(), Error> {
    ruleset::iptables::restore(family, script).map_err(with_hint)
}

fn with_hint(error: Error) -> Error {
    if !error.details.is_empty() {
        return error;
    }
    error.with_details("backend \"nftables\" (the default) needs no program")
}

/// Rules that all containers share: chain and rule, and whether it is put first.
fn shared(target: &Target<'_>) -> Vec<(&'static str, String, bool)> {
    let mut rules = Vec::new();
    if let (true, Mark::Bit(bit)) = (target.plan.snat, &target.plan.mark) {
        let mark = format!("{0:#x}/{0:#x}", 1u32 << bit);
        rules.push((SET_MARK, format!("-m comment --comment \"{MARK_COMMENT}\" -j MARK --set-xmark {mark}"), false));
        rules.push((MASQUERADE, format!("-m mark --mark {mark} -j MASQUERADE"), false));
        rules.push(("POSTROUTING", format!("-m comment --comment \"{MASQUERADE_COMMENT}\" -j {MASQUERADE}"), true));
    }
    for chain in ["PREROUTING", "OUTPUT"] {
        rules.push((chain, format!("-m addrtype --dst-type LOCAL -j {ENTRIES}"), false));
    }
    rules
}

/// The rules of the attachment's own chain.
fn own(attachment: &Attachment, target: &Target<'_>) -> Vec<String> {
    let chain = chain(attachment);
    let mark = match &target.plan.mark {
        Mark::Bit(_) => SET_MARK,
        Mark::Chain(chain) => chain,
    };
    let (subnet, masquerades_all) = (target.pod.network(), target.plan.masq_all);
    let mut rules = Vec::new();
    for mapping in target.mappings() {
        let rule = |source: &str, jump: &str| {
            let protocol = mapping.protocol.name();
            format!(
                "-A {chain}{source}{} -p {protocol} -m {protocol} --dport {} -j {jump}",
                destination(mapping),
                mapping.host_port
            )
        };
        if target.plan.snat && masquerades_all {
            rules.push(rule("", mark));
        } else if target.plan.snat {
            rules.push(rule(&format!(" -s {subnet}"), mark));
            if target.family() == Family::Ip {
                rules.push(rule(" -s 127.0.0.1/32", mark));
            }
        }
        let to = SocketAddr::new(target.pod.addr(), mapping.container_port);
        rules.push(rule("", &format!("DNAT --to-destination {to}")));
    }
    rules
}

fn destination(mapping: &Mapping) -> String {
    match mapping.address() {
        None => String::new(),
        Some(ip) => format!(" -d {ip}/{}", if ip.is_ipv4() { 32 } else { 128 }),
    }
}

/// A rule that leads into the attachment's chain.
struct Entry {
    rule: String,
    protocol: Protocol,
    /// As `multiport` shows them.
    ports: String,
}

/// The conditions, each word an argument: an option and its value may be written as one, as the other backend takes them.
fn words(target: &Target<'_>) -> Vec<String> {
    let is_option = |word: &str| word.starts_with(['-', '!']);
    let mut words: Vec<String> = Vec::new();
    let mut is_value = false;
    for word in target.words() {
        if is_option(word) && !is_value && word.contains(char::is_whitespace) {
            words.extend(word.split_whitespace().map(str::to_owned));
        } else {
            is_value = !is_value && word.starts_with('-');
            words.push(word.clone());
        }
    }
    words
}

/// What leads into the attachment's chain. All ports of the protocol are named, those for the other family too, as the
/// reference does and its CHECK expects.
fn entries(attachment: &Attachment, target: &Target<'_>) -> Result<Vec<Entry>, Error> {
    let mut comment = format!("dnat name: \"{}\" id: \"{}\"", attachment.network, attachment.container_id);
    if !is_first(attachment) {
        let _ = write!(comment, " if: \"{}\"", attachment.ifname);
    }
    let comment = self::comment(&comment);
    let mut conditions = String::new();
    for word in words(target) {
        if word.contains(char::is_control) {
            return Err(Error::internal(format!("condition {word:?} contains a control character")));
        }
        let _ = write!(conditions, " {}", quoted(&word));
    }
    let mut rules = Vec::new();
    // By name, as the reference.
    for protocol in [Protocol::Sctp, Protocol::Tcp, Protocol::Udp] {
        let ports: Vec<String> =
            target.plan.mappings.iter().filter(|m| m.protocol == protocol).map(|m| m.host_port.to_string()).collect();
        for group in ports.chunks(MAX_PORTS) {
            let ports = group.join(",");
            let rule = format!(
                "-A {ENTRIES} -p {} -m comment --comment {} -m multiport --dports {ports}{conditions} -j {}",
                protocol.name(),
                quoted(&comment),
                chain(attachment)
            );
            rules.push(Entry { rule, protocol, ports });
        }
    }
    Ok(rules)
}

/// As the reference shortens it, but for one byte less: with that `iptables` refuses it.
fn comment(text: &str) -> String {
    if text.len() <= MAX_COMMENT {
        return text.to_owned();
    }
    let mut end = MAX_COMMENT - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "!-_./:,+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Where a line of `iptables-save` sends which packets, if it rewrites their destination.
pub(crate) fn translation(line: &str) -> Option<Translation> {
    let words: Vec<&str> = line.split(' ').collect();
    let after = |option: &str| words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1]);
    let to = after("--to-destination")?;
    let to = to.parse::<SocketAddr>().map(|to| to.ip()).or_else(|_| to.trim_matches(['[', ']']).parse()).ok()?;
    let protocol = after("-p").and_then(Protocol::parse).map(Protocol::number);
    Some(Translation { protocol, port: after("--dport").and_then(|port| port.parse().ok()), to })
}

fn has_chain(saved: &str, chain: &str) -> bool {
    let head = format!(":{chain} ");
    saved.lines().any(|line| line.starts_with(&head))
}

fn has_rule(saved: &str, rule: &str) -> bool {
    saved.lines().any(|line| line == rule)
}

/// The input of `iptables-restore` that makes everything, given what there is.
fn addition(attachment: &Attachment, target: &Target<'_>, saved: &str) -> Result<String, Error> {
    let chain = chain(attachment);
    let mut lines = vec![format!("*{TABLE}")];
    let shared = shared(target);
    let chains = SHARED.into_iter().filter(|c| *c == ENTRIES || shared.iter().any(|(of, ..)| of == c));
    // Not by a line `:CHAIN`: that would empty it if somebody has made it by now.
    lines.extend(chains.filter(|c| !has_chain(saved, c)).map(|c| format!("-N {c}")));
    // The own one is.
    lines.push(format!(":{chain} - [0:0]"));
    for (of, rule, is_first) in shared {
        if !has_rule(saved, &format!("-A {of} {rule}")) {
            lines.push(if is_first { format!("-I {of} 1 {rule}") } else { format!("-A {of} {rule}") });
        }
    }
    let jump = format!(" -j {chain}");
    lines.extend(saved.lines().filter(|l| l.ends_with(&jump)).map(|l| l.replacen("-A ", "-D ", 1)));
    lines.extend(own(attachment, target));
    lines.extend(entries(attachment, target)?.into_iter().map(|entry| entry.rule));
    lines.push("COMMIT\n".to_owned());
    Ok(lines.join("\n"))
}

fn first_missing(attachment: &Attachment, target: &Target<'_>, saved: &str) -> Option<String> {
    let chain = chain(attachment);
    if !has_chain(saved, &chain) {
        return Some(format!("chain {chain}"));
    }
    let shared = shared(target).into_iter().map(|(of, rule, _)| format!("-A {of} {rule}"));
    let own = own(attachment, target);
    if let Some(rule) = shared.chain(own).find(|rule| !has_rule(saved, rule)) {
        return Some(rule);
    }
    // Conditions are shown in another place and other words than they were given: the rest must do.
    let jump = format!(" -j {chain}");
    let entries = entries(attachment, target).unwrap_or_default();
    let is_there = |entry: &Entry| {
        let (protocol, ports) = (entry.protocol.name(), &entry.ports);
        saved.lines().any(|line| {
            line.starts_with(&format!("-A {ENTRIES} "))
                && line.ends_with(&jump)
                && line.contains(&format!(" -p {protocol} "))
                && line.contains(&format!(" -m multiport --dports {ports} "))
        })
    };
    entries.into_iter().find(|entry| !is_there(entry)).map(|entry| entry.rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plan;
    use crate::config::tests::plan;

    const PORTS: &str = r#""runtimeConfig":{"portMappings":[
        {"hostPort":8080,"containerPort":80,"protocol":"tcp"},
        {"hostPort":8053,"containerPort":53,"protocol":"udp"},
        {"hostPort":8443,"containerPort":443,"protocol":"tcp","hostIP":"10.1.2.3"},
        {"hostPort":9000,"containerPort":900,"protocol":"sctp","hostIP":"::1"},
        {"hostPort":9001,"containerPort":901,"protocol":"tcp","hostIP":"0.0.0.0"}]},"backend":"iptables""#;

    fn attachment() -> Attachment {
        Attachment { network: "tn".to_owned(), container_id: "c1".to_owned(), ifname: "eth0".to_owned() }
    }

    fn target<'a>(plan: &'a Plan, pod: &str) -> Target<'a> {
        Target::new(plan, pod.parse().unwrap())
    }

    /// contract.md 6.2, read off v1.9.1.
    const LAYOUT: &str = r#"*nat
-N CNI-HOSTPORT-SETMARK
-N CNI-HOSTPORT-MASQ
-N CNI-HOSTPORT-DNAT
:CNI-DN-5a0e4b11e4ca823ae73b9 - [0:0]
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-I POSTROUTING 1 -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 10.88.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.2:80
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 10.88.0.0/24 -p udp -m udp --dport 8053 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 127.0.0.1/32 -p udp -m udp --dport 8053 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -p udp -m udp --dport 8053 -j DNAT --to-destination 10.88.0.2:53
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 10.88.0.0/24 -d 10.1.2.3/32 -p tcp -m tcp --dport 8443 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 127.0.0.1/32 -d 10.1.2.3/32 -p tcp -m tcp --dport 8443 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -d 10.1.2.3/32 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.88.0.2:443
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 10.88.0.0/24 -p tcp -m tcp --dport 9001 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -s 127.0.0.1/32 -p tcp -m tcp --dport 9001 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-5a0e4b11e4ca823ae73b9 -p tcp -m tcp --dport 9001 -j DNAT --to-destination 10.88.0.2:901
-A CNI-HOSTPORT-DNAT -p sctp -m comment --comment "dnat name: \"tn\" id: \"c1\"" -m multiport --dports 9000 -j CNI-DN-5a0e4b11e4ca823ae73b9
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"tn\" id: \"c1\"" -m multiport --dports 8080,8443,9001 -j CNI-DN-5a0e4b11e4ca823ae73b9
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "dnat name: \"tn\" id: \"c1\"" -m multiport --dports 8053 -j CNI-DN-5a0e4b11e4ca823ae73b9
COMMIT
"#;

    /// The same as `iptables-save` shows it.
    fn saved() -> String {
        let line = |line: &str| match line.strip_prefix("-N ") {
            Some(chain) => format!(":{chain} - [0:0]\n"),
            None => format!("{}\n", line.replace("-I POSTROUTING 1 ", "-A POSTROUTING ")),
        };
        LAYOUT.lines().map(line).collect()
    }

    #[test]
    fn the_layout_is_the_references() {
        let plan = plan(PORTS).unwrap();
        assert_eq!(addition(&attachment(), &target(&plan, "10.88.0.2/24"), "").unwrap(), LAYOUT);
        let v6 = addition(&attachment(), &target(&plan, "fd00:88::2/64"), "").unwrap();
        assert!(!v6.contains("127.0.0.1") && !v6.contains("8443 -j DNAT"), "{v6}");
        assert!(v6.contains("-s fd00:88::/64 -d ::1/128 -p sctp -m sctp --dport 9000 -j CNI-HOSTPORT-SETMARK"), "{v6}");
        assert!(
            v6.contains("-d ::1/128 -p sctp -m sctp --dport 9000 -j DNAT --to-destination [fd00:88::2]:900"),
            "{v6}"
        );
        assert!(v6.contains("--dports 8080,8443,9001 "), "{v6}");
    }

    #[test]
    fn another_interface_of_the_container_has_a_chain_of_its_own() {
        let plan = plan(PORTS).unwrap();
        let second = Attachment { ifname: "net1".to_owned(), ..attachment() };
        assert_ne!(chain(&second), chain(&attachment()));
        assert_eq!(reference_chain(&second), chain(&attachment()));
        let script = addition(&second, &target(&plan, "10.88.0.3/24"), &saved()).unwrap();
        assert!(!script.contains(&chain(&attachment())) && script.contains(r#"id: \"c1\" if: \"net1\"""#), "{script}");
    }

    #[test]
    fn what_is_there_is_not_made_again_and_a_stale_chain_is_replaced() {
        let plan = plan(PORTS).unwrap();
        let pod = target(&plan, "10.88.0.2/24");
        let saved = saved().replace("--dports 8053", "--dports 1,2");
        let script = addition(&attachment(), &pod, &saved).unwrap();
        assert!(!script.contains("-N ") && !script.contains("POSTROUTING") && !script.contains("OUTPUT"));
        let removed: Vec<_> = script.lines().filter(|l| l.starts_with("-D ")).collect();
        assert_eq!(removed.len(), 3, "{script}");
        assert!(removed[2].starts_with("-D CNI-HOSTPORT-DNAT -p udp") && removed[2].contains("--dports 1,2"));
        assert!(script.contains(":CNI-DN-5a0e4b11e4ca823ae73b9 - [0:0]"));
    }

    #[test]
    fn options() {
        let script = |members: &str| {
            let plan = plan(&format!("{PORTS},{members}")).unwrap();
            addition(&attachment(), &target(&plan, "10.88.0.2/24"), "").unwrap()
        };
        let no_snat = script(r#""snat":false"#);
        assert!(!no_snat.contains("MARK") && !no_snat.contains("MASQ"), "{no_snat}");
        let all = script(r#""masqAll":true"#);
        assert!(!all.contains(" -s ") && all.contains("-p udp -m udp --dport 8053 -j CNI-HOSTPORT-SETMARK"), "{all}");
        let bit = script(r#""markMasqBit":4"#);
        assert!(bit.contains("--set-xmark 0x10/0x10") && bit.contains("--mark 0x10/0x10 -j MASQUERADE"), "{bit}");
        let external = script(r#""externalSetMarkChain":"KUBE-MARK-MASQ""#);
        assert!(
            !external.contains("CNI-HOSTPORT-M") && external.contains("--dport 8080 -j KUBE-MARK-MASQ"),
            "{external}"
        );
        let conditions = script(r#""conditionsV4":["!","-d","192.0.2.0/24","-m","comment","--comment","a \"b"]"#);
        let words = r#"--dports 8053 ! -d 192.0.2.0/24 -m comment --comment "a \"b" -j"#;
        assert!(conditions.contains(words), "{conditions}");
        // An option and its value in one word, as the other backend takes them; a value keeps its spaces.
        let conditions = script(r#""conditionsV4":["! -d 192.0.2.0/24","-m comment","--comment","- b"]"#);
        assert!(
            conditions.contains(r#"--dports 8053 ! -d 192.0.2.0/24 -m comment --comment "- b" -j"#),
            "{conditions}"
        );
        let plan = plan(&format!("{PORTS},\"conditionsV4\":[\"-s\",\"1\\nCOMMIT\"]")).unwrap();
        assert!(addition(&attachment(), &target(&plan, "10.88.0.2/24"), "").is_err());
    }

    #[test]
    fn ports_come_in_groups_of_fifteen() {
        let ports: Vec<_> =
            (1..=16).map(|p| format!("{{\"hostPort\":{p},\"containerPort\":1,\"protocol\":\"tcp\"}}")).collect();
        let plan =
            plan(&format!("\"backend\":\"iptables\",\"runtimeConfig\":{{\"portMappings\":[{}]}}", ports.join(",")))
                .unwrap();
        let script = addition(&attachment(), &target(&plan, "10.88.0.2/24"), "").unwrap();
        assert!(script.contains("--dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 ") && script.contains("--dports 16 "));
    }

    #[test]
    fn every_missing_rule_is_noticed() {
        let plan = plan(PORTS).unwrap();
        let pod = target(&plan, "10.88.0.2/24");
        let saved = saved();
        assert_eq!(first_missing(&attachment(), &pod, &saved), None);
        let lines: Vec<&str> = saved.lines().collect();
        for gone in lines.iter().filter(|l| l.starts_with("-A ")) {
            let rest: Vec<&str> = lines.iter().copied().filter(|l| l != gone).collect();
            assert!(first_missing(&attachment(), &pod, &rest.join("\n")).is_some(), "{gone}");
        }
    }

    #[test]
    fn comments_are_cut_to_what_iptables_takes() {
        assert_eq!(comment(&"a".repeat(255)).len(), 255);
        assert_eq!(comment(&"a".repeat(256)), format!("{}...", "a".repeat(252)));
    }
}
