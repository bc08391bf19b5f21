//! From what the config says to what is to be done: [`Config`] is the JSON, [`Plan`] has nothing left to check but the
//! MTU of a link that is not known yet.

use cni::{Call, Error};
use netlink::tc::Tbf;
use serde::Deserialize;

/// What an Ethernet header adds to a packet, in bytes.
const ETHERNET_HEADER: u32 = 14;
/// How long a packet may wait if the config does not say, in milliseconds: as the reference has it.
const DEFAULT_LATENCY: u64 = 25;
/// The largest packet that a sender leaves to be segmented later (GSO), in bytes.
const LARGEST_PACKET: u32 = 65_536;

/// The config's own keys; unknown ones are other plugins'.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    // Not flattened: that would need the whole config in memory once more.
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
    max_burst: u64,
    latency: Option<u64>,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    bandwidth: Option<Rates>,
}

/// What the capability `bandwidth` gives: bits a second, and bits.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rates {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

/// Which way packets go, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// As the config's keys begin.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The limits of an attachment; `None` for unlimited.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ingress: Option<Limit>,
    pub(crate) egress: Option<Limit>,
}

/// A limit of one direction, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) tbf: Tbf,
    /// How long a queue of the reference is, in bytes.
    pub(crate) reference_limit: u32,
    /// Whether it is `maxBurst` that the bucket's size is due to.
    is_cut: bool,
}

impl Plan {
    /// Reads and checks the config. Errors: code 999, with the key and its value.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let config: Config = call.config()?;
        let rates = config.rates();
        let limit = |direction, rate, burst| Limit::new(direction, rate, burst, config.max_burst, config.latency);
        Ok(Self {
            ingress: limit(Direction::Ingress, rates.ingress_rate, rates.ingress_burst)?,
            egress: limit(Direction::Egress, rates.egress_rate, rates.egress_burst)?,
        })
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    /// Refuses a bucket that no full packet of a link of this MTU fits into: the kernel would drop them all.
    pub(crate) fn fits(&self, link: &str, mtu: u32) -> Result<(), Error> {
        let needed = mtu.saturating_add(ETHERNET_HEADER);
        for (direction, limit) in [(Direction::Ingress, self.ingress), (Direction::Egress, self.egress)] {
            if let Some(Limit { tbf, is_cut, .. }) = limit.filter(|l| l.tbf.burst < needed) {
                let key = if is_cut { "maxBurst".to_owned() } else { format!("{}Burst", direction.key()) };
                return Err(Error::internal(format!(
                    "{key} of {} bits ({} bytes) is less than one packet: \"{link}\" has an MTU of {mtu}, whose \
                     packets of {needed} bytes would all be dropped",
                    u64::from(tbf.burst) * 8,
                    tbf.burst,
                ))
                .with_details(format!(
                    "set {key} to {} at least; for the whole rate to be used, to what it carries in 0.1 ms and two \
                     packets more",
                    u64::from(needed) * 8,
                )));
            }
        }
        Ok(())
    }
}

impl Config {
    /// Any of the four keys in the config itself overrides the runtime's wishes as a whole, as with the reference.
    fn rates(&self) -> Rates {
        let own = [self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst];
        match &self.runtime_config.bandwidth {
            Some(rates) if own.iter().all(Option::is_none) => Rates { ..*rates },
            _ => {
                let [ingress_rate, ingress_burst, egress_rate, egress_burst] = own.map(Option::unwrap_or_default);
                Rates { ingress_rate, ingress_burst, egress_rate, egress_burst }
            }
        }
    }
}

impl Limit {
    /// `rate` in bits a second, `burst` and `max_burst` (0: none) in bits, `latency` in milliseconds.
    fn new(
        direction: Direction,
        rate: u64,
        burst: u64,
        max_burst: u64,
        latency: Option<u64>,
    ) -> Result<Option<Self>, Error> {
        let key = direction.key();
        match (rate, burst) {
            (0, 0) => return Ok(None),
            (_, 0) => {
                return Err(Error::internal(format!(
                    "{key}Rate is {rate}, {key}Burst is not set: if rate is set, burst must also be set"
                )));
            }
            (0, _) => {
                return Err(Error::internal(format!(
                    "{key}Burst is {burst}, {key}Rate is not set: if burst is set, rate must also be set"
                )));
            }
            _ => {}
        }
        if burst / 8 >= u64::from(u32::MAX) {
            return Err(Error::internal(format!("{key}Burst is {burst} bits: burst cannot be more than 4GB")));
        }
        let bytes = rate / 8;
        if bytes == 0 {
            return Err(Error::internal(format!(
                "{key}Rate is {rate} bits a second: less than a byte a second is no rate"
            )));
        }
        let is_cut = max_burst != 0 && burst > max_burst;
        let burst = if is_cut { max_burst } else { burst };
        let burst = u32::try_from(burst / 8).unwrap_or(u32::MAX);
        let (limit, reference_limit) = queue(bytes, burst, latency);
        Ok(Some(Self { tbf: Tbf { rate: bytes, burst, limit }, reference_limit, is_cut }))
    }
}

impl Limit {
    /// The time to send the bucket as the reference tells the kernel, in ticks of 64 ns. It computes in whole
    /// microseconds and in 32 bits, which the buckets that CRI-O asks for overflow twice.
    pub(crate) fn reference_burst_ticks(&self) -> u32 {
        let low = |number: u128| u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX);
        let microseconds = low(u128::from(self.tbf.burst) * 1_000_000 / u128::from(self.tbf.rate));
        low(u128::from(microseconds) * 125 / 8)
    }
}

/// How many bytes may wait, here and with the reference.
fn queue(rate: u64, burst: u32, latency: Option<u64>) -> (u32, u32) {
    let waiting = |latency: u64| u128::from(rate) * u128::from(latency) / 1000;
    // A packet that came whole must find room, however short its wait is to be.
    let short = |latency| u32::try_from(waiting(latency).max(burst.min(LARGEST_PACKET).into())).unwrap_or(u32::MAX);
    if let Some(latency) = latency {
        return (short(latency), short(latency));
    }
    let with_bucket = waiting(DEFAULT_LATENCY) + u128::from(burst);
    match u32::try_from(with_bucket) {
        Ok(limit) => (limit, limit),
        // Its arithmetic has 32 bits, so that by chance its queue is as short as it was meant to be.
        Err(_) => (short(DEFAULT_LATENCY), u32::try_from(with_bucket & u128::from(u32::MAX)).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use cni::Env;

    use super::*;

    fn plan(members: &str) -> Result<Plan, String> {
        let json = format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\"{members}}}");
        Plan::new(&Call::new(Env::default(), json.into_bytes()).unwrap()).map_err(|e| e.msg)
    }

    fn ingress(members: &str) -> Tbf {
        plan(members).unwrap().ingress.unwrap().tbf
    }

    #[test]
    fn values_are_the_references() {
        let plan =
            plan(r#","ingressRate":8000000,"ingressBurst":80000,"egressRate":1000,"egressBurst":20007"#).unwrap();
        assert_eq!(plan.ingress.unwrap().tbf, Tbf { rate: 1_000_000, burst: 10_000, limit: 35_000 });
        assert_eq!(plan.egress.unwrap().tbf, Tbf { rate: 125, burst: 2500, limit: 2503 });
        assert!(!plan.is_unlimited());
    }

    #[test]
    fn any_own_key_overrides_the_capability() {
        let capability = r#","runtimeConfig":{"bandwidth":{"ingressRate":16,"ingressBurst":800}}"#;
        assert_eq!(ingress(capability).rate, 2);
        assert_eq!(ingress(&format!("{capability},\"ingressRate\":80,\"ingressBurst\":8000")).rate, 10);
        assert!(plan(&format!("{capability},\"egressRate\":0")).unwrap().is_unlimited());
        for nothing in ["", r#","runtimeConfig":{}"#, r#","runtimeConfig":{"bandwidth":null}"#] {
            assert!(plan(nothing).unwrap().is_unlimited());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (members, expected) in [
            (r#","ingressRate":8"#, "if rate is set, burst must also be set"),
            (r#","egressBurst":8"#, "if burst is set, rate must also be set"),
            (r#","egressRate":8,"egressBurst":34359738360"#, "burst cannot be more than 4GB"),
            (r#","egressRate":7,"egressBurst":80000"#, "less than a byte a second"),
            (r#","egressRate":-1,"egressBurst":8"#, "egressRate"),
            (r#","runtimeConfig":{"bandwidth":{"ingressRate":8}}"#, "if rate is set, burst must also be set"),
            (r#","runtimeConfig":{"bandwidth":{"ingressRate":"8"}}"#, "runtimeConfig.bandwidth.ingressRate"),
        ] {
            let error = plan(members).unwrap_err();
            assert!(error.contains(expected), "{members}: {error}");
        }
        let largest = ingress(r#","ingressRate":800,"ingressBurst":34359738359"#);
        assert_eq!((largest.burst, largest.limit), (u32::MAX - 1, 65_536));
    }

    #[test]
    fn nothing_overflows() {
        let plan = plan(&format!(
            ",\"ingressRate\":{max},\"ingressBurst\":80000,\"egressRate\":8000000,\"egressBurst\":34359738359",
            max = u64::MAX
        ))
        .unwrap();
        assert_eq!(plan.ingress.unwrap().tbf, Tbf { rate: u64::MAX / 8, burst: 10_000, limit: u32::MAX });
        let egress = plan.egress.unwrap();
        // As CRI-O has it: what the reference makes of it is short, and so is this.
        assert_eq!((egress.tbf.limit, egress.reference_limit), (65_536, 24_998));
        assert_eq!(egress.reference_burst_ticks(), 2_684_354_528);
        ingress(&format!(",\"ingressRate\":{max},\"ingressBurst\":80000,\"latency\":{max}", max = u64::MAX));
    }

    #[test]
    fn latency_and_the_largest_burst_are_the_operators() {
        let rates = r#","ingressRate":8000000,"ingressBurst":2147483647"#;
        let with = |members: &str| {
            let tbf = ingress(&format!("{rates}{members}"));
            (tbf.burst, tbf.limit)
        };
        assert_eq!(with(""), (268_435_455, 268_460_455));
        assert_eq!(with(r#","latency":100"#), (268_435_455, 100_000));
        assert_eq!(with(r#","latency":1"#), (268_435_455, 65_536));
        assert_eq!(with(r#","maxBurst":80000"#), (10_000, 35_000));
        assert_eq!(with(r#","maxBurst":80000,"latency":1"#), (10_000, 10_000));
        assert_eq!(with(r#","maxBurst":80000,"latency":0"#), (10_000, 10_000));
    }

    #[test]
    fn a_bucket_holds_a_packet() {
        let of = |bits: u64| plan(&format!(",\"egressRate\":8000,\"egressBurst\":{bits}")).unwrap();
        assert!(of(1514 * 8).fits("veth1", 1500).is_ok());
        let error = of(1514 * 8 - 1).fits("veth1", 1500).unwrap_err();
        assert!(error.msg.contains("egressBurst of 12104 bits (1513 bytes)"), "{error}");
        assert!(error.details.contains("12112"), "{error}");
        assert!(of(1514 * 8).fits("veth1", 9000).is_err());
        let cut =
            plan(r#","egressRate":8000,"egressBurst":80000,"maxBurst":7"#).unwrap().fits("veth1", 1500).unwrap_err();
        assert!(cut.msg.starts_with("maxBurst of 0 bits (0 bytes) is less"), "{cut}");
        assert!(cut.details.starts_with("set maxBurst to 12112"), "{cut}");
    }
}
