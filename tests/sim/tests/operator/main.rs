//! The operator that ships, against the simulated API server: what must hold at every crash point, for every fault, and
//! for every seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

mod claims;
mod crash;
mod crowds;
mod lease;
mod life;
mod model;
mod namespaces;
mod one_namespace;
mod seeds;
mod server_faults;
mod statuses;
mod steady;
mod templates;
mod wakes;
mod watching;
mod writes;
