use super::*;

const SEED: u64 = 5;
/// The first policy with this property.
fn policy_where(is: impl Fn(&Policy) -> bool) -> u32 {
    (1..).find(|number| is(&Policy::of(SEED, *number))).unwrap()
}

const fn ask(place: Place) -> Ask {
    Ask { place, method: "GET", own_key: false, socket: false }
}

/// A ledger where one policy and the first secrets are in force.
fn under(policy: u32) -> Ledger {
    let ledger = Ledger::new(SEED);
    ledger.timeline.policy.announce(policy);
    ledger.timeline.policy.confirm(policy);
    ledger
}

fn line(event: &'static str, generation: u32) -> Written<'static> {
    let (credential, reason) = (Some("bearer"), None);
    Written {
        event,
        request_id: "r",
        entrance: "socks5",
        host: "api.good.test",
        credential,
        reason,
        generation,
    }
}

const BEARER: (Slot, Option<u32>) = (Slot::Bearer, Some(0));

/// What is wrong after this happened to a request.
fn after(policy: u32, asked: Ask, happens: impl Fn(&Ledger, u64)) -> Option<String> {
    let ledger = under(policy);
    let number = ledger.asks(Entrance::Socks5, asked);
    happens(&ledger, number);
    ledger.first_wrong()
}

fn serve(ledger: &Ledger, number: u64) {
    ledger.writes(number, &line("begin", ledger.timeline.policy.newest()));
    ledger.arrives(number, "api.good.test", &[BEARER]);
    ledger.told(number, "request", &Told::Served);
    ledger.writes(number, &line("end", ledger.timeline.policy.newest()));
    ledger.close();
}

#[test]
fn an_allowed_request_that_is_written_sent_and_answered_is_right_and_a_denied_one_is_wrong() {
    assert_eq!(after(1, ask(Place::V1), serve), None);
    for place in [Place::Admin, Place::Evil, Place::Port, Place::Other, Place::Number(2)] {
        assert!(after(1, ask(place), serve).is_some(), "{place:?}");
    }
    let closed = policy_where(|policy| matches!(policy.verdict(&ask(Place::Flip)), Verdict::Deny(_)));
    let open = policy_where(|policy| matches!(policy.verdict(&ask(Place::Flip)), Verdict::Allow(_)));
    assert!(after(closed, ask(Place::Flip), serve).is_some());
    assert_eq!(after(open, ask(Place::Flip), serve), None);
}

#[test]
fn what_arrives_has_its_host_one_secret_of_its_time_and_comes_once() {
    let arrives = |host: &'static str, secrets: &'static [(Slot, Option<u32>)]| {
        after(1, ask(Place::V1), move |ledger, number| ledger.arrives(number, host, secrets))
    };
    assert_eq!(arrives("api.good.test", &[BEARER]), None);
    assert!(arrives("git.good.test", &[BEARER]).is_some());
    assert!(arrives("api.good.test", &[]).is_some());
    assert!(arrives("api.good.test", &[(Slot::Header, Some(0))]).is_some());
    assert!(arrives("api.good.test", &[BEARER, (Slot::Header, Some(0))]).is_some());
    assert!(arrives("api.good.test", &[(Slot::Bearer, Some(1))]).is_some());
    // The agent's own key, or anything else that is no version.
    assert!(arrives("api.good.test", &[(Slot::Bearer, None)]).is_some());
    let twice =
        |ledger: &Ledger, number| (0..2).for_each(|_| ledger.arrives(number, "api.good.test", &[BEARER]));
    assert!(after(1, ask(Place::V1), twice).is_some());
    let with_fault = |method, times: usize| {
        after(1, Ask { method, ..ask(Place::V1) }, move |ledger, number| {
            ledger.timeline.fault_begins();
            (0..times).for_each(|_| ledger.arrives(number, "api.good.test", &[BEARER]));
        })
    };
    assert_eq!(with_fault("GET", 2), None, "a kept connection may end under it");
    assert!(with_fault("GET", 3).is_some() && with_fault("POST", 2).is_some());
    assert!(
        after(1, ask(Place::V1), |ledger, number| ledger.arrives(number + 1, "api.good.test", &[])).is_some()
    );
}

#[test]
fn a_replaced_secret_is_right_until_the_next_is_confirmed_and_wrong_afterwards() {
    let rotated = |confirmed: bool| {
        let ledger = under(1);
        ledger.timeline.secret(Slot::Bearer).announce(1);
        if confirmed {
            ledger.timeline.secret(Slot::Bearer).confirm(1);
        }
        let number = ledger.asks(Entrance::Socks5, ask(Place::V1));
        ledger.arrives(number, "api.good.test", &[BEARER]);
        ledger.first_wrong()
    };
    assert_eq!(rotated(false), None);
    assert!(rotated(true).is_some());
}

#[test]
fn a_refusal_has_the_reason_of_the_policy_or_of_a_deleted_secret() {
    let told = |place, reason: &'static str| {
        after(1, ask(place), move |ledger, number| {
            ledger.told(number, "request", &Told::Denied(reason.to_owned()));
        })
    };
    assert_eq!(told(Place::Admin, "PathNotAllowed"), None);
    assert!(told(Place::Admin, "HostNotAllowed").is_some());
    assert!(told(Place::V1, "PathNotAllowed").is_some());
    assert!(told(Place::V1, "CredentialUnavailable").is_some());
    let ledger = under(1);
    let absent = (0..).find(|version| Slot::Bearer.value(*version).is_none()).unwrap();
    ledger.timeline.secret(Slot::Bearer).announce(absent);
    let number = ledger.asks(Entrance::Socks5, ask(Place::V1));
    ledger.told(number, "request", &Told::Denied("CredentialUnavailable".to_owned()));
    assert_eq!(ledger.first_wrong(), None);
}

#[test]
fn a_failure_is_wrong_unless_an_upstream_fails_and_a_denied_request_never_fails() {
    let fails = |place, is_faulty: bool, told: Told| {
        after(1, ask(place), move |ledger, number| {
            if is_faulty {
                ledger.timeline.fault_begins();
            }
            ledger.told(number, "request", &told);
        })
    };
    let broken = || Told::Broken("cut off".to_owned());
    let unreachable = || Told::Denied("UpstreamUnreachable".to_owned());
    assert_eq!(fails(Place::V1, true, broken()), None);
    assert_eq!(fails(Place::V1, true, unreachable()), None);
    assert!(fails(Place::V1, false, broken()).is_some());
    assert!(fails(Place::V1, false, unreachable()).is_some());
    assert!(fails(Place::Admin, true, broken()).is_some());
    assert!(fails(Place::Admin, true, unreachable()).is_some());
}

#[test]
fn the_audit_trail_says_what_its_own_policy_says_and_pairs_what_it_begins() {
    let writes = |lines: &'static [Written<'static>]| {
        after(1, ask(Place::V1), move |ledger, number| {
            lines.iter().for_each(|line| ledger.writes(number, line));
            ledger.close();
        })
    };
    const BEGIN: Written<'static> = Written {
        event: "begin",
        request_id: "r",
        entrance: "socks5",
        host: "api.good.test",
        credential: Some("bearer"),
        reason: None,
        generation: 1,
    };
    const END: Written<'static> = Written { event: "end", ..BEGIN };
    assert_eq!(writes(&[BEGIN, END]), None);
    assert!(writes(&[BEGIN]).is_some());
    assert!(writes(&[END]).is_some());
    assert!(writes(&[BEGIN, BEGIN, END]).is_some());
    assert!(writes(&[Written { generation: 2, ..BEGIN }, END]).is_some());
    assert!(writes(&[Written { credential: None, ..BEGIN }, END]).is_some());
    assert!(writes(&[Written { entrance: "base-url", ..BEGIN }, END]).is_some());
    assert!(writes(&[Written { event: "deny", reason: Some("PathNotAllowed"), ..BEGIN }]).is_some());
}

#[test]
fn what_is_refused_after_it_arrived_had_its_rule_go_meanwhile_and_has_that_in_its_end() {
    let allows = |policy: &Policy| matches!(policy.verdict(&ask(Place::Flip)), Verdict::Allow(_));
    let open = (1..)
        .find(|number| allows(&Policy::of(SEED, *number)) && !allows(&Policy::of(SEED, *number + 1)))
        .unwrap();
    let Verdict::Deny(reason) = Policy::of(SEED, open + 1).verdict(&ask(Place::Flip)) else { unreachable!() };
    let refused = |goes: bool, said: Option<&'static str>| {
        after(open, ask(Place::Flip), move |ledger, number| {
            ledger.writes(number, &line("begin", open));
            ledger.arrives(number, "api.good.test", &[BEARER]);
            if goes {
                ledger.timeline.policy.announce(open + 1);
            }
            ledger.told(number, "request", &Told::Denied(reason.to_owned()));
            ledger.writes(number, &Written { reason: said, ..line("end", open) });
            ledger.close();
        })
    };
    assert_eq!(refused(true, Some(reason)), None);
    assert!(refused(false, Some(reason)).unwrap().contains("was denied, which no policy says"));
    assert!(refused(true, None).unwrap().contains("not with its rule"));
}

#[test]
fn what_is_refused_for_another_credential_had_begun_with_the_one_that_its_rule_had_before() {
    let slot = |number| Policy::of(SEED, number).verdict(&ask(Place::Swap));
    let is_bearer = |number| slot(number) == Verdict::Allow(Some(Slot::Bearer));
    let swaps = (1..).find(|number| is_bearer(*number) && !is_bearer(*number + 1)).unwrap();
    let stays = (1..).find(|number| is_bearer(*number) && is_bearer(*number + 1)).unwrap();
    let refused = |policy: u32, arrives: bool, begins: bool, said: Option<&'static str>| {
        after(policy, ask(Place::Swap), move |ledger, number| {
            if begins {
                ledger.writes(number, &line("begin", policy));
            }
            if arrives {
                ledger.arrives(number, "api.good.test", &[BEARER]);
            }
            ledger.timeline.policy.announce(policy + 1);
            ledger.told(number, "request", &Told::Denied(OTHER_SECRET.to_owned()));
            if begins {
                ledger.writes(number, &Written { reason: said, ..line("end", policy) });
            }
            ledger.close();
        })
    };
    let said = Some(OTHER_SECRET);
    assert_eq!(refused(swaps, true, true, said), None);
    assert_eq!(refused(swaps, false, true, said), None, "what was sent is looked at later");
    assert!(refused(stays, true, true, said).unwrap().contains("was denied, which no policy says"));
    assert!(refused(swaps, true, true, None).unwrap().contains("not with its rule"));
    assert!(refused(swaps, false, false, said).unwrap().contains("another number of refusals"));
}

#[test]
fn what_was_sent_without_a_line_is_found_at_the_end() {
    let unwritten = |ledger: &Ledger, number| {
        ledger.arrives(number, "api.good.test", &[BEARER]);
        ledger.told(number, "request", &Told::Served);
        ledger.close();
    };
    assert!(after(1, ask(Place::V1), unwritten).is_some());
}

#[test]
fn a_secret_that_comes_to_an_agent_is_a_leak_in_whatever_spelling() {
    let ledger = under(1);
    ledger.search(b"sk-000001************", "a body");
    assert_eq!(ledger.first_wrong(), None);
    let secret = Slot::Header.value(12).unwrap();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    ledger.search(hex.as_bytes(), "a body");
    assert!(ledger.first_wrong().unwrap().contains("{real-hex}"));
}

#[test]
fn a_tunnel_is_judged_by_its_host_and_port() {
    let opens = |place, opened| {
        let ledger = under(1);
        let began = ledger.timeline.begin();
        ledger.opens(&began, Entrance::Connect, place, opened);
        ledger.first_wrong()
    };
    assert_eq!(opens(Place::V1, Ok(())), None);
    assert!(opens(Place::V1, Err("HostNotAllowed")).is_some());
    assert_eq!(opens(Place::Evil, Err("HostNotAllowed")), None);
    assert!(opens(Place::Evil, Ok(())).is_some());
}

#[test]
fn every_refusal_is_in_the_audit_trail_once_whether_it_is_folded_or_not() {
    let after_lines = |lines: &[u64]| {
        let ledger = under(1);
        for _ in 0..3 {
            let number = ledger.asks(Entrance::Socks5, ask(Place::Admin));
            ledger.told(number, "request", &Told::Denied("PathNotAllowed".to_owned()));
        }
        ledger.opens(&ledger.timeline.begin(), Entrance::Socks5, Place::Evil, Err("SOCKS5 reply 2"));
        lines.iter().for_each(|count| ledger.writes_refusals("socks5", *count));
        ledger.close();
        ledger.first_wrong()
    };
    assert_eq!(after_lines(&[1, 3]), None);
    for wrong in [&[1, 2][..], &[1, 3, 1], &[]] {
        assert!(after_lines(wrong).unwrap().contains("socks5"), "{wrong:?}");
    }
}

#[test]
fn a_request_is_overtaken_only_where_something_was_replaced_and_nothing_was_sent() {
    let judged = |replaced: bool, sent: bool| {
        let ledger = under(1);
        let number = ledger.asks(Entrance::Socks5, ask(Place::V1));
        if sent {
            ledger.arrives(number, "api.good.test", &[BEARER]);
        }
        if replaced {
            ledger.timeline.policy.announce(2);
        }
        ledger.told(number, "request", &Told::Denied(OVERTAKEN.to_owned()));
        if !sent {
            ledger.close();
        }
        ledger.first_wrong()
    };
    assert_eq!(judged(true, false), None);
    assert!(judged(false, false).is_some() && judged(true, true).is_some());
}

#[test]
fn an_answer_or_a_websocket_is_cut_off_only_where_its_rule_went_and_the_audit_trail_says_so() {
    let socket = Ask { socket: true, ..ask(Place::Socket) };
    let allows = |number| Policy::of(SEED, number).verdict(&socket) == Verdict::Allow(Some(Slot::Bearer));
    let first = (1..).find(|number| allows(*number) && !allows(number + 1)).unwrap();
    let stays = (1..).find(|number| allows(*number) && allows(number + 1)).unwrap();
    let comes = (1..).find(|number| !allows(*number) && allows(number + 1)).unwrap();
    let judged = |asked: Ask, policy: u32, arrives: bool, reason: Option<&'static str>| {
        let ledger = under(policy);
        let number = ledger.asks(Entrance::Socks5, asked);
        ledger.timeline.policy.announce(policy + 1);
        let opened = if allows(policy) { policy } else { policy + 1 };
        if arrives {
            ledger.writes(number, &line("begin", opened));
            ledger.arrives(number, "api.good.test", &[BEARER]);
        }
        ledger.told(number, "socket", &Told::Broken("reset".to_owned()));
        assert!(ledger.first_wrong().is_some() || ledger.rows().values().all(|row| row.overtaken == 1));
        if arrives {
            ledger.writes(number, &Written { reason, ..line("end", opened) });
        }
        ledger.close();
        ledger.first_wrong()
    };
    let gone = Some("PathNotAllowed");
    assert_eq!(judged(socket, first, true, gone), None);
    assert_eq!(judged(Ask { socket: false, ..socket }, first, true, gone), None);
    for reason in [None, Some("Interrupted"), Some("MethodNotAllowed")] {
        assert!(judged(socket, first, true, reason).unwrap().contains("not with its rule"), "{reason:?}");
    }
    for (asked, policy, arrives) in [(socket, first, false), (socket, stays, true), (socket, comes, true)] {
        let wrong = judged(asked, policy, arrives, gone).unwrap();
        assert!(wrong.contains("was not answered"), "{asked:?}, {policy}, {arrives}: {wrong}");
    }
}
