//! The project's tasks: what `cargo xtask` does, as a library that the cluster tests share.
//!
//! - [`failure`]: one error type: a sentence that says what to do.
//! - [`paths`]: where things are kept.
//! - [`shell`]: running programs, with their output kept in a log.
//! - [`parts`]: the programs of the cluster, built once into a cache.
//! - [`oci`]: container images made without a builder or a registry.
//! - [`images`]: the project's own images.
//! - [`install`]: the chart, installed into the cluster.
//! - [`quickstart`]: from a fresh machine to a fenced agent. - [`borrowed_image`]: the agent it runs.
//! - [`agent_images`]: the agents of the cluster tests.
//! - [`bench`]: measurements of the running cluster, and of the proxy beside others.
//! - [`peers`]: other people's proxies, which ours is compared with.
//! - [`scanners`]: other people's scanners of Kubernetes objects, on the chart and the operator's pods.
//! - [`programs`]: programs that tests of another package run.
//! - [`clients`]: real clients through the proxy.
//! - [`fuzz`]: the fuzz targets, and [`mutate`]: whether the tests would notice. - [`tools`]: the programs for both.
//! - [`test`]: everything that must hold, in parts.
//! - [`chart`]: that the chart renders, and refuses what it should.
//! - [`nightly`]: what takes too long for each change, in parts.
//! - [`conformance`]: the attack catalogue against our proxy and others.
//! - [`soak`]: the proxy under load while everything around it changes.
//! - [`cluster`]: a real Kubernetes with real gVisor on this machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who runs it")]

pub mod agent_images;
pub mod bench;
pub mod borrowed_image;
pub mod chart;
pub mod clients;
pub mod cluster;
pub mod conformance;
pub mod failure;
pub mod fuzz;
pub mod images;
pub mod install;
pub mod invariants;
pub mod mutate;
pub mod nightly;
pub mod oci;
pub mod parts;
pub mod paths;
pub mod peers;
pub mod programs;
pub mod quickstart;
pub mod scanners;
pub mod shell;
pub mod soak;
pub mod test;
pub mod tools;
pub mod upstream;

pub use failure::{Failure, Result};
