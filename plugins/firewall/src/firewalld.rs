//! firewalld, asked over D-Bus: a pod's addresses become sources of a zone.
//!
//! Which sources a call has put there, and into which zone, is in the map `fw-firewalld` of our own table, so that DEL and
//! GC take back these and no others, whatever has become of the config.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cni::{Error, code};
use serde::{Serialize, de::DeserializeOwned};
use zbus::zvariant::{DynamicType, Type};

use crate::dbus::{self, Bus, Object};

/// What firewalld and the bus may take for all that one call asks of them. Waiting for other calls does not count.
const PATIENCE: Duration = Duration::from_secs(10);

const NAME: &str = "org.fedoraproject.FirewallD1";
const ZONES: Object =
    Object { destination: NAME, path: "/org/fedoraproject/FirewallD1", interface: "org.fedoraproject.FirewallD1.zone" };
const BUS: Object =
    Object { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
/// What firewalld says of a source that is in the zone already, or in another.
const TAKEN: [&str; 2] = ["ZONE_ALREADY_SET", CONFLICT];
const CONFLICT: &str = "ZONE_CONFLICT";
/// What firewalld calls a source that is in no zone.
const UNKNOWN: &str = "UNKNOWN_SOURCE";
/// What firewalld says of a zone that there is not.
const NO_ZONE: &str = "INVALID_ZONE";

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
    /// `None`: it does not run here, that is there is no bus, or nobody has its name. Errors: whether it runs is not
    /// known. Whoever took that for "it does not run" would leave a source in the zone for ever.
    pub(crate) fn find() -> Result<Option<Self>, Error> {
        match Self::connect() {
            Ok(firewalld) => Ok(Some(firewalld)),
            Err(error) if error.says_nobody_runs() => Ok(None),
            Err(error) => Err(failed("failed to ask whether firewalld runs", &error)),
        }
    }

    /// Errors (code 999): it does not run.
    pub(crate) fn connect_or_fail() -> Result<Self, Error> {
        Self::connect().map_err(|error| {
            let failed = failed("backend \"firewalld\": firewalld does not answer", &error);
            if !error.says_nobody_runs() {
                return failed;
            }
            failed.with_details(
                "start it (systemctl start firewalld), or leave the backend to be chosen by what the host has",
            )
        })
    }

    fn connect() -> Result<Self, dbus::Error> {
        let mut bus = Bus::connect(PATIENCE)?;
        bus.call::<String>(BUS, "GetNameOwner", &(NAME,))?;
        Ok(Self { bus })
    }

    /// Makes the address a source of the zone.
    pub(crate) fn add(&mut self, zone: &str, address: IpAddr) -> Result<Added, Error> {
        let source = source(address);
        match self.ask::<String>("addSource", &(zone, &source)) {
            Ok(_) => Ok(Added::ToZone),
            Err(error) if TAKEN.iter().any(|word| says(&error, word)) => match self.zone_of(address)? {
                Some(other) if other != zone => Ok(Added::ElsewhereAlready(other)),
                _ => Ok(Added::ToZone),
            },
            Err(error) => Err(failed(&format!("firewalld does not take {source} into its zone \"{zone}\""), &error)),
        }
    }

    /// Takes the address out of this zone, if it is there.
    pub(crate) fn remove_from(&mut self, zone: &str, address: IpAddr) -> Result<(), Error> {
        let source = source(address);
        match self.ask::<String>("removeSource", &(zone, &source)) {
            Ok(_) => Ok(()),
            // It is in no zone, in another, there is no such zone any more, or firewalld has just been stopped.
            Err(error) if [UNKNOWN, CONFLICT, NO_ZONE].iter().any(|word| says(&error, word)) => Ok(()),
            Err(error) if error.says_nobody_runs() => Ok(()),
            Err(error) => Err(failed(&format!("failed to take {source} out of firewalld's zone \"{zone}\""), &error)),
        }
    }

    /// Whether the zone has the address.
    pub(crate) fn has(&mut self, zone: &str, address: IpAddr) -> Result<bool, Error> {
        let source = source(address);
        self.ask("querySource", &(zone, &source))
            .map_err(|error| failed(&format!("failed to ask firewalld for {source} in its zone \"{zone}\""), &error))
    }

    /// Errors: there is no such zone.
    pub(crate) fn check_zone(&mut self, zone: &str) -> Result<(), Error> {
        // An address for documentation: what is asked for is the zone.
        self.has(zone, Ipv4Addr::new(192, 0, 2, 1).into()).map(|_| ())
    }

    /// The zone that has the address.
    pub(crate) fn zone_of(&mut self, address: IpAddr) -> Result<Option<String>, Error> {
        match self.ask::<String>("getZoneOfSource", &(&source(address),)) {
            Ok(zone) => Ok(Some(zone).filter(|zone| !zone.is_empty())),
            Err(error) if says(&error, UNKNOWN) => Ok(None),
            Err(error) => Err(failed(&format!("failed to ask firewalld for the zone of {}", source(address)), &error)),
        }
    }

    fn ask<T>(&mut self, method: &'static str, arguments: &(impl Serialize + DynamicType)) -> Result<T, dbus::Error>
    where
        T: DeserializeOwned + Type,
    {
        self.bus.call(ZONES, method, arguments)
    }
}

/// An address as firewalld knows it.
fn source(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn says(error: &dbus::Error, word: &str) -> bool {
    matches!(error, dbus::Error::Refused { text, .. } if text.contains(word))
}

/// The error, with what to look at.
fn failed(what: &str, error: &dbus::Error) -> Error {
    let is_late = matches!(error, dbus::Error::Timeout { .. });
    let code = if is_late { code::TRY_AGAIN } else { code::INTERNAL };
    let hint = match error {
        _ if says(error, NO_ZONE) => "see `firewall-cmd --get-zones` for the zones there are",
        _ if is_late => {
            "firewalld or the system bus hangs: see `systemctl status firewalld dbus`; \
             backends other than \"firewalld\" and the automatic one need no bus"
        }
        _ => "see `systemctl status firewalld dbus`",
    };
    Error::new(code, format!("{what}: {error}")).with_details(hint)
}
