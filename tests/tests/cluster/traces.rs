//! A class that names a collector of traces in the cluster: its proxies reach it, and its agents do not.

use std::time::Duration;

use agentsandbox_crds::AgentSandboxClass;
use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Rig, eventually, with_namespace};
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::fixtures;

const PORT: u16 = 4318;

/// Answers every POST and prints what it brought; in its log is what it was told.
const COLLECTOR: &str = r#"exec python3 -u -c '
from http.server import BaseHTTPRequestHandler, HTTPServer
class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        print(self.path, body)
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
HTTPServer(("", 4318), Collector).serve_forever()
'"#;

#[tokio::test]
async fn o_n17_a_collector_in_the_cluster_is_told_by_the_proxy_and_reached_by_no_agent() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "traces", async |ns| {
        ns.apply(&fixtures::plain("collector", COLLECTOR).to_string()).await.unwrap();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "collector"},
            "spec": {"selector": {"app": "collector"}, "ports": [{"port": PORT}]},
        });
        ns.apply(&service.to_string()).await.unwrap();
        let collector = ns.pod_ready("collector", Duration::from_secs(60)).await;
        let pod = collector.status.and_then(|status| status.pod_ip).expect("the pod has an address");
        let name = format!("collector.{}.svc.cluster.local", ns.name);
        ns.apply(&fixtures::plain("unfenced", fixtures::WAIT).to_string()).await.unwrap();
        ns.pod_ready("unfenced", Duration::from_secs(60)).await;

        let classes: Api<AgentSandboxClass> = Api::all(ns.client.clone());
        let world = classes.get("world").await.unwrap().spec;
        let own = json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": ns.name},
            "spec": {
                "isolation": "GVisor", "runtimeClassName": "gvisor",
                "egress": {"additionalRoots": world.egress.unwrap().additional_roots},
                "tracing": {
                    "endpoint": format!("http://{name}:{PORT}"),
                    "pods": {"namespace": ns.name, "labels": {"app": "collector"}},
                },
            },
        });
        ns.apply(&own.to_string()).await.unwrap();
        let rule = format!("{{host: {name}, ports: [{PORT}], scheme: Http, methods: [POST]}}");
        let manifest = fixtures::sleeper("a", fixtures::AGENT_IMAGE, "Set", &[&rule])
            .replace("className: world", &format!("className: {}", ns.name));
        let agent = ns.sandbox("a", &manifest).await;
        agent.ready().await;

        let ask = |way: &str, host: &str, note: &str| {
            format!("curl -sS {way} --max-time 10 -o /dev/null -w '%{{http_code}}' -d {note} http://{host}:{PORT}/v1/traces")
        };
        // Without walls both are open.
        for (host, note) in [(pod.as_str(), "free-pod"), (name.as_str(), "free-name")] {
            // It may still be starting.
            let line = ask("--retry 20 --retry-connrefused", host, note);
            let open = agentsandbox_tests::exec::exec(&ns.pods(), "unfenced", "agent", &["sh", "-c", &line]).await;
            assert_eq!(open.stdout, "200", "{open:?}");
        }
        for host in [pod.as_str(), name.as_str()] {
            let around = agent.sh(&ask("--noproxy '*'", host, "forged")).await;
            assert_ne!(around.stdout, "200", "{around:?}");
            let through = agent.sh(&ask("", host, "forged")).await;
            assert_eq!(through.stdout, "403", "{through:?}");
        }
        eventually("the proxy's denial is told", READY_WITHIN, || async {
            let log = agent.log("collector", "agent").await;
            let is_told = log.contains("ForbiddenAddress") && log.contains(&ns.name);
            if is_told { Ok(()) } else { Err(log) }
        })
        .await;
        let log = agent.log("collector", "agent").await;
        assert!(log.contains("free-pod") && log.contains("free-name") && !log.contains("/v1/traces forged"), "{log}");
        classes.delete(&ns.name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}
