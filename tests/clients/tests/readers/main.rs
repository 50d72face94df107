//! Whether others read in a URL what the canonicaliser reads: Python, Go (its client and its server), libcurl and nginx, as they are
//! installed. What it takes, each of them reads alike, in what the agent wrote and in what is sent for it, but for the differences that are
//! written down here with their reasons; everything else in which they differ it refuses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

mod cases;
mod peers;

use std::collections::BTreeMap;
use std::net::IpAddr;

use agentsandbox_policy::{Host, Method, Policy, Request, Scheme, Target};
use cases::Case;
use peers::{Lines, Nginx, Seen, hexadecimal, without_last_slash};
use serde_json::{Value, json};

/// A secret that is put into a query, with whatever ends or joins parameters.
const VALUE: &str = "s&e=c;r%e+t#";
const VALUE_ENCODED: &str = "s%26e%3Dc%3Br%25e%2Bt%23";

/// What is compared of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Host,
    Port,
    Path,
    Query,
}

/// A difference that may be, in what the agent wrote: the reader, the part, whether it is this one, and the reason. In what is sent there
/// is none.
type Difference = (&'static str, Part, fn(&Case, &Host, &Seen) -> bool, &'static str);

const DIFFERENCES: [Difference; 5] = [
    (
        "nginx",
        Part::Host,
        is_no_number,
        "nginx takes a number for a name; the address is what is dialled and sent",
    ),
    (
        "go",
        Part::Host,
        is_no_number,
        "Go reads addresses in four decimal numbers and no others; the address is what is dialled and sent",
    ),
    (
        "nginx",
        Part::Host,
        is_foreign,
        "nginx takes letters of other alphabets as they come; the A-label is what is sent",
    ),
    (
        "go",
        Part::Host,
        is_foreign,
        "Go's client writes letters as A-labels without mapping them (UTS 46); the canonical name is what is judged and sent",
    ),
    (
        "python",
        Part::Host,
        is_foreign,
        "Python's codec is that of IDNA 2003, which has ss for ß; the canonical name is what is judged and sent",
    ),
];

/// The host of a case as it was written, but for its letter case and a dot at its end.
fn written(case: &Case) -> String {
    let host = case.authority.split(':').next().unwrap_or_default();
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether a number that is an address for us was taken for a name as it stands.
fn is_no_number(case: &Case, host: &Host, seen: &Seen) -> bool {
    host.address().is_some() && case.authority.is_ascii() && seen.host == written(case)
}

fn is_foreign(case: &Case, _: &Host, _: &Seen) -> bool {
    !case.authority.is_ascii()
}

fn ours_decoded(target: &Target) -> Vec<u8> {
    let (bytes, mut out, mut at) = (target.path().as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = if *byte == b'%' { target.path().get(at + 1..at + 3) } else { None };
        out.push(digits.map_or(*byte, |digits| u8::from_str_radix(digits, 16).unwrap()));
        at += if digits.is_some() { 3 } else { 1 };
    }
    out
}

/// Whether a reader's host is ours. It has no brackets, and may keep IPv4 in IPv6 clothes.
fn is_host(host: &Host, seen: &str) -> bool {
    let inside = seen.trim_start_matches('[').trim_end_matches(']');
    match inside.parse::<IpAddr>() {
        Ok(address) => host.address() == Some(address.to_canonical()),
        Err(_) => host.address().is_none() && host.as_str() == seen,
    }
}

/// The parts in which a reader differs; `exact` where a path has no dot segments left.
fn differing(ours: &(Host, u16, Target), seen: &Seen, exact: bool) -> Vec<Part> {
    let (host, port, target) = ours;
    let path = ours_decoded(target);
    let same_path = match exact {
        true => hexadecimal(&path) == seen.path,
        false => hexadecimal(without_last_slash(&path)) == seen.cleaned,
    };
    let parts = [
        (Part::Host, is_host(host, &seen.host)),
        // nginx tells none: its port is that of its socket.
        (Part::Port, seen.port == 0 || seen.port == u32::from(*port)),
        (Part::Path, same_path),
        (Part::Query, seen.query == target.query().unwrap_or_default()),
    ];
    parts.into_iter().filter(|(_, same)| !same).map(|(part, _)| part).collect()
}

/// What each reader has read, by its name.
type Read = BTreeMap<String, Seen>;

/// What all of them read in these: what the programs are asked, and what nginx is sent, unless that would not be one request.
fn read(all: &[(Value, Option<(String, String)>)]) -> Vec<Read> {
    let folder = tempfile::tempdir().unwrap();
    let asked: Vec<Value> = all.iter().map(|(asked, _)| asked.clone()).collect();
    let programs = [Lines::python(), Lines::go(folder.path())];
    let [python, go] = programs.map(|program| program.ask(&asked));
    let nginx = Nginx::start(folder.path());
    let sent =
        all.iter().map(|(_, sent)| sent.as_ref().map(|(authority, target)| nginx.ask(authority, target)));
    let mut read: Vec<Read> =
        python.into_iter().zip(go).map(|(one, other)| one.into_iter().chain(other).collect()).collect();
    for (read, sent) in read.iter_mut().zip(sent) {
        read.extend(sent.map(|seen| ("nginx".to_owned(), seen)));
    }
    read
}

#[test]
fn p_i9_what_the_canonicaliser_takes_other_readers_read_alike_in_what_was_written() {
    let cases: Vec<Case> = cases::all().into_iter().collect();
    let asked = |case: &Case| {
        // What would end the request line or the field is not nginx's to read as one.
        let is_one = !format!("{}{}", case.authority, case.target).contains(['\r', '\n', ' ', '\0']);
        (json!({"url": case.url()}), is_one.then(|| (case.authority.clone(), case.target.clone())))
    };
    let read = read(&cases.iter().map(asked).collect::<Vec<_>>());
    let (mut taken, mut disagreed, mut used) = (0, 0, BTreeMap::<&str, usize>::new());
    let mut faults = Vec::new();
    for (case, all) in cases.iter().zip(read) {
        let Some(ours) = case.ours() else {
            let read: Vec<_> = all.iter().filter(|(_, seen)| seen.refused.is_none()).collect();
            let differs = |one: &Seen, other: &Seen| {
                (&one.host, &one.cleaned, &one.query) != (&other.host, &other.cleaned, &other.query)
            };
            disagreed += usize::from(read.windows(2).any(|pair| differs(pair[0].1, pair[1].1)));
            continue;
        };
        taken += 1;
        for (reader, seen) in all.iter().filter(|(_, seen)| seen.refused.is_none()) {
            for part in differing(&ours, seen, false) {
                let known = DIFFERENCES
                    .iter()
                    .find(|(who, what, is, _)| who == reader && *what == part && is(case, &ours.0, seen));
                match known {
                    Some((.., why)) => *used.entry(why).or_default() += 1,
                    None => faults.push(format!("{reader} {part:?} {case:?} ours {ours:?} {seen:?}")),
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} differences, of them\n{}",
        faults.len(),
        faults[..faults.len().min(40)].join("\n")
    );
    assert!(
        taken > 1000 && disagreed > 500,
        "{taken} were taken, {disagreed} refused that are read in two ways"
    );
    for (.., why) in DIFFERENCES {
        assert!(used.contains_key(why), "nothing differs any more because {why}: take it out");
    }
}

/// A policy with one rule for the path as it is judged and no other.
fn alone(target: &Target) -> Policy {
    let path = json!(target.path());
    let text = format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, \
         rules: [{{name: a, host: api.good.test, ports: [443], scheme: https, paths: [{path}]}}]}}"
    );
    Policy::from_yaml(&text).unwrap()
}

fn allows(policy: &Policy, target: &Target) -> bool {
    let request = Request {
        scheme: Scheme::Https,
        host: Host::parse("api.good.test").unwrap(),
        port: 443,
        method: Method::parse("GET").unwrap(),
        target: target.clone(),
        websocket: false,
    };
    policy.decide(request).is_ok()
}

#[test]
fn p_i9_what_is_sent_is_read_by_every_server_as_it_was_judged() {
    let taken = |case: Case| case.ours().map(|ours| (case, ours));
    let cases: Vec<(Case, (Host, u16, Target))> = cases::all().into_iter().filter_map(taken).collect();
    let asked = |(_, (host, port, target)): &(Case, (Host, u16, Target))| {
        let (authority, target) = (format!("{host}:{port}"), target.with_query_parameter("key", VALUE));
        let target = target.as_str().to_owned();
        let url = format!("https://{authority}{target}");
        (json!({"url": url, "authority": authority, "target": target}), Some((authority, target)))
    };
    let read = read(&cases.iter().map(asked).collect::<Vec<_>>());
    let (sent, mut divided) = (cases.len(), 0);
    for ((case, (host, port, target)), all) in cases.into_iter().zip(read) {
        let injected = target.with_query_parameter("key", VALUE);
        let decoded = hexadecimal(&ours_decoded(&target));
        let ours = (host.clone(), port, injected.clone());
        let slashes = |text: &str| text.matches("2f").count();
        let mut is_divided = false;
        for (reader, seen) in all {
            assert_eq!(seen.refused, None, "{reader} {case:?} {injected:?}");
            if reader == "python_sent" {
                assert!(
                    is_host(&host, &seen.host) && seen.port == u32::from(port),
                    "{reader} {case:?} {seen:?}"
                );
                is_divided |= seen.bare != decoded;
            } else {
                assert_eq!(differing(&ours, &seen, true), [], "{reader} {case:?} {ours:?} {seen:?}");
                is_divided |= slashes(&seen.path) > target.path().matches('/').count();
            }
            let expected = if reader == "nginx" { VALUE_ENCODED } else { VALUE };
            if let Some(keys) = seen.keys {
                assert_eq!(keys, [expected], "{reader} {case:?} {injected:?}");
            }
        }
        if is_divided && !target.path().contains('*') {
            divided += 1;
            assert!(
                !allows(&alone(&target), &target),
                "another path is read in {target:?} than its rule names"
            );
        }
    }
    assert!(sent > 1000 && divided > 100, "{sent} were sent, {divided} are divided otherwise by some");
    let plain = Target::parse("/v1/x").unwrap();
    assert!(allows(&alone(&plain), &plain));
}
