//! The time as lines have it. All but its fraction is the same for a second, and is made once for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Digits of a fraction in nanoseconds.
const FRACTION_DIGITS: usize = 9;

/// Writes times.
#[derive(Default)]
pub struct Clock {
    second: u64,
    /// That second without its `Z`; empty before there is one.
    text: String,
}

impl Clock {
    /// The time in UTC by RFC 3339; empty if it cannot be written so.
    pub fn write(&mut self, now: SystemTime, text: &mut String) {
        let since: Duration = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = second(self.second).unwrap_or_default();
        }
        text.clear();
        if self.text.is_empty() {
            return;
        }
        text.push_str(&self.text);
        text.push('.');
        let mut digits = [b'0'; FRACTION_DIGITS];
        let mut rest = since.subsec_nanos();
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        text.push_str(std::str::from_utf8(&digits).unwrap_or_default());
        text.push('Z');
    }
}

fn second(seconds: u64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    let text = time.format(&Rfc3339).ok()?;
    text.strip_suffix('Z').map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_time_that_is_written_is_the_time_that_is_read(
            times in prop::collection::vec((0..10_u64, 0..1_000_000_000_u32), 1..20),
            year in 0..8000_u64,
        ) {
            let (mut clock, mut text) = (Clock::default(), String::new());
            for (second, nanos) in times {
                let since = Duration::new(year * 31_556_952 + second, nanos);
                clock.write(UNIX_EPOCH + since, &mut text);
                let read = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
                prop_assert_eq!(read.unix_timestamp_nanos(), i128::try_from(since.as_nanos()).unwrap());
                prop_assert_eq!(text.len(), "2026-01-01T00:00:00.000000000Z".len());
            }
        }
    }

    #[test]
    fn a_time_that_cannot_be_written_is_empty() {
        let mut text = "old".to_owned();
        Clock::default().write(UNIX_EPOCH + Duration::from_secs(1 << 40), &mut text);
        assert_eq!(text, "");
    }
}
