//! The key is in its Secret and in the proxy, and nowhere else.

use agentsandbox_crds::names;
use agentsandbox_tests::{Namespace, Rig, Sandbox, with_namespace};
use base64::Engine;
use xtask::shell;

use crate::fixtures;

/// A key of this run alone: what an earlier one left behind is not found again.
fn canary(ns: &Namespace) -> String {
    format!("2f9c4b61d0a7458e93c1-{}", ns.name)
}

/// Keys of etcd whose values hold this key, of all keys there are.
fn etcd_keys_with(rig: &Rig, key: &str) -> Vec<String> {
    // The range from \0 to \0 is everything (etcd's gRPC gateway).
    let all = r#"{"key":"AA==","range_end":"AA=="}"#;
    let args = ["-sS", "-d", all, "http://127.0.0.1:2379/v3/kv/range"];
    let answer = shell::output(&mut rig.cluster.on_node("curl", &args).unwrap()).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("etcd speaks JSON");
    let pairs = answer["kvs"].as_array().expect("etcd has keys");
    let bytes = |value: &serde_json::Value| {
        base64::engine::general_purpose::STANDARD
            .decode(value.as_str().unwrap_or_default())
            .expect("values are base64")
    };
    let holds = |value: &[u8]| value.windows(key.len()).any(|window| window == key.as_bytes());
    let found = pairs.iter().filter(|pair| holds(&bytes(&pair["value"])));
    found.map(|pair| String::from_utf8_lossy(&bytes(&pair["key"])).into_owned()).collect()
}

async fn agent_sees_nothing(sandbox: &Sandbox, key: &str) {
    let shown = sandbox.sh("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'").await;
    assert!(
        shown.stdout.contains("HTTPS_PROXY"),
        "no environment is seen, so this proves nothing: {shown:?}"
    );
    assert!(!shown.stdout.contains(key), "the agent sees the key: {}", shown.stdout);
    // In two halves, so that the command itself is not what is found. The planted file is the positive control.
    let (left, right) = key.split_at(key.len() / 2);
    let search = format!(
        "k=\"$(printf %s%s '{left}' '{right}')\"; echo \"$k\" > /tmp/planted; grep -rlsa \"$k\" / --exclude-dir=proc --exclude-dir=sys"
    );
    assert_eq!(sandbox.sh(&search).await.stdout.trim(), "/tmp/planted", "files that hold the key");
}

async fn o_h24_the_key_is_only_in_its_secret_and_in_files_of_the_proxy(rig: &Rig, ns: &Namespace, key: &str) {
    let get = [
        "get",
        "all,configmaps,events,agentsandboxes,agentcredentials,networkpolicies",
        "-n",
        &ns.name,
        "-o",
        "yaml",
    ];
    let objects = shell::output(&mut rig.cluster.kubectl(&get).unwrap()).unwrap();
    assert!(!objects.contains(key), "the key is in an object beside its Secret");
    // Finding the Secret itself is the positive control.
    assert_eq!(etcd_keys_with(rig, key), [format!("/registry/secrets/{}/echo", ns.name)]);
    let logs = rig.cluster.state().join("logs").display().to_string();
    let found =
        shell::run("grep", &["-r", "-l", "-a", key, &logs, &rig.cluster.audit_log().display().to_string()]);
    assert!(found.is_err(), "the key is in a log of the cluster: {found:?}");

    let proxy = ns.pods().get("c-proxy").await.unwrap();
    for pod in [&proxy, &ns.pods().get("c-agent").await.unwrap()] {
        let told: String = rig.runtime_specs(pod).iter().map(serde_json::Value::to_string).collect();
        assert!(told.contains("\"env\"") && !told.contains(key), "the runtime was told the key");
    }
    let volumes = proxy.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let modes: Vec<_> = volumes.filter_map(|volume| volume.projected.as_ref()?.default_mode).collect();
    // Its group is the proxy's own: no other user, and nobody to write.
    assert_eq!(modes, [0o440], "the files' mode");
    let container = &proxy.spec.as_ref().unwrap().containers[0];
    let mounts: Vec<_> =
        container.volume_mounts.iter().flatten().filter(|m| m.name == "credentials").collect();
    assert!(mounts.len() == 1 && mounts[0].read_only == Some(true), "{mounts:?}");
}

#[tokio::test]
async fn p_f10_the_key_is_in_no_file_variable_process_response_object_log_or_event() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "canary", async |ns| {
        let key = &*canary(&ns);
        ns.secret("echo", "token", key).await;
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
        let arrived = seen.iter().any(|r| r.header("authorization") == Some(&format!("Bearer {key}")));
        assert!(arrived, "the key never arrived, so this test proves nothing");
        agent_sees_nothing(&sandbox, key).await;
        assert!(!sandbox.log("c-proxy", "proxy").await.contains(key), "the key is in the audit log");
        let raw = format!("/api/v1/namespaces/{}/pods/c-proxy:{}/proxy/metrics", ns.name, names::PORT_ADMIN);
        let metrics = shell::output(&mut rig.cluster.kubectl(&["get", "--raw", &raw]).unwrap()).unwrap();
        assert!(metrics.contains("# TYPE") && !metrics.contains(key), "{metrics}");

        o_h24_the_key_is_only_in_its_secret_and_in_files_of_the_proxy(&rig, &ns, key).await;
    })
    .await;
}
