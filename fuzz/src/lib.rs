//! Fuzz targets for everything that reads what a stranger wrote.
//!
//! Each target is a plain function that takes any bytes and panics where its claim does not hold. cargo-fuzz drives them
//! through the programs in `fuzz_targets/`, and an ordinary test runs each over its `seeds/`, so whatever was once found
//! is looked for with every change. `docs/fuzzing.md` says what each one claims.
//!
//! The claims are those of the documents and no others: a target never repeats the code that it tests, but reads the
//! same text with another reader, or says what the result must not hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target states its claim by a panic; its inputs are its own"
)]

mod agent;
mod answers;
mod archive;
mod changes;
mod names;
mod pieces;
mod requests;
mod rules;
mod sanitize;
mod wire;

pub use agent::{headers, placeholder_body, placeholder_head};
pub use answers::{decode, fields, sse, websocket};
pub use archive::archive;
pub use changes::changes;
pub use names::{address_guard, host, path};
pub use requests::{chunked, h1_head};
pub use rules::policy;
pub use sanitize::sanitize;
pub use wire::{client_hello, dns_query, socks5};

/// A target: any bytes go in, and it returns or panics.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its program and of its folder of seeds.
pub const TARGETS: [(&str, Target); 19] = [
    ("address_guard", address_guard),
    ("archive", archive),
    ("changes", changes),
    ("chunked", chunked),
    ("client_hello", client_hello),
    ("decode", decode),
    ("dns_query", dns_query),
    ("fields", fields),
    ("h1_head", h1_head),
    ("headers", headers),
    ("host", host),
    ("path", path),
    ("placeholder_body", placeholder_body),
    ("placeholder_head", placeholder_head),
    ("policy", policy),
    ("sanitize", sanitize),
    ("socks5", socks5),
    ("sse", sse),
    ("websocket", websocket),
];
