//! What is read: an authority and a target each, from the vectors and seeds that the project has, and made from a fixed seed out of
//! what readers of URLs are known to differ in.

use std::collections::BTreeSet;
use std::fs;

use agentsandbox_clients::catalogue::repository;
use agentsandbox_policy::{Host, Target, parse_authority};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// Cases that are made, beside those that are read from files.
const MADE: usize = 6000;

/// An authority and a target in origin form, as an agent wrote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub authority: String,
    pub target: String,
}

impl Case {
    pub fn url(&self) -> String {
        format!("https://{}{}", self.authority, self.target)
    }

    /// What the canonicaliser makes of it, if it takes it.
    pub fn ours(&self) -> Option<(Host, u16, Target)> {
        let (host, port) = parse_authority(&self.authority, Some(443)).ok()?;
        Some((host, port, Target::parse(&self.target).ok()?))
    }
}

/// All of them, each once.
pub fn all() -> BTreeSet<Case> {
    let mut cases = BTreeSet::new();
    for host in seeds("host").into_iter().chain(words(|word| !word.contains('/'))) {
        cases.insert(Case { authority: host, target: "/v1/x".to_owned() });
    }
    for target in seeds("path").into_iter().chain(words(|word| word.starts_with('/'))) {
        cases.insert(Case { authority: "api.good.test".to_owned(), target });
    }
    let mut runner = TestRunner::deterministic();
    let made = (authority(), target()).prop_map(|(authority, target)| Case { authority, target });
    // One odd thing at a time, or the other part would have most of them refused.
    let host = authority().prop_map(|authority| Case { authority, target: "/v1/x".to_owned() });
    let path = target().prop_map(|target| Case { authority: "api.good.test".to_owned(), target });
    let made = prop_oneof![1 => made, 2 => host, 4 => path];
    cases.extend((0..MADE).map(|_| made.new_tree(&mut runner).unwrap().current()));
    cases
}

/// What the fuzz targets begin with.
fn seeds(target: &str) -> Vec<String> {
    let folder = repository().join("fuzz/seeds").join(target);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 10, "{} has {} seeds", folder.display(), files.len());
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// The words of the conformance suite's vectors that are such ones.
fn words(is_such: impl Fn(&str) -> bool) -> Vec<String> {
    fn scalars(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::String(text) => found.push(text.clone()),
            Value::Array(all) => all.iter().for_each(|value| scalars(value, found)),
            Value::Object(all) => all.values().for_each(|value| scalars(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for file in ["a-authority", "b-names", "c-addresses", "e-requests"] {
        let file = repository().join(format!("tests/conformance/vectors/{file}.yaml"));
        scalars(&serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap(), &mut found);
    }
    found.retain(|text| !text.contains(' ') && !text.contains('{') && is_such(text));
    assert!(found.len() > 20, "the vectors have {} such words", found.len());
    found
}

fn text(regex: &str) -> impl Strategy<Value = String> + use<> {
    proptest::string::string_regex(regex).unwrap()
}

fn joined(parts: impl Strategy<Value = Vec<String>>, by: &'static str) -> impl Strategy<Value = String> {
    parts.prop_map(move |parts| parts.join(by))
}

fn authority() -> impl Strategy<Value = String> {
    let letters = text("[a-z0-9]{1,4}|[a-zA-Z0-9_-]{1,5}");
    let label = prop_oneof![
        18 => letters,
        2 => text("xn--[a-z0-9-]{0,6}|xn--bcher-kva|bücher|straße|ß|ａpi|аpi|e\u{301}|\u{ad}a|a\u{200d}b|İ|ſ|K"),
        1 => text("[a-z]?(%2e|%41|%00|@|\\\\|/|;|\t|\0| |,|\\*|!|~|#|\\?|。|．|:|\\[|\\]|\r|\n|\u{7f}|&|=|'|\\(|\\$|\\+|\\||\\^|`|\"|<)[a-z]?"),
        3 => text("[0-9]{1,3}|0x[0-9a-fA-F]{0,2}|0[0-7]{1,3}"),
    ];
    let names = joined(proptest::collection::vec(label, 1..4), ".");
    let number = text("[0-9]{1,3}|0[xX][0-9a-fA-F]{0,4}|0[0-9]{1,4}|[0-9]{4,10}|①|１|\\+1|-1|");
    let addresses = joined(proptest::collection::vec(number, 1..5), ".");
    let six = text(
        "\\[([0-9a-f]{1,4}:){0,3}:([0-9a-f]{1,4}:){0,3}([0-9a-f]{0,4}|[0-9]{1,3}(\\.[0-9]{1,3}){3})(%25?[a-z0-9]{1,4})?\\]",
    );
    let mapped = text(
        "\\[(::ffff:|::|64:ff9b::|0:0:0:0:0:FFFF:)([0-9]{1,2}(\\.[0-9]{1,2}){3}|[0-9a-f]{4}:[0-9a-f]{1,4})\\]",
    );
    let user = text("|||||||||||||||||||||||||user@|a:b@|@|good.test:443@|%40");
    let end = text("||||||||||\\.|\\.|\\.\\.");
    let port = text(
        "|||||:443|:80|:8443|:|:0|:0443|:\\+443|:65535|:65536|:４４３|:44 3|:443:80|:[0-9]{1,6}|: 443|:-1|:0x1bb",
    );
    let host = prop_oneof![4 => names, 2 => addresses, 1 => six, 1 => mapped];
    (user, host, end, port).prop_map(|(user, host, end, port)| format!("{user}{host}{end}{port}"))
}

fn target() -> impl Strategy<Value = String> {
    let plain = text("[a-zA-Z0-9]{1,3}|[a-zA-Z0-9]|~|@|:|\\*|\\+|!|=|,|&|'|\\$|\\.|x:");
    let read = text(
        "\\.\\.|\\.|%2e|%2E%2e|\\.%2e|%2f|%2F|a%2fb|;|;a=b|%3b|%3f|%23|%20|%7e|%61|%25|%26|%2a|%c3%bc|%e2%80%8b|\\||\"|<|\\{|\\^|`",
    );
    let refused =
        text("%5c|%2525|%252e|%ff|%c0%af|%00|%0a|%zz|%|%u002e|\\\\|\\.\\.;|;\\.\\.|#|\t| |ü|\r|\n|\0|\u{7f}");
    let piece = prop_oneof![12 => plain, 7 => read, 1 => refused];
    let segment = joined(proptest::collection::vec(piece, 1..3), "");
    let segments = joined(proptest::collection::vec(segment, 1..5), "/");
    let pair = text(
        "a=b|key=1|KEY=2|%6bey=3|k%65y|key|;key=4|a=%26|=|a;key=5;b|\\?|/\\.\\./|a=%00|a=é|a=\"|a=<|\\+|a=%|a=%zz|#|\\[\\]=|a='|a=\\\\|a=\\||\t|a==b|key==6",
    );
    let query = joined(proptest::collection::vec(pair, 0..4), "&");
    let query = prop_oneof![3 => Just(String::new()), 2 => query.prop_map(|query| format!("?{query}"))];
    let first = text("/|/|/|/|/|/|/|/|/|/|/|/|//|");
    (first, segments, query).prop_map(|(first, segments, query)| format!("{first}{segments}{query}"))
}
