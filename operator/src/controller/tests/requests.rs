//! What a request may cost: one try, a bounded time, and no right that the operator does without.

use super::*;
use crate::controller::outcome::Blocked;

#[tokio::test]
async fn o_r11_a_refused_request_is_not_repeated_within_a_pass() {
    let away: Says = Box::new(|asked| {
        (asked.line == "POST networkpolicies").then(|| refusal(503, "ServiceUnavailable", "away"))
    });
    let after = Scene::running().without(ChildKind::NetworkPolicy, "fix-login-agent").pass(away).await;
    let tries = after.api.asked().iter().filter(|asked| asked.line == "POST networkpolicies").count();
    assert_eq!(tries, 1);
    assert!(after.result.is_err(), "the next pass tries again, after a pause");
}

/// The clock goes on only while everybody waits: the time limit is what ends this.
#[tokio::test(start_paused = true)]
async fn o_r12_a_request_that_nobody_answers_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let config = crate::run::bounded(kube::Config::new(format!("http://{address}").parse().unwrap()));
    let scene = Scene::running();
    let client = kube::Client::try_from(config).unwrap();
    let ctx = fixtures::ctx(client, &scene.sandbox, &scene.children, &[]);
    let start = tokio::time::Instant::now();
    let asked = ctx.writer.live_pod("team", "fix-login-agent").await;
    assert!(matches!(&asked, Err(ApplyError::Unanswered { .. })), "{asked:?}");
    assert!(matches!(Blocked::from(&asked.unwrap_err()), Blocked::Transient(_)));
    assert!(start.elapsed() <= Duration::from_secs(20), "{:?}", start.elapsed());
    silent.abort();
}

/// The watch of policies shows all of them, so the operator has no right to read one.
#[tokio::test]
async fn o_h30_a_policy_that_exists_already_is_not_read_by_its_name() {
    let exists: Says = Box::new(|asked| {
        asked.line.starts_with("POST ").then(|| refusal(409, "AlreadyExists", "it exists already"))
    });
    let mut scene = Scene::running();
    scene.children.retain(|child| matches!(child.kind(), ChildKind::Pod));
    let after = scene.pass(exists).await;
    let asked = after.api.asked();
    let read = |what: &str| asked.iter().any(|asked| asked.line.starts_with(&format!("GET {what}/")));
    assert!(!read("networkpolicies"));
    assert!(read("serviceaccounts"), "the others are read to see whose they are");
}

#[tokio::test]
async fn o_r11_a_pod_that_is_changed_on_its_way_is_ended_and_told_and_made_again_only_after_a_pause() {
    let mirroring: Says = Box::new(|asked| {
        let pod = asked.line == "POST pods" && asked.body["metadata"]["name"] == "fix-login-agent";
        pod.then(|| {
            let mut pod = asked.body.clone();
            pod["metadata"]["uid"] = json!("changed");
            pod["spec"]["containers"][0]["image"] = json!("mirror.test/agent:2.1");
            (201, pod)
        })
    });
    let scene = Scene::running().without(ChildKind::Pod, "fix-login-agent");
    let api = scene.api(mirroring).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    let sandbox = Arc::new(scene.sandbox);
    for _ in 0..3 {
        let _again = reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await.unwrap();
    }
    let writes = api.writes();
    let count = |line: &str| writes.iter().filter(|write| *write == line).count();
    assert_eq!((count("POST pods"), count(AGENT_IS_STOPPED)), (1, 1), "{writes:?}");
    let status = api.body(STATUS);
    let ready = status["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready");
    let ready = ready.unwrap();
    assert_eq!(ready["reason"], "Refused");
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("mirror.test/agent:2.1") && message.contains("webhook"), "{message}");
}
