//! An install for one namespace: Roles, no ClusterRole, and an agent runs there.

use std::time::Duration;

use agentsandbox_tests::{Rig, with_namespace};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use xtask::cluster::network::{API_SERVICE, NODE, PODS, SERVICES};
use xtask::{install, paths, shell};

use crate::downtime::operators;
use crate::fixtures;

const NAME: &str = "agentsandbox-operator";
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// The chart as other tests need it; when this is dropped it comes back, also in a failing test.
struct Otherwise<'rig>(&'rig Rig);

impl Drop for Otherwise<'_> {
    fn drop(&mut self) {
        // Whoever runs while Roles change would be refused something.
        let gone = ["-n", install::NAMESPACE, "scale", "deployment", NAME, "--replicas=0"];
        let pods = "app.kubernetes.io/component=operator";
        let wait = ["-n", install::NAMESPACE, "wait", "--for=delete", "pod", "-l", pods, "--timeout=60s"];
        for args in [&gone[..], &wait] {
            let _done = self.0.cluster.kubectl(args).and_then(|mut kubectl| shell::output(&mut kubectl));
        }
        let _installed = install::install(&self.0.cluster);
    }
}

fn upgrade(rig: &Rig, namespace: &str) {
    let chart = paths::repository().join("charts/agentsandbox").display().to_string();
    let args = ["upgrade", install::RELEASE, &chart, "--namespace", install::NAMESPACE, "--skip-crds"];
    let mut helm = install::helm(&rig.cluster, &args);
    helm.args(["--wait", "--timeout", "120s", "--server-side=true", "--force-conflicts"]);
    let values = [
        format!("watchNamespace={namespace}"),
        format!("clusterRanges.podCIDRs={{{PODS}}}"),
        format!("clusterRanges.serviceCIDRs={{{SERVICES}}}"),
        format!("clusterRanges.nodeCIDRs={{{NODE}/32}}"),
        format!("apiServer.cidrs={{{NODE}/32,{API_SERVICE}/32}}"),
    ];
    for value in &values {
        helm.args(["--set", value]);
    }
    shell::output(&mut helm).unwrap();
}

fn may(rig: &Rig, verb: &str, resource: &str, place: &[&str]) -> bool {
    let user = format!("--as=system:serviceaccount:{}:{NAME}", install::NAMESPACE);
    let args = [&["auth", "can-i", verb, resource, &user], place].concat();
    // Its "no" is a failure.
    let said = rig.cluster.kubectl(&args).unwrap().output().unwrap();
    String::from_utf8_lossy(&said.stdout).trim() == "yes"
}

#[tokio::test]
async fn o_h31_with_roles_alone_an_agent_of_the_one_namespace_runs_and_ends() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "one", async |ns| {
        let elsewhere = format!("{}-elsewhere", ns.name);
        operators(&rig.client, 0).await;
        let otherwise = Otherwise(&rig);
        upgrade(&rig, &ns.name);

        let roles: Api<ClusterRole> = Api::all(ns.client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(ns.client.clone());
        assert!(roles.get_opt(NAME).await.unwrap().is_none(), "there is a ClusterRole");
        assert!(bindings.get_opt(NAME).await.unwrap().is_none(), "there is a ClusterRoleBinding");
        assert!(may(&rig, "create", "pods", &["-n", &ns.name]));
        for (verb, resource) in [("create", "pods"), ("list", "nodes"), ("list", "agentsandboxclasses")] {
            assert!(!may(&rig, verb, resource, &["-n", &elsewhere]), "{verb} {resource}");
        }

        // The class is the chart's value: there is no object of this name.
        let manifest = fixtures::closed("one").replace("className: world", "className: gvisor");
        let sandbox = ns.sandbox("one", &manifest).await;
        sandbox.ready().await;
        // By who serves the namespace, for with it go the Roles.
        sandbox.delete().await;
        sandbox.gone(ENDS_WITHIN).await;
        drop(otherwise);
    })
    .await;
    // What every other test needs.
    operators(&rig.client, 1).await;
    assert!(may(&rig, "list", "nodes", &[]));
}
