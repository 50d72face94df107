//! Real coding agents do real work: they mend a project that does not pass its tests, with a key that they never hold, and what they made is
//! reviewed and applied outside. Only the model is scripted; what it asks for the agents do by their own tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cli::{run, says, text};
use crate::engine::{BACK_WITHIN, Killed};
use crate::fixtures;
use crate::workspace::{Host, put};

/// An agent has this long for its work on a busy machine. It bounds a hang; it is no promise.
const WORK_WITHIN_SECS: u32 = 150;
const TOLD_WITHIN: Duration = Duration::from_secs(180);

const BROKEN: &str = "def price(each, count):\n    return each * 2\n";
const MENDED: &str = "def price(each, count):\n    return each * count\n";
const TEST: &str = "import unittest\n\nfrom shop import price\n\n\nclass Price(unittest.TestCase):\n    \
                    def test_three(self):\n        self.assertEqual(price(4, 3), 12)\n";
/// Runs the project's tests where it stands, and writes nothing else there.
const TESTS: &str = "python3 -B -m unittest -q test_shop";
/// What an agent is told to say where the work is done.
const DONE: &str = "the tests pass now";

fn project(builder: &mut tar::Builder<Vec<u8>>) {
    put(builder, "shop.py", BROKEN);
    put(builder, "test_shop.py", TEST);
}

/// A coding agent, and how its tools are called.
struct Coder {
    name: &'static str,
    /// It reads the prompt from standard input.
    command: &'static str,
    /// Reads a file, edits it, and runs a line of shell.
    tools: [&'static str; 3],
    /// Names of their fields: of the file, of what was there, and of what is to be there.
    fields: [&'static str; 3],
}

const CODERS: [Coder; 2] = [
    Coder {
        name: "claude",
        command: "claude --allowedTools Bash,Edit,Read -p",
        tools: ["Read", "Edit", "Bash"],
        fields: ["file_path", "old_string", "new_string"],
    },
    Coder {
        name: "opencode",
        command: "opencode run -m anthropic/claude-sonnet-4-5",
        tools: ["read", "edit", "bash"],
        fields: ["filePath", "oldString", "newString"],
    },
];

impl Coder {
    /// Mends the project, runs its tests, and leaves what they say in a file beside it.
    fn prompt(&self) -> String {
        let [read, edit, shell] = self.tools;
        let [file, old, new] = self.fields;
        let shop = "/workspace/shop.py";
        let asks = [
            format!("[[use:{read} {}]]", json!({ file: shop })),
            format!("[[use:{edit} {}]]", json!({ file: shop, old: "each * 2", new: "each * count" })),
            format!(
                "[[use:{shell} {}]]",
                json!({ "command": format!("cd /workspace && {TESTS} > TESTED 2>&1; echo $? >> TESTED"), "description": "Run the tests" })
            ),
        ];
        format!("Mend price. {} [[say:{DONE}]]", asks.join(" "))
    }

    async fn works(&self, agent: &Sandbox) {
        let key = agent.sh("echo $ANTHROPIC_API_KEY").await.ok().stdout;
        assert_eq!(key.trim(), "sk-ant-placeholder", "the agent holds something else than the placeholder");
        let line = format!(
            "cd /workspace && printf %s '{}' | timeout {WORK_WITHIN_SECS} {}",
            self.prompt(),
            self.command
        );
        let said = agent.sh(&line).await;
        assert!(said.text().contains(DONE), "{}: {said:?}", self.name);
        let tested = agent.sh("cat /workspace/TESTED").await;
        let passed = tested.stdout.contains("OK") && tested.stdout.ends_with("0\n");
        assert!(passed, "{}: {tested:?} after {said:?}", self.name);
    }
}

async fn credential(rig: &Rig, ns: &Namespace) {
    rig.world.set_keys([("anthropic", fixtures::ANTHROPIC_KEY)]).await.unwrap();
    ns.secret("anthropic", "api-key", fixtures::ANTHROPIC_KEY).await;
    ns.apply(fixtures::ANTHROPIC_CREDENTIAL).await.unwrap();
}

/// A sandbox with the project, which may ask the model.
async fn sandbox(ns: &Namespace, host: &Host, sha256: &str, coder: &Coder, access: &str) -> Sandbox {
    let model = "    - {host: api.anthropic.com, credential: anthropic}\n";
    let manifest = host.sandbox(coder.name, "shop.tar.gz", sha256, access);
    let manifest = manifest.replace("    allow:\n", &format!("    allow:\n{model}"));
    let agent = ns.sandbox(coder.name, &manifest).await;
    agent.ready().await;
    let before = agent.sh(&format!("cd /workspace && {TESTS}")).await;
    assert!(before.text().contains("8 != 12"), "the control: its tests fail before: {before:?}");
    agent
}

/// The key came to the API, and nothing else did as one.
async fn only_the_proxy_held_the_key(rig: &Rig) {
    let requests = rig.world.requests_to("api.anthropic.com").await.unwrap();
    let asked = requests.iter().filter(|request| request.path.starts_with("/v1/messages"));
    let keys: Vec<_> = asked.map(|request| request.header("x-api-key")).collect();
    assert!(keys.contains(&Some(fixtures::ANTHROPIC_KEY)), "the real key never arrived: {keys:?}");
    assert!(!keys.contains(&Some("sk-ant-placeholder")), "the placeholder left the proxy: {keys:?}");
}

#[tokio::test]
async fn what_two_coding_agents_mend_on_a_copy_is_reviewed_and_applied_outside() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "real-overlay", async |ns| {
        let host = Host::new(&rig, &ns);
        let sha256 = host.serve("shop.tar.gz", project);
        credential(&rig, &ns).await;
        for coder in &CODERS {
            let agent = sandbox(&ns, &host, &sha256, coder, "access: Overlay").await;
            coder.works(&agent).await;
            reviewed_and_applied(&rig, &ns, &agent).await;
            agent.delete().await;
            agent.gone(TOLD_WITHIN).await;
        }
        only_the_proxy_held_the_key(&rig).await;
    })
    .await;
}

/// What was made is shown as git would, and makes the same of a folder outside, whose tests pass then.
async fn reviewed_and_applied(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let name = agent.get().await.name_any();
    let cli = async |args: &[&str]| run(rig, ns, args).await;
    let diff = cli(&["diff", &name]).await;
    says(&diff, 0, &["-    return each * 2\n+    return each * count\n"]);
    let status = cli(&["diff", &name, "--name-status"]).await;
    says(&status, 0, &["M\tshop.py", "A\tTESTED"]);
    assert!(!text(&status).contains("test_shop.py"), "{}", text(&status));

    let outside = tempfile::tempdir().unwrap();
    for (name, content) in [("shop.py", BROKEN), ("test_shop.py", TEST)] {
        let path = outside.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(!pass(outside.path()), "the control: its tests fail before");
    let told = cli(&["diff", &name, "-o", "json"]).await;
    let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", text(&told)));
    let to = outside.path().to_str().unwrap();
    let applied = cli(&["apply", &name, "--to", to, "--reviewed", told["digest"].as_str().unwrap()]).await;
    says(&applied, 0, &["are applied"]);
    assert_eq!(fs::read_to_string(outside.path().join("shop.py")).unwrap(), MENDED);
    assert!(pass(outside.path()), "its tests pass with what was applied");
}

/// Whether the project's tests pass in a folder here.
fn pass(folder: &Path) -> bool {
    let run = std::process::Command::new("sh").args(["-c", TESTS]).current_dir(folder).output().unwrap();
    run.status.success()
}

/// An agent works in a workspace that lasts; it is suspended, the node's kubelet is killed and started, and it is resumed.
#[tokio::test]
async fn what_two_coding_agents_mend_outlasts_a_suspension_a_killed_kubelet_and_a_resumption() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "real-lasting", async |ns| {
        let host = Host::new(&rig, &ns);
        let sha256 = host.serve("shop.tar.gz", project);
        credential(&rig, &ns).await;
        let access = "access: Persistent, persistent: {size: 64Mi, whenDeleted: Delete}";
        let mut agents = Vec::new();
        for coder in &CODERS {
            let agent = sandbox(&ns, &host, &sha256, coder, access).await;
            coder.works(&agent).await;
            power(&agent, "Suspended").await;
            agents.push(agent);
        }
        for agent in &agents {
            agent.await_condition("Suspended", "True", TOLD_WITHIN).await;
        }
        let killed = Killed::now(&rig, vec!["kubelet"]);
        for agent in &agents {
            power(agent, "Running").await;
        }
        for (agent, coder) in agents.iter().zip(&CODERS) {
            eventually(
                "the work is there again, behind walls that were proven anew",
                BACK_WITHIN,
                || async {
                    killed.start(&["kubelet"]);
                    match agent.condition("NetworkIsolated").await? {
                        Some(proven) if proven.status == "True" => {}
                        other => return Err(format!("{other:?}")),
                    }
                    let found =
                        agent.try_sh(&format!("cat /workspace/shop.py && cd /workspace && {TESTS}")).await?;
                    if found.code == 0 && found.stdout == MENDED { Ok(()) } else { Err(format!("{found:?}")) }
                },
            )
            .await;
            // And it goes on.
            let line = format!(
                "cd /workspace && timeout {WORK_WITHIN_SECS} {} '[[say:still here]]' </dev/null",
                coder.command
            );
            let said = agent.sh(&line).await;
            assert!(said.text().contains("still here"), "{}: {said:?}", coder.name);
        }
        only_the_proxy_held_the_key(&rig).await;
    })
    .await;
}

async fn power(agent: &Sandbox, state: &str) {
    let patch = json!({"spec": {"lifecycle": {"state": state}}});
    agent.api().patch(&agent.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}
