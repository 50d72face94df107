//! The key is in its Secret and in the proxy, and nowhere else.

use agentsandbox_tests::{Rig, Sandbox, with_namespace};
use xtask::shell;

use crate::fixtures;

const KEY: &str = "canary-2f9c4b61d0a7458e93c1";

/// Files of etcd's store in which the canary is.
fn etcd_files_with_canary(rig: &Rig) -> Vec<String> {
    let data = rig.cluster.state().join("etcd/member");
    let found = shell::run("grep", &["-r", "-l", "-a", KEY, &data.display().to_string()]).unwrap_or_default();
    found.lines().map(str::to_owned).collect()
}

async fn agent_sees_nothing(sandbox: &Sandbox) {
    let visible = sandbox
        .sh(&format!("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; grep -r -l -a '{}' / --exclude-dir=proc --exclude-dir=sys 2>/dev/null", &KEY[..12]))
        .await;
    assert!(!visible.stdout.contains(KEY), "the agent sees the key: {}", visible.stdout);
}

#[tokio::test]
async fn p_f10_the_key_is_in_no_file_variable_process_response_object_log_or_event() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "canary", async |ns| {
        ns.secret("echo", "token", KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        let manifest = fixtures::sleeper(
            "c",
            fixtures::AGENT_IMAGE,
            "Set",
            &["{host: echo.world.test, credential: echo}"],
        );
        let sandbox = ns.sandbox("c", &manifest).await;
        sandbox.ready().await;
        sandbox.sh("curl -sS -D /tmp/head -o /tmp/body https://echo.world.test/x?token=y").await.ok();

        let seen = rig.world.requests_to("echo.world.test").await.unwrap();
        let arrived = seen.iter().any(|r| r.header("authorization") == Some(&format!("Bearer {KEY}")));
        assert!(arrived, "the key never arrived, so this test proves nothing");
        agent_sees_nothing(&sandbox).await;
        assert!(!sandbox.log("c-proxy", "proxy").await.contains(KEY), "the key is in the audit log");

        let get = [
            "get",
            "all,configmaps,events,agentsandboxes,agentcredentials,networkpolicies",
            "-n",
            &ns.name,
            "-o",
            "yaml",
        ];
        let objects = shell::output(&mut rig.cluster.kubectl(&get).unwrap()).unwrap();
        assert!(!objects.contains(KEY), "the key is in an object beside its Secret");
        assert!(
            !etcd_files_with_canary(&rig).is_empty(),
            "the Secret itself is not found, so the search proves nothing"
        );
        let logs = rig.cluster.state().join("logs").display().to_string();
        let found = shell::run(
            "grep",
            &["-r", "-l", "-a", KEY, &logs, &rig.cluster.audit_log().display().to_string()],
        );
        assert!(found.is_err(), "the key is in a log of the cluster: {found:?}");
    })
    .await;
}
