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

#[tokio::test(start_paused = true)]
async fn an_own_write_stands_until_a_watch_shows_it_and_no_longer_than_a_watch_may_be_late() {
    let own = boundary().into_iter().find(|child| child.kind() == ChildKind::ConfigMap).unwrap();
    let (recent, name) = (Recent::default(), own.name().to_owned());
    let seen = |watched| recent.overlay(ChildKind::ConfigMap, &identity(), &name, watched);
    let is_written = |sighted| matches!(sighted, Sighted::Written(_));
    recent.wrote("team", own.clone());
    tokio::time::advance(RECENT_MAX_AGE.saturating_sub(Duration::from_millis(1))).await;
    assert!(is_written(seen(None)));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(seen(None), Sighted::Watched(None));
    recent.wrote("team", own.clone());
    assert_eq!(seen(Some(own.clone())), Sighted::Watched(Some(own)), "it is shown");
    assert_eq!(seen(None), Sighted::Watched(None), "and deleted");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_changed_on_its_way_is_withheld_twice_as_long_each_time_up_to_a_bound() {
    let (recent, instant) = (Recent::default(), Duration::from_millis(1));
    let withheld = |pod: &str| recent.withheld("s", pod);
    for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(withheld("p"), None, "{seconds}");
        recent.withhold("s", "p", "its image");
        tokio::time::advance(Duration::from_secs(seconds).saturating_sub(instant)).await;
        assert_eq!((withheld("p").as_deref(), withheld("q")), (Some("its image"), None), "{seconds}");
        tokio::time::advance(instant).await;
    }
    recent.withhold("s", "p", "its image");
    recent.release("s", "p");
    assert_eq!(withheld("p"), None);
    recent.withhold("s", "p", "its image");
    tokio::time::advance(WITHHELD_MIN).await;
    assert_eq!(withheld("p"), None, "once one was as it was sent, the next pause is the shortest again");
}

#[tokio::test(start_paused = true)]
async fn of_a_sandbox_that_is_gone_nothing_is_known_but_that_it_is_for_a_minute() {
    let recent = Recent::default();
    for uid in ["gone", "there"] {
        recent.withhold(uid, "p", "its image");
    }
    recent.forget("gone");
    assert!(recent.withheld("gone", "p").is_none() && recent.withheld("there", "p").is_some());
    assert!(recent.is_gone("gone") && !recent.is_gone("there"));
    tokio::time::advance(GONE_MAX_AGE.saturating_sub(Duration::from_millis(1))).await;
    recent.forget("later");
    assert!(recent.is_gone("gone") && recent.is_gone("later"));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!recent.is_gone("gone") && recent.is_gone("later"));
    recent.forget("later");
    assert_eq!(recent.gone.lock().unwrap().len(), 1, "it is not remembered for ever");
}

#[test]
fn a_sandbox_is_as_it_was_patched_until_a_watch_shows_that_or_a_later_version() {
    let at = |version: u64| sandbox(|s| s.metadata.resource_version = Some(version.to_string()));
    for (watched, known) in [(8, 9), (9, 9), (10, 10)] {
        let recent = Recent::default();
        recent.patched(recent.patches(&at(8)), at(9));
        let newest = |version: u64| newest(Arc::new(at(version)), &recent).resource_version();
        assert_eq!(newest(watched), Some(known.to_string()));
        let later = if watched < 9 { 9 } else { 8 };
        assert_eq!(newest(8), Some(later.to_string()), "{watched} was shown");
    }
}

#[test]
fn what_a_watch_shows_just_as_we_wrote_it_is_no_news_and_is_not_kept() {
    let at = |version: &str| sandbox(|s| s.metadata.resource_version = Some(version.to_owned()));
    let recent = Recent::default();
    recent.patched(recent.patches(&at("8")), at("9"));
    assert!(!recent.is_news(&at("9")));
    assert!(recent.sandboxes.lock().unwrap().is_empty());
    assert!(recent.is_news(&at("9")), "an echo comes once");
    let own = boundary().into_iter().find(|child| child.kind() == ChildKind::ConfigMap).unwrap();
    let shown = ConfigMap { metadata: own.metadata().clone(), ..ConfigMap::default() };
    let woken = || {
        let both = ["fix-login", "another"].map(|name| ObjectRef::new(name).within("team"));
        recent.woken(ChildKind::ConfigMap, &shown, both.to_vec()).len()
    };
    recent.created(recent.creates(ChildKind::ConfigMap, &identity(), own.name()), &identity(), &own);
    assert_eq!(woken(), 1, "nobody has judged for another what was answered");
    assert!(recent.children.lock().unwrap().is_empty());
    assert_eq!(woken(), 2);
}

#[test]
fn a_wall_is_known_by_its_sandbox_as_it_was_last_written() {
    let wall = live(boundary().into_iter().find(|child| child.kind() == ChildKind::NetworkPolicy).unwrap());
    let (recent, uid) = (Recent::default(), identity().uid);
    assert_eq!(recent.own_wall(&uid, wall.name()), None);
    recent.wrote("team", wall.clone());
    assert_eq!(recent.own_wall(&uid, wall.name()), wall.metadata().uid);
    assert_eq!(recent.own_wall(&uid, "another"), None);
    assert_eq!(recent.own_wall("another", wall.name()), None);
    let mut loose = wall.value();
    loose["metadata"]["ownerReferences"][0]["controller"] = false.into();
    loose["metadata"]["name"] = "loose".into();
    recent.wrote("team", Child::NetworkPolicy(fixtures::from(loose)));
    assert_eq!(recent.own_wall(&uid, "loose"), None, "whoever only refers to a sandbox is none of its walls");
}

#[test]
fn a_pod_is_ready_and_a_proxy_serves_since_its_kubelet_says_so_of_itself() {
    let since = "2026-01-01T00:00:05Z";
    let told: Option<Timestamp> = Some(since.parse().unwrap());
    let condition =
        |type_: &str, status: &str| json!({"type": type_, "status": status, "lastTransitionTime": since});
    let container = |name: &str, started: bool, state: Value| json!({"name": name, "started": started, "state": state, "image": "", "imageID": "", "ready": true, "restartCount": 0});
    let running = json!({"running": {"startedAt": since}});
    let pod = |deleted: bool, status: Value| -> Pod {
        let metadata = if deleted { json!({"deletionTimestamp": since}) } else { json!({}) };
        fixtures::from(json!({"metadata": metadata, "status": status}))
    };
    let (ready, started) = (condition("Ready", "True"), container("proxy", true, running.clone()));
    for (conditions, deleted, expected) in [
        (json!([condition("Initialized", "True"), ready]), false, told),
        (json!([{"type": "Ready", "status": "True"}]), false, Some(Timestamp::UNIX_EPOCH)),
        (json!([ready]), true, None),
        (json!([condition("Ready", "False"), condition("Initialized", "True")]), false, None),
        (json!([]), false, None),
    ] {
        assert_eq!(ready_since(&pod(deleted, json!({"conditions": conditions}))), expected, "{conditions}");
    }
    for (containers, deleted, expected) in [
        (json!([container("other", false, json!({})), started]), false, told),
        (json!([container("proxy", true, json!({"running": {}}))]), false, Some(Timestamp::UNIX_EPOCH)),
        (json!([started]), true, None),
        (json!([container("proxy", false, running.clone())]), false, None),
        (json!([container("proxy", true, json!({"waiting": {}}))]), false, None),
        (json!([container("other", true, running.clone())]), false, None),
    ] {
        let shown = pod(deleted, json!({"containerStatuses": containers}));
        assert_eq!(serving_since(&shown), expected, "{containers}");
    }
}
