//! What stands in for a wall that somebody deleted.

use super::*;

const WALL_IS_RELEASED: &str = "PATCH networkpolicies/fix-login-agent";

/// The running sandbox, its walls deleted by somebody and held.
fn walls_deleted() -> Scene {
    let mut scene = Scene::running();
    for child in &mut scene.children {
        if let Child::NetworkPolicy(wall) = child {
            wall.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
        }
    }
    scene
}

/// What was asked about the agent's wall and its stand-in, in order.
fn about_the_agents_wall(api: &Api) -> Vec<String> {
    let named = |asked: Asked| match asked.body["metadata"]["name"].as_str() {
        Some(name) if asked.line == WALL_IS_MADE => format!("{}/{name}", asked.line),
        _ => asked.line,
    };
    let all = api.asked().into_iter().map(named);
    all.filter(|line| line.contains("networkpolicies/fix-login-agent")).collect()
}

/// The running sandbox, and the stand-in of its agent's wall after `change`.
fn stood_in(mut scene: Scene, change: impl FnOnce(&mut Value)) -> Scene {
    let wall = fixtures::boundary().into_iter().find(|c| c.kind() == ChildKind::NetworkPolicy).unwrap();
    let mut value = wall.value();
    value["metadata"]["name"] = json!("fix-login-agent-next");
    value["metadata"]["uid"] = json!("uid-of-stand-in");
    change(&mut value);
    scene.children.push(Child::NetworkPolicy(from(value)));
    scene
}

const IS_MADE: &str = "POST networkpolicies/fix-login-agent";
const STAND_IN_IS_MADE: &str = "POST networkpolicies/fix-login-agent-next";
const STAND_IN_IS_RELEASED: &str = "PATCH networkpolicies/fix-login-agent-next";
/// By other kinds of patches, at the same address.
const STAND_IN_IS_ASKED: &str = STAND_IN_IS_RELEASED;
const STAND_IN_IS_APPLIED: &str = STAND_IN_IS_RELEASED;
const STAND_IN_GOES: &str = "DELETE networkpolicies/fix-login-agent-next";

#[tokio::test]
async fn o_t6_a_deleted_wall_is_released_behind_its_stand_in_and_created_anew() {
    let after = walls_deleted().pass(takes_all()).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_MADE, WALL_IS_RELEASED, IS_MADE]);
    assert_eq!(after.api.body(WALL_IS_RELEASED)["metadata"]["finalizers"], json!([]));
    let made = after.api.asked().into_iter().filter(|asked| asked.line == WALL_IS_MADE);
    let specs: Vec<_> = made
        .filter(|asked| asked.body["metadata"]["name"].as_str().unwrap().starts_with("fix-login-agent"))
        .map(|asked| (asked.body["spec"].clone(), asked.body["metadata"]["finalizers"].clone()))
        .collect();
    assert_eq!(specs[0], specs[1], "the stand-in is the same under another name, and held like it");
    after.says("Ready", "True", "Running");
}

#[tokio::test]
async fn o_t6_a_stand_in_that_is_there_already_is_used_or_put_right_and_a_strangers_is_not() {
    let after = stood_in(walls_deleted(), |_| ()).pass(takes_all()).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_ASKED, WALL_IS_RELEASED, IS_MADE]);
    let asked = after.api.body(STAND_IN_IS_ASKED);
    assert_eq!(asked, json!({"metadata": {"uid": "uid-of-stand-in"}}), "that changes nothing");

    let dying = |value: &mut Value| value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let after = stood_in(walls_deleted(), dying).pass(takes_all()).await;
    assert_eq!(
        about_the_agents_wall(&after.api),
        [STAND_IN_IS_ASKED, WALL_IS_RELEASED, IS_MADE],
        "it is held"
    );

    let wider = |value: &mut Value| value["spec"]["egress"] = json!([{}]);
    let after = stood_in(walls_deleted(), wider).pass(takes_all()).await;
    let asked = about_the_agents_wall(&after.api);
    // The server of these tests forgets the repair, so it is asked for twice.
    let applied = [STAND_IN_IS_APPLIED, STAND_IN_IS_ASKED, STAND_IN_IS_APPLIED];
    assert_eq!(asked, [&applied[..], &[WALL_IS_RELEASED, IS_MADE]].concat());
    let body = after.api.body(STAND_IN_IS_APPLIED);
    assert!(!body["spec"].is_null(), "that is an apply of the whole");
    assert_eq!(body["metadata"]["uid"], "uid-of-stand-in", "one that went meanwhile is not made by an apply");
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());

    for change in [
        (|value: &mut Value| value["metadata"]["ownerReferences"] = Value::Null) as fn(&mut Value),
        |value| {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            value["metadata"]["finalizers"] = json!(["acme.test/x"]);
        },
    ] {
        let after = stood_in(walls_deleted(), change).pass(takes_all()).await;
        let [] = about_the_agents_wall(&after.api).as_slice() else {
            panic!("{:?}", after.api.writes());
        };
    }
}

#[tokio::test]
async fn o_t6_a_wall_is_not_released_behind_a_stand_in_that_has_gone_meanwhile() {
    let gone: Says = Box::new(|asked: &Asked| {
        let is_apply = !asked.body["spec"].is_null();
        (asked.line == STAND_IN_IS_ASKED).then(|| {
            if is_apply {
                refusal(409, "Conflict", "uid mismatch")
            } else {
                refusal(404, "NotFound", "not found")
            }
        })
    });
    let after = stood_in(walls_deleted(), |_| ()).pass(gone).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_ASKED, STAND_IN_IS_APPLIED]);
    assert_eq!(after.api.body(STAND_IN_IS_APPLIED)["metadata"]["uid"], "uid-of-stand-in");
    assert!(after.result.is_err() && !after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn o_t6_a_stand_in_that_cannot_be_asked_for_is_not_written_and_its_wall_is_not_released() {
    let no = refuses(STAND_IN_IS_ASKED, refusal(500, "InternalError", "etcd is away"));
    let after = stood_in(walls_deleted(), |_| ()).pass(no).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_ASKED], "and nothing is applied");
    assert!(after.api.body(STAND_IN_IS_ASKED)["spec"].is_null(), "that only asks");
    assert!(after.result.is_err() && !after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn a_wall_that_is_refused_again_and_again_behind_its_stand_in_makes_no_write_that_wakes_the_next_pass()
{
    let applies = |api: &Api| {
        let is_apply = |asked: &Asked| asked.line == STAND_IN_IS_APPLIED && !asked.body["spec"].is_null();
        api.asked().iter().filter(|asked| is_apply(asked)).count()
    };
    let scene = |change: fn(&mut Value)| {
        stood_in(Scene::running().without(ChildKind::NetworkPolicy, "fix-login-agent"), change)
    };
    let refused = || refuses(WALL_IS_MADE, refusal(403, "Forbidden", "a webhook denied request"));
    for (change, wanted) in [
        ((|_| ()) as fn(&mut Value), 0),
        // As the API server keeps it, which drops lists that are empty.
        (|value| drop(value["spec"].as_object_mut().unwrap().remove("ingress")), 0),
        // The control: what is not as wanted is put right.
        (|value| value["spec"]["egress"] = json!([{}]), 3),
    ] {
        let scene = scene(change);
        let api = scene.api(refused()).await;
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
        let sandbox = std::sync::Arc::new(scene.sandbox);
        for _ in 0..3 {
            let _refused = reconcile(sandbox.clone(), ctx.clone()).await;
        }
        let made = api.asked().iter().filter(|asked| asked.line == WALL_IS_MADE).count();
        assert!(made >= 3, "each pass tries: {:?}", api.writes());
        let applied = applies(&api);
        assert!(if wanted == 0 { applied == 0 } else { applied >= wanted }, "{applied}: {:?}", api.writes());
    }
}

#[tokio::test]
async fn o_t6_a_wall_is_not_released_behind_a_stand_in_that_nothing_holds() {
    let strips: Says = Box::new(|asked: &Asked| {
        let mut made = asked.body.clone();
        made["metadata"]["finalizers"] = Value::Null;
        let is_stand_in = made["metadata"]["name"].as_str().is_some_and(|name| name.ends_with("-next"));
        (asked.line == WALL_IS_MADE && is_stand_in).then_some((201, made))
    });
    let after = walls_deleted().pass(strips).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_MADE], "the wall itself is held still");
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn a_stand_in_goes_once_its_wall_stands_and_stops_nobody_meanwhile() {
    let after = stood_in(Scene::running(), |_| ()).pass(takes_all()).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_RELEASED, STAND_IN_GOES]);
    assert_eq!(after.api.body(STAND_IN_GOES)["preconditions"]["uid"], "uid-of-stand-in");
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("Ready", "True", "Running");

    let wider = |value: &mut Value| value["spec"]["egress"] = json!([{}]);
    let after = stood_in(Scene::running(), wider).pass(takes_all()).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_APPLIED], "first it is put right");
    assert_eq!(after.api.body(STAND_IN_IS_APPLIED)["metadata"]["name"], "fix-login-agent-next");
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());

    let missing = Scene::running().without(ChildKind::NetworkPolicy, "fix-login-agent");
    let after = stood_in(missing, |_| ()).pass(takes_all()).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_ASKED, IS_MADE], "not before");
    let theirs = |value: &mut Value| value["metadata"]["ownerReferences"] = Value::Null;
    let after = stood_in(Scene::running(), theirs).pass(takes_all()).await;
    assert_eq!(about_the_agents_wall(&after.api), [""; 0], "a stranger's is left alone");
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "and widens the walls");
}

#[tokio::test]
async fn o_t9_a_policy_that_bears_the_name_and_the_owner_of_a_stand_in_widens_like_any_other() {
    let forged = |value: &mut Value| {
        value["metadata"]["labels"] = Value::Null;
        value["metadata"]["finalizers"] = Value::Null;
        value["spec"] = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
    };
    let after = stood_in(Scene::running(), forged).pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "False", "EgressWidened");
    assert!(after.api.body(STATUS).to_string().contains("fix-login-agent-next"));
}

#[tokio::test]
async fn a_wall_that_cannot_be_put_up_anew_yet_bounds_its_agent_until_it_can() {
    let full = || refusal(403, "Forbidden", "networkpolicies is forbidden: exceeded quota: networkpolicies");
    let refusing = |name: &'static str| -> Says {
        Box::new(move |asked: &Asked| {
            let is_it = asked.line == WALL_IS_MADE && asked.body["metadata"]["name"] == name;
            is_it.then(full)
        })
    };
    let after = walls_deleted().pass(refusing("fix-login-agent-next")).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_MADE], "the wall stands still");
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let after = walls_deleted().pass(refusing("fix-login-agent")).await;
    assert_eq!(about_the_agents_wall(&after.api), [STAND_IN_IS_MADE, WALL_IS_RELEASED, IS_MADE]);
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let missing = || Scene::running().without(ChildKind::NetworkPolicy, "fix-login-agent");
    let after = stood_in(missing(), |_| ()).pass(refusing("fix-login-agent")).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let after = missing().pass(refusing("fix-login-agent")).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "nothing bounds it");
}

#[tokio::test]
async fn a_stand_in_stays_while_its_wall_is_not_as_wanted() {
    let mut scene = stood_in(Scene::running(), |_| ());
    let is_wall =
        |child: &&mut Child| child.kind() == ChildKind::NetworkPolicy && child.name() == "fix-login-agent";
    let wall = scene.children.iter_mut().find(is_wall).unwrap();
    let mut value = wall.value();
    value["spec"]["podSelector"] = json!({"matchLabels": {"a": "b"}});
    *wall = Child::NetworkPolicy(from(value));
    let after = scene.pass(takes_all()).await;
    assert!(!after.api.was_asked(STAND_IN_GOES), "{:?}", after.api.writes());
}

#[tokio::test]
async fn o_t6_a_wall_is_not_released_in_a_namespace_that_ends_and_its_agent_is_stopped() {
    let ends = refusal(
        403,
        "Forbidden",
        "unable to create new content in namespace team because it is being terminated",
    );
    let after = walls_deleted().pass(refuses(WALL_IS_MADE, ends)).await;
    assert!(!after.api.was_asked(WALL_IS_RELEASED), "{:?}", after.api.writes());
    assert_eq!(grace(&after.api), 1);
    after.says("NetworkIsolated", "False", "NamespaceTerminating");
}

#[tokio::test]
async fn walls_that_are_deleted_with_their_sandbox_stand_and_the_agent_may_end_calmly() {
    let after = ending(walls_deleted()).pass(takes_all()).await;
    assert_eq!(grace(&after.api), Value::Null);
    assert!(!after.api.was_asked(WALL_IS_RELEASED) && !after.api.was_asked(WALL_IS_MADE));
}

#[tokio::test]
async fn an_agent_that_is_to_end_is_hurried_where_a_wall_that_was_deleted_is_held_by_nothing_of_ours() {
    for name in ["fix-login-agent", "fix-login-proxy"] {
        let mut scene = walls_deleted();
        for child in scene.children.iter_mut().filter(|child| child.name() == name) {
            if let Child::NetworkPolicy(wall) = child {
                wall.metadata.finalizers = Some(vec!["acme.test/x".to_owned()]);
            }
        }
        assert_eq!(grace(&ending(scene).pass(takes_all()).await.api), 1, "{name}");
    }
}

#[tokio::test]
async fn an_agent_is_not_stopped_for_a_wall_that_stands_until_another_does_however_long_that_takes() {
    for (scene, is_stopped) in [(walls_deleted(), false), (wallless(), true)] {
        let api = scene.api(takes_all()).await;
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
        ctx.breaches.exhaust(UID);
        reconcile(scene.sandbox.into(), ctx).await.unwrap();
        assert_eq!(api.was_asked(AGENT_IS_STOPPED), is_stopped, "{:?}", api.writes());
    }
}
