//! Kubernetes' own tests of the runtime and of NetworkPolicies, on clusters of their own. They take long, so that a night runs them:
//! `cargo xtask nightly upstream`.
#![allow(clippy::unwrap_used, reason = "tests state their claims by them")]

use xtask::upstream::{Runtime, policies, runtime};

#[test]
fn o_c8_of_the_runtimes_own_tests_exactly_the_listed_ones_fail_with_gvisor() {
    runtime::run(Runtime::Runsc).unwrap();
}

#[test]
fn o_c8_of_the_runtimes_own_tests_exactly_the_listed_ones_fail_with_runc() {
    runtime::run(Runtime::Runc).unwrap();
}

#[test]
fn o_c9_kubernetes_own_tests_of_policies_pass_with_gvisor_and_fail_without_an_engine() {
    policies::run(Runtime::Runsc).unwrap();
}

#[test]
fn o_c9_kubernetes_own_tests_of_policies_pass_with_runc_and_fail_without_an_engine() {
    policies::run(Runtime::Runc).unwrap();
}
