//! Installing the chart into the cluster, with the values that this cluster needs, and the world's CA as a class.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, bootstrap, network};
use crate::failure::{During, Result};
use crate::{parts, paths, shell};

/// Namespace of the operator.
pub const NAMESPACE: &str = "agentsandbox-system";
/// Name of the release.
pub const RELEASE: &str = "agentsandbox";
/// The class whose proxies trust the world's CA beside the public roots.
pub const WORLD_CLASS: &str = "world";

/// Time in which the operator must be ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A helm for this cluster.
#[must_use]
pub fn helm(cluster: &Cluster, args: &[&str]) -> Command {
    let mut helm = shell::command(paths::cache().join("rig/bin/helm"), args);
    helm.arg("--kubeconfig").arg(cluster.kubeconfig());
    helm
}

/// Installs or upgrades the chart, waits for the operator, and makes the class [`WORLD_CLASS`].
///
/// # Errors
/// When the chart is refused or the operator is not ready in time.
pub fn install(cluster: &Cluster) -> Result<()> {
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n"
    );
    bootstrap::apply(cluster, &namespace)?;
    // Helm installs CRDs and never upgrades them.
    let crds = paths::repository().join("charts/agentsandbox/crds").display().to_string();
    shell::output(&mut cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])?)?;
    let chart = paths::repository().join("charts/agentsandbox").display().to_string();
    let timeout = format!("{}s", READY_WITHIN.as_secs());
    let mut upgrade = helm(cluster, &["upgrade", "--install", RELEASE, &chart, "--namespace", NAMESPACE]);
    upgrade.args(["--wait", "--timeout", &timeout]);
    // Somebody may have scaled the operator, or edited what is the chart's.
    upgrade.args(["--server-side=true", "--force-conflicts"]);
    for value in values() {
        upgrade.args(["--set", &value]);
    }
    shell::output(&mut upgrade)?;
    restart_if_rebuilt(cluster, &timeout)?;
    bootstrap::apply(cluster, &world_class(cluster)?)
}

/// The image's tag is the chart's version, so a Deployment does not change with it: its template is told which build the
/// node has.
fn restart_if_rebuilt(cluster: &Cluster, timeout: &str) -> Result<()> {
    let archive = paths::images().join("operator.tar");
    let bytes = fs::read(&archive)
        .during(format!("{} cannot be read: run `cargo xtask images`", archive.display()))?;
    let digest: String = Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let template = serde_json::json!({"metadata": {"annotations": {"agentsandbox.test/build": digest}}});
    let patch = serde_json::json!({"spec": {"template": template}}).to_string();
    let deployment =
        ["-n", NAMESPACE, "patch", "deployment", "agentsandbox-operator", "--type=merge", "-p", &patch];
    shell::output(&mut cluster.kubectl(&deployment)?)?;
    let timeout = format!("--timeout={timeout}");
    let status = ["-n", NAMESPACE, "rollout", "status", "deployment", "agentsandbox-operator", &timeout];
    shell::output(&mut cluster.kubectl(&status)?).map(drop)
}

/// Installs or upgrades the chart in the reader's own cluster, with the reader's own values, and waits for the operator.
/// The images come from the registry that the values name.
///
/// # Errors
/// When the values are not readable, the chart is refused, or the operator is not ready in time.
pub fn install_in_context(context: &str, values: &Path) -> Result<()> {
    let values = fs::canonicalize(values).during(format!("{} cannot be read", values.display()))?;
    let bin = parts::built()?;
    let repository = paths::repository();
    let kubectl = |args: &[&str]| {
        let mut command = shell::command(bin.join("kubectl"), &["--context", context]);
        shell::output(command.args(args).current_dir(&repository))
    };
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "charts/agentsandbox/crds"])?;
    let timeout = format!("{}s", READY_WITHIN.as_secs());
    let mut upgrade =
        shell::command(bin.join("helm"), &["upgrade", "--install", RELEASE, "charts/agentsandbox"]);
    upgrade.args(["--kube-context", context, "--namespace", NAMESPACE, "--create-namespace"]);
    upgrade.args(["--wait", "--timeout", &timeout, "--values"]).arg(values).current_dir(&repository);
    shell::output(&mut upgrade)?;
    // Helm makes namespaces without labels.
    let label = "pod-security.kubernetes.io/enforce=restricted";
    kubectl(&["label", "--overwrite", "namespace", NAMESPACE, label]).map(drop)
}

/// What the chart does not find out by itself.
fn values() -> Vec<String> {
    vec![
        format!("apiServer.cidrs={{{}/32,{}/32}}", network::NODE, network::API_SERVICE),
        "sandboxes.persistentWorkspace.maxSize=2Gi".to_owned(),
    ]
}

fn world_class(cluster: &Cluster) -> Result<String> {
    let ca = cluster.world_state().join("ca.crt");
    let roots =
        fs::read_to_string(&ca).during(format!("{} cannot be read: is the world running?", ca.display()))?;
    let class = serde_json::json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass",
        "metadata": {"name": WORLD_CLASS},
        "spec": {
            "isolation": "GVisor", "runtimeClassName": "gvisor",
            "egress": {"additionalRoots": roots},
            "persistentWorkspace": {"maxSize": "2Gi"},
        },
    });
    Ok(class.to_string())
}
