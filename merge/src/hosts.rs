//! Host patterns: whether one covers another. Pure.
//!
//! `x` covers itself; `*.x` covers exactly one more label; `**.x` covers one or more. A pattern covers another when every
//! host that the other matches is matched by it too.

/// Whether every host that `inner` matches is matched by `outer`.
#[must_use]
pub fn covers(outer: &str, inner: &str) -> bool {
    if outer == inner {
        return true;
    }
    if let Some(base) = outer.strip_prefix("**.") {
        let inner_base = inner.strip_prefix("**.").or_else(|| inner.strip_prefix("*."));
        return match inner_base {
            Some(inner_base) => inner_base == base || below(inner_base, base),
            None => below(inner, base),
        };
    }
    if let Some(base) = outer.strip_prefix("*.") {
        return !inner.starts_with('*')
            && inner
                .strip_suffix(base)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty() && !label.contains('.'));
    }
    false
}

fn below(name: &str, base: &str) -> bool {
    name.strip_suffix(base).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn o_t3_a_pattern_covers_exactly_what_it_matches() {
        for (outer, inner, wanted) in [
            ("api.example.com", "api.example.com", true),
            ("api.example.com", "api.example.com.evil.test", false),
            ("example.com", "api.example.com", false),
            ("*.example.com", "api.example.com", true),
            ("*.example.com", "*.example.com", true),
            ("*.example.com", "**.example.com", false),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", "evilexample.com", false),
            ("*.example.com", ".example.com", false),
            ("**.example.com", "a.b.example.com", true),
            ("**.example.com", "*.example.com", true),
            ("**.example.com", "**.b.example.com", true),
            ("**.example.com", "example.com", false),
            ("**.example.com", "evilexample.com", false),
            ("**.example.com", ".example.com", false),
            ("**.b.example.com", "**.example.com", false),
        ] {
            assert_eq!(covers(outer, inner), wanted, "{outer} {inner}");
        }
    }
}
