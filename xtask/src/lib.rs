//! The project's tasks: what `cargo xtask` does, as a library that the cluster tests share.
//!
//! - [`failure`]: one error type: a sentence that says what to do.
//! - [`paths`]: where things are kept.
//! - [`shell`]: running programs, with their output kept in a log.
//! - [`parts`]: the programs of the cluster, built once into a cache.
//! - [`oci`]: container images made without a builder or a registry.
//! - [`images`]: the project's own images.
//! - [`cluster`]: a real Kubernetes with real gVisor on this machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who runs it")]

pub mod cluster;
pub mod failure;
pub mod images;
pub mod oci;
pub mod parts;
pub mod paths;
pub mod shell;

pub use failure::{Failure, Result};
