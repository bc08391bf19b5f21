//! What this crate makes, as independent programs see it: `ip -j`, `bridge -j`, `nft -j`. In namespaces of their own.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::fs::File;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlink::addr::{self, Dad};
use netlink::conntrack::{self, Filter};
use netlink::link::{self, NewBridge, NewIfb, NewVeth};
use netlink::monitor::Monitor;
use netlink::nft::{Batch, Comparison, Expression, Family, Field, Hook, Nft, Offset, Part, SetType, Verdict, joined};
use netlink::route::{self, Route};
use netlink::sock_diag::{self, Transport};
use netlink::tc::{self, Tbf};
use netlink::wire::Request;
use netlink::{Errno, Protocol, Socket, neigh, netconf};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// Runs a test on a thread inside a new network namespace; says so and passes where that needs more privilege.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: making network namespaces needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Families of netlink and kinds of messages that an emulator of programs may refuse: it takes every message apart.
enum Netlink {
    Neighbours,
    Netfilter,
    Qdiscs,
    Settings,
    Sockets,
}

impl Netlink {
    /// Whether the emulator that `OXBRIDGE_EMULATOR` names (without one: the kernel itself) takes these at all.
    fn is_there(&self, test: &str) -> bool {
        let Some(emulator) = std::env::var_os("OXBRIDGE_EMULATOR") else { return true };
        let route = || Socket::open(Protocol::Route).unwrap();
        let (what, refused) = match self {
            Self::Neighbours => ("RTM_DELNEIGH", neigh::forget(&mut route(), 1, [127, 0, 0, 9].into()).err()),
            Self::Netfilter => ("NETLINK_NETFILTER", Nft::open().err()),
            Self::Qdiscs => ("RTM_GETQDISC", tc::root(&mut route(), 1).err()),
            Self::Settings => ("RTM_GETNETCONF", netconf::is_forwarding(&mut route(), false).err()),
            Self::Sockets => ("NETLINK_SOCK_DIAG", Socket::open(Protocol::SockDiag).err()),
        };
        let refused = refused.is_some_and(|e| e.is(Errno::EPROTONOSUPPORT) || e.is(Errno::EOPNOTSUPP));
        if refused {
            // The harness would keep to itself what println prints.
            let line = format!("skipped: {test}: {} does not translate {what}\n", emulator.display());
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        }
        !refused
    }
}

/// Like [`in_namespace`], where these messages get to the kernel.
fn in_namespace_with(netlink: Netlink, test: impl FnOnce() + Send + 'static) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    in_namespace(move || {
        if netlink.is_there(&name) {
            test();
        }
    });
}

/// A second namespace, for the other end of a pair.
fn new_namespace() -> File {
    let open = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::spawn(open).join().unwrap()
}

fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

fn json(program: &str, args: &[&str]) -> Value {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn bridge(socket: &mut Socket) -> u32 {
    let new = NewBridge { name: "br0", mac: BRIDGE_MAC, mtu: Some(1400), vlan_filtering: false };
    link::create_bridge(socket, &new).unwrap();
    let made = link::by_name(socket, "br0").unwrap().unwrap();
    assert!(!made.is_up());
    link::set_up(socket, made.index).unwrap();
    made.index
}

fn pair(socket: &mut Socket, master: u32, pod: &File) -> link::Link {
    let new = NewVeth {
        host_name: "vethtest0",
        host_mac: [2, 0, 0, 0, 0, 2],
        master: Some(master),
        peer_name: "eth0",
        peer_mac: [2, 0, 0, 0, 0, 3],
        peer_netns: Some(pod.as_fd()),
        mtu: Some(1400),
    };
    link::create_veth(socket, &new).unwrap();
    let made = link::by_name(socket, "vethtest0").unwrap().unwrap();
    assert!(!made.is_up());
    link::set_up(socket, made.index).unwrap();
    made
}

#[test]
fn a_bridge_is_as_asked_for_and_keeps_its_address() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let index = bridge(&mut socket);
        assert!(!link::has_ports(&mut socket, index).unwrap());
        let pod = new_namespace();
        let port = pair(&mut socket, index, &pod);
        assert!(link::has_ports(&mut socket, index).unwrap());
        let seen = &json("ip", &["-j", "-d", "link", "show", "br0"])[0];
        assert_eq!(seen["address"], "02:00:00:00:00:01");
        assert_eq!(seen["mtu"], 1400);
        assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
        assert!(seen["flags"].as_array().unwrap().contains(&"UP".into()));
        let ours = link::by_name(&mut socket, "br0").unwrap().unwrap();
        assert!(ours.is("bridge") && ours.is_up() && ours.mac == Some(BRIDGE_MAC) && !ours.is_promiscuous());
        assert_eq!(port.master, Some(ours.index));
        let taken = link::create_bridge(
            &mut socket,
            &NewBridge { name: "br0", mac: BRIDGE_MAC, mtu: None, vlan_filtering: false },
        );
        assert!(taken.unwrap_err().is(Errno::EEXIST));
    });
}

#[test]
fn attributes_of_a_link_are_set_and_read() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        link::create_bridge(&mut socket, &NewBridge { name: "br0", mac: BRIDGE_MAC, mtu: None, vlan_filtering: false })
            .unwrap();
        let index = link::by_name(&mut socket, "br0").unwrap().unwrap().index;
        for on in [true, false] {
            link::set_promiscuous(&mut socket, index, on).unwrap();
            link::set_all_multicast(&mut socket, index, on).unwrap();
            link::set_tx_queue_len(&mut socket, index, 70 + u32::from(on)).unwrap();
            let ours = link::by_index(&mut socket, index).unwrap().unwrap();
            assert_eq!((ours.is_promiscuous(), ours.takes_all_multicast()), (on, on));
            let seen = &json("ip", &["-j", "link", "show", "br0"])[0];
            let has = |flag: &str| seen["flags"].as_array().unwrap().contains(&flag.into());
            assert_eq!((has("PROMISC"), has("ALLMULTI")), (on, on));
            assert_eq!(
                (u64::from(ours.tx_queue_len), seen["txqlen"].as_u64()),
                (70 + u64::from(on), Some(70 + u64::from(on)))
            );
        }
    });
}

#[test]
fn a_pair_is_made_with_both_ends_in_place() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let index = bridge(&mut socket);
        let pod = new_namespace();
        let host = pair(&mut socket, index, &pod);
        let mut request = Request::new();
        let alias = "x".repeat(255);
        link::push_alias(&mut request, host.index, &alias);
        netlink::bridge::push_port(&mut request, host.index, true, true);
        link::push_arp_notify(&mut request, host.index);
        link::push_no_link_local(&mut request, host.index);
        socket.transact(&request, |_| ()).unwrap();
        let seen = &json("ip", &["-j", "-d", "link", "show", "vethtest0"])[0];
        assert_eq!((&seen["master"], &seen["ifalias"]), (&"br0".into(), &alias.as_str().into()));
        assert_eq!(seen["linkinfo"]["info_slave_data"]["hairpin"], true);
        assert_eq!(seen["linkinfo"]["info_slave_data"]["isolated"], true);
        assert_eq!(seen["mtu"], 1400);
        let setting = std::fs::read_to_string("/proc/sys/net/ipv4/conf/vethtest0/arp_notify").unwrap();
        assert_eq!(setting.trim(), "1");
        assert_eq!(seen["inet6_addr_gen_mode"], "none");
        let port = link::by_index(&mut socket, host.index).unwrap().unwrap().port.unwrap();
        assert!(port.hairpin && port.isolated && !port.forwarding);
        let peer = inside(&pod, || {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            link::by_name(&mut socket, "eth0").unwrap().unwrap()
        });
        assert_eq!((peer.index, peer.peer, peer.mac), (host.peer.unwrap(), Some(host.index), Some([2, 0, 0, 0, 0, 3])));
        assert!(!peer.is_up());
        link::delete(&mut socket, host.index).unwrap();
        link::delete(&mut socket, host.index).unwrap();
        assert_eq!(link::by_index(&mut socket, host.index).unwrap(), None);
    });
}

#[test]
fn whether_the_host_forwards_is_told() {
    in_namespace_with(Netlink::Settings, || {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        assert_eq!(netconf::is_forwarding(&mut socket, false), Ok(false));
        assert_eq!(netconf::is_forwarding(&mut socket, true), Ok(false));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(netconf::is_forwarding(&mut socket, false), Ok(true));
        assert_eq!(netconf::is_forwarding(&mut socket, true), Ok(false));
    });
}

#[test]
fn a_monitor_sees_the_port_forward() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let index = bridge(&mut socket);
        let pod = new_namespace();
        let host = pair(&mut socket, index, &pod);
        let mut monitor = Monitor::links().unwrap();
        // Late, so that only a notification can tell.
        let peer = host.peer.unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            inside(&pod, || link::set_up(&mut Socket::open(Protocol::Route).unwrap(), peer).unwrap());
            pod
        });
        let began = Instant::now();
        let ready = monitor.wait(
            Instant::now() + Duration::from_secs(5),
            |e| e,
            || {
                let link = link::by_index(&mut socket, host.index)?.ok_or(Errno::ENODEV)?;
                Ok::<_, netlink::Error>((link.is_operational && link.port.is_some_and(|p| p.forwarding)).then_some(()))
            },
        );
        assert_eq!(ready, Ok(Some(())));
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        late.join().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(monitor.wait(deadline, |e| e, || Ok::<Option<()>, netlink::Error>(None)), Ok(None));
        assert!(Instant::now() >= deadline);
    });
}

#[test]
fn addresses_and_routes_carry_all_that_was_stated() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let index = bridge(&mut socket);
        let (v4, v6): (IpAddr, IpAddr) = ("10.1.0.2".parse().unwrap(), "fd01::2".parse().unwrap());
        let mut request = Request::new();
        addr::push_add(&mut request, index, v4, 24, Dad::Skip);
        addr::push_add(&mut request, index, v6, 64, Dad::Skip);
        link::push_up(&mut request, index);
        for (dst, prefix, gateway) in [("192.0.2.0", 24, "10.1.0.1"), ("2001:db8::", 32, "fd01::1")] {
            route::push_add(
                &mut request,
                &Route {
                    dst: dst.parse().unwrap(),
                    prefix,
                    gateway: Some(gateway.parse().unwrap()),
                    link: Some(index),
                    table: Some(1000),
                    scope: None,
                    priority: Some(50),
                    mtu: Some(1300),
                    advmss: Some(1200),
                },
            );
        }
        socket.transact(&request, |_| ()).unwrap();
        let seen = json("ip", &["-j", "-d", "addr", "show", "br0"]);
        let infos = seen[0]["addr_info"].as_array().unwrap();
        let v4_seen = infos.iter().find(|i| i["local"] == "10.1.0.2").unwrap();
        assert_eq!((&v4_seen["prefixlen"], &v4_seen["broadcast"]), (&24.into(), &"10.1.0.255".into()));
        let v6_seen = infos.iter().find(|i| i["local"] == "fd01::2").unwrap();
        assert_eq!((&v6_seen["nodad"], &v6_seen["tentative"]), (&true.into(), &Value::Null));
        for family in ["-4", "-6"] {
            let routes = json("ip", &["-j", family, "route", "show", "table", "1000"]);
            assert_eq!((&routes[0]["metric"], &routes[0]["metrics"][0]["mtu"]), (&50.into(), &1300.into()), "{routes}");
            assert_eq!(routes[0]["metrics"][0]["advmss"], 1200);
        }
        let listed = addr::list(&mut socket, index).unwrap();
        assert!(
            listed.iter().any(|a| a.ip == v4 && a.prefix == 24)
                && listed.iter().any(|a| a.ip == v6 && !a.is_tentative())
        );
        let found = route::list(&mut socket, false).unwrap();
        assert_eq!(route::list_of_link(&mut socket, false, index).unwrap(), found);
        assert_eq!(route::list_of_link(&mut socket, false, 1).unwrap(), []);
        assert!(found.iter().any(|r| r.table == Some(1000) && r.mtu == Some(1300) && r.advmss == Some(1200)));
        let lo = link::by_name(&mut socket, "lo").unwrap().unwrap().index;
        link::set_up(&mut socket, lo).unwrap();
        let of = |link| move |a: &addr::Address| a.link == link;
        let all = addr::list_all(&mut socket).unwrap();
        assert_eq!(all.iter().copied().filter(of(index)).collect::<Vec<_>>(), listed);
        assert_eq!(all.iter().filter(|a| of(lo)(a)).count(), 2, "127.0.0.1 and ::1 in {all:?}");
        assert!(addr::add(&mut socket, index, v4, 24, Dad::Skip).unwrap_err().is(Errno::EEXIST));
        addr::delete(&mut socket, index, v4, 24).unwrap();
        assert!(!addr::list(&mut socket, index).unwrap().iter().any(|a| a.ip == v4));
    });
}

#[test]
fn what_is_believed_of_a_neighbour_is_forgotten() {
    in_namespace_with(Netlink::Neighbours, || {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let index = bridge(&mut socket);
        for ip in ["10.1.0.2", "fd01::2"] {
            let add = ["neigh", "add", ip, "lladdr", "02:00:00:00:00:08", "dev", "br0"];
            assert!(Command::new("ip").args(add).status().unwrap().success());
        }
        let known = || -> Vec<Value> {
            let all = json("ip", &["-j", "neigh", "show", "dev", "br0"]);
            all.as_array().unwrap().iter().filter(|n| n["lladdr"] == "02:00:00:00:00:08").cloned().collect()
        };
        assert_eq!(known().len(), 2);
        neigh::forget(&mut socket, index, "10.1.0.2".parse().unwrap()).unwrap();
        assert!(matches!(&known()[..], [one] if one["dst"] == "fd01::2"));
        // Also what is not known.
        for ip in ["fd01::2", "fd01::2", "fd01::3", "10.1.0.2"] {
            neigh::forget(&mut socket, index, ip.parse().unwrap()).unwrap();
        }
        assert_eq!(known(), [Value::Null; 0]);
    });
}

#[test]
fn the_kernels_own_words_reach_the_error() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let index = bridge(&mut socket);
        let mut request = Request::new();
        link::push_up(&mut request, index);
        let route = Route {
            dst: "192.0.2.0".parse().unwrap(),
            prefix: 24,
            gateway: Some("198.51.100.1".parse().unwrap()),
            link: Some(index),
            table: None,
            scope: None,
            priority: None,
            mtu: None,
            advmss: None,
        };
        route::push_add(&mut request, &route);
        let error = socket.transact(&request, |_| ()).unwrap_err();
        assert_eq!((error.errno, error.request), (Errno::ENETUNREACH, 1));
        assert!(error.text.as_deref().is_some_and(|t| t.contains("gateway")), "{error}");
    });
}

const TABLE: &str = "oxtest";

fn ruleset(nft: &mut Nft) {
    let mut batch = Batch::new();
    let (key, mut pair) = (
        {
            let mut k = b"veth0".to_vec();
            k.resize(16, 0);
            k
        },
        Vec::new(),
    );
    pair.extend_from_slice(&key);
    pair.extend_from_slice(&[2, 0, 0, 0, 0, 9, 0, 0]);
    batch.add_table(Family::Ip, TABLE, "a test");
    batch.add_set(Family::Ip, TABLE, "pods", SetType::IPV4);
    batch.add_chain(Family::Ip, TABLE, "out", Some(Hook::SOURCE_NAT));
    batch.add_set(Family::Ip, TABLE, "pods-10.1.0.0/16", SetType::IPV4);
    batch.add_element(Family::Ip, TABLE, "pods-10.1.0.0/16", &[10, 1, 0, 7], "owner two");
    batch.add_rule(Family::Ip, TABLE, "out", "away", |r| {
        r.in_set(&[Part::Packet(Offset::IP_SOURCE)], "pods-10.1.0.0/16")
            .masked(Offset::IP_DESTINATION, &[255, 255, 0, 0], Comparison::NotEqual, &[10, 1, 0, 0])
            .masquerade();
    });
    batch.insert_rule(Family::Ip, TABLE, "out", "multicast", |r| {
        r.masked(Offset::IP_DESTINATION, &[240, 0, 0, 0], Comparison::Equal, &[224, 0, 0, 0]).verdict(&Verdict::Return);
    });
    batch.add_chain(Family::Ip, TABLE, "subnet-10.1.0.0/16", None);
    batch.add_rule(Family::Ip, TABLE, "out", "elsewhere", |r| {
        r.verdict(&Verdict::Goto("subnet-10.1.0.0/16".into()));
    });
    batch.add_element(Family::Ip, TABLE, "pods", &[10, 1, 0, 5], "owner one");
    batch.add_table(Family::Bridge, TABLE, "a test");
    batch.add_set(Family::Bridge, TABLE, "ports", SetType::INTERFACE_NAME);
    batch.add_set(Family::Bridge, TABLE, "allowed", SetType::of(&[Field::InterfaceName, Field::EtherAddress]));
    batch.add_chain(Family::Bridge, TABLE, "in", Some(Hook::BRIDGE_INPUT));
    batch.add_rule(Family::Bridge, TABLE, "in", "spoofed", |r| {
        r.in_set(&[Part::InputName], "ports")
            .not_in_set(&[Part::InputName, Part::Packet(Offset::ETHER_SOURCE)], "allowed")
            .counter()
            .verdict(&Verdict::Drop);
    });
    batch.add_element(Family::Bridge, TABLE, "ports", &key, "owner one");
    batch.add_element(Family::Bridge, TABLE, "allowed", &pair, "owner one");
    nft.commit(batch).unwrap();
}

fn listed() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nft_prints_what_was_meant_and_reads_it_back() {
    in_namespace_with(Netlink::Netfilter, || {
        let mut nft = Nft::open().unwrap();
        ruleset(&mut nft);
        let text = listed();
        for line in [
            "type ipv4_addr",
            "10.1.0.5 comment \"owner one\"",
            "goto subnet-10.1.0.0/16 comment \"elsewhere\"",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip daddr 224.0.0.0/4 return comment \"multicast\"",
            "10.1.0.7 comment \"owner two\"",
            "ip saddr @pods-10.1.0.0/16 ip daddr != 10.1.0.0/16 masquerade comment \"away\"",
            "type ifname . ether_addr",
            "\"veth0\" . 02:00:00:00:00:09 comment \"owner one\"",
            "iifname @ports iifname . ether saddr != @allowed counter packets 0 bytes 0 drop comment \"spoofed\"",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
        // What an administrator saves and loads again at boot is the same.
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("flush ruleset\n{text}").as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(listed(), text);
        let rules = nft.rules(Family::Ip, TABLE, None).unwrap();
        assert_eq!(rules.len(), 3);
        assert_eq!(rules[2].target().as_deref(), Some("subnet-10.1.0.0/16"));
        assert_eq!(nft.sets(Family::Bridge, TABLE).unwrap(), ["ports", "allowed"]);
        assert_eq!(nft.sets(Family::Ip6, TABLE).unwrap(), [""; 0]);
        assert_eq!(rules[0].comment.as_deref(), Some("multicast"));
        assert!(rules.iter().any(|r| r.comment.as_deref() == Some("multicast") && r.chain == "out"));
    });
}

#[test]
fn maps_of_ports_and_what_is_done_with_them_read_as_meant() {
    in_namespace_with(Netlink::Netfilter, || {
        let mut nft = Nft::open().unwrap();
        let (port, entry) =
            (joined(&[&[6], &8080_u16.to_be_bytes()]), joined(&[&[10, 1, 0, 5], &80_u16.to_be_bytes()]));
        let port6 = joined(&[&[17], &53_u16.to_be_bytes()]);
        let entry6 = joined(&[&std::net::Ipv6Addr::LOCALHOST.octets(), &5353_u16.to_be_bytes()]);
        let mut batch = Batch::new();
        for (family, address, port, entry) in
            [(Family::Ip, Field::Ipv4, &port, &entry), (Family::Ip6, Field::Ipv6, &port6, &entry6)]
        {
            let values = if address == Field::Ipv4 { &[Field::Ipv4, Field::Port] } else { &[Field::Ipv6, Field::Port] };
            let parts = [Part::Protocol, Part::Packet(Offset::DESTINATION_PORT)];
            batch.add_table(family, TABLE, "a test");
            batch.add_map(family, TABLE, "ports", SetType::of(&[Field::Protocol, Field::Port]), SetType::of(values));
            batch.add_chain(family, TABLE, "in", Some(Hook::DESTINATION_NAT));
            batch.add_rule(family, TABLE, "in", "ports", |r| {
                r.to_local().send_to_entry(family, &parts, "ports");
            });
            batch.add_entry(family, TABLE, "ports", port, entry, "owner one");
        }
        batch.add_chain(Family::Ip, TABLE, "out", Some(Hook::OUTPUT_NAT_FIRST));
        batch.add_learning_set(Family::Ip, TABLE, "hosts", SetType::IPV4, 65535);
        batch.add_rule(Family::Ip, TABLE, "out", "hosts", |r| {
            r.learn(&[Part::Packet(Offset::IP_DESTINATION)], "hosts");
        });
        batch.add_chain(Family::Ip, TABLE, "back", Some(Hook::SOURCE_NAT));
        batch.add_rule(Family::Ip, TABLE, "back", "back", |r| {
            r.is_destination_rewritten().in_set(&[Part::OriginalDestination4], "hosts").masquerade();
        });
        batch.add_chain(Family::Ip, TABLE, "forwarded", Some(Hook::FORWARD));
        batch.add_rule(Family::Ip, TABLE, "forwarded", "known", |r| {
            r.is_established_or_related().verdict(&Verdict::Accept);
        });
        batch.add_rule(Family::Ip, TABLE, "forwarded", "links", |r| {
            let mut name = b"cni0".to_vec();
            name.resize(16, 0);
            r.equals(Part::InputName, &name).differs(Part::OutputName, &name).verdict(&Verdict::Drop);
        });
        batch.add_chain(Family::Ip, TABLE, "raw", Some(Hook::INPUT_RAW));
        batch.add_rule(Family::Ip, TABLE, "raw", "here", |r| {
            r.to_input_address().verdict(&Verdict::Accept);
        });
        nft.commit(batch).unwrap();
        let text = listed();
        for line in [
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "tcp . 8080 comment \"owner one\" : 10.1.0.5 . 80",
            "udp . 53 comment \"owner one\" : ::1 . 5353",
            "type nat hook prerouting priority dstnat + 1; policy accept;",
            "fib daddr type local dnat ip to meta l4proto . th dport map @ports comment \"ports\"",
            "fib daddr type local dnat ip6 to meta l4proto . th dport map @ports comment \"ports\"",
            "add @hosts { ip daddr } comment \"hosts\"",
            "ct status dnat ct original ip daddr @hosts masquerade comment \"back\"",
            "ct state established,related accept comment \"known\"",
            "iifname \"cni0\" oifname != \"cni0\" drop comment \"links\"",
            "fib daddr . iif type local accept comment \"here\"",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("flush ruleset\n{text}").as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(listed(), text);
        let elements = nft.elements(Family::Ip, TABLE, "ports").unwrap();
        assert_eq!((&elements[0].key, elements[0].value.as_ref()), (&port, Some(&entry)));
        let chains = nft.base_chains(&[Family::Ip, Family::Ip6]).unwrap();
        assert_eq!(chains.len(), 6);
        let forward = chains.iter().find(|c| c.name == "forwarded").unwrap();
        assert_eq!((forward.hook, forward.kind.as_str(), forward.priority, forward.drops), (2, "filter", 0, false));
        assert!(chains.iter().any(|c| c.family == Family::Ip6 && c.priority == -99));
        assert!(chains.iter().any(|c| c.name == "out" && c.priority == -101));
    });
}

#[test]
fn chains_of_dormant_tables_are_none() {
    in_namespace_with(Netlink::Netfilter, || {
        let nft = |words: &str| assert!(Command::new("nft").arg(words).status().unwrap().success(), "{words}");
        let chain = "chain c { type filter hook forward priority 0; policy drop; };";
        nft(&format!("table inet asleep {{ flags dormant; {chain} }}"));
        nft(&format!("table inet awake {{ {chain} }}"));
        let names = || -> Vec<String> {
            let chains = Nft::open().unwrap().base_chains(&[Family::Ip, Family::Inet]).unwrap();
            chains.into_iter().map(|chain| chain.table).collect()
        };
        assert_eq!(names(), ["awake"]);
        nft("add table inet asleep");
        assert_eq!(names().len(), 2);
    });
}

#[test]
fn elements_are_found_by_key_and_changed_only_by_who_knows_the_ruleset() {
    in_namespace_with(Netlink::Netfilter, || {
        let mut nft = Nft::open().unwrap();
        assert_eq!(nft.rules(Family::Ip, TABLE, None).unwrap(), []);
        assert_eq!(nft.elements(Family::Ip, TABLE, "pods").unwrap(), []);
        assert_eq!(nft.element(Family::Ip, TABLE, "pods", &[10, 1, 0, 5]).unwrap(), None);
        ruleset(&mut nft);
        let element = nft.element(Family::Ip, TABLE, "pods", &[10, 1, 0, 5]).unwrap().unwrap();
        assert_eq!(element.comment.as_deref(), Some("owner one"));
        assert_eq!(nft.element(Family::Ip, TABLE, "pods", &[10, 1, 0, 6]).unwrap(), None);
        assert_eq!(nft.elements(Family::Ip, TABLE, "pods").unwrap(), [element]);

        let mut again = Batch::new();
        again.add_element(Family::Ip, TABLE, "pods", &[10, 1, 0, 5], "owner two");
        assert!(nft.commit(again).unwrap_err().is(Errno::EEXIST));

        let generation = nft.generation().unwrap();
        let mut other = Batch::new();
        other.add_chain(Family::Ip, TABLE, "other", None);
        nft.commit(other).unwrap();
        let mut late = Batch::if_generation(generation);
        late.delete_element(Family::Ip, TABLE, "pods", &[10, 1, 0, 5]);
        assert!(nft.commit(late).unwrap_err().is(Errno::ERESTART));
        let mut timely = Batch::if_generation(nft.generation().unwrap());
        timely.delete_element(Family::Ip, TABLE, "pods", &[10, 1, 0, 5]);
        nft.commit(timely).unwrap();
        assert_eq!(nft.elements(Family::Ip, TABLE, "pods").unwrap(), []);
        assert!(nft.has_chain(Family::Ip, TABLE, "other").unwrap());
        assert!(!nft.has_chain(Family::Ip, TABLE, "another").unwrap());
    });
}

#[test]
fn thousands_of_elements_fit_in_one_transaction_and_one_answer() {
    in_namespace_with(Netlink::Netfilter, || {
        let mut nft = Nft::open().unwrap();
        ruleset(&mut nft);
        let mut batch = Batch::new();
        for n in 0..5000u32 {
            let key = (0x0a02_0000 + n).to_be_bytes();
            batch.add_element(Family::Ip, TABLE, "pods", &key, &format!("owner {n}"));
        }
        nft.commit(batch).unwrap();
        assert_eq!(nft.elements(Family::Ip, TABLE, "pods").unwrap().len(), 5001);
    });
}

#[test]
fn rules_of_iptables_are_understood() {
    in_namespace_with(Netlink::Netfilter, || {
        let script = "*nat\n:CNI-test - [0:0]\n-A CNI-test -d 10.1.0.0/24 -j ACCEPT\n-A POSTROUTING -s 10.1.0.5/32 -m comment --comment x -j CNI-test\n-A POSTROUTING ! -s 10.1.0.6/32 -j CNI-test\nCOMMIT\n";
        let mut child = Command::new("iptables-restore").arg("--noflush").stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let mut nft = Nft::open().unwrap();
        let rules = nft.rules(Family::Ip, "nat", Some("POSTROUTING")).unwrap();
        let rule = rules.iter().find(|r| r.target().as_deref() == Some("CNI-test")).unwrap();
        assert!(rule.compared_values().contains(&vec![10, 1, 0, 5]), "{:?}", rule.compared_values());
        let steps = rule.steps();
        let [from, equals, Expression::Match { name, .. }, Expression::Counter, Expression::Verdict(verdict)] =
            &steps[..]
        else {
            panic!("{steps:?}")
        };
        assert_eq!(from, &Expression::Packet(Offset::IP_SOURCE));
        assert_eq!(equals, &Expression::Equals(vec![10, 1, 0, 5]));
        assert_eq!((name.as_str(), verdict), ("comment", &Verdict::Jump("CNI-test".to_owned())));
        let not = rules.iter().find(|r| r.compared_values() == [[10, 1, 0, 6]]).unwrap();
        assert_eq!(not.steps()[1], Expression::Other("cmp".to_owned()), "not equal is no equal");
        let mut batch = Batch::if_generation(nft.generation().unwrap());
        batch.delete_rule(Family::Ip, "nat", "POSTROUTING", rule.handle);
        batch.delete_rule(Family::Ip, "nat", "POSTROUTING", not.handle);
        batch.delete_chain(Family::Ip, "nat", "CNI-test");
        nft.commit(batch).unwrap();
        let saved = Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
        let saved = String::from_utf8(saved.stdout).unwrap();
        assert!(!saved.contains("CNI-test"), "{saved}");
    });
}

const IFB: NewIfb<'_> = NewIfb { name: "bwptest0", mac: [2, 0, 0, 0, 0, 7], mtu: 1400 };

/// A link of a pair, an ifb, and the namespace of the pair's other end, with which the link goes.
fn shaped_links(socket: &mut Socket) -> (u32, u32, File) {
    let bridge = bridge(socket);
    let pod = new_namespace();
    let link = pair(socket, bridge, &pod).index;
    link::create_ifb(socket, &IFB).unwrap();
    (link, link::by_name(socket, IFB.name).unwrap().unwrap().index, pod)
}

fn redirects(socket: &mut Socket, link: u32) -> Vec<u32> {
    let filters = tc::filters(socket, link).unwrap();
    assert!(filters.iter().all(|f| f.kind == "u32"), "{filters:?}");
    filters.into_iter().flat_map(|f| f.redirects).collect()
}

#[test]
fn an_ifb_is_as_asked_for() {
    in_namespace(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        assert_eq!(link::has_ifb(&mut socket), Ok(true));
        assert_eq!(json("ip", &["-j", "link"]).as_array().unwrap().len(), 1, "asking makes nothing");
        let (_, ifb, _pod) = shaped_links(&mut socket);
        let seen = &json("ip", &["-j", "-d", "link", "show", IFB.name])[0];
        assert_eq!((&seen["address"], &seen["mtu"]), (&"02:00:00:00:00:07".into(), &1400.into()));
        assert_eq!((&seen["linkinfo"]["info_kind"], &seen["txqlen"]), (&"ifb".into(), &Value::Null), "{seen}");
        let ours = link::by_index(&mut socket, ifb).unwrap().unwrap();
        assert!(ours.is("ifb") && !ours.is_up() && ours.mac == Some(IFB.mac) && ours.mtu == 1400);
        assert!(link::is_taken(&link::create_ifb(&mut socket, &IFB).unwrap_err()));
    });
}

#[test]
fn a_token_bucket_filter_is_as_asked_for() {
    in_namespace_with(Netlink::Qdiscs, || {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let (link, _, _pod) = shaped_links(&mut socket);
        assert_eq!(tc::root(&mut socket, link), Ok(None));
        assert_eq!(tc::has_tbf(&mut socket, link), Ok(true));
        assert_eq!(tc::root(&mut socket, link), Ok(None), "asking makes nothing");
        let gigabytes = 3_221_225_472;
        for tbf in [
            Tbf { rate: 1_000_000, burst: 10_000, limit: 35_000 },
            Tbf { rate: 125, burst: 1514, limit: 1517 },
            // More time than the parameters can say.
            Tbf { rate: 125_000, burst: 268_435_455, limit: 300_000_000 },
            // More than 2^32 bytes a second.
            Tbf { rate: 12_500_000_000, burst: gigabytes, limit: u32::MAX },
        ] {
            let mut request = Request::new();
            tc::push_tbf(&mut request, link, &tbf);
            socket.transact(&request, |_| ()).unwrap();
            assert!(socket.transact(&request, |_| ()).unwrap_err().is(Errno::EEXIST));
            let seen = &json("tc", &["-j", "qdisc", "show", "dev", "vethtest0"])[0];
            assert_eq!((&seen["kind"], &seen["handle"], &seen["root"]), (&"tbf".into(), &"1:".into(), &true.into()));
            assert_eq!(seen["options"]["rate"], tbf.rate, "{seen}");
            let found = tc::root(&mut socket, link).unwrap().unwrap();
            let state = found.tbf.unwrap();
            assert!(found.is_our_tbf());
            assert_eq!((state.rate, state.limit), (tbf.rate, tbf.limit));
            assert!(state.burst_ticks.abs_diff(tbf.burst_ticks()) <= 1, "{state:?} {}", tbf.burst_ticks());
            if tbf.burst < 20_000 {
                let burst = seen["options"]["burst"].as_u64().unwrap();
                assert!(burst.abs_diff(tbf.burst.into()) <= 1, "{seen}");
            }
            tc::delete_root(&mut socket, link).unwrap();
            assert_eq!(tc::root(&mut socket, link), Ok(None));
        }
        tc::delete_root(&mut socket, link).unwrap();
        tc::delete_root(&mut socket, 9999).unwrap();
        assert_eq!(tc::root(&mut socket, 9999), Ok(None));
    });
}

#[test]
fn what_a_link_receives_is_redirected_by_one_action() {
    in_namespace_with(Netlink::Qdiscs, || {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let (link, ifb, _pod) = shaped_links(&mut socket);
        assert_eq!((tc::ingress(&mut socket, link), redirects(&mut socket, link)), (Ok(None), vec![]));
        let mut request = Request::new();
        tc::push_ingress(&mut request, link);
        tc::push_redirect(&mut request, link, ifb);
        socket.transact(&request, |_| ()).unwrap();
        assert!(socket.transact(&request, |_| ()).unwrap_err().is(Errno::EEXIST));
        let filters = json("tc", &["-j", "filter", "show", "dev", "vethtest0", "parent", "ffff:"]);
        let filter = filters.as_array().unwrap().iter().find(|f| !f["options"]["actions"].is_null()).unwrap();
        assert_eq!((&filter["kind"], &filter["protocol"], &filter["pref"]), (&"u32".into(), &"all".into(), &1.into()));
        assert_eq!(
            filter["options"]["match"],
            serde_json::json!({ "value": "0", "mask": "0", "offmask": "", "off": 0 })
        );
        let actions = filter["options"]["actions"].as_array().unwrap();
        assert_eq!(actions.len(), 1, "{filter}");
        assert_eq!((&actions[0]["mirred_action"], &actions[0]["to_dev"]), (&"redirect".into(), &IFB.name.into()));
        assert_eq!(
            (&actions[0]["direction"], &actions[0]["control_action"]["type"]),
            (&"egress".into(), &"stolen".into())
        );
        assert_eq!(tc::ingress(&mut socket, link).unwrap().unwrap().kind, "ingress");
        assert_eq!(redirects(&mut socket, link), vec![ifb]);
        tc::delete_ingress(&mut socket, link).unwrap();
        tc::delete_ingress(&mut socket, link).unwrap();
        tc::delete_ingress(&mut socket, 9999).unwrap();
        assert_eq!((tc::ingress(&mut socket, link), redirects(&mut socket, 9999)), (Ok(None), vec![]));
    });
}

/// What the kernel's own list says of flows to these ports: `udp 127.0.0.1 5300`.
fn tracked() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let value = |line: &str, key: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or_default().to_owned()
    };
    let mut all: Vec<_> = text
        .lines()
        .map(|line| {
            let protocol = line.split_whitespace().nth(2).unwrap();
            format!("{protocol} {} {}", value(line, "dst="), value(line, "dport="))
        })
        .collect();
    all.sort();
    all
}

fn loopback_up() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let lo = link::by_name(&mut socket, "lo").unwrap().unwrap().index;
    link::set_up(&mut socket, lo).unwrap();
}

/// UDP flows to 127.0.0.1 (of which the answers come from 127.0.0.3), 127.0.0.2 and ::1 at port 5300, to another port,
/// and a TCP connection.
fn flows() -> TcpListener {
    loopback_up();
    let rules = "table inet t { chain out { type nat hook output priority -100; \
                 ip daddr 127.0.0.1 udp dport 5300 dnat ip to 127.0.0.3:5301; }; \
                 chain tracked { type filter hook output priority 0; ct state new counter; }; }";
    assert!(Command::new("nft").arg(rules).status().unwrap().success());
    let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
    let v6 = UdpSocket::bind("[::1]:0").unwrap();
    for (socket, to) in [(&v4, "127.0.0.1:5300"), (&v4, "127.0.0.2:5300"), (&v4, "127.0.0.1:5302"), (&v6, "[::1]:5300")]
    {
        socket.send_to(b"x", to).unwrap();
    }
    let server = TcpListener::bind("127.0.0.1:5300").unwrap();
    drop(TcpStream::connect("127.0.0.1:5300").unwrap());
    server
}

#[test]
fn only_the_flows_that_are_meant_are_forgotten() {
    in_namespace_with(Netlink::Netfilter, || {
        let _server = flows();
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let (v6, tcp, other) = (
            "udp 0000:0000:0000:0000:0000:0000:0000:0001 5300".to_owned(),
            "tcp 127.0.0.1 5300".to_owned(),
            "udp 127.0.0.1 5302".to_owned(),
        );
        let (first, second) = ("udp 127.0.0.1 5300".to_owned(), "udp 127.0.0.2 5300".to_owned());
        assert_eq!(tracked(), [tcp.clone(), v6.clone(), first.clone(), other.clone(), second]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let filter = Filter { family: Family::Ip, ports: &[5300], answers_from: None };

        // Every way of asking comes to the same.
        let pod = Filter { answers_from: Some(ip("127.0.0.9")), ..filter };
        assert_eq!(conntrack::delete_udp(&mut socket, &pod, |_| true), Ok(0));
        assert_eq!(conntrack::delete_udp(&mut socket, &filter, |_| false), Ok(0));
        let none = Filter { ports: &[1, 2, 3, 4, 5, 6, 7, 8], ..filter };
        assert_eq!(conntrack::delete_udp(&mut socket, &none, |_| true), Ok(0));
        assert_eq!(conntrack::delete_udp(&mut socket, &Filter { ports: &[], ..filter }, |_| true), Ok(0));
        assert_eq!(tracked().len(), 5);

        assert_eq!(conntrack::delete_udp(&mut socket, &filter, |flow| flow.destination == ip("127.0.0.2")), Ok(1));
        assert_eq!(tracked(), [tcp.clone(), v6.clone(), first, other.clone()]);
        let pod = Filter { answers_from: Some(ip("127.0.0.3")), ..filter };
        assert_eq!(conntrack::delete_udp(&mut socket, &pod, |_| true), Ok(1));
        assert_eq!(tracked(), [tcp.clone(), v6, other.clone()]);
        assert_eq!(conntrack::delete_udp(&mut socket, &filter, |_| true), Ok(0));
        let v6_filter = |from: &str| Filter { family: Family::Ip6, answers_from: Some(ip(from)), ..filter };
        assert_eq!(conntrack::delete_udp(&mut socket, &v6_filter("fd00::9"), |_| true), Ok(0));
        assert_eq!(conntrack::delete_udp(&mut socket, &v6_filter("::1"), |_| true), Ok(1));
        assert_eq!(tracked(), [tcp.clone(), other]);
        let many = Filter { ports: &[1, 2, 3, 4, 5, 6, 7, 5302], ..filter };
        assert_eq!(conntrack::delete_udp(&mut socket, &many, |_| true), Ok(1));
        assert_eq!(tracked(), [tcp]);
    });
}

/// Local addresses of the sockets that `ss` shows as waiting at this port: `0.0.0.0`, `::` as `*` or `[::]`.
fn shown_by_ss(options: &str, port: u16) -> usize {
    let output = Command::new("ss").args(["-Hn", options, "sport", "=", &port.to_string()]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().filter(|l| l.contains("LISTEN") || l.contains("UNCONN")).count()
}

#[test]
fn who_listens_is_known_with_address_and_inode() {
    in_namespace_with(Netlink::Sockets, || {
        loopback_up();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ask = |transport, port| sock_diag::listeners(transport, port).unwrap();
        let ips = |transport, port| ask(transport, port).map(|all| all.iter().map(|l| l.ip).collect::<Vec<_>>());
        assert_eq!(ips(Transport::Tcp, 8080), Some(vec![]));
        let (wide, own) = (TcpListener::bind("[::]:8080").unwrap(), TcpListener::bind("127.0.0.1:8081").unwrap());
        let _client = TcpStream::connect("127.0.0.1:8081").unwrap();
        let _accepted = own.accept().unwrap();
        assert_eq!(ips(Transport::Tcp, 8080), Some(vec![ip("::")]));
        assert_eq!(ips(Transport::Tcp, 8081), Some(vec![ip("127.0.0.1")]), "the connection is no listener");
        assert_eq!((shown_by_ss("-ltn", 8080), shown_by_ss("-ltn", 8081)), (1, 1));
        assert_eq!(ips(Transport::Udp, 8080), Some(vec![]));
        let _bound = [UdpSocket::bind("127.0.0.1:8080").unwrap(), UdpSocket::bind("[::1]:8080").unwrap()];
        let connected = UdpSocket::bind("127.0.0.2:8080").unwrap();
        connected.connect("127.0.0.3:9").unwrap();
        assert_eq!(ips(Transport::Udp, 8080), Some(vec![ip("127.0.0.1"), ip("::1")]));
        assert_eq!(shown_by_ss("-uan", 8080), 2);
        let [found] = ask(Transport::Tcp, 8080).unwrap()[..] else { panic!() };
        assert!(!found.is_v6_only && found.hears(ip("127.0.0.1")) && found.hears(ip("::1")));
        let link = std::fs::read_link(format!("/proc/self/fd/{}", wide.as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some(format!("socket:[{}]", found.inode).as_str()));
        // Not on every kernel is there SCTP: unknown or nobody.
        assert!(ask(Transport::Sctp, 8080).is_none_or(|all| all.is_empty()));
    });
}

#[test]
fn who_changes_the_ruleset_is_told() {
    in_namespace_with(Netlink::Netfilter, || {
        let mut monitor = Monitor::ruleset().unwrap();
        assert_eq!(monitor.next_writer(Instant::now() + Duration::from_millis(50)), Ok(None));
        assert!(Command::new("nft").args(["add", "table", "ip", "t"]).status().unwrap().success());
        let writer = monitor.next_writer(Instant::now() + Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(writer.name, "nft");
        assert!(writer.pid > 0 && writer.to_string() == format!("nft (pid {})", writer.pid));
    });
}
