//! What is told on a watch, and when: it is opened, gets what it missed, each revision that follows and bookmarks between them,
//! in order, until it ends or is let go stale.

use bytes::Bytes;
use futures::channel::{mpsc, oneshot};

use super::{Action, Answer, World};
use crate::faults::{Fate, Lateness, hash};
use crate::serve::{Call, expired};
use crate::store::Revision;
use crate::watches::{Watch, line};

/// A watch that lasts gets a bookmark this often.
const BOOKMARK_EVERY: u64 = 60_000;

impl World {
    /// Opens a watch; answers with the status that is heard.
    pub(super) fn open(&mut self, call: Call, to: oneshot::Sender<Answer>, fate: Fate) -> Option<u16> {
        if matches!(fate, Fate::Lose | Fate::CrashAfter) {
            self.reply(to, Answer::Broken);
            return None;
        }
        let from: u64 = call.asks("resourceVersion").parse().unwrap_or_default();
        let (sender, receiver) = mpsc::unbounded();
        self.reply(to, Answer::Stream(200, receiver));
        if from < self.store.compacted {
            let _ = sender.unbounded_send(Ok(line("ERROR", &expired().body())));
            return Some(410);
        }
        if fate == Fate::Cut {
            let _ = sender.unbounded_send(Err(std::io::ErrorKind::ConnectionReset.into()));
            return None;
        }
        self.opened += 1;
        let (id, now) = (self.opened, self.millis());
        let lasts = call.asks("timeoutSeconds").parse::<u64>().unwrap_or(1800) * 1000;
        let (kind, bookmarks) = (call.kind, call.asks("allowWatchBookmarks") == "true");
        let mut watch = Watch::new(call, sender);
        watch.last_due = now + 4;
        watch.open = !matches!(fate, Fate::Endless | Fate::LoseSilently);
        self.watches.insert(id, watch);
        if matches!(fate, Fate::Endless | Fate::LoseSilently) {
            return Some(200);
        }
        let missed = self.store.log.iter().filter(|one| one.number > from && one.kind == kind);
        let missed: Vec<Revision> = missed.cloned().collect();
        for revision in missed {
            self.tell(id, &revision);
        }
        self.enqueue(now + lasts, &format!("end {id}"), Action::End(id));
        if bookmarks {
            self.enqueue(now + BOOKMARK_EVERY, &format!("mark {id}"), Action::Bookmark(id));
        }
        Some(200)
    }

    /// Puts what a watch brings of a revision on its way.
    pub(super) fn tell(&mut self, id: u64, revision: &Revision) {
        let (now, seed) = (self.millis(), self.seed);
        let Some(watch) = self.watches.get_mut(&id).filter(|watch| watch.open) else { return };
        let Some(bytes) = watch.event(revision) else { return };
        let plural = watch.call.kind.plural;
        let draw = hash(seed, &format!("event {id} {}", revision.number));
        match self.faults.event(plural, now, draw) {
            Lateness::After(millis) => {
                watch.last_due = (watch.last_due + 1).max(now + millis.max(1));
                let due = watch.last_due;
                self.enqueue(due, &format!("event {id} {}", revision.number), Action::Bring(id, bytes));
            }
            lateness => {
                watch.open = false;
                let due = (watch.last_due + 1).max(now + 1);
                if lateness == Lateness::Gone {
                    self.store.compacted = self.store.compacted.max(revision.number);
                }
                if lateness != Lateness::Stuck {
                    self.enqueue(due, &format!("end {id}"), Action::End(id));
                }
            }
        }
    }

    /// What is due on a watch arrives.
    pub(super) fn bring(&mut self, id: u64, bytes: Bytes) {
        let Some(watch) = self.watches.get(&id) else { return };
        if watch.to.unbounded_send(Ok(bytes)).is_err() {
            self.watches.remove(&id);
        }
    }

    /// Puts a bookmark on its way, and the next one after it.
    pub(super) fn bookmark(&mut self, id: u64) {
        let now = self.millis();
        let revision = self.store.revision();
        if let Some(watch) = self.watches.get_mut(&id).filter(|watch| watch.open) {
            let bytes = watch.bookmark(revision);
            watch.last_due = (watch.last_due + 1).max(now + 1);
            let due = watch.last_due;
            self.enqueue(due, &format!("mark {id}"), Action::Bring(id, bytes));
            self.enqueue(now + BOOKMARK_EVERY, &format!("mark {id}"), Action::Bookmark(id));
        }
    }
}
