//! Whether a sandbox lies idle, by what its proxy says.

use agentsandbox_policy::Idle;

use super::super::idle::{Agent, Heard, hears, is_news, judged};
use super::*;

const HALF_AN_HOUR: &str = "30m";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A sandbox whose agent runs since the beginning of 2026, with this idleTimeout.
fn used(timeout: &str) -> AgentSandbox {
    living(&json!({"idleTimeout": timeout}))
}

/// What was heard just now: that nothing has passed for so many seconds.
fn silent(now: Timestamp, seconds: i64) -> Heard {
    Heard { active: now - secs(seconds), at: now }
}

/// The agent's pod, and when it began by what it shows now.
fn agent(pod: Option<&Pod>, now: Timestamp) -> Agent<'_> {
    pod.map(|pod| (pod, started_in(pod, now)))
}

fn of(sandbox: &AgentSandbox, pod: Option<&Pod>, heard: Option<Heard>, now: Timestamp) -> Life {
    judged(life(sandbox, pod, now), sandbox, agent(pod, now), heard, now)
}

fn over(sandbox: &AgentSandbox, pod: Option<&Pod>, heard: Heard, now: Timestamp) -> Option<String> {
    of(sandbox, pod, Some(heard), now).over.map(|over| over.reason)
}

#[test]
fn a_sandbox_is_over_once_its_proxy_says_that_nothing_has_passed_for_all_of_the_time() {
    let (sandbox, pod, now) = (used(HALF_AN_HOUR), agent_pod(), at("2026-01-01T10:00:00Z"));
    let after = |seconds| over(&sandbox, Some(&pod), silent(now, seconds), now);
    assert_eq!(after(1799), None);
    assert_eq!(after(1800).as_deref(), Some("IdleTimeoutExceeded"));
    let ended = of(&sandbox, Some(&pod), Some(silent(now, 1800)), now).over.unwrap();
    assert_eq!((ended.exit_code, cut(&ended)), (None, Some(Cut::Idle)));
    assert_eq!(ended.finished_at, Some(Time(now)));
    let unbounded = living(&json!({}));
    assert_eq!(over(&unbounded, Some(&pod), silent(now, 36_000), now), None, "the control has no bound");
    let mut told = sandbox.clone();
    told.status.get_or_insert_default().program = Some(from(json!({"reason": "Completed", "exitCode": 0})));
    assert_eq!(over(&told, Some(&pod), silent(now, 1800), now).as_deref(), Some("Completed"));
}

#[test]
fn nothing_is_idle_that_does_not_run_or_is_not_to_or_whose_proxy_nobody_asks() {
    let (sandbox, now) = (used(HALF_AN_HOUR), at("2026-01-01T10:00:00Z"));
    let silent = silent(now, 36_000);
    assert!(over(&sandbox, Some(&agent_pod()), silent, now).is_some(), "the control");
    assert_eq!(over(&sandbox, None, silent, now), None, "there is no agent");
    let waiting = {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "PodInitializing"}});
        from::<Pod>(pod)
    };
    assert_eq!(over(&sandbox, Some(&waiting), silent, now), None, "it has not started");
    let evicted = super::over("Failed", 137, |pod| pod["status"]["reason"] = json!("Evicted"));
    assert_eq!(over(&sandbox, Some(&evicted), silent, now), None, "it runs no more");
    let mut suspended = sandbox.clone();
    suspended.spec.lifecycle.as_mut().unwrap().state = Some(PowerState::Suspended);
    assert_eq!(over(&suspended, Some(&agent_pod()), silent, now), None);
    assert_eq!(of(&sandbox, Some(&agent_pod()), None, now).over, None, "no proxy is asked");
}

#[test]
fn each_agent_has_all_of_the_time_and_one_that_starts_again_and_again_in_its_pod_has_not() {
    let (sandbox, now) = (used(HALF_AN_HOUR), at("2026-01-01T10:00:00Z"));
    let started = |at: &str, restarts: i32| {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["status"]["startTime"] = json!("2026-01-01T09:00:00Z");
        pod["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": at}});
        pod["status"]["containerStatuses"][0]["restartCount"] = json!(restarts);
        from::<Pod>(pod)
    };
    let after = |pod: &Pod| over(&sandbox, Some(pod), silent(now, 36_000), now);
    assert_eq!(after(&started("2026-01-01T09:30:01Z", 0)), None, "it was resumed, or made anew");
    assert!(after(&started("2026-01-01T09:30:00Z", 0)).is_some());
    assert!(after(&started("2026-01-01T09:59:00Z", 7)).is_some());
}

#[test]
fn what_is_not_known_is_not_idle_however_long_nobody_hears_the_proxy() {
    let (pod, now) = (agent_pod(), at("2026-01-01T10:00:00Z"));
    let much_later = at("2026-03-01T10:00:00Z");
    for timeout in ["5m", HALF_AN_HOUR, "2h"] {
        let sandbox = used(timeout);
        assert_eq!(of(&sandbox, Some(&pod), None, much_later).over, None, "{timeout}: it was never heard");
        let almost = silent(now, time::parse(timeout).unwrap().as_secs() - 1);
        assert_eq!(over(&sandbox, Some(&pod), almost, much_later), None, "{timeout}: not since");
        assert!(!is_news(&sandbox, agent(Some(&pod), now), None), "{timeout}");
        let idle = Heard { at: almost.at + secs(1), ..almost };
        assert!(over(&sandbox, Some(&pod), idle, much_later).is_some(), "{timeout}: the control");
    }
}

fn report(seconds: u64, has_passed: bool) -> Idle {
    Idle { seconds, has_passed }
}

#[test]
fn a_proxy_says_when_something_last_passed_and_reports_of_one_moment_are_one() {
    let (sandbox, now) = (used(HALF_AN_HOUR), at("2026-01-01T10:00:00Z"));
    let first = hears(None, &sandbox, report(600, true), now);
    assert_eq!(first, Heard { active: at("2026-01-01T09:50:00Z"), at: now });
    let again = hears(Some(first), &sandbox, report(617, true), now + secs(15));
    assert_eq!((again.active, again.at), (first.active, now + secs(15)));
    let busy = hears(Some(again), &sandbox, report(0, true), now + secs(30));
    assert_eq!(busy.active, now + secs(30));
    let absurd = hears(None, &sandbox, report(u64::MAX, true), now);
    assert!(absurd.active < now);
}

#[test]
fn the_count_survives_a_proxy_that_is_replaced_and_an_operator_that_is_started_anew() {
    let (sandbox, now) = (used(HALF_AN_HOUR), at("2026-01-01T10:00:00Z"));
    let before = Heard { active: at("2026-01-01T09:35:00Z"), at: at("2026-01-01T09:59:00Z") };
    let next = hears(Some(before), &sandbox, report(10, false), now);
    let counted = at("2026-01-01T09:35:50Z");
    assert_eq!(next.active, counted, "of the 50 seconds that nobody saw, none counts");
    let same = hears(Some(next), &sandbox, report(310, false), now + secs(300));
    assert_eq!(same.active, counted, "the new one goes on having seen nothing");
    let used_again = hears(Some(next), &sandbox, report(5, true), now + secs(60));
    assert_eq!(used_again.active, now + secs(55));
    let unheard = Heard { at: at("2026-01-01T09:50:00Z"), ..before };
    let long = hears(Some(unheard), &sandbox, report(10, false), now);
    assert_eq!(long.active, at("2026-01-01T09:44:50Z"), "nor of the ten minutes");
    let anew = hears(None, &sandbox, report(610, false), now);
    assert_eq!(anew.active, at("2026-01-01T09:49:50Z"), "since it began");
    let with = |told: &str| {
        let mut sandbox = sandbox.clone();
        sandbox.status.get_or_insert_default().last_activity_time = Some(Time(at(told)));
        hears(None, &sandbox, report(10, false), now).active
    };
    assert_eq!(with("2026-01-01T09:46:00Z"), at("2026-01-01T09:46:00Z"));
    assert_eq!(with("2026-01-01T08:00:00Z"), at("2026-01-01T09:44:50Z"), "half of the time is left");
    assert_eq!(with("2036-01-01T00:00:00Z"), at("2026-01-01T09:59:50Z"), "nobody of us wrote that");
}

#[test]
fn idleness_is_told_once_when_half_of_the_time_is_over_and_again_when_it_ends() {
    let (mut sandbox, pod, now) = (used(HALF_AN_HOUR), agent_pod(), at("2026-01-01T10:00:00Z"));
    let told = |sandbox: &AgentSandbox, seconds: i64, later: i64| {
        let now = now + secs(later);
        let heard = Some(silent(now, seconds + later));
        let is_news = is_news(sandbox, agent(Some(&pod), now), heard);
        (of(sandbox, Some(&pod), heard, now).idle_since, is_news)
    };
    assert_eq!(told(&sandbox, 899, 0), (None, false), "a sandbox in use is not told of");
    let since = now - secs(900);
    assert_eq!(told(&sandbox, 900, 0), (Some(since), true));
    sandbox.status.get_or_insert_default().last_activity_time = Some(Time(since));
    assert_eq!(told(&sandbox, 900, 600), (Some(since), false), "nor is it told of a second time");
    assert_eq!(told(&sandbox, 902, 600), (Some(since), false), "nor for a second more or less");
    assert_eq!(told(&sandbox, 0, 0), (None, true), "it is used again");
    assert!(told(&sandbox, 900, 900).1, "it is over");
    assert!(!is_news(&sandbox, agent(Some(&pod), now), None), "an operator that has just started");
    assert_eq!(of(&sandbox, Some(&pod), None, now).idle_since, Some(since));
    assert!(is_news(&sandbox, None, Some(silent(now, 900))), "its agent is gone");
    sandbox.metadata.deletion_timestamp = Some(Time(now));
    assert!(!told(&sandbox, 0, 0).1);
}
