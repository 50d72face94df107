//! What a pod shows, against whether its program has ended by itself.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::controller::status::Reason;
use crate::fixtures::{agent_pod, from, report, sandbox};

/// The agent's pod, over, with what `change` makes of it.
fn over(phase: &str, exit_code: i32, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = serde_json::to_value(agent_pod()).unwrap();
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["status"]["phase"] = json!(phase);
    pod["status"]["conditions"] = json!([]);
    pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
        "exitCode": exit_code, "reason": if exit_code == 0 { "Completed" } else { "Error" },
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z",
    }});
    change(&mut pod);
    from(pod)
}

fn said(words: &str) -> Option<String> {
    let state = "/status/containerStatuses/0/state/terminated";
    let pod = over("Failed", 3, |pod| pod.pointer_mut(state).unwrap()["message"] = json!(words));
    ended(&pod).unwrap().last_words
}

#[test]
fn a_program_that_exits_has_ended_with_its_code() {
    let well = ended(&over("Succeeded", 0, |_| ())).unwrap();
    assert_eq!((well.exit_code, well.reason.as_str(), &well.last_words), (Some(0), "Completed", &None));
    assert_eq!(well.finished_at.unwrap().0.to_string(), "2026-01-01T00:01:00Z");
    let badly = ended(&over("Failed", 3, |_| ())).unwrap();
    assert_eq!((badly.exit_code, badly.reason.as_str()), (Some(3), "Error"));
    let killed = over("Failed", 137, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = json!("OOMKilled");
    });
    assert_eq!(ended(&killed).unwrap().reason, "OOMKilled");
}

#[test]
fn an_end_that_came_long_before_its_pod_was_asked_to_go_counts_and_one_that_may_have_come_of_that_does_not() {
    // It ended at 00:01:00.
    let gone = |by: &str, grace: Value, change: fn(&mut Value)| {
        let pod = over("Failed", 137, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(by);
            pod["metadata"]["deletionGracePeriodSeconds"] = grace;
            change(pod);
        });
        assert_eq!(ended(&pod).is_some(), is_done(&pod), "{pod:?}");
        ended(&pod).is_some()
    };
    let as_it_is = |_: &mut Value| ();
    assert!(gone("2026-01-01T00:05:00Z", json!(0), as_it_is));
    assert!(gone("2026-01-01T00:02:15Z", json!(10), as_it_is), "it was asked for 65 s after the end");
    assert!(!gone("2026-01-01T00:02:05Z", json!(10), as_it_is), "it was asked for 55 s after the end");
    assert!(!gone("2026-01-01T00:01:50Z", json!(0), as_it_is));
    assert!(!gone("2026-01-01T00:05:00Z", Value::Null, as_it_is), "nobody knows when it was asked for");
    let disrupted =
        |at: &str| json!([{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": at}]);
    let drained = |pod: &mut Value| {
        pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z"}]);
    };
    assert!(gone("2026-01-01T00:05:00Z", json!(0), drained), "it was drained when it was over");
    let evicted = |pod: &mut Value| {
        pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:00:59Z"}]);
    };
    assert!(!gone("2026-01-01T00:05:00Z", json!(0), evicted));
    let by_its_kubelet = |pod: &mut Value| pod["status"]["reason"] = json!("Evicted");
    assert!(!gone("2026-01-01T00:05:00Z", json!(0), by_its_kubelet));
    let stands = over("Failed", 3, |pod| {
        pod["status"]["conditions"] = disrupted("2026-01-01T00:05:00Z");
    });
    assert_eq!(ended(&stands), None, "a disruption that ends nothing yet is waited for");
}

#[test]
fn what_somebody_else_ended_has_not_ended_by_itself() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 19] = [
        ("its pod runs yet", |pod| pod["status"]["phase"] = json!("Running")),
        ("evicted", |pod| pod["status"]["reason"] = json!("Evicted")),
        ("its node is lost", |pod| pod["status"]["reason"] = json!("NodeLost")),
        ("its node shuts down", |pod| pod["status"]["reason"] = json!("Terminated")),
        ("preempted by the kubelet", |pod| pod["status"]["reason"] = json!("Preempting")),
        ("disrupted", |pod| {
            pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
        }),
        ("deleted at that moment", |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:10Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(10);
        }),
        ("deleted before", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:50Z")),
        ("deleted, and its node's clock is behind", |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:15Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(10);
        }),
        ("the pod of a Service", |pod| pod["spec"]["restartPolicy"] = json!("Always")),
        ("its fence found something else", |pod| {
            let report = report(|report| report["verdict"] = json!("EgressOpen"));
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"] = json!(report);
        }),
        ("its fence failed", |pod| {
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(1);
        }),
        ("there was no fence", |pod| pod["status"]["initContainerStatuses"] = json!([])),
        ("its container is not there", |pod| pod["status"]["containerStatuses"] = json!([])),
        ("its container runs", |pod| {
            pod["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
        }),
        ("it never started", |pod| {
            pod["status"]["containerStatuses"][0]["state"] =
                json!({"waiting": {"reason": "PodInitializing"}});
        }),
        ("nobody saw it end", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] =
                json!("ContainerStatusUnknown");
        }),
        ("its node was started anew", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = json!("Unknown");
        }),
        ("only a container beside it ended", |pod| {
            pod["status"]["containerStatuses"][0]["name"] = json!("other");
        }),
    ];
    for (what, change) in changes {
        assert_eq!(ended(&over("Failed", 137, change)), None, "{what}");
        assert_eq!(ended(&over("Succeeded", 0, change)), None, "{what}");
    }
    let spared = over("Failed", 3, |pod| {
        pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "False"}]);
    });
    assert!(ended(&spared).is_some());
}

#[test]
fn a_report_of_another_version_and_one_that_is_lost_take_no_end_from_a_program() {
    let newer = report(|report| report["version"] = json!(agentsandbox_report::VERSION + 1));
    for message in [json!(newer), json!(null), json!("Unable to get init container status")] {
        let pod = over("Failed", 3, |pod| {
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"] = message;
        });
        assert_eq!(ended(&pod).unwrap().exit_code, Some(3));
        assert!(is_done(&pod) && !is_lost(&pod));
    }
    let forged = over("Failed", 3, |pod| pod["spec"]["restartPolicy"] = json!("Always"));
    assert!(!is_done(&forged));
}

#[test]
fn a_fence_that_failed_and_a_step_behind_it_that_did_are_no_end_of_the_program() {
    let fenced = |exit_code: i32, agent: Value| {
        over("Failed", 0, |pod| {
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(exit_code);
            pod["status"]["containerStatuses"][0]["state"] = agent;
        })
    };
    let waiting = || json!({"waiting": {"reason": "PodInitializing"}});
    let failed = fenced(1, waiting());
    assert!(never_began(&failed));
    assert_eq!(ended(&failed), None);
    assert!(!never_began(&fenced(0, waiting())));
    assert!(!never_began(&fenced(1, json!({"terminated": {"exitCode": 1}}))));
    let unpacked = |exit_code: i32| {
        over("Failed", 0, |pod| {
            let mut step = pod["status"]["initContainerStatuses"][0].clone();
            step["name"] = json!("workspace");
            step["state"]["terminated"] = json!({"exitCode": exit_code});
            pod["status"]["initContainerStatuses"].as_array_mut().unwrap().push(step);
            pod["status"]["containerStatuses"][0]["state"] = waiting();
        })
    };
    assert!(never_began(&unpacked(1)) && !never_began(&unpacked(0)));
    assert_eq!(ended(&unpacked(1)), None);
    let mut service = failed;
    service.spec.as_mut().unwrap().restart_policy = Some("Always".to_owned());
    assert!(!never_began(&service), "its kubelet starts it again");
    let mut evicted = fenced(1, waiting());
    evicted.status.as_mut().unwrap().reason = Some("Evicted".to_owned());
    assert!(!never_began(&evicted), "who evicted it is told instead");
    let mut running = fenced(1, waiting());
    running.status.as_mut().unwrap().phase = Some("Pending".to_owned());
    assert!(!never_began(&running));
}

#[test]
fn last_words_are_bounded_and_steer_no_terminal() {
    assert_eq!(said(" \n ").as_deref(), None);
    assert_eq!(said("no test\npasses\n").as_deref(), Some("no test passes"));
    let hostile = "a\u{1b}[2J\u{7}b\u{202e}c\u{200b}d\u{2028}e\u{9b}f\u{0}g\u{feff}h\u{e0041}i";
    let told = said(hostile).unwrap();
    assert_eq!(told, "a [2J b c d e f g h i");
    let long = said(&format!("{}the end", "€".repeat(2000))).unwrap();
    assert_eq!(long.chars().count(), 512);
    assert!(long.ends_with("€the end"), "it is the end that says why");
}

#[test]
fn what_a_runtime_says_of_the_end_is_bounded_too() {
    let reason = "/status/containerStatuses/0/state/terminated";
    let pod =
        over("Failed", 3, |pod| pod.pointer_mut(reason).unwrap()["reason"] = json!("x\u{1b}".repeat(99)));
    let told = ended(&pod).unwrap().reason;
    assert_eq!(told.chars().count(), 64);
    assert!(!told.contains('\u{1b}'));
    let silent = over("Failed", 3, |pod| pod.pointer_mut(reason).unwrap()["reason"] = json!(null));
    assert_eq!(ended(&silent).unwrap().reason, "Error");
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn life(sandbox: &AgentSandbox, agent: Option<&Pod>, now: Timestamp) -> Life {
    let began = agent.and_then(|pod| started_in(pod, now));
    super::life(sandbox, agent, (started(sandbox, agent, now), began), now)
}

fn living(lifecycle: &Value) -> AgentSandbox {
    sandbox(|s| {
        s.spec.lifecycle = Some(from(lifecycle.clone()));
        s.metadata.creation_timestamp = Some(from(json!("2025-12-31T00:00:00Z")));
    })
}

#[test]
fn only_a_task_is_over_when_its_program_ends_and_what_was_told_stays() {
    let pod = over("Failed", 3, |_| ());
    for service in [living(&json!({})), living(&json!({"mode": "Service"})), sandbox(|_| ())] {
        assert_eq!(life(&service, Some(&pod), now()).over, None);
    }
    let mut task = living(&json!({"mode": "Task", "maxLifetime": "10s"}));
    assert_eq!(life(&task, None, now()).over, None);
    let told = life(&task, Some(&pod), now()).over.unwrap();
    assert_eq!(told.exit_code, Some(3), "its own end is told rather than that its time is up");
    task.status.get_or_insert_default().program = Some(told.clone());
    for later in [None, Some(&over("Succeeded", 0, |_| ())), Some(&agent_pod())] {
        assert_eq!(life(&task, later, now()).over, Some(told.clone()));
    }
}

#[test]
fn times_are_read_as_they_are_written_and_nothing_else_is() {
    for (text, seconds) in
        [("10s", 10), ("30m", 1800), ("1h30m", 5400), ("1h5s", 3605), ("0s", 0), ("8760h", 31_536_000)]
    {
        assert_eq!(parse(text).map(|time| time.as_secs()), Some(seconds), "{text}");
    }
    for text in [
        "",
        "h",
        "1",
        "1d",
        "30m1h",
        "1h1h",
        "-1h",
        "+1h",
        "1.5h",
        " 1h",
        "1h ",
        "8761h",
        "9223372036854775807h",
        "١h",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn a_life_ends_so_long_after_its_first_start_whatever_became_of_its_pods() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let mut sandbox = living(&json!({"maxLifetime": "1h30m"}));
    assert_eq!(life(&sandbox, None, now()), Life::default(), "nothing has started");
    let first = life(&sandbox, Some(&agent_pod()), now());
    assert_eq!(first.started, Some(at("2026-01-01T00:00:00Z")));
    assert_eq!(first.ends, Some(at("2026-01-01T01:30:00Z")));
    assert_eq!(first.over, None);
    assert_eq!(first.left(now()), Some(Duration::from_millis(30 * 60 * 1000 + 5)));
    sandbox.status.get_or_insert_default().started_at = first.started.map(Time);
    let mut later = agent_pod();
    later.metadata.creation_timestamp = Some(from(json!("2026-01-01T01:29:00Z")));
    for pod in [None, Some(&later)] {
        assert_eq!(life(&sandbox, pod, at("2026-01-01T01:29:59Z")).over, None);
        let over = life(&sandbox, pod, at("2026-01-01T01:30:00Z")).over.unwrap();
        assert_eq!((over.reason.as_str(), over.exit_code), ("LifetimeExceeded", None));
        assert_eq!(over.finished_at, Some(Time(at("2026-01-01T01:30:00Z"))));
    }
    sandbox.spec.lifecycle = None;
    assert_eq!(
        life(&sandbox, None, at("2036-01-01T00:00:00Z")).over,
        None,
        "the control is one without a bound"
    );
}

#[test]
fn no_clock_of_a_node_and_no_status_that_was_cut_makes_a_life_longer() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let sandbox = living(&json!({"maxLifetime": "1h"}));
    let started = |sandbox: &AgentSandbox, change: fn(&mut Value)| {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        change(&mut pod);
        life(sandbox, Some(&from(pod)), now()).started
    };
    let ahead = started(&sandbox, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] =
            json!("2027-01-01T00:00:00Z");
    });
    assert_eq!(ahead, Some(now()));
    let behind = started(&sandbox, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] =
            json!("2020-01-01T00:00:00Z");
    });
    assert_eq!(behind, Some(at("2026-01-01T00:00:00Z")), "not before its pod was made");
    let again = started(&sandbox, |pod| {
        let status = &mut pod["status"];
        status["startTime"] = json!("2026-01-01T00:00:01Z");
        status["containerStatuses"][0]["restartCount"] = json!(7);
        status["containerStatuses"][0]["state"]["running"]["startedAt"] = json!("2026-01-01T00:59:00Z");
    });
    assert_eq!(again, Some(at("2026-01-01T00:00:01Z")), "a program that is started again lives on");
    let created = Some(at("2025-12-31T00:00:00Z"));
    let mut cut = sandbox.clone();
    let running = json!({"type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    cut.status = Some(from(json!({"conditions": [running]})));
    assert_eq!(started(&cut, |_| ()), created, "it was said to run");
    for reason in Reason::ALL {
        let ready = json!({"type": "Ready", "status": "False", "reason": reason.as_str(), "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let mut cut = sandbox.clone();
        cut.status = Some(from(json!({"conditions": [ready]})));
        // AgentFailing is also told of a container that could not be created.
        let ran =
            ["Running", "Succeeded", "Failed", "LifetimeExceeded", "DeadlineExceeded", "IdleTimeoutExceeded"];
        let known = if ran.contains(&reason.as_str()) { created } else { None };
        assert_eq!(life(&cut, None, now()).started, known, "{}", reason.as_str());
    }
    let mut late = sandbox.clone();
    late.status = Some(from(json!({"startedAt": "2026-01-01T00:30:00Z"})));
    assert_eq!(started(&late, |_| ()), Some(at("2026-01-01T00:00:00Z")), "its pod shows an earlier start");
    late.status = Some(from(json!({"startedAt": "1970-01-01T00:00:00Z"})));
    assert_eq!(started(&late, |_| ()), created, "not before there was a sandbox");
    let mut set_ahead = sandbox;
    set_ahead.status = Some(from(json!({"startedAt": "2030-01-01T00:00:00Z"})));
    assert_eq!(started(&set_ahead, |_| ()), created);
}

#[test]
fn a_program_that_could_not_be_started_has_not_begun_to_live() {
    let sandbox = living(&json!({"maxLifetime": "1h"}));
    let state = |state: Value| {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["status"]["containerStatuses"][0]["restartCount"] = json!(4);
        pod["status"]["startTime"] = json!("2026-01-01T00:00:01Z");
        pod["status"]["containerStatuses"][0]["lastState"] = state;
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        life(&sandbox, Some(&from(pod)), now()).started
    };
    for reason in ["StartError", "ContainerCannotRun"] {
        let last =
            json!({"terminated": {"exitCode": 128, "reason": reason, "startedAt": "1970-01-01T00:00:00Z"}});
        assert_eq!(state(last), None, "{reason}");
    }
    let last = json!({"terminated": {"exitCode": 1, "reason": "Error", "startedAt": "2026-01-01T00:30:00Z"}});
    assert!(state(last).is_some(), "the control has run");
}

#[test]
fn the_times_of_an_end_are_none_that_a_node_could_choose() {
    let task = living(&json!({"mode": "Task"}));
    let pod = over("Failed", 3, |pod| {
        let last = &mut pod["status"]["containerStatuses"][0]["state"]["terminated"];
        last["startedAt"] = json!("1970-01-01T00:00:00Z");
        last["finishedAt"] = json!("2040-01-01T00:00:00Z");
    });
    let told = life(&task, Some(&pod), now()).over.unwrap();
    assert_eq!(told.started_at.unwrap().0.to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(told.finished_at, Some(Time(now())));
}

#[test]
fn a_sandbox_that_was_said_to_be_over_stays_so_though_its_result_was_taken_out_of_the_status() {
    for reason in ["Succeeded", "Failed", "LifetimeExceeded", "DeadlineExceeded", "IdleTimeoutExceeded"] {
        let mut cut = living(&json!({"mode": "Task"}));
        let ready = json!({"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        cut.status = Some(from(json!({"conditions": [ready]})));
        let over = life(&cut, None, now()).over.unwrap();
        assert_eq!((over.exit_code, over.reason.as_str()), (None, reason));
        let shown = life(&cut, Some(&over_with_3()), now()).over.unwrap();
        assert_eq!(shown.exit_code, Some(3), "its pod shows how it ended");
    }
}

fn over_with_3() -> Pod {
    over("Failed", 3, |_| ())
}

#[test]
fn o_t8_no_time_that_somebody_wrote_into_a_status_deletes_a_sandbox_sooner_than_it_was_to_be_kept() {
    let kept = living(&json!({"ttlAfterFinished": "1h"}));
    let expires = |finished: &str| {
        let program: ProgramStatus = from(json!({"reason": "x", "finishedAt": finished}));
        expires(&kept, &program, now()).map(|at| at.to_string())
    };
    assert_eq!(expires("2026-01-01T00:30:00Z").as_deref(), Some("2026-01-01T01:30:00Z"));
    assert_eq!(
        expires("1970-01-01T00:00:00Z").as_deref(),
        Some("2025-12-31T01:00:00Z"),
        "counted from when there was a sandbox"
    );
    assert_eq!(expires("2030-01-01T00:00:00Z"), None, "nobody knows since when it is over");
    assert_eq!(expires("yesterday"), None);
}

#[test]
fn a_result_is_kept_as_long_from_when_it_was_told_however_late_that_was() {
    let program: ProgramStatus = from(json!({"reason": "x", "finishedAt": "2026-01-01T00:10:00Z"}));
    let told = |at: &str, reason: &str| {
        let mut kept = living(&json!({"ttlAfterFinished": "1h"}));
        let accepted = json!({"type": "Accepted", "status": "Unknown", "reason": reason, "message": "", "lastTransitionTime": at});
        kept.status = Some(from(json!({"conditions": [accepted]})));
        expires(&kept, &program, now()).unwrap().to_string()
    };
    assert_eq!(told("2026-01-01T00:50:00Z", "Finished"), "2026-01-01T01:50:00Z");
    assert_eq!(told("2026-01-01T00:05:00Z", "Finished"), "2026-01-01T01:10:00Z", "not sooner");
    assert_eq!(told("2026-01-01T00:50:00Z", "Terminating"), "2026-01-01T01:10:00Z", "it says another thing");
    assert_eq!(told("2030-01-01T00:00:00Z", "Finished"), "2026-01-01T01:10:00Z", "nobody was there");
}

#[test]
fn a_life_that_goes_on_keeps_its_start_and_its_bound() {
    let task = living(&json!({"mode": "Task", "maxLifetime": "1h"}));
    let (began, ends) = ("2026-01-01T00:30:00Z".parse().ok(), "2026-01-01T01:30:00Z".parse().ok());
    assert_eq!(life_going_on(&task, began, now()), Life { started: began, ends, ..Life::default() });
    let late = life_going_on(&task, began, ends.unwrap()).over.unwrap();
    assert_eq!((late.exit_code, late.reason.as_str()), (None, "LifetimeExceeded"));
}

#[test]
fn what_lies_as_far_apart_as_two_clocks_may_is_in_doubt() {
    let minute = SignedDuration::from_secs(60);
    let (then, beyond) = (now() + minute, now() + minute + SignedDuration::from_nanos(1));
    assert!(!time::is_ahead(then, now()) && time::is_ahead(beyond, now()));
    // It ended at 00:01:00.
    let asked_at = |at: &str| {
        is_done(&over("Failed", 3, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(at);
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }))
    };
    assert!(!asked_at("2026-01-01T00:02:00Z") && asked_at("2026-01-01T00:02:01Z"));
}

#[test]
fn an_agent_that_was_never_started_again_has_lived_since_its_container_and_not_since_its_pod() {
    let began = |restarts: i32| {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["metadata"]["creationTimestamp"] = json!("2025-12-31T23:40:00Z");
        pod["status"]["startTime"] = json!("2025-12-31T23:50:00Z");
        pod["status"]["containerStatuses"][0]["restartCount"] = json!(restarts);
        started_in(&from(pod), now()).unwrap().to_string()
    };
    assert_eq!((began(0).as_str(), began(1).as_str()), ("2026-01-01T00:00:00Z", "2025-12-31T23:50:00Z"));
}

mod deadline;
mod idle;
