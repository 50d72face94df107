use serde_json::json;

use super::{NOW, all, kernels, object, sandbox, walls, well};
use crate::doctor::{Verdict, verdict};

#[test]
fn what_one_sandbox_says_against_the_cluster_is_told_whatever_another_has_proven() {
    for (type_, reason, expected) in [
        ("NetworkIsolated", "EgressOpen", Verdict::Failed),
        ("NetworkIsolated", "ProxyOpen", Verdict::Failed),
        ("NetworkIsolated", "EgressWidened", Verdict::Failed),
        ("NetworkIsolated", "IngressWidened", Verdict::Failed),
        ("NetworkIsolated", "WallsMissing", Verdict::Unknown),
        ("NetworkIsolated", "OfALaterVersion", Verdict::Unknown),
        ("NetworkIsolated", "NotAccepted", Verdict::Ok),
        ("RuntimeVerified", "WrongKernel", Verdict::Failed),
        ("RuntimeVerified", "LimitsMissing", Verdict::Failed),
        ("RuntimeVerified", "OfALaterVersion", Verdict::Unknown),
    ] {
        let mut facts = well();
        facts.sandboxes.as_mut().unwrap().push(sandbox(&[(type_, "False", reason, NOW)]));
        let lines = all(&facts);
        assert_eq!(verdict(&lines), expected, "{reason}: {lines:?}");
        let names = lines.iter().any(|line| line.verdict == expected && line.found.contains(reason));
        assert!(names || expected == Verdict::Ok, "{reason}: {lines:?}");
    }
}

#[test]
fn a_kernel_that_was_proven_before_its_runtime_class_was_made_is_not_proven_yet() {
    let made = |at: &str| {
        let mut facts = well();
        facts.runtime_classes.as_mut().unwrap()[0].metadata.creation_timestamp = Some(object(json!(at)));
        kernels(&facts)[0].verdict
    };
    assert_eq!(made("2026-06-01T10:59:59Z"), Verdict::Ok);
    assert_eq!(made("2026-06-01T11:00:01Z"), Verdict::Unknown);
}

#[test]
fn a_proof_says_what_it_does_not_say() {
    let mut facts = well();
    facts.is_partial = true;
    facts.sandboxes = Ok(vec![sandbox(&[("NetworkIsolated", "True", "ProvenWithoutProbe", NOW)])]);
    let line = walls(&facts);
    assert!(line.verdict == Verdict::Ok && line.found.contains("ProvenWithoutProbe"), "{line:?}");
    assert!(line.found.contains("no other namespace was seen"), "{line:?}");
}

#[test]
fn a_proof_is_told_with_its_age_and_an_old_one_is_called_old_and_not_believed() {
    let told = |times: &[&str]| {
        let mut facts = well();
        let sandboxes = times.iter().map(|at| sandbox(&[("NetworkIsolated", "True", "Proven", at)]));
        facts.sandboxes = Ok(sandboxes.collect());
        walls(&facts)
    };
    for (times, expected, words) in [
        (&["2026-06-01T11:59:30Z"][..], Verdict::Ok, "30s ago"),
        (&["2026-06-01T11:00:00Z"], Verdict::Ok, "60m ago"),
        (&["2026-06-01T10:59:59Z"], Verdict::Unknown, "an old proof: the last one was 60m ago"),
        (&["2026-05-31T12:00:00Z"], Verdict::Unknown, "an old proof: the last one was 24h ago"),
        // The newest of several counts, and none of times to come.
        (&["2026-05-31T12:00:00Z", "2026-06-01T11:50:00Z", "2026-06-01T18:00:00Z"], Verdict::Ok, "10m ago"),
        (&["2026-05-31T12:00:00Z", "2026-06-01T18:00:00Z"], Verdict::Unknown, "an old proof"),
        (&["2026-06-01T12:05:00Z"], Verdict::Ok, "0s ago"),
        (&["2026-06-01T12:05:01Z"], Verdict::Unknown, "one of the clocks is wrong"),
    ] {
        let line = told(times);
        assert!(line.verdict == expected && line.found.contains(words), "{times:?}: {line:?}");
    }
}
