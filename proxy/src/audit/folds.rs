//! Decisions that repeat. The first few of a kind are lines at once; those like them are counted, and their number is a line
//! at the latest when the window ends or the proxy does; what is decided after the last count was taken has a line of its own.
//! So a flood is bounded, and no decision is without a line.
//!
//! What is told at once is bounded twice, for each kind and for all denials of a window; the kinds are bounded too, and
//! beyond that bound they are told apart by entrance and reason alone. A line that could not be written is counted, so
//! that the sum of lines and counts is the number of decisions, whatever happens to the disk in between.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use agentsandbox_policy::DenialReason;

use super::Decision;
use crate::entrance::Entrance;
use crate::limits::{AUDIT_DENIALS_PER_WINDOW_MAX, AUDIT_NAMES_PER_WINDOW_MAX};

/// What makes two decisions alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Where it came in; absent where that says nothing, as of strangers.
    pub entrance: Option<Entrance>,
    /// What was decided.
    pub decision: Decision,
    /// The name concerned. Absent when there is none, and for kinds beyond [`AUDIT_NAMES_PER_WINDOW_MAX`].
    pub host: Option<String>,
    /// The rule that came closest, absent like the name.
    pub rule: Option<String>,
    /// Why it was denied; absent when it was allowed.
    pub reason: Option<DenialReason>,
}

/// What to do with one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has a line of its own.
    Tell(Kind),
    /// It is counted already.
    Counted,
}

/// Decisions of one kind that have no line yet.
#[derive(Clone, Debug, PartialEq, Eq)]
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
pub struct Folds(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    kinds: HashMap<Kind, Seen>,
    denials_told: usize,
    /// No window follows that could tell of what is counted.
    is_last: bool,
}

#[derive(Debug)]
struct Seen {
    entrance: Entrance,
    told: usize,
    counted: u64,
}

impl Window {
    fn seen(&mut self, mut kind: Kind, entrance: Entrance) -> (Kind, &mut Seen) {
        if self.kinds.len() >= AUDIT_NAMES_PER_WINDOW_MAX && !self.kinds.contains_key(&kind) {
            (kind.host, kind.rule) = (None, None);
        }
        let seen = self.kinds.entry(kind.clone()).or_insert(Seen { entrance, told: 0, counted: 0 });
        (kind, seen)
    }
}

impl Folds {
    /// Takes a decision, of which the first `told_max` of a kind are told at once. What was allowed is told whatever else is
    /// told in this window.
    pub fn note(&self, kind: Kind, entrance: Entrance, told_max: usize) -> Verdict {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.is_last {
            return Verdict::Tell(kind);
        }
        let is_denial = kind.decision == Decision::Deny;
        let has_room = !is_denial || window.denials_told < AUDIT_DENIALS_PER_WINDOW_MAX;
        let (kind, seen) = window.seen(kind, entrance);
        if !has_room || seen.told >= told_max {
            seen.counted += 1;
            return Verdict::Counted;
        }
        seen.told += 1;
        window.denials_told += usize::from(is_denial);
        Verdict::Tell(kind)
    }

    /// Takes back that a decision was told, because its line could not be written, so that the next one is.
    pub fn untold(&self, kind: &Kind) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = window.kinds.get_mut(kind) {
            seen.told = seen.told.saturating_sub(1);
        }
    }

    /// Counts decisions whose line could not be written.
    pub fn count(&self, folded: &Folded) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        window.seen(folded.kind.clone(), folded.entrance).1.counted += folded.count;
    }

    /// Ends the window: what was counted in it, most frequent first.
    pub fn take(&self) -> Vec<Folded> {
        self.replace(Window::default())
    }

    /// The same for the last time: nothing is counted any more.
    pub fn end(&self) -> Vec<Folded> {
        self.replace(Window { is_last: true, ..Window::default() })
    }

    fn replace(&self, next: Window) -> Vec<Folded> {
        let window = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), next);
        let mut all: Vec<Folded> = window
            .kinds
            .into_iter()
            .filter(|(_, seen)| seen.counted > 0)
            .map(|(kind, Seen { entrance, counted, .. })| Folded { kind, entrance, count: counted })
            .collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.kind.host.cmp(&b.kind.host)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(host: &str, reason: Option<DenialReason>) -> Kind {
        let decision = if reason.is_some() { Decision::Deny } else { Decision::Allow };
        Kind { entrance: Some(Entrance::Dns), decision, host: Some(host.to_owned()), rule: None, reason }
    }

    fn is_told(folds: &Folds, kind: &Kind) -> bool {
        folds.note(kind.clone(), Entrance::Dns, 1) != Verdict::Counted
    }

    #[test]
    fn the_first_of_a_kind_is_told_and_the_rest_are_counted_until_the_window_ends() {
        let folds = Folds::default();
        let (good, bad) = (kind("good.test", None), kind("good.test", Some(DenialReason::HostNotAllowed)));
        assert!(is_told(&folds, &good));
        assert!((0..3).all(|_| !is_told(&folds, &good)));
        assert!(is_told(&folds, &bad));
        assert_eq!(folds.take(), [Folded { kind: good.clone(), entrance: Entrance::Dns, count: 3 }]);
        assert!(folds.take().is_empty());
        assert!(is_told(&folds, &good), "a new window");
    }

    #[test]
    fn p_i4_names_beyond_the_bound_share_one_line_and_are_still_counted() {
        let folds = Folds::default();
        let denied = Some(DenialReason::HostNotAllowed);
        let lines = (0..1000).filter(|n| is_told(&folds, &kind(&format!("x{n}.evil.test"), denied))).count();
        assert_eq!(lines, AUDIT_DENIALS_PER_WINDOW_MAX.min(AUDIT_NAMES_PER_WINDOW_MAX + 1));
        let folded = folds.take();
        assert_eq!(folded.iter().map(|folded| folded.count).sum::<u64>() + lines as u64, 1000);
        assert_eq!(folded[0].kind.host, None);
        assert!(folded.len() <= AUDIT_NAMES_PER_WINDOW_MAX + 1);
    }

    #[test]
    fn p_i4_denials_of_many_kinds_do_not_add_up_and_what_is_allowed_is_told_beside_them() {
        let folds = Folds::default();
        let told = (0..10_000).filter(|n| {
            let kind = kind(&format!("x{}.evil.test", n % 40), Some(DenialReason::PathNotAllowed));
            folds.note(kind, Entrance::Dns, 100) != Verdict::Counted
        });
        assert_eq!(told.count(), AUDIT_DENIALS_PER_WINDOW_MAX);
        assert!(is_told(&folds, &kind("good.test", None)));
    }

    #[test]
    fn a_kind_whose_line_failed_is_told_again() {
        let folds = Folds::default();
        let good = kind("good.test", None);
        assert!(is_told(&folds, &good) && !is_told(&folds, &good));
        folds.untold(&good);
        assert!(is_told(&folds, &good));
    }
}
