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
    /// What it answers of the sandbox; none where that is as the watches show it.
    shown: Option<(u16, Value)>,
    /// Whether its claim is there.
    has_claim: bool,
    patience: Patience,
    /// The pods that the API server lists.
    pods: Vec<Value>,
}

impl Case {
    /// One whose template is there as the watches show it, if they show one, and says that the claim goes where they show none.
    fn of(templates: Templates) -> Self {
        let live = template(if let Templates::One(when) = templates { when } else { Some(Delete) });
        let live = (200, serde_json::to_value(live).unwrap());
        let (own, patience, pods) = (json!({}), Patience::none(), Vec::new());
        Self { own, templates, live, shown: None, has_claim: true, patience, pods }
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
        let (of_template, shown, has_claim) = (self.live, self.shown, self.has_claim);
        let says = move |asked: &Asked| match asked.line.as_str() {
            "GET pods" => Some((200, pods.clone())),
            TEMPLATE_IS_ASKED => Some(of_template.clone()),
            _ if is_asked_for(asked) => shown.clone(),
            line if line.strip_prefix("GET ") == Some(CLAIM) => has_claim.then(|| (200, live.value())),
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
        assert!(is_let_go(&after), "its teardown ends: {:?}", after.api.writes());
        let told = after.api.asked().iter().any(|asked| asked.body["reason"] == "WorkspaceRetained");
        (after.api.was_asked(CLAIM_IS_DELETED), told)
    }
}

const SANDBOX_IS_PATCHED: &str = "PATCH agentsandboxes/fix-login";

/// Whether this asks for the sandbox, by a patch that changes nothing.
fn is_asked_for(asked: &Asked) -> bool {
    asked.line == SANDBOX_IS_PATCHED && asked.body["metadata"]["finalizers"].is_null()
}

/// Whether its finalizer was taken off.
fn is_let_go(after: &After) -> bool {
    after.api.asked().iter().any(|asked| asked.line == SANDBOX_IS_PATCHED && !is_asked_for(asked))
}

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
    assert!(is_let_go(&after), "the control: {:?}", after.api.writes());
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

/// The sandbox as the API server itself has it, with this spec beside its template's name.
fn shown(spec: &Value) -> (u16, Value) {
    let mut own = fixtures::sandbox(|own| own.spec = from(spec.clone()));
    own.spec.template_ref = Some(TemplateRef { name: "jobs".to_owned() });
    (200, serde_json::to_value(own).unwrap())
}

#[tokio::test]
async fn a_claim_goes_only_where_its_sandbox_says_nothing_else_by_then_whatever_the_watches_show() {
    let says = |when| json!({"workspace": lasting(Some(when))});
    let (silent, not_lasting) = (json!({}), json!({"workspace": {"access": "ReadWrite"}}));
    let gone = || refusal(404, "NotFound", "agentsandboxes \"fix-login\" not found");
    for (what, watched, live, wanted) in [
        ("it says the same", says(Delete), shown(&says(Delete)), GOES),
        ("it says that it stays by now", says(Delete), shown(&says(Retain)), STAYS),
        ("it says nothing by now", says(Delete), shown(&silent), STAYS),
        ("it is gone", says(Delete), gone(), STAYS),
        ("its template says so", silent.clone(), shown(&silent), GOES),
        ("its template says so, and it says so too by now", silent.clone(), shown(&says(Delete)), GOES),
        ("its template says so, and it that it stays by now", silent.clone(), shown(&says(Retain)), STAYS),
        ("its template speaks of it no more", silent.clone(), shown(&not_lasting), STAYS),
        ("its template says so, and it is gone", silent.clone(), gone(), STAYS),
    ] {
        let case = Case::of(Templates::One(Some(Delete))).with(watched);
        assert_eq!(Case { shown: Some(live), ..case }.goes().await, wanted, "{what}");
    }
}

#[tokio::test]
async fn a_claim_whose_sandbox_nobody_shows_stays_and_its_teardown_with_it() {
    for own in [json!({"workspace": lasting(Some(Delete))}), json!({})] {
        for (code, reason) in [(500, "InternalError"), (403, "Forbidden"), (409, "Conflict")] {
            let case = Case::of(Templates::One(Some(Delete))).with(own.clone());
            let after = Case { shown: Some(refusal(code, reason, "no")), ..case }.pass().await;
            assert!(after.result.is_err() && !is_let_go(&after), "{code}: {:?}", after.api.writes());
            assert!(!after.api.was_asked(CLAIM_IS_DELETED), "{code}: {:?}", after.api.writes());
        }
    }
}

#[tokio::test]
async fn a_sandbox_is_asked_for_only_where_its_claim_is_to_go() {
    let asked_for = async |case: Case| {
        let after = case.pass().await;
        assert!(is_let_go(&after), "{:?}", after.api.writes());
        after.api.asked().iter().filter(|asked| is_asked_for(asked)).count()
    };
    let says = |when| Case::of(Templates::None).with(json!({"workspace": lasting(Some(when))}));
    assert_eq!(asked_for(says(Delete)).await, 1, "the control");
    assert_eq!(asked_for(says(Retain)).await, 0);
    assert_eq!(asked_for(Case { has_claim: false, ..says(Delete) }).await, 0, "there is none");
    assert_eq!(asked_for(Case::of(Templates::One(Some(Retain)))).await, 0);
}
