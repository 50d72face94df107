//! Whole passes against an API server that refuses one thing.

use std::collections::BTreeMap;

use agentsandbox_crds::AgentSandboxStatus;
use agentsandbox_crds::names::{LABEL_MANAGED_BY, LABEL_SANDBOX_UID};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::controller::desired::{ChildKind, service};
use crate::fixtures::api::{Api, Asked, Says, refusal};
use crate::fixtures::{self, foreign_policy, from};

pub(super) const AGENT_IS_STOPPED: &str = "DELETE pods/fix-login-agent";
pub(super) const SERVICE_IS_WRITTEN: &str = "PATCH services/fix-login-proxy";
pub(super) const STATUS: &str = "PATCH agentsandboxes/fix-login/status";
pub(super) const WALL_IS_MADE: &str = "POST networkpolicies";

/// One sandbox, running whole, and what came of a pass over it.
pub(super) struct Scene {
    pub(super) children: Vec<Child>,
    /// Pods that are there and that no watch shows.
    pub(super) unseen: Vec<Pod>,
    pub(super) others: Vec<NetworkPolicy>,
    pub(super) sandbox: AgentSandbox,
    pub(super) probe: WallProbe,
    /// A proxy that was seen closed before.
    seen: Option<Pod>,
}

pub(super) struct After {
    pub(super) api: Api,
    pub(super) ctx: Arc<Ctx>,
    pub(super) result: Result<Action, ReconcileError>,
}

impl Scene {
    pub(super) fn running() -> Self {
        let mut children = fixtures::boundary();
        children.push(Child::Pod(Box::new(fixtures::proxy_pod("127.0.0.1"))));
        children.push(Child::Pod(Box::new(fixtures::agent_pod())));
        let sandbox = fixtures::sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]));
        Self { children, unseen: Vec::new(), others: Vec::new(), sandbox, probe: WallProbe::None, seen: None }
    }

    pub(super) fn without(mut self, kind: ChildKind, name: &str) -> Self {
        self.children.retain(|child| child.kind() != kind || child.name() != name);
        self
    }

    pub(super) fn beside(mut self, policy: NetworkPolicy) -> Self {
        self.others.push(policy);
        self
    }

    /// With its Service as described.
    pub(super) fn service(self, describe: impl Fn(&Identity) -> Service) -> Self {
        let mut scene = self.without(ChildKind::Service, "fix-login-proxy");
        scene.children.push(fixtures::service(describe(&fixtures::identity())));
        scene
    }

    /// With its agent's pod changed.
    pub(super) fn agent(self, change: impl Fn(&Pod) -> Pod) -> Self {
        self.pod("fix-login-agent", change)
    }

    /// With its proxy's pod changed.
    pub(super) fn proxy(self, change: impl Fn(&Pod) -> Pod) -> Self {
        self.pod("fix-login-proxy", change)
    }

    fn pod(mut self, name: &str, change: impl Fn(&Pod) -> Pod) -> Self {
        for child in self.children.iter_mut().filter(|child| child.name() == name) {
            if let Child::Pod(pod) = child {
                **pod = change(pod);
            }
        }
        self
    }

    pub(super) async fn api(&self, says: Says) -> Api {
        let mut found: Vec<(String, Value)> =
            vec![("agentsandboxes/fix-login".to_owned(), serde_json::to_value(&self.sandbox).unwrap())];
        for child in &self.children {
            match child.kind() {
                ChildKind::Pod => found.push((format!("pods/{}", child.name()), child.value())),
                ChildKind::NetworkPolicy => {
                    found.push((format!("networkpolicies/{}", child.name()), child.value()));
                }
                _ => {}
            }
        }
        let unseen = self.unseen.iter().cloned().map(|pod| Child::Pod(Box::new(pod)));
        found.extend(unseen.map(|child| (format!("pods/{}", child.name()), child.value())));
        Api::start(found, says).await
    }

    /// The agent's pod after `change`, shown to the watches only as long as they find it by its label.
    pub(super) fn agent_changed(self, change: impl FnOnce(&mut Pod)) -> Self {
        let mut scene = self.without(ChildKind::Pod, "fix-login-agent");
        let mut pod = fixtures::agent_pod();
        change(&mut pod);
        if pod.labels().contains_key(LABEL_MANAGED_BY) {
            scene.children.push(Child::Pod(Box::new(pod)));
        } else {
            scene.unseen.push(pod);
        }
        scene
    }

    pub(super) async fn pass(self, says: Says) -> After {
        self.passes(1, says).await
    }

    pub(super) async fn passes(self, count: usize, says: Says) -> After {
        let api = self.api(says).await;
        let ctx = fixtures::ctx(api.client.clone(), &self.sandbox, &self.children, &self.others);
        let mut ctx = Arc::into_inner(ctx).unwrap();
        ctx.wall_probe = self.probe;
        if let Some(proxy) = &self.seen {
            ctx.recent.saw_closed(fixtures::UID, proxy);
        }
        let ctx = Arc::new(ctx);
        let sandbox = Arc::new(self.sandbox);
        let mut result = reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await;
        for _ in 1..count {
            if let Err(error) = &result {
                let _ = retry(&sandbox, error, &ctx);
            }
            result = reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await;
        }
        After { api, ctx, result }
    }
}

impl After {
    /// The last status that was written, as (type, (status, reason)).
    pub(super) fn conditions(&self) -> BTreeMap<String, (String, String)> {
        let status: AgentSandboxStatus = from(self.api.body(STATUS)["status"].clone());
        status.conditions.into_iter().map(|c| (c.type_, (c.status, c.reason))).collect()
    }

    #[track_caller]
    pub(super) fn says(&self, type_: &str, status: &str, reason: &str) {
        let found = self.conditions();
        assert_eq!(found[type_], (status.to_owned(), reason.to_owned()), "{found:?}");
    }
}

pub(super) fn takes_all() -> Says {
    Box::new(|_| None)
}

pub(super) fn refuses(line: &'static str, answer: (u16, Value)) -> Says {
    Box::new(move |asked: &Asked| (asked.line == line).then(|| answer.clone()))
}

pub(super) fn wallless() -> Scene {
    Scene::running().without(ChildKind::NetworkPolicy, "fix-login-agent")
}

#[tokio::test]
async fn o_t6_an_agent_whose_wall_is_put_back_goes_on() {
    let after = wallless().pass(takes_all()).await;
    assert!(after.result.is_ok() && after.api.was_asked(WALL_IS_MADE));
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "True", "ProvenWithoutProbe");
    after.says("Ready", "True", "Running");
}

#[tokio::test]
async fn o_t6_an_agent_whose_wall_cannot_be_put_back_is_stopped_and_its_proxy_stays() {
    let quota = refusal(403, "Forbidden", "networkpolicies is forbidden: exceeded quota: walls");
    let webhook = refusal(400, "BadRequest", "admission webhook \"deny.acme.test\" denied request");
    let ending = refusal(
        403,
        "Forbidden",
        "unable to create new content in namespace team because it is being terminated",
    );
    for (answer, reason) in [(quota, "Refused"), (webhook, "Refused"), (ending, "NamespaceTerminating")] {
        let after = wallless().pass(refuses(WALL_IS_MADE, answer)).await;
        let body = after.api.body(AGENT_IS_STOPPED);
        assert_eq!(body["gracePeriodSeconds"], 1, "it may not use its grace period without walls");
        assert_eq!(body["preconditions"]["uid"], "uid-of-fix-login-agent");
        assert!(!after.api.was_asked("DELETE pods/fix-login-proxy"), "{:?}", after.api.writes());
        after.says("NetworkIsolated", "False", reason);
        after.says("Ready", "False", reason);
    }
}

#[tokio::test]
async fn o_t6_an_agent_whose_walls_name_was_taken_is_stopped() {
    let stranger = foreign_policy("fix-login-agent", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    let after = wallless().beside(stranger).pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && !after.api.was_asked(WALL_IS_MADE));
    after.says("NetworkIsolated", "False", "NameConflict");
}

#[tokio::test]
async fn an_agent_whose_labels_hide_it_from_the_watches_is_stopped_too() {
    let scene = wallless();
    let api = scene.api(refuses(WALL_IS_MADE, refusal(403, "Forbidden", "exceeded quota: walls"))).await;
    let shown: Vec<Child> =
        scene.children.into_iter().filter(|child| child.name() != "fix-login-agent").collect();
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &shown, &[]);
    reconcile(Arc::new(scene.sandbox), ctx).await.unwrap();
    assert!(api.was_asked(AGENT_IS_STOPPED), "{:?}", api.writes());
}

#[tokio::test]
async fn an_agent_that_could_not_be_stopped_is_told_and_tried_again() {
    let says: Says = Box::new(|asked| match asked.line.as_str() {
        WALL_IS_MADE => Some(refusal(403, "Forbidden", "exceeded quota: walls")),
        AGENT_IS_STOPPED => Some(refusal(500, "InternalError", "etcd is away")),
        _ => None,
    });
    let after = wallless().pass(says).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))));
    let text = after.api.body(STATUS).to_string();
    assert!(text.contains("The agent could not be stopped"), "{text}");
}

#[tokio::test]
async fn a_supply_that_cannot_be_made_stops_nothing() {
    let scene = || Scene::running().without(ChildKind::ConfigMap, "fix-login-policy");
    let quota = refusal(403, "Forbidden", "configmaps is forbidden: exceeded quota");
    let after = scene().pass(refuses("POST configmaps", quota)).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "Unknown", "Refused");
    let busy = refusal(503, "ServiceUnavailable", "try later");
    let after = scene().pass(refuses("POST configmaps", busy)).await;
    after.says("NetworkIsolated", "Unknown", "Retrying");
    after.says("Ready", "Unknown", "Retrying");
}

#[tokio::test]
async fn a_wall_is_put_up_even_where_the_keys_cannot_be_made() {
    let scene = wallless().without(ChildKind::Pod, "fix-login-proxy");
    let quota = refusal(403, "Forbidden", "secrets is forbidden: exceeded quota");
    let after = scene.pass(refuses("POST secrets", quota)).await;
    assert!(
        after.api.was_asked(WALL_IS_MADE) && !after.api.was_asked("POST pods"),
        "{:?}",
        after.api.writes()
    );
}

#[tokio::test]
async fn an_agent_whose_labels_cannot_be_given_back_is_stopped() {
    let stripped = |changes: fn(&mut Pod)| {
        let mut scene = Scene::running().without(ChildKind::Pod, "fix-login-agent");
        let mut pod = fixtures::agent_pod();
        changes(&mut pod);
        scene.children.push(Child::Pod(Box::new(pod)));
        scene
    };
    let webhook =
        || refuses("PATCH pods/fix-login-agent", refusal(403, "Forbidden", "a webhook denied request"));
    let unlabelled = stripped(|pod| {
        pod.metadata.labels.as_mut().unwrap().remove(LABEL_SANDBOX_UID);
    });
    assert!(unlabelled.pass(webhook()).await.api.was_asked(AGENT_IS_STOPPED));
    let inside_its_walls = stripped(|pod| {
        pod.metadata.labels.as_mut().unwrap().remove("agentsandbox.dev/sandbox");
    });
    assert!(!inside_its_walls.pass(webhook()).await.api.was_asked(AGENT_IS_STOPPED));
}

#[tokio::test]
async fn an_agents_labels_are_given_back_while_its_proxy_is_being_replaced() {
    let mut scene = Scene::running()
        .without(ChildKind::Pod, "fix-login-proxy")
        .without(ChildKind::Pod, "fix-login-agent");
    let mut pod = fixtures::agent_pod();
    pod.metadata.labels.as_mut().unwrap().remove(LABEL_SANDBOX_UID);
    scene.children.push(Child::Pod(Box::new(pod)));
    let after = scene.pass(takes_all()).await;
    assert!(after.api.was_asked("PATCH pods/fix-login-agent"), "{:?}", after.api.writes());
    let labels = &after.api.body("PATCH pods/fix-login-agent")["metadata"]["labels"];
    assert_eq!(labels[LABEL_SANDBOX_UID], fixtures::UID);
}

pub(super) fn opens_everything(name: &str) -> NetworkPolicy {
    foreign_policy(name, json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}))
}

#[tokio::test]
async fn o_t7_a_widened_sandbox_has_its_agent_stopped_and_the_policy_named() {
    let after = Scene::running().beside(opens_everything("let-all-out")).pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && !after.api.was_asked("DELETE pods/fix-login-proxy"));
    after.says("NetworkIsolated", "False", "EgressWidened");
    assert!(after.api.body(STATUS).to_string().contains("let-all-out"));
}

#[tokio::test]
async fn o_t7_no_agent_is_started_while_another_policy_widens_its_walls() {
    let waiting = || Scene::running().without(ChildKind::Pod, "fix-login-agent");
    assert!(waiting().pass(takes_all()).await.api.was_asked("POST pods"), "the control starts it");
    let after = waiting().beside(opens_everything("let-all-out")).pass(takes_all()).await;
    assert!(!after.api.was_asked("POST pods"), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "False", "EgressWidened");
}

#[tokio::test]
async fn o_t7_a_widened_agent_is_stopped_though_a_supply_fails() {
    let scene = Scene::running().without(ChildKind::ConfigMap, "fix-login-policy");
    let quota = refusal(403, "Forbidden", "configmaps is forbidden: exceeded quota");
    let after = scene.beside(opens_everything("let-all-out")).pass(refuses("POST configmaps", quota)).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn an_agent_beside_a_proxy_that_stays_open_is_stopped() {
    let _open = TcpListener::bind("127.0.77.1:3128").await.unwrap();
    let beside = |address: &str| {
        let mut scene = Scene::running().without(ChildKind::Pod, "fix-login-proxy");
        scene.children.push(Child::Pod(Box::new(fixtures::proxy_pod(address))));
        scene.probe = WallProbe::Connect;
        scene
    };
    let after = beside("127.0.77.1").pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "False", "ProxyOpen");
    let after = beside("127.0.77.2").pass(takes_all()).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "Unknown", "ProbePending");
}

#[tokio::test]
async fn a_policy_edit_writes_the_document_and_nudges_the_proxys_pod_and_nothing_else() {
    let mut scene = Scene::running();
    scene.sandbox.spec.egress.as_mut().unwrap().allow[1].host = "crates.io".to_owned();
    let mut writes = scene.pass(takes_all()).await.api.writes();
    writes.retain(|line| line != STATUS);
    assert_eq!(writes, ["PATCH configmaps/fix-login-policy", "PATCH pods/fix-login-proxy"]);
}

#[tokio::test]
async fn o_r6_a_pass_over_a_settled_sandbox_writes_nothing() {
    let after = Scene::running().pass(takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS], "the first pass has a status to write");
    let mut scene = Scene::running();
    scene.sandbox.status = Some(from(after.api.body(STATUS)["status"].clone()));
    assert_eq!(scene.pass(takes_all()).await.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sandbox_that_went_meanwhile_is_no_failure() {
    let gone = refusal(404, "NotFound", "agentsandboxes \"fix-login\" not found");
    let after = Scene::running().pass(refuses(STATUS, gone)).await;
    let (error, sandbox) = (after.result.unwrap_err(), fixtures::sandbox(|_| ()));
    assert_eq!(retry(&sandbox, &error, &after.ctx), Action::await_change());
    let other = ReconcileError::NoIdentity;
    assert_ne!(retry(&sandbox, &other, &after.ctx), Action::await_change());
}

#[tokio::test]
async fn a_finalizer_that_is_off_is_not_taken_off_again_though_the_watch_still_shows_it() {
    let mut scene = Scene::running();
    scene.children.clear();
    scene.sandbox.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    let api = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &[], &[]);
    let sandbox = Arc::new(scene.sandbox);
    for _ in 0..2 {
        reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await.unwrap();
    }
    assert_eq!(api.writes(), ["PATCH agentsandboxes/fix-login"]);
}

/// The state of a container that has just started, and has not run for long however long the test takes: it starts in an hour.
fn just_started() -> Value {
    json!({"running": {"startedAt": (Timestamp::now() + SignedDuration::from_hours(1)).to_string()}})
}

#[tokio::test]
async fn a_confirmation_that_finds_the_proxy_open_stops_the_agent_without_patience() {
    let _open = TcpListener::bind("127.0.77.3:3128").await.unwrap();
    let mut proxy = fixtures::proxy_pod("127.0.77.3");
    proxy.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = Some(from(just_started()));
    for seen_before in [true, false] {
        let mut scene = Scene::running().without(ChildKind::Pod, "fix-login-proxy");
        scene.children.push(Child::Pod(Box::new(proxy.clone())));
        let api = scene.api(takes_all()).await;
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
        let mut ctx = Arc::into_inner(ctx).unwrap();
        ctx.wall_probe = WallProbe::Connect;
        if seen_before {
            ctx.recent.saw_closed(fixtures::UID, &proxy);
        }
        reconcile(Arc::new(scene.sandbox), Arc::new(ctx)).await.unwrap();
        assert_eq!(api.was_asked(AGENT_IS_STOPPED), seen_before, "walls that are not up yet are waited for");
    }
}

/// Four passes: nothing is there, the proxy serves, the fence has reported and the agent runs, the proof is confirmed.
#[tokio::test]
async fn a_cold_start_writes_each_child_once_and_a_status_for_each_stage() {
    let bare = || {
        let mut scene = Scene::running();
        scene.children.clear();
        scene.sandbox.metadata.finalizers = None;
        scene
    };
    let mut first = bare().pass(takes_all()).await.api.writes();
    first.sort_unstable();
    let wanted = [
        "PATCH agentsandboxes/fix-login",
        STATUS,
        "POST configmaps",
        "POST networkpolicies",
        "POST networkpolicies",
        "POST pods",
        "POST pods",
        "POST secrets",
        "POST serviceaccounts",
        "POST serviceaccounts",
        "POST services",
    ];
    assert_eq!(first, wanted);
    let starting = |pod: &Pod| Pod { status: None, ..pod.clone() };
    let serving = Scene::running().service(service::shut).agent(starting).pass(takes_all()).await;
    assert_eq!(serving.api.writes(), [SERVICE_IS_WRITTEN, STATUS]);
    let running = Scene::running().pass(takes_all()).await;
    assert_eq!(running.api.writes(), [STATUS], "the fence has reported, the agent runs");
}

/// Between the status that it began and the one that it is ready.
#[tokio::test]
async fn steps_of_a_start_are_told_together_and_the_end_of_it_at_once() {
    let scene = |serving: bool| match serving {
        true => Scene::running().service(service::shut).agent(|pod| Pod { status: None, ..pod.clone() }),
        false => Scene::running(),
    };
    let first: AgentSandboxStatus = {
        let mut scene = Scene::running();
        scene.children.clear();
        from(scene.pass(takes_all()).await.api.body(STATUS)["status"].clone())
    };
    for (serving, told, wanted) in [
        (true, true, vec![SERVICE_IS_WRITTEN]),
        (true, false, vec![SERVICE_IS_WRITTEN, STATUS]),
        (false, true, vec![STATUS]),
    ] {
        let mut scene = scene(serving);
        scene.sandbox.status = Some(first.clone());
        let api = scene.api(takes_all()).await;
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
        if told {
            ctx.progress.tell(fixtures::UID, None, &first, Timestamp::now());
        }
        let action = reconcile(Arc::new(scene.sandbox), ctx).await.unwrap();
        assert_eq!(api.writes(), wanted, "serving {serving}, told {told}");
        assert_eq!(
            action == Action::await_change(),
            !(serving && told),
            "what is untold wakes the next pass"
        );
    }
}

#[tokio::test]
async fn a_cluster_that_does_not_know_our_kinds_yet_is_asked_again_after_a_short_pause_that_does_not_grow() {
    let refused = |what: &'static str| -> Says {
        let message = "it is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for Kind AgentSandbox";
        Box::new(move |asked| (asked.line == what).then(|| refusal(403, "Forbidden", message)))
    };
    let bare = || {
        let mut scene = Scene::running();
        scene.children.clear();
        scene
    };
    let pause = Action::requeue(outcome::KINDS_RETRY);
    let supply = bare().pass(refused("POST serviceaccounts")).await;
    assert_eq!(supply.result.unwrap(), pause);
    let wall = bare().pass(refused("POST networkpolicies")).await;
    let error = wall.result.unwrap_err();
    let sandbox = fixtures::sandbox(|_| ());
    // A replica for which nothing is out of bounds: that would shorten the pause.
    let ctx = fixtures::ctx(wall.api.client.clone(), &sandbox, &[], &[]);
    for _ in 0..5 {
        assert_eq!(retry(&sandbox, &error, &ctx), pause);
    }
}

mod claims;
mod deadline;
mod due;
mod ending;
mod finish;
mod idle;
mod kept;
mod requests;
mod suspend;
pub(super) mod way;
