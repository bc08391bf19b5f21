//! What attachments have left whose link is gone and for which no DEL came.

use std::collections::HashSet;

use cni::Error;
use cni::attachment::read_identity;
use netlink::nft::Nft;
use plugin::orphans::{self, Orphans};

use crate::lock::Turn;
use crate::remove::{self, Gone, Scope};

/// Looks for it, once a minute at most, and removes it wherever a DEL would: our own tables tell whose it is.
pub(crate) fn sweep() {
    orphans::sweep("firewall", || {
        let Some(mut nft) = ruleset::open()? else { return Ok(()) };
        let owners = owners(&mut nft).map_err(|e| Error::internal(format!("failed to read nf_tables: {e}")))?;
        let gone = Orphans::among(owners)?;
        if gone.is_empty() {
            return Ok(());
        }
        // It is not worth a wait: if it is another's turn, the next minute will do.
        let Some(turn) = Turn::if_free() else { return Ok(()) };
        let removed = remove::remove(&Gone {
            is_gone: &|comment| read_identity(comment).is_some_and(|identity| gone.has(&identity)),
            of_reference: &[],
            zone: "",
            asks_firewalld: false,
            scope: Scope::Within(&turn),
        })?;
        ruleset::tell_of_orphans("firewall", &removed);
        Ok(())
    });
}

/// Attachments of other interface plugins never had a link by which they could be missed.
fn owners(nft: &mut Nft) -> netlink::Result<HashSet<[u8; 16]>> {
    let all = ruleset::elements(nft, remove::all_sets())?;
    Ok(all.iter().filter_map(|found| ruleset::marked_identity(found.element.comment.as_deref()?)).collect())
}
