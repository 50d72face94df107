//! Passes over a sandbox that has its spec from a template.

use agentsandbox_crds::template::TemplateRef;
use agentsandbox_policy::Idle;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::controller::desired::ChildKind;
use crate::controller::observe::references;
use crate::controller::tests::{AGENT_IS_STOPPED, After, STATUS, Scene, takes_all};
use crate::controller::{accept, reconcile};
use crate::fixtures::{self, from};

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";

/// A sandbox of this template with these fields, running whole.
fn of(name: &str, spec: Value) -> Scene {
    let mut scene = Scene::running();
    scene.sandbox.spec = from(spec);
    scene.sandbox.spec.template_ref = Some(TemplateRef { name: name.to_owned() });
    scene
}

/// The same without pods.
fn fresh(name: &str, spec: Value) -> Scene {
    of(name, spec).without(ChildKind::Pod, "fix-login-agent").without(ChildKind::Pod, "fix-login-proxy")
}

fn created(after: &After, name: &str) -> Value {
    let asked = after.api.asked().into_iter().filter(|asked| asked.line == "POST pods");
    let mut bodies = asked.map(|asked| asked.body);
    bodies.find(|body| body["metadata"]["name"] == name).unwrap_or_else(|| panic!("{:?}", after.api.writes()))
}

#[tokio::test]
async fn a_sandbox_is_built_as_its_template_says_and_as_it_says_itself() {
    let spec = json!({"agent": {"args": ["-p", "work"]}, "resources": {"limits": {"memory": "512Mi"}}});
    let after = fresh("jobs", spec).pass(takes_all()).await;
    after.says("Accepted", "True", "Accepted");
    let pod = created(&after, "fix-login-agent");
    let agent = &pod["spec"]["containers"][0];
    assert_eq!((&agent["image"], &agent["args"]), (&json!("ghcr.io/acme/agent:2.1"), &json!(["-p", "work"])));
    assert_eq!(pod["spec"]["restartPolicy"], "Never", "the template has it a Task");
    assert!(
        pod["spec"].to_string().contains("512Mi") || pod["spec"].to_string().contains("536870912"),
        "{pod}"
    );
    let policy = after.api.body("PATCH configmaps/fix-login-policy")["data"].to_string();
    assert!(policy.contains("pypi.org") && !policy.contains("anthropic"), "{policy}");
}

#[tokio::test]
async fn a_sandbox_that_was_just_given_its_finalizer_is_still_its_templates() {
    const IT_IS_ASKED_FOR: &str = "PATCH agentsandboxes/fix-login";
    let mut scene = fresh("jobs", json!({}));
    scene.sandbox.metadata.finalizers = None;
    let after = scene.pass(takes_all()).await;
    // By the template it may come to an end by itself, so it is asked for once more before a pod is made.
    let asked = after.api.asked().into_iter().filter(|asked| asked.line == IT_IS_ASKED_FOR).count();
    assert!(asked >= 2, "{:?}", after.api.writes());
    assert_eq!(created(&after, "fix-login-agent")["spec"]["restartPolicy"], "Never");
}

#[tokio::test]
async fn without_its_template_or_outside_of_it_nothing_runs_and_the_walls_stay() {
    let wider = json!({"resources": {"limits": {"memory": "2Gi"}}});
    for (name, spec, reason, field, says) in [
        (
            "nobody",
            json!({}),
            "TemplateNotFound",
            "spec.templateRef.name",
            "there is no AgentSandboxTemplate nobody",
        ),
        (
            "jobs",
            wider,
            "OutsideTemplate",
            "spec.resources.limits.memory",
            "in spec.sandbox.resources.limits.memory; write at most 1Gi",
        ),
    ] {
        let after = of(name, spec).pass(takes_all()).await;
        let writes = after.api.writes();
        assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.api.was_asked(PROXY_IS_STOPPED), "{writes:?}");
        assert!(!writes.iter().any(|line| line.contains("networkpolicies")), "{writes:?}");
        after.says("Accepted", "False", reason);
        after.says("Ready", "False", reason);
        after.says("Stalled", "True", reason);
        let told = after.api.body(STATUS)["status"]["conditions"].to_string();
        assert!(told.contains(field) && told.contains(says), "{told}");
    }
    let narrower = json!({"resources": {"limits": {"memory": "1Gi"}}});
    fresh("jobs", narrower).pass(takes_all()).await.says("Accepted", "True", "Accepted");
}

#[tokio::test]
async fn a_life_is_as_long_as_its_template_says() {
    let mut scene = of("jobs", json!({}));
    scene.sandbox.status = Some(from(json!({"className": "gvisor", "startedAt": "2026-01-01T00:00:00Z"})));
    let after = scene.pass(takes_all()).await;
    after.says("Ready", "False", "LifetimeExceeded");
    assert!(after.api.was_asked(PROXY_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn a_sandbox_lies_idle_for_as_long_as_its_template_says() {
    let now = Timestamp::now();
    let mut scene = of("jobs", json!({})).agent_changed(|pod| {
        let mut value = serde_json::to_value(&*pod).unwrap();
        let began = now - SignedDuration::from_mins(40);
        value["metadata"]["creationTimestamp"] = json!(began);
        value["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = json!(began);
        *pod = from(value);
    });
    scene.sandbox.status = Some(from(json!({"className": "gvisor"})));
    let api = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    let living = living(&ctx.stores, &Arc::new(scene.sandbox.clone()));
    ctx.denials.activities.learn(&living, Idle { seconds: 1800, has_passed: true }, ctx.clock.now());
    let result = reconcile(Arc::new(scene.sandbox), Arc::clone(&ctx)).await;
    After { api, ctx, result }.says("Ready", "False", "IdleTimeoutExceeded");
}

#[tokio::test]
async fn the_end_of_a_program_that_ran_once_is_told_though_its_template_is_gone() {
    let after = of("nobody", json!({})).agent_changed(fixtures::ended).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS], "its pod stays until that is told");
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3);
}

#[tokio::test]
async fn what_is_wrong_in_the_template_is_told_with_its_field() {
    let scene = of("jobs", json!({"agent": {"args": ["-p", "work"]}}));
    let api = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    let whole = merged(&ctx.stores, &Arc::new(scene.sandbox)).unwrap();
    let mut known = references(&ctx.stores, "team");
    let mut class = fixtures::class(|_| ());
    class.spec.images = Some(from(json!({"allowedRegistries": ["quay.io"]})));
    known.classes = vec![Arc::new(class)];
    let rejected = accept::accept(&fixtures::identity(), &whole, &known, &fixtures::platform()).unwrap_err();
    let [only]: [Rejection; 1] = placed(&whole, rejected).try_into().unwrap();
    let Rejection { reason, field, message } = only;
    assert_eq!((reason, field.as_str()), (RejectionReason::OutsideClass, "spec.agent.image"));
    assert!(
        message.ends_with("(AgentSandboxTemplate jobs says it, in spec.sandbox.agent.image)"),
        "{message}"
    );
    let own = Rejection { reason, field: "spec.agent.args".to_owned(), message: "no".to_owned() };
    assert_eq!(placed(&whole, vec![own.clone()]), [own], "the control: the sandbox's own");
}

#[tokio::test]
async fn how_long_it_may_lie_idle_is_the_same_by_itself_as_with_all_that_its_template_says() {
    for (own, says) in [(json!({}), Some("30m")), (json!({"lifecycle": {"idleTimeout": "5m"}}), Some("5m"))] {
        let scene = of("jobs", own);
        let api = scene.api(takes_all()).await;
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
        let sandbox = Arc::new(scene.sandbox);
        let timeout = |sandbox: &AgentSandbox| sandbox.spec.lifecycle.as_ref()?.idle_timeout.clone();
        assert_eq!(idling(&ctx.stores, &sandbox).and_then(|one| timeout(&one)).as_deref(), says);
        assert_eq!(timeout(&living(&ctx.stores, &sandbox)).as_deref(), says);
        let alone = Arc::new(fixtures::sandbox(|_| ()));
        assert_eq!(idling(&ctx.stores, &alone), None);
    }
}

#[tokio::test]
async fn what_was_told_of_its_workspace_stays_told_while_its_template_is_gone() {
    let mut scene = of("nobody", json!({}));
    scene.sandbox.status = Some(from(json!({
        "className": "gvisor", "workspace": {"files": 1, "bytes": 2, "leftOut": 3, "claimName": "fix-login-workspace"},
    })));
    let after = scene.pass(takes_all()).await;
    after.says("Accepted", "False", "TemplateNotFound");
    assert_eq!(after.api.body(STATUS)["status"]["workspace"]["claimName"], "fix-login-workspace");
}
