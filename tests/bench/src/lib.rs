//! The proxy beside other proxies, in one run on one machine.
//!
//! A contender has one core, and the load and the upstream share another. Contenders take turns in each round, so that
//! all meet the same machine. `bench-proxy` runs it; `cargo xtask bench proxy` prepares what it needs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the run, with what was missing"
)]

pub mod contender;
pub mod load;
pub mod pki;
pub mod process;
pub mod report;
pub mod scenario;
pub mod upstream;

/// The secret that contenders put into requests; the upstream asks for it, so that a contender which does not inject
/// cannot take part by mistake. It opens nothing.
pub const SECRET: &str = "sk-bench-5f1e0c9a7d3b48269e7b1c4a";
/// What the load sends in its place.
pub const AGENTS_OWN: &str = "Bearer placeholder";
/// The name of the upstream that speaks HTTP/1.1 over TLS.
pub const API: &str = "api.bench.test";
/// The name of the upstream that speaks HTTP/2 over TLS.
pub const H2: &str = "h2.bench.test";
/// The name of the upstream without TLS.
pub const PLAIN: &str = "plain.bench.test";
/// Names under this one are only asked for in handshakes.
pub const MINT: &str = "mint.bench.test";
