//! How long a sandbox may live.

use super::*;

#[test]
fn a_life_that_is_no_time_or_out_of_bounds_is_rejected() {
    let lifetime = |text: &str| sandbox(|s| s.spec.lifecycle = Some(from(json!({"maxLifetime": text}))));
    for text in ["10s", "8760h", "1h30m"] {
        assert!(accept(&identity(), &lifetime(text), &ordinary(), &platform()).is_ok(), "{text}");
    }
    for text in ["9s", "8761h", "soon", "", "1d"] {
        let found = rejected(&lifetime(text), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.lifecycle.maxLifetime");
    }
}

#[test]
fn a_time_to_keep_what_is_over_that_is_none_is_rejected() {
    let kept = |text: &str| sandbox(|s| s.spec.lifecycle = Some(from(json!({"ttlAfterFinished": text}))));
    assert!(accept(&identity(), &kept("0s"), &ordinary(), &platform()).is_ok());
    for text in ["-1s", "8761h", "a day"] {
        let found = rejected(&kept(text), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.lifecycle.ttlAfterFinished");
    }
}

#[test]
fn a_deadline_that_is_no_time_and_one_of_a_service_are_rejected() {
    let task = |text: &str| {
        sandbox(|s| s.spec.lifecycle = Some(from(json!({"mode": "Task", "activeDeadline": text}))))
    };
    assert!(accept(&identity(), &task("30m"), &ordinary(), &platform()).is_ok());
    for text in ["9s", "8761h", "soon"] {
        let found = rejected(&task(text), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.lifecycle.activeDeadline");
    }
    for mode in [json!(null), json!("Service")] {
        let service = sandbox(|s| {
            s.spec.lifecycle = Some(from(json!({"mode": mode, "activeDeadline": "30m"})));
        });
        let told = accept(&identity(), &service, &ordinary(), &platform()).unwrap_err();
        assert!(told.len() == 1 && told[0].to_string().contains("maxLifetime"), "{told:?}");
        only(rejected(&service, &ordinary()), RejectionReason::InvalidField, "spec.lifecycle.activeDeadline");
    }
}

#[test]
fn an_idle_timeout_that_is_no_time_and_one_that_nobody_could_keep_are_rejected() {
    let idle = |text: &str| sandbox(|s| s.spec.lifecycle = Some(from(json!({"idleTimeout": text}))));
    for text in ["1m", "60s", "8760h"] {
        assert!(accept(&identity(), &idle(text), &ordinary(), &platform()).is_ok(), "{text}");
    }
    for text in ["59s", "8761h", "soon"] {
        let found = rejected(&idle(text), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.lifecycle.idleTimeout");
    }
    let asks_nobody = Platform { asks_from: None, ..platform() };
    let found = accept(&identity(), &idle("30m"), &ordinary(), &asks_nobody).unwrap_err();
    let found = found.iter().map(|one| (one.reason, one.field.clone())).collect();
    only(found, RejectionReason::InvalidField, "spec.lifecycle.idleTimeout");
    let unbounded = sandbox(|_| ());
    assert!(accept(&identity(), &unbounded, &ordinary(), &asks_nobody).is_ok(), "the control");
}
