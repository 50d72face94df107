//! The operator against a simulated API server.
//!
//! [`Store`](store::Store) is what the API server keeps: objects by revision, with preconditions, finalizers, graceful
//! deletion, field managers and a log of every revision. [`World`](world::World) is who acts on it: requests that arrive,
//! watches that bring events, a kubelet, a garbage collector, a namespace controller. It does one thing in each virtual
//! millisecond, and what comes when follows from a seed. [`Transport`](transport::Transport) is the door for a real
//! [`kube::Client`], so the operator that runs is the one that ships, from [`operate`](agentsandbox_operator::run::operate)
//! on. [`Rig`](rig::Rig) starts, crashes and restarts it. [`invariants`] are checked at each revision.
//!
//! What a seed decides: which fault comes when, and in which order actors act. A run replays bit for bit: the same seed brings
//! the same requests with the same bodies at the same virtual milliseconds. Never the same are key material (drawn by the
//! crypto library), and the names and times in Events, which the client library takes from the system's clock; both are left
//! out of the trace. No socket and no thread is involved. The client library polls passes in an order of chance, which is why
//! the world takes what arrives at one moment in an order of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "this crate is tests alone, and a wrong assumption of theirs is a failure"
)]

pub mod actors;
pub mod faults;
pub mod fields;
pub mod invariants;
pub mod kinds;
pub mod merge;
pub mod objects;
pub mod rig;
pub mod serve;
pub mod store;
pub mod transport;
pub mod watches;
pub mod world;
