//! What of an exchange counts as something that passed through the proxy.

use std::time::Duration;

use agentsandbox_policy::Idle;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

type Happens = fn(&Arc<Audit>);

/// What is told of a proxy in an hour, once this has happened.
fn in_an_hour(happens: impl FnOnce(&Arc<Audit>)) -> Idle {
    let audit = audit(&Disk::default().room(usize::MAX));
    happens(&audit);
    audit.idle(Instant::now() + HOUR)
}

#[test]
fn what_is_denied_and_what_comes_before_a_request_pass_nothing_and_what_is_allowed_does() {
    let denied = |audit: &Arc<Audit>| {
        audit.open(Entrance::HttpProxy, None).refuses(&Denial::new(DenialReason::HostNotAllowed), Some(403));
        let mut often = audit.open(Entrance::Dns, None);
        often.repeats();
        often.refuses(&Denial::new(DenialReason::HostNotAllowed), None);
    };
    let enrolled = |audit: &Arc<Audit>| assert!(audit.open(Entrance::Enrolment, None).admits().is_ok());
    let unrecorded = |audit: &Arc<Audit>| drop(begin(&mut audit.open(Entrance::HttpProxy, None)));
    let named = |audit: &Arc<Audit>| {
        audit.open(Entrance::Dns, None).admits_often().unwrap();
        audit.open(Entrance::Dns, None).admits_often().unwrap();
    };
    let tunnel = |audit: &Arc<Audit>| assert!(audit.open(Entrance::HttpProxy, None).admits().is_ok());
    let nothing: [(&str, Happens); 5] = [
        ("the control", |_| ()),
        ("what is denied", denied),
        ("an enrolment", enrolled),
        ("a name", named),
        ("a tunnel", tunnel),
    ];
    for (what, happens) in nothing {
        let idle = in_an_hour(happens);
        assert!(!idle.has_passed, "{what}: {idle:?}");
    }
    let full = audit(&Disk::default());
    unrecorded(&full);
    assert!(!full.idle(Instant::now()).has_passed, "what could not be written down was not sent");
    let asked = in_an_hour(|audit| drop(begin(&mut audit.open(Entrance::HttpProxy, None)).unwrap()));
    assert!(asked.has_passed && asked.seconds > 3000, "{asked:?}");
}

#[test]
fn a_request_is_on_its_way_until_its_answer_begins_or_nobody_waits_for_it_any_more() {
    let audit = audit(&Disk::default().room(usize::MAX));
    let later = || audit.idle(Instant::now() + HOUR).seconds;
    let mut entry = audit.open(Entrance::HttpProxy, None);
    begin(&mut entry).unwrap();
    assert_eq!(later(), 0);
    entry.answers(200);
    assert!(later() > 3000, "the rest of an answer counts by its bytes");
    let mut given_up = audit.open(Entrance::HttpProxy, None);
    begin(&mut given_up).unwrap();
    assert_eq!(later(), 0);
    drop(given_up);
    assert!(later() > 3000);
}

#[test]
fn each_byte_that_moves_either_way_is_something_that_passed() {
    for moves in [Traffic::goes_up, Traffic::goes_down] {
        let after =
            |bytes: usize| in_an_hour(|audit| moves(&audit.open(Entrance::Socks5, None).traffic(), bytes));
        assert!(after(1).has_passed && !after(0).has_passed);
    }
}
