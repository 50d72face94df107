//! The cluster's own addresses are found, and stay current: a node that joins is out of every proxy's reach.

use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Rig, eventually, with_namespace};
use agentsandbox_world::names;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::fixtures;

/// How long a change may take until the proxy acts by it: kubelets bring a changed ConfigMap with their next sync, of which
/// the operator asks for one.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(60);

const NODE: &str = "node-with-a-public-address";

/// A Node nobody runs on; when this is dropped in a failing test, it goes all the same.
struct Joined<'rig>(&'rig Rig);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let leave = ["delete", "node", NODE, "--ignore-not-found"];
        let _left = self.0.cluster.kubectl(&leave).and_then(|mut kubectl| xtask::shell::output(&mut kubectl));
    }
}

#[tokio::test]
async fn p_c4_a_node_that_joins_is_out_of_every_proxys_reach_until_it_leaves() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "ranges", async |ns| {
        let rule = "{host: echo.world.test, scheme: Http, ports: [80], paths: [/a]}";
        let manifest = fixtures::sleeper("reaches", fixtures::AGENT_IMAGE, "Set", &[rule]);
        let sandbox = ns.sandbox("reaches", &manifest).await;
        sandbox.ready().await;
        let pods = async || {
            let mut uids = Vec::new();
            for name in [sandbox.agent_pod(), sandbox.proxy_pod()] {
                uids.push(ns.pods().get(&name).await.unwrap().metadata.uid);
            }
            uids
        };
        let before = pods().await;
        let ask = "curl -sS -m 20 -o /dev/null -w '%{http_code}' http://echo.world.test/a";
        let answered = async |wanted: &str, within: Duration| {
            eventually(&format!("the upstream's address gives {wanted}"), within, || async {
                let code = sandbox.sh(ask).await.stdout;
                if code == wanted { Ok(()) } else { Err(code) }
            })
            .await;
        };
        answered("200", READY_WITHIN).await;

        let nodes: Api<Node> = Api::all(rig.client.clone());
        let address = names::address_of(names::ECHO).unwrap();
        let node = serde_json::from_value(json!({
            "metadata": {"name": NODE}, "spec": {"unschedulable": true},
            "status": {"addresses": [{"type": "ExternalIP", "address": address}]},
        }));
        let joined = Joined(&rig);
        nodes.create(&PostParams::default(), &node.unwrap()).await.unwrap();
        answered("403", IN_FORCE_WITHIN).await;
        nodes.delete(NODE, &DeleteParams::default()).await.unwrap();
        drop(joined);
        answered("200", IN_FORCE_WITHIN).await;
        assert_eq!(pods().await, before, "a change of ranges restarts nothing");
    })
    .await;
}
