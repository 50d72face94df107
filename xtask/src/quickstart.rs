//! `cargo xtask quickstart`: from a fresh machine to a fenced agent, and the evidence on the screen.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, bootstrap, up};
use crate::failure::{During, Failure, Result};
use crate::images::{self, Selection};
use crate::{borrowed_image, install, parts, paths, shell};

const NAMESPACE: &str = "quickstart";
const SANDBOX: &str = "hello-agent";
/// What the stand-in for api.anthropic.com asks for.
const KEY: &str = "sk-ant-quickstart-5d2b7c1e9f";
/// Time in which the sandbox must be ready. It bounds a hang; it is no promise.
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// Does everything, and prints the evidence.
///
/// # Errors
/// When a step fails; the sentence says what to do.
pub fn quickstart(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    prepare(cluster)?;
    step("the example: a Secret, a credential, one sandbox");
    apply_example(cluster)?;
    follow(cluster)?;
    println!("\nready after {} s in all\n", begin.elapsed().as_secs());
    evidence(cluster)?;
    println!("{}", around(cluster));
    Ok(())
}

/// The cluster with the product in it. Repeating it is quick: what is there is kept.
///
/// # Errors
/// As [`quickstart`].
pub fn prepare(cluster: &Cluster) -> Result<()> {
    parts::fetch_ahead();
    step("images");
    let mut archives: Vec<PathBuf> = images::build(&paths::repository(), Selection::WithTests)
        .during("the images are not made")?
        .into_iter()
        .map(|a| a.path)
        .collect();
    step("cluster");
    up::up(cluster)?;
    step("images onto the node");
    let agent = paths::images().join("quickstart.tar");
    borrowed_image::write(&agent)?;
    archives.push(agent);
    cluster.load(&archives)?;
    step("chart");
    install::install(cluster)
}

fn step(what: &str) {
    println!("==> {what}");
}

fn apply_example(cluster: &Cluster) -> Result<()> {
    let folder = paths::repository().join("examples/quickstart");
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).during(format!("{} cannot be read", path.display()))
    };
    // The key goes to the stand-in and into the Secret, and nowhere else.
    let control = cluster.world_state().join("control.sock").display().to_string();
    let body = format!("{{\"anthropic\":\"{KEY}\"}}");
    shell::run("curl", &["-sSf", "--unix-socket", &control, "-X", "POST", "-d", &body, "http://world/keys"])?;
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: anthropic, namespace: {NAMESPACE}}}\nstringData: {{api-key: {KEY}}}\n"
    );
    bootstrap::apply(cluster, &namespace)?;
    // The stand-in is signed by a CA of its own, which the class `world` trusts; on a cluster with internet it is `gvisor`.
    let sandbox =
        read("sandbox.yaml")?.replace("className: gvisor", &format!("className: {}", install::WORLD_CLASS));
    for manifest in [read("credential.yaml")?, sandbox] {
        bootstrap::apply(
            cluster,
            &manifest.replace("metadata:\n", &format!("metadata:\n  namespace: {NAMESPACE}\n")),
        )?;
    }
    Ok(())
}

fn get(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    let text = shell::output(&mut cluster.kubectl(&["-n", NAMESPACE, "get", kind, name, "-o", "json"])?)?;
    serde_json::from_str(&text).during("kubectl printed no JSON")
}

/// Prints each condition when it changes, until the sandbox is ready.
fn follow(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut last = Vec::new();
    loop {
        let sandbox = get(cluster, "agentsandbox", SANDBOX)?;
        let conditions = sandbox["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let now: Vec<String> = conditions
            .iter()
            .map(|c| format!("    {:18} {:7} {}", text(&c["type"]), text(&c["status"]), text(&c["message"])))
            .collect();
        now.iter().filter(|line| !last.contains(*line)).for_each(|line| println!("{line}"));
        last = now;
        if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "the sandbox is not ready after {} s: see `cargo xtask cluster kubectl -n {NAMESPACE} describe asbx {SANDBOX}`",
                READY_WITHIN.as_secs()
            )));
        }
        sleep(LOOK);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a command in the agent printed, whether it succeeded or not.
fn in_agent(cluster: &Cluster, line: &str) -> Result<String> {
    let pod = format!("{SANDBOX}-agent");
    let mut exec =
        cluster.kubectl(&["-n", NAMESPACE, "exec", &pod, "-c", "agent", "--", "sh", "-c", line])?;
    let out = exec.output().during("kubectl cannot be started")?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn evidence(cluster: &Cluster) -> Result<()> {
    let pod = get(cluster, "pod", &format!("{SANDBOX}-agent"))?;
    let report: Value = pod["status"]["initContainerStatuses"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["name"] == "fence"))
        .and_then(|c| c["state"]["terminated"]["message"].as_str())
        .and_then(|m| serde_json::from_str(m).ok())
        .during("the fence left no report")?;
    row("kernel seen inside", text(&report["kernel"]["version"]));
    for route in report["walls"]["closed"].as_array().into_iter().flatten() {
        row("direct route refused", text(route));
    }
    let ask = "curl -sS -m 20 https://api.anthropic.com/v1/messages -H \"x-api-key: $ANTHROPIC_API_KEY\" -H 'content-type: application/json' -d '{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'";
    row("the agent's key", &in_agent(cluster, "echo $ANTHROPIC_API_KEY")?);
    row("allowed call", &in_agent(cluster, ask)?);
    row("denied call", &in_agent(cluster, "curl -sS -m 20 https://api.anthropic.com/v1/files")?);
    let audit = shell::output(&mut cluster.kubectl(&[
        "-n",
        NAMESPACE,
        "logs",
        &format!("{SANDBOX}-proxy"),
        "--tail=7",
    ])?)?;
    audit.lines().for_each(|line| row("audit", line));
    let found = in_agent(
        cluster,
        &format!("env | grep -c {0}; grep -rlsa {0} /workspace /tmp /home /etc /run 2>/dev/null", &KEY[7..]),
    )?;
    row("the key in the agent", if found == "0" { "nowhere" } else { &found });
    row("the key", "in the Secret quickstart/anthropic and mounted into the proxy's pod only");
    Ok(())
}

fn row(what: &str, seen: &str) {
    println!("  {what:22} {seen}");
}

fn around(cluster: &Cluster) -> String {
    format!(
        "
look around:
  export KUBECONFIG={}
  export PATH={}:$PATH
  kubectl -n {NAMESPACE} get asbx
  kubectl -n {NAMESPACE} describe asbx {SANDBOX}
  kubectl -n {NAMESPACE} logs {SANDBOX}-proxy
  kubectl -n {NAMESPACE} exec -it {SANDBOX}-agent -- sh
tear down:
  kubectl -n {NAMESPACE} delete asbx {SANDBOX}
  cargo xtask cluster down",
        cluster.kubeconfig().display(),
        paths::cache().join("rig/bin").display()
    )
}
