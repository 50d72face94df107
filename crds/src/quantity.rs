//! Quantities, as far as the schema admits them: bytes, cores and times. Pure.

/// Longest time that a spec may write: a year.
const LONGEST_SECS: i64 = 8760 * 3600;

/// Bytes of `512Mi`, `4Gi`, `1G` or `1024`; none if it is no such quantity or does not fit.
#[must_use]
pub fn bytes(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor).filter(|n| *n > 0)
}

/// Bytes as people write them: in the largest unit in which they are a whole number, for [`bytes`] to read.
#[must_use]
pub fn text(bytes: i64) -> String {
    let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let whole = units.iter().find(|(bits, _)| bytes != 0 && bytes % (1 << bits) == 0);
    whole.map_or_else(|| bytes.to_string(), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

/// Thousandths of a core of `2`, `0.5` or `500m`; none if it is no such quantity or does not fit.
#[must_use]
pub fn cpu_millis(text: &str) -> Option<i64> {
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse::<i64>().ok().filter(|n| *n > 0);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse::<i64>().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(thousandths).filter(|n| *n > 0)
}

/// Seconds of a time as a spec writes it, `1h30m`; none if it is not one, or longer than a year.
#[must_use]
pub fn seconds(text: &str) -> Option<i64> {
    let (mut rest, mut sum) = (text, 0_i64);
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((count, after)) = rest.split_once(unit) {
            if count.is_empty() || !count.bytes().all(|one| one.is_ascii_digit()) {
                return None;
            }
            sum = sum.checked_add(count.parse::<i64>().ok()?.checked_mul(seconds)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty() && sum <= LONGEST_SECS).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, wanted) in [
            ("1", Some(1)),
            ("512Mi", Some(512 << 20)),
            ("4Gi", Some(4 << 30)),
            ("1k", Some(1000)),
            ("0", None),
            ("-1Gi", None),
            ("Gi", None),
            ("1Pi", None),
            ("9999999999999Ti", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
        for (bytes, wanted) in [
            (0, "0"),
            (1000, "1000"),
            (1 << 10, "1Ki"),
            (1536 << 20, "1536Mi"),
            (4 << 30, "4Gi"),
            (1 << 40, "1Ti"),
        ] {
            assert_eq!(text(bytes), wanted);
        }
        for (text, wanted) in [
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("1.25", Some(1250)),
            ("500m", Some(500)),
            ("0m", None),
            ("0", None),
            ("1.2345", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(cpu_millis(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_time_is_read_as_its_rule_admits_it() {
        for (text, wanted) in [
            ("1h30m", Some(5400)),
            ("90s", Some(90)),
            ("0s", Some(0)),
            ("8760h", Some(8760 * 3600)),
            ("8760h1s", None),
            ("30m1h", None),
            ("1d", None),
            ("-1h", None),
            ("h", None),
            ("30", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}
