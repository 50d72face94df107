//! How long one run of a Task's program may take.

use super::*;

/// The pod of a Task whose program has run since this time; `change` is laid over it.
fn runs(since: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = serde_json::to_value(agent_pod()).unwrap();
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": since}});
    change(&mut pod);
    from(pod)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_run_ends_so_long_after_its_start_and_another_has_all_of_its_time_again() {
    let mut task = living(&json!({"mode": "Task", "activeDeadline": "30m"}));
    let first = runs("2026-01-01T00:00:00Z", |_| ());
    assert_eq!(life(&task, Some(&first), now()).ends, Some(at("2026-01-01T00:30:00Z")));
    assert_eq!(life(&task, Some(&first), at("2026-01-01T00:29:59Z")).over, None);
    let over = life(&task, Some(&first), at("2026-01-01T00:30:00Z")).over.unwrap();
    assert_eq!((over.reason.as_str(), over.exit_code), ("DeadlineExceeded", None));
    assert_eq!(over.started_at, Some(Time(at("2026-01-01T00:00:00Z"))));
    assert_eq!(cut(&over), Some(Cut::Deadline));
    task.status.get_or_insert_default().started_at = Some(Time(at("2026-01-01T00:00:00Z")));
    let again = runs("2026-01-01T00:20:00Z", |_| ());
    let late = at("2026-01-01T00:40:00Z");
    assert_eq!(life(&task, Some(&again), late).over, None, "it began anew");
    assert_eq!(life(&task, Some(&again), late).ends, Some(at("2026-01-01T00:50:00Z")));
    assert_eq!(life(&task, None, late), life(&task, None, at("2026-02-01T00:00:00Z")), "nothing runs");
}

#[test]
fn a_run_that_is_to_be_stopped_for_now_has_no_deadline() {
    let late = at("2026-02-01T00:00:00Z");
    let task = |state: &str| living(&json!({"mode": "Task", "activeDeadline": "30m", "state": state}));
    let pod = runs("2026-01-01T00:00:00Z", |_| ());
    assert_eq!(life(&task("Suspended"), Some(&pod), late).over, None);
    assert!(life(&task("Running"), Some(&pod), late).over.is_some(), "the control");
}

#[test]
fn only_a_program_that_runs_as_a_task_has_a_deadline() {
    let late = at("2026-02-01T00:00:00Z");
    let over = |lifecycle: &Value, pod: &Pod| life(&living(lifecycle), Some(pod), late).over;
    let task = json!({"mode": "Task", "activeDeadline": "30m"});
    let since = "2026-01-01T00:00:00Z";
    assert!(over(&task, &runs(since, |_| ())).is_some(), "the control");
    assert_eq!(over(&json!({"mode": "Task"}), &runs(since, |_| ())), None);
    assert_eq!(over(&json!({"activeDeadline": "30m"}), &runs(since, |_| ())), None, "a Service has none");
    let of_service = runs(since, |pod| pod["spec"]["restartPolicy"] = json!("Always"));
    assert_eq!(over(&task, &of_service), None, "the pod of what was a Service a moment ago");
    let evicted = runs(since, |pod| {
        pod["status"]["phase"] = json!("Failed");
        pod["status"]["reason"] = json!("Evicted");
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 137, "startedAt": since}});
    });
    assert_eq!(over(&task, &evicted), None, "it runs no more, and another follows it");
}

#[test]
fn of_two_bounds_the_earlier_ends_a_task_and_its_own_end_comes_before_both() {
    let bounded =
        |lifetime: &str| living(&json!({"mode": "Task", "activeDeadline": "30m", "maxLifetime": lifetime}));
    let (pod, late) = (runs("2026-01-01T00:00:00Z", |_| ()), at("2026-02-01T00:00:00Z"));
    for (lifetime, reason, ends) in [
        ("20m", "LifetimeExceeded", "2026-01-01T00:20:00Z"),
        ("40m", "DeadlineExceeded", "2026-01-01T00:30:00Z"),
    ] {
        let life = life(&bounded(lifetime), Some(&pod), late);
        assert_eq!((life.over.unwrap().reason.as_str(), life.ends), (reason, Some(at(ends))));
    }
    let ended = life(&bounded("20m"), Some(&over("Failed", 3, |_| ())), late).over.unwrap();
    assert_eq!(ended.exit_code, Some(3));
}
