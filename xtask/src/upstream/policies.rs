//! Kubernetes' own tests of NetworkPolicies, on a cluster of their own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::report::Report;
use super::{Own, Runtime, Suite, exceptions, folder, judge};
use crate::cluster::{Cluster, bootstrap, process, up};
use crate::failure::{During, Failure, Result};
use crate::oci::{File, Image};
use crate::{oci, parts, paths, shell};

/// What the tests' pods run; the name is written in the tests.
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// What enforces the policies.
const ENGINE: &str = "kube-router";
/// All of the suite, and the one spec that is run without an engine.
const ALL: &str = "Netpol";
const CONTROL: &str =
    "NetworkPolicy between server and client should support a 'default-deny-ingress' policy";

/// Every pod of the tests is put under gVisor, and one that is not is refused: a run that is green was under gVisor.
const UNDER_GVISOR: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: under-gvisor}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchExpressions: [{key: e2e-run, operator: Exists}]}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{spec: Object.spec{runtimeClassName: "gvisor"}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: under-gvisor}
spec: {policyName: under-gvisor}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: under-gvisor}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchExpressions: [{key: e2e-run, operator: Exists}]}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  validations:
  - {expression: 'has(object.spec.runtimeClassName) && object.spec.runtimeClassName == "gvisor"'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: under-gvisor}
spec: {policyName: under-gvisor, validationActions: [Deny]}
"#;

/// Runs them with their pods under a runtime, and one of them without a policy engine, which has to fail.
///
/// # Errors
/// When a spec does what is not listed, or passes without an engine.
pub fn run(runtime: Runtime) -> Result<()> {
    let program = parts::judge("netpol.test")?;
    let own = Own::named(&format!("netpol-{}", runtime.as_str()))?;
    up::up(&own.0)?;
    own.0.load(&[image()?])?;
    if runtime == Runtime::Runsc {
        bootstrap::apply(&own.0, UNDER_GVISOR)?;
    }
    let folder = folder(Suite::Netpol, runtime)?;
    let report = specs(&program, &own.0, runtime, ALL, &folder.join("report.json"))?;
    judge(Suite::Netpol, runtime, &report)?;
    process::stop(&own.0, ENGINE, Duration::ZERO)?;
    let without = specs(&program, &own.0, runtime, CONTROL, &folder.join("control.json"))?;
    if without.passed.is_empty() && without.failed.len() == 1 {
        return Ok(());
    }
    Err(Failure::new(format!("without an engine one spec has to fail: {without:?}")))
}

fn specs(program: &Path, cluster: &Cluster, runtime: Runtime, focus: &str, report: &Path) -> Result<Report> {
    let mut tests: Command = shell::command(program, &["--provider=local", "--dump-logs-on-failure=false"]);
    tests.arg("--kubeconfig").arg(cluster.kubeconfig()).arg(format!("--ginkgo.focus={focus}"));
    tests.args(["--ginkgo.timeout=3h", "--ginkgo.no-color"]);
    let skip = exceptions()?.skip(Suite::Netpol, runtime);
    if !skip.is_empty() {
        tests.arg(format!("--ginkgo.skip={skip}"));
    }
    tests.arg(format!("--ginkgo.json-report={}", report.display()));
    // Specs that fail make the program fail: the report says which.
    let _told_by_the_report = shell::logged(&mut tests, &report.with_extension("log"));
    Report::read(report)
}

fn image() -> Result<std::path::PathBuf> {
    let program = parts::judge("agnhost")?;
    let content = std::fs::read(&program).during(format!("{} cannot be read", program.display()))?;
    let image = Image {
        reference: IMAGE.to_owned(),
        files: [("/agnhost".to_owned(), File { content, mode: 0o755 })].into(),
        entrypoint: vec!["/agnhost".to_owned()],
        user: "0:0".to_owned(),
        ..Image::default()
    };
    let path = paths::target().join("upstream/agnhost.tar");
    std::fs::create_dir_all(paths::target().join("upstream")).during("a folder cannot be made")?;
    oci::write(&image, &path).during("the image cannot be made").map(|archive| archive.path)
}
