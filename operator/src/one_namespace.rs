//! An operator for one namespace, by the rights of a Role there, and by none in the cluster.
//!
//! What the cluster tells otherwise is given: the classes by a file of the chart, the API server's address by the kubelet, and the
//! cluster's ranges by its administrator. RuntimeClasses are not looked for: the API server refuses a pod whose RuntimeClass does not
//! exist, and the fence proves the kernel all the same. Whether admission policies are in force, nobody can say here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentsandbox_crds::AgentSandboxClass;
use clap::Args;
use kube::Resource;
use kube::core::TypeMeta;
use serde::de::DeserializeOwned;

use crate::controller::chain;

/// Longest name of a namespace (RFC 1123).
const NAMESPACE_CHARACTERS_MAX: usize = 63;

/// Flags of an operator for one namespace, as they are typed.
#[derive(Clone, Debug, Default, Args)]
pub struct Given {
    /// The only namespace whose sandboxes are served. Everything outside it is then given and not asked for: write --classes,
    /// --api-service and each range. Absent serves every namespace.
    #[arg(long, requires_all = ["classes", "api_service"])]
    pub watch_namespace: Option<String>,
    /// File with the AgentSandboxClasses of that namespace, as YAML.
    #[arg(long, requires = "watch_namespace")]
    pub classes: Option<PathBuf>,
    /// Address and port of the Service default/kubernetes, which the fence proves to be out of reach.
    #[arg(long, requires = "watch_namespace")]
    pub api_service: Option<String>,
    /// Address and port of an endpoint of the API server, which the fence proves to be out of reach; may be repeated.
    #[arg(long, requires = "watch_namespace")]
    pub api_endpoint: Vec<String>,
}

/// The one namespace, and what is given of everything outside it.
#[derive(Clone, Debug, PartialEq)]
pub struct OneNamespace {
    /// Its name.
    pub namespace: String,
    /// All classes; at least one.
    pub classes: Vec<AgentSandboxClass>,
    /// The Service of the API server.
    pub api_service: SocketAddr,
    /// Endpoints of the API server, as far as they are known.
    pub api_endpoints: Vec<SocketAddr>,
}

/// Why a text is no list of classes.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[from] std::io::Error),
    /// It is no YAML of classes.
    #[error("it is no list of AgentSandboxClasses")]
    Yaml(#[source] Box<serde_yaml::Error>),
    /// An object of another kind, or without a name.
    #[error("{0:?} is no AgentSandboxClass with a name")]
    Kind(String),
    /// Two of one name.
    #[error("it has two classes {0}")]
    Twice(String),
    /// No class at all.
    #[error("it has no class")]
    Empty,
}

impl Given {
    /// What is given; none where every namespace is served. Each fault is added to `faults`, and who finds one there must not go
    /// on: with a fault, none is no word that every namespace is served.
    pub fn read(&self, faults: &mut Vec<String>) -> Option<Arc<OneNamespace>> {
        let namespace = self.watch_namespace.clone()?;
        if !is_namespace(&namespace) {
            faults.push(format!("--watch-namespace: write the name of a namespace, not {namespace:?}"));
        }
        let file = self.classes.clone().unwrap_or_default();
        let classes = classes(&file)
            .map_err(|error| faults.push(format!("--classes: {}: {}", file.display(), chain(&error))));
        let mut socket = |flag, value: &str| {
            let fault =
                || format!("--{flag}: write an address and port such as 10.96.0.1:443, not {value:?}");
            value.parse::<SocketAddr>().map_err(|_| faults.push(fault())).ok()
        };
        let api_service = socket("api-service", self.api_service.as_deref().unwrap_or_default());
        let api_endpoints = self.api_endpoint.iter().filter_map(|one| socket("api-endpoint", one)).collect();
        Some(Arc::new(OneNamespace {
            namespace,
            classes: classes.ok()?,
            api_service: api_service?,
            api_endpoints,
        }))
    }
}

fn is_namespace(name: &str) -> bool {
    let fits = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-';
    (1..=NAMESPACE_CHARACTERS_MAX).contains(&name.len()) && name.chars().all(fits)
}

/// The classes of a file, by name.
fn classes(file: &Path) -> Result<Vec<AgentSandboxClass>, Invalid> {
    let text = std::fs::read_to_string(file)?;
    // Read twice as what they are, and never by way of any value: a quoted "true" is an annotation, and no boolean. What is no
    // class at all should be called by its kind, before its fields are missed.
    for TypeMeta { api_version, kind } in documents(&text)? {
        if AgentSandboxClass::kind(&()) != kind || AgentSandboxClass::api_version(&()) != api_version {
            return Err(Invalid::Kind(format!("{api_version} {kind}")));
        }
    }
    let mut classes = BTreeMap::new();
    for class in documents::<AgentSandboxClass>(&text)? {
        let name = class.metadata.name.clone().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Invalid::Kind("AgentSandboxClass without a name".to_owned()))?;
        if classes.insert(name.clone(), class).is_some() {
            return Err(Invalid::Twice(name));
        }
    }
    if classes.is_empty() { Err(Invalid::Empty) } else { Ok(classes.into_values().collect()) }
}

/// The documents of a YAML stream, the empty ones left out.
fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, Invalid> {
    serde_yaml::from_multiple(text).map_err(|error| Invalid::Yaml(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command, Config, Faults, Flags};

    const CLASS: &str = r#"
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandboxClass
metadata: {name: gvisor, annotations: {agentsandbox.dev/is-default-class: "true"}}
spec: {isolation: GVisor, runtimeClassName: gvisor}
"#;

    /// The flags of `run` with classes from this file, and others behind.
    fn flags(classes: &Path, arguments: &[&str]) -> Result<Flags, clap::Error> {
        let base = ["operator", "run", "--cluster-dns", "10.96.0.10", "--classes", classes.to_str().unwrap()];
        match Cli::try_parse_from(base.iter().chain(arguments).copied())?.command {
            Command::Run(flags) => Ok(*flags),
            other => panic!("{other:?}"),
        }
    }

    fn config(classes: &str, arguments: &[&str]) -> Result<Config, Faults> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), classes).unwrap();
        Config::try_from(flags(file.path(), arguments).expect("the flags parse"))
    }

    const TEAM: [&str; 4] = ["--watch-namespace", "team", "--api-service", "10.96.0.1:443"];

    #[test]
    fn o_h31_everything_outside_the_namespace_is_given() {
        let only =
            config(CLASS, &[&TEAM[..], &["--api-endpoint", "10.0.0.1:6443"]].concat()).unwrap().only.unwrap();
        assert_eq!((only.namespace.as_str(), only.classes.len()), ("team", 1));
        assert_eq!(only.classes.first().unwrap().metadata.name.as_deref(), Some("gvisor"));
        assert_eq!(only.api_service, "10.96.0.1:443".parse().unwrap());
        assert_eq!(only.api_endpoints, ["10.0.0.1:6443".parse().unwrap()]);
    }

    #[test]
    fn o_h31_the_classes_are_a_stream_of_yaml_and_certificates_in_them_stay_whole() {
        let named = |name: &str| CLASS.replace("name: gvisor", &format!("name: {name}"));
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let indented: String = pem.lines().map(|line| format!("      {line}\n")).collect();
        let private = format!(
            "{}  egress:\n    additionalRoots: |\n{indented}",
            named("private").replace(
                "spec: {isolation: GVisor, runtimeClassName: gvisor}",
                "spec:\n  isolation: GVisor\n  runtimeClassName: gvisor"
            )
        );
        let stream = format!(
            "# Made by the chart.\n---\n{private}--- # another\n{}---\n# none\n...\n",
            named("plain")
        );
        let only = config(&stream, &TEAM).unwrap().only.unwrap();
        let names: Vec<_> = only.classes.iter().filter_map(|class| class.metadata.name.as_deref()).collect();
        assert_eq!(names, ["plain", "private"]);
        let roots = |class: &AgentSandboxClass| class.spec.egress.as_ref()?.additional_roots.clone();
        assert_eq!(only.classes.iter().find_map(roots).as_deref(), Some(pem));
    }

    #[test]
    fn o_h31_what_is_given_badly_is_a_fault_and_never_every_namespace() {
        let another = CLASS.replace("kind: AgentSandboxClass", "kind: AgentSandbox");
        let nameless = CLASS.replace("name: gvisor, ", "");
        let twice = format!("{CLASS}---{CLASS}");
        let broken = format!("{CLASS}---\n}}\n");
        for classes in
            ["", "text", "[]", another.as_str(), nameless.as_str(), twice.as_str(), broken.as_str()]
        {
            let Faults(faults) = config(classes, &TEAM).expect_err(classes);
            assert!(matches!(faults.as_slice(), [only] if only.starts_with("--classes")), "{faults:?}");
        }
        let bad = [("--api-endpoint", "10.0.0.1"), ("--admission", "/nowhere/admission.yaml")];
        for (flag, value) in bad {
            let Faults(faults) = config(CLASS, &[&TEAM[..], &[flag, value]].concat()).expect_err(flag);
            assert!(faults.iter().all(|fault| fault.starts_with(flag)), "{faults:?}");
        }
        for (namespace, service) in [("", "10.96.0.1:443"), ("a/b", "10.96.0.1:443"), ("team", "kubernetes")]
        {
            let arguments = ["--watch-namespace", namespace, "--api-service", service];
            assert!(config(CLASS, &arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn o_h31_half_of_the_flags_are_none() {
        let file = Path::new("/etc/agentsandbox/classes.yaml");
        assert!(flags(file, &TEAM).is_ok());
        for left_out in [&TEAM[..2], &TEAM[2..], &[]] {
            assert!(flags(file, left_out).is_err(), "{left_out:?}");
        }
    }
}
