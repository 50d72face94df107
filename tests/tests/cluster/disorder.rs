//! What holds while everything that a cluster is made of is killed and started again, etcd and the API server too.

use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use kube::api::DeleteParams;
use serde_json::json;

use crate::engine::{
    BACK_WITHIN, ENGINE, Killed, Order, SEED, seed, sending, sent, without_walls_packets_arrive,
};
use crate::fixtures;

/// Everything that runs on the node but the internet, the way to the host and what keeps the mounts.
const COMPONENTS: [&str; 8] =
    ["etcd", "apiserver", "controller-manager", "scheduler", "kubelet", "containerd", "kube-proxy", ENGINE];
const ROUNDS: usize = 2;
/// So long a question may take before it is asked again.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// A sandbox whose agent sends past its walls from its first moment on, and may ask for one path.
fn sender(name: &str, path: &str) -> String {
    let rule = format!("{{host: echo.world.test, scheme: Http, ports: [80], paths: [{path}]}}");
    fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", &[&rule])
        .replace("[sleep, infinity]", &json!(["bash", "-c", sending()]).to_string())
}

/// What a sandbox's agent is answered at a path.
async fn status(sandbox: &Sandbox, path: &str) -> Result<String, String> {
    let ask = format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' http://echo.world.test{path}");
    Ok(sandbox.try_sh(&ask).await?.stdout)
}

/// The sandbox is ready, its agent sends, and it is answered at one path and not at another.
async fn serves(sandbox: &Sandbox, path: &str, other: &str) -> Result<(), String> {
    match sandbox.condition("Ready").await? {
        Some(ready) if ready.status == "True" => {}
        other => return Err(format!("{}: {other:?}", sandbox.name)),
    }
    let sends = sandbox.try_sh("grep -q dev/udp /proc/1/cmdline").await?;
    if sends.code != 0 {
        return Err(format!("{}: {sends:?}", sandbox.name));
    }
    let (allowed, denied) = (status(sandbox, path).await?, status(sandbox, other).await?);
    if allowed == "200" && denied == "403" {
        return Ok(());
    }
    Err(format!("{} is answered {allowed} at {path} and {denied} at {other}", sandbox.name))
}

/// The path that the edited sandbox was allowed before this round.
fn previous(round: usize) -> String {
    round.checked_sub(1).map_or_else(|| "/first".to_owned(), |last| format!("/edit{last}"))
}

/// A question to what was killed meanwhile may never be answered.
async fn in_time(ask: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(ASKED_FOR, ask).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// One sandbox is made, one is edited and one is deleted while nothing of the cluster may be there.
async fn a_user_goes_on(ns: &Namespace, round: usize) -> Result<(), String> {
    let refused = |error: kube::Error| error.to_string();
    ns.apply(&sender(&format!("new{round}"), "/new")).await.map_err(refused)?;
    ns.apply(&sender("edited", &format!("/edit{round}"))).await.map_err(refused)?;
    match ns
        .handle(&format!("old{round}"))
        .api()
        .delete(&format!("old{round}"), &DeleteParams::default())
        .await
    {
        Ok(_) => Ok(()),
        // What was deleted in an attempt whose answer was lost.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

#[tokio::test]
async fn o_c6_sandboxes_end_as_they_are_written_while_every_component_is_killed_in_random_order() {
    let rig = Rig::alone().await;
    let seed = seed();
    eprintln!("{SEED}={seed}");
    let mut random = Order(seed);
    with_namespace(&rig, "any-order", async |ns| {
        let before = without_walls_packets_arrive(&rig, &ns).await;
        let edited = ns.sandbox("edited", &sender("edited", "/first")).await;
        for round in 0..ROUNDS {
            let old = format!("old{round}");
            ns.sandbox(&old, &sender(&old, "/old")).await.ready().await;
        }
        edited.ready().await;
        for round in 0..ROUNDS {
            let ends = random.shuffled(&COMPONENTS);
            let begins = random.shuffled(&ends);
            eprintln!("round {round}: killed {ends:?}, started {begins:?}");
            let killed = Killed::now(&rig, ends);
            eventually("the user's wishes are taken", BACK_WITHIN, || async {
                killed.start(&begins);
                in_time(a_user_goes_on(&ns, round)).await
            })
            .await;
            let new = ns.handle(&format!("new{round}"));
            // What was allowed before the edit is not any more.
            let (now, before_it) = (format!("/edit{round}"), previous(round));
            eventually("the cluster is as it was written", BACK_WITHIN, || async {
                killed.start(&begins);
                in_time(serves(&edited, &now, &before_it)).await?;
                in_time(serves(&new, "/new", "/never")).await
            })
            .await;
            // What nobody asked may have ended since it was started.
            eventually("every component runs", BACK_WITHIN, || async {
                killed.start(&begins);
                killed.all_run()
            })
            .await;
            ns.handle(&format!("old{round}")).gone(READY_WITHIN).await;
            assert_eq!(sent(&rig).await, before, "a packet left an agent; seed {seed}");
        }
    })
    .await;
}
