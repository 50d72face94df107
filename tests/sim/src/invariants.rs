//! What must hold at each revision, whatever goes wrong. Nothing here knows the operator's code: names of labels and kinds
//! are written out.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::actors::KILLED;
use crate::kinds::{CLAIMS, CLASSES, PODS, POLICIES, SANDBOXES, SECRETS};
use crate::store::{Change, Revision, Store, has_ended, is_ending, text};

/// A status may speak of what a watch showed that was late by so much.
const STALENESS: SignedDuration = SignedDuration::from_secs(40);
/// Children of a sandbox that is gone are gone after this.
const GONE_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Shorter values would be found by chance.
const SECRET_BYTES_MIN: usize = 16;

/// What has to be remembered between revisions.
#[derive(Debug, Default)]
pub struct Invariants {
    /// When each sandbox went, by UID.
    gone: BTreeMap<String, Timestamp>,
    /// UIDs of those that are gone, and whose claim was to go with them.
    cleared: BTreeSet<String>,
    /// When the agent of each sandbox was last ready behind a wall, by UID.
    ran: BTreeMap<String, Timestamp>,
    /// How the program of each sandbox that is over was said to have ended, by UID.
    over: BTreeMap<String, Value>,
    /// Since when each sandbox that is called suspended at its generation is, by UID.
    off: BTreeMap<String, Timestamp>,
    /// UIDs of those of which somebody took that away.
    cut: BTreeSet<String>,
    /// Values that may be in no object but a Secret.
    values: BTreeSet<String>,
}

fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["labels"][name].as_str().unwrap_or_default()
}

fn sandbox_uid(object: &Value) -> &str {
    label(object, "agentsandbox.dev/sandbox-uid")
}

fn component(object: &Value) -> &str {
    label(object, "agentsandbox.dev/component")
}

fn controller_uid(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true).map(|owner| text(owner, "/uid"))
}

fn holds(object: &Value, condition: &str) -> bool {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().any(|one| one["type"] == condition && one["status"] == "True")
}

/// Whether a sandbox is said to run. A Task that ended well is Ready for whoever waits for its end, and one that is suspended for whoever
/// waits for that.
fn is_called_running(sandbox: &Value) -> bool {
    let mut all = sandbox["status"]["conditions"].as_array().into_iter().flatten();
    let ended_well = sandbox["status"]["program"]["exitCode"] == 0;
    let is_over = |one: &Value| ended_well && one["reason"] == "Succeeded";
    let is_off = |one: &Value| is_called_suspended(sandbox) && one["reason"] == "Suspended";
    all.any(|one| one["type"] == "Ready" && one["status"] == "True" && !is_over(one) && !is_off(one))
}

/// Whether a sandbox that is to be suspended is said to be.
fn is_called_suspended(sandbox: &Value) -> bool {
    sandbox["spec"]["lifecycle"]["state"] == "Suspended" && holds(sandbox, "Suspended")
}

fn is_walled(store: &Store, pod: &Value) -> bool {
    store.all(&POLICIES).any(|policy| {
        let selector = policy["spec"]["podSelector"]["matchLabels"].as_object();
        text(policy, "/metadata/namespace") == text(pod, "/metadata/namespace")
            && selector.is_some_and(|all| all.iter().all(|(key, value)| label(pod, key) == value))
    })
}

/// Whether an object goes, or is on its way out from now on.
fn ends(revision: &Revision) -> bool {
    let before = revision.before.as_ref().is_some_and(is_ending);
    revision.change == Change::Deleted || (is_ending(&revision.object) && !before)
}

/// The claims that a pod mounts, by name.
fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.map(|volume| text(volume, "/persistentVolumeClaim/claimName")).filter(|name| !name.is_empty())
}

fn mounts_claim(pod: &Value, claim: &Value) -> bool {
    text(pod, "/metadata/namespace") == text(claim, "/metadata/namespace")
        && claims_of(pod).any(|name| name == text(claim, "/metadata/name"))
}

fn agents<'a>(store: &'a Store, uid: &'a str) -> impl Iterator<Item = &'a Value> {
    store.all(&PODS).filter(move |pod| sandbox_uid(pod) == uid && component(pod) == "agent")
}

/// Whether a status speaks of the sandbox's present generation.
fn is_current(sandbox: &Value) -> bool {
    let generation = &sandbox["metadata"]["generation"];
    let mut conditions = sandbox["status"]["conditions"].as_array().into_iter().flatten();
    conditions.all(|one| one["observedGeneration"] == *generation)
        && sandbox["status"]["observedGeneration"] == *generation
}

impl Invariants {
    /// What a revision breaks.
    pub fn look(&mut self, store: &Store, revision: &Revision) -> Vec<String> {
        let mut broken = Vec::new();
        let object = &revision.object;
        let name = text(object, "/metadata/name");
        if *revision.kind == PODS && !sandbox_uid(object).is_empty() {
            self.pod(store, revision, &mut broken);
        }
        if *revision.kind == POLICIES && revision.change == Change::Deleted {
            let of = |pod: &&Value| sandbox_uid(pod) == sandbox_uid(object);
            let mut behind = store.all(&PODS).filter(of).filter(|pod| !has_ended(pod));
            if let Some(pod) = behind.find(|pod| !is_walled(store, pod)) {
                let pod = text(pod, "/metadata/name");
                broken.push(format!(
                    "I1: the wall {name} fell while {pod} stood behind it and behind no other"
                ));
            }
        }
        if *revision.kind == CLAIMS && revision.by == "operator" && ends(revision) {
            let mut live = store.all(&PODS).filter(|pod| !has_ended(pod));
            if let Some(pod) = live.find(|pod| mounts_claim(pod, object)) {
                let pod = text(pod, "/metadata/name");
                broken.push(format!("I11: the claim {name} was deleted under {pod}"));
            }
        }
        if *revision.kind == SECRETS {
            for field in ["data", "stringData"] {
                let values = object[field].as_object().into_iter().flatten();
                let secret =
                    values.filter(|(key, _)| !key.ends_with(".crt")).filter_map(|(_, value)| value.as_str());
                self.values.extend(secret.filter(|value| value.len() >= SECRET_BYTES_MIN).map(str::to_owned));
            }
        } else {
            if shows(object, &self.values) {
                broken.push(format!("I5: a secret's value is in {} {name}", revision.kind.kind));
            }
        }
        if *revision.kind == SANDBOXES {
            if revision.change == Change::Deleted {
                let uid = text(object, "/metadata/uid");
                self.gone.insert(uid.to_owned(), revision.at);
                if text(object, "/spec/workspace/persistent/whenDeleted") == "Delete" {
                    self.cleared.insert(uid.to_owned());
                }
            }
            self.sandbox(store, revision, &mut broken);
        }
        broken
    }

    fn pod(&mut self, store: &Store, revision: &Revision, broken: &mut Vec<String>) {
        let pod = &revision.object;
        let (name, uid) = (text(pod, "/metadata/name"), sandbox_uid(pod));
        if revision.change == Change::Added {
            if !is_walled(store, pod) {
                broken.push(format!("I1: pod {name} was created before a NetworkPolicy that selects it"));
            }
            if component(pod) == "agent" && !self.has_its_runtime(store, pod) {
                broken.push(format!("I2: pod {name} has another RuntimeClass than its class"));
            }
            let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
            let token = pod["spec"]["automountServiceAccountToken"] != false
                || volumes
                    .iter()
                    .any(|volume| volume["projected"].to_string().contains("serviceAccountToken"));
            if token {
                broken.push(format!("I3: pod {name} mounts a token"));
            }
            let users = volumes.iter().any(|volume| text(volume, "/secret/secretName") == "anthropic-key");
            if users && component(pod) != "proxy" {
                broken.push(format!("I5: pod {name} mounts a user's secret"));
            }
        }
        let is_over = self.over.contains_key(uid);
        if revision.change == Change::Added && component(pod) == "agent" && is_over {
            broken.push(format!("I9: pod {name} was created for a sandbox that is over"));
        }
        let is_off = self.off.get(uid).is_some_and(|since| revision.at.duration_since(*since) > STALENESS);
        if revision.change == Change::Added && is_off {
            broken.push(format!("I10: pod {name} was created for a sandbox that is suspended"));
        }
        let live = agents(store, uid).filter(|pod| !has_ended(pod)).count();
        if live > 1 {
            broken.push(format!("I6: {live} agents of sandbox {uid} live at once"));
        }
        let ran = |pod: &Value| component(pod) == "agent" && holds(pod, "Ready") && is_walled(store, pod);
        if ran(pod) || revision.before.as_ref().is_some_and(ran) {
            self.ran.insert(uid.to_owned(), revision.at);
        }
    }

    fn has_its_runtime(&self, store: &Store, pod: &Value) -> bool {
        let namespace = text(pod, "/metadata/namespace");
        let sandbox = store.get(&SANDBOXES, namespace, label(pod, "agentsandbox.dev/sandbox"));
        // The sandbox may have gone while the request was under way.
        let Some(sandbox) = sandbox else { return true };
        let class = match text(sandbox, "/spec/className") {
            "" => "gvisor",
            name => name,
        };
        let class = store.get(&CLASSES, "", class);
        class.is_some_and(|class| class["spec"]["runtimeClassName"] == pod["spec"]["runtimeClassName"])
    }

    fn sandbox(&mut self, store: &Store, revision: &Revision, broken: &mut Vec<String>) {
        let sandbox = &revision.object;
        self.program(revision, broken);
        suspended(store, revision, broken);
        let uid = text(sandbox, "/metadata/uid");
        if is_called_suspended(sandbox) && is_current(sandbox) && revision.change != Change::Deleted {
            self.off.entry(uid.to_owned()).or_insert(revision.at);
        } else {
            self.off.remove(uid);
        }
        let was = revision.before.as_ref().is_some_and(is_called_running);
        // One that is being deleted promises nothing more.
        let is_ending = sandbox["metadata"]["deletionTimestamp"].is_string();
        if revision.by != "operator" || is_ending || !is_called_running(sandbox) {
            return;
        }
        if !is_current(sandbox) {
            broken.push(format!("I7: a sandbox is called ready for another generation: {sandbox}"));
        }
        if was {
            return;
        }
        let (name, uid) = (text(sandbox, "/metadata/name"), text(sandbox, "/metadata/uid"));
        let runs = agents(store, uid).any(|pod| holds(pod, "Ready") && is_walled(store, pod));
        let lately = self.ran.get(uid).is_some_and(|at| revision.at.duration_since(*at) < STALENESS);
        if !runs && !lately {
            broken.push(format!("I7: sandbox {name} is called ready without an agent that was"));
        }
    }

    /// The end of a program is told once, of one that ended by itself, and stays as it was told.
    fn program(&mut self, revision: &Revision, broken: &mut Vec<String>) {
        let sandbox = &revision.object;
        let (name, uid) = (text(sandbox, "/metadata/name"), text(sandbox, "/metadata/uid"));
        let program = &sandbox["status"]["program"];
        if program["exitCode"] == KILLED {
            broken
                .push(format!("I9: the program of {name} is said to have ended, and was killed: {program}"));
        }
        match self.over.get(uid) {
            // What somebody took away is found again, but for the moment at which it ended.
            Some(told)
                if self.cut.contains(uid) && (program.is_null() || told["reason"] == program["reason"]) => {}
            Some(_) if revision.by != "operator" && program.is_null() => {
                self.cut.insert(uid.to_owned());
            }
            Some(told) if revision.by == "operator" && told != program => {
                broken.push(format!("I9: how {name} ended is told anew: {program} after {told}"));
            }
            None if program.is_object() => {
                self.over.insert(uid.to_owned(), program.clone());
            }
            _ => {}
        }
    }

    /// Nothing is left of a sandbox that is over but its agent's pod, which has ended.
    fn left_over(&self, store: &Store) -> Vec<String> {
        let over = store.all(&PODS).filter(|pod| self.over.contains_key(sandbox_uid(pod)));
        let live = over.filter(|pod| component(pod) != "agent" || !has_ended(pod));
        live.map(|pod| format!("I9: pod {} of a sandbox that is over", text(pod, "/metadata/name"))).collect()
    }

    /// What is broken when nothing happens any more.
    pub fn at_rest(&self, store: &Store, now: Timestamp) -> Vec<String> {
        let mut broken = self.left_over(store);
        for (key, object) in store.everything() {
            let of = [controller_uid(object).unwrap_or_default(), sandbox_uid(object)];
            // A claim outlasts its sandbox, unless that said to the last that it does not.
            if key.0 == CLAIMS.plural && !self.cleared.contains(sandbox_uid(object)) {
                continue;
            }
            let gone = of.iter().filter_map(|uid| self.gone.get(*uid)).min();
            if gone.is_some_and(|at| now.duration_since(*at) > GONE_WITHIN) {
                broken.push(format!("I4: {key:?} is left of a sandbox that is gone"));
            }
        }
        let working = store.all(&PODS).filter(|pod| component(pod) == "agent" && !has_ended(pod));
        for (pod, claim) in working.flat_map(|pod| claims_of(pod).map(move |claim| (pod, claim))) {
            let live = store.get(&CLAIMS, text(pod, "/metadata/namespace"), claim);
            if live.is_none_or(|live| sandbox_uid(live) != sandbox_uid(pod)) {
                broken.push(format!(
                    "I12: {} mounts the claim {claim}, which is not its sandbox's",
                    text(pod, "/metadata/name")
                ));
            }
        }
        for sandbox in store.all(&SANDBOXES).filter(|one| one["spec"]["lifecycle"]["state"] == "Suspended") {
            if live(store, sandbox).next().is_some() {
                broken.push(format!("I10: a pod of {} lives", text(sandbox, "/metadata/name")));
            }
        }
        for sandbox in store.all(&SANDBOXES).filter(|sandbox| is_called_running(sandbox)) {
            let (name, uid) = (text(sandbox, "/metadata/name"), text(sandbox, "/metadata/uid"));
            if !is_current(sandbox) {
                broken.push(format!("I7: sandbox {name} is ready for another generation"));
            }
            if !agents(store, uid).any(|pod| holds(pod, "Ready") && is_walled(store, pod)) {
                broken.push(format!("I7: sandbox {name} is ready without an agent that is"));
            }
        }
        broken
    }
}

/// The pods of a sandbox in which something may run.
fn live<'a>(store: &'a Store, sandbox: &'a Value) -> impl Iterator<Item = &'a Value> {
    let uid = text(sandbox, "/metadata/uid");
    store.all(&PODS).filter(move |pod| sandbox_uid(pod) == uid && !has_ended(pod))
}

/// A sandbox is called suspended once no pod of it is left.
fn suspended(store: &Store, revision: &Revision, broken: &mut Vec<String>) {
    let sandbox = &revision.object;
    let was = revision.before.as_ref().is_some_and(is_called_suspended);
    if revision.by != "operator" || was || !is_called_suspended(sandbox) {
        return;
    }
    for pod in live(store, sandbox) {
        let (name, pod) = (text(sandbox, "/metadata/name"), text(pod, "/metadata/name"));
        broken.push(format!("I10: {name} is called suspended while {pod} lives"));
    }
}

/// Whether one of these values stands in a text of an object, or in the name of a field.
fn shows(object: &Value, values: &BTreeSet<String>) -> bool {
    let is_in = |text: &str| values.iter().any(|value| text.contains(value.as_str()));
    match object {
        Value::String(text) => is_in(text),
        Value::Array(items) => items.iter().any(|item| shows(item, values)),
        Value::Object(map) => map.iter().any(|(name, value)| is_in(name) || shows(value, values)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
