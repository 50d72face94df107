//! Sandboxes as their status tells of them.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::AgentSandboxStatus;
use anstyle::{AnsiColor, Style};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::text::{columns, harmless_line, pairs};

const READY: &str = "Ready";

/// Whether an agent runs behind proven walls, by what was observed of this generation of the sandbox.
#[must_use]
pub fn is_ready(sandbox: &AgentSandbox) -> bool {
    let status = sandbox.status.as_ref();
    let is_current = status.is_some_and(|status| status.observed_generation == sandbox.metadata.generation);
    is_current && condition(sandbox, READY).is_some_and(|ready| ready.status == "True")
}

/// The condition of this type.
#[must_use]
pub fn condition<'a>(sandbox: &'a AgentSandbox, type_: &str) -> Option<&'a Condition> {
    sandbox.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Sandboxes for people, one a line; with their namespaces where there are several.
#[must_use]
pub fn list(sandboxes: &[AgentSandbox], with_namespaces: bool, now: Timestamp) -> String {
    let mut rows =
        vec![["NAMESPACE", "NAME", "READY", "REASON", "CLASS", "DENIED", "AGE"].map(str::to_owned)];
    rows.extend(sandboxes.iter().map(|sandbox| {
        let ready = condition(sandbox, READY);
        let status = sandbox.status.as_ref();
        let age = sandbox.metadata.creation_timestamp.as_ref().map(|made| age(now, made.0));
        [
            sandbox.namespace().unwrap_or_default(),
            sandbox.name_any(),
            ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
            ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
            status.and_then(|status| status.class_name.clone()).unwrap_or_default(),
            denied(status).map(|count| count.to_string()).unwrap_or_default(),
            age.unwrap_or_default(),
        ]
    }));
    let from = usize::from(!with_namespaces);
    columns(&rows.iter().map(|row| row.get(from..).unwrap_or_default().to_vec()).collect::<Vec<_>>())
}

/// One sandbox for people: its conditions, and what its proxy has denied.
#[must_use]
pub fn status(sandbox: &AgentSandbox) -> String {
    let status = sandbox.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let note = (observed != sandbox.metadata.generation).then(|| {
        "The operator has not judged the present generation yet: what is told is of an older one.".to_owned()
    });
    let mut text = pairs(&[
        ("name", Some(sandbox.name_any())),
        ("namespace", sandbox.namespace()),
        ("class", status.and_then(|status| status.class_name.clone())),
        ("template", sandbox.spec.template_ref.as_ref().map(|reference| reference.name.clone())),
        ("image", Some(sandbox.spec.agent.image.clone()).filter(|image| !image.is_empty())),
        ("denied", denied(status).map(|count| count.to_string())),
        ("note", note),
    ]);
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let width = conditions.iter().map(|condition| condition.type_.len()).max().unwrap_or_default();
    if !conditions.is_empty() {
        text.push('\n');
    }
    for Condition { type_, status, reason, message, .. } in conditions {
        let style = style(type_, status);
        text.push_str(&format!(
            "{style}{status:7}{style:#}  {type_:width$}  {}\n{:9}{:width$}  {}\n",
            harmless_line(reason),
            "",
            "",
            harmless_line(message)
        ));
    }
    let latest = status.and_then(|status| status.egress.as_ref()).map(|egress| egress.latest.as_slice());
    let latest = latest.unwrap_or_default();
    if !latest.is_empty() {
        let mut rows = vec![["DENIED", "HOST", "REASON"].map(str::to_owned).to_vec()];
        rows.extend(latest.iter().map(|one| {
            let port = one.port.map(|port| format!(":{port}")).unwrap_or_default();
            let host = one.host.as_ref().map(|host| format!("{host}{port}")).unwrap_or_default();
            vec![one.count.to_string(), host, one.reason.clone()]
        }));
        text.push('\n');
        text.push_str(&columns(&rows));
    }
    text
}

fn denied(status: Option<&AgentSandboxStatus>) -> Option<i64> {
    Some(status?.egress.as_ref()?.denied)
}

/// kstatus's two say that something is amiss when they are true, and all others when they are false, but for that of a suspension, which is
/// asked for.
fn style(type_: &str, status: &str) -> Style {
    let is_amiss = matches!(type_, "Stalled" | "Reconciling");
    if type_ == "Suspended" {
        return Style::new();
    }
    let colour = match (status, is_amiss) {
        ("True", false) | ("False", true) => AnsiColor::Green,
        ("False", false) | ("True", true) => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    colour.on_default()
}

/// How long ago, in its largest unit, as kubectl writes it.
pub(crate) fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sandbox(status: Value) -> AgentSandbox {
        serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
            "metadata": {"name": "fix", "namespace": "team", "generation": 2, "creationTimestamp": "2026-06-01T00:00:00Z"},
            "spec": {"agent": {"image": "a:1"}}, "status": status}))
        .unwrap()
    }

    fn told(generation: i64, ready: &str) -> Value {
        let condition = |type_: &str, status: &str, message: &str| {
            json!({"type": type_, "status": status, "reason": "Because", "message": message,
                "lastTransitionTime": "2026-06-01T00:00:00Z"})
        };
        json!({"observedGeneration": generation, "className": "gvisor",
            "conditions": [condition("NetworkIsolated", "True", "all 7 routes are closed"), condition("Ready", ready, "\u{1b}[2J")],
            "egress": {"denied": 3, "latest": [{"host": "evil.test", "port": 443, "reason": "HostNotAllowed", "count": 3}]}})
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_list_tells_of_each_whether_it_is_ready_and_why() {
        let now = "2026-06-01T03:00:00Z".parse().unwrap();
        let all = [sandbox(told(2, "True")), sandbox(Value::Null)];
        assert_eq!(
            list(&all, false, now),
            "NAME  READY    REASON   CLASS   DENIED  AGE\nfix   True     Because  gvisor  3       3h\nfix   Unknown                           3h\n"
        );
        assert!(list(&all, true, now).starts_with("NAMESPACE  NAME"));
    }

    #[test]
    fn a_status_says_what_was_proven_and_what_was_denied_and_holds_no_escape_of_an_agents() {
        let text = status(&sandbox(told(2, "False")));
        let plain = plain(&text);
        for words in
            ["NetworkIsolated", "all 7 routes are closed", "\\u{1b}[2J", "evil.test:443", "HostNotAllowed"]
        {
            assert!(plain.contains(words), "{plain}");
        }
        assert!(!plain.contains("older one") && status(&sandbox(told(1, "True"))).contains("older one"));
    }

    #[test]
    fn ready_is_only_what_was_observed_of_the_present_generation() {
        assert!(is_ready(&sandbox(told(2, "True"))));
        for status in [told(2, "False"), told(2, "Unknown"), told(1, "True"), Value::Null] {
            assert!(!is_ready(&sandbox(status.clone())), "{status}");
        }
    }

    #[test]
    fn an_age_is_written_in_its_largest_unit() {
        let then: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        for (now, expected) in [
            ("2026-06-01T00:01:59Z", "119s"),
            ("2026-06-01T00:02:00Z", "2m"),
            ("2026-06-01T02:00:00Z", "2h"),
            ("2026-06-03T00:00:00Z", "2d"),
            ("2026-05-31T23:00:00Z", "0s"),
        ] {
            assert_eq!(age(now.parse().unwrap(), then), expected);
        }
    }
}
