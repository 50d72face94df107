//! Which rules may speak of a host, found without a look at the others, so that what a request costs does not grow with the
//! policy. The index only narrows: whether a pattern means a host is said by [`HostPattern::matches`] alone.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::{Host, HostPattern};

/// Positions of patterns, by the name that each of them ends with.
#[derive(Clone, Debug, Default)]
pub(super) struct HostIndex {
    by_base: HashMap<String, Vec<usize>, RandomState>,
}

impl HostIndex {
    /// The index of these patterns, which are counted from zero.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a HostPattern>) -> Self {
        let mut by_base: HashMap<String, Vec<usize>, RandomState> = HashMap::default();
        for (position, pattern) in patterns.enumerate() {
            by_base.entry(pattern.base().as_str().to_owned()).or_default().push(position);
        }
        Self { by_base }
    }

    /// Positions of the patterns that may mean this host, in order: those over it or over a name that it ends with.
    pub(super) fn at(&self, host: &Host) -> Cow<'_, [usize]> {
        let name = host.as_str();
        let parents = name.match_indices('.').filter_map(|(dot, _)| name.get(dot + 1..));
        let mut lists = std::iter::once(name).chain(parents).filter_map(|base| self.by_base.get(base));
        let first = lists.next().map(Vec::as_slice).unwrap_or_default();
        let Some(second) = lists.next() else { return Cow::Borrowed(first) };
        let mut found: Vec<usize> = first.iter().chain(second).chain(lists.flatten()).copied().collect();
        found.sort_unstable();
        Cow::Owned(found)
    }
}
