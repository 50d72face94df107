//! The attack catalogue of the proxy as data, and the engine that runs it, against our proxy and other people's.
//!
//! A [`vector`] says what a client sends and what must come of it. The engine ([`run`]) sends it through each entrance it
//! names, looks at what the client was told and at what arrived in the [`world`], and gives a verdict. An [`adapter`]
//! starts one proxy with the same policy, written in that proxy's own language (`peers/`).
//!
//! Everything happens in a network namespace of its own, where every address leads to the harness: a connection that a
//! proxy opens to anywhere is seen, so "was not sent" is observed and not inferred.

pub mod adapter;
pub mod client;
pub mod dns;
pub mod http2;
pub mod namespace;
pub mod pki;
pub mod report;
pub mod run;
pub mod secret;
pub mod tls;
pub mod upstream;
pub mod vector;
pub mod world;

pub use xtask::failure::{self, Failure, Result};
