//! A sandbox's spec laid over its template's.
//!
//! It narrows nothing and refuses nothing: that is for [`bounds`](super::bounds). A value of the sandbox stands in the place of the
//! template's. Objects are laid over each other field by field. Lists stand in each other's place, but for those named in [`listed`], of
//! which the sandbox's entries are added to the template's.

use agentsandbox_crds::AgentSandboxSpec;
use agentsandbox_crds::common::OnRevoke;
use agentsandbox_crds::workspace::WorkspaceAccess;
use serde_json::{Map, Value};

/// How two lists become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    /// The sandbox's stands in the place of the template's.
    Own,
    /// All entries of both, each once.
    United,
    /// The same, and entries that have the same value in this field are laid over each other.
    Keyed(&'static str),
}

fn listed(path: &str) -> Listed {
    match path {
        "workspace.exclude" | "workspace.sanitize" | "agent.processSandbox.noExecutePaths" => Listed::United,
        "agent.env" => Listed::Keyed("name"),
        "scratch.additional" => Listed::Keyed("path"),
        _ => Listed::Own,
    }
}

/// The template's spec, with everything of the sandbox's laid over it.
///
/// # Errors
/// When the two make no spec together, which types that read each of both rule out.
pub(crate) fn overlaid(
    own: &AgentSandboxSpec,
    of: &AgentSandboxSpec,
) -> Result<AgentSandboxSpec, serde_json::Error> {
    let (of, own) = (super::value(&shed(own, of.clone())), super::value(own));
    let of = without_source(&own, of);
    serde_json::from_value(over("", own, of))
}

/// Fields of a workspace that say what it begins with: each stands in the place of every other. Such as no schema has yet are in none.
const SOURCES: [&str; 5] = ["archive", "git", "image", "persistentVolumeClaim", "configMap"];

/// The template's spec without its source, where the sandbox has one.
fn without_source(own: &Value, mut of: Value) -> Value {
    let has_own = SOURCES.iter().any(|source| !own["workspace"][source].is_null());
    if let Some(workspace) = of.get_mut("workspace").and_then(Value::as_object_mut).filter(|_| has_own) {
        workspace.retain(|name, _| !SOURCES.contains(&name.as_str()));
    }
    of
}

/// The template's spec without what the sandbox says as a whole: the fields of what stands in its place would contradict it.
fn shed(own: &AgentSandboxSpec, mut of: AgentSandboxSpec) -> AgentSandboxSpec {
    of.template_ref = None;
    // Whether one sandbox runs for now is that one's to say.
    of.lifecycle.iter_mut().for_each(|lifecycle| lifecycle.state = None);
    if !own.agent.command.is_empty() {
        of.agent.args.clear();
    }
    if let (Some(own), Some(of)) = (&own.workspace, &mut of.workspace) {
        if own.access.is_some_and(|access| access != WorkspaceAccess::Persistent) {
            of.persistent = None;
        }
        if own.persistent.is_some() {
            of.medium = None;
        }
    }
    if let (Some(own), Some(of)) = (&own.egress, &mut of.egress)
        && own.on_revoke == Some(OnRevoke::Kill)
    {
        of.drain_seconds = None;
    }
    of
}

fn over(path: &str, own: Value, of: Value) -> Value {
    match (own, of) {
        (Value::Object(own), Value::Object(of)) => Value::Object(fields(path, own, of)),
        (Value::Array(own), Value::Array(of)) => Value::Array(entries(path, own, of)),
        (own, _) => own,
    }
}

fn fields(path: &str, own: Map<String, Value>, mut of: Map<String, Value>) -> Map<String, Value> {
    for (name, value) in own {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let value = match of.remove(&name) {
            Some(under) => over(&path, value, under),
            None => value,
        };
        of.insert(name, value);
    }
    of
}

fn entries(path: &str, own: Vec<Value>, mut of: Vec<Value>) -> Vec<Value> {
    let listed = listed(path);
    if listed == Listed::Own {
        return own;
    }
    for entry in own {
        let is_same = |other: &&mut Value| match listed {
            Listed::Keyed(key) => other[key] == entry[key],
            Listed::Own | Listed::United => **other == entry,
        };
        match of.iter_mut().find(is_same) {
            Some(under) => *under = over(path, entry, under.take()),
            None => of.push(entry),
        }
    }
    of
}
