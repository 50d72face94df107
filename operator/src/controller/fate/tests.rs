//! Which claims are left when their sandbox is deleted.

use std::sync::Arc;

use agentsandbox_crds::template::{AgentSandboxTemplate, TemplateRef};
use agentsandbox_crds::workspace::WhenDeleted::{self, Delete, Retain};
use kube::runtime::controller::Action;
use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use crate::controller::desired::{Child, ChildKind, claim};
use crate::controller::tests::{AGENT_IS_STOPPED, After, Scene};
use crate::controller::{Patience, reconcile};
use crate::fixtures::api::{Asked, refusal};
use crate::fixtures::{self, from};

const CLAIM: &str = "persistentvolumeclaims/fix-login-workspace";
const CLAIM_IS_DELETED: &str = "DELETE persistentvolumeclaims/fix-login-workspace";
const TEMPLATE_IS_ASKED: &str = "GET agentsandboxtemplates/jobs";

fn lasting(when: Option<WhenDeleted>) -> Value {
    let mut persistent = json!({"size": "1Gi"});
    if let Some(when) = when {
        persistent["whenDeleted"] = json!(when);
    }
    json!({"access": "Persistent", "persistent": persistent})
}

/// The template `jobs`, which says this of claims.
fn template(when: Option<WhenDeleted>) -> AgentSandboxTemplate {
    fixtures::template(|t| {
        t.spec.sandbox.workspace = Some(from(lasting(when)));
        t.spec.sandbox.lifecycle = None;
    })
}

/// What the watches show of templates.
#[derive(Clone, Copy, Debug)]
enum Templates {
    /// No list has come.
    Unlisted,
    /// There is none.
    None,
    /// The sandbox's, which says this.
    One(Option<WhenDeleted>),
}

/// A sandbox with a template, and with its claim.
struct Case {
    own: Value,
    templates: Templates,
    /// What the API server itself answers of the template.
    live: (u16, Value),
    patience: Patience,
    /// The pods that the API server lists.
    pods: Vec<Value>,
}

impl Case {
    /// One whose template is there as the watches show it, if they show one, and says that the claim goes where they show none.
    fn of(templates: Templates) -> Self {
        let live = template(if let Templates::One(when) = templates { when } else { Some(Delete) });
        let live = (200, serde_json::to_value(live).unwrap());
        Self { own: json!({}), templates, live, patience: Patience::none(), pods: Vec::new() }
    }

    fn with(self, own: Value) -> Self {
        Self { own, ..self }
    }

    async fn pass(self) -> After {
        let made = fixtures::accepted(|s| s.spec.workspace = Some(from(lasting(Some(Delete)))));
        let live = fixtures::live(Child::PersistentVolumeClaim(Box::new(claim::claim(&made).unwrap())));
        let mut scene = Scene::running();
        scene.sandbox.spec = from(self.own);
        scene.sandbox.spec.template_ref = Some(TemplateRef { name: "jobs".to_owned() });
        scene.sandbox.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
        scene.children.retain(|child| child.kind() != ChildKind::Pod);
        scene.children.push(live.clone());
        let pods = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": self.pods});
        let of_template = self.live;
        let says = move |asked: &Asked| match asked.line.as_str() {
            "GET pods" => Some((200, pods.clone())),
            TEMPLATE_IS_ASKED => Some(of_template.clone()),
            line if line.strip_prefix("GET ") == Some(CLAIM) => Some((200, live.value())),
            _ => None,
        };
        let api = scene.api(Box::new(says)).await;
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
        let mut ctx = Arc::into_inner(ctx).unwrap();
        let (templates, mut writer) = store::<AgentSandboxTemplate>();
        ctx.stores.templates = templates;
        if !matches!(self.templates, Templates::Unlisted) {
            writer.apply_watcher_event(&Event::Init);
            if let Templates::One(when) = self.templates {
                writer.apply_watcher_event(&Event::InitApply(template(when)));
            }
            writer.apply_watcher_event(&Event::InitDone);
        }
        ctx.patience = self.patience;
        let ctx = Arc::new(ctx);
        let result = reconcile(Arc::new(scene.sandbox), Arc::clone(&ctx)).await;
        After { api, ctx, result }
    }

    /// Whether its claim is deleted with it, and whether it is told that it stays.
    async fn goes(self) -> (bool, bool) {
        let after = self.pass().await;
        assert!(after.api.was_asked(IS_LET_GO), "its teardown ends: {:?}", after.api.writes());
        let told = after.api.asked().iter().any(|asked| asked.body["reason"] == "WorkspaceRetained");
        (after.api.was_asked(CLAIM_IS_DELETED), told)
    }
}

const IS_LET_GO: &str = "PATCH agentsandboxes/fix-login";
const GOES: (bool, bool) = (true, false);
const STAYS: (bool, bool) = (false, true);

#[tokio::test]
async fn a_claim_whose_template_is_gone_or_was_never_listed_stays() {
    for templates in [Templates::None, Templates::Unlisted] {
        assert_eq!(Case::of(templates).goes().await, STAYS, "{templates:?}");
    }
    assert_eq!(Case::of(Templates::One(Some(Delete))).goes().await, GOES, "the control");
}

#[tokio::test]
async fn a_claim_goes_by_its_templates_word_only_where_the_api_server_itself_has_that_word() {
    let written = |when| serde_json::to_value(template(when)).unwrap();
    let mut unreadable = written(Some(Delete));
    unreadable["spec"]["sandbox"]["workspace"]["persistent"]["whenDeleted"] = json!("Archive");
    for (what, live, wanted) in [
        ("it says the same", (200, written(Some(Delete))), GOES),
        ("it says that claims stay by now", (200, written(Some(Retain))), STAYS),
        ("it says nothing by now", (200, written(None)), STAYS),
        ("it cannot be read", (200, unreadable), STAYS),
        ("it is gone", refusal(404, "NotFound", "there is none"), STAYS),
        ("it is not shown to the operator", refusal(403, "Forbidden", "no"), STAYS),
        ("nobody knows", refusal(500, "InternalError", "etcd is away"), STAYS),
    ] {
        let case = Case { live, ..Case::of(Templates::One(Some(Delete))) };
        assert_eq!(case.goes().await, wanted, "{what}");
    }
    let live = (200, written(Some(Delete)));
    let case = Case { live, ..Case::of(Templates::One(Some(Retain))) };
    assert_eq!(case.goes().await, STAYS, "a watch that is behind keeps it too");
}

#[tokio::test]
async fn a_list_that_may_come_in_a_moment_is_awaited_before_a_claim_is_judged_and_no_pod_waits_for_it() {
    let pass = async |patience: Patience, pods: Vec<Value>| {
        Case { patience, pods, ..Case::of(Templates::Unlisted) }.pass().await
    };
    let agent = json!({"metadata": {"name": "fix-login-agent", "uid": "uid-of-agent", "labels": {
        "agentsandbox.dev/sandbox-uid": fixtures::UID, "agentsandbox.dev/component": "agent",
    }}});
    let after = pass(Patience::default(), Vec::new()).await;
    assert_eq!(after.api.writes(), [""; 0]);
    assert_ne!(after.result.unwrap(), Action::await_change(), "it is looked at again");
    let after = pass(Patience::none(), Vec::new()).await;
    assert!(after.api.was_asked(IS_LET_GO), "the control: {:?}", after.api.writes());
    let after = pass(Patience::default(), vec![agent]).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn what_its_template_says_counts_and_what_it_says_itself_before_that() {
    for (says, wanted) in [(Some(Delete), GOES), (Some(Retain), STAYS), (None, STAYS)] {
        assert_eq!(Case::of(Templates::One(says)).goes().await, wanted, "{says:?}");
    }
    for (says, wanted) in [(Delete, GOES), (Retain, STAYS)] {
        for templates in [Templates::Unlisted, Templates::None, Templates::One(Some(Delete))] {
            let case = Case {
                live: refusal(403, "Forbidden", "no"),
                ..Case::of(templates).with(json!({"workspace": lasting(Some(says))}))
            };
            assert_eq!(case.goes().await, wanted, "{says:?}, {templates:?}");
        }
    }
}

#[tokio::test]
async fn a_sandbox_outside_of_its_template_loses_its_claim_as_that_says() {
    let wider = || json!({"resources": {"limits": {"memory": "2Gi"}}});
    for (says, wanted) in [(Some(Delete), GOES), (Some(Retain), STAYS), (None, STAYS)] {
        let case = Case::of(Templates::One(says)).with(wider());
        assert_eq!(case.goes().await, wanted, "{says:?}");
    }
    for own in [
        json!({"workspace": {"access": "ReadWrite"}, "resources": {"limits": {"memory": "2Gi"}}}),
        json!({"workspace": {"access": "ReadWrite"}}),
    ] {
        let case = Case::of(Templates::One(Some(Delete))).with(own.clone());
        assert_eq!(case.goes().await, STAYS, "it has none that its template would speak of: {own}");
    }
}
