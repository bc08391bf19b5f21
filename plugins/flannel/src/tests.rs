//! Tests of the parser of `subnet.env`.

use cni::Cidr;
use proptest::prelude::*;

use crate::subnet::{Problem, SubnetEnv};

const DUAL: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_IPV6_NETWORK=fd01::/48\n\
                    FLANNEL_IPV6_SUBNET=fd01:0:0:3::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn parse(text: &str) -> Result<SubnetEnv, Problem> {
    SubnetEnv::parse(text.as_bytes())
}

fn texts(cidrs: &[Cidr]) -> Vec<String> {
    cidrs.iter().map(ToString::to_string).collect()
}

#[test]
fn dual_stack() {
    let env = parse(DUAL).unwrap();
    assert_eq!(texts(&env.networks), ["10.244.0.0/16", "fd01::/48"]);
    assert_eq!(texts(&env.subnets), ["10.244.3.0/24", "fd01:0:0:3::/64"]);
    assert_eq!((env.mtu, env.masquerades), (1450, true));
}

#[test]
fn lists_odd_lines_and_other_ends_of_lines() {
    let text = "# written by hand\r\n\nFLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16,10.1.9.9/16\r\nFLANNEL_SUBNET=1\
                0.1.2.1/24\r\nFLANNEL_MTU=0\r\nFLANNEL_IPMASQ=yes\r\nOTHER\nFLANNEL_IPV6_NETWORK=\nFLANNEL_IPV6_SUBNET";
    let env = parse(text).unwrap();
    assert_eq!(texts(&env.networks), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(texts(&env.subnets), ["10.1.2.0/24"]);
    assert_eq!((env.mtu, env.masquerades), (0, false));
    // The last line of a file that was written without its end.
    parse(DUAL.trim_end()).unwrap();
}

#[test]
fn what_is_missing_is_listed() {
    let missing = |text: &str| match parse(text).unwrap_err() {
        Problem::Unfinished(text) => text,
        invalid @ Problem::Invalid(_) => panic!("{invalid:?}"),
    };
    assert_eq!(
        missing(""),
        "is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
    );
    assert_eq!(missing(&DUAL.replace("FLANNEL_MTU=1450\n", "")), "is missing FLANNEL_MTU");
    assert_eq!(missing("FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.244.3.1/2").matches("missing").count(), 1);
}

#[test]
fn a_bad_value_is_invalid_and_at_a_cut_end_unfinished() {
    for (from, to) in [("10.244.3.1/24", "10.244.3.1"), ("1450", "-1"), ("1450", "5000000000"), ("fd01::/48", "x")] {
        assert!(matches!(parse(&DUAL.replace(from, to)), Err(Problem::Invalid(_))), "{to}");
    }
    for cut in ["FLANNEL_SUBNET=10.244", "FLANNEL_IPMASQ=tr"] {
        let text = parse(&format!("{DUAL}{cut}")).unwrap_err();
        assert!(matches!(&text, Problem::Unfinished(t) if t.contains(cut)), "{text:?}");
    }
}

proptest! {
    #[test]
    fn never_panics(lines in proptest::collection::vec("(FLANNEL_(NETWORK|SUBNET|IPV6_SUBNET|MTU|IPMASQ))?=?[0-9a-f.:/,\\PC]{0,20}\r?\n?", 0..8)) {
        let _ = parse(&lines.concat());
    }

    #[test]
    fn no_part_of_a_file_is_taken_for_another_lease(length in 0..DUAL.len()) {
        // What could be cut without notice is the end of the last line alone.
        let whole = parse(DUAL).unwrap();
        if let Ok(env) = parse(&DUAL[..length]) {
            prop_assert_eq!(env, whole);
        }
    }
}
