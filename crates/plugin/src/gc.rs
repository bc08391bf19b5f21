//! What GC is told of the attachments that are alive.

use std::collections::HashSet;

use cni::attachment::{hex, read_identity};
use cni::{Attachment, Call, Error, ValidAttachment};

/// The attachments of a network that are alive: all others of it are stale.
#[derive(Debug)]
pub struct Valid {
    network: String,
    list: Vec<Attachment>,
    /// In hex digits.
    identities: HashSet<String>,
    containers: HashSet<String>,
}

impl Valid {
    /// What the runtime lists. `None` if it gave no list: then nothing is known to be stale. With an empty one
    /// everything is.
    ///
    /// # Errors
    /// Code 999: a list that is none.
    pub fn of(call: &Call) -> Result<Option<Self>, Error> {
        let Some(list) = call.valid_attachments()? else { return Ok(None) };
        let network = call.network.clone();
        let of = |v: ValidAttachment| Attachment {
            network: network.clone(),
            container_id: v.container_id,
            ifname: v.ifname,
        };
        let list: Vec<Attachment> = list.into_iter().map(of).collect();
        let identities = list.iter().map(Attachment::identity_hex).collect();
        let containers = list.iter().map(|a| a.container_id.clone()).collect();
        Ok(Some(Self { network, list, identities, containers }))
    }

    /// Name of the network.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The attachments that are alive.
    #[must_use]
    pub fn list(&self) -> &[Attachment] {
        &self.list
    }

    /// Whether this attachment of the network is alive.
    #[must_use]
    pub fn has(&self, container_id: &str, ifname: &str) -> bool {
        let (network, container_id, ifname) = (self.network.clone(), container_id.to_owned(), ifname.to_owned());
        self.identities.contains(&Attachment { network, container_id, ifname }.identity_hex())
    }

    /// Whether any of the container's is.
    #[must_use]
    pub fn has_container(&self, container_id: &str) -> bool {
        self.containers.contains(container_id)
    }

    /// Whether a text that begins with identity and network (a comment, an alias without its first word) is that of a
    /// stale attachment of this network.
    #[must_use]
    pub fn is_stale(&self, owner: &str) -> bool {
        let mut words = owner.split(' ');
        // A name that does not fit is cut, and nothing follows it: it may be that of another network, so it stays.
        let (Some(_), Some(network), Some(_)) = (words.next(), words.next(), words.next()) else { return false };
        let is_alive = |identity: [u8; 16]| self.identities.contains(&hex(&identity));
        network == self.network && read_identity(owner).is_some_and(|identity| !is_alive(identity))
    }
}

#[cfg(test)]
mod tests {
    use cni::Env;

    use super::*;

    fn valid(network: &str, list: &str) -> Option<Valid> {
        let json = format!(r#"{{"cniVersion":"1.1.0","name":"{network}","cni.dev/valid-attachments":{list}}}"#);
        Valid::of(&Call::new(Env::default(), json.into_bytes()).unwrap()).unwrap()
    }

    fn attachment(network: &str, container_id: &str) -> Attachment {
        let (container_id, ifname) = (container_id.to_owned(), "eth0".to_owned());
        Attachment { network: network.to_owned(), container_id, ifname }
    }

    #[test]
    fn only_attachments_of_the_network_that_are_not_listed_are_stale() {
        let valid = valid("net", r#"[{"containerID":"c1","ifname":"eth0"}]"#).unwrap();
        assert!(!valid.is_stale(&attachment("net", "c1").comment()));
        assert!(valid.is_stale(&attachment("net", "c2").comment()));
        assert!(!valid.is_stale(&attachment("net", "c1").marked_comment()));
        assert!(valid.is_stale(&attachment("net", "c2").marked_comment()));
        assert!(!valid.is_stale(&attachment("other", "c2").comment()));
        assert!(!valid.is_stale("bridge cni0"));
        assert!(valid.has("c1", "eth0") && !valid.has("c1", "eth1") && !valid.has("c2", "eth0"));
        assert!(valid.has_container("c1") && !valid.has_container("c2"));
    }

    #[test]
    fn no_list_is_not_an_empty_one() {
        let none = Call::new(Env::default(), br#"{"cniVersion":"1.1.0","name":"net"}"#.to_vec()).unwrap();
        assert!(Valid::of(&none).unwrap().is_none());
        assert!(valid("net", "null").unwrap().is_stale(&attachment("net", "c1").comment()));
        assert!(valid("net", "[]").unwrap().is_stale(&attachment("net", "c1").comment()));
    }

    #[test]
    fn a_name_that_may_be_cut_is_not_that_of_a_shorter_network() {
        let long = "n".repeat(200);
        for shorter in 80..=120 {
            assert!(!valid(&long[..shorter], "[]").unwrap().is_stale(&attachment(&long, "c1").comment()), "{shorter}");
        }
        // A container's id that is cut says enough.
        let fits = &long[..93];
        assert!(valid(fits, "[]").unwrap().is_stale(&attachment(fits, "c1").comment()));
    }
}
