//! Watches: what each one brings, and when.

use bytes::Bytes;
use futures::channel::mpsc::UnboundedSender;
use serde_json::{Value, json};

use crate::serve::{Call, Selector};
use crate::store::{Change, Revision, versioned};

/// What is sent on a body.
pub type Chunk = Result<Bytes, std::io::Error>;

/// One watch that is open.
pub struct Watch {
    /// What it asks for.
    pub call: Call,
    selector: Selector,
    /// Where it is sent.
    pub to: UnboundedSender<Chunk>,
    /// The last thing on its way to it comes then; nothing may overtake it.
    pub last_due: u64,
    /// Whether anything is put on its way any more.
    pub open: bool,
}

impl Watch {
    /// A watch that has brought nothing yet.
    pub fn new(call: Call, to: UnboundedSender<Chunk>) -> Self {
        Self { selector: call.selector(), call, to, last_due: 0, open: true }
    }

    /// What it brings of a revision, if that is about an object that it shows or showed.
    pub fn event(&self, revision: &Revision) -> Option<Bytes> {
        if revision.kind != self.call.kind {
            return None;
        }
        let wants = |object: &Value| self.call.wants(object, &self.selector);
        let before = revision.before.as_ref().is_some_and(wants);
        let after = revision.change != Change::Deleted && wants(&revision.object);
        let what = match (before, after) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        // Of an object that is no longer wanted, what it was while it was.
        let object = match (&revision.before, after) {
            (Some(before), false) => &versioned(before, revision.number),
            _ => &revision.object,
        };
        Some(line(what, &self.call.shown(object)))
    }

    /// A bookmark at a revision.
    pub fn bookmark(&self, revision: u64) -> Bytes {
        let (kind, version) = if self.call.wants_metadata() {
            ("PartialObjectMetadata", "meta.k8s.io/v1")
        } else {
            (self.call.kind.kind, self.call.kind.api_version)
        };
        let metadata = json!({"resourceVersion": revision.to_string()});
        line("BOOKMARK", &json!({"kind": kind, "apiVersion": version, "metadata": metadata, "spec": {}}))
    }
}

/// One line of a watch.
pub fn line(what: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": what, "object": object})))
}
