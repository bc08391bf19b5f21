//! CHECK: whether the container's result still has the addresses of the config.

use cni::{AddResult, Call, Error, IpConfig};

use crate::config::Plan;

/// Errors (code 999): no `prevResult`, or not the planned addresses in it. More addresses than planned are fine.
pub(crate) fn check(plan: &Plan, call: &Call) -> Result<(), Error> {
    let result = call.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
    plan.ips.iter().try_for_each(|ip| find(ip, &result, &call.env.ifname))
}

fn find(planned: &IpConfig, result: &AddResult, ifname: &str) -> Result<(), Error> {
    let ip = planned.address.addr();
    let failed =
        |why: String| Error::internal(format!("static: Failed to match addr {ip} on interface {ifname}: {why}"));
    let found: Vec<_> = result.ips.iter().filter(|found| found.address.addr() == ip).collect();
    if found.is_empty() {
        let texts: Vec<_> = result.ips.iter().map(|found| found.address.to_string()).collect();
        return Err(failed(format!("expected {}, found [{}]", planned.address, texts.join(" "))));
    }
    // Without a gateway of its own, the address takes the one that the calling plugin chose.
    let Some(gateway) = planned.gateway else { return Ok(()) };
    if found.iter().any(|found| found.gateway == Some(gateway)) {
        return Ok(());
    }
    let other = found.iter().find_map(|found| found.gateway).map_or("none".to_owned(), |ip| ip.to_string());
    Err(failed(format!("expected gateway {gateway}, found {other}")))
}

#[cfg(test)]
mod tests {
    use cni::Env;

    use super::*;

    fn answer(ips: &str) -> Result<(), String> {
        let json = format!(
            r#"{{"cniVersion":"1.0.0","name":"n",
                "ipam":{{"addresses":[{{"address":"10.1.2.3/24","gateway":"10.1.2.1"}},{{"address":"fd00::5/64"}}]}},
                "prevResult":{{"ips":[{ips}]}}}}"#
        );
        let env = Env { ifname: "eth0".into(), ..Env::default() };
        let call = Call::new(env, json.into_bytes()).unwrap();
        check(&Plan::new(&call).unwrap(), &call).map_err(|e| e.msg)
    }

    const V6: &str = r#"{"address":"fd00::5/64","gateway":"fd00::1"}"#;

    #[test]
    fn as_planned() {
        assert_eq!(answer(&format!(r#"{V6},{{"address":"10.1.2.3/24","gateway":"10.1.2.1"}}"#)), Ok(()));
        let more = format!(r#"{{"address":"10.9.9.9/8"}},{V6},{{"address":"10.1.2.3/32","gateway":"10.1.2.1"}}"#);
        assert_eq!(answer(&more), Ok(()));
    }

    #[test]
    fn otherwise() {
        let failed = |why: &str| Err(format!("static: Failed to match addr {why}"));
        assert_eq!(
            answer(&format!(r#"{V6},{{"address":"10.1.2.3/24","gateway":"10.1.2.9"}}"#)),
            failed("10.1.2.3 on interface eth0: expected gateway 10.1.2.1, found 10.1.2.9")
        );
        assert_eq!(
            answer(&format!(r#"{V6},{{"address":"10.1.2.3/24"}}"#)),
            failed("10.1.2.3 on interface eth0: expected gateway 10.1.2.1, found none")
        );
        assert_eq!(
            answer(&format!(r#"{V6},{{"address":"10.1.2.4/24"}}"#)),
            failed("10.1.2.3 on interface eth0: expected 10.1.2.3/24, found [fd00::5/64 10.1.2.4/24]")
        );
    }

    #[test]
    fn without_a_result() {
        let json = br#"{"cniVersion":"1.0.0","name":"n","ipam":{}}"#.to_vec();
        let call = Call::new(Env::default(), json).unwrap();
        assert_eq!(check(&Plan::new(&call).unwrap(), &call).unwrap_err().msg, "Required prevResult missing");
    }
}
