//! The proxy under mixed load for a long time, while its policy, its secrets and its upstreams change each second.
//!
//! Every request says what is expected of it under each policy and each secret that may be in force while it is under way
//! ([`plan`], [`timeline`]). Upstreams look at what arrives ([`upstream`]), the audit trail is read as it is written ([`proxy`]), and
//! clients read answers to their end ([`client`]); all tell the [`ledger`], which judges at once. It runs in the namespaces of the
//! conformance suite, where every address leads to the harness.
//!
//! A secret is never known to be absent by its absence from one list: every one that ever was has a middle in common, and each
//! byte that comes to an agent, to a host without a credential, to the audit trail or to the log is searched for it, in every
//! spelling ([`keys`]).

pub mod answers;
pub mod change;
pub mod client;
pub mod fault;
pub mod keys;
pub mod ledger;
pub mod link;
pub mod memory;
pub mod plan;
pub mod proxy;
pub mod run;
pub mod timeline;
pub mod traffic;
pub mod upstream;
