//! Real clients through every entrance of the proxy.
//!
//! An agent's namespace, the proxy's and the internet's are joined in a row, so that the agent reaches the proxy and nothing else, as in a
//! sandbox. Each client of `clients.yaml` is run through each entrance that it can use: once for what the policy allows, and once for what it
//! denies. What is judged is what arrived at the stand-in, what the proxy wrote down, and what the client could see.
//!
//! - [`catalogue`]: clients, their targets and their programs, as data.
//! - [`entrance`]: the ways in, as a client is told of them.
//! - [`install`]: puts the programs into the cache, once.
//! - [`netns`]: the namespaces. [`rig`]: the proxy and the internet in them.
//! - [`cell`]: one client, one entrance, one request. [`judge`]: conformance suites that others wrote.
//! - [`front`]: an organisation's own proxy between ours and the internet. [`wire`]: what can be heard on the line there.
//! - [`held`]: programs that end with their owner.
//! - [`run`]: a whole run. [`table`]: the results as `docs/clients.md`.
//!
//! It needs root, for the namespaces, and leaves nothing behind: they end with the process that made them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a run talks to the person who started it")]

pub mod catalogue;
pub mod cell;
pub mod entrance;
pub mod front;
pub mod held;
pub mod install;
pub mod judge;
pub mod netns;
pub mod rig;
pub mod run;
pub mod table;
pub mod wire;

pub use xtask::failure::{self, Failure, Result};
