//! What a command names, from the cluster.

use agentsandbox_crds::AgentSandbox;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::cluster::{ANSWER_TIMEOUT, Cluster};

/// Most names that a sentence tells.
const NAMES_MAX: usize = 5;
/// HTTP status of what is not there.
const NOT_FOUND: u16 = 404;

/// Why something is not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No sandbox has this name.
    #[error("there is no AgentSandbox {name} in namespace {namespace}; {others}")]
    NoSandbox {
        /// The name.
        name: String,
        /// Where it was looked for.
        namespace: String,
        /// What there is.
        others: String,
    },
    /// The API server does not show it.
    #[error("the API server does not give {what}")]
    NotGiven {
        /// What was asked for.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// It says nothing.
    #[error("the API server says nothing for {seconds} s, and was asked for {what}")]
    Silent {
        /// What was asked for.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A pod of the name that the sandbox's would have is somebody else's.
    #[error("Pod {pod} is not one of AgentSandbox {name}: look who made it, and delete it")]
    Foreign {
        /// The pod.
        pod: String,
        /// The sandbox.
        name: String,
    },
}

impl FindError {
    /// The API server's own refusal.
    pub fn not_given(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        |source| Self::NotGiven { what, source: Box::new(source) }
    }
}

/// The sandbox of this name.
///
/// # Errors
/// [`FindError::NoSandbox`] with the names that are near, or what the API server answered.
pub async fn sandbox(cluster: &Cluster, name: &str) -> Result<AgentSandbox, FindError> {
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.client.clone(), &cluster.namespace);
    match sandboxes.get(name).await {
        Ok(sandbox) => Ok(sandbox),
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => {
            let all = sandboxes
                .list(&ListParams::default())
                .await
                .map_err(FindError::not_given(format!("the sandboxes of namespace {}", cluster.namespace)))?;
            let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
            let (name, namespace) = (name.to_owned(), cluster.namespace.clone());
            Err(FindError::NoSandbox { others: others(&name, &names), name, namespace })
        }
        Err(error) => Err(FindError::not_given(format!("AgentSandbox {name}"))(error)),
    }
}

/// What is opened to be followed, such as a log: the opening is waited for no longer than an answer.
///
/// # Errors
/// What the API server answered, or that it said nothing.
pub async fn in_time<T>(
    what: String,
    opening: impl Future<Output = kube::Result<T>>,
) -> Result<T, FindError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, opening).await {
        Ok(opened) => opened.map_err(FindError::not_given(what)),
        Err(_) => Err(FindError::Silent { what, seconds: ANSWER_TIMEOUT.as_secs() }),
    }
}

/// Whether the pod was made for the object with this uid.
#[must_use]
pub fn is_controlled_by(pod: &Pod, uid: &str) -> bool {
    let mut owners = pod.owner_references().iter();
    !uid.is_empty() && owners.any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// The name of a pod of this sandbox, for whoever trusts what it prints or gives it what is typed.
///
/// # Errors
/// Where the pod is not there or not shown, or its name is taken by somebody else's.
pub async fn pod(cluster: &Cluster, sandbox: &AgentSandbox, suffix: &str) -> Result<String, FindError> {
    own_pod(cluster, sandbox, suffix).await.map(|pod| pod.name_any())
}

/// The same pod, whole.
///
/// # Errors
/// As [`pod`].
pub async fn own_pod(cluster: &Cluster, sandbox: &AgentSandbox, suffix: &str) -> Result<Pod, FindError> {
    let (name, pod) = (sandbox.name_any(), format!("{}{suffix}", sandbox.name_any()));
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let found = pods.get(&pod).await.map_err(FindError::not_given(format!(
        "Pod {pod}; `kubectl agentsandbox status {name}` says how far AgentSandbox {name} is"
    )))?;
    match is_controlled_by(&found, sandbox.metadata.uid.as_deref().unwrap_or_default()) {
        true => Ok(found),
        false => Err(FindError::Foreign { pod, name }),
    }
}

/// What there is in the place of a name, as a clause.
fn others(name: &str, names: &[String]) -> String {
    let near = |other: &&String| {
        let distance = strsim::damerau_levenshtein(name, other);
        other.starts_with(name) || distance <= name.len().div_ceil(3)
    };
    let mut found: Vec<&String> = names.iter().filter(near).collect();
    found.sort_by_key(|other| strsim::damerau_levenshtein(name, other));
    let list = |names: &[&String]| {
        let first: Vec<&str> = names.iter().take(NAMES_MAX).map(|name| name.as_str()).collect();
        let more = names.len().saturating_sub(NAMES_MAX);
        if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
    };
    match (found.is_empty(), names.is_empty()) {
        (_, true) => {
            "it has none: look with `kubectl get asbx --all-namespaces`, and choose with --namespace"
                .to_owned()
        }
        (true, false) => format!("it has {}", list(&names.iter().collect::<Vec<_>>())),
        (false, false) => format!("did you mean {}?", list(&found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_sandboxs_own_only_if_it_is_controlled_by_it() {
        let pod = |owners: serde_json::Value| -> Pod {
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": "fix-agent", "ownerReferences": owners}}),
            )
            .unwrap()
        };
        let owner = |uid: &str, is_controller: bool| {
            serde_json::json!([{"apiVersion": "v1", "kind": "AgentSandbox", "name": "fix", "uid": uid,
                "controller": is_controller}])
        };
        assert!(is_controlled_by(&pod(owner("u-1", true)), "u-1"));
        for foreign in [owner("u-2", true), owner("u-1", false), serde_json::json!([])] {
            assert!(!is_controlled_by(&pod(foreign.clone()), "u-1"), "{foreign}");
        }
        assert!(!is_controlled_by(&pod(owner("", true)), ""));
    }

    #[test]
    fn a_name_that_is_not_there_brings_those_that_are_near_and_else_those_that_are() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = names(&["fix-login", "fix-logout", "research", "x"]);
        assert_eq!(others("fix-lgoin", &all), "did you mean fix-login, fix-logout?");
        assert_eq!(others("fix", &all), "did you mean fix-login, fix-logout?");
        assert_eq!(others("nothing-like-it", &names(&["a1", "b2"])), "it has a1, b2");
        assert!(others("any", &[]).contains("--all-namespaces"));
        let many: Vec<String> = (0..8).map(|number| format!("agent-{number}")).collect();
        assert!(others("agent", &many).ends_with("and 3 more?"), "{}", others("agent", &many));
    }
}
