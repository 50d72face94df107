//! Host patterns of rules and scopes. There are three forms and no others, in particular no regular expressions.

use std::cmp::Reverse;
use std::fmt;

use crate::{Host, Malformed, strangers};

/// `x` (itself), `*.x` (exactly one label more) or `**.x` (one or more labels more). No form implies the apex.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    form: Form,
    base: Host,
}

/// Declared from the most to the least specific.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Form {
    Exact,
    OneLabel,
    AnyLabels,
}

impl HostPattern {
    /// Reads a pattern; its name may be written in any spelling that [`Host`] reads.
    ///
    /// # Errors
    /// [`Malformed`] when it has another form, holds an address, or is a wildcard over names of strangers.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let pattern = Self::read(text)?;
        let Self { form, base } = &pattern;
        if base.is_metadata_name() && *form == Form::Exact {
            return Err(Malformed::host("metadata services are never allowed"));
        }
        let is_shared = match form {
            Form::Exact => false,
            Form::OneLabel => strangers::have_names_under(base),
            Form::AnyLabels => strangers::have_names_below(base),
        };
        if is_shared {
            return Err(Malformed::host("a wildcard over a shared suffix allows the names of strangers"));
        }
        Ok(pattern)
    }

    /// Patterns that rules stay within. They allow nothing, so they may be as wide as anyone likes; one that cannot be read
    /// names no host.
    pub(crate) fn ceiling(texts: &[String]) -> Vec<Self> {
        texts.iter().filter_map(|text| Self::read(text).ok()).collect()
    }

    fn read(text: &str) -> Result<Self, Malformed> {
        let (form, name) = match (text.strip_prefix("**."), text.strip_prefix("*.")) {
            (Some(name), _) => (Form::AnyLabels, name),
            (None, Some(name)) => (Form::OneLabel, name),
            (None, None) => (Form::Exact, text),
        };
        if name.contains('*') {
            return Err(Malformed::host(
                "a star may only stand in front, as *. (one label) or **. (one or more)",
            ));
        }
        let base = Host::parse(name)?;
        if base.address().is_some() {
            return Err(Malformed::host("a rule names a DNS name, never an address"));
        }
        Ok(Self { form, base })
    }

    /// Whether the host is one of those the pattern names. Addresses never are.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        if host.address().is_some() {
            return false;
        }
        // No host has an empty label, so that something stands before the dot.
        let more = host.as_str().strip_suffix(self.base.as_str()).and_then(|more| more.strip_suffix('.'));
        match self.form {
            Form::Exact => *host == self.base,
            Form::OneLabel => more.is_some_and(|label| !label.contains('.')),
            Form::AnyLabels => more.is_some(),
        }
    }

    /// The host, when the pattern names exactly one.
    #[must_use]
    pub fn exact(&self) -> Option<&Host> {
        (self.form == Form::Exact).then_some(&self.base)
    }

    /// The name that stands in the pattern: each host that it means is this name, or ends with it behind a dot.
    pub(crate) const fn base(&self) -> &Host {
        &self.base
    }

    /// How specific the pattern is; the smallest is the most specific. Of two wildcards of one form the longer one
    /// names fewer hosts.
    #[must_use]
    pub fn specificity(&self) -> impl Ord + use<> {
        (self.form, Reverse(self.base.as_str().len()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.form {
            Form::Exact => "",
            Form::OneLabel => "*.",
            Form::AnyLabels => "**.",
        })?;
        self.base.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, host: &str) -> bool {
        Host::parse(host).is_ok_and(|host| HostPattern::parse(pattern).unwrap().matches(&host))
    }

    #[test]
    fn p_b3_a_star_is_exactly_one_label_and_never_the_apex() {
        assert!(matches("*.good.test", "x.good.test"));
        for host in [
            "evilgood.test",
            "good.test",
            "a.b.good.test",
            ".good.test",
            "*.good.test",
            "good.test.evil.test",
        ] {
            assert!(!matches("*.good.test", host), "{host}");
        }
        assert!(matches("**.good.test", "x.good.test") && matches("**.good.test", "a.b.good.test"));
        for host in ["evilgood.test", "good.test", ".good.test", "good.test.evil.test"] {
            assert!(!matches("**.good.test", host), "{host}");
        }
        assert!(matches("good.test", "GOOD.test.") && !matches("good.test", "x.good.test"));
    }

    #[test]
    fn p_b4_loose_stars_and_wildcards_over_strangers_are_refused() {
        for pattern in [
            "*good.test",
            "api*",
            "*",
            "**",
            "*.",
            "a.*.good.test",
            "***.good.test",
            "*.*.good.test",
            "*.com",
            "**.com",
            "*.github.io",
            "*.s3.amazonaws.com",
            "*.blob.core.windows.net",
            "*.workers.dev",
            "*.vercel.app",
            "",
        ] {
            assert!(HostPattern::parse(pattern).is_err(), "{pattern}");
        }
        for pattern in ["me.github.io", "*.me.github.io", "localhost", "**.good.test"] {
            assert_eq!(HostPattern::parse(pattern).unwrap().to_string(), pattern);
        }
    }

    #[test]
    fn p_b2_a_rule_and_a_request_meet_in_their_canonical_spelling() {
        assert!(matches("bücher.test", "xn--bcher-kva.test") && matches("*.BÜCHER.test", "a.bücher.test"));
        assert!(!matches("api.good.test", "аpi.good.test"));
    }

    #[test]
    fn p_c3_a_rule_can_name_neither_an_address_nor_a_metadata_service() {
        for pattern in
            ["127.0.0.1", "2130706433", "[::1]", "*.1.2.3", "metadata.google.internal", "instance-data"]
        {
            assert!(HostPattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn exact_names_are_more_specific_than_wildcards_and_longer_ones_than_shorter() {
        let order = ["a.b.good.test", "*.b.good.test", "*.good.test", "**.b.good.test", "**.good.test"];
        let ranks: Vec<_> =
            order.iter().map(|text| HostPattern::parse(text).unwrap().specificity()).collect();
        assert!(ranks.is_sorted());
    }
}
