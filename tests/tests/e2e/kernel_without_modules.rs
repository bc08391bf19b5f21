//! A kernel whose modules are not all there: what is missing is named, and nothing is left.
//!
//! `scripts/kernels` runs these where the modules are hidden; elsewhere they are skipped.

use serde_json::json;
use tests::{
    Host, case_without,
    chained::{self, Chain},
    config::with,
    kernel::Part,
    settings::not_for_reference,
};

fn is_refused(direction: &str, module: &str) {
    not_for_reference("its errors are the kernel's");
    let host = Host::new();
    let limit = json!({ "type": "bandwidth", "cniVersion": "1.1.0", "name": "net",
                        format!("{direction}Rate"): 8_000_000, format!("{direction}Burst"): 800_000 });
    let chain = Chain::new(&host, vec![chained::bridge()]);
    let pod = host.pod();
    let result = chain.add(&pod);
    let before = host.snapshot();
    let call =
        || host.plugin("bandwidth").pod(&pod).config_with(&limit, &with(&result, json!({ "cniVersion": "1.1.0" })));
    call().add().failure().is(999, module);
    host.assert_as(&before);
    // Which it misses first, where both are missing.
    call().verb("STATUS").run().failure().is(50, "modprobe ");
    call().del().ok();
    host.assert_as(&before);
}

#[test]
fn ifb_is_named_where_what_a_pod_sends_is_limited() {
    case_without(Part::Ifb, || is_refused("egress", "modprobe ifb"));
}

#[test]
fn tbf_is_named_where_what_a_pod_receives_is_limited() {
    case_without(Part::Tbf, || is_refused("ingress", "(module sch_tbf)"));
}
