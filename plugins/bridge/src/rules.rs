//! Where in our tables this plugin keeps elements of attachments.

use netlink::Result;
use netlink::nft::{Family, Nft};

use ruleset::spoof;

use crate::masquerade;

/// The sets that hold them.
pub(crate) fn sets(nft: &mut Nft) -> Result<Vec<(Family, String)>> {
    let mut all = vec![(Family::Bridge, spoof::PORTS.to_owned()), (Family::Bridge, spoof::ALLOWED.to_owned())];
    for family in [Family::Ip, Family::Ip6] {
        all.extend(masquerade::sets(nft, family)?.into_iter().map(|set| (family, set)));
    }
    Ok(all)
}
