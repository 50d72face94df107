//! Request paths in one spelling, and the globs that match them.
//!
//! The result of [`CanonicalPath::parse`] is what is judged and what is sent. One table says what becomes of odd input:
//! unreserved characters are decoded, all other escapes are kept in upper case, dot segments are resolved; malformed are
//! `//`, a climb above the root, one out of a segment with an escaped slash, `..;x`, backslashes, controls, raw non-ASCII, escapes that are not UTF-8, and an escape
//! of an escape. `%2F` stays data inside its segment (npm writes `/@scope%2fname`); because some servers read it as a
//! separator, both readings must be allowed. So it is with `;`, behind which some servers see path parameters.

use std::borrow::Cow;
use std::sync::Arc;

use crate::Malformed;

/// A path in its one canonical spelling; it begins with `/` and has no query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath(Arc<str>);

const NO_SLASH: Malformed = Malformed::target("it must begin with /");
const BYTE: Malformed =
    Malformed::target("a control character, space, backslash, # or non-ASCII character stands in the path");
const ESCAPE: Malformed = Malformed::target("an escape in the path is not valid, or is ambiguous");
const SEGMENT: Malformed = Malformed::target("an empty or ambiguous segment stands in the path");

/// A slash within a canonical segment.
const ESCAPED_SLASH: &str = "%2F";

impl CanonicalPath {
    /// Reads a path as a client wrote it, without query.
    pub fn parse(raw: &str) -> Result<Self, Malformed> {
        let rest = raw.strip_prefix('/').ok_or(NO_SLASH)?;
        if is_canonical(rest) {
            return Ok(Self(raw.into()));
        }
        Self::read(rest)
    }

    fn read(rest: &str) -> Result<Self, Malformed> {
        let mut segments: Vec<String> = Vec::new();
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let segment = canonical_segment(part)?;
            match segment.as_str() {
                "" if !last => return Err(SEGMENT),
                "." if last => segments.push(String::new()),
                "." => {}
                ".." => {
                    let left = segments.pop().ok_or(SEGMENT)?;
                    if left.contains(ESCAPED_SLASH) {
                        // Who decodes it first leaves only what stands behind it.
                        return Err(SEGMENT);
                    }
                    if last {
                        segments.push(String::new());
                    }
                }
                _ => segments.push(segment),
            }
        }
        Ok(Self(format!("/{}", segments.join("/")).into()))
    }

    /// The ways in which servers read the path: as it stands, with `%2F` as a separator, without path parameters, and
    /// both in either order. All of them must be allowed, since the proxy cannot know which one the server takes.
    fn readings(&self) -> Vec<Cow<'_, str>> {
        let mut all = vec![Cow::from(&*self.0)];
        if !self.has_one_reading() {
            let separated = |path: &str| path.replace(ESCAPED_SLASH, "/");
            let (other, bare) = (separated(&self.0), without_parameters(&self.0));
            all.extend([separated(&bare), without_parameters(&other), other, bare].map(Cow::from));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether it can be read in one way only, as most can.
    fn has_one_reading(&self) -> bool {
        !self.0.bytes().any(|byte| matches!(byte, b'%' | b';'))
    }

    /// The path as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, to be kept without a copy.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// Whether the text behind the first slash is spelled as it would be once it was read, as most are: of unreserved characters
/// alone, without an empty segment or a dot segment.
fn is_canonical(rest: &str) -> bool {
    let mut segments = rest.split('/').peekable();
    let mut is_plain = rest.bytes().all(|byte| byte == b'/' || (byte != b';' && is_path_literal(byte)));
    while is_plain && let Some(segment) = segments.next() {
        is_plain = !matches!(segment, "." | "..") && (!segment.is_empty() || segments.peek().is_none());
    }
    is_plain
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

fn canonical_segment(raw: &str) -> Result<String, Malformed> {
    let bytes = raw.as_bytes();
    let mut text = String::with_capacity(raw.len());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut i = 0;
    while i < bytes.len() {
        let byte = bytes[i];
        if byte == b'%' {
            let value = hex_pair(bytes.get(i + 1), bytes.get(i + 2)).ok_or(ESCAPE)?;
            if value < 0x20 || value == 0x7f || value == b'\\' {
                return Err(ESCAPE);
            }
            push_escaped(&mut text, value);
            decoded.push(value);
            i += 3;
            continue;
        }
        if byte <= b' ' || byte >= 0x7f || byte == b'\\' || byte == b'#' || byte == b'?' {
            return Err(BYTE);
        }
        if is_path_literal(byte) {
            text.push(char::from(byte));
        } else {
            push_escaped(&mut text, byte);
        }
        decoded.push(byte);
        i += 1;
    }
    if is_nested(&text) {
        return Err(ESCAPE);
    }
    let decoded = std::str::from_utf8(&decoded).map_err(|_| ESCAPE)?;
    if is_ambiguous(decoded) { Err(SEGMENT) } else { Ok(text) }
}

/// Whether an escape of an escape stands in a canonical segment. It is looked for in what is sent: the digits may have been
/// escaped themselves in what was written.
fn is_nested(text: &str) -> bool {
    text.match_indices("%25").any(|(at, sign)| {
        let mut behind = text.bytes().skip(at + sign.len());
        hex_pair(behind.next().as_ref(), behind.next().as_ref()).is_some()
    })
}

/// Dot segments that only some servers see: behind a path parameter, or behind an escaped slash.
fn is_ambiguous(decoded: &str) -> bool {
    let pieces: Vec<&str> = decoded.split('/').collect();
    let dotted = |piece: &str| matches!(piece.split(';').next(), Some("." | ".."));
    let with_parameter = pieces.iter().any(|p| p.contains(';') && dotted(p));
    let escaped_slash = pieces.len() > 1 && pieces.iter().any(|p| p.is_empty() || dotted(p));
    with_parameter || escaped_slash
}

/// Unreserved characters stand for themselves, all others are escaped.
pub(crate) fn push_escaped(text: &mut String, value: u8) {
    if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
        text.push(char::from(value));
    } else {
        text.push_str(&format!("%{value:02X}"));
    }
}

/// Whether every reading of the path is one that some glob names.
pub(crate) fn any_matches(globs: &[PathGlob], path: &CanonicalPath) -> bool {
    let named = |reading: &str| globs.iter().any(|glob| glob.matches_text(reading));
    if path.has_one_reading() { named(&path.0) } else { path.readings().iter().all(|reading| named(reading)) }
}

/// Globs that together allow the path in each way in which it is read and no other path, none longer than this; none where
/// they cannot be written. A star is a character of a path, too, and whoever asked for it would have it allow more.
pub(crate) fn globs_for(path: &CanonicalPath, bytes_max: usize) -> Option<Vec<String>> {
    let all: Vec<String> = path.readings().into_iter().map(Cow::into_owned).collect();
    let is_glob =
        |glob: &String| !glob.contains('*') && glob.len() <= bytes_max && PathGlob::parse(glob).is_ok();
    all.iter().all(is_glob).then_some(all)
}

/// Whether some reading of the path is one that a glob, written in lower case, names: in any letter case, whichever of its
/// characters are escaped, with or without empty segments and path parameters. Servers differ in all of these, and what is
/// left out must be left out for each of them.
pub(crate) fn any_reading_matches(globs: &[PathGlob], path: &CanonicalPath) -> bool {
    if globs.is_empty() {
        return false;
    }
    let named = |text: &str| globs.iter().any(|glob| glob.matches_text(text));
    path.readings().iter().any(|reading| {
        let written = reading.to_ascii_lowercase();
        let plain = String::from_utf8_lossy(&decoded(reading)).to_ascii_lowercase();
        let bare = without_parameters(&written.replace("%3b", ";"));
        let plain_bare = without_parameters(&plain);
        [written, plain, bare, plain_bare]
            .iter()
            .any(|text| named(text) || named(&without_empty_segments(text)))
    })
}

/// The path without doubled slashes and without one at its end.
fn without_empty_segments(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("/{}", segments.join("/"))
}

/// Percent-decoding; an escape that is not valid stands for itself.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' { hex_pair(bytes.get(at + 1), bytes.get(at + 2)) } else { None };
        out.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

/// Unreserved, sub-delims, `:` and `@` of RFC 3986.
fn is_path_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// The value of two hexadecimal digits.
pub(crate) fn hex_pair(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |b: Option<&u8>| char::from(*b?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// A path pattern: `*` is any text within one segment, `**` (a whole segment) is one or more segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    segments: Vec<String>,
}

impl PathGlob {
    /// Reads a glob. Its literal parts must be written canonically, so that it can match at all.
    ///
    /// # Errors
    /// [`Malformed`] when it is not canonical, or holds `**` beside other characters of a segment.
    pub fn parse(raw: &str) -> Result<Self, Malformed> {
        if CanonicalPath::parse(raw)?.as_str() != raw {
            return Err(ESCAPE);
        }
        let segments: Vec<String> = raw[1..].split('/').map(str::to_owned).collect();
        if segments.iter().any(|s| s.contains("**") && s != "**") {
            return Err(SEGMENT);
        }
        Ok(Self { segments })
    }

    /// The glob in lower case, as what is left out is matched.
    #[must_use]
    pub fn in_lower_case(self) -> Self {
        Self { segments: self.segments.iter().map(|segment| segment.to_ascii_lowercase()).collect() }
    }

    /// Whether this glob, in whatever letter case, matches each path that `inner` names. `*` and `**` of `inner` count as
    /// text that only `*`, or only `**`, takes in; so a wider pattern is never within a narrower one.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        let outer = self.clone().in_lower_case();
        // Nothing but `**` takes in an empty segment.
        let text: Vec<String> =
            inner.clone().in_lower_case().segments.iter().map(|s| s.replace("**", "")).collect();
        outer.matches_text(&format!("/{}", text.join("/")))
    }

    /// Whether this glob matches each path that `inner` matches, letter for letter. Where it cannot tell it says no.
    #[must_use]
    pub fn takes_in(&self, inner: &Self) -> bool {
        // By the number of own segments that took in all of `inner` so far; `**` goes on with what follows as long as it likes.
        let mut taken: Vec<bool> = std::iter::once(true).chain(self.segments.iter().map(|_| false)).collect();
        for segment in &inner.segments {
            let mut next = vec![false; taken.len()];
            for (at, own) in self.segments.iter().enumerate() {
                next[at + 1] = match own.as_str() {
                    "**" => taken[at] || taken[at + 1],
                    own => taken[at] && segment_takes_in(own, segment),
                };
            }
            taken = next;
        }
        taken.last() == Some(&true)
    }

    /// Whether it has no `*` in the last segment that it writes.
    #[must_use]
    pub fn names_its_end(&self) -> bool {
        self.segments
            .iter()
            .rfind(|segment| !segment.is_empty())
            .is_some_and(|segment| !segment.contains('*'))
    }

    fn matches_text(&self, path: &str) -> bool {
        if self.segments == ["**"] {
            // Each path has a segment.
            return true;
        }
        let segments: Vec<&str> = path[1..].split('/').collect();
        let (mut p, mut s) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while s < segments.len() {
            match self.segments.get(p) {
                Some(glob) if glob == "**" => {
                    (p, s) = (p + 1, s + 1);
                    retry = Some((p, s));
                    continue;
                }
                Some(glob) if segment_matches(glob.as_bytes(), segments[s].as_bytes()) => {
                    (p, s) = (p + 1, s + 1);
                    continue;
                }
                _ => {}
            }
            let Some((glob_at, segment_at)) = retry else { return false };
            (p, s) = (glob_at, segment_at + 1);
            retry = Some((p, s));
        }
        p == self.segments.len()
    }
}

/// Whether a segment that is not `**` matches all that `inner` does: a `*` of `inner` counts as text that only a `*` takes in.
fn segment_takes_in(own: &str, inner: &str) -> bool {
    inner != "**" && own.is_empty() == inner.is_empty() && segment_matches(own.as_bytes(), inner.as_bytes())
}

/// Linear backtracking over one segment; a lone `*` asks for at least one character.
fn segment_matches(glob: &[u8], text: &[u8]) -> bool {
    if glob == b"*" {
        return !text.is_empty();
    }
    let (mut g, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if glob.get(g) == Some(&b'*') {
            g += 1;
            retry = Some((g, t));
        } else if glob.get(g) == Some(&text[t]) {
            (g, t) = (g + 1, t + 1);
        } else if let Some((glob_at, text_at)) = retry {
            (g, t) = (glob_at, text_at + 1);
            retry = Some((g, t));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(raw: &str) -> Option<String> {
        CanonicalPath::parse(raw).ok().map(|p| p.as_str().to_owned())
    }

    #[test]
    fn p_e1_a_hidden_climb_is_resolved_or_malformed() {
        for (raw, expected) in [
            ("/v1/../admin", "/admin"),
            ("/v1/%2e%2e/admin", "/admin"),
            ("/v1/.%2e/admin", "/admin"),
            ("/v1/./x/.", "/v1/x/"),
        ] {
            assert_eq!(canonical(raw).as_deref(), Some(expected), "{raw}");
        }
        for raw in [
            "/v1/..;/admin",
            "/v1/..%2fadmin",
            "/v1/%252e%252e/admin",
            "/v1/%25%32%65%25%32%65/admin",
            "/v1/%25%32e%252%65/admin",
            "/v1/%25%32%66admin",
            "/v1/..%5cadmin",
            "/v1/..%c0%afadmin",
            "/../x",
            "/v1/..%3b/admin",
            "/v1/x%2f..%2fadmin",
        ] {
            assert_eq!(canonical(raw), None, "{raw}");
        }
    }

    #[test]
    fn p_e1_a_climb_out_of_a_segment_with_an_escaped_slash_is_malformed() {
        // For Go, nginx and Python this is /a/x and /a/b: they decode before they climb.
        for raw in ["/a%2fb/../x", "/a%2Fb/%2e%2e", "/v1/a%2fb/../b", "/v1/x/a%2fb/c/../../y"] {
            assert_eq!(canonical(raw), None, "{raw}");
        }
        for (raw, expected) in
            [("/a%2fb/./x", "/a%2Fb/x"), ("/a%2fb/c/../x", "/a%2Fb/x"), ("/a/../b%2fc", "/b%2Fc")]
        {
            assert_eq!(canonical(raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn p_e2_each_odd_path_has_one_result() {
        for raw in [
            "//v1//x",
            "/v1/x%00",
            "/v1/x%0d%0aX:%20y",
            "/v1/x#f",
            "/v1\\x",
            "/v1/ü",
            "/v1/%zz",
            "/v1/%ed%a0%80",
            "*",
            "",
            "/a b",
            "/a\u{7f}",
            "/a%1f",
            "/a%7f",
            "/a%",
            "/a%2",
            "/a?b",
        ] {
            assert_eq!(canonical(raw), None, "{raw}");
        }
        for (raw, expected) in [
            ("/v1/x/", "/v1/x/"),
            ("/V1/x", "/V1/x"),
            ("/v1/x;jsessionid=1", "/v1/x;jsessionid=1"),
            ("/%7euser", "/~user"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a|b", "/a%7Cb"),
            ("/a%20b", "/a%20b"),
            ("/a%25b", "/a%25b"),
            ("/!$&'()*+,;=:@-._~", "/!$&'()*+,;=:@-._~"),
            ("/a%c3%bc", "/a%C3%BC"),
            ("/", "/"),
        ] {
            assert_eq!(canonical(raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn p_e3_a_star_never_crosses_a_slash() {
        let case = |glob: &str, path: &str| {
            any_matches(&[PathGlob::parse(glob).unwrap()], &CanonicalPath::parse(path).unwrap())
        };
        assert!(
            case("/v1/*", "/v1/a")
                && case("/v1/**", "/v1/a/b/c")
                && case("/**", "/")
                && case("/a/*.git/**", "/a/b.git/info")
        );
        assert!(case("/**/x", "/a/b/x") && case("/simple/*/", "/simple/pip/"));
        for (glob, path) in [
            ("/v1/*", "/v1"),
            ("/v1/*", "/v1/a/b"),
            ("/v1/**", "/v1"),
            ("/v1/*", "/v1/"),
            ("/*", "/@scope%2fname"),
            ("/**/x", "/x"),
            ("/v1", "/v1/"),
            ("/v1/*.json", "/v1/key;.json"),
            ("/a/*", "/a;x%2Fb/c"),
            ("/v1/a;b/*", "/v1/a;b/c"),
            ("/v1/**", "/v12/a"),
        ] {
            assert!(!case(glob, path), "{glob} {path}");
        }
    }

    #[test]
    fn p_e3_an_escaped_slash_passes_only_where_both_readings_are_allowed() {
        let globs = ["/@scope%2Fname", "/@scope/name"].map(|glob| PathGlob::parse(glob).unwrap());
        let path = CanonicalPath::parse("/@scope%2fname").unwrap();
        assert!(
            any_matches(&globs, &path)
                && !any_matches(&globs[..1], &path)
                && !any_matches(&globs[1..], &path)
        );
    }

    #[test]
    fn a_glob_takes_in_what_is_narrower_letter_for_letter() {
        let glob = |text: &str| PathGlob::parse(text).unwrap();
        for (outer, inner, wanted) in [
            ("/v1/**", "/v1/messages", true),
            ("/v1/**", "/v1/**", true),
            ("/v1/**", "/v1/*/files/**", true),
            ("/v1/*", "/v1/a*", true),
            ("/v1/a*", "/v1/ab*", true),
            ("/**", "/", true),
            ("/**/x", "/a/**/x", true),
            ("/v1/**", "/V1/x", false),
            ("/v1/**", "/v1", false),
            ("/v1/*", "/v1/**", false),
            ("/v1/", "/v1/**", false),
            ("/v1/", "/v1/*", false),
            ("/v1/a*", "/v1/*", false),
            ("/a/*/**", "/a/**", false),
            ("/a", "/a/b", false),
        ] {
            assert_eq!(glob(outer).takes_in(&glob(inner)), wanted, "{outer} {inner}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_glob_matches_is_matched_by_each_that_takes_it_in(
            outer in "(/(a|b|[*]|[*][*]|a[*]|[*]b)){1,3}/?",
            inner in "(/(a|b|[*]|[*][*]|a[*]|[*]b)){1,3}/?",
            path in "(/(a|b|ab|c)){1,4}/?",
        ) {
            let (outer, inner) = (PathGlob::parse(&outer).unwrap(), PathGlob::parse(&inner).unwrap());
            prop_assert!(outer.takes_in(&outer));
            if outer.takes_in(&inner) && inner.matches_text(&path) {
                prop_assert!(outer.matches_text(&path));
            }
        }
    }

    #[test]
    fn a_glob_covers_what_names_its_paths_and_never_a_wider_one() {
        for (outer, inner, covered) in [
            ("/v1/files", "/v1/files", true),
            ("/v1/files/**", "/v1/files/**", true),
            ("/v1/files/**", "/V1/files/*/content", true),
            ("/v1/files/**", "/v1/files/abc", true),
            ("/repos/*/*/keys", "/repos/acme/*/keys", true),
            ("/api/files.*", "/api/files.upload", true),
            ("/v1/files/**", "/v1/**", false),
            ("/v1/files/**", "/**", false),
            ("/v1/files", "/v1/*", false),
            ("/user/*", "/user/**", false),
            ("/repos/*/*/keys", "/repos/**", false),
            ("/repos/*/*/keys", "/repos/**/keys", false),
            ("/api/files.*", "/api/*", false),
            ("/v1/files/**", "/v1/files", false),
        ] {
            let glob = |text| PathGlob::parse(text).unwrap();
            assert_eq!(glob(outer).covers(&glob(inner)), covered, "{outer} {inner}");
        }
    }

    proptest! {
        #[test]
        fn a_path_that_is_canonical_at_a_glance_is_read_as_it_stands(rest in "([a-z@!]{0,3}|\\.|;|%2F|\\|)(/([a-z.]{0,3}|~)){0,4}") {
            let raw = format!("/{rest}");
            prop_assert_eq!(CanonicalPath::parse(&raw), CanonicalPath::read(&rest));
            if is_canonical(&rest) {
                prop_assert_eq!(CanonicalPath::read(&rest), Ok(CanonicalPath(raw.into())));
            }
        }

        #[test]
        fn two_stars_alone_match_each_path(rest in "[a-z/.]{0,10}") {
            let all = PathGlob::parse("/**").unwrap();
            let longer = PathGlob::parse("/**/**").unwrap();
            let path = format!("/{rest}");
            prop_assert!(all.matches_text(&path));
            prop_assert_eq!(longer.matches_text(&path), rest.contains('/'));
        }

        #[test]
        fn canonicalising_a_path_twice_changes_nothing(raw in "/[a-z./%0-9A-F;@~|]{0,40}") {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path));
            }
        }
    }
}
