//! A workspace whose original stays: what an agent makes of it is shown as git would, applied outside to the byte, and discarded.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agentsandbox_crds::AgentSandboxClass;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cli::{run, says, text};
use crate::workspace::{Host, put};

const ANEW_WITHIN: Duration = Duration::from_secs(180);
/// Every file of the tree with its content and whether it may be executed.
const LISTING: &str = "cd /workspace && find . -type f | LC_ALL=C sort | while read -r f; do
    x=-; [ -x \"$f\" ] && x=x; echo \"$x $(sha256sum \"$f\")\"; done; find . -mindepth 1 -type d | LC_ALL=C sort";

fn code(builder: &mut tar::Builder<Vec<u8>>) {
    put(builder, "src/run.sh", "#!/bin/sh\necho one\necho two\n");
    put(builder, "src/gone.txt", "gone\n");
    put(builder, "docs/moves.txt", "moves\n");
    put(builder, "README.md", "shop\n");
}

/// The same, as a developer has it outside.
fn checkout(folder: &Path) {
    for (name, content) in [
        ("src/run.sh", "#!/bin/sh\necho one\necho two\n"),
        ("src/gone.txt", "gone\n"),
        ("docs/moves.txt", "moves\n"),
        ("README.md", "shop\n"),
        (".git/config", "mine\n"),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Edits, adds, deletes, renames, and changes a mode.
const WORK: &str =
    "set -e; cd /workspace; sed -i 's/two/three/' src/run.sh; echo new > src/new.txt; rm src/gone.txt
    mv docs/moves.txt docs/moved.txt; chmod -x README.md; mkdir .git; echo '[core]' > .git/config";

const SHOWN: [&str; 5] =
    ["M\tREADME.md", "A\tdocs/moved.txt", "D\tdocs/moves.txt", "D\tsrc/gone.txt", "A\tsrc/new.txt"];

/// What somebody makes who wants to hurt whoever looks, and the words by which each is refused.
const HURTS: &str = "cd /workspace; mkfifo pipe; ln -s /etc/passwd out; ln -s ../../.. src/up; mkdir -p src/.git/hooks
    echo 'touch /tmp/owned' > src/.git/hooks/post-checkout; printf x > \"$(printf 'a\\033[2Jb')\"; printf x > \"$(printf 'a\\nb')\"
    printf x > readme.MD; cp /bin/true suid; chmod 4755 suid; truncate -s 1T giant; touch \"$(printf '\\377')\"
    mkdir -p lib/objects lib/refs; echo 'ref: refs/heads/main' > lib/HEAD; ln -s .git/config notes; ln -s .env page";
/// Without the FIFO: one of gVisor's is in its own memory, and nobody else sees it.
const REFUSED: [&str; 12] = [
    "lib: what git takes for a repository",
    "notes: a link into a .git folder",
    "page: a link to what is left out",
    "out: a link out",
    "src/up: a link out",
    "src/.git: a .git folder",
    r"a\x1b[2Jb: a control character",
    r"a\x0ab: a control character",
    "readme.MD: a name that differs",
    "suid: a set-id",
    "giant: a file of more than",
    r"\xff: a name that is not UTF-8",
];
const MEND: &str = "cd /workspace; rm -rf pipe out src/up src/.git readme.MD suid giant lib notes page; rm -f \"$(printf 'a\\033[2Jb')\" \"$(printf 'a\\nb')\" \"$(printf '\\377')\"";

#[tokio::test]
async fn what_an_agent_makes_is_shown_applied_to_the_byte_and_discarded_under_gvisor_and_under_runc() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "overlay", async |ns| {
        let host = Host::new(&rig, &ns);
        let sha256 = host.serve("shop.tar.gz", code);
        let manifest = |name: &str| host.sandbox(name, "shop.tar.gz", &sha256, "access: Overlay");
        let virtual_kernel = ns.sandbox("g", &manifest("g")).await;
        let class = beside_the_world(&ns).await;
        let container = manifest("c").replace("className: world", &format!("className: {class}"));
        let container = ns.sandbox("c", &container).await;
        for agent in [&virtual_kernel, &container] {
            agent.ready().await;
            life(&rig, &ns, agent).await;
        }
        Api::<AgentSandboxClass>::all(ns.client.clone())
            .delete(&class, &DeleteParams::default())
            .await
            .unwrap();
    })
    .await;
}

/// A class that trusts whom the class `world` trusts, and runs agents on the node's own kernel.
async fn beside_the_world(ns: &Namespace) -> String {
    let classes: Api<AgentSandboxClass> = Api::all(ns.client.clone());
    let world = classes.get("world").await.unwrap().spec;
    let own = json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": ns.name},
        "spec": {"isolation": "Container", "egress": {"additionalRoots": world.egress.unwrap().additional_roots}},
    });
    ns.apply(&own.to_string()).await.unwrap();
    ns.name.clone()
}

async fn life(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let name = agent.get().await.name_any();
    let cli = async |args: &[&str]| run(rig, ns, args).await;
    let original = agent.sh(LISTING).await.ok().stdout;
    says(&cli(&["diff", &name]).await, 0, &[]);
    out_of_reach(agent).await;

    agent.sh(WORK).await.ok();
    let status = cli(&["diff", &name, "--name-status"]).await;
    says(&status, 0, &[".git is no part"]);
    assert!(SHOWN.iter().all(|line| text(&status).contains(line)), "{}", text(&status));
    let diff = cli(&["diff", &name]).await;
    says(
        &diff,
        0,
        &["-echo two\n+echo three\n", "old mode 100755\nnew mode 100644\n", "deleted file mode 100755"],
    );

    let outside = tempfile::tempdir().unwrap();
    checkout(outside.path());
    let to = outside.path().to_str().unwrap();
    hostile_results_are_refused(ns, rig, agent, &name, outside.path()).await;

    // What the agent writes once it was looked at is not applied.
    let reviewed = digest(rig, ns, &name).await;
    agent.sh("echo later >> /workspace/src/new.txt").await.ok();
    let before = listing(outside.path());
    let apply = ["apply", &name, "--to", to, "--reviewed"];
    says(&cli(&[&apply[..], &[reviewed.as_str()]].concat()).await, 1, &["not what was reviewed"]);
    assert_eq!(listing(outside.path()), before);
    let reviewed = digest(rig, ns, &name).await;
    says(&cli(&[&apply[..], &[reviewed.as_str()]].concat()).await, 0, &["are applied"]);
    let applied = listing(outside.path());
    agent.sh("rm -rf /workspace/.git").await.ok();
    assert_eq!(applied, agent.sh(LISTING).await.ok().stdout, "exactly the agent's tree");
    assert_eq!(fs::read_to_string(outside.path().join(".git/config")).unwrap(), "mine\n");
    says(&cli(&[&apply[..], &[reviewed.as_str()]].concat()).await, 1, &["conflict: README.md"]);

    discarded(ns, rig, agent, &name, &original).await;
}

/// The digest of what `diff` shows now.
async fn digest(rig: &Rig, ns: &Namespace, name: &str) -> String {
    let told = run(rig, ns, &["diff", name, "-o", "json"]).await;
    let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", text(&told)));
    told["digest"].as_str().unwrap().to_owned()
}

/// The original is nowhere in the agent, and nothing of what tells of changes is.
async fn out_of_reach(agent: &Sandbox) {
    let mounts = agent.sh("ls -d /original; cat /proc/self/mountinfo").await.stdout;
    assert!(!mounts.contains("original") && mounts.contains("/workspace"), "{mounts}");
    let seen = agent.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await.stdout;
    assert!(!seen.contains("agentsandbox-init"), "{seen}");
    assert!(seen.contains("sleep"), "the control: processes are seen: {seen}");
}

async fn hostile_results_are_refused(ns: &Namespace, rig: &Rig, agent: &Sandbox, name: &str, outside: &Path) {
    let cli = async |args: &[&str]| run(rig, ns, args).await;
    let before = listing(outside);
    agent.sh(HURTS).await;
    let diff = cli(&["diff", name]).await;
    says(&diff, 1, &REFUSED);
    assert!(!text(&diff).contains('\u{1b}'), "{}", text(&diff));
    let reviewed = digest(rig, ns, name).await;
    let to = outside.to_str().unwrap();
    let apply = cli(&["apply", name, "--to", to, "--reviewed", &reviewed]).await;
    says(&apply, 1, &["nothing was applied, as paths are refused"]);
    assert_eq!(listing(outside), before);
    agent.sh(MEND).await.ok();
    says(&cli(&["diff", name]).await, 0, &[]);
}

async fn discarded(ns: &Namespace, rig: &Rig, agent: &Sandbox, name: &str, original: &str) {
    let cli = async |args: &[&str]| run(rig, ns, args).await;
    let uid = async || agent.pods().get(&agent.agent_pod()).await.ok().and_then(|pod| pod.uid());
    let before = uid().await;
    says(&cli(&["discard", name]).await, 2, &["--yes"]);
    assert_eq!(uid().await, before);
    says(&cli(&["discard", name, "--yes"]).await, 0, &["is deleted"]);
    eventually("another agent begins with the original", ANEW_WITHIN, || async {
        let now = uid().await;
        if now.is_none() || now == before {
            return Err(format!("pod {now:?}"));
        }
        let listing = agent.try_sh(LISTING).await?;
        if listing.stdout == original { Ok(()) } else { Err(format!("{listing:?}")) }
    })
    .await;
    says(&cli(&["diff", name]).await, 0, &[]);
}

/// What [`LISTING`] tells, of a folder here, without its repository.
fn listing(folder: &Path) -> String {
    let run = LISTING.replace("cd /workspace", &format!("cd {}", folder.display()));
    let output = std::process::Command::new("sh").args(["-c", &run]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.contains("./.git")).map(|line| format!("{line}\n")).collect()
}
