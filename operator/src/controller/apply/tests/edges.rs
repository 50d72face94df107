//! Names that are taken, and pods that are kept by our finalizer.

use agentsandbox_crds::names::PROGRAM_FINALIZER;

use super::*;
use crate::controller::desired::claim;

/// The agent's pod, which runs, on its way out, and which our finalizer and another's keep.
fn kept() -> Pod {
    let mut pod = agent_pod();
    pod.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    pod.metadata.finalizers = Some(vec!["acme.test/x".to_owned(), PROGRAM_FINALIZER.to_owned()]);
    pod
}

const IT_IS_LET_GO: &str = "PATCH pods/fix-login-agent";

#[tokio::test]
async fn an_agent_that_nobody_ends_is_not_let_go_with_its_proxy_and_one_that_is_ended_is() {
    for (ending, goes) in [(Ending::Proxies, false), (Ending::All, true)] {
        let (api, ctx) = server(vec![kept()], takes_all()).await;
        let left = power_down(&ctx.writer, &identity(), ending).await.unwrap();
        assert_eq!(left.len(), 1, "its program may still run: {left:?}");
        assert_eq!(api.was_asked(IT_IS_LET_GO), goes, "{ending:?}: {:?}", api.writes());
    }
}

#[tokio::test]
async fn a_pod_that_went_meanwhile_is_let_go_and_one_that_changed_is_not() {
    let (api, ctx) = server(Vec::new(), refuses(IT_IS_LET_GO, 404, "NotFound")).await;
    release(&ctx.writer, &identity(), &kept()).await.unwrap();
    let named = &api.body(IT_IS_LET_GO)["metadata"];
    let exactly =
        json!({"uid": "uid-of-fix-login-agent", "resourceVersion": "50", "finalizers": ["acme.test/x"]});
    assert_eq!(*named, exactly);
    let (_, ctx) = server(Vec::new(), refuses(IT_IS_LET_GO, 409, "Conflict")).await;
    assert!(release(&ctx.writer, &identity(), &kept()).await.is_err(), "it may be kept still");
}

#[tokio::test]
async fn a_claim_of_ours_that_is_found_in_place_of_a_new_one_is_left_as_it_is() {
    let sized = |size: &str| {
        let workspace = json!({"access": "Persistent", "persistent": {"size": size}});
        let lasting = fixtures::accepted(|s| s.spec.workspace = Some(from(workspace)));
        Child::PersistentVolumeClaim(Box::new(claim::claim(&lasting).unwrap()))
    };
    let smaller = fixtures::live(sized("1Gi"));
    assert!(differs(&sized("2Gi"), &smaller), "the control: a pass would put it right");
    let shown = smaller.value();
    let says: Says = Box::new(move |asked| match asked.line.as_str() {
        "POST persistentvolumeclaims" => Some(refusal(409, "AlreadyExists", "exists")),
        "GET persistentvolumeclaims/fix-login-workspace" => Some((200, shown.clone())),
        _ => None,
    });
    let (api, ctx) = server(Vec::new(), says).await;
    let found = ctx.writer.step(&identity(), Step::Create(sized("2Gi"))).await.unwrap();
    assert_eq!(found, smaller);
    assert_eq!(api.writes(), ["POST persistentvolumeclaims"], "most of it could not be changed by an apply");
}

#[tokio::test]
async fn only_the_name_of_what_a_workspace_begins_with_is_asked_for_and_only_while_its_pod_waits() {
    let with = |source: serde_json::Value| fixtures::accepted(|s| s.spec.workspace = Some(from(source)));
    let waiting = Applied::Present(Box::new(Pod { status: None, ..agent_pod() }));
    let map = with(json!({"configMap": {"name": "task"}}));
    let claim = with(json!({"persistentVolumeClaim": {"claimName": "datasets"}}));
    for (accepted, kind, name, line) in [
        (&map, ChildKind::ConfigMap, "task", "GET configmaps/task"),
        (&claim, ChildKind::PersistentVolumeClaim, "datasets", "GET persistentvolumeclaims/datasets"),
    ] {
        let missing = Some(Missing { kind, name: name.to_owned() });
        let (api, ctx) = server(Vec::new(), refuses(line, 404, "NotFound")).await;
        assert_eq!(ctx.writer.missing(accepted, &waiting).await, missing);
        assert!(api.was_asked(line));
        // What cannot be asked is not known.
        let (_, ctx) = server(Vec::new(), refuses(line, 403, "Forbidden")).await;
        assert_eq!(ctx.writer.missing(accepted, &waiting).await, None);
        let there = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}});
        let (_, ctx) = server(
            Vec::new(),
            Box::new(move |asked: &Asked| (asked.line == line).then(|| (200, there.clone()))),
        )
        .await;
        assert_eq!(ctx.writer.missing(accepted, &waiting).await, None);

        let mut made = agent_pod();
        made.status =
            Some(from(json!({"conditions": [{"type": "PodReadyToStartContainers", "status": "True"}]})));
        let (api, ctx) = server(Vec::new(), refuses(line, 404, "NotFound")).await;
        assert_eq!(ctx.writer.missing(accepted, &Applied::Present(Box::new(made))).await, None);
        assert_eq!(ctx.writer.missing(accepted, &Applied::Absent).await, None);
        assert!(!api.was_asked(line), "of a pod that has its volumes nothing is asked");
    }
}
