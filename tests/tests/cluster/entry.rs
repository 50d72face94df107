//! Ways in for people with rights on pods: what they reach, and what is not there to be used.

use std::time::Duration;

use agentsandbox_crds::names;
use agentsandbox_tests::exec::attempt;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixtures;
use crate::routes::started;

const WITHIN: Duration = Duration::from_secs(30);

/// What a GET through `kubectl port-forward` is answered with, or why nothing is.
async fn forwarded(ns: &Namespace, pod: &str, port: u16, path: &str) -> Result<String, String> {
    let mut forwarder = ns.pods().portforward(pod, &[port]).await.map_err(|error| error.to_string())?;
    let mut stream = forwarder.take_stream(port).ok_or("no stream")?;
    let failure = forwarder.take_error(port).ok_or("no error channel")?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await.map_err(|error| error.to_string());
    drop(stream);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.is_empty() {
        read?;
        return Err(failure.await.unwrap_or_else(|| "nothing was answered".to_owned()));
    }
    Ok(answer)
}

const LISTEN: &str = "exec python3 -m http.server 8000";

async fn o_g23_a_port_of_an_agent_cannot_be_forwarded(ns: &Namespace) {
    let agent = ns.handle("e");
    agent.sh(&format!("({LISTEN}) </dev/null >/dev/null 2>&1 & echo started")).await.ok();
    eventually("the agent listens", WITHIN, || async {
        let heard = agent.sh("curl -sS --noproxy '*' -o /dev/null http://127.0.0.1:8000/").await;
        if heard.code == 0 { Ok(()) } else { Err(format!("{heard:?}")) }
    })
    .await;
    eventually("a port of the node's own runtime is forwarded", WITHIN, || async {
        forwarded(ns, "plain", 8000, "/")
            .await
            .and_then(|answer| if answer.contains("200 OK") { Ok(()) } else { Err(answer) })
    })
    .await;
    let refused = forwarded(ns, "e-agent", 8000, "/").await.unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
}

/// It enters by the node, where no NetworkPolicy judges; so who may do it is what protects the admin port.
async fn o_h19_a_forwarded_port_passes_the_walls_so_it_is_a_right_of_its_own(ns: &Namespace) {
    let answer = forwarded(ns, "e-proxy", names::PORT_ADMIN, "/healthz").await.unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    let nobody = format!("system:serviceaccount:{}:default", ns.name);
    for account in [&nobody, &format!("system:serviceaccount:{}:e-agent", ns.name)] {
        let may = crate::least_privilege::may(ns, account, "create", "", "pods", Some("portforward")).await;
        assert!(!may, "{account} may forward ports");
    }
}

async fn o_h18_no_shell_runs_in_a_proxy(ns: &Namespace) {
    let pods = ns.pods();
    for shell in [["/bin/sh", "-c", "true"], ["bash", "-c", "true"], ["/busybox/sh", "-c", "true"]] {
        let ended = attempt(&pods, "e-proxy", "proxy", &shell).await;
        assert!(ended.as_ref().map_or(true, |output| output.code != 0), "{shell:?}: {ended:?}");
        attempt(&pods, "plain", "agent", &["sh", "-c", "true"]).await.unwrap().ok();
    }
    attempt(&pods, "e-proxy", "proxy", &["/agentsandbox-proxy", "schema", "audit"]).await.unwrap().ok();
}

#[tokio::test]
async fn who_may_enter_pods_finds_little_there() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "entry", async |ns| {
        ns.sandbox("e", &fixtures::closed("e")).await.ready().await;
        started(&ns, &fixtures::plain("plain", LISTEN)).await;
        o_g23_a_port_of_an_agent_cannot_be_forwarded(&ns).await;
        o_h19_a_forwarded_port_passes_the_walls_so_it_is_a_right_of_its_own(&ns).await;
        o_h18_no_shell_runs_in_a_proxy(&ns).await;
    })
    .await;
}
