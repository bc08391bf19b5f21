//! CHECK: all that ADD made is there, and lets the pod in where the host drops now.
//!
//! The reference's rules are as good as ours: its pods are let in by them.

use std::net::IpAddr;

use cni::{Attachment, Call, Error};
use netlink::nft::{Family, Nft};
use ruleset::{NewElement, Skeleton, TABLE};

use crate::config::Plan;
use crate::firewalld::Firewalld;
use crate::{add, bridge, forward, ingress, iptables, pods};

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let attachment = call.attachment();
    let mut nft = add::open()?;
    let mut needs = forward::needs(&mut nft, &plan.settings, plan.families())?;
    for (family, place) in &needs.iptables {
        let pod = add::pod_of(&plan, &attachment, *family);
        if let Some(missing) = iptables::missing(&mut nft, *place, &pod)? {
            return Err(differs(&missing));
        }
    }
    for family in needs.anywhere() {
        let pod = add::pod_of(&plan, &attachment, family);
        if let Some(missing) = iptables::missing_anywhere(&mut nft, &pod)? {
            return Err(differs(&missing));
        }
    }
    for address in &plan.addresses {
        let is_source = match &mut needs.firewalld {
            Some(firewalld) => check_source(&mut nft, firewalld, &plan, &attachment, *address)?,
            None => false,
        };
        if !is_owned(&mut nft, &attachment, &pods::element(pods::PODS, *address))?
            && !is_source
            && !iptables::has_anonymous(&mut nft, *address)?
            && !add::goes_without(&mut nft, &plan)
        {
            return Err(differs(&format!(
                "set {} {TABLE} {} does not have {address}",
                Family::of(*address),
                pods::PODS
            )));
        }
    }
    check_skeletons(&mut nft, &plan, &attachment)?;
    check_policy(&mut nft, &plan, &attachment)
}

/// Whether firewalld has the address as it should.
fn check_source(
    nft: &mut Nft,
    firewalld: &mut Firewalld,
    plan: &Plan,
    attachment: &Attachment,
    address: IpAddr,
) -> Result<bool, Error> {
    let zone = &plan.settings.zone;
    if firewalld.has(zone, address)? {
        return Ok(true);
    }
    let is_ours = is_owned(nft, attachment, &pods::element(pods::SOURCES, address))?;
    match firewalld.zone_of(address)? {
        // Where somebody had put it before ADD.
        Some(_) if !is_ours => Ok(false),
        other => {
            let found = other.map_or("in none".to_owned(), |zone| format!("in \"{zone}\""));
            Err(differs(&format!(
                "firewalld has {address} {found}, not in its zone \"{zone}\" (after a reload it is gone: ADD again)"
            )))
        }
    }
}

/// The chains that this attachment's elements are looked up by.
fn check_skeletons(nft: &mut Nft, plan: &Plan, attachment: &Attachment) -> Result<(), Error> {
    for family in plan.families() {
        let mut is_ours = false;
        for address in plan.addresses_of(family) {
            is_ours |= is_owned(nft, attachment, &pods::element(pods::PODS, address))?;
        }
        if is_ours {
            check_skeleton(nft, &pods::Forward(family))?;
        }
    }
    Ok(())
}

fn check_skeleton(nft: &mut Nft, skeleton: &dyn Skeleton) -> Result<(), Error> {
    let family = skeleton.family();
    let rules = nft.rules(family, TABLE, None).map_err(|e| reading(&e))?;
    if skeleton.is_whole(&rules) {
        return Ok(());
    }
    Err(differs(&format!("chain {family} {TABLE} {} lacks some of its rules", skeleton.name())))
}

fn check_policy(nft: &mut Nft, plan: &Plan, attachment: &Attachment) -> Result<(), Error> {
    let (Some(bridge), policy) = (&plan.bridge, plan.settings.policy) else { return Ok(()) };
    let ports = bridge::ports(policy, bridge, &plan.previous)?;
    let elements = ingress::elements(policy, bridge, &plan.addresses, &ports);
    let mut is_ours = false;
    for element in &elements {
        is_ours |= is_owned(nft, attachment, element)?;
    }
    if !is_ours && iptables::has_reference_policy(nft, bridge)? {
        return Ok(());
    }
    for skeleton in ingress::skeletons(&elements) {
        check_skeleton(nft, skeleton.as_ref())?;
    }
    for element in &elements {
        if !is_owned(nft, attachment, element)? {
            let NewElement { family, set, .. } = element;
            return Err(differs(&format!("set {family} {TABLE} {set} has no element of this attachment")));
        }
    }
    for family in plan.families() {
        if let Some(missing) = ingress::missing(nft, family, bridge).map_err(|e| reading(&e))? {
            return Err(differs(&missing));
        }
    }
    Ok(())
}

fn is_owned(nft: &mut Nft, attachment: &Attachment, element: &NewElement) -> Result<bool, Error> {
    match nft.element(element.family, TABLE, &element.set, &element.key) {
        Err(error) if ruleset::is_unsupported(&error) => Ok(false),
        found => Ok(found.map_err(|e| reading(&e))?.is_some_and(|found| ruleset::is_owned(&found, attachment))),
    }
}

fn differs(text: &str) -> Error {
    Error::internal(format!("firewall: {text}"))
}

fn reading(error: &netlink::Error) -> Error {
    Error::internal(format!("failed to read our rules of nf_tables: {error}"))
}
