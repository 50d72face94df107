//! Who acts besides the operator and its users: the scheduler and a kubelet, the garbage collector, the namespace
//! controller. Each of their steps comes a while after the revision that calls for it.

use std::collections::BTreeSet;

use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use crate::kinds::{self, CLAIMS, CONFIG_MAPS, NAMESPACES, PODS, SECRETS, SERVICES};
use crate::objects;
use crate::store::{
    Change, Deletion, Key, PROTECTION, Part, Revision, Store, finalizers, has_ended, is_ending, key, text,
};
use crate::world::World;

/// One step. A pod is named with its UID, since its name may be taken by another meanwhile.
#[derive(Clone, Debug)]
pub enum Step {
    /// The scheduler places a pod.
    Schedule(Key, String),
    /// The kubelet starts a pod's first container.
    Start(Key, String),
    /// A proxy's readiness probe succeeds.
    Ready(Key, String),
    /// A fence tries its way to the proxy; once there is one, the agent starts.
    Fence(Key, String),
    /// The program of a pod that runs once ends by itself.
    Exit(Key, String),
    /// The kubelet says of a pod whose program has ended that it is over.
    Settle(Key, String),
    /// A pod's containers have ended.
    Kill(Key, String),
    /// What keeps claims lets go of those that end and that no pod mounts.
    Release,
    /// The garbage collector looks for what has no owner.
    Collect,
    /// The namespace controller deletes what is in a namespace that ends.
    Empty(String),
}

/// How the cluster goes about its pods.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Whether pods are placed.
    pub schedules: bool,
    /// Milliseconds that a pod takes to end.
    pub ends_in: u64,
    /// Milliseconds that a program takes which runs once.
    pub program_takes: u64,
    collecting: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self { schedules: true, ends_in: 60, program_takes: 2_000, collecting: false }
    }
}

/// Plans what a revision calls for.
pub fn react(world: &mut World, revision: &Revision) {
    let object = &revision.object;
    if revision.change != Change::Modified && !world.node.collecting {
        world.node.collecting = true;
        world.step_in(100, Step::Collect);
    }
    let started = is_ending(object) && revision.before.as_ref().is_some_and(|before| !is_ending(before));
    if started && !finalizers(object).is_empty() && !world.node.collecting {
        world.node.collecting = true;
        world.step_in(100, Step::Collect);
    }
    if *revision.kind == PODS {
        let (key, uid) = (key(&PODS, object), text(object, "/metadata/uid").to_owned());
        let node = world.node;
        match revision.change {
            Change::Added if node.schedules => world.step_in(20, Step::Schedule(key, uid)),
            // No kubelet has one that was never placed.
            Change::Modified if started && !text(object, "/spec/nodeName").is_empty() => {
                world.step_in(node.ends_in, Step::Kill(key, uid))
            }
            _ => {}
        }
    }
    // One of which nothing runs any more keeps its claims for as long as it is there.
    let frees = *revision.kind == PODS && revision.change == Change::Deleted;
    let waits = || world.store.all(&CLAIMS).any(is_ending);
    if (frees && waits()) || (*revision.kind == CLAIMS && started) {
        world.step_in(60, Step::Release);
    }
    if *revision.kind == NAMESPACES && started {
        world.step_in(50, Step::Empty(text(object, "/metadata/name").to_owned()));
    }
}

/// Takes a step.
pub fn take(world: &mut World, step: Step) {
    match step {
        Step::Schedule(key, uid) => {
            let pod = pod(&world.store, &key, &uid);
            if pod.is_some_and(|pod| !has_its_claims(&world.store, pod)) {
                return world.step_in(1000, Step::Schedule(key, uid));
            }
            if pod.is_some() {
                write(&mut world.store, &key, Part::Main, &json!({"spec": {"nodeName": "node-1"}}));
                let scheduled =
                    json!({"status": {"conditions": [condition(&world.store, "PodScheduled", true)]}});
                write(&mut world.store, &key, Part::Status, &scheduled);
                world.step_in(40, Step::Start(key, uid));
            }
        }
        Step::Start(key, uid) => start(world, key, uid),
        Step::Ready(key, uid) => {
            if pod(&world.store, &key, &uid).is_some() {
                let status = running(&world.store, "proxy", true);
                write(&mut world.store, &key, Part::Status, &status);
            }
        }
        Step::Fence(key, uid) => fence(world, key, uid),
        Step::Exit(key, uid) => {
            if let Some(pod) = pod(&world.store, &key, &uid) {
                let status = exited(&world.store, exit_code(pod), "Running");
                write(&mut world.store, &key, Part::Status, &status);
                world.step_in(300, Step::Settle(key, uid));
            }
        }
        Step::Settle(key, uid) => {
            if let Some(pod) = pod(&world.store, &key, &uid) {
                let phase = if exit_code(pod) == 0 { "Succeeded" } else { "Failed" };
                write(&mut world.store, &key, Part::Status, &json!({"status": {"phase": phase}}));
            }
        }
        Step::Kill(key, uid) => {
            let shown = world.store.get(&PODS, &key.1, &key.2);
            let shown = shown.filter(|pod| text(pod, "/metadata/uid") == uid);
            if shown.is_some_and(|pod| runs_once(pod) && !has_ended(pod)) {
                // It says how its containers ended before the pod goes.
                let mut status = exited(&world.store, KILLED, "Failed");
                // Its node's clock may be behind: the end seems to lie before what asked for it.
                let behind = world.store.now() - SignedDuration::from_secs(11);
                status["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] =
                    json!(behind.to_string());
                write(&mut world.store, &key, Part::Status, &status);
                world.step_in(20, Step::Kill(key, uid));
            } else if shown.is_some() {
                world.store.gone(&key);
            }
        }
        Step::Release => release(&mut world.store),
        Step::Collect => {
            world.node.collecting = false;
            collect(&mut world.store);
        }
        Step::Empty(name) => {
            if !empty(&mut world.store, &name) {
                world.step_in(200, Step::Empty(name));
            }
        }
    }
}

/// The pod, if it is still that one and is to run.
fn pod<'a>(store: &'a Store, key: &Key, uid: &str) -> Option<&'a Value> {
    let pod = store.get(&PODS, &key.1, &key.2)?;
    (text(pod, "/metadata/uid") == uid && !is_ending(pod) && !has_ended(pod)).then_some(pod)
}

fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["labels"][name].as_str().unwrap_or_default()
}

fn condition(store: &Store, type_: &str, holds: bool) -> Value {
    let status = if holds { "True" } else { "False" };
    json!({"type": type_, "status": status, "lastTransitionTime": store.now().to_string()})
}

fn running(store: &Store, container: &str, ready: bool) -> Value {
    json!({"status": {
        "phase": "Running",
        "podIP": format!("10.244.0.{}", if container == "proxy" { 2 } else { 3 }),
        "conditions": [condition(store, "PodScheduled", true), condition(store, "Ready", ready)],
        "containerStatuses": [{
            "name": container, "ready": ready, "started": true, "restartCount": 0, "image": "i", "imageID": "i",
            "state": {"running": {"startedAt": store.now().to_string()}},
        }],
    }})
}

/// What a program is killed with.
pub const KILLED: i64 = 137;

fn runs_once(pod: &Value) -> bool {
    text(pod, "/spec/restartPolicy") == "Never"
}

/// What a program ends with: its first argument, if that is a number.
fn exit_code(pod: &Value) -> i64 {
    text(pod, "/spec/containers/0/args/0").parse().unwrap_or_default()
}

fn exited(store: &Store, code: i64, phase: &str) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    json!({"status": {
        "phase": phase,
        "conditions": [condition(store, "PodScheduled", true), condition(store, "Ready", false)],
        "containerStatuses": [{
            "name": "agent", "ready": false, "started": false, "restartCount": 0, "image": "i", "imageID": "i",
            "state": {"terminated": {
                "exitCode": code, "reason": reason, "message": "that was it",
                "startedAt": store.now().to_string(), "finishedAt": store.now().to_string(),
            }},
        }],
    }})
}

fn start(world: &mut World, key: Key, uid: String) {
    let Some(pod) = pod(&world.store, &key, &uid) else { return };
    let proxy = label(pod, "agentsandbox.dev/component") == "proxy";
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let mounts = |kind: &kinds::Kind, pointer: &str| {
        let names = volumes.iter().map(|volume| text(volume, pointer)).filter(|name| !name.is_empty());
        names.into_iter().all(|name| world.store.get(kind, &key.1, name).is_some())
    };
    let has_all = mounts(&SECRETS, "/secret/secretName")
        && mounts(&CONFIG_MAPS, "/configMap/name")
        && has_its_claims(&world.store, pod);
    if !has_all {
        return world.step_in(1000, Step::Start(key, uid));
    }
    if proxy {
        let status = running(&world.store, "proxy", false);
        write(&mut world.store, &key, Part::Status, &status);
        world.step_in(80, Step::Ready(key, uid));
    } else {
        let status = json!({"status": {"podIP": "10.244.0.3"}});
        write(&mut world.store, &key, Part::Status, &status);
        world.step_in(50, Step::Fence(key, uid));
    }
}

/// The claims that a pod mounts, by name.
fn claims(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.map(|volume| text(volume, "/persistentVolumeClaim/claimName")).filter(|name| !name.is_empty())
}

/// Whether all claims of a pod are there, and none of them ends: neither scheduler nor kubelet take it before.
fn has_its_claims(store: &Store, pod: &Value) -> bool {
    let namespace = text(pod, "/metadata/namespace");
    let stands = |name| store.get(&CLAIMS, namespace, name).is_some_and(|claim| !is_ending(claim));
    claims(pod).all(stands)
}

/// Whether a pod keeps a claim: it was placed on a node.
fn keeps(pod: &Value, claim: &Value) -> bool {
    let is_placed = !text(pod, "/spec/nodeName").is_empty();
    let name = text(claim, "/metadata/name");
    is_placed
        && text(pod, "/metadata/namespace") == text(claim, "/metadata/namespace")
        && claims(pod).any(|one| one == name)
}

/// Lets go of claims that end and that no pod keeps.
fn release(store: &mut Store) {
    let free = |claim: &&Value| is_ending(claim) && !store.all(&PODS).any(|pod| keeps(pod, claim));
    let free: Vec<Value> = store.all(&CLAIMS).filter(free).cloned().collect();
    for claim in free {
        let left: Vec<&str> = finalizers(&claim).into_iter().filter(|one| *one != PROTECTION).collect();
        let at = (text(&claim, "/metadata/namespace"), text(&claim, "/metadata/name"));
        let _ = store.merge(&CLAIMS, Part::Main, at, &json!({"metadata": {"finalizers": left}}));
    }
}

/// A fence proves its walls and enrols once the Service leads to a proxy that serves.
fn fence(world: &mut World, key: Key, uid: String) {
    let store = &world.store;
    let Some(pod) = pod(store, &key, &uid) else { return };
    let service = store.get(&SERVICES, &key.1, &format!("{}-proxy", label(pod, "agentsandbox.dev/sandbox")));
    let leads_to = |proxy: &&Value| {
        let selector = service.and_then(|service| service["spec"]["selector"].as_object());
        let ready = proxy["status"]["conditions"].as_array().into_iter().flatten();
        selector.is_some_and(|all| all.iter().all(|(key, value)| label(proxy, key) == value))
            && ready.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    if !store.all(&PODS).filter(|one| !is_ending(one)).any(|one| leads_to(&one)) {
        return world.step_in(250, Step::Fence(key, uid));
    }
    let mut status = running(store, "agent", true);
    status["status"]["initContainerStatuses"] = json!([{
        "name": "fence", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
        "state": {"terminated": {"exitCode": 0, "message": objects::report()}},
    }]);
    let steps = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    if steps.into_iter().any(|step| step["name"] == "workspace") {
        let step = json!({
            "name": "workspace", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
            "state": {"terminated": {"exitCode": 0, "message": objects::workspace_report()}},
        });
        status["status"]["initContainerStatuses"].as_array_mut().unwrap().push(step);
    }
    let once = runs_once(pod);
    write(&mut world.store, &key, Part::Status, &status);
    if once {
        world.step_in(world.node.program_takes, Step::Exit(key, uid));
    }
}

fn write(store: &mut Store, key: &Key, part: Part, patch: &Value) {
    // What is gone meanwhile is gone.
    let _ = store.merge(&PODS, part, (&key.1, &key.2), patch);
}

fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

/// Deletes what has owners of which none is left; settles deletions that wait for dependents.
pub fn collect(store: &mut Store) {
    let alive: BTreeSet<String> =
        store.everything().map(|(_, object)| text(object, "/metadata/uid").to_owned()).collect();
    let is_orphaned = |object: &Value| {
        let of = owners(object);
        !of.is_empty() && !is_ending(object) && of.iter().all(|owner| !alive.contains(text(owner, "/uid")))
    };
    let waits =
        |object: &Value| finalizers(object).iter().any(|one| ["foregroundDeletion", "orphan"].contains(one));
    if !store.everything().any(|(_, object)| is_orphaned(object) || waits(object)) {
        return;
    }
    // What has neither owners nor a finalizer is nothing to the collector.
    let concerned =
        store.everything().filter(|(_, object)| !owners(object).is_empty() || !finalizers(object).is_empty());
    let all: Vec<(Key, Value)> = concerned.map(|(key, object)| (key.clone(), object.clone())).collect();
    for (key, object) in &all {
        let Some(kind) = kinds::ALL.iter().find(|kind| kind.plural == key.0) else { continue };
        let at = (key.1.as_str(), key.2.as_str());
        if is_orphaned(object) {
            let uid = Some(text(object, "/metadata/uid").to_owned());
            let _ = store.delete(kind, at, &Deletion { uid, ..Deletion::default() });
        }
        if finalizers(object).is_empty() {
            continue;
        }
        let uid = &object["metadata"]["uid"];
        let dependents: Vec<&(Key, Value)> =
            all.iter().filter(|(_, other)| owners(other).iter().any(|owner| owner["uid"] == *uid)).collect();
        for finalizer in finalizers(object) {
            let left: Vec<&str> = finalizers(object).into_iter().filter(|one| *one != finalizer).collect();
            let done = match finalizer {
                "foregroundDeletion" => {
                    for (key, other) in dependents.iter().filter(|(_, other)| !is_ending(other)) {
                        let kind = kinds::ALL.iter().find(|kind| kind.plural == key.0).unwrap();
                        let uid = Some(text(other, "/metadata/uid").to_owned());
                        let _ =
                            store.delete(kind, (&key.1, &key.2), &Deletion { uid, ..Deletion::default() });
                    }
                    dependents.is_empty()
                }
                "orphan" => {
                    for (key, _) in &dependents {
                        let kind = kinds::ALL.iter().find(|kind| kind.plural == key.0).unwrap();
                        let patch = json!({"metadata": {"ownerReferences": null}});
                        let _ = store.merge(kind, Part::Main, (&key.1, &key.2), &patch);
                    }
                    true
                }
                _ => false,
            };
            if done {
                let _ = store.merge(kind, Part::Main, at, &json!({"metadata": {"finalizers": left}}));
            }
        }
    }
}

/// Deletes what is in a namespace; whether it was empty, and is gone now.
fn empty(store: &mut Store, name: &str) -> bool {
    let inside: Vec<(Key, Value)> = store
        .everything()
        .filter(|(key, _)| key.1 == name)
        .map(|(key, object)| (key.clone(), object.clone()))
        .collect();
    if inside.is_empty() {
        store.end_namespace(name);
        return true;
    }
    for (key, _) in inside.iter().filter(|(_, object)| !is_ending(object)) {
        let kind = kinds::ALL.iter().find(|kind| kind.plural == key.0).unwrap();
        let _ = store.delete(kind, (&key.1, &key.2), &Deletion::default());
    }
    false
}
