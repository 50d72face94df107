//! The way from agent to proxy: the agent's pod starts beside its proxy's, and nothing leads from one to the other before
//! the operator has seen the proxy closed.

use agentsandbox_crds::names::LABEL_COMPONENT;

use super::*;

/// A pod that was made, and of which the kubelet has said nothing.
fn unknown(pod: &Pod) -> Pod {
    Pod { status: None, ..pod.clone() }
}

/// The proxy's pod at this address, running since just now.
fn young(address: &'static str) -> impl Fn(&Pod) -> Pod {
    move |_| {
        let mut pod = fixtures::proxy_pod(address);
        pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state =
            Some(from(just_started()));
        pod
    }
}

/// A sandbox whose fence waits, with its way shut, under a probe that connects.
fn waiting() -> Scene {
    let mut scene = Scene::running().service(service::shut).agent(unknown);
    scene.probe = WallProbe::Connect;
    scene
}

/// With the way open, as an earlier proof left it.
pub(in crate::controller) fn open(identity: &Identity) -> Service {
    service::open(identity, &observe::ProxyClosed::for_tests())
}

/// What each write left the Service selecting, in order.
pub(in crate::controller) fn selected(after: &After) -> Vec<String> {
    let writes = after.api.asked().into_iter();
    let services = writes.filter(|a| a.line == SERVICE_IS_WRITTEN || a.line == "POST services");
    services.map(|a| a.body["spec"]["selector"][LABEL_COMPONENT].as_str().unwrap().to_owned()).collect()
}

/// The pods that were made.
fn made(after: &After) -> Vec<String> {
    let posts = after.api.asked().into_iter().filter(|asked| asked.line == "POST pods");
    posts.map(|asked| asked.body["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_agents_pod_is_made_in_the_first_pass_and_the_way_to_its_proxy_is_shut() {
    let mut scene = Scene::running();
    scene.children.clear();
    let after = scene.pass(takes_all()).await;
    assert_eq!(made(&after), ["fix-login-proxy", "fix-login-agent"]);
    assert_eq!(selected(&after), ["none"]);
    after.says("NetworkIsolated", "Unknown", "FencePending");
    after.says("Ready", "False", "ProxyStarting");
}

#[tokio::test]
async fn the_way_opens_once_the_proxy_is_seen_closed_and_not_before() {
    let closed = waiting().proxy(young("127.0.78.1")).pass(takes_all()).await;
    assert_eq!(selected(&closed), ["proxy"]);
    assert!(!closed.api.was_asked(AGENT_IS_STOPPED));
    let _open = TcpListener::bind("127.0.78.2:3128").await.unwrap();
    let found_open = waiting().proxy(young("127.0.78.2")).pass(takes_all()).await;
    assert_eq!(selected(&found_open), Vec::<String>::new(), "it was shut and stays so");
    assert!(!found_open.api.was_asked(AGENT_IS_STOPPED), "walls that are not up yet are waited for");
    let untried = waiting().proxy(unknown).pass(takes_all()).await;
    assert_eq!(selected(&untried), Vec::<String>::new());
}

#[tokio::test]
async fn a_fence_loses_the_way_to_a_proxy_that_is_not_seen_closed_any_more() {
    let open_way = || waiting().service(open);
    assert_eq!(selected(&open_way().proxy(unknown).pass(takes_all()).await), ["none"], "another proxy");
    let _open = TcpListener::bind("127.0.78.3:3128").await.unwrap();
    let after = open_way().proxy(young("127.0.78.3")).pass(takes_all()).await;
    assert_eq!(selected(&after), ["none"]);
}

#[tokio::test]
async fn an_agent_beside_a_proxy_that_was_replaced_and_is_open_loses_its_way_and_is_given_time() {
    let _open = TcpListener::bind("127.0.78.8:3128").await.unwrap();
    let beside = || {
        let mut scene = Scene::running().proxy(young("127.0.78.8"));
        scene.probe = WallProbe::Connect;
        scene
    };
    let after = beside().pass(takes_all()).await;
    assert_eq!(selected(&after), ["none"]);
    assert!(!after.api.was_asked(AGENT_IS_STOPPED));
    let webhook = refuses(SERVICE_IS_WRITTEN, refusal(403, "Forbidden", "a webhook denied request"));
    let after = beside().pass(webhook).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "its fence has proven its own walls");
}

#[tokio::test]
async fn a_proxy_that_stays_open_or_opens_again_shuts_the_way_and_stops_the_agent() {
    let _open = TcpListener::bind("127.0.78.4:3128").await.unwrap();
    for seen_before in [false, true] {
        let proxy = if seen_before {
            young("127.0.78.4")(&Pod::default())
        } else {
            fixtures::proxy_pod("127.0.78.4")
        };
        let mut scene = Scene::running().proxy(|_| proxy.clone());
        scene.probe = WallProbe::Connect;
        scene.seen = seen_before.then(|| proxy.clone());
        let after = scene.pass(takes_all()).await;
        assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
        assert_eq!(selected(&after), ["none"]);
        after.says("NetworkIsolated", "False", "ProxyOpen");
    }
}

#[tokio::test]
async fn a_widened_sandbox_has_its_way_shut() {
    let after = Scene::running().beside(opens_everything("let-all-out")).pass(takes_all()).await;
    assert_eq!(selected(&after), ["none"]);
}

#[tokio::test]
async fn an_agent_behind_a_proven_fence_keeps_its_way_until_its_proxy_is_probed() {
    let running = |proxy: &dyn Fn(&Pod) -> Pod| {
        let mut scene = Scene::running().proxy(proxy);
        scene.probe = WallProbe::Connect;
        scene
    };
    let replaced = running(&unknown).pass(takes_all()).await;
    assert_eq!(selected(&replaced), Vec::<String>::new());
    let operator_restarted = running(&young("127.0.78.5")).pass(takes_all()).await;
    assert_eq!(selected(&operator_restarted), Vec::<String>::new(), "it is neither shut nor opened anew");
    assert!(!operator_restarted.api.was_asked(AGENT_IS_STOPPED));
}

#[tokio::test]
async fn a_service_that_is_deleted_or_edited_comes_back_shut_and_opens_on_a_proof_only() {
    let deleted = |scene: Scene| scene.without(ChildKind::Service, "fix-login-proxy");
    let edited = |scene: Scene| {
        scene.service(|identity| {
            let mut service = open(identity);
            service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port = None;
            service
        })
    };
    let unlabelled = |scene: Scene| {
        scene.service(|identity| {
            let mut service = open(identity);
            service.metadata.labels = None;
            service
        })
    };
    let changes: [&dyn Fn(Scene) -> Scene; 3] = [&deleted, &edited, &unlabelled];
    for change in changes {
        assert_eq!(selected(&change(waiting().proxy(unknown)).pass(takes_all()).await), ["none"]);
        let enrolled = change(Scene::running().proxy(unknown));
        assert_eq!(selected(&enrolled.pass(takes_all()).await), ["none"], "whoever runs behind it");
        let proven = change(waiting().proxy(young("127.0.78.6"))).pass(takes_all()).await;
        assert_eq!(selected(&proven), ["none", "proxy"]);
    }
}

#[tokio::test]
async fn an_open_service_that_no_watch_shows_is_found_and_shut() {
    let says: Says = Box::new(|asked| {
        let standing = fixtures::service(open(&fixtures::identity())).value();
        match asked.line.as_str() {
            "POST services" => {
                Some(refusal(409, "AlreadyExists", "services \"fix-login-proxy\" already exists"))
            }
            "GET services/fix-login-proxy" => Some((200, standing)),
            // Only its labels are written, so its selector is answered as it was.
            SERVICE_IS_WRITTEN if asked.body["spec"].is_null() => Some((200, standing)),
            _ => None,
        }
    });
    let hidden = waiting().without(ChildKind::Service, "fix-login-proxy").proxy(unknown);
    let after = hidden.pass(says).await;
    assert!(after.result.is_ok());
    let last = &after.api.body(SERVICE_IS_WRITTEN)["spec"]["selector"][LABEL_COMPONENT];
    assert_eq!(last, "none", "{:?}", after.api.writes());
}

#[tokio::test]
async fn no_agents_pod_is_made_or_left_waiting_where_its_way_cannot_be_shut() {
    let webhook = || refuses(SERVICE_IS_WRITTEN, refusal(403, "Forbidden", "a webhook denied request"));
    let open_way = || waiting().service(open).proxy(unknown);
    let none = || open_way().without(ChildKind::Pod, "fix-login-agent");
    assert_eq!(made(&none().pass(takes_all()).await), ["fix-login-agent"], "the control makes it");
    assert_eq!(made(&none().pass(webhook()).await), Vec::<String>::new());
    let fence_waits = open_way().pass(webhook()).await;
    assert!(fence_waits.api.was_asked(AGENT_IS_STOPPED), "{:?}", fence_waits.api.writes());
    fence_waits.says("NetworkIsolated", "Unknown", "Refused");
    let shut_already = waiting().proxy(unknown).pass(webhook()).await;
    assert!(!shut_already.api.was_asked(AGENT_IS_STOPPED));
}

#[tokio::test]
async fn a_fence_that_gave_up_before_its_way_was_open_is_started_anew_when_it_opens() {
    let backing_off = |pod: &Pod| {
        let mut pod = pod.clone();
        pod.status = Some(from(json!({"initContainerStatuses": [{
            "name": "fence", "ready": false, "restartCount": 4, "image": "i", "imageID": "i",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }]})));
        pod
    };
    let opens = waiting().proxy(young("127.0.78.7"));
    let after = opens.agent(backing_off).pass(takes_all()).await;
    assert_eq!(selected(&after), ["proxy"]);
    assert_eq!(after.api.body(AGENT_IS_STOPPED)["preconditions"]["uid"], "uid-of-fix-login-agent");
    let open_already = waiting().service(open).proxy(young("127.0.78.7")).agent(backing_off);
    assert!(!open_already.pass(takes_all()).await.api.was_asked(AGENT_IS_STOPPED), "only once");
    let still_trying = waiting().proxy(young("127.0.78.7")).pass(takes_all()).await;
    assert!(!still_trying.api.was_asked(AGENT_IS_STOPPED));
}
