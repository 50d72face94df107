//! An operator for one namespace, to which the API server answers nothing but what a Role there and one in its own namespace allow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_operator::config::LeaderElection;
use agentsandbox_operator::one_namespace::OneNamespace;
use agentsandbox_operator::rbac::{self, PERMISSIONS, Scope};
use agentsandbox_sim::faults::{Asked, Fate, Rule};
use agentsandbox_sim::kinds::{CLASSES, RUNTIME_CLASSES, SANDBOXES};
use agentsandbox_sim::objects::{self, SYSTEM, TEAM};
use agentsandbox_sim::rig::{Rig, simulate};
use serde_json::json;

/// Verbs as RBAC names them.
fn verb(line: &str) -> &str {
    match line.split(' ').next().unwrap() {
        "WATCH" => "watch",
        "LIST" => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => panic!("{other} is no verb"),
    }
}

/// Whether the two Roles allow a request.
fn allowed(asked: &Asked) -> bool {
    let path = asked.line.split(' ').nth(1).unwrap();
    let plural = path.split('/').next().unwrap();
    let resource = if path.ends_with("/status") { format!("{plural}/status") } else { plural.to_owned() };
    let holds = |verbs: &[&str]| verbs.contains(&verb(&asked.line));
    let there = |one: &rbac::Permission| one.resource == resource && holds(one.verbs);
    match asked.namespace.as_str() {
        TEAM => rbac::in_one_namespace().any(there),
        SYSTEM => PERMISSIONS.iter().filter(|one| one.scope == Scope::OwnNamespace).any(there),
        _ => false,
    }
}

fn only() -> Arc<OneNamespace> {
    let class = json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass",
        "metadata": {"name": "gvisor", "annotations": {"agentsandbox.dev/is-default-class": "true"}},
        "spec": {"isolation": "GVisor", "runtimeClassName": "gvisor"},
    });
    Arc::new(OneNamespace {
        namespace: TEAM.to_owned(),
        classes: vec![serde_json::from_value(class).unwrap()],
        api_service: "10.96.0.1:443".parse().unwrap(),
        api_endpoints: vec!["10.0.0.1:6443".parse().unwrap()],
    })
}

/// A cluster that refuses what the Roles do not allow, and remembers it.
fn refusing(only: Option<Arc<OneNamespace>>) -> (Rig, Arc<Mutex<BTreeSet<String>>>) {
    let refused = Arc::new(Mutex::new(BTreeSet::new()));
    let told = Arc::clone(&refused);
    let mut rig = Rig::new(
        1,
        Rule(move |asked: &Asked| {
            if allowed(asked) {
                return Fate::Serve;
            }
            told.lock().unwrap().insert(format!("{:?} {}", asked.namespace, asked.line));
            Fate::Refuse(403, None)
        }),
    );
    rig.election = LeaderElection::Lease;
    rig.only = only;
    (rig, refused)
}

#[test]
fn o_h31_an_operator_for_one_namespace_works_with_the_rights_of_roles_alone() {
    simulate(async {
        let (mut rig, refused) = refusing(Some(only()));
        // Neither is asked for.
        rig.world.act("administrator", |store| {
            for kind in [&CLASSES, &RUNTIME_CLASSES] {
                store.delete(kind, ("", "gvisor"), &agentsandbox_sim::store::Deletion::default()).unwrap();
            }
        });
        rig.start("operator-0");
        rig.create("a");
        let mut elsewhere = objects::sandbox("b");
        elsewhere["metadata"]["namespace"] = json!("default");
        rig.world.act("user", |store| objects::create(store, elsewhere));
        rig.ready("a").await;
        rig.delete("a");
        rig.until(Duration::from_secs(120), "its end", |store| store.get(&SANDBOXES, TEAM, "a").is_none())
            .await;
        let other = rig.world.world().store.get(&SANDBOXES, "default", "b").unwrap().clone();
        assert!(other["status"].get("observedGeneration").is_none(), "it was served: {other}");
        assert!(other["metadata"].get("finalizers").is_none(), "{other}");
        assert_eq!(*refused.lock().unwrap(), BTreeSet::new());
    });
}

/// The control: what the Roles do not allow is asked for, and refused, where every namespace is served.
#[test]
fn o_h31_an_operator_for_every_namespace_does_not_start_with_the_rights_of_one() {
    simulate(async {
        let (mut rig, refused) = refusing(None);
        rig.start("operator-0");
        rig.create("a");
        rig.pass(Duration::from_secs(120)).await;
        assert!(refused.lock().unwrap().iter().any(|line| line.ends_with("LIST nodes")));
        let sandbox = rig.world.world().store.get(&SANDBOXES, TEAM, "a").unwrap().clone();
        assert!(sandbox["status"].get("observedGeneration").is_none(), "{sandbox}");
    });
}
