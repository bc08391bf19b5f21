//! firewalld, asked over D-Bus: a pod's addresses become sources of a zone.
//!
//! Which sources a call has put there is in the set `fw-firewalld` of our own table, so that DEL and GC take back
//! these and no others, whatever has become of the config.

use std::net::IpAddr;
use std::time::Duration;

use cni::{Error, code};

use crate::dbus::{self, Bus, Method, Value};

/// What firewalld may take for all that one call asks of it.
const PATIENCE: Duration = Duration::from_secs(10);

const NAME: &str = "org.fedoraproject.FirewallD1";
/// What firewalld says of a source that is in the zone already, or in another.
const TAKEN: [&str; 2] = ["ZONE_ALREADY_SET", "ZONE_CONFLICT"];
/// What firewalld calls a source that is in no zone.
const UNKNOWN: &str = "UNKNOWN_SOURCE";

/// firewalld, which runs.
#[derive(Debug)]
pub(crate) struct Firewalld {
    bus: Bus,
}

/// What became of a source that was to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in the zone.
    ToZone,
    /// Somebody had put it into this other zone, where it stays.
    ElsewhereAlready(String),
}

impl Firewalld {
    /// `None`: it does not run here. That there is no bus at all, or one that does not let this process in, means the
    /// same. Errors: there is a bus, but it does not answer.
    pub(crate) fn find() -> Result<Option<Self>, Error> {
        match Self::connect() {
            Ok(firewalld) => Ok(Some(firewalld)),
            Err(error @ (dbus::Error::Timeout(_) | dbus::Error::Malformed)) => {
                Err(failed("failed to ask whether firewalld runs", &error)
                    .with_details("any other backend than the automatic one needs no system bus"))
            }
            Err(_) => Ok(None),
        }
    }

    /// Errors (code 999): it does not run.
    pub(crate) fn connect_or_fail() -> Result<Self, Error> {
        Self::connect().map_err(|e| {
            failed("backend \"firewalld\": firewalld does not answer", &e).with_details(
                "start it (systemctl start firewalld), or leave the backend to be chosen by what the host has",
            )
        })
    }

    fn connect() -> Result<Self, dbus::Error> {
        let mut bus = Bus::connect(PATIENCE)?;
        let owner = Method {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "GetNameOwner",
        };
        bus.call(owner, &[NAME])?;
        Ok(Self { bus })
    }

    /// Makes the address a source of the zone.
    pub(crate) fn add(&mut self, zone: &str, address: IpAddr) -> Result<Added, Error> {
        let source = source(address);
        match self.zone_method("addSource", &[zone, &source]) {
            Ok(_) => Ok(Added::ToZone),
            Err(error) if TAKEN.iter().any(|word| says(&error, word)) => match self.zone_of(address)? {
                Some(other) if other != zone => Ok(Added::ElsewhereAlready(other)),
                _ => Ok(Added::ToZone),
            },
            Err(error) => Err(failed(&format!("firewalld does not take {source} into its zone \"{zone}\""), &error)
                .with_details("see `firewall-cmd --get-zones` for the zones there are")),
        }
    }

    /// Takes the address out of the zone it is in.
    pub(crate) fn remove(&mut self, address: IpAddr) -> Result<(), Error> {
        match self.zone_of(address)? {
            Some(zone) => self.remove_from(&zone, address),
            None => Ok(()),
        }
    }

    /// Takes the address out of this zone, if it is there.
    pub(crate) fn remove_from(&mut self, zone: &str, address: IpAddr) -> Result<(), Error> {
        let source = source(address);
        match self.zone_method("removeSource", &[zone, &source]) {
            // It is in no zone, in another, or there is no such zone any more.
            Ok(_) | Err(dbus::Error::Refused { .. }) => Ok(()),
            Err(error) => Err(failed(&format!("failed to take {source} out of firewalld's zone \"{zone}\""), &error)),
        }
    }

    /// Whether the zone has the address.
    pub(crate) fn has(&mut self, zone: &str, address: IpAddr) -> Result<bool, Error> {
        let source = source(address);
        match self.zone_method("querySource", &[zone, &source]) {
            Ok(value) => Ok(value == Value::Bool(true)),
            Err(error) => Err(failed(&format!("failed to ask firewalld for {source} in its zone \"{zone}\""), &error)),
        }
    }

    /// The zone that has the address.
    pub(crate) fn zone_of(&mut self, address: IpAddr) -> Result<Option<String>, Error> {
        match self.zone_method("getZoneOfSource", &[&source(address)]) {
            Ok(Value::Text(zone)) if !zone.is_empty() => Ok(Some(zone)),
            Ok(_) => Ok(None),
            Err(error) if says(&error, UNKNOWN) => Ok(None),
            Err(error) => Err(failed(&format!("failed to ask firewalld for the zone of {}", source(address)), &error)),
        }
    }

    fn zone_method(&mut self, member: &'static str, arguments: &[&str]) -> Result<Value, dbus::Error> {
        let interface = "org.fedoraproject.FirewallD1.zone";
        let path = "/org/fedoraproject/FirewallD1";
        self.bus.call(Method { destination: NAME, path, interface, member }, arguments)
    }
}

/// An address as firewalld knows it.
fn source(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn says(error: &dbus::Error, word: &str) -> bool {
    matches!(error, dbus::Error::Refused { text, .. } if text.contains(word))
}

fn failed(what: &str, error: &dbus::Error) -> Error {
    let code = if matches!(error, dbus::Error::Timeout(_)) { code::TRY_AGAIN } else { code::INTERNAL };
    Error::new(code, format!("{what}: {error}"))
}
