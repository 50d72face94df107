//! The internet of the cluster tests, in one process.
//!
//! It runs in a network namespace in which every IPv4 address is local, so whatever leaves a sandbox arrives here and is
//! seen. A test then asserts on what arrived, never on what a client believed.
//!
//! - [`names`]: which names exist and which address each has; nothing else invents an address.
//! - [`journal`]: what arrived: packets, DNS questions, HTTP requests. Bounded; it says how much it dropped.
//! - [`frame`]: one captured packet to one record; pure. [`packets`]: the capturing sockets.
//! - [`authority`]: the private CA and the certificate of each name. [`front`]: the listeners on 80 and 443.
//! - [`sites`]: what each host answers. [`gates`]: how a test holds a stream open.
//! - [`servers`]: the real git, pip and npm servers, children of this process. [`prepare`]: puts their programs in a cache.
//! - [`control`]: the unix socket by which a test steers the world; [`client`]: its typed other end.
//!
//! It never reaches out: its only outgoing connections go to its own children on loopback. It keeps no secret worth keeping: the keys it
//! checks are made up by the test, and they are journaled on purpose, since "the key arrived" is what a test asserts.

pub mod authority;
pub mod client;
pub mod control;
pub mod dns;
pub mod frame;
pub mod front;
pub mod gates;
pub mod journal;
pub mod names;
pub mod packets;
pub mod prepare;
pub mod servers;
pub mod sites;
pub mod world;
