//! The proxy over real sockets on loopback: a real upstream behind TLS, a real client in front. Names that begin with a
//! letter and number cover that entry of the catalogue of failures.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states its claims by them, and so do its helpers"
)]

mod audit;
mod authority;
mod credentials;
mod entrances;
mod framing;
mod peers;
mod scrub;
mod streams;
mod upstream;
mod world;
