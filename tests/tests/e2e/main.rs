//! The whole suite, by topic: every test is a node and pods of its own, and the built binaries.
//!
//! `make e2e TEST=name` runs those whose names contain `name`, with their logs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod announce;
mod bandwidth_add;
mod bandwidth_rate;
mod bandwidth_verbs;
mod bridge_add;
mod bridge_check;
mod bridge_del;
mod bridge_link;
mod chain_bare;
mod chain_conflists;
mod chain_del;
mod chain_undo;
mod chain_upgrade;
mod chain_verbs;
mod chroot;
mod coexistence;
mod config_errors;
mod conflict;
mod dad;
mod delegate;
mod examples;
mod firewall;
mod firewall_backend;
mod firewall_firewalld;
mod firewall_life;
mod firewall_policy;
mod flannel_add;
mod flannel_del;
mod flannel_gc_status;
mod gc_status;
mod host_local;
mod layer2;
mod loopback;
mod macspoof;
mod masquerade;
mod portmap_traffic;
mod processes;
mod protocol;
mod reference_pods;
mod results;
mod routes;
mod static_ipam;
mod suite;
mod tuning_link;
mod tuning_mac;
mod tuning_sysctl;
mod tuning_verbs;
mod turns;
mod undo;
mod vlan;
