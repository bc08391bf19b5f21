//! ADD: one transaction. Whatever fails after something was made takes back what this call made, and nothing else.

use cni::{AddResult, Attachment, Call, Cidr, Error, Interface, delegate};
use host::netns::NetNs;
use host::sysctl::Dir;
use host::undo::Undo;
use netlink::nft::Nft;
use netlink::{Protocol, Socket, link, neigh};

use crate::bridge::{self, Bridge};
use crate::config::{MasqueradeBackend, Plan};
use crate::gateway::{self, GatewayLink};
use crate::veth::{self, Veth};
use crate::{gateway_port, iptables, lock, masquerade, pod, port, rules, spoof};
use ruleset::{NewElement, Skeleton};

/// Tells our own IPAM plugin that the attachment's host link is this plugin's, so that its absence means something.
pub(crate) const MADE_BY: (&str, &str) = ("OXBRIDGE_PLUGIN", "bridge");

/// How often a bridge is made that vanishes again.
const BRIDGE_TRIES: usize = 3;
/// Position of the pod's end in the result's interfaces.
const POD_INTERFACE: usize = 2;

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    if plan.ipam.is_none() && !call.can_reply_without_ips() {
        return Err(Error::internal(format!(
            "cniVersion {} cannot express a result without IP addresses: give the network an ipam, or cniVersion 0.3.0 or newer",
            call.version
        )));
    }
    let attachment = call.attachment();
    let netns = NetNs::open(&call.env.netns).map_err(|e| Error::internal(e.to_string()))?;
    let mut host = plugin::open(Protocol::Route)?;
    let mut pod = netns.enter(|| plugin::open(Protocol::Route)).map_err(|e| Error::internal(e.to_string()))??;
    veth::ensure_absent(&mut host, &mut pod, &attachment)?;

    let mut undo = Undo::new();
    // The delegate works while this process looks at the bridge.
    let ipam = plan.ipam.as_deref().map(|ipam| delegate::start(call, ipam, "ADD", &[MADE_BY])).transpose()?;
    let looked = look(&mut host, &netns, &plan);
    let mut result = AddResult::default();
    if let (Some(running), Some(ipam)) = (ipam, &plan.ipam) {
        // A failed IPAM ADD has left nothing; its DEL would free what the running container of this id holds.
        let release = || undo.push("releasing the addresses", move || delegate::run(call, ipam, "DEL", &[MADE_BY]));
        result = running.wait_then(call, release)?;
        if result.ips.is_empty() {
            return Err(Error::internal(format!("IPAM plugin \"{ipam}\" returned missing IP config")));
        }
    }
    let Looked { mtu, pod_v6 } = looked?;
    let has_v6 = result.ips.iter().any(|ip| !ip.address.is_ipv4());
    if has_v6 && pod_v6.is_none() {
        return Err(pod::no_ipv6());
    }
    result.interfaces.clear();
    complete_routes(&plan, &mut result)?;
    plugin::step()?;

    let gateways = if plan.gateway { gateway::addresses(&result) } else { Vec::new() };
    let connection = Connection { plan: &plan, attachment: &attachment, netns: &netns, gateways: &gateways, mtu };
    let Connected { bridge, gateway, veth } = connect(&mut host, &connection, &mut undo)?;
    // What cannot be undone comes last: a bridge that cannot be made has changed nothing of the host.
    gateway::forward(&mut host, &plan, &gateways, &result)?;
    install_rules(&plan, &attachment, &veth, &result, &mut undo)?;
    port::set_up(&mut host, &veth)?;
    plugin::step()?;

    let mut refused = Vec::new();
    if plan.ipam.is_some() {
        refused = pod::prepare(pod_v6.as_ref(), &plan, &attachment.ifname, &result)?;
        pod::configure(&mut pod, &plan, &veth, &result)?;
    } else if !plan.leave_down {
        pod::set_up(&mut pod, &veth)?;
    }
    if !plan.leave_down {
        port::wait_until_forwarding(&mut host, (veth.host, &veth.host_name), &bridge)?;
        if let Some((index, name)) = gateway.as_ref().and_then(|link| link.port.as_ref()) {
            port::wait_until_forwarding(&mut host, (*index, name), &bridge)?;
        }
    }
    if plan.ipam.is_some() {
        // A pod of IPv4 addresses need not wait for its link-local one.
        if has_v6 {
            pod::settle(&netns, &mut pod, &veth, &plan)?;
        }
        if plan.announce {
            let settings = pod_v6.as_ref().filter(|_| has_v6);
            refused.extend(pod::announce(&mut pod, settings, &veth, &attachment.ifname)?);
        }
        forget_neighbours(&mut host, gateway.as_ref().map_or(bridge.index, |link| link.index), &result)?;
    }
    pod::tell(&refused);
    plugin::step()?;

    describe(&mut host, call, &plan, &Connected { bridge, gateway, veth }, &mut result)?;
    call.reply(&result)?;
    undo.disarm();
    Ok(())
}

/// What can be known while IPAM is at work.
struct Looked {
    /// MTU in bytes, if one was asked for.
    mtu: Option<u32>,
    /// IPv6's settings of the pod's links.
    pod_v6: Option<Dir>,
}

fn look(host: &mut Socket, netns: &NetNs, plan: &Plan) -> Result<Looked, Error> {
    let mtu = bridge::wanted_mtu(host, plan.mtu)?;
    if let Some(link) = bridge::get(host, &plan.bridge)? {
        bridge::refuse_foreign(plan, mtu, &link)?;
    }
    Ok(Looked { mtu, pod_v6: pod::v6_settings(netns)? })
}

/// Gives addresses the gateway that `isGateway` implies, their interface, and the pod its default routes.
fn complete_routes(plan: &Plan, result: &mut AddResult) -> Result<(), Error> {
    for ip in &mut result.ips {
        ip.interface = Some(i64::try_from(POD_INTERFACE).unwrap_or(2));
        if ip.gateway.is_none() && plan.gateway {
            ip.gateway = Some(ip.address.first_host().ok_or_else(|| {
                Error::internal(format!("isGateway: the subnet of {} has no address for a gateway", ip.address))
            })?);
        }
    }
    if plan.default_gateway {
        for v4 in [true, false] {
            let first = result.ips.iter().filter(|ip| ip.address.is_ipv4() == v4).find_map(|ip| ip.gateway);
            // A default route from IPAM leads to the same gateway, or to the one it names.
            let has_default = result.routes.iter().any(|r| pod::is_default(r) && r.dst.is_ipv4() == v4);
            if let (Some(gateway), false) = (first, has_default) {
                result.routes.push(cni::Route::default_via(gateway));
            }
        }
    }
    // Values that the kernel cannot take are refused while there is nothing to undo but the lease.
    result.routes.iter().try_for_each(|route| pod::planned_route(route, result, 0).map(drop))
}

/// What a pod is to be connected to, and how.
struct Connection<'c> {
    plan: &'c Plan,
    attachment: &'c Attachment,
    netns: &'c NetNs,
    gateways: &'c [Cidr],
    /// In bytes, if one was asked for.
    mtu: Option<u32>,
}

/// Where the pod is connected.
struct Connected {
    bridge: Bridge,
    /// The link that has the gateways' addresses, if there are any.
    gateway: Option<GatewayLink>,
    veth: Veth,
}

/// Makes the bridge with its gateways, and the pair on it.
fn connect(host: &mut Socket, connection: &Connection<'_>, undo: &mut Undo<'_>) -> Result<Connected, Error> {
    if let Some(done) = connection.to_ready(host, undo)? {
        return Ok(done);
    }
    // Other programs know nothing of the lock and may delete the bridge that was just seen.
    let _lock = lock::bridges()?;
    let &Connection { plan, gateways, mtu, .. } = connection;
    for _ in 0..BRIDGE_TRIES {
        let bridge = bridge::ensure(host, plan, mtu, undo)?;
        let gateway = match plan.vlans.access {
            _ if gateways.is_empty() => None,
            None => Some(GatewayLink::of(&bridge)),
            Some(vlan) => Some(connection.gateway_port(&bridge, vlan).ensure(host, undo)?),
        };
        if let Some(link) = &gateway {
            gateway::ensure(host, plan, link, gateways, undo)?;
        }
        if let Some(veth) = connection.join(host, &bridge, undo)? {
            return Ok(Connected { bridge, gateway, veth });
        }
    }
    Err(Error::new(cni::code::TRY_AGAIN, format!("bridge \"{}\" is removed as often as it is made", plan.bridge))
        .with_details("another program deletes it: see `ip monitor link`"))
}

impl Connection<'_> {
    fn gateway_port<'w>(&'w self, bridge: &'w Bridge, vlan: u16) -> gateway_port::Wanted<'w> {
        gateway_port::Wanted { plan: self.plan, bridge, vlan, mtu: self.mtu }
    }

    /// Makes the pair on a bridge that has all it needs, as mostly, beside other calls that do the same: while they wait
    /// for the kernel's own lock, none of them keeps the others waiting. `None`: something is missing, and nothing was
    /// done.
    fn to_ready(&self, host: &mut Socket, undo: &mut Undo<'_>) -> Result<Option<Connected>, Error> {
        let _lock = lock::beside_others()?;
        let Some(bridge) = bridge::ready(host, self.plan, self.mtu)? else { return Ok(None) };
        let gateway = match self.plan.vlans.access {
            _ if self.gateways.is_empty() => None,
            None => Some(GatewayLink::of(&bridge)),
            Some(vlan) => match self.gateway_port(&bridge, vlan).ready(host)? {
                Some(link) => Some(link),
                None => return Ok(None),
            },
        };
        if let Some(link) = &gateway
            && !gateway::are_there(host, link, self.gateways)?
        {
            return Ok(None);
        }
        Ok(self.join(host, &bridge, undo)?.map(|veth| Connected { bridge, gateway, veth }))
    }

    /// Makes the pair, and puts its port under the plan's restraints, which include its VLANs: whoever gets the lock next
    /// sees for which of them it needs a gateway. `None`: the bridge is gone.
    fn join(&self, host: &mut Socket, bridge: &Bridge, undo: &mut Undo<'_>) -> Result<Option<Veth>, Error> {
        plugin::step()?;
        if self.plan.vlans.access.is_some() && !self.gateways.is_empty() {
            // Whoever made the gateway may fail as well, and leave it for this pod. Once that is gone, as it comes later.
            let name = self.plan.bridge.clone();
            undo.push("removing the VLAN's gateway", move || -> Result<(), Error> {
                let mut host = plugin::open(Protocol::Route)?;
                let bridge = bridge::get(&mut host, &name)?;
                bridge.map_or(Ok(()), |bridge| gateway_port::remove_unused(&mut host, &bridge))
            });
        }
        let veth = veth::create(host, self.attachment, bridge, self.netns, self.plan.mac, self.mtu, undo)?;
        if let Some(veth) = &veth {
            plugin::step()?;
            port::restrain(host, self.plan, self.attachment, bridge, veth)?;
        }
        Ok(veth)
    }
}

/// Masquerading and the spoof filter, in one transaction, before the pod can send.
fn install_rules(
    plan: &Plan,
    attachment: &Attachment,
    veth: &Veth,
    result: &AddResult,
    undo: &mut Undo<'_>,
) -> Result<(), Error> {
    let mut skeletons: Vec<Box<dyn Skeleton>> = Vec::new();
    let mut elements: Vec<NewElement> = Vec::new();
    if let Some((families, backend)) = plan.masquerade {
        let addresses: Vec<Cidr> = result.ips.iter().map(|ip| ip.address).filter(|a| families.has(a.addr())).collect();
        match backend {
            MasqueradeBackend::Nftables => {
                for address in &addresses {
                    skeletons.extend(masquerade::skeletons(*address));
                    elements.push(masquerade::element(*address));
                }
            }
            MasqueradeBackend::Iptables => iptables::install(attachment, &addresses, undo)?,
        }
    }
    if plan.check_mac {
        skeletons.push(Box::new(spoof::Filter));
        elements.extend(spoof::elements(&veth.host_name, veth.pod_mac));
    }
    if elements.is_empty() {
        return Ok(());
    }
    let mut nft = Nft::open().map_err(|e| Error::internal(format!("failed to open nf_tables: {e}")))?;
    // Before it is done: a commit whose answer gets lost has happened.
    let owner = attachment.clone();
    undo.push("removing the pod's rules", move || {
        let mut nft = Nft::open().map_err(|e| Error::internal(e.to_string()))?;
        ruleset::remove(&mut nft, rules::sets, |element| ruleset::is_owned(element, &owner), |_, _| Ok(())).map(drop)
    });
    ruleset::install(&mut nft, &attachment.comment(), &skeletons, &elements)
}

/// The host must not go on sending to an earlier owner of the addresses.
fn forget_neighbours(host: &mut Socket, link: u32, result: &AddResult) -> Result<(), Error> {
    for ip in &result.ips {
        neigh::forget(host, link, ip.address.addr())
            .map_err(|e| Error::internal(format!("failed to forget the neighbour {}: {e}", ip.address.addr())))?;
    }
    Ok(())
}

/// Completes the result: what was made, and the config's `dns`.
fn describe(
    host: &mut Socket,
    call: &Call,
    plan: &Plan,
    Connected { bridge, gateway, veth }: &Connected,
    result: &mut AddResult,
) -> Result<(), Error> {
    let mac_text = |mac: Option<link::Mac>| mac.map(host::mac::format).unwrap_or_default();
    // A bridge that we did not make may take its address from its ports, of which it has a new one.
    let bridge_mac =
        if bridge.is_ours { bridge.mac } else { bridge::get(host, &bridge.name)?.map_or(bridge.mac, |link| link.mac) };
    let interface = |name: &str, mac: String, sandbox: &str| Interface {
        name: name.to_owned(),
        mac,
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    };
    result.interfaces = vec![
        interface(&bridge.name, mac_text(bridge_mac), ""),
        interface(&veth.host_name, mac_text(Some(veth.host_mac)), ""),
        interface(&call.env.ifname, mac_text(Some(veth.pod_mac)), &call.env.netns),
    ];
    if let Some(link) = gateway.as_ref().filter(|link| link.vlan.is_some()) {
        result.interfaces.push(interface(&link.name, mac_text(link.mac), ""));
    }
    if let Some(dns) = plan.dns.over_ipam() {
        result.dns = dns;
    }
    Ok(())
}
