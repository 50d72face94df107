//! Looks for many texts in one pass, so that an answer which holds none of them costs next to nothing.
//!
//! An automaton knows how each text begins, and where it finds that, the texts themselves are compared. Its memory is not
//! wiped when it is dropped, so it is given no more of a secret than what names its kind.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use zeroize::Zeroizing;

use super::Case;

/// Bytes of a text that are looked for first: enough to be rare in other text, few enough to tell nothing (`sk-a`).
const ANCHOR_BYTES: usize = 4;

/// Texts to look for, letter for letter.
pub struct Needles {
    all: Vec<Zeroizing<Vec<u8>>>,
    anchors: Anchors,
    longest: usize,
}

/// Where needles stand in a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Each place with its end, in order. Places that touch are one.
    pub places: Vec<(usize, usize)>,
    /// Length of the longest end of the text that begins a needle and is not all of it.
    pub begun: usize,
}

impl Needles {
    /// What looks for these texts, none of which is empty.
    #[must_use]
    pub fn new(mut all: Vec<Zeroizing<Vec<u8>>>) -> Self {
        all.sort_unstable_by(|a, b| a.as_slice().cmp(b.as_slice()));
        all.dedup();
        let anchors = Anchors::new(all.iter().map(|needle| needle.as_slice()), Case::Exact);
        let longest = all.iter().map(|needle| needle.len()).max().unwrap_or(0);
        Self { all, anchors, longest }
    }

    /// Bytes of the longest one.
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.longest
    }

    /// Every needle that begins in the first `within` bytes of the text, also where they overlap.
    #[must_use]
    pub fn search(&self, text: &[u8], within: usize) -> Found {
        let mut found = Found::default();
        let mut from = 0;
        while let Some((at, numbers)) = self.anchors.next(text, from, within) {
            let rest = text.get(at..).unwrap_or_default();
            for needle in numbers.iter().filter_map(|number| self.all.get(*number)) {
                if rest.starts_with(needle) {
                    found.add(at, at + needle.len());
                } else if needle.starts_with(rest) {
                    found.begun = found.begun.max(rest.len());
                }
            }
            from = at + 1;
        }
        if found.begun == 0 {
            found.begun = self.anchors.begun(text, within);
        }
        found
    }

    /// Length of the longest end of the text that begins each needle, with the needle's own length.
    pub fn begun(&self, text: &[u8]) -> impl Iterator<Item = (usize, usize)> {
        self.all.iter().map(|needle| (begun(needle, text), needle.len()))
    }
}

impl Found {
    fn add(&mut self, start: usize, end: usize) {
        match self.places.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => self.places.push((start, end)),
        }
    }
}

/// Two bytes that some text begins with, in any letter case: one look at each place of a short text tells of most that none
/// begins there. Of a secret it knows no more than an anchor does.
struct Pairs(Option<Box<[u64; Self::WORDS]>>);

impl Pairs {
    const WORDS: usize = (1 << 16) / 64;

    /// None where a single byte may be all of a text.
    fn of(anchors: &[Vec<u8>]) -> Self {
        let mut known = Box::new([0; Self::WORDS]);
        for anchor in anchors {
            let [first, second, ..] = anchor.as_slice() else { return Self(None) };
            for first in [first.to_ascii_lowercase(), first.to_ascii_uppercase()] {
                for second in [second.to_ascii_lowercase(), second.to_ascii_uppercase()] {
                    let (word, bit) = Self::place(first, second);
                    known.iter_mut().skip(word).take(1).for_each(|word| *word |= bit);
                }
            }
        }
        Self(Some(known))
    }

    fn place(first: u8, second: u8) -> (usize, u64) {
        let pair = u16::from_be_bytes([first, second]);
        (usize::from(pair >> 6), 1 << (pair & 63))
    }

    /// Whether one stands in the text; if not, no text does.
    fn stand_in(&self, text: &[u8]) -> bool {
        let Some(known) = &self.0 else { return true };
        let is_known = |(first, second): (&u8, &u8)| {
            let (word, bit) = Self::place(*first, *second);
            known.get(word).is_some_and(|word| word & bit != 0)
        };
        text.iter().zip(text.iter().skip(1)).any(is_known)
    }
}

/// How texts begin.
pub struct Anchors {
    /// Absent when it cannot be made: then a text may begin anywhere.
    automaton: Option<AhoCorasick>,
    pairs: Pairs,
    all: Vec<Vec<u8>>,
    /// By anchor: the numbers of the texts that may stand where it is the longest one.
    texts: Vec<Vec<usize>>,
    every: Vec<usize>,
}

impl Anchors {
    /// The anchors of these texts.
    pub fn new<'t>(texts: impl Iterator<Item = &'t [u8]>, case: Case) -> Self {
        let of_text: Vec<&[u8]> = texts.map(|text| text.get(..ANCHOR_BYTES).unwrap_or(text)).collect();
        let mut all: Vec<Vec<u8>> = of_text.iter().map(|anchor| anchor.to_vec()).collect();
        all.sort_unstable();
        all.dedup();
        let numbers = |anchor: &Vec<u8>| {
            let may_stand = |(_, own): &(usize, &&[u8])| anchor.starts_with(own);
            of_text.iter().enumerate().filter(may_stand).map(|(number, _)| number).collect()
        };
        let texts = all.iter().map(numbers).collect();
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest).ascii_case_insensitive(case == Case::Any);
        let pairs = Pairs::of(&all);
        Self { automaton: builder.build(&all).ok(), pairs, every: (0..of_text.len()).collect(), all, texts }
    }

    /// Whether one stands in the text, so that a text may.
    #[must_use]
    pub fn stand_in(&self, text: &[u8]) -> bool {
        let automaton = self.automaton.as_ref();
        automaton.is_none_or(|automaton| self.pairs.stand_in(text) && automaton.is_match(text))
    }

    /// The first place, from `from` on and among the first `within` bytes, where a text may begin, and the numbers of those
    /// that may.
    fn next(&self, text: &[u8], from: usize, within: usize) -> Option<(usize, &[usize])> {
        let within = within.min(text.len());
        if from >= within {
            return None;
        }
        let Some(automaton) = &self.automaton else { return Some((from, &self.every)) };
        let until = text.len().min(within + ANCHOR_BYTES - 1);
        let found = automaton.find(Input::new(text).span(from..until))?;
        let numbers = self.texts.get(found.pattern().as_usize()).unwrap_or(&self.every);
        (found.start() < within).then_some((found.start(), numbers))
    }

    /// Length of the longest end of the text that begins one, from the first `within` bytes on.
    fn begun(&self, text: &[u8], within: usize) -> usize {
        let begins = |length: &usize| {
            let at = text.len().checked_sub(*length).filter(|at| *at < within);
            let end = at.and_then(|at| text.get(at..)).unwrap_or_default();
            !end.is_empty() && self.all.iter().any(|anchor| anchor.len() > *length && anchor.starts_with(end))
        };
        (1..ANCHOR_BYTES).rev().find(begins).unwrap_or(0)
    }
}

/// Length of the longest end of the text that begins this needle and is not all of it.
fn begun(needle: &[u8], text: &[u8]) -> usize {
    let longest = needle.len().saturating_sub(1).min(text.len());
    let ends_with =
        |length: usize| text.len().checked_sub(length).and_then(|at| text.get(at..)) == needle.get(..length);
    (1..=longest).rev().find(|length| ends_with(*length)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
