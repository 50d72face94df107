//! The cluster harness: what a test of the running product needs, and nothing about how the product works.
//!
//! A test owns a namespace, writes manifests as a user would, and awaits conditions. Nothing here sleeps for a fixed
//! time or retries a failed claim. When a test fails its namespace is dumped before it is deleted.
//!
//! Tests share one cluster. Those that stop a component of it ask for [`Rig::alone`]; all others hold
//! [`Rig::beside`], so that nobody is measured on a broken cluster.
#![allow(clippy::print_stderr, reason = "a failing test prints its namespace")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "this library is test code: a broken expectation ends the test"
)]

pub mod audit;
pub mod cyclonus;
pub mod exec;
pub mod namespace;
pub mod node;
pub mod rig;
pub mod sandbox;
pub mod union;
pub mod wait;

pub use namespace::{Namespace, with_namespace};
pub use rig::Rig;
pub use sandbox::Sandbox;
pub use wait::{asked, eventually};
