//! The whole spec of a sandbox: its own and its template's, merged by the operator's own code, with where each field is from.

use std::path::Path;
use std::sync::Arc;

use agentsandbox_crds::{AgentSandbox, AgentSandboxTemplate};
use agentsandbox_merge::{Fault, Merged, Origin, merge};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::find::{self, FindError};
use crate::text::columns;

/// Why there is no spec to tell of.
#[derive(Debug, thiserror::Error)]
pub enum WholeError {
    /// The file cannot be read.
    #[error("{file} cannot be read")]
    File {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no YAML of the objects that are asked about.
    #[error("{0} is no YAML of an AgentSandbox and its AgentSandboxTemplate: {1}")]
    Yaml(String, String),
    /// It has not exactly one sandbox.
    #[error("{0} has {1} AgentSandboxes: write one, and beside it the AgentSandboxTemplate that it names")]
    Count(String, usize),
}

/// What a sandbox and its template come to.
#[derive(Debug)]
pub struct Whole {
    template: Option<String>,
    outcome: Result<Merged, Vec<Fault>>,
}

impl Whole {
    /// Of a sandbox and those templates that there are.
    #[must_use]
    pub fn of(sandbox: AgentSandbox, templates: &[AgentSandboxTemplate]) -> Self {
        let template = sandbox.spec.template_ref.as_ref().map(|reference| reference.name.clone());
        let is_named = |one: &&AgentSandboxTemplate| {
            Some(one.name_any()) == template && one.namespace() == sandbox.namespace()
        };
        let found = templates.iter().find(is_named);
        let outcome = merge(Arc::new(sandbox), found);
        Self { template, outcome }
    }

    /// Of what the cluster has.
    ///
    /// # Errors
    /// Where it is not there, or not shown.
    pub async fn in_cluster(cluster: &Cluster, name: &str) -> Result<Self, FindError> {
        let sandbox = find::sandbox(cluster, name).await?;
        let Some(reference) = &sandbox.spec.template_ref else { return Ok(Self::of(sandbox, &[])) };
        let templates = Api::<AgentSandboxTemplate>::namespaced(cluster.client.clone(), &cluster.namespace);
        let found = templates.get_opt(&reference.name).await.map_err(FindError::not_given(format!(
            "AgentSandboxTemplate {}, for which you need the verb get on agentsandboxtemplates",
            reference.name
        )))?;
        let found: Vec<_> = found.into_iter().collect();
        Ok(Self::of(sandbox, &found))
    }

    /// The sandbox as it lives, with its template; as it is written where the two do not go together.
    ///
    /// # Errors
    /// Where it is not there, or not shown.
    pub async fn living(cluster: &Cluster, name: &str) -> Result<AgentSandbox, FindError> {
        let sandbox = find::sandbox(cluster, name).await?;
        if sandbox.spec.template_ref.is_none() {
            return Ok(sandbox);
        }
        let whole = Self::in_cluster(cluster, name).await?;
        Ok(whole.outcome.map_or(sandbox, |merged| AgentSandbox::clone(merged.sandbox())))
    }

    /// Of what a file has: one AgentSandbox, and its template.
    ///
    /// # Errors
    /// [`WholeError`].
    pub fn in_file(file: &Path) -> Result<Self, WholeError> {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|source| WholeError::File { file: shown.clone(), source })?;
        let (mut sandboxes, templates) =
            objects(&text).map_err(|error| WholeError::Yaml(shown.clone(), error))?;
        match (sandboxes.pop(), sandboxes.len()) {
            (Some(only), 0) => Ok(Self::of(only, &templates)),
            (found, others) => Err(WholeError::Count(shown, others + usize::from(found.is_some()))),
        }
    }

    /// Whether there is a merged spec.
    #[must_use]
    pub const fn is_merged(&self) -> bool {
        self.outcome.is_ok()
    }

    /// The answer for people.
    #[must_use]
    pub fn table(&self) -> String {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        match &self.outcome {
            Ok(merged) => {
                let mut rows = vec![row(["FIELD", "VALUE", "FROM"])];
                rows.extend(merged.fields().iter().map(|field| {
                    let value = match &field.value {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    vec![field.path.clone(), value, self.named(field.from)]
                }));
                columns(&rows)
            }
            Err(faults) => {
                let mut rows = vec![row(["FIELD", "WHY IT IS NOT ACCEPTED", ""])];
                rows.extend(faults.iter().map(|fault| vec![fault.field.clone(), fault.message.clone()]));
                columns(&rows)
            }
        }
    }

    /// The answer for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        match &self.outcome {
            Ok(merged) => {
                let from = merged.fields().into_iter().map(|field| (field.path, json!(origin(field.from))));
                json!({"template": self.template, "spec": merged.sandbox().spec, "from": from.collect::<serde_json::Map<_, _>>()})
            }
            Err(faults) => {
                let faults =
                    faults.iter().map(|fault| json!({"field": fault.field, "message": fault.message}));
                json!({"template": self.template, "faults": faults.collect::<Vec<_>>()})
            }
        }
    }

    fn named(&self, from: Origin) -> String {
        match (from, &self.template) {
            (Origin::Template, Some(name)) => format!("template {name}"),
            (from, _) => origin(from).to_owned(),
        }
    }
}

const fn origin(from: Origin) -> &'static str {
    match from {
        Origin::Sandbox => "sandbox",
        Origin::Template => "template",
    }
}

/// The sandboxes and templates of a stream of YAML; other kinds are passed over.
fn objects(text: &str) -> Result<(Vec<AgentSandbox>, Vec<AgentSandboxTemplate>), String> {
    let documents: Vec<Value> = serde_yaml::from_multiple(text).map_err(|error| error.to_string())?;
    let (mut sandboxes, mut templates) = (Vec::new(), Vec::new());
    for document in documents {
        match document["kind"].as_str() {
            Some("AgentSandbox") => {
                sandboxes.push(serde_json::from_value(document).map_err(|error| error.to_string())?);
            }
            Some("AgentSandboxTemplate") => {
                templates.push(serde_json::from_value(document).map_err(|error| error.to_string())?);
            }
            _ => {}
        }
    }
    Ok((sandboxes, templates))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    const TEMPLATE: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandboxTemplate
metadata: {name: jobs}
spec: {sandbox: {className: gvisor, agent: {image: 'ghcr.io/acme/agent:2.1'}, resources: {limits: {memory: 1Gi}}}}
";
    const SANDBOX: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandbox
metadata: {name: fix}
spec: {templateRef: {name: jobs}, resources: {limits: {memory: 512Mi}}}
";

    fn of(text: &str) -> Result<Whole, WholeError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Whole::in_file(file.path())
    }

    #[test]
    fn each_field_is_told_with_who_said_it() {
        let whole = of(&format!("{TEMPLATE}---{SANDBOX}")).unwrap();
        assert!(whole.is_merged());
        let table = whole.table();
        let line = |field: &str| {
            let line = table.lines().find(|line| line.starts_with(field)).unwrap_or_default();
            line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect::<Vec<_>>()
        };
        assert_eq!(line("agent.image"), ["agent.image", "ghcr.io/acme/agent:2.1", "template jobs"]);
        assert_eq!(line("resources.limits.memory"), ["resources.limits.memory", "512Mi", "sandbox"]);
        let json = whole.json();
        assert_eq!(json["spec"]["className"], "gvisor");
        assert_eq!(
            (&json["from"]["className"], &json["from"]["templateRef.name"]),
            (&json!("template"), &json!("sandbox"))
        );
    }

    #[test]
    fn the_example_is_accepted_and_narrows_its_template() {
        let file = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/template");
            std::fs::read_to_string(format!("{folder}/{name}.yaml")).unwrap()
        };
        let whole = of(&format!("{}---\n{}", file("template"), file("sandbox"))).unwrap();
        let json = whole.json();
        assert_eq!(
            (&json["spec"]["lifecycle"]["maxLifetime"], &json["from"]["lifecycle.maxLifetime"]),
            (&json!("30m"), &json!("sandbox"))
        );
        assert_eq!(json["spec"]["egress"]["allow"][0]["credential"], "anthropic");
    }

    #[test]
    fn what_speaks_against_it_is_told_with_both_fields() {
        let wider = SANDBOX.replace("512Mi", "2Gi");
        let whole = of(&format!("{TEMPLATE}---{wider}")).unwrap();
        assert!(!whole.is_merged());
        let told = whole.table();
        assert!(
            told.contains("spec.resources.limits.memory")
                && told.contains("in spec.sandbox.resources.limits.memory"),
            "{told}"
        );
        assert_eq!(whole.json()["faults"][0]["field"], "spec.resources.limits.memory");
        let alone = of(SANDBOX).unwrap();
        assert!(alone.table().contains("there is no AgentSandboxTemplate jobs"), "{}", alone.table());
    }

    #[test]
    fn a_spec_is_asked_for_in_the_place_of_a_request() {
        let parsed = |line: &[&str]| {
            Cli::try_parse_from([&["kubectl-agentsandbox", "explain"], line].concat()).map(|_| ()).is_ok()
        };
        for line in
            [&["fix", "--spec"][..], &["--spec", "-f", "x.yaml"], &["fix", "--url", "https://a.test/"]]
        {
            assert!(parsed(line), "{line:?}");
        }
        for line in [
            &["fix"][..],
            &["--spec"],
            &["-f", "x.yaml"],
            &["fix", "-f", "x.yaml", "--spec"],
            &["fix", "--spec", "--url", "https://a.test/"],
            &["--policy", "x.yaml", "--spec"],
        ] {
            assert!(!parsed(line), "{line:?}");
        }
    }

    #[test]
    fn a_file_has_one_sandbox() {
        for (text, count) in [(TEMPLATE.to_owned(), 0), (format!("{SANDBOX}---{SANDBOX}"), 2)] {
            assert!(matches!(of(&text), Err(WholeError::Count(_, found)) if found == count), "{count}");
        }
        assert!(matches!(of("kind: AgentSandbox\nspec: 7"), Err(WholeError::Yaml(..))));
        assert!(matches!(Whole::in_file(Path::new("/nowhere")), Err(WholeError::File { .. })));
    }
}
