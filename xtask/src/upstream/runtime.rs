//! The CRI's own tests (critest), on a containerd of their own: a kubelet beside them would remove their pods.

use std::path::Path;
use std::time::Duration;

use super::report::Report;
use super::{Own, Runtime, Suite, exceptions, folder, image, judge};
use crate::cluster::{Cluster, cgroup, process, up};
use crate::failure::Result;
use crate::{parts, shell};

/// Who would give the runtime work of its own.
const OTHERS: [&str; 5] = ["kube-router", "kube-proxy", "kubelet", "scheduler", "controller-manager"];
/// The cgroups that containerd makes where nobody names others: outside of the cluster's own.
const CGROUPS: &str = "k8s.io";

/// Runs them with one of containerd's runtimes.
///
/// # Errors
/// When a spec does what is not listed.
pub fn run(runtime: Runtime) -> Result<()> {
    let program = parts::judge("critest.test")?;
    let own = Own::named(&format!("critest-{}", runtime.as_str()))?;
    up::up(&own.0)?;
    for component in OTHERS {
        process::stop(&own.0, component, Duration::ZERO)?;
    }
    own.0.load(&[image::built()?])?;
    let folder = folder(Suite::Critest, runtime)?;
    let report = specs(&program, &own.0, runtime, &folder.join("report.json"));
    end_pods(&own.0)?;
    drop(own);
    judge(Suite::Critest, runtime, &report?)
}

/// A spec that fails leaves its pod behind.
fn end_pods(cluster: &Cluster) -> Result<()> {
    let ids = shell::output(&mut cluster.ctr(&["containers", "list", "--quiet"])?)?;
    ids.lines().filter(|id| !id.is_empty()).try_for_each(|id| cgroup::end(&format!("{CGROUPS}/{id}")))?;
    // Of some pods that were removed, and of a run that broke off, empty ones stay.
    cgroup::remove_unused(CGROUPS);
    Ok(())
}

fn specs(program: &Path, cluster: &Cluster, runtime: Runtime, report: &Path) -> Result<Report> {
    let socket = format!("unix://{}", cluster.containerd_socket());
    let json = report.display().to_string();
    let program = program.display().to_string();
    // The folder that is entered from outside of the node's mounts has no name there, and the program wants one.
    let enter = ["-c", "cd /tmp && exec \"$@\"", "sh"];
    let mut args = enter.to_vec();
    args.extend([program.as_str(), "-runtime-endpoint", &socket, "-runtime-handler", runtime.as_str()]);
    args.extend(["-ginkgo.no-color", "-ginkgo.timeout", "1h", "-ginkgo.json-report", &json]);
    let skip = exceptions()?.skip(Suite::Critest, runtime);
    args.extend(["-ginkgo.skip", &skip]);
    // Specs that fail make the program fail: the report says which.
    let _told_by_the_report =
        shell::logged(&mut cluster.on_node("sh", &args)?, &report.with_extension("log"));
    Report::read(report)
}
