use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::authority::Authority;
use crate::enrolment::Enrolment;
use crate::limits::POLICY_STALE_MAX;
use crate::resolve::Resolver;
use crate::secrets::Held;

/// Longer than a secret's file is not looked at.
const LATER: Duration = Duration::from_secs(60);

const POLICY: &str =
    "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1,
  rules: [{name: good, host: api.good.test, ports: [443], scheme: https, credential: first}],
  credentials: [
    {name: first, file: one, inject: {type: Bearer}, scopes: [{host: api.good.test, ports: [443]}]},
    {name: second, file: two, inject: {type: Bearer}, scopes: [{host: api.good.test, ports: [443]}]}]}";

/// A proxy that waits for nothing, but perhaps for the resolver of the system that the test runs on.
fn ready(folder: &Path) -> Proxy {
    for (file, text) in [("one", "sk-real-0123456789"), ("two", "sk-real-9876543210")] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    crate::serve::tests::proxy(folder, POLICY, Vec::new())
}

/// What is waited for beside the resolver, as (kind, name).
fn waits(proxy: &Proxy, now: Instant) -> Vec<(Item, Option<String>)> {
    let all = counted(pending(proxy, now), "exclude=resolver");
    all.into_iter().map(|pending| (pending.item, pending.name)).collect()
}

#[tokio::test]
async fn a_proxy_with_everything_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = ready(folder.path());
    assert_eq!(waits(&proxy, Instant::now()), []);
    assert_eq!(report(&[]), "{\"ready\":true,\"pending\":[]}\n");
}

#[tokio::test]
async fn each_thing_that_is_missing_is_named_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let (now, fresh) = (Instant::now(), || ready(folder.path()));

    let proxy = fresh();
    proxy.shutdown.cancel();
    assert_eq!(waits(&proxy, now), [(Item::Drain, None)]);
    assert!(!may_start(&proxy, now));

    let mut proxy = fresh();
    proxy.enrolment = Enrolment::with_token(Zeroizing::new(b"right".to_vec()), state.path(), None);
    assert_eq!(waits(&proxy, now), [(Item::Enrolment, None)]);
    assert!(may_start(&proxy, now), "or no agent could ever be enrolled");
    proxy.enrolment.enrol("10.0.0.7".parse().unwrap(), b"right", || Ok(())).unwrap();
    assert_eq!(waits(&proxy, now), []);

    let mut proxy = fresh();
    proxy.resolver = Resolver::unusable();
    let all = pending(&proxy, now);
    assert_eq!(all.iter().map(|pending| pending.item).collect::<Vec<_>>(), [Item::Resolver]);

    let mut proxy = fresh();
    proxy.authority = outdated(state.path());
    assert_eq!(waits(&proxy, now), [(Item::Ca, None)]);
    assert!(!may_start(&proxy, now));
}

fn outdated(folder: &Path) -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.not_before = OffsetDateTime::now_utc() - time::Duration::days(2);
    params.not_after = OffsetDateTime::now_utc() - time::Duration::days(1);
    std::fs::write(folder.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.join("ca.key"), key.serialize_pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Authority::open(folder, provider, Arc::default()).unwrap()
}

#[tokio::test]
async fn a_document_that_stays_invalid_is_waited_for_once_the_last_good_one_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, now) = (ready(folder.path()), Instant::now());
    std::fs::write(folder.path().join("policy.yaml"), "rules: everything").unwrap();
    proxy.policy.refresh(now);
    assert_eq!(waits(&proxy, now), [], "the last good one is in force");
    let late = now + POLICY_STALE_MAX + LATER;
    assert_eq!(waits(&proxy, late), [(Item::Policy, None)]);
    assert!(!may_start(&proxy, late));
    std::fs::write(folder.path().join("policy.yaml"), POLICY).unwrap();
    proxy.policy.refresh(late);
    assert_eq!(waits(&proxy, late), []);
}

#[tokio::test]
async fn a_secret_is_waited_for_by_its_credentials_name_and_nothing_of_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, now) = (ready(folder.path()), Instant::now());
    assert_eq!(waits(&proxy, now), []);
    for (step, (change, why)) in
        [(None, "missing"), (Some("sk-real with spaces"), "visible ASCII"), (Some(""), "empty")]
            .into_iter()
            .enumerate()
    {
        let later = now + LATER * (2 * u32::try_from(step).unwrap() + 1);
        let file = folder.path().join("two");
        match change {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => std::fs::write(&file, text).unwrap(),
        }
        assert_eq!(waits(&proxy, later), [(Item::Secret, Some("second".to_owned()))]);
        let told = report(&counted(pending(&proxy, later), "exclude=resolver"));
        assert!(told.contains(why) && !told.contains("sk-real"), "{told}");
        assert_eq!(counted(pending(&proxy, later), "exclude=secret&exclude=resolver"), []);
        std::fs::write(&file, "sk-real-0123456789").unwrap();
        assert_eq!(waits(&proxy, later + LATER), [], "{why}");
    }
}

#[tokio::test]
async fn a_secret_that_was_missing_at_the_start_keeps_the_agent_out_until_it_has_been_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, now) = (ready(folder.path()), Instant::now() + LATER);
    let file = folder.path().join("two");
    std::fs::remove_file(&file).unwrap();
    proxy.secrets.wait_for(Held::Secret("two"));
    let named = Some("second".to_owned());
    assert_eq!(waits(&proxy, now), [(Item::Start, named.clone())]);
    assert_eq!(
        counted(pending(&proxy, now), "exclude=secret&exclude=resolver").len(),
        1,
        "the kubelet counts it"
    );
    assert!(!may_start(&proxy, now));
    std::fs::write(&file, "sk-real-9876543210").unwrap();
    assert_eq!(waits(&proxy, now + LATER), []);
    assert!(may_start(&proxy, now + LATER));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(waits(&proxy, now + LATER * 2), [(Item::Secret, named)], "from then on it is as any other");
    assert!(may_start(&proxy, now + LATER * 2));
}

#[tokio::test]
async fn the_password_of_the_upstream_proxy_is_no_secret_that_only_some_requests_need() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, now) = (ready(folder.path()), Instant::now());
    let behind = POLICY
        .replace("api.good.test, ports: [443]}]}]}", "proxy.test, ports: [3128]}]}]}")
        .replace("two, inject: {type: Bearer}", "two, inject: {type: Basic, username: agents}")
        .replace(
            "rules:",
            "upstream: {proxy: {url: \"http://proxy.test:3128\", credential: second}}, rules:",
        );
    std::fs::write(folder.path().join("policy.yaml"), behind).unwrap();
    proxy.policy.refresh(now);
    assert_eq!(waits(&proxy, now), []);
    std::fs::remove_file(folder.path().join("two")).unwrap();
    let waited = counted(pending(&proxy, now + LATER), "exclude=secret&exclude=resolver");
    let [only] = waited.as_slice() else { panic!("{waited:?}") };
    assert_eq!((only.item, only.name.as_deref()), (Item::Upstream, Some("second")));
}

#[test]
fn a_report_is_json_with_a_line_for_each_item_and_only_known_kinds_are_left_out() {
    let item =
        |item, name: Option<&str>| Pending { item, name: name.map(str::to_owned), why: "x".to_owned() };
    let all = vec![item(Item::Policy, None), item(Item::Secret, Some("a")), item(Item::Secret, Some("b"))];
    let told = report(&all);
    let read: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(read["ready"], false);
    assert_eq!(read["pending"][1], json!({"item": "secret", "name": "a", "why": "x"}));
    assert_eq!(told.lines().count(), 1 + all.len());
    for (query, left) in [
        ("", 3),
        ("exclude=secret", 1),
        ("exclude=policy&exclude=secret", 0),
        ("exclude=everything", 3),
        ("exclude=", 3),
        ("exclude=Secret", 3),
        ("secret", 3),
    ] {
        assert_eq!(counted(all.clone(), query).len(), left, "{query}");
    }
}
