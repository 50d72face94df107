//! Writes a tree of files from hostile input into one folder, and never outside it.
//!
//! - [`archive`] reads tar, gzip, zstd and zip as streams. What it reads is hostile from its first byte.
//! - [`folder`] reads a folder that stands there already, which is as hostile.
//! - [`git`] reads the pack that a git server sends, and checks a commit of it out with a `.git` of its own beside it.
//! - [`changes`] tells what somebody hostile made of such a tree, and makes the same of another one.
//! - [`exclusion`] says what is left out by its name, and [`tokens`] reports what looks like a credential by its content.
//! - [`sanitize`] rewrites files that hold settings and secrets side by side, where that is asked for.
//! - [`tree`] is the only writer. It makes folders, regular files, links that stay inside, and nothing else; it stages
//!   them beside their place, which they take by one rename when all of them are there.
//! - [`path`], [`link`](mod@link) and [`refusal`] judge names before the tree sees them, and say which one was refused.
//!
//! Deliberately absent: owners, devices, sockets, extended attributes, set-id bits, sparse files, and any way to write
//! to a path that was not judged. What cannot be understood is refused as a whole.

pub mod archive;
pub mod changes;
pub mod exclusion;
mod fold;
pub mod folder;
pub mod git;
pub mod limits;
pub mod link;
mod look;
mod names;
pub mod path;
pub mod refusal;
pub mod sanitize;
pub mod tokens;
pub mod tree;

pub use archive::{Note, Unpacked, unpack, unpack_stream};
pub use exclusion::{Exclusion, Verdict};
pub use folder::unpack_folder;
pub use limits::Limits;
pub use path::RelativePath;
pub use refusal::{Error, Reason, Refusal};
pub use sanitize::Format;
pub use tree::{Counts, Tree};
