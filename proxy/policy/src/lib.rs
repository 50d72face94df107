//! The pure egress decision. No tokio, no I/O, no clock: given a document and a request, it answers.
pub mod document;
