//! Well-known shapes of credentials in the content of files. What is found is reported, never shown, and stays where it
//! is: the report is for whoever decides what to leave out.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Read};
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// A well-known shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// What it is called in reports.
    name: &'static str,
    /// How it begins.
    prefix: &'static str,
    /// What its other bytes are.
    body: Body,
    /// How many of them it has at least.
    body_bytes_min: usize,
}

impl Display for Shape {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Body {
    Upper,
    Alphanumeric,
    /// Letters, digits, `_` and `-`.
    Word,
    /// Up to the end of an armour's first line, which says what it is.
    PrivateKey,
}

const fn shape(name: &'static str, prefix: &'static str, body: Body, body_bytes_min: usize) -> Shape {
    Shape { name, prefix, body, body_bytes_min }
}

/// Prefixes as the providers publish them for secret scanning. Lengths are below those that are issued today.
const SHAPES: [Shape; 27] = [
    shape("AWS access key", "AKIA", Body::Upper, 16),
    shape("AWS temporary access key", "ASIA", Body::Upper, 16),
    shape("Anthropic API key", "sk-ant-", Body::Word, 32),
    shape("OpenAI project key", "sk-proj-", Body::Word, 32),
    shape("OpenAI service account key", "sk-svcacct-", Body::Word, 32),
    shape("GitHub personal access token", "ghp_", Body::Alphanumeric, 36),
    shape("GitHub OAuth token", "gho_", Body::Alphanumeric, 36),
    shape("GitHub user token", "ghu_", Body::Alphanumeric, 36),
    shape("GitHub server token", "ghs_", Body::Alphanumeric, 36),
    shape("GitHub refresh token", "ghr_", Body::Alphanumeric, 36),
    shape("GitHub fine-grained token", "github_pat_", Body::Word, 60),
    shape("GitLab token", "glpat-", Body::Word, 20),
    shape("Slack bot token", "xoxb-", Body::Word, 24),
    shape("Slack user token", "xoxp-", Body::Word, 24),
    shape("Slack app token", "xapp-", Body::Word, 24),
    shape("Google API key", "AIza", Body::Word, 35),
    shape("Google OAuth token", "ya29.", Body::Word, 32),
    shape("npm token", "npm_", Body::Alphanumeric, 36),
    shape("PyPI token", "pypi-AgE", Body::Word, 60),
    shape("Stripe live key", "sk_live_", Body::Alphanumeric, 24),
    shape("Stripe restricted key", "rk_live_", Body::Alphanumeric, 24),
    shape("Hugging Face token", "hf_", Body::Alphanumeric, 34),
    shape("SendGrid key", "SG.", Body::Word, 22),
    shape("DigitalOcean token", "dop_v1_", Body::Alphanumeric, 64),
    shape("Docker Hub token", "dckr_pat_", Body::Word, 24),
    shape("HashiCorp Vault token", "hvs.", Body::Word, 24),
    shape("private key", "-----BEGIN ", Body::PrivateKey, 0),
];

/// Longest run of bytes that one shape is judged by.
const SPAN_BYTES_MAX: usize = 128;

static PREFIXES: LazyLock<Option<AhoCorasick>> =
    LazyLock::new(|| AhoCorasick::new(SHAPES.map(|shape| shape.prefix)).ok());

/// Content as it is read, with the shapes that were in it.
pub struct Searched<R> {
    content: R,
    /// The end of what was read, where a shape may have begun.
    pending: Vec<u8>,
    /// The byte before it.
    before: Option<u8>,
    found: Vec<Shape>,
}

impl<R: Read> Searched<R> {
    /// Searches what is read of `content`.
    pub fn new(content: R) -> Self {
        Self { content, pending: Vec::new(), before: None, found: Vec::new() }
    }

    /// The shapes that were in what was read, each once, in the order of their names.
    pub fn found(mut self) -> Vec<Shape> {
        self.search(true);
        self.found.sort_unstable();
        self.found
    }

    /// Searches what is pending, and keeps of it what may go on.
    fn search(&mut self, is_end: bool) {
        let Some(prefixes) = PREFIXES.as_ref() else { return };
        let kept = if is_end { 0 } else { self.pending.len().min(SPAN_BYTES_MAX) };
        let end = self.pending.len() - kept;
        for at in prefixes.find_overlapping_iter(&self.pending) {
            let Some(shape) = SHAPES.get(at.pattern().as_usize()) else { continue };
            // What begins in the kept part is judged when more of it is there.
            if at.start() >= end || self.found.contains(shape) {
                continue;
            }
            let before =
                at.start().checked_sub(1).map_or(self.before, |before| self.pending.get(before).copied());
            let rest = self.pending.get(at.end()..).unwrap_or_default();
            if is_whole(*shape, before, rest) {
                self.found.push(*shape);
            }
        }
        if let Some(last) = end.checked_sub(1) {
            self.before = self.pending.get(last).copied();
        }
        self.pending.drain(..end);
    }
}

impl<R: Read> Read for Searched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.pending.extend_from_slice(buffer.get(..read).unwrap_or_default());
        self.search(false);
        Ok(read)
    }
}

/// Whether what follows a prefix, and what stands before it, make it the shape.
fn is_whole(shape: Shape, before: Option<u8>, rest: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let length = |is: &dyn Fn(&u8) -> bool| rest.iter().take_while(|byte| is(byte)).count();
    let body = match shape.body {
        Body::PrivateKey => {
            let line = rest.get(..rest.len().min(64)).unwrap_or_default();
            return line
                .split(|byte| *byte == b'\n')
                .next()
                .is_some_and(|line| line.windows(PRIVATE_KEY.len()).any(|part| part == PRIVATE_KEY));
        }
        Body::Upper => length(&|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()),
        Body::Alphanumeric => length(&|byte| byte.is_ascii_alphanumeric()),
        Body::Word => length(&is_word),
    };
    // In the middle of a word it is a piece of something else, such as base64.
    body >= shape.body_bytes_min && !before.is_some_and(|byte| byte.is_ascii_alphanumeric())
}

const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, copy, sink};

    use super::{Body, SHAPES, SPAN_BYTES_MAX, Searched, Shape};

    fn found(content: &[u8], piece: usize) -> Vec<String> {
        let mut searched = Searched::new(Cursor::new(content));
        let mut buffer = vec![0; piece];
        while searched.read(&mut buffer).unwrap() > 0 {}
        searched.found().iter().map(ToString::to_string).collect()
    }

    /// A text that has the shape; it is put together here, so that no scanner takes this file for a leak.
    fn sample(shape: Shape) -> String {
        let body = match shape.body {
            Body::PrivateKey => "RSA PRIVATE KEY-----\nMII".to_owned(),
            Body::Upper => "A7".repeat(shape.body_bytes_min / 2),
            Body::Alphanumeric | Body::Word => "aB3x".repeat(shape.body_bytes_min.div_ceil(4)),
        };
        format!("{}{body}", shape.prefix)
    }

    #[test]
    fn every_shape_is_found_however_the_content_is_cut() {
        for shape in SHAPES {
            assert!(shape.prefix.len() + shape.body_bytes_min <= SPAN_BYTES_MAX, "{shape}");
            let sample = sample(shape);
            for padding in [0, 1, 127, 128, 300] {
                let content = format!("{}\nkey = \"{sample}\"\n{}", "x".repeat(padding), "y".repeat(padding));
                for piece in [1, 7, 64, 4096] {
                    assert_eq!(found(content.as_bytes(), piece), [shape.name], "{padding} {piece}");
                }
            }
            assert_eq!(found(sample.as_bytes(), 64), [shape.name], "alone");
        }
    }

    #[test]
    fn what_only_begins_like_a_shape_is_none() {
        for shape in SHAPES {
            assert_eq!(found(shape.prefix.as_bytes(), 64), [""; 0], "{shape}");
            if shape.body != Body::PrivateKey {
                let sample = sample(shape);
                assert_eq!(found(format!("x{sample}").as_bytes(), 64), [""; 0], "{shape}: a piece of a word");
                let short = &sample[..shape.prefix.len() + shape.body_bytes_min - 1];
                assert_eq!(found(format!("{short} ").as_bytes(), 64), [""; 0], "{shape}: too short");
            }
        }
        assert_eq!(found(b"-----BEGIN PUBLIC KEY-----\nPRIVATE KEY-----", 64), [""; 0]);
        assert_eq!(found(b"-----BEGIN CERTIFICATE-----", 64), [""; 0]);
    }

    #[test]
    fn a_report_names_a_shape_and_holds_no_content() {
        let sample = sample(SHAPES[0]);
        let content = format!("{sample}\n").repeat(1000);
        let mut searched = Searched::new(content.as_bytes());
        copy(&mut searched, &mut sink()).unwrap();
        assert!(searched.pending.len() <= SPAN_BYTES_MAX);
        let found = searched.found();
        assert_eq!(found.len(), 1, "each shape once");
        assert!(!format!("{found:?}").contains(&sample));
    }
}
