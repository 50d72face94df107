//! The operator that ships, against the simulated API server: what must hold whatever the server does. Crash points and storms by
//! seed are not among them yet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

mod lease;
mod server_faults;
mod statuses;
mod steady;
mod watching;
