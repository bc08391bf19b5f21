//! CHECK: what ADD set is still set.
//!
//! Compared are meanings, not texts, and only what is configured: another party's capture is no fault of the pod.

use cni::{Call, Error};
use host::netns::NetNs;

use crate::add::required_result;
use crate::attributes::Attributes;
use crate::config::Plan;
use crate::pod::Pod;
use crate::sysctl;

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let previous = required_result(call)?;
    let netns = NetNs::open(&call.env.netns).map_err(|e| Error::internal(e.to_string()))?;
    netns.enter(|| sysctl::check(&plan.sysctls)).map_err(|e| Error::internal(e.to_string()))??;
    if plan.attributes.is_empty() {
        return Ok(());
    }
    let attachment = call.attachment();
    let pod = Pod { netns: &netns, attachment: &attachment, result: Some(&previous) };
    let (_, link) = pod.find()?;
    let present = Attributes::of(&link).only(&plan.attributes);
    // Both have the same ones: what is wanted, and what is there of it.
    for wanted in plan.attributes.list() {
        if !present.list().any(|attribute| attribute == wanted) {
            let same = |attribute: &crate::attributes::Attribute| {
                std::mem::discriminant(attribute) == std::mem::discriminant(&wanted)
            };
            let found = present.list().find(same).map_or_else(|| "nothing".to_owned(), |found| found.to_string());
            return Err(Error::internal(format!("\"{}\": found {found}, expected {wanted}", link.name))
                .with_details("it was changed after ADD"));
        }
    }
    Ok(())
}
