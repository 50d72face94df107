//! The egress proxy beside one agent. It answers nobody else, lets through what the policy allows, adds the keys that
//! the agent never holds, and writes every decision down.
//!
//! A request flows: [`serve`] accepts and checks the peer → [`entrance`] finds out what it speaks → `destination`
//! canonicalises and cross-checks → `agentsandbox_policy` decides → [`pipeline`] resolves, dials, injects, streams and
//! audits. Deliberately absent: a Kubernetes client, redirects, a cache of answers, a way around TLS verification, and
//! any path to an upstream socket that does not start from a `Permit`.

mod activity;
pub mod admin;
pub mod audit;
pub mod authority;
mod bounds;
pub mod budget;
pub mod ceiling;
mod chain;
pub mod cli;
pub mod config;
pub mod decision;
pub mod descriptors;
pub mod destination;
mod dial;
pub mod enrolment;
pub mod entrance;
mod exchange;
pub mod explain;
pub mod headers;
pub mod health;
pub mod limits;
mod loops;
pub mod metrics;
mod paced;
pub mod pipeline;
pub mod presented;
mod ready;
pub mod reload;
pub mod resolve;
pub mod respond;
mod revoked;
pub mod schema;
pub mod scrub;
pub mod secrets;
pub mod serve;
mod stream;
pub mod traces;
pub mod upgrade;
mod upstream;
mod writes_through;
