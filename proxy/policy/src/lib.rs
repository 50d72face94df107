//! The pure egress decision: given a document and a request, it answers.
//!
//! Data flows one way. [`document`] is the wire; `policy` turns it into a [`Policy`] or refuses it whole. `host`,
//! `method` and `target` turn what an agent sent into its one canonical spelling, or call it [`Malformed`]. `decide`
//! makes a [`Permit`] of a [`Request`], and `address` makes a [`DialPermit`] of a permit and a resolved address. What
//! was judged is what the permit holds, so it is what gets sent. Everything else is a [`Denial`]. `placeholder` finds what must not
//! go out as if it were a key, `own_key` and `form` what the agent may not present as its own, and `explanation` tells a decision to whoever asks.
//!
//! Deliberately absent: a clock, I/O, tokio, secrets, regular expressions, and any default that allows.

mod address;
mod bounds;
mod collector;
mod decide;
mod denial;
pub mod document;
mod explanation;
mod form;
mod host;
mod method;
mod own_key;
mod parameter;
mod path;
mod pattern;
mod pinned;
mod placeholder;
mod policy;
mod secret_error;
mod strangers;
mod tally;
mod target;

pub use address::DialPermit;
pub use bounds::{AnswerLimits, Bounds, UploadLimits};
pub use collector::Collector;
pub use decide::{CertificateUse, CredentialUse, NamePermit, PassPermit, Permit, Request};
pub use denial::{Denial, DenialReason, Malformed};
pub use explanation::Explanation;
pub use form::FormSearch;
pub use host::{Host, parse_authority};
pub use method::Method;
pub use path::PathGlob;
pub use pattern::HostPattern;
pub use pinned::{AUTH_FIELDS, PinnedHeader, is_auth_protocol, is_client_identity};
pub use placeholder::{BodySearch, Placeholders, TELLING_BYTES_MIN, Unsearchable};
pub use policy::{
    CertificateFiles, Fault, Injection, InvalidPolicy, Login, Policy, ProxyProtocol, Scheme, UpstreamProxy,
};
pub use secret_error::SecretError;
pub use tally::{DeniedKind, Idle, TALLY_KINDS_MAX, Tally, UnusableCredential};
pub use target::Target;
