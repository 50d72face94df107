//! Passes over a sandbox with a template while no list of templates has come.

use agentsandbox_crds::names::LABEL_SANDBOX_UID;
use agentsandbox_crds::template::TemplateRef;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::store;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::config::WallProbe;
use crate::controller::desired::service;
use crate::controller::tests::way::{self, selected};
use crate::controller::tests::{AGENT_IS_STOPPED, After, STATUS, Scene, WALL_IS_MADE, refuses, takes_all};
use crate::controller::{reconcile, retry};
use crate::fixtures::api::{Says, refusal};
use crate::fixtures::{self, foreign_policy, from};

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";

impl Patience {
    /// Over before it begins.
    pub(crate) fn none() -> Self {
        Self { lasts: Duration::ZERO, ..Self::default() }
    }
}

/// A sandbox of the template `jobs` with these fields, running whole.
fn of(spec: Value) -> Scene {
    let mut scene = Scene::running();
    scene.sandbox.spec = from(spec);
    scene.sandbox.spec.template_ref = Some(TemplateRef { name: "jobs".to_owned() });
    scene
}

async fn pass_within(scene: Scene, says: Says, patience: Patience) -> After {
    let api = scene.api(says).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    let mut ctx = Arc::into_inner(ctx).unwrap();
    (ctx.stores.templates, _) = store();
    (ctx.patience, ctx.wall_probe) = (patience, scene.probe);
    let ctx = Arc::new(ctx);
    let result = reconcile(Arc::new(scene.sandbox), Arc::clone(&ctx)).await;
    After { api, ctx, result }
}

async fn pass(scene: Scene, says: Says) -> After {
    pass_within(scene, says, Patience::none()).await
}

#[tokio::test]
async fn what_runs_goes_on_and_is_said_to_be_unknown_and_somebody_has_to_act() {
    let after = pass(of(json!({})), takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS]);
    for type_ in ["Accepted", "NetworkIsolated", "Ready"] {
        after.says(type_, "Unknown", "TemplatesUnknown");
    }
    after.says("Stalled", "True", "TemplatesUnknown");
    let told = after.api.body(STATUS)["status"]["conditions"].to_string();
    assert!(told.contains("AgentSandboxTemplate jobs") && told.contains("apply the CRDs"), "{told}");
    assert_eq!(after.result.unwrap(), Action::await_change(), "its list wakes it");

    let mut listed = of(json!({}));
    listed.sandbox.spec.template_ref = Some(TemplateRef { name: "nobody".to_owned() });
    let after = listed.pass(takes_all()).await;
    after.says("Ready", "False", "TemplateNotFound");
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "the control: a list came, and has no such template");
}

#[tokio::test]
async fn a_list_that_comes_in_time_is_awaited_in_silence() {
    let after = pass_within(of(json!({})), takes_all(), Patience::default()).await;
    assert_eq!(after.api.writes(), [""; 0]);
    let Ok(action) = &after.result else { panic!("{:?}", after.result) };
    assert_ne!(action, &Action::await_change(), "it is told when that is over");
}

#[tokio::test]
async fn a_sandbox_without_a_template_goes_on_as_ever() {
    let after = pass(Scene::running(), takes_all()).await;
    after.says("Ready", "True", "Running");
}

#[tokio::test]
async fn nothing_is_made_that_was_not_there() {
    let bare = || {
        let without = of(json!({})).without(ChildKind::Pod, "fix-login-agent");
        without.without(ChildKind::Pod, "fix-login-proxy").service(service::shut)
    };
    let after = pass(bare(), takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS]);
    let mut new = bare();
    new.sandbox.metadata.finalizers = None;
    new.children.clear();
    let after = pass(new, takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS], "and of one that is new not even its walls");
}

#[tokio::test]
async fn o_t6_a_wall_that_is_gone_is_put_back_and_the_proxys_without_a_way_out() {
    for (name, leads_out) in [("fix-login-agent", true), ("fix-login-proxy", false)] {
        let after = pass(of(json!({})).without(ChildKind::NetworkPolicy, name), takes_all()).await;
        let wall = after.api.body(WALL_IS_MADE);
        assert_eq!(wall["metadata"]["name"], name);
        let text = wall["spec"]["egress"].to_string();
        assert!(!text.contains("0.0.0.0/0"), "{text}");
        assert_eq!(text.contains("agentsandbox.dev/component"), leads_out, "{text}");
        assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
        after.says("Ready", "Unknown", "TemplatesUnknown");
    }
}

#[tokio::test]
async fn o_t6_a_wall_that_was_changed_is_as_it_was_and_the_proxys_way_out_stays() {
    let opened = |name: &'static str, change: fn(&mut Value)| {
        let mut scene = of(json!({}));
        for child in &mut scene.children {
            if child.kind() == ChildKind::NetworkPolicy && child.name() == name {
                let mut wall = child.value();
                change(&mut wall);
                *child = Child::NetworkPolicy(from(wall));
            }
        }
        scene
    };
    let everything: fn(&mut Value) = |wall| wall["spec"]["egress"] = json!([{}]);
    let everybody: fn(&mut Value) = |wall| wall["spec"]["ingress"] = json!([{}]);
    for (name, change, field) in [
        ("fix-login-agent", everything, "egress"),
        ("fix-login-agent", everybody, "ingress"),
        ("fix-login-proxy", everybody, "ingress"),
        ("fix-login-proxy", everything, "egress"),
    ] {
        let after = pass(opened(name, change), takes_all()).await;
        let wall = after.api.body(&format!("PATCH networkpolicies/{name}"));
        assert_ne!(wall["spec"][field], json!([{}]), "{name}: {wall}");
        assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    }
    let after = pass(opened("fix-login-proxy", everybody), takes_all()).await;
    let wall = after.api.body("PATCH networkpolicies/fix-login-proxy");
    assert!(wall["spec"]["egress"].to_string().contains("0.0.0.0/0"), "the control: {wall}");
}

/// The proxy's wall of a scene after `change`.
fn with_proxys_wall(mut scene: Scene, change: impl Fn(&mut Value)) -> Scene {
    for child in &mut scene.children {
        if child.kind() == ChildKind::NetworkPolicy && child.name() == "fix-login-proxy" {
            let mut wall = child.value();
            change(&mut wall);
            *child = Child::NetworkPolicy(from(wall));
        }
    }
    scene
}

/// Where a proxy is let out by the wall that a pass leaves, cluster DNS aside: blocks with what is taken away from them, and ports.
async fn leads_to(change: impl Fn(&mut Value)) -> Vec<(Value, Value)> {
    let scene = with_proxys_wall(of(json!({})), &change);
    let mut live = json!(null);
    with_proxys_wall(of(json!({})), &change).children.iter().for_each(|child| {
        if child.kind() == ChildKind::NetworkPolicy && child.name() == "fix-login-proxy" {
            live = child.value();
        }
    });
    let after = pass(scene, takes_all()).await;
    let repaired = "PATCH networkpolicies/fix-login-proxy";
    let wall = if after.api.was_asked(repaired) { after.api.body(repaired) } else { live };
    let rules = wall["spec"]["egress"].as_array().unwrap().clone();
    rules.into_iter().skip(1).map(|rule| (rule["to"].clone(), rule["ports"].clone())).collect()
}

#[tokio::test]
async fn o_t6_a_wall_of_the_proxy_that_was_widened_while_its_template_is_unknown_is_not_the_one_that_is_wanted()
 {
    let whole = leads_to(|_| ()).await;
    assert!(!whole[0].0[0]["ipBlock"]["except"].as_array().unwrap().is_empty(), "the control: {whole:?}");
    let everywhere = || json!({"ipBlock": {"cidr": "0.0.0.0/0"}});
    let added = |rule: Value| {
        move |wall: &mut Value| wall["spec"]["egress"].as_array_mut().unwrap().push(rule.clone())
    };
    for wider in [
        json!({"to": [everywhere()]}),
        json!({"to": [everywhere()], "ports": [{"protocol": "TCP"}]}),
        json!({"to": [everywhere()], "ports": [{"protocol": "TCP", "port": 1, "endPort": 65535}]}),
        json!({"to": [everywhere()], "ports": [{"protocol": "UDP", "port": 443}]}),
        json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 443}]}),
        json!({"to": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 443}]}),
        json!({"ports": [{"protocol": "TCP", "port": 443}]}),
    ] {
        assert_eq!(leads_to(added(wider.clone())).await, whole, "{wider}");
    }
    let nothing_is_taken_away =
        leads_to(|wall| wall["spec"]["egress"][1]["to"] = json!([everywhere()])).await;
    assert_eq!(nothing_is_taken_away, whole, "what no proxy may dial is taken away again");
}

#[tokio::test]
async fn o_t6_a_wall_of_the_proxy_leads_where_it_led_when_it_was_first_seen() {
    let scene = of(json!({}));
    let identity = fixtures::identity();
    let seen = scene.children.iter().find_map(|child| match child {
        Child::NetworkPolicy(wall) if child.name() == "fix-login-proxy" => Some(wall.clone()),
        _ => None,
    });
    let changed = with_proxys_wall(scene, |wall| {
        wall["spec"]["egress"][1]["ports"] = json!([{"protocol": "TCP", "port": 22}]);
    });
    for (is_known, ports) in [(true, json!(443)), (false, json!(22))] {
        let api = changed.api(takes_all()).await;
        let ctx = fixtures::ctx(api.client.clone(), &changed.sandbox, &changed.children, &changed.others);
        let mut ctx = Arc::into_inner(ctx).unwrap();
        (ctx.stores.templates, _) = store();
        ctx.patience = Patience::none();
        if is_known {
            ctx.memory.way_out(&identity.uid, seen.as_ref());
        }
        reconcile(Arc::new(changed.sandbox.clone()), Arc::new(ctx)).await.unwrap();
        let repaired = api.was_asked("PATCH networkpolicies/fix-login-proxy");
        assert_eq!(repaired, is_known, "{ports}: {:?}", api.writes());
        if repaired {
            let wall = api.body("PATCH networkpolicies/fix-login-proxy");
            assert_eq!(wall["spec"]["egress"][1]["ports"][0]["port"], ports, "{wall}");
        }
    }
}

#[tokio::test]
async fn o_t6_a_wall_of_the_proxy_without_the_labels_of_the_operator_says_nothing_of_where_it_led() {
    for label in ["app.kubernetes.io/managed-by", "agentsandbox.dev/sandbox-uid"] {
        let scene = with_proxys_wall(of(json!({})), |wall| wall["metadata"]["labels"][label] = json!("x"));
        let after = pass(scene, takes_all()).await;
        let wall = after.api.body("PATCH networkpolicies/fix-login-proxy");
        assert!(!wall["spec"]["egress"].to_string().contains("0.0.0.0/0"), "{label}: {wall}");
    }
}

const IS_HELD: &str = "PATCH agentsandboxes/fix-login";

fn is_away() -> (u16, Value) {
    refusal(500, "InternalError", "etcd is away")
}

/// One whose finalizer somebody took off, and its agent's wall.
fn let_go() -> Scene {
    let mut scene = of(json!({})).without(ChildKind::NetworkPolicy, "fix-login-agent");
    scene.sandbox.metadata.finalizers = None;
    scene
}

#[tokio::test]
async fn one_whose_finalizer_was_taken_off_gets_it_back_and_is_looked_after() {
    let after = pass(let_go(), takes_all()).await;
    let writes = after.api.writes();
    let at = |line: &str| writes.iter().position(|one| one == line);
    assert!(at(IS_HELD).is_some() && at(IS_HELD) < at(WALL_IS_MADE), "{writes:?}");
    after.says("Ready", "Unknown", "TemplatesUnknown");
}

#[tokio::test]
async fn a_finalizer_that_cannot_be_put_back_keeps_no_wall_from_being_looked_after() {
    let webhook = || refusal(403, "Forbidden", "admission webhook \"deny.acme.test\" denied request");
    let scene = let_go();
    let api = scene.api(refuses(IS_HELD, webhook())).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    let mut ctx = Arc::into_inner(ctx).unwrap();
    (ctx.stores.templates, _) = store();
    ctx.patience = Patience::none();
    let (sandbox, ctx) = (Arc::new(scene.sandbox), Arc::new(ctx));
    for _ in 0..8 {
        let error = reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await.unwrap_err();
        let _ = retry(&sandbox, &error, &ctx);
    }
    assert!(api.was_asked(WALL_IS_MADE) && api.was_asked(STATUS), "{:?}", api.writes());
    let pause = ctx.failures.pause(fixtures::UID);
    assert!(pause > Duration::from_secs(5), "it is tried again after pauses that grow: {pause:?}");

    let gone = refusal(404, "NotFound", "agentsandboxes \"fix-login\" not found");
    let after = pass(let_go(), refuses(IS_HELD, gone)).await;
    assert_eq!(after.api.writes(), [IS_HELD], "nothing is made of one that is gone");
}

#[tokio::test]
async fn o_t6_an_agent_gets_its_labels_back_though_its_sandbox_lost_its_finalizer_and_its_status() {
    let mut scene = of(json!({})).agent_changed(|pod| {
        pod.metadata.labels.as_mut().unwrap().remove(LABEL_SANDBOX_UID);
    });
    scene.sandbox.metadata.finalizers = None;
    assert_eq!(scene.sandbox.status, None);
    let after = pass(scene, takes_all()).await;
    let labels = &after.api.body("PATCH pods/fix-login-agent")["metadata"]["labels"];
    assert_eq!(labels[LABEL_SANDBOX_UID], fixtures::UID);
}

#[tokio::test]
async fn a_pass_that_fails_while_a_list_is_awaited_in_silence_says_nothing_either() {
    let fails = || refuses(WALL_IS_MADE, is_away());
    let scene = || of(json!({})).without(ChildKind::NetworkPolicy, "fix-login-agent");
    let after = pass_within(scene(), fails(), Patience::default()).await;
    assert!(!after.api.was_asked(STATUS), "{:?}", after.api.writes());
    assert!(after.result.is_err(), "it is tried again");
    let after = pass(scene(), fails()).await;
    assert!(after.api.was_asked(STATUS), "the control: {:?}", after.api.writes());
}

#[tokio::test]
async fn o_t6_an_agent_whose_wall_cannot_be_put_back_or_is_widened_is_stopped() {
    let quota = refusal(403, "Forbidden", "networkpolicies is forbidden: exceeded quota: walls");
    let scene = of(json!({})).without(ChildKind::NetworkPolicy, "fix-login-agent");
    let after = pass(scene, refuses(WALL_IS_MADE, quota)).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("Accepted", "Unknown", "TemplatesUnknown");
    after.says("NetworkIsolated", "False", "Refused");

    let wide =
        foreign_policy("theirs", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}));
    let after = pass(of(json!({})).service(way::open).beside(wide), takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && !after.api.was_asked(PROXY_IS_STOPPED));
    assert_eq!(selected(&after), ["none"]);
    after.says("NetworkIsolated", "False", "EgressWidened");
    after.says("Ready", "False", "EgressWidened");
}

#[tokio::test]
async fn a_way_without_a_proof_stays_open_for_an_agent_behind_a_proven_fence_alone() {
    let unknown = |pod: &Pod| Pod { status: None, ..pod.clone() };
    let open = || of(json!({})).service(way::open);
    for (what, scene, is_shut) in [
        ("its proxy is seen closed", open().agent(unknown), false),
        ("its agent runs behind a proven fence", open().proxy(unknown), false),
        ("neither is so", open().proxy(unknown).agent(unknown), true),
    ] {
        let after = pass(scene, takes_all()).await;
        let wanted: &[&str] = if is_shut { &["none"] } else { &[] };
        assert_eq!(selected(&after), wanted, "{what}");
    }
}

#[tokio::test]
async fn one_that_is_to_be_suspended_by_its_own_word_has_its_power_taken() {
    let suspended = || of(json!({"lifecycle": {"state": "Suspended"}})).service(way::open);
    let after = pass(suspended(), takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.api.was_asked(PROXY_IS_STOPPED));
    after.says("Ready", "Unknown", "TemplatesUnknown");
    assert_eq!(selected(&after), ["none"]);
    let after = pass(suspended(), refuses(AGENT_IS_STOPPED, is_away())).await;
    assert_eq!(selected(&after), ["none"], "though its agent cannot be stopped");
    assert!(after.result.is_err(), "which is tried again");
}

#[tokio::test]
async fn the_way_to_a_proxy_that_stays_open_is_shut_though_its_agent_cannot_be_stopped() {
    let _open = TcpListener::bind("127.0.79.1:3128").await.unwrap();
    let beside = |address: &str| {
        let mut scene = of(json!({})).service(way::open).proxy(|_| fixtures::proxy_pod(address));
        scene.probe = WallProbe::Connect;
        scene
    };
    let after = pass(beside("127.0.79.1"), refuses(AGENT_IS_STOPPED, is_away())).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.result.is_err(), "{:?}", after.api.writes());
    assert_eq!(selected(&after), ["none"]);
    let after = pass(beside("127.0.79.1"), takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && !after.api.was_asked(PROXY_IS_STOPPED));
    assert_eq!(selected(&after), ["none"]);
    after.says("NetworkIsolated", "False", "ProxyOpen");
    after.says("Ready", "False", "ProxyOpen");
    let after = pass(beside("127.0.79.2"), takes_all()).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "the control: {:?}", after.api.writes());
    assert_eq!(selected(&after), [""; 0]);
    after.says("Ready", "Unknown", "TemplatesUnknown");
}

#[tokio::test]
async fn a_program_that_ran_once_and_has_ended_is_told() {
    let after = pass(of(json!({})).agent_changed(fixtures::ended), takes_all()).await;
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3);
}

#[tokio::test]
async fn what_was_told_of_its_workspace_and_its_idleness_stays_told() {
    let mut scene = of(json!({}));
    scene.sandbox.status = Some(from(json!({
        "className": "gvisor", "lastActivityTime": "2026-01-01T00:00:00Z",
        "workspace": {"files": 1, "bytes": 2, "leftOut": 3, "claimName": "fix-login-workspace"},
    })));
    let after = pass(scene, takes_all()).await;
    let status = &after.api.body(STATUS)["status"];
    assert_eq!(status["workspace"]["claimName"], "fix-login-workspace");
    assert_eq!(
        (&status["className"], &status["lastActivityTime"]),
        (&json!("gvisor"), &json!("2026-01-01T00:00:00Z"))
    );
}
