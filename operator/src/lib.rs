//! The operator: it turns an AgentSandbox into a fenced agent, and says truthfully how far it got.
//!
//! [`controller`] holds the reconcile function and its six steps. Around it stand the parts of a process: [`config`]
//! (flags, parsed before anything is bound), [`run`] (wiring and shutdown), [`watches`] (what wakes a sandbox),
//! [`lease`] (who may write), [`admission`] (whether the API server still refuses what it should), [`server`] and [`metrics`].
//! [`clock`] and [`backoff`] are what passes take from outside: the time, and chance. [`deadline`] ends every request.
//! [`platform`] is what the steps know of the cluster, and [`ranges`] finds its addresses and keeps them current.
//! [`one_namespace`] is what is given to an operator that may not ask the cluster.
//!
//! Invariants, do not weaken: a client is named only in observe, apply, teardown and events (and in the process parts
//! above); no Secret is ever read; a Pod is applied only with the evidence its type asks for.

pub mod admission;
pub mod backoff;
pub mod ca;
pub mod clock;
pub mod config;
pub mod controller;
pub mod deadline;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod lease;
pub mod metrics;
pub mod one_namespace;
pub mod platform;
pub mod ranges;
pub mod rbac;
pub mod run;
pub mod server;
pub mod shelf;
pub mod watches;

pub use agentsandbox_crds::quantity;
