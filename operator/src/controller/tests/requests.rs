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
async fn of_a_new_sandbox_no_pod_is_asked_for_and_of_one_that_has_a_finalizer_or_a_status_each_that_is_not_shown_is()
 {
    let asked_for = async |made: fn(&mut AgentSandbox)| {
        let mut scene = Scene::running();
        scene.children.clear();
        made(&mut scene.sandbox);
        let after = scene.pass(takes_all()).await;
        let pods = after.api.asked().into_iter().filter(|asked| asked.line.starts_with("GET pods/")).count();
        (pods, after.api.was_asked("POST pods"))
    };
    let new = |sandbox: &mut AgentSandbox| {
        sandbox.metadata.finalizers = None;
        sandbox.status = None;
    };
    assert_eq!(asked_for(new).await, (0, true), "requests, and whether the pass came as far as its pods");
    let (held, _) = asked_for(|sandbox| sandbox.status = None).await;
    let told = |sandbox: &mut AgentSandbox| {
        sandbox.metadata.finalizers = None;
        sandbox.status = Some(AgentSandboxStatus::default());
    };
    let (told, _) = asked_for(told).await;
    assert!(held >= 2 && told >= 2, "the controls: {held}, {told}");
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

/// The agent's pod is to be created, and its name is taken by one that has its owner and no label, is as `like` leaves it, and
/// runs. Gives back whether the pass waits for another one, and whether the watch wakes the sandbox when it shows the pod as it was
/// answered.
async fn found(like: fn(&mut Value)) -> (bool, bool) {
    let mut labelled = serde_json::to_value(fixtures::agent_pod()).unwrap();
    labelled["metadata"]["uid"] = json!("found");
    labelled["metadata"]["namespace"] = json!("team");
    labelled["metadata"]["resourceVersion"] = json!("78");
    // One that mounts the keys is found before any creation.
    labelled["spec"]["volumes"] = json!([]);
    like(&mut labelled);
    let mut bare = labelled.clone();
    bare["metadata"]["resourceVersion"] = json!("77");
    bare["metadata"]["labels"] = json!({});
    let shown: Pod = serde_json::from_value(labelled.clone()).unwrap();
    let taken: Says = Box::new(move |asked| match asked.line.as_str() {
        "POST pods" => Some(refusal(409, "AlreadyExists", "it exists already")),
        "GET pods/fix-login-agent" => Some((200, bare.clone())),
        "PATCH pods/fix-login-agent" => Some((200, labelled.clone())),
        _ => None,
    });
    let scene = Scene::running().without(ChildKind::Pod, "fix-login-agent");
    let api = scene.api(taken).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    let sandbox = Arc::new(scene.sandbox);
    let result = reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await;
    assert!(api.was_asked("POST pods"), "the control: it was to be created");
    let waits = matches!(result, Err(ReconcileError::Apply(ApplyError::Pending { .. })));
    assert!(waits || result.is_ok(), "{result:?}");
    let woken = vec![kube::runtime::reflector::ObjectRef::from_obj(sandbox.as_ref())];
    let wakes = !ctx.recent.woken(ChildKind::Pod, &shown, woken).is_empty();
    (waits, wakes)
}

#[tokio::test]
async fn a_pod_that_is_found_where_one_was_to_be_created_is_no_write_of_ours_and_counts_only_if_it_is_as_wanted()
 {
    let forged = found(|pod| pod["metadata"]["annotations"] = json!({})).await;
    assert_eq!(forged, (true, true), "whether the pass waits, and whether the watch wakes");
    assert_eq!(found(|_| ()).await, (false, true), "the control: it is as wanted");
}
