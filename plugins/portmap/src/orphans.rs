//! What attachments have left that are gone and for which no DEL came.

use cni::attachment::read_identity;
use plugin::orphans;

use crate::add::failed;
use crate::native::owner;
use crate::{flows, native};

/// Looks for it, once a minute at most, and removes it: what our own tables say is published by who is certainly gone.
pub(crate) fn sweep() {
    orphans::sweep("portmap", || {
        let Some(mut nft) = ruleset::open()? else { return Ok(()) };
        let owners = native::owners_of_all(&mut nft).map_err(|e| failed("look for who has published ports", &e))?;
        let gone = owner::orphans(&owners)?;
        if gone.is_empty() {
            return Ok(());
        }
        let is_gone = |identity: &[u8; 16]| gone.has(identity);
        let is_stale = |comment: &str| read_identity(comment).is_some_and(|identity| is_gone(&identity));
        let removed = native::remove_stale(&mut nft, is_stale, is_gone, |_, _| Ok(()))?;
        ruleset::tell_of_orphans("portmap", &removed);
        let flows = flows::forget_of_pods(&native::udp_ports(&removed));
        drop((flows, nft));
        Ok(())
    });
}
