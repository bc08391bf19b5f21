//! What the host does with forwarded packets, and so where a pod has to be let in.
//!
//! A packet passes every base chain of the hook `forward`, and a drop in one is final: an accept in a table of ours
//! saves nothing from another table's policy. So the policies decide. Only policies are looked at: what the rules of
//! a chain would do with a pod's packets is their author's business.

use cni::{Error, code};
use netlink::nft::{BaseChain, Family, Hook, Nft};

use crate::config::{Backend, Settings};
use crate::firewalld::Firewalld;
use crate::iptables::{self, Place};
use crate::pods;

/// firewalld's own tables, also that which drops all while it loads its rules.
const FIREWALLD_TABLES: &str = "firewalld";

/// Where the pod is to be let in, besides our own tables.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// firewalld, if it is to have the pod's addresses as sources.
    pub(crate) firewalld: Option<Firewalld>,
    /// iptables' rules, of these families and in these places, where nothing else would save the pod's packets.
    pub(crate) iptables: Vec<(Family, Place)>,
    /// iptables' rules, of these families and in whichever place, because the config says so.
    pub(crate) iptables_anyway: Vec<Family>,
    /// What drops although nothing is done about it: the config says that this is known.
    pub(crate) warnings: Vec<String>,
}

/// A base chain that drops what its rules do not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Drops {
    /// iptables' FORWARD.
    Iptables(Place),
    /// One of firewalld's.
    Firewalld(String),
    /// Nobody's that is known here; as people name it.
    Unknown(String),
}

/// Decides for pods with addresses of these families. Errors: it cannot be done as the config says, or at all.
pub(crate) fn needs(
    nft: &mut Nft,
    settings: &Settings,
    families: impl Iterator<Item = Family>,
) -> Result<Needs, Error> {
    let mut needs = Needs::default();
    needs.firewalld = match settings.backend {
        Backend::Auto => match Firewalld::find() {
            // If firewalld drops, its tables say so below.
            Err(error) if error.code != code::TRY_AGAIN => {
                needs.warnings.push(format!("{error}: the pod's addresses become sources of no zone"));
                None
            }
            found => found?,
        },
        Backend::Firewalld => Some(Firewalld::connect_or_fail()?),
        Backend::Nftables | Backend::Iptables => None,
    };
    for family in families {
        if settings.backend == Backend::Iptables {
            needs.iptables_anyway.push(family);
        }
        for drops in dropping(nft, family, &mut needs.warnings)? {
            needs.add(settings, family, &drops)?;
        }
    }
    Ok(needs)
}

impl Needs {
    /// Where iptables is to have its rules.
    pub(crate) fn places(&self, nft: &mut Nft) -> Vec<(Family, Place)> {
        let usual = self.anywhere().map(|family| (family, iptables::usual_place(nft, family)));
        usual.chain(self.iptables.iter().copied()).collect()
    }

    /// The families of which iptables is to have rules in one of its places, no matter in which.
    pub(crate) fn anywhere(&self) -> impl Iterator<Item = Family> {
        self.iptables_anyway.iter().copied().filter(|family| self.iptables.iter().all(|(of, _)| of != family))
    }

    fn add(&mut self, settings: &Settings, family: Family, drops: &Drops) -> Result<(), Error> {
        match (drops, settings.backend) {
            (Drops::Iptables(place), Backend::Auto | Backend::Iptables) => {
                if !self.iptables.contains(&(family, *place)) {
                    self.iptables.push((family, *place));
                }
            }
            (Drops::Iptables(_), Backend::Nftables) => {
                return Err(Error::internal(format!(
                    "backend \"nftables\": iptables' chain \"{family} filter FORWARD\" has policy DROP, \
                     from which no rule of another table can save a pod's packets"
                ))
                .with_details("leave backend unset, or set it to \"iptables\": then the pod is let in there"));
            }
            (Drops::Firewalld(_), _) if self.firewalld.is_some() => {}
            (Drops::Unknown(chain) | Drops::Firewalld(chain), Backend::Auto) => return Err(refusal(chain)),
            (Drops::Unknown(chain) | Drops::Firewalld(chain), _) => self.warnings.push(warning(chain)),
            (Drops::Iptables(_), Backend::Firewalld) => {
                self.warnings.push(warning(&format!("{family} filter FORWARD")))
            }
        }
        Ok(())
    }
}

/// The base chains that a forwarded packet of the family passes and that drop it unless a rule of theirs accepts it.
fn dropping(nft: &mut Nft, family: Family, warnings: &mut Vec<String>) -> Result<Vec<Drops>, Error> {
    let chains = match nft.base_chains(&[family, Family::Inet]) {
        // A kernel without nf_tables has none.
        Err(error) if ruleset::is_unsupported(&error) => Vec::new(),
        chains => chains.map_err(|e| Error::internal(format!("failed to read the host's base chains: {e}")))?,
    };
    let mut all: Vec<Drops> = chains.iter().filter_map(drops).collect();
    match iptables::xtables_drop(family)? {
        Some(true) => all.push(Drops::Iptables(Place::Xtables)),
        Some(false) => {}
        None => warnings.push(format!(
            "x_tables has a table {family} filter, which only iptables-legacy-save could read, which is missing: \
             if its FORWARD has policy DROP, the pod's packets end there"
        )),
    }
    Ok(all)
}

fn drops(chain: &BaseChain) -> Option<Drops> {
    if chain.hook != Hook::FORWARD.number || !chain.drops {
        return None;
    }
    let name = format!("{} {} {}", chain.family, chain.table, chain.name);
    Some(match (chain.family, chain.table.as_str(), chain.name.as_str()) {
        // An administrator may have given our own chain that policy: it has the rules for it.
        (_, ruleset::TABLE, pods::CHAIN) => return None,
        (Family::Ip | Family::Ip6, iptables::TABLE, iptables::FORWARD) => Drops::Iptables(Place::NfTables),
        (_, table, _) if table.starts_with(FIREWALLD_TABLES) => Drops::Firewalld(name),
        _ => Drops::Unknown(name),
    })
}

fn refusal(chain: &str) -> Error {
    Error::new(
        code::INTERNAL,
        format!(
            "the forward chain \"{chain}\" has policy drop: a pod's packets end there, whatever other tables accept"
        ),
    )
    .with_details(
        "it is not iptables' or firewalld's, so nothing is added to it: let the pods' addresses pass in it and set \
         backend to \"nftables\" to say that this is done, or give it policy accept",
    )
}

fn warning(chain: &str) -> String {
    format!("the forward chain \"{chain}\" has policy drop: pods depend on its own rules to let them pass")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: Family, table: &str, name: &str, hook: u32, drops: bool) -> BaseChain {
        BaseChain {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
            hook,
            kind: "filter".to_owned(),
            priority: 0,
            drops,
        }
    }

    #[test]
    fn only_policies_of_forward_chains_count() {
        assert_eq!(drops(&chain(Family::Ip, "filter", "FORWARD", 2, false)), None);
        assert_eq!(drops(&chain(Family::Ip, "filter", "INPUT", 1, true)), None);
        assert_eq!(drops(&chain(Family::Ip, "filter", "FORWARD", 2, true)), Some(Drops::Iptables(Place::NfTables)));
        assert_eq!(drops(&chain(Family::Ip, "oxbridge", "fw-forward", 2, true)), None);
        let unknown = |family, table, name| drops(&chain(family, table, name, 2, true)).unwrap();
        assert_eq!(unknown(Family::Inet, "filter", "FORWARD"), Drops::Unknown("inet filter FORWARD".to_owned()));
        assert_eq!(unknown(Family::Ip, "filter", "forward"), Drops::Unknown("ip filter forward".to_owned()));
        assert_eq!(unknown(Family::Ip, "mangle", "FORWARD"), Drops::Unknown("ip mangle FORWARD".to_owned()));
        assert_eq!(
            unknown(Family::Inet, "firewalld_policy_drop", "filter_forward"),
            Drops::Firewalld("inet firewalld_policy_drop filter_forward".to_owned())
        );
    }

    #[test]
    fn each_backend_does_what_it_can() {
        let settings = |backend| Settings {
            backend,
            admin_chain: String::new(),
            zone: String::new(),
            policy: crate::config::Policy::Open,
        };
        let add = |backend, drops: Drops| {
            let mut needs = Needs::default();
            needs.add(&settings(backend), Family::Ip, &drops).map(|()| (needs.iptables.len(), needs.warnings.len()))
        };
        let ours = Drops::Iptables(Place::NfTables);
        let foreign = Drops::Unknown("inet myfw forward".to_owned());
        assert_eq!(add(Backend::Auto, ours.clone()).unwrap(), (1, 0));
        assert_eq!(add(Backend::Iptables, ours.clone()).unwrap(), (1, 0));
        assert_eq!(add(Backend::Firewalld, ours.clone()).unwrap(), (0, 1));
        assert!(add(Backend::Nftables, ours).unwrap_err().msg.contains("ip filter"));
        for explicit in [Backend::Nftables, Backend::Iptables, Backend::Firewalld] {
            assert_eq!(add(explicit, foreign.clone()).unwrap(), (0, 1));
        }
        assert!(add(Backend::Auto, foreign).unwrap_err().msg.contains("inet myfw forward"));
    }
}
