//! Whether memory stays flat.

use crate::traffic::WORKERS;

/// What one exchange of this load may hold at one moment and not at another: a body of 48 KiB up, one of 96 KiB down, and buffers of
/// HTTP/2 and TLS.
const EXCHANGE_KIB: u64 = 256;
/// By how much the last third may lie above the first: what all exchanges that can be under way may hold. Between the middles of the
/// two pass half of a run's requests: in half an hour of 100 requests a second, 47 bytes kept for each exceed it.
pub const GROWTH_KIB_MAX: u64 = WORKERS as u64 * EXCHANGE_KIB;

/// Medians of the first and of the last third of some samples, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thirds {
    /// Of the first.
    pub first: u64,
    /// Of the last.
    pub last: u64,
}

impl Thirds {
    /// Of samples in order; none of fewer than three.
    #[must_use]
    pub fn of(samples: &[u64]) -> Option<Self> {
        let third = samples.len() / 3;
        let median = |part: &[u64]| {
            let mut part = part.to_vec();
            part.sort_unstable();
            part.get(part.len() / 2).copied()
        };
        let first = median(samples.get(..third)?)?;
        let last = median(samples.get(samples.len() - third..)?)?;
        Some(Self { first, last })
    }

    /// Whether it is flat.
    #[must_use]
    pub const fn is_flat(self) -> bool {
        self.last <= self.first + GROWTH_KIB_MAX
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_no_growth_and_a_steady_rise_is() {
        let mut flat = vec![50_000; 300];
        flat[250] = 500_000;
        assert!(Thirds::of(&flat).unwrap().is_flat());
        let rising: Vec<u64> = (0..300).map(|second| 50_000 + second * 100).collect();
        assert!(!Thirds::of(&rising).unwrap().is_flat());
        assert_eq!(Thirds::of(&[1, 2]), None);
    }
}
