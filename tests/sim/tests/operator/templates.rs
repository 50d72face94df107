//! Sandboxes that have their spec from a template, which changes, goes, and comes back.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::{CONFIG_MAPS, PODS, POLICIES, SANDBOXES, TEMPLATES};
use agentsandbox_sim::objects::{self, TEAM};
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Deletion, Part, Store, text};
use serde_json::{Value, json};

/// Bounds a hang.
const WITHIN: Duration = Duration::from_secs(60);

fn template() -> Value {
    let mut spec = objects::sandbox("a")["spec"].clone();
    spec["resources"] = json!({"limits": {"memory": "1Gi"}});
    json!({"metadata": {"name": "jobs", "namespace": TEAM}, "spec": {"sandbox": spec}})
}

fn made(rig: &Rig) {
    rig.world.act("platform", |store| store.create(&TEMPLATES, Some("kubectl"), template(), false).unwrap());
}

fn changed(rig: &Rig, patch: &Value) {
    let patch = json!({"spec": {"sandbox": patch}});
    rig.world.act("platform", |store| store.merge(&TEMPLATES, Part::Main, (TEAM, "jobs"), &patch).unwrap());
}

/// The reason for which the sandbox is not accepted.
fn refused(store: &Store) -> Option<String> {
    let sandbox = store.get(&SANDBOXES, TEAM, "a")?;
    let mut conditions = sandbox["status"]["conditions"].as_array()?.iter();
    let accepted = conditions.find(|one| one["type"] == "Accepted" && one["status"] == "False")?;
    Some(text(accepted, "/reason").to_owned())
}

/// Nothing of it runs, its walls stand, and this is why.
fn is_walled(store: &Store, reason: &str) -> bool {
    store.all(&PODS).count() == 0
        && store.all(&POLICIES).count() == 2
        && refused(store).as_deref() == Some(reason)
}

fn policy(store: &Store) -> String {
    let map = store.get(&CONFIG_MAPS, TEAM, "a-policy");
    map.map(|map| map["data"].to_string()).unwrap_or_default()
}

#[test]
fn a_template_counts_for_its_sandboxes_whenever_it_changes_and_without_it_nothing_of_them_runs() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        let mut sandbox = objects::sandbox("a");
        sandbox["spec"] =
            json!({"templateRef": {"name": "jobs"}, "resources": {"limits": {"memory": "512Mi"}}});
        rig.world.act("user", |store| objects::create(store, sandbox));
        rig.until(WITHIN, "it waits for its template", |store| {
            refused(store).as_deref() == Some("TemplateNotFound") && store.all(&PODS).count() == 0
        })
        .await;
        made(&rig);
        rig.ready("a").await;
        rig.settle().await;
        assert!(policy(&rig.world.world().store).contains("pypi.org"));
        changed(&rig, &json!({"egress": {"allow": [{"host": "crates.io"}]}}));
        rig.until(WITHIN, "rules change", |store| {
            let policy = policy(store);
            policy.contains("crates.io") && !policy.contains("pypi.org")
        })
        .await;
        rig.ready("a").await;
        changed(&rig, &json!({"resources": {"limits": {"memory": "256Mi"}}}));
        rig.until(WITHIN, "it is outside", |store| is_walled(store, "OutsideTemplate")).await;
        changed(&rig, &json!({"resources": {"limits": {"memory": "1Gi"}}}));
        rig.until(WITHIN, "it runs again", |store| agentsandbox_sim::rig::is_ready(store, "a")).await;
        rig.world.act("platform", |store| {
            store.delete(&TEMPLATES, (TEAM, "jobs"), &Deletion::default()).unwrap();
        });
        rig.until(WITHIN, "its template is gone", |store| is_walled(store, "TemplateNotFound")).await;
        made(&rig);
        rig.until(WITHIN, "it runs again", |store| agentsandbox_sim::rig::is_ready(store, "a")).await;
    });
}
