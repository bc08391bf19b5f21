//! `vlan` and `vlanTrunk`: which VLANs a port is in.

use netlink::bridge::VlanRange;
use serde::Deserialize;

/// Highest VLAN id (IEEE 802.1Q).
const MAX_ID: i64 = 4094;

/// One item of `vlanTrunk`: `minID` and `maxID` together, `id`, or both.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TrunkItem {
    #[serde(rename = "minID")]
    min_id: Option<i64>,
    #[serde(rename = "maxID")]
    max_id: Option<i64>,
    id: Option<i64>,
}

/// The VLANs of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Vlans {
    /// VLAN of untagged frames; also that of the gateway.
    pub(crate) access: Option<u16>,
    /// VLANs of tagged frames: sorted, without overlap, neighbours joined.
    pub(crate) trunk: Vec<VlanRange>,
    /// Whether the bridge must filter VLANs at all: an empty trunk asks for that, too.
    pub(crate) filtering: bool,
    /// Whether the port also stays in the bridge's default VLAN.
    pub(crate) keep_default: bool,
}

impl Vlans {
    /// Errors: a text with the value that is out of range.
    pub(crate) fn new(vlan: i64, trunk: Option<&[TrunkItem]>, keep_default: bool) -> Result<Self, String> {
        let access = match vlan {
            0 => None,
            _ => Some(id(vlan).ok_or_else(|| format!("invalid VLAN ID {vlan} (must be between 0 and {MAX_ID})"))?),
        };
        let filtering = access.is_some() || trunk.is_some();
        let trunk = union(trunk.unwrap_or_default())?;
        Ok(Self { access, trunk, filtering, keep_default })
    }

    /// What the port is to be in, beside the default VLAN if that is kept.
    pub(crate) fn wanted(&self) -> Vec<VlanRange> {
        // A trunk without an access VLAN keeps untagged frames in VLAN 1, as the reference does.
        let untagged = self.access.or((!self.trunk.is_empty()).then_some(1));
        let Some(untagged) = untagged else { return Vec::new() };
        // In one VLAN a port's frames are tagged or not: the untagged one leaves the trunk.
        let tagged = self.trunk.iter().flat_map(|range| without(*range, untagged));
        [VlanRange::access(untagged)].into_iter().chain(tagged).collect()
    }

    /// What is found otherwise on a port, and what is expected; `None` if it is in the right VLANs. `tolerated`: a VLAN in
    /// which it may be as well.
    pub(crate) fn difference(&self, found: &[VlanRange], tolerated: Option<u16>) -> Option<(String, String)> {
        let wanted = self.wanted();
        let state = |all: &[VlanRange], id: u16| all.iter().find(|r| r.contains(id)).copied();
        let is_same = |a: VlanRange, b: VlanRange| a.pvid == b.pvid && a.untagged == b.untagged;
        (1..=MAX_ID).filter_map(|id| u16::try_from(id).ok()).find_map(|id| {
            match (state(&wanted, id), state(found, id)) {
                (None, None) => None,
                (Some(wanted), Some(found)) if is_same(wanted, found) => None,
                (Some(wanted), found) => Some((kind(id, found), kind(id, Some(wanted)))),
                (None, Some(_)) if tolerated == Some(id) => None,
                (None, found) => Some((kind(id, found), kind(id, None))),
            }
        })
    }

    /// Whether the port leaves the bridge's default VLAN.
    pub(crate) fn leaves_default(&self) -> bool {
        !self.keep_default && !self.wanted().is_empty()
    }
}

/// How a port is in a VLAN, as `bridge vlan` says it.
fn kind(id: u16, range: Option<VlanRange>) -> String {
    match range {
        None => format!("not in VLAN {id}"),
        Some(VlanRange { pvid: false, untagged: false, .. }) => format!("VLAN {id} tagged"),
        Some(VlanRange { pvid, untagged, .. }) => {
            let (pvid, egress) = (if pvid { " PVID" } else { "" }, if untagged { " Egress Untagged" } else { "" });
            format!("VLAN {id}{pvid}{egress}")
        }
    }
}

/// The range less one VLAN.
fn without(range: VlanRange, id: u16) -> Vec<VlanRange> {
    if !range.contains(id) {
        return vec![range];
    }
    let below = (range.first < id).then(|| VlanRange::tagged(range.first, id - 1));
    let above = (id < range.last).then(|| VlanRange::tagged(id + 1, range.last));
    below.into_iter().chain(above).collect()
}

fn id(value: i64) -> Option<u16> {
    u16::try_from(value).ok().filter(|_| (1..=MAX_ID).contains(&value))
}

fn union(items: &[TrunkItem]) -> Result<Vec<VlanRange>, String> {
    let mut ranges = Vec::new();
    for item in items {
        let checked = |name, value: i64| {
            id(value)
                .ok_or_else(|| format!("incorrect trunk {name} parameter {value} (must be between 1 and {MAX_ID})"))
        };
        match (item.min_id, item.max_id) {
            (Some(min), Some(max)) => {
                let (min, max) = (checked("minID", min)?, checked("maxID", max)?);
                if min > max {
                    return Err(format!("trunk minID {min} is greater than maxID {max}"));
                }
                ranges.push((min, max));
            }
            (None, Some(max)) => return Err(format!("trunk minID is missing beside maxID {max}")),
            (Some(min), None) => return Err(format!("trunk maxID is missing beside minID {min}")),
            (None, None) => {}
        }
        if let Some(value) = item.id {
            let one = checked("id", value)?;
            ranges.push((one, one));
        }
    }
    ranges.sort_unstable();
    let mut joined: Vec<VlanRange> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(previous) if first <= previous.last + 1 => previous.last = previous.last.max(last),
            _ => joined.push(VlanRange::tagged(first, last)),
        }
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(min_id: Option<i64>, max_id: Option<i64>, id: Option<i64>) -> TrunkItem {
        TrunkItem { min_id, max_id, id }
    }

    #[test]
    fn trunks_are_the_union_of_their_items() {
        let items =
            [item(Some(100), Some(110), Some(5)), item(Some(105), Some(120), None), item(None, None, Some(121))];
        let vlans = Vlans::new(0, Some(&items), false).unwrap();
        assert_eq!(vlans.trunk, [VlanRange::tagged(5, 5), VlanRange::tagged(100, 121)]);
        assert_eq!(vlans.wanted()[0], VlanRange::access(1));
        assert!(vlans.leaves_default());
    }

    #[test]
    fn the_untagged_vlan_is_not_tagged_as_well() {
        let items = [item(Some(1), Some(3), None)];
        let trunk = Vlans::new(0, Some(&items), false).unwrap();
        assert_eq!(trunk.wanted(), [VlanRange::access(1), VlanRange::tagged(2, 3)]);
        let both = Vlans::new(2, Some(&items), false).unwrap();
        assert_eq!(both.wanted(), [VlanRange::access(2), VlanRange::tagged(1, 1), VlanRange::tagged(3, 3)]);
    }

    #[test]
    fn an_empty_trunk_only_asks_for_filtering() {
        let vlans = Vlans::new(0, Some(&[]), false).unwrap();
        assert!(vlans.filtering && vlans.wanted().is_empty() && !vlans.leaves_default());
        assert!(!Vlans::new(0, None, false).unwrap().filtering);
    }

    #[test]
    fn whatever_differs_on_a_port_is_named() {
        let vlans = Vlans::new(100, Some(&[item(Some(200), Some(300), None)]), false).unwrap();
        let differs = |found: &[VlanRange], tolerated| vlans.difference(found, tolerated).map(|(found, _)| found);
        let (access, trunk) = (VlanRange::access(100), VlanRange::tagged(200, 300));
        assert_eq!(differs(&[access, trunk], None), None);
        assert_eq!(differs(&[access, VlanRange::tagged(200, 299)], None).unwrap(), "not in VLAN 300");
        assert_eq!(differs(&[access, trunk, VlanRange::tagged(7, 9)], None).unwrap(), "VLAN 7 tagged");
        let untagged = VlanRange { pvid: false, ..VlanRange::access(1) };
        assert_eq!(differs(&[untagged, access, trunk], None).unwrap(), "VLAN 1 Egress Untagged");
        assert_eq!(differs(&[untagged, access, trunk], Some(1)), None);
        let no_pvid = VlanRange { pvid: false, ..access };
        let (found, expected) = vlans.difference(&[no_pvid, trunk], None).unwrap();
        assert_eq!((&*found, &*expected), ("VLAN 100 Egress Untagged", "VLAN 100 PVID Egress Untagged"));
        assert_eq!(differs(&[VlanRange::tagged(100, 100), trunk], None).unwrap(), "VLAN 100 tagged");
    }

    #[test]
    fn values_out_of_range_are_named() {
        let fails = |vlan, items: &[TrunkItem]| Vlans::new(vlan, Some(items), false).unwrap_err();
        assert!(fails(4095, &[]).contains("invalid VLAN ID 4095"));
        assert!(fails(-1, &[]).contains("invalid VLAN ID -1"));
        assert!(fails(0, &[item(Some(0), Some(9), None)]).contains("incorrect trunk minID parameter 0"));
        assert!(fails(0, &[item(Some(1), Some(4095), None)]).contains("incorrect trunk maxID parameter 4095"));
        assert!(fails(0, &[item(Some(9), Some(8), None)]).contains("minID 9 is greater than maxID 8"));
        assert!(fails(0, &[item(Some(9), None, None)]).contains("maxID is missing"));
        assert!(fails(0, &[item(None, Some(9), None)]).contains("minID is missing"));
        assert!(fails(0, &[item(None, None, Some(0))]).contains("incorrect trunk id parameter 0"));
    }
}
