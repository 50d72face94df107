//! What is remembered of pods that failed and of starts, beside what is not.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{agent_pod, failed_pod, from};

fn at(seconds: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn one(uid: &str) -> Pod {
    failed_pod(uid, "", |_| ())
}

#[test]
fn pauses_grow_with_each_pod_that_fails_and_do_not_with_each_look_at_one() {
    let memory = Memory::drawing(Jitter::seeded(7));
    let mut pauses = Vec::new();
    for (number, name) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().enumerate() {
        let now = at(1000 * i64::try_from(number).unwrap());
        let first = memory.failed("u", Some(&one(name)), now).unwrap();
        let again = memory.failed("u", Some(&one(name)), now + SignedDuration::from_secs(5)).unwrap();
        assert_eq!(first, again, "{name}");
        pauses.push(first.until.duration_since(now).as_secs());
    }
    for (pause, longest) in pauses.iter().zip([10, 20, 40, 80, 160, 300, 300]) {
        assert!((longest / 2..=longest).contains(pause), "{pauses:?}");
    }
    let other = memory.failed("another sandbox", Some(&one("a")), at(0)).unwrap();
    assert!(other.until <= at(10));
}

#[test]
fn what_failed_is_told_until_a_program_was_started_and_another_spec_begins_anew() {
    let memory = Memory::default();
    assert_eq!(memory.failed("u", None, at(0)), None);
    for number in 0..5 {
        memory.failed("u", Some(&one(&format!("p{number}"))), at(number));
    }
    let mut fresh = one("new");
    fresh.status.as_mut().unwrap().phase = Some("Pending".to_owned());
    for next in [None, Some(&fresh)] {
        assert_eq!(memory.failed("u", next, at(9)).unwrap().pod.metadata.uid.as_deref(), Some("p4"));
    }
    let edited = failed_pod("edited", "", |pod| {
        pod["metadata"]["annotations"]["agentsandbox.dev/spec-hash"] = json!("another");
    });
    assert!(memory.failed("u", Some(&edited), at(10)).unwrap().until <= at(20), "the shortest pause");
    assert!(!memory.failed("u", None, at(29)).unwrap().is_past);
    assert!(memory.failed("u", Some(&agent_pod()), at(30)).unwrap().is_past, "its program was started");
    assert!(!memory.failed("u", Some(&one("again")), at(40)).unwrap().is_past);
    memory.forget("u");
    assert_eq!(memory.failed("u", None, at(41)), None);
}

#[test]
fn what_somebody_deleted_and_what_is_started_again_has_not_failed() {
    let memory = Memory::default();
    let changes: [fn(&mut Value); 2] = [
        |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        |pod| pod["spec"]["restartPolicy"] = json!("Always"),
    ];
    for change in changes {
        assert_eq!(memory.failed("u", Some(&failed_pod("p", "", change)), at(0)), None);
    }
    assert!(memory.failed("u", Some(&one("p")), at(0)).is_some(), "the control");
}

#[test]
fn the_earliest_start_that_was_ever_seen_counts() {
    let memory = Memory::default();
    assert_eq!(memory.start("u", None), None);
    for (seen, known) in [(Some(50), 50), (None, 50), (Some(70), 50), (Some(20), 20), (None, 20)] {
        assert_eq!(memory.start("u", seen.map(at)), Some(at(known)), "{seen:?}");
    }
    assert_eq!(memory.start("another", None), None);
    memory.forget("u");
    assert_eq!(memory.start("u", None), None);
}

#[test]
fn a_program_that_is_evicted_again_and_again_waits_longer_each_time() {
    let evicted = |uid: &str| {
        failed_pod(uid, "", |pod| {
            pod["status"]["reason"] = json!("Evicted");
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(0);
            pod["status"]["containerStatuses"][0]["state"] =
                json!({"terminated": {"exitCode": 137, "startedAt": "2026-01-01T00:00:00Z"}});
        })
    };
    let memory = Memory::default();
    for (number, longest) in [(0, 10), (1, 20), (2, 40)] {
        let now = at(1000 * number);
        let mut running = agent_pod();
        running.metadata.uid = Some(format!("p{number}"));
        memory.failed("u", Some(&running), now);
        let lost = memory.failed("u", Some(&evicted(&format!("p{number}"))), now).unwrap();
        let pause = lost.until.duration_since(now).as_secs();
        assert!((longest / 2..=longest).contains(&pause) && lost.is_past, "{pause}");
    }
}

#[test]
fn a_clock_that_is_ahead_puts_the_start_in_a_pod_off_no_further_than_to_when_it_was_first_seen() {
    let running = |uid: &str, since: &str| -> Pod {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["metadata"]["uid"] = json!(uid);
        pod["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": since}});
        serde_json::from_value(pod).unwrap()
    };
    let (memory, ahead) = (Memory::default(), running("a", "2026-01-01T02:00:00Z"));
    assert_eq!(memory.began("u", None, at(0)), None);
    for seconds in [60, 120, 3600] {
        assert_eq!(memory.began("u", Some(&ahead), at(seconds)), Some(at(60)), "{seconds}");
    }
    let next = running("b", "2026-01-01T01:30:00Z");
    assert_eq!(memory.began("u", Some(&next), at(6000)), Some(at(5400)), "another has its own");
    memory.forget("u");
    assert_eq!(memory.began("u", Some(&ahead), at(6000)), Some(at(6000)));
}

#[test]
fn where_a_proxy_was_let_out_counts_as_it_was_first_seen_until_its_sandbox_is_forgotten() {
    let wall = |port: u16| -> NetworkPolicy {
        from(json!({"metadata": {}, "spec": {"podSelector": {}, "egress": [{"ports": [{"port": port}]}]}}))
    };
    let egress = |port: u16| wall(port).spec.unwrap().egress.unwrap();
    let memory = Memory::default();
    assert_eq!(memory.way_out("u", Some(&wall(443))), egress(443));
    assert_eq!(memory.way_out("u", Some(&wall(22))), egress(443), "what somebody does to it after that");
    assert_eq!(memory.way_out("another", None), Vec::new());
    assert_eq!(memory.way_out("another", Some(&wall(22))), Vec::new(), "none stood");
    memory.forget("u");
    assert_eq!(memory.way_out("u", Some(&wall(22))), egress(22));
}
