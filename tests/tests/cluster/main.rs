//! What the product promises, tried on a real cluster: real API server, real kubelet, real gVisor, real clients.
//!
//! `cargo xtask test cluster` brings the cluster up, installs the chart and runs these.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]
#![allow(clippy::print_stderr, reason = "a test says what it measured")]

mod admission;
mod admission_pods;
mod bad_manifests;
mod cel;
mod cli;
mod client_certificates;
mod clients;
mod confinement;
mod deletion;
mod denials;
mod disorder;
mod downtime;
mod engine;
mod enrolment;
mod entering;
mod entry;
mod exhaustion;
mod fixtures;
mod hardened;
mod inside;
mod least_privilege;
mod leaves;
mod lenient;
mod life;
mod link;
mod main_job;
mod no_network;
mod one_namespace;
mod overlay;
mod ownership;
mod passthrough;
mod patched;
mod people;
mod persistent;
mod race;
mod ranges;
mod readme;
mod real_work;
mod rotation;
mod routes;
mod schema;
mod scratch;
mod secret;
mod simulator;
mod sources;
mod tampering;
mod templates;
mod tenancy;
mod tenants;
mod tokens;
mod traces;
mod truth;
mod upstream_proxy;
mod walls;
mod workspace;
mod workspace_git;
