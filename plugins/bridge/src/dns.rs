//! `dns` of the config, which takes the place of what IPAM says if it has any member.

use cni::Dns;
use serde::Deserialize;

/// The members as they stand in the config: an empty list is a member, too.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DnsConfig {
    nameservers: Option<Vec<String>>,
    domain: Option<String>,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl DnsConfig {
    /// What the result is to say, if the config has any member.
    pub(crate) fn over_ipam(&self) -> Option<Dns> {
        let domain = self.domain.clone().filter(|d| !d.is_empty());
        if self.nameservers.is_none() && domain.is_none() && self.search.is_none() && self.options.is_none() {
            return None;
        }
        Some(Dns {
            nameservers: self.nameservers.clone().unwrap_or_default(),
            domain: domain.unwrap_or_default(),
            search: self.search.clone().unwrap_or_default(),
            options: self.options.clone().unwrap_or_default(),
        })
    }
}
