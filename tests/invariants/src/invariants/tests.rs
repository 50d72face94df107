//! Each invariant is broken once, beside a history that breaks none.

use serde_json::json;

use super::*;
use crate::wire::build::Builder;

const SECRET: &str = "a-key-of-a-provider";
const UID: &str = "uid-1";

/// A history: what is written into etcd, one change after another, each a second after the one before.
#[derive(Default)]
struct History {
    watcher: Watcher,
    revision: u64,
    second: u64,
}

impl History {
    fn put(&mut self, key: &str, value: impl Into<Bytes>) -> &mut Self {
        self.change(key, Some(value.into()))
    }

    fn delete(&mut self, key: &str) -> &mut Self {
        self.change(key, None)
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.second += seconds;
        self
    }

    fn change(&mut self, key: &str, value: Option<Bytes>) -> &mut Self {
        self.revision += 1;
        self.second += 1;
        let event = Event {
            revision: self.revision,
            key: format!("/registry/{key}"),
            value,
            at: Duration::from_secs(self.second),
        };
        self.watcher.see(&event);
        self
    }

    fn broken(&mut self) -> Vec<Invariant> {
        self.watcher.end(self.revision, Duration::from_secs(self.second));
        self.watcher.violations().iter().map(|one| one.invariant).collect()
    }
}

fn envelope(object: Builder) -> Vec<u8> {
    let kind = Builder::default().bytes(1, "v1").bytes(2, "Kind");
    [b"k8s\0".to_vec(), Builder::default().inner(1, kind).inner(2, object).done()].concat()
}

fn labels(component: &str) -> [(&str, &str); 2] {
    [("agentsandbox.dev/sandbox-uid", UID), ("agentsandbox.dev/component", component)]
}

fn map(mut message: Builder, field: u64, entries: &[(&str, &str)]) -> Builder {
    for (name, value) in entries {
        message = message.inner(field, Builder::default().bytes(1, name).bytes(2, value));
    }
    message
}

fn meta(name: &str, component: &str) -> Builder {
    let owner = Builder::default()
        .bytes(1, "AgentSandbox")
        .bytes(4, UID)
        .bytes(5, "agentsandbox.dev/v1alpha1")
        .number(6, 1);
    let meta = Builder::default().bytes(1, name).bytes(3, "default").bytes(5, format!("uid of {name}"));
    map(meta, 11, &labels(component)).inner(13, owner)
}

/// A pod as the operator makes it: without a token.
fn spec(runtime: &str) -> Builder {
    Builder::default().number(21, 0).bytes(29, runtime)
}

fn mounting(spec: Builder, secret: &str) -> Builder {
    let source = Builder::default().inner(6, Builder::default().bytes(1, secret));
    spec.inner(1, Builder::default().bytes(1, "volume").inner(2, source))
}

fn pod(name: &str, component: &str, spec: Builder, is_ready: bool) -> Vec<u8> {
    let condition = Builder::default().bytes(1, "Ready").bytes(2, if is_ready { "True" } else { "False" });
    let status = Builder::default().inner(2, condition);
    envelope(Builder::default().inner(1, meta(name, component)).inner(2, spec).inner(3, status))
}

fn policy(name: &str, component: &str, types: &[&str]) -> Vec<u8> {
    let mut spec = Builder::default().inner(1, map(Builder::default(), 1, &labels(component)));
    for direction in types {
        spec = spec.bytes(4, direction);
    }
    envelope(Builder::default().inner(1, meta(name, component)).inner(2, spec))
}

fn sandbox(generation: u64, ready: Option<u64>) -> String {
    let status = if ready.is_some() { "True" } else { "False" };
    json!({
        "metadata": {"name": "s", "namespace": "default", "uid": UID, "generation": generation},
        "spec": {"className": "gvisor"},
        "status": {"conditions": [{"type": "Ready", "status": status, "observedGeneration": ready}]},
    })
    .to_string()
}

fn class(runtime: &str) -> String {
    json!({"metadata": {"name": "gvisor"}, "spec": {"runtimeClassName": runtime}}).to_string()
}

fn secret() -> Vec<u8> {
    let meta = Builder::default().bytes(1, "key").bytes(3, "default");
    envelope(map(Builder::default().inner(1, meta), 2, &[("token", SECRET)]))
}

const BOTH: [&str; 2] = ["Ingress", "Egress"];
const AGENT: &str = "pods/default/s-agent";
const PROXY: &str = "pods/default/s-proxy";
const SANDBOX: &str = "agentsandbox.dev/agentsandboxes/default/s";

/// A class, a credential, and a sandbox with its walls.
fn walled() -> History {
    let mut history = History::default();
    let credential = json!({
        "metadata": {"name": "c", "namespace": "default"},
        "spec": {"secretRef": {"name": "key", "key": "token"}},
    });
    history
        .put("secrets/default/key", secret())
        .put("agentsandbox.dev/agentcredentials/default/c", credential.to_string())
        .put("agentsandbox.dev/agentsandboxclasses/gvisor", class("gvisor"))
        .put(SANDBOX, sandbox(1, None))
        .put("networkpolicies/default/s-agent", policy("s-agent", "agent", &BOTH))
        .put("networkpolicies/default/s-proxy", policy("s-proxy", "proxy", &BOTH));
    history
}

/// The same with both pods, which are ready.
fn running() -> History {
    let mut history = walled();
    history
        .put(PROXY, pod("s-proxy", "proxy", mounting(spec(""), "key"), true))
        .put(AGENT, pod("s-agent", "agent", spec("gvisor"), false))
        .put(AGENT, pod("s-agent", "agent", spec("gvisor"), true));
    history
}

#[test]
fn a_sandbox_that_is_made_suspended_and_deleted_as_it_should_be_breaks_nothing_and_judges_everything() {
    let mut history = running();
    history.put(SANDBOX, sandbox(1, Some(1)));
    history.delete(AGENT).delete(PROXY).put(SANDBOX, suspended(2, 2));
    for key in ["networkpolicies/default/s-agent", "networkpolicies/default/s-proxy", SANDBOX] {
        history.delete(key);
    }
    assert_eq!(history.wait(61).broken(), []);
    for invariant in ALL {
        assert!(history.watcher.judged(invariant) > 0, "{invariant:?} was not judged");
    }
}

#[test]
fn a_pod_before_its_wall_breaks_i1() {
    let mut history = History::default();
    history.put(PROXY, pod("s-proxy", "proxy", spec(""), false));
    history.put("networkpolicies/default/s-proxy", policy("s-proxy", "proxy", &BOTH));
    assert_eq!(history.broken(), [Invariant::I1]);
}

#[test]
fn a_wall_of_another_component_namespace_or_direction_is_none() {
    let other_namespace = {
        let meta = Builder::default().bytes(1, "s-agent").bytes(3, "other");
        let mut spec = Builder::default().inner(1, map(Builder::default(), 1, &labels("proxy")));
        for direction in BOTH {
            spec = spec.bytes(4, direction);
        }
        envelope(Builder::default().inner(1, meta).inner(2, spec))
    };
    for wall in [
        policy("w", "agent", &BOTH),
        policy("w", "proxy", &["Ingress"]),
        policy("w", "proxy", &["Egress"]),
        other_namespace,
    ] {
        let mut history = History::default();
        history.put("networkpolicies/default/w", wall);
        history.put(PROXY, pod("s-proxy", "proxy", spec(""), false));
        assert_eq!(history.broken(), [Invariant::I1]);
    }
}

/// What the class of a template asks for is known from the template: its sandbox's status tells its class some time after the pod.
#[test]
fn the_class_of_a_sandbox_without_one_is_its_templates_and_without_that_the_one_that_is_told() {
    let template = |namespace: &str, class: &str| {
        let sandbox = if class.is_empty() { json!({}) } else { json!({"className": class}) };
        json!({"metadata": {"name": "jobs", "namespace": namespace}, "spec": {"sandbox": sandbox}})
            .to_string()
    };
    let sandbox = |told: &str| {
        json!({
            "metadata": {"name": "s", "namespace": "default", "uid": UID, "generation": 1},
            "spec": {"templateRef": {"name": "jobs"}},
            "status": {"className": told},
        })
        .to_string()
    };
    for (of_template, told, runtime, breaks) in [
        ("gvisor", "", "gvisor", false),
        ("gvisor", "other", "gvisor", false),
        ("gvisor", "", "runc", true),
        ("", "gvisor", "gvisor", false),
        ("", "gvisor", "runc", true),
        ("", "other", "gvisor", true),
        ("unknown", "gvisor", "gvisor", true),
    ] {
        let mut history = walled();
        history
            .put("agentsandbox.dev/agentsandboxtemplates/default/jobs", template("default", of_template))
            .put("agentsandbox.dev/agentsandboxtemplates/other/jobs", template("other", "elsewhere"))
            .put(SANDBOX, sandbox(told))
            .put(AGENT, pod("s-agent", "agent", spec(runtime), false));
        let expected: &[Invariant] = if breaks { &[Invariant::I2] } else { &[] };
        assert_eq!(history.broken(), expected, "{of_template:?}, {told:?}, {runtime:?}");
    }
}

#[test]
fn another_runtime_class_than_the_classs_breaks_i2() {
    let mut history = walled();
    assert_eq!(history.put(AGENT, pod("s-agent", "agent", spec(""), false)).broken(), [Invariant::I2]);
}

#[test]
fn a_runtime_class_that_the_class_no_longer_asks_for_counts_for_a_moment_only() {
    let edited = |seconds| {
        let mut history = walled();
        history.put("agentsandbox.dev/agentsandboxclasses/gvisor", class("kata")).wait(seconds);
        history.put(AGENT, pod("s-agent", "agent", spec("gvisor"), false)).broken()
    };
    assert_eq!(edited(0), []);
    assert_eq!(edited(10), [Invariant::I2]);
}

#[test]
fn a_token_breaks_i3_however_it_would_come() {
    let projected =
        Builder::default().inner(26, Builder::default().inner(1, Builder::default().bytes(4, "")));
    let volume = Builder::default().bytes(1, "token").inner(2, projected);
    let mount = Builder::default().bytes(3, "/var/run/secrets/kubernetes.io/serviceaccount");
    let given = [
        Builder::default().bytes(29, "gvisor"),
        Builder::default().bytes(29, "gvisor").number(21, 1),
        spec("gvisor").inner(1, volume),
        spec("gvisor").inner(2, Builder::default().inner(9, mount)),
    ];
    for spec in given {
        assert_eq!(walled().put(AGENT, pod("s-agent", "agent", spec, false)).broken(), [Invariant::I3]);
    }
}

#[test]
fn a_child_that_outlives_its_sandbox_by_a_minute_breaks_i4() {
    let mut history = running();
    history.delete(SANDBOX).delete(AGENT).delete(PROXY).delete("networkpolicies/default/s-proxy");
    assert_eq!(history.broken(), [], "it has a minute");
    assert_eq!(history.wait(61).broken(), [Invariant::I4]);
}

#[test]
fn a_secret_that_is_seen_elsewhere_breaks_i5_whichever_was_first() {
    let map =
        |value: &str| envelope(Builder::default().inner(1, Builder::default().bytes(1, "m")).bytes(2, value));
    for spelled in [SECRET.to_owned(), STANDARD.encode(SECRET)] {
        assert_eq!(walled().put("configmaps/default/m", map(&spelled)).broken(), [Invariant::I5]);
        let mut history = History::default();
        history.put("configmaps/default/m", map(&spelled));
        history.put("secrets/default/key", secret());
        let credential = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"secretRef": {"name": "key", "key": "token"}}});
        history.put("agentsandbox.dev/agentcredentials/default/c", credential.to_string());
        assert_eq!(history.broken(), [Invariant::I5]);
    }
}

#[test]
fn a_credentials_secret_in_another_pod_than_a_proxy_breaks_i5_however_it_is_given() {
    let by_name = |field| {
        Builder::default().inner(field, Builder::default().inner(1, Builder::default().bytes(1, "key")))
    };
    let variable = Builder::default().inner(7, Builder::default().bytes(1, "KEY").inner(3, by_name(4)));
    let variables = Builder::default().inner(19, by_name(3));
    let given = [
        mounting(spec("gvisor"), "key"),
        spec("gvisor").inner(2, variable.clone()),
        spec("gvisor").inner(20, variables),
        spec("gvisor").inner(34, Builder::default().inner(1, variable)),
    ];
    for spec in given {
        assert_eq!(walled().put(AGENT, pod("s-agent", "agent", spec, false)).broken(), [Invariant::I5]);
    }
}

#[test]
fn what_was_said_while_it_was_true_is_not_judged_again_by_an_edit_of_something_else() {
    let mut history = running();
    history.put(SANDBOX, sandbox(1, Some(1))).delete(AGENT).wait(10);
    assert_eq!(history.put(SANDBOX, sandbox(1, Some(1))).broken(), []);
}

#[test]
fn a_second_agent_breaks_i6() {
    let mut history = running();
    history.put("pods/default/s-agent-2", pod("s-agent-2", "agent", spec("gvisor"), false));
    assert_eq!(history.broken(), [Invariant::I6]);
}

#[test]
fn ready_without_a_pod_that_is_ready_breaks_i7_but_for_a_moment() {
    assert_eq!(walled().put(SANDBOX, sandbox(1, Some(1))).broken(), [Invariant::I7]);
    let fallen = |seconds| {
        let mut history = running();
        history.put(AGENT, pod("s-agent", "agent", spec("gvisor"), false)).wait(seconds);
        history.put(SANDBOX, sandbox(1, Some(1))).broken()
    };
    assert_eq!(fallen(0), []);
    assert_eq!(fallen(10), [Invariant::I7]);
}

#[test]
fn a_sandbox_that_is_resumed_is_not_ready_for_what_was_said_of_its_suspension() {
    let resumed = |reason: &str, told: u64| {
        let ready = json!({"type": "Ready", "status": "True", "reason": reason, "observedGeneration": told});
        let object = json!({
            "metadata": {"name": "s", "namespace": "default", "uid": UID, "generation": 3},
            "spec": {"className": "gvisor", "lifecycle": {"state": "Running"}},
            "status": {"conditions": [ready]},
        });
        let mut history = running();
        history.delete(PROXY).delete(AGENT).wait(10);
        history.put(SANDBOX, object.to_string()).broken()
    };
    assert_eq!(resumed("Suspended", 2), [], "whoever resumes it left the word that was there");
    assert_eq!(resumed("Suspended", 3), [Invariant::I7], "said of a generation that is to run");
    assert_eq!(resumed("Running", 2), [Invariant::I7], "the control is another word of that generation");
}

#[test]
fn ready_without_both_walls_or_at_an_old_generation_breaks_i7() {
    let mut history = running();
    history.delete("networkpolicies/default/s-proxy");
    assert_eq!(history.put(SANDBOX, sandbox(1, Some(1))).broken(), [Invariant::I7]);
    let late = |seconds| {
        let mut history = running();
        history.put(SANDBOX, sandbox(2, None)).wait(seconds);
        history.put(SANDBOX, sandbox(2, Some(1))).broken()
    };
    assert_eq!(late(0), [], "its spec has just changed");
    assert_eq!(late(10), [Invariant::I7]);
}

#[test]
fn a_sandbox_that_is_being_deleted_promises_nothing_more() {
    let mut history = running();
    history.put(SANDBOX, sandbox(1, Some(1))).delete(AGENT).wait(10);
    let mut ending: serde_json::Value = serde_json::from_str(&sandbox(2, Some(1))).unwrap();
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(history.put(SANDBOX, ending.to_string()).broken(), []);
    assert_eq!(history.put(SANDBOX, sandbox(2, Some(1))).broken(), [Invariant::I7]);
}

#[test]
fn what_was_there_before_is_known_and_not_judged() {
    let mut watcher = Watcher::default();
    let value = Some(pod("s-agent", "agent", spec(""), false).into());
    watcher.known(&Event { revision: 1, key: format!("/registry/{AGENT}"), value, at: Duration::ZERO });
    assert_eq!(watcher.violations(), []);
    assert!(watcher.objects.contains_key(&format!("/registry/{AGENT}")));
}

/// What is to be suspended, and is said to be at the generation that is given.
fn suspended(generation: u64, told: u64) -> String {
    let condition =
        |name| json!({"type": name, "status": "True", "reason": "Suspended", "observedGeneration": told});
    json!({
        "metadata": {"name": "s", "namespace": "default", "uid": UID, "generation": generation},
        "spec": {"className": "gvisor", "lifecycle": {"state": "Suspended"}},
        "status": {"conditions": [condition("Ready"), condition("Suspended")]},
    })
    .to_string()
}

#[test]
fn a_pod_that_lives_while_its_sandbox_is_said_to_be_suspended_breaks_i10() {
    let proxy_stays = |status: String| running().delete(AGENT).put(SANDBOX, status).broken();
    assert_eq!(proxy_stays(suspended(2, 2)), [Invariant::I10]);
    assert_eq!(proxy_stays(suspended(2, 1)), [], "it is not told of this generation yet");
    let mut ended = running();
    ended.delete(PROXY).put(AGENT, {
        let status = Builder::default().bytes(1, "Succeeded");
        let pod = Builder::default().inner(1, meta("s-agent", "agent")).inner(2, spec("gvisor"));
        envelope(pod.inner(3, status))
    });
    assert_eq!(ended.put(SANDBOX, suspended(2, 2)).broken(), []);
}

#[test]
fn a_pod_that_is_made_while_its_sandbox_is_said_to_be_suspended_breaks_i10() {
    let made = |seconds, resumed: Option<u64>| {
        let mut history = walled();
        history.put(SANDBOX, suspended(2, 2)).wait(seconds);
        resumed.iter().for_each(|generation| {
            history.put(SANDBOX, sandbox(*generation, None));
        });
        history.put(PROXY, pod("s-proxy", "proxy", spec(""), false)).broken()
    };
    assert_eq!(made(30, None), [Invariant::I10]);
    assert_eq!(made(10, None), [], "it may have been under way");
    assert_eq!(made(30, Some(3)), []);
}
