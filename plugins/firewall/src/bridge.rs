//! The bridge that an ingress policy is about, and the pod's port on it, as the plugins before have made them.

use cni::{AddResult, Error};
use netlink::{Protocol, Socket, link};

use crate::config::Policy;

/// Names of the pod's ports on the bridge; none that a policy has no use for. Errors: the policy could not hold.
pub(crate) fn ports(policy: Policy, bridge: &str, previous: &AddResult) -> Result<Vec<String>, Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to look at \"{bridge}\": {e}"));
    let mut host = Socket::open(Protocol::Route).map_err(failed)?;
    let Some(index) = link::by_name(&mut host, bridge).map_err(failed)?.filter(|l| l.is("bridge")).map(|l| l.index)
    else {
        return Err(Error::internal(format!(
            "ingressPolicy: the first interface of prevResult, \"{bridge}\", is no bridge"
        ))
        .with_details("only pods on a bridge can have a policy: plugin bridge has to come before this one"));
    };
    let mut ports = Vec::new();
    if policy == Policy::Isolated {
        for interface in previous.interfaces.iter().skip(1).filter(|interface| interface.sandbox.is_empty()) {
            let link = link::by_name(&mut host, &interface.name).map_err(failed)?;
            if link.is_some_and(|link| link.master == Some(index)) {
                ports.push(interface.name.clone());
            }
        }
        if ports.is_empty() {
            return Err(Error::internal(format!("ingressPolicy isolated: prevResult names no port of \"{bridge}\""))
                .with_details("the host's end of the pod's veth pair has to be among its interfaces"));
        }
    }
    Ok(ports)
}
