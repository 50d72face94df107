use agentsandbox_crds::names::LABEL_SANDBOX_UID;
use serde_json::{Value, json};

use super::*;
use crate::controller::apply::Sealed;
use crate::controller::desired::agent_pod;
use crate::controller::observe::Ungrown;
use crate::fixtures::{accepted, from, identity, live, observed, platform, ready};

fn now() -> Timestamp {
    "2026-01-01T00:00:20Z".parse().unwrap()
}

/// A claim that was deleted just so, and its agent's pod, whose program was started or not.
fn scene(started: bool) -> (PersistentVolumeClaim, Pod) {
    let lasting = accepted(|s| {
        s.spec.workspace = Some(from(json!({"access": "Persistent", "persistent": {"size": "1Gi"}})));
    });
    let own = claim::claim(&lasting).unwrap();
    let mut own: Value = live(Child::PersistentVolumeClaim(Box::new(own))).value();
    own["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:10Z");
    let own: PersistentVolumeClaim = from(own);
    let pod = agent_pod::pod(&lasting, &platform(), &Sealed::for_tests().on(own.clone()));
    let mut pod = ready(pod, agent_pod::AGENT, "10.244.0.9");
    if !started {
        pod.status = Some(from(json!({"phase": "Pending"})));
    }
    (own, pod)
}

fn standing(claim: &PersistentVolumeClaim, pod: Option<&Pod>) -> Observed {
    let claim = Child::PersistentVolumeClaim(Box::new(claim.clone()));
    let pod = pod.map(|pod| Child::Pod(Box::new(pod.clone())));
    observed(std::iter::once(claim).chain(pod).collect(), Vec::new())
}

#[test]
fn a_claim_that_was_deleted_stands_as_long_as_its_agents_pod_and_is_awaited_then() {
    let (own, pod) = scene(true);
    let of = |observed: &Observed| {
        step(Child::PersistentVolumeClaim(Box::new(own.clone())), observed, &identity(), now())
    };
    let left = of(&standing(&own, Some(&pod)));
    assert_eq!(left, Step::Leave(Child::PersistentVolumeClaim(Box::new(own.clone()))));
    assert!(matches!(of(&standing(&own, None)), Step::Await(_)), "nothing looks after nobody");
    let mut strangers = pod;
    strangers.metadata.owner_references = None;
    assert!(matches!(of(&standing(&own, Some(&strangers))), Step::Await(_)));
}

#[test]
fn a_pod_that_was_not_started_is_ended_for_a_claim_that_ends_and_one_that_works_is_left() {
    for (started, ends) in [(true, false), (false, true)] {
        let (own, pod) = scene(started);
        let planned = agent(pod.clone(), Some(&own), &standing(&own, Some(&pod)), &identity(), now());
        assert_eq!(planned == Step::Delete(Doomed::pod(&pod)), ends, "{planned:?}");
        assert_eq!(matches!(planned, Step::Leave(_)), !ends, "{planned:?}");
    }
    let (mut stays, pod) = scene(false);
    stays.metadata.deletion_timestamp = None;
    let planned = agent(pod.clone(), Some(&stays), &standing(&stays, Some(&pod)), &identity(), now());
    assert!(matches!(planned, Step::Leave(_)), "the control: {planned:?}");
}

#[test]
fn a_size_that_was_refused_is_not_asked_for_and_another_is() {
    let sized = |size: &str| {
        let lasting = accepted(|s| {
            s.spec.workspace = Some(from(json!({"access": "Persistent", "persistent": {"size": size}})));
        });
        Child::PersistentVolumeClaim(Box::new(claim::claim(&lasting).unwrap()))
    };
    let planned = |size: &str, refused: Option<(&str, i64)>, change: fn(&mut Value)| {
        let mut own = live(sized("1Gi")).value();
        change(&mut own);
        let mut observed = observed(vec![Child::PersistentVolumeClaim(Box::new(from(own)))], Vec::new());
        observed.ungrown = refused.map(|(claim, bytes)| Ungrown { claim: claim.to_owned(), bytes });
        step(sized(size), &observed, &identity(), now())
    };
    let own = "uid-of-fix-login-workspace";
    let repaired = |step: Step| match step {
        Step::Repair(Child::PersistentVolumeClaim(claim)) => Some(claim.spec.is_some()),
        Step::Leave(_) => None,
        other => panic!("{other:?}"),
    };
    let same: fn(&mut Value) = |_| ();
    assert_eq!(repaired(planned("2Gi", None, same)), Some(true), "it is to grow");
    assert_eq!(repaired(planned("2Gi", Some((own, 2 << 30)), same)), None, "that was refused just so");
    assert_eq!(repaired(planned("3Gi", Some((own, 2 << 30)), same)), Some(true), "another size");
    assert_eq!(repaired(planned("2Gi", Some(("another", 2 << 30)), same)), Some(true), "of another claim");
    let misnamed: fn(&mut Value) = |own| own["metadata"]["labels"]["agentsandbox.dev/sandbox"] = json!("x");
    assert_eq!(repaired(planned("1Gi", None, misnamed)), Some(false), "a patch names what is to change");
    assert_eq!(repaired(planned("2Gi", Some((own, 2 << 30)), misnamed)), Some(false));
}

#[test]
fn the_claim_of_an_earlier_sandbox_that_goes_is_awaited_and_no_other() {
    type Change = fn(&mut PersistentVolumeClaim);
    let (own, pod) = scene(true);
    let planned = |pod: Option<&Pod>, change: Change| {
        let mut live = own.clone();
        live.metadata
            .labels
            .as_mut()
            .unwrap()
            .insert(LABEL_SANDBOX_UID.to_owned(), "an-earlier-one".to_owned());
        change(&mut live);
        let wanted = Child::PersistentVolumeClaim(Box::new(own.clone()));
        step(wanted, &standing(&live, pod), &identity(), now())
    };
    assert!(matches!(planned(None, |_| ()), Step::Await(_)));
    let strangers: [(Option<&Pod>, Change); 5] = [
        (Some(&pod), |_| ()),
        (None, |live| live.metadata.deletion_timestamp = None),
        (None, |live| live.metadata.labels = None),
        (None, |live| {
            drop(live.metadata.labels.as_mut().unwrap().insert(LABEL_MANAGED_BY.to_owned(), "x".to_owned()))
        }),
        (None, |live| {
            drop(live.metadata.labels.as_mut().unwrap().insert(LABEL_SANDBOX.to_owned(), "x".to_owned()))
        }),
    ];
    for (pod, change) in strangers {
        assert!(matches!(planned(pod, change), Step::Foreign(..)));
    }
}
