//! ADD: one address from each range set, all under one hold of the lock, or none.

use cni::{AddResult, Call, Cidr, Error, IpConfig, code};
use plugin::liveness::Present;

use crate::config::{self, Plan};
use crate::resolvconf;
use crate::store::Store;
use crate::store::record::Caller;
use crate::store::reservation::Owner;
use crate::transaction::{Request, Transaction};

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    if Owner::new(&call.env.container_id, &call.env.ifname).is_too_long() {
        let text = format!("CNI_CONTAINERID is too long for a reservation: {} bytes", call.env.container_id.len());
        return Err(Error::new(code::INVALID_ENVIRONMENT, text));
    }
    let dns = plan.resolv_conf.as_deref().map(resolvconf::read).transpose()?;
    let request = Request {
        attachment: call.attachment(),
        requested: plan.assign()?,
        present: Present::look(&call.env.netns),
        pod: config::pod(&call.env.args),
        plugin: std::env::var("OXBRIDGE_PLUGIN").ok().filter(|name| !name.is_empty() && name.len() <= 64),
        caller: cni::delegate::caller().and_then(Caller::look),
    };
    let store = Store::new(&plan.data_dir, &call.network).map_err(crate::failed)?;
    let mut transaction = Transaction::begin(&store, &request)?;
    let ips = transaction.allocate(&plan.sets)?;
    transaction.unlock();
    plugin::step()?;

    let result = AddResult {
        ips: plan.sets.iter().zip(&ips).filter_map(|(set, ip)| ip_config(set.range_of(*ip)?, *ip)).collect(),
        routes: plan.routes,
        dns: dns.unwrap_or_default(),
        ..AddResult::default()
    };
    call.reply(&result)?;
    transaction.commit();
    Ok(())
}

fn ip_config(range: &crate::range::Range, ip: std::net::IpAddr) -> Option<IpConfig> {
    let address = Cidr::new(ip, range.subnet.prefix())?;
    Some(IpConfig { interface: None, address, gateway: Some(range.gateway) })
}
