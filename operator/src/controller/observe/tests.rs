use serde_json::{Value, json};

use super::*;
use crate::fixtures::api::Api;
use crate::fixtures::{self, agent_pod, boundary, foreign_policy, identity, live, sandbox};

/// What is known of an object that we just wrote and no watch shows, to the sandbox of this identity.
fn unseen(kind: ChildKind, identity: &Identity) -> Sighted {
    let own = boundary().into_iter().find(|child| child.kind() == kind).unwrap();
    let (recent, name) = (Recent::keeping(fixtures::PATIENCE), own.name().to_owned());
    recent.wrote(&identity.namespace, own);
    recent.overlay(kind, identity, &name, None)
}

#[test]
fn what_we_wrote_stands_until_a_watch_shows_it_but_for_a_wall() {
    for kind in [ChildKind::ServiceAccount, ChildKind::ConfigMap, ChildKind::Service] {
        assert!(matches!(unseen(kind, &identity()), Sighted::Written(_)), "{}", kind.as_str());
    }
    assert_eq!(unseen(ChildKind::NetworkPolicy, &identity()), Sighted::Watched(None));
}

#[test]
fn what_was_written_for_an_earlier_sandbox_of_the_name_is_dropped() {
    let later = Identity { uid: "of-a-later-one".to_owned(), ..identity() };
    assert_eq!(unseen(ChildKind::ConfigMap, &later), Sighted::Watched(None));
}

#[test]
fn a_repaired_wall_is_as_written_while_the_watch_shows_an_older_one() {
    let wall = boundary().into_iter().find(|child| child.kind() == ChildKind::NetworkPolicy).unwrap();
    let (recent, older) = (Recent::keeping(fixtures::PATIENCE), wall.clone());
    let mut value = wall.value();
    value["metadata"]["resourceVersion"] = "51".into();
    recent.wrote("team", Child::NetworkPolicy(fixtures::from(value)));
    let seen = |watched: Child| {
        recent.overlay(ChildKind::NetworkPolicy, &identity(), "fix-login-agent", Some(watched))
    };
    assert!(matches!(seen(older), Sighted::Written(_)));
    let mut newer = live(wall).value();
    newer["metadata"]["resourceVersion"] = "52".into();
    let newer = Child::NetworkPolicy(fixtures::from(newer));
    assert_eq!(seen(newer.clone()), Sighted::Watched(Some(newer)));
}

#[test]
fn an_own_write_that_no_watch_brings_is_believed_for_three_seconds() {
    assert_eq!(Recent::default().max_age, Duration::from_secs(3));
}

#[tokio::test]
async fn a_policy_is_observed_if_it_can_select_a_pod_by_the_labels_that_it_is_given_or_that_it_has() {
    let api = Api::start(Vec::new(), Box::new(|_| None)).await;
    let policy =
        |name: &str, selector: Value| foreign_policy(name, json!({"podSelector": selector, "egress": [{}]}));
    let of = |uid: &str| json!({"matchLabels": {LABEL_SANDBOX_UID: uid}});
    let mut elsewhere = policy("elsewhere", json!({}));
    elsewhere.metadata.namespace = Some("other".to_owned());
    let policies = [
        policy("any", json!({})),
        policy("given", of(&identity().uid)),
        policy("present", of("strange")),
        policy("theirs", of("other")),
        elsewhere,
    ];
    let mut pod = agent_pod();
    pod.labels_mut().insert(LABEL_SANDBOX_UID.to_owned(), "strange".to_owned());
    for (pods, wanted) in
        [(vec![Child::Pod(Box::new(pod))], vec!["any", "given", "present"]), (vec![], vec!["any", "given"])]
    {
        let ctx = fixtures::ctx(api.client.clone(), &sandbox(|_| ()), &pods, &policies);
        let observed = observed(&ctx.stores, &ctx.recent, &identity());
        assert_eq!(observed.policies.iter().map(|policy| policy.name_any()).collect::<Vec<_>>(), wanted);
    }
}
