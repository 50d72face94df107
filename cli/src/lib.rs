//! `kubectl agentsandbox`: what people ask of sandboxes from a terminal.
//!
//! Flags become typed arguments in [`args`]; [`command`] does one command. What decides is pure and stands apart from what asks the
//! cluster: an answer of [`explain`] is the policy's own decision. Everything that is shown passes [`text`], for what a cluster
//! says of an agent may be the agent's own words.
//!
//! What an agent made of its workspace is judged by the crate that writes workspaces, with nobody's word for it ([`review`]).
//!
//! It never knows the operator or the proxy: what is in force is read from the cluster, where they put it.

pub mod args;
pub mod cluster;
pub mod command;
pub mod copy;
pub mod doctor;
pub mod error;
pub mod exec;
pub mod explain;
pub mod find;
pub mod logs;
pub mod power;
pub mod review;
pub mod run;
pub mod status;
pub mod terminal;
pub mod text;
pub mod whole;
