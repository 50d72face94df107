//! `cargo xtask test chart`: the chart renders, with its defaults too, and refuses what it should.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::{During, Failure, Result};
use crate::{parts, paths, shell};

/// What only a reader knows of a cluster; each may be left out.
const VALUES: [&str; 5] = [
    "clusterRanges.podCIDRs={10.244.0.0/16}",
    "clusterRanges.serviceCIDRs={10.96.0.0/16}",
    "clusterRanges.nodeCIDRs={10.0.0.0/24}",
    "clusterRanges.clusterDNS=10.96.0.10",
    "apiServer.cidrs={10.96.0.1/32}",
];
/// Kinds that are in a namespace, out of those that the chart has.
const NAMESPACED: [&str; 8] = [
    "ConfigMap",
    "Deployment",
    "Lease",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
    "ServiceAccount",
];

/// The chart, and the Helm that renders it.
struct Chart {
    helm: PathBuf,
    folder: PathBuf,
}

/// Renders the chart in many ways.
///
/// # Errors
/// When it does not render or lint, takes what it should refuse, or renders what it should not; the sentence says which.
pub fn check() -> Result<()> {
    let folder = paths::repository().join("charts/agentsandbox");
    let chart = Chart { helm: parts::built()?.join("helm"), folder };
    shell::output(&mut chart.command(&["lint", "--strict"], &VALUES))?;
    chart.rendered("agentsandbox-system", &VALUES)?;
    chart.refuses()?;
    for namespace in ["agentsandbox-system", "default"] {
        no_object_is_rendered_twice(&chart.rendered(namespace, &[])?)?;
    }
    o_h31_for_one_namespace_the_chart_renders_nothing_of_the_clusters(&chart)
}

impl Chart {
    fn command(&self, verb: &[&str], values: &[&str]) -> Command {
        let mut command = shell::command(&self.helm, verb);
        command.arg(Path::new(&self.folder));
        for value in values {
            command.args(["--set", value]);
        }
        command
    }

    /// What a release of these values consists of.
    fn rendered(&self, namespace: &str, values: &[&str]) -> Result<Vec<Value>> {
        let text =
            shell::output(self.command(&["template", "test"], values).args(["--namespace", namespace]))?;
        serde_yaml::from_multiple(&text).during("what the chart renders is no YAML")
    }

    /// The schema is closed, and some values do not go together.
    fn refuses(&self) -> Result<()> {
        let refused: [&[&str]; 10] = [
            &["noSuchValue=1"],
            &["admission.children=Allow"],
            &["roles=All"],
            &["operator.replicas=-1"],
            &["clusterRanges.clusterDNS=name"],
            &["watchNamespace=a/b"],
            &["watchNamespace=agentsandbox-system"],
            &["watchNamespace=team", "clusterRanges.podCIDRs=null"],
            &["watchNamespace=team", "clusterRanges.nodeCIDRs=null"],
            &["watchNamespace=team", "runtimeClasses.create={gvisor}"],
        ];
        for values in refused {
            if self.rendered("agentsandbox-system", &[&VALUES[..], values].concat()).is_ok() {
                return Err(Failure::new(format!("the chart takes {values:?}, which it should refuse")));
            }
        }
        Ok(())
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Helm renders such a release and does not install it.
fn no_object_is_rendered_twice(objects: &[Value]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for object in objects {
        let key = ["/kind", "/metadata/namespace", "/metadata/name"].map(|pointer| text(object, pointer));
        if !seen.insert(key) {
            return Err(Failure::new(format!("the chart renders {key:?} twice")));
        }
    }
    if seen.is_empty() { Err(Failure::new("the chart renders nothing")) } else { Ok(()) }
}

fn o_h31_for_one_namespace_the_chart_renders_nothing_of_the_clusters(chart: &Chart) -> Result<()> {
    let of_the_clusters = |objects: &[Value], places: &[&str]| -> Vec<String> {
        let is_inside = |object: &&Value| {
            NAMESPACED.contains(&text(object, "/kind"))
                && places.contains(&text(object, "/metadata/namespace"))
                && ["", "Role"].contains(&text(object, "/roleRef/kind"))
        };
        let outside = objects.iter().filter(|object| !is_inside(object));
        outside
            .map(|object| format!("{} {}", text(object, "/kind"), text(object, "/metadata/name")))
            .collect()
    };
    for (namespace, replicas) in [("agents", "operator.replicas=1"), ("others", "operator.replicas=2")] {
        let values = [&VALUES[..], &["watchNamespace=team", replicas]].concat();
        let objects = chart.rendered(namespace, &values)?;
        no_object_is_rendered_twice(&objects)?;
        let outside = of_the_clusters(&objects, &[namespace, "team"]);
        if !outside.is_empty() {
            return Err(Failure::new(format!("with watchNamespace the chart renders {outside:?}")));
        }
    }
    // The control: without that value each of these is there.
    let outside = of_the_clusters(&chart.rendered("agents", &VALUES)?, &["agents"]);
    for object in ["ClusterRole agentsandbox-operator", "AgentSandboxClass gvisor"] {
        if !outside.iter().any(|one| one == object) {
            return Err(Failure::new(format!("the chart does not render the {object} of the cluster")));
        }
    }
    Ok(())
}
