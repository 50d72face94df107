//! What a command names, from the cluster.

use agentsandbox_crds::AgentSandbox;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::cluster::Cluster;

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
