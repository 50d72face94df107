//! Request targets in origin form: a canonical path, and the query as it was sent.
//!
//! The path is judged, so it has one spelling (see `path`). The query is passed on byte for byte,
//! except for the one parameter that a credential is put into.

use std::fmt;
use std::sync::Arc;

use crate::Malformed;
use crate::parameter::{decoded, is_folded, is_read_as};
use crate::path::{CanonicalPath, push_escaped};

/// Most servers refuse more; a bound keeps matching cheap.
const PATH_BYTES_MAX: usize = 8 << 10;
/// What is left of the longest URI that hyper reads.
const QUERY_BYTES_MAX: usize = 56 << 10;

/// A request target in the one spelling that is judged and sent.
///
/// Its text and its path are shared by its clones, and are one where there is no query. It has no `Display`, and its `Debug` leaves the query out: a query can hold a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    text: Arc<str>,
    path: CanonicalPath,
}

impl Target {
    /// Reads a path with an optional query.
    ///
    /// # Errors
    /// [`Malformed`] when the text is not in origin form, is too long, or can be read in more than one way.
    pub fn parse(path_and_query: &str) -> Result<Self, Malformed> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        if path.len() > PATH_BYTES_MAX || query.is_some_and(|query| query.len() > QUERY_BYTES_MAX) {
            return Err(Malformed::target("it is too long"));
        }
        let path = CanonicalPath::parse(path)?;
        let Some(query) = query else { return Ok(Self { text: path.shared(), path }) };
        if query.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            return Err(Malformed::target(
                "a control character, space, # or non-ASCII character stands in the query",
            ));
        }
        Ok(Self { text: format!("{}?{query}", path.as_str()).into(), path })
    }

    /// The canonical path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// The canonical path, to be kept without a copy.
    #[must_use]
    pub fn shared_path(&self) -> Arc<str> {
        self.path.shared()
    }

    /// The query as it was sent, without the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path().len() + 1..)
    }

    /// Path and query, exactly as they are sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The target with one query parameter of this name and value, percent-encoded. Parameters of that name that the
    /// agent sent are left out, in each spelling that some server reads as the name, and also where `;` separates them: an
    /// upstream could take the agent's in place of ours.
    #[must_use]
    pub fn with_query_parameter(&self, name: &str, value: &str) -> Self {
        let kept = self.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let mut pairs: Vec<String> = kept.filter_map(|pair| without(pair, name)).collect();
        pairs.push(format!("{}={}", encoded(name), encoded(value)));
        let text = format!("{}?{}", self.path(), pairs.join("&")).into();
        Self { text, path: self.path.clone() }
    }

    /// Whether the query has a parameter that some server reads as one of such a name, also where `;` separates it. `is_such` is
    /// asked of the letters and digits of a name, in lower case.
    #[must_use]
    pub(crate) fn has_query_parameter(&self, is_such: impl Fn(&[u8]) -> bool) -> bool {
        let mut pairs = self.query().unwrap_or_default().split(['&', ';']).filter(|pair| !pair.is_empty());
        pairs.any(|pair| is_read_as(name_of(pair), &is_such))
    }

    /// The same of a parameter with such a value, without its encoding, or with one of which servers may make anything.
    #[must_use]
    pub(crate) fn has_query_parameter_with(
        &self,
        is_such: impl Fn(&[u8]) -> bool,
        is_value: impl Fn(&[u8]) -> bool,
    ) -> bool {
        let mut pairs =
            self.query().unwrap_or_default().split(['&', ';']).filter_map(|pair| pair.split_once('='));
        pairs.any(|(name, value)| {
            decoded(value).is_none_or(|value| is_value(&value)) && is_read_as(name, &is_such)
        })
    }

    /// Path and query as they are sent with this value, percent-encoded, in the place of the one placeholder that the path
    /// holds, right behind `after`. None when no placeholder stands in the path, more than one does, or it stands elsewhere.
    #[must_use]
    pub fn with_path_segment(&self, after: &str, placeholders: &[String], value: &str) -> Option<String> {
        let path = self.path();
        let found =
            |text: &String| path.match_indices(text).map(|(at, _)| (at, at + text.len())).collect::<Vec<_>>();
        let all: Vec<(usize, usize)> = placeholders.iter().flat_map(found).collect();
        // A placeholder may be a part of another one, which then is the one that was written.
        let (start, end) = all.iter().copied().max_by_key(|(start, end)| end - start)?;
        if all.iter().any(|(from, until)| *from < start || *until > end) {
            return None;
        }
        let (before, rest) = (path.get(..start)?, self.text.get(end..)?);
        if before != after {
            return None;
        }
        let mut text = before.to_owned();
        for byte in value.bytes() {
            match byte {
                // A segment may hold it as it is (RFC 3986, 3.3), and tokens of Telegram do.
                b':' => text.push(':'),
                other => push_escaped(&mut text, other),
            }
        }
        Some(text + rest)
    }

    pub(crate) const fn canonical_path(&self) -> &CanonicalPath {
        &self.path
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())?;
        f.write_str(if self.query().is_some() { "?…" } else { "" })
    }
}

/// What remains of a pair, whose parts `;` may separate, once those of this name are taken out.
fn without(pair: &str, name: &str) -> Option<String> {
    let parts: Vec<&str> = pair.split(';').filter(|part| !is_named(part, name)).collect();
    (!parts.is_empty()).then(|| parts.join(";"))
}

fn is_named(pair: &str, name: &str) -> bool {
    is_read_as(name_of(pair), |read| is_folded(name, read))
}

fn name_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        push_escaped(&mut out, byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[test]
    fn p_e1_the_path_that_is_sent_is_the_path_that_is_judged() {
        for (text, path, sent) in [
            ("/v1/../admin?x=1", "/admin", "/admin?x=1"),
            ("/%7Euser", "/~user", "/~user"),
            ("/a%2fb?%2f", "/a%2Fb", "/a%2Fb?%2f"),
            ("/v1?", "/v1", "/v1?"),
            ("/v1??a", "/v1", "/v1??a"),
        ] {
            let target = target(text);
            assert_eq!((target.path(), target.as_str()), (path, sent));
        }
    }

    #[test]
    fn p_e2_a_target_that_is_no_plain_path_and_query_is_malformed() {
        let long_path = format!("/{}", "a".repeat(PATH_BYTES_MAX));
        let long_query = format!("/?{}", "a".repeat(QUERY_BYTES_MAX + 1));
        for text in [
            "*",
            "",
            "?a",
            "https://evil.test/",
            "//evil.test/x",
            "/a#b",
            "/a?b#c",
            "/a?b c",
            "/a?b\r\nX: y",
            "/a?ü",
            "/a?\0",
            &long_path,
            &long_query,
        ] {
            assert!(Target::parse(text).is_err(), "{text:.40?}");
        }
    }

    #[test]
    fn a_path_and_a_query_may_be_as_long_as_their_bounds() {
        let path = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        let query = "a".repeat(QUERY_BYTES_MAX);
        let text = format!("{path}?{query}");
        assert_eq!(target(&text).as_str(), text);
        assert!(Target::parse(&format!("{text}a")).is_err() && Target::parse(&format!("/a{path}")).is_err());
    }

    #[test]
    fn p_e4_the_query_is_passed_on_as_it_was_sent() {
        for query in ["a=1&a=2", "a[]=", "a;b", "a+b%20c", "KEY=x&key=y", "%zz", "redirect=https://x/../y?z"]
        {
            assert_eq!(target(&format!("/x?{query}")).query(), Some(query));
        }
        assert_eq!(target("/x").query(), None);
    }

    #[test]
    fn p_f1_an_injected_parameter_replaces_what_the_agent_sent_in_its_place() {
        for (text, sent) in [
            ("/x", "/x?key=s%26%20%2Fecret"),
            ("/x?", "/x?key=s%26%20%2Fecret"),
            ("/x?a=1&key=own&b=2", "/x?a=1&b=2&key=s%26%20%2Fecret"),
            ("/x?KEY=own&k%65y=own&key", "/x?key=s%26%20%2Fecret"),
            ("/x?a=1;key=own&monkey=2", "/x?a=1&monkey=2&key=s%26%20%2Fecret"),
            ("/x?a=1&[key]=own&key%00x=own&key[]=own", "/x?a=1&key=s%26%20%2Fecret"),
            ("/x?%u006bey=own&+key=own&a[key]=2", "/x?a[key]=2&key=s%26%20%2Fecret"),
        ] {
            assert_eq!(target(text).with_query_parameter("key", "s& /ecret").as_str(), sent, "{text}");
        }
    }

    #[test]
    fn one_placeholder_in_the_path_gives_its_place_to_the_encoded_secret() {
        let placeholders = ["placeholder".to_owned(), "placeholder-2".to_owned()];
        for (text, sent) in [
            ("/botplaceholder/send?a=placeholder", Some("/bot12:a%2Fb%3F%3B%25/send?a=placeholder")),
            ("/botplaceholder-2/send", Some("/bot12:a%2Fb%3F%3B%25/send")),
            ("/bot/send", None),
            ("/placeholder/placeholder", None),
            ("/placeholder/send", None),
            ("/v1/botplaceholder/send", None),
            ("/Botplaceholder/send", None),
            ("/bot/placeholder/send", None),
            ("/botx-placeholder/send", None),
            ("/bot1/x?a=/botplaceholder", None),
            ("/placeholder/placeholder-2", None),
            ("/botplaceholder-2/placeholder", None),
            ("/botplaceholder/placeholder", None),
        ] {
            let found = target(text).with_path_segment("/bot", &placeholders, "12:a/b?;%");
            assert_eq!(found.as_deref(), sent, "{text}");
        }
        assert_eq!(target("/x").with_path_segment("/", &[], "secret"), None);
        // The longer one was written, wherever the shorter one begins in it.
        let overlapping = ["placeholder".to_owned(), "laceholder".to_owned()];
        let found = target("/botplaceholder/send").with_path_segment("/bot", &overlapping, "secret");
        assert_eq!(found.as_deref(), Some("/botsecret/send"));
    }

    #[test]
    fn a_query_parameter_is_found_in_each_spelling() {
        for (text, has) in [
            ("/x?key=1", true),
            ("/x?a;K%65y", true),
            ("/x?a=1&[key]=1", true),
            ("/x?monkey=1", false),
            ("/x?a=key", false),
            ("/x", false),
            ("/x?&", false),
        ] {
            assert_eq!(target(text).has_query_parameter(|read| read == b"key"), has, "{text}");
        }
    }

    #[test]
    fn p_f10_debug_output_leaves_the_query_out() {
        let injected = target("/x?a=1").with_query_parameter("key", "secret");
        assert_eq!(format!("{injected:?}"), "/x?…");
    }

    proptest! {
        #[test]
        fn reading_a_target_again_changes_nothing(text in "/[a-z./%0-9A-F;@~|?&=]{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert_eq!(Target::parse(target.as_str()).unwrap(), target);
            }
        }

        #[test]
        fn an_injected_value_never_escapes_its_parameter(text in "/[a-z]{0,5}\\?[a-z=&;%0-9]{0,20}", value in "\\PC{0,20}") {
            if let Ok(target) = Target::parse(&text) {
                let injected = target.with_query_parameter("key", &value);
                prop_assert_eq!(injected.query().unwrap().split(['&', ';']).filter(|pair| is_named(pair, "key")).count(), 1);
                prop_assert_eq!(Target::parse(injected.as_str()).unwrap(), injected);
            }
        }
    }
}
