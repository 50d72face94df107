//! Sandboxes that have their spec from a template, which changes, goes, and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentsandbox_sim::faults::{self, Asked, Fate, Rule};
use agentsandbox_sim::kinds::{CLAIMS, CONFIG_MAPS, PODS, POLICIES, SANDBOXES, TEMPLATES};
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

/// A cluster whose API server shows templates to nobody for as long as that is so.
fn hiding() -> (Rig, Arc<AtomicBool>) {
    let hidden = Arc::new(AtomicBool::new(false));
    let is_hidden = Arc::clone(&hidden);
    let rule = Rule(move |asked: &Asked| {
        let is_denied = is_hidden.load(Ordering::Relaxed) && asked.line.ends_with(TEMPLATES.plural);
        if is_denied { Fate::Deny } else { Fate::Serve }
    });
    (Rig::new(1, rule), hidden)
}

/// A sandbox of the template that says no more itself.
fn of_template(name: &str) -> Value {
    let mut sandbox = objects::sandbox(name);
    sandbox["spec"] = json!({"templateRef": {"name": "jobs"}});
    sandbox
}

fn deleted(rig: &Rig) {
    rig.world.act("platform", |store| {
        store.delete(&TEMPLATES, (TEAM, "jobs"), &Deletion::default()).unwrap();
    });
}

fn uid(rig: &Rig, pod: &str) -> String {
    text(rig.world.world().store.get(&PODS, TEAM, pod).unwrap(), "/metadata/uid").to_owned()
}

/// The reason of a sandbox's Ready, with its status.
fn ready(store: &Store, name: &str) -> Option<(String, String)> {
    let sandbox = store.get(&SANDBOXES, TEAM, name)?;
    let mut conditions = sandbox["status"]["conditions"].as_array()?.iter();
    let ready = conditions.find(|one| one["type"] == "Ready")?;
    Some((text(ready, "/status").to_owned(), text(ready, "/reason").to_owned()))
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
        deleted(&rig);
        rig.until(WITHIN, "its template is gone", |store| is_walled(store, "TemplateNotFound")).await;
        made(&rig);
        rig.until(WITHIN, "it runs again", |store| agentsandbox_sim::rig::is_ready(store, "a")).await;
    });
}

#[test]
fn an_operator_that_is_shown_no_templates_keeps_up_the_walls_says_so_and_looks_after_the_others() {
    simulate(async {
        let (mut rig, hidden) = hiding();
        let first = rig.start("operator-0");
        made(&rig);
        rig.world.act("user", |store| objects::create(store, of_template("a")));
        rig.create("b");
        rig.ready("a").await;
        rig.ready("b").await;
        rig.settle().await;
        let (agent, proxy) = (uid(&rig, "a-agent"), uid(&rig, "a-proxy"));

        rig.kill(first);
        hidden.store(true, Ordering::Relaxed);
        rig.start("operator-1");
        let untold = |store: &Store| ready(store, "a").is_some_and(|(status, _)| status == "True");
        rig.pass(Duration::from_secs(5)).await;
        assert!(untold(&rig.world.world().store), "a list may come in time");
        let unknown =
            |store: &Store| ready(store, "a") == Some(("Unknown".to_owned(), "TemplatesUnknown".to_owned()));
        rig.until(WITHIN, "it is told", unknown).await;
        let key = (TEAM, "a-agent");
        rig.world.act("stranger", |store| {
            store.merge(&POLICIES, Part::Main, key, &json!({"spec": {"egress": [{}]}})).unwrap();
        });
        let whole =
            |store: &Store| store.get(&POLICIES, key.0, key.1).unwrap()["spec"]["egress"] != json!([{}]);
        rig.until(WITHIN, "the wall", whole).await;
        rig.patch("b", &json!({"spec": {"egress": {"allow": [{"host": "crates.io"}]}}}));
        rig.ready("b").await;
        rig.rest(Duration::from_secs(60), Duration::from_secs(300)).await;
        assert_eq!((uid(&rig, "a-agent"), uid(&rig, "a-proxy")), (agent.clone(), proxy.clone()));
        assert!(unknown(&rig.world.world().store));

        hidden.store(false, Ordering::Relaxed);
        rig.ready("a").await;
        rig.settle().await;
        assert_eq!((uid(&rig, "a-agent"), uid(&rig, "a-proxy")), (agent, proxy), "it is the same agent");
    });
}

#[test]
fn a_claim_goes_as_its_template_says_and_stays_where_that_is_gone_or_nobody_knows_it() {
    /// What becomes of the template.
    #[derive(Clone, Copy, Debug)]
    enum Template {
        Known,
        Deleted,
        NeverListed,
        /// It changes while no operator runs, and the next is shown it a moment later than all else.
        ListedLate,
    }
    let both = [("Retain", "Delete"), ("Delete", "Retain")];
    for (template, (first, last)) in
        [Template::Known, Template::Deleted, Template::NeverListed, Template::ListedLate]
            .into_iter()
            .flat_map(|template| both.map(|said| (template, said)))
    {
        simulate(async {
            let (mut rig, hidden) = hiding();
            let operator = rig.start("operator-0");
            made(&rig);
            let says = |rig: &Rig, when: &str| {
                let persistent = json!({"size": "1Gi", "whenDeleted": when});
                changed(rig, &json!({"workspace": {"access": "Persistent", "persistent": persistent}}));
            };
            says(&rig, first);
            rig.world.act("user", |store| objects::create(store, of_template("a")));
            rig.ready("a").await;
            if !matches!(template, Template::ListedLate) {
                says(&rig, last);
            }
            rig.settle().await;
            match template {
                Template::Known => {}
                Template::Deleted => deleted(&rig),
                Template::NeverListed | Template::ListedLate => {
                    rig.kill(operator);
                    hidden.store(true, Ordering::Relaxed);
                    says(&rig, last);
                    rig.start("operator-1");
                }
            }
            rig.delete("a");
            if matches!(template, Template::ListedLate) {
                rig.pass(Duration::from_secs(1)).await;
                hidden.store(false, Ordering::Relaxed);
            }
            let gone = |store: &Store| store.get(&SANDBOXES, TEAM, "a").is_none();
            rig.until(WITHIN, "it is gone", gone).await;
            rig.rest(Duration::from_secs(60), Duration::from_secs(300)).await;
            let is_left = rig.world.world().store.get(&CLAIMS, TEAM, "a-workspace").is_some();
            let stays = last == "Retain" || matches!(template, Template::Deleted | Template::NeverListed);
            assert_eq!(is_left, stays, "{template:?}, {last}");
        });
    }
}
