//! Decisions that repeat. The first of its kind is a line at once; those like it are counted, and their number is a line
//! at the latest when the window ends or the proxy does. So a flood is bounded, and no decision is without a line.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use agentsandbox_policy::{DenialReason, Host};

use crate::entrance::Entrance;
use crate::limits::AUDIT_NAMES_PER_WINDOW_MAX;

/// What makes two decisions alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The name concerned. Absent when there is none, and for names beyond [`AUDIT_NAMES_PER_WINDOW_MAX`].
    pub host: Option<Host>,
    /// Why it was denied; absent when it was allowed.
    pub reason: Option<DenialReason>,
}

/// Decisions of one kind that have no line yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Folded {
    /// Their kind.
    pub kind: Kind,
    /// Where the first of them came in.
    pub entrance: Entrance,
    /// Their number, at least one.
    pub count: u64,
}

/// The decisions of the current window.
#[derive(Debug, Default)]
pub struct Folds(Mutex<HashMap<Kind, (Entrance, u64)>>);

impl Folds {
    /// Counts a decision. If it is the first of its kind in this window, the kind to write down is given back.
    pub fn note(
        &self,
        entrance: Entrance,
        host: Option<&Host>,
        reason: Option<DenialReason>,
    ) -> Option<Kind> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = Kind { host: host.cloned(), reason };
        if window.len() >= AUDIT_NAMES_PER_WINDOW_MAX && !window.contains_key(&kind) {
            kind.host = None;
        }
        if let Some((_, count)) = window.get_mut(&kind) {
            *count += 1;
            return None;
        }
        window.insert(kind.clone(), (entrance, 0));
        Some(kind)
    }

    /// Forgets a kind whose first line could not be written, so that the next decision tries again.
    pub fn forget(&self, kind: &Kind) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(kind);
    }

    /// Ends the window: what was counted in it, most frequent first.
    pub fn take(&self) -> Vec<Folded> {
        let window = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut all: Vec<Folded> = window
            .into_iter()
            .filter(|(_, (_, count))| *count > 0)
            .map(|(kind, (entrance, count))| Folded { kind, entrance, count })
            .collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.kind.host.cmp(&b.kind.host)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host::parse(name).unwrap()
    }

    #[test]
    fn the_first_of_a_kind_is_told_and_the_rest_are_counted_until_the_window_ends() {
        let folds = Folds::default();
        let good = host("good.test");
        assert_eq!(folds.note(Entrance::Dns, Some(&good), None).unwrap().host, Some(good.clone()));
        for _ in 0..3 {
            assert_eq!(folds.note(Entrance::Dns, Some(&good), None), None);
        }
        assert!(folds.note(Entrance::Dns, Some(&good), Some(DenialReason::HostNotAllowed)).is_some());
        let kind = Kind { host: Some(good.clone()), reason: None };
        assert_eq!(folds.take(), [Folded { kind, entrance: Entrance::Dns, count: 3 }]);
        assert!(folds.take().is_empty());
        assert!(folds.note(Entrance::Dns, Some(&good), None).is_some(), "a new window");
    }

    #[test]
    fn p_i4_names_beyond_the_bound_share_one_line_and_are_still_counted() {
        let folds = Folds::default();
        let denied = Some(DenialReason::HostNotAllowed);
        let lines = (0..1000)
            .filter(|n| folds.note(Entrance::Dns, Some(&host(&format!("x{n}.evil.test"))), denied).is_some())
            .count();
        assert_eq!(lines, AUDIT_NAMES_PER_WINDOW_MAX + 1);
        let folded = folds.take();
        assert_eq!(folded.iter().map(|folded| folded.count).sum::<u64>() + lines as u64, 1000);
        assert_eq!(folded[0].kind.host, None);
    }

    #[test]
    fn a_kind_whose_line_failed_is_told_again() {
        let folds = Folds::default();
        let kind = folds.note(Entrance::Dns, Some(&host("good.test")), None).unwrap();
        folds.forget(&kind);
        assert_eq!(folds.note(Entrance::Dns, Some(&host("good.test")), None), Some(kind));
    }
}
