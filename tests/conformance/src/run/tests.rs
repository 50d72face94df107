//! The engine must be able to say no: each judgement fails on what it is there to find.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::world::{EVIL, INTERNAL};

fn told(status: Option<u16>, bytes: &str) -> Told {
    let ended = if status.is_none() { Ended::Closed } else { Ended::Answered };
    Told { bytes: bytes.as_bytes().to_vec(), status, ended }
}

fn nothing() -> New {
    New { connections: vec![], requests: vec![], bytes: vec![], questions: vec![] }
}

fn request(to: IpAddr, text: &str) -> New {
    New {
        connections: vec![(to, 443)],
        requests: vec![(SocketAddr::new(to, 443), text.to_owned())],
        bytes: vec![(SocketAddr::new(to, 443), text.as_bytes().to_vec())],
        questions: vec!["api.good.test".to_owned()],
    }
}

fn verdict(expect: &Expect, told: &Told, new: &New) -> Result<(), String> {
    judge(Entrance::Connect, &Send::default(), expect, told, new, 0, true)
}

fn injected() -> String {
    format!("GET /v1/x HTTP/1.1\r\nhost: api.good.test\r\nauthorization: Bearer {}\r\n\r\n", secret::REAL)
}

#[test]
fn a_denial_is_a_refusal_without_a_connection_or_a_question() {
    let deny = Expect { deny: Some(vec![403]), ..Expect::default() };
    assert_eq!(verdict(&deny, &told(Some(403), "no"), &nothing()), Ok(()));
    assert_eq!(verdict(&deny, &told(None, ""), &nothing()), Ok(()), "closing is a refusal");
    let connected = New { connections: vec![(GOOD, 443)], ..nothing() };
    let asked = New { questions: vec!["c2VjcmV0.evil.test".to_owned()], ..nothing() };
    let elsewhere = New { connections: vec![(INTERNAL, 80)], ..nothing() };
    for (what, told, new) in [
        ("it was answered", told(Some(200), "ok"), nothing()),
        ("a redirect is an answer", told(Some(302), ""), nothing()),
        ("it hangs", Told { ended: Ended::Hung, ..told(None, "") }, nothing()),
        ("a connection was opened", told(Some(403), ""), connected),
        ("a connection was opened elsewhere", told(Some(403), ""), elsewhere),
        ("a question was asked", told(Some(403), ""), asked),
        ("a request was sent", told(Some(403), ""), request(GOOD, &injected())),
    ] {
        assert!(verdict(&deny, &told, &new).is_err(), "{what}");
    }
}

#[test]
fn a_handshake_may_be_made_where_a_vector_says_so_and_no_byte_sent() {
    let expect = Expect { deny: Some(vec![502]), upstream: Upstream::Handshake, ..Expect::default() };
    let connected = New { connections: vec![(GOOD, 443)], ..nothing() };
    assert_eq!(verdict(&expect, &told(Some(502), ""), &connected), Ok(()));
    assert!(verdict(&expect, &told(Some(502), ""), &request(GOOD, "GET / HTTP/1.1\r\n\r\n")).is_err());
}

#[test]
fn what_is_allowed_arrives_once_at_the_right_place_with_the_credential_once() {
    let allow = Expect { allow: Some(vec![200]), ..Expect::default() };
    let ok = || told(Some(200), "ok");
    assert_eq!(verdict(&allow, &ok(), &request(GOOD, &injected())), Ok(()));
    let bare = "GET /v1/x HTTP/1.1\r\nhost: api.good.test\r\n\r\n";
    let mut twice = request(GOOD, &injected());
    twice.requests.push((SocketAddr::new(GOOD, 443), injected()));
    for (what, new) in [
        ("nothing arrived", nothing()),
        ("it arrived without the credential", request(GOOD, bare)),
        ("it arrived twice", twice),
        ("it arrived elsewhere", request(EVIL, bare)),
        ("the credential is there twice", request(GOOD, &format!("{}{}", injected(), secret::REAL))),
    ] {
        assert!(verdict(&allow, &ok(), &new).is_err(), "{what}");
    }
    assert!(verdict(&allow, &told(Some(502), ""), &request(GOOD, &injected())).is_err());
}

#[test]
fn the_secret_is_seen_wherever_it_leaks() {
    let allow = Expect { allow: Some(vec![200]), ..Expect::default() };
    for spelling in secret::spellings() {
        let answer = told(Some(200), &format!("echo: {}", spelling.text));
        assert!(verdict(&allow, &answer, &request(GOOD, &injected())).is_err(), "{}", spelling.name);
    }
    let (left, right) = secret::REAL.split_at(9);
    let cut = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{left}\r\n15\r\n{right}\r\n0\r\n\r\n"
    );
    assert!(
        verdict(&allow, &told(Some(200), &cut), &request(GOOD, &injected())).is_err(),
        "cut between chunks"
    );
    let mut elsewhere = request(GOOD, &injected());
    elsewhere.bytes.push((SocketAddr::new(EVIL, 443), secret::REAL.as_bytes().to_vec()));
    assert!(verdict(&allow, &told(Some(200), "ok"), &elsewhere).is_err());
    let mut plaintext = request(GOOD, &injected());
    plaintext.bytes.push((SocketAddr::new(GOOD, 80), secret::REAL.as_bytes().to_vec()));
    assert!(verdict(&allow, &told(Some(200), "ok"), &plaintext).is_err());
    let other = injected().replace("api.good.test", "pypi.good.test");
    assert!(verdict(&allow, &told(Some(200), "ok"), &request(GOOD, &other)).is_err());
}

#[test]
fn a_choice_is_none_or_one_and_never_two() {
    let single = Expect { single: Some(vec![400]), ..Expect::default() };
    assert_eq!(verdict(&single, &told(Some(400), ""), &nothing()), Ok(()));
    assert_eq!(verdict(&single, &told(Some(200), ""), &request(GOOD, &injected())), Ok(()));
    let mut twice = request(GOOD, &injected());
    twice.requests.push((SocketAddr::new(GOOD, 443), injected()));
    assert!(verdict(&single, &told(Some(200), ""), &twice).is_err());
    assert!(verdict(&single, &told(Some(200), ""), &nothing()).is_err());
}

#[test]
fn what_must_and_must_not_be_sent_and_told_is_looked_for_in_any_case() {
    let own = |text: &str| vec![text.to_owned()];
    let expect = Expect { allow: Some(vec![200]), ..Expect::default() };
    let new = request(GOOD, &injected().replace("\r\n\r\n", "\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"));
    let not_sent = Expect { not_sent: own("x-forwarded-for"), ..expect.clone() };
    let sent = Expect { sent: own("X-FORWARDED-FOR: 1.2.3.4"), ..expect.clone() };
    let not_told = Expect { not_told: own("OK"), ..expect };
    assert!(verdict(&not_sent, &told(Some(200), "ok"), &new).is_err());
    assert_eq!(verdict(&sent, &told(Some(200), "ok"), &new), Ok(()));
    assert!(verdict(&not_told, &told(Some(200), "ok"), &new).is_err());
}

#[test]
fn ours_answers_with_a_documented_status() {
    let deny = Expect { deny: Some(vec![403, 0]), ..Expect::default() };
    assert_eq!(is_ours(&deny, &told(Some(403), "")), Ok(()));
    assert_eq!(is_ours(&deny, &told(None, "")), Ok(()));
    assert!(is_ours(&deny, &told(Some(502), "")).is_err());
}

#[test]
fn entries_are_in_the_order_of_the_catalogue() {
    let mut ids = ["P-B1", "P-A10", "P-A9", "P-A1"];
    ids.sort_by_key(|id| order(id));
    assert_eq!(ids, ["P-A1", "P-A9", "P-A10", "P-B1"]);
}
