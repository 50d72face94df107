//! The proxy over real sockets on loopback: a real upstream behind TLS, a real client in front. Names that begin with a
//! letter and number cover that entry of the catalogue of failures.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states its claims by them, and so do its helpers"
)]

mod abuse;
mod answers;
mod audit;
mod authority;
mod bodies;
mod budget;
mod bursts;
mod ceiling;
mod certificates;
mod certified;
mod chain;
mod credentials;
mod denials;
mod drained;
mod early;
mod ends;
mod entrances;
mod explain;
mod flow;
mod forms;
mod framing;
mod fullness;
mod halves;
mod heads;
mod hello;
mod informational;
mod last_event;
mod overtaken;
mod own_keys;
mod peers;
mod placeholders;
mod places;
mod pool;
mod refusals;
mod resent;
mod revoked;
mod schema;
mod scrub;
mod sessions;
mod stalled;
mod streams;
mod times;
mod traces;
mod unread;
mod upstream;
mod verbose;
mod world;
