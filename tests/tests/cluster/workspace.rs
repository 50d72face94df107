//! The code an agent works on: fetched behind the fence, through its own proxy, and without the secrets in it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, with_namespace};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::fixtures;

/// What must not be readable anywhere in the agent.
const CANARY: &str = "workspace-canary-7d1f";
/// What comes back by `include`.
const CONTROL: &str = "workspace-control-52c9";
/// Redirects to wherever it is asked to.
const REDIRECTS: &str = "echo.world.test";
const TOLD_WITHIN: Duration = Duration::from_secs(120);

/// Names of files that hold secrets, in the folder that archives of repositories have around everything.
const SECRETS: [&str; 8] = [
    ".env",
    "deploy/.env.production",
    "id_rsa",
    "certs/server.pem",
    ".npmrc",
    ".aws/credentials",
    "ci/prod-service-account.json",
    "own.secret",
];

/// A folder that the world serves as a host of its own, gone with the test.
pub struct Host {
    name: String,
    folder: PathBuf,
}

impl Host {
    pub fn new(rig: &Rig, ns: &Namespace) -> Self {
        let name = format!("{}.world.test", ns.name);
        let folder = rig.cluster.world_state().join("sites").join(&name);
        fs::create_dir_all(&folder).unwrap();
        Self { name, folder }
    }

    /// Serves an archive, and returns its SHA-256.
    pub fn serve(&self, file: &str, fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> String {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&builder.into_inner().unwrap()).unwrap();
        let bytes = encoder.finish().unwrap();
        fs::write(self.folder.join(file), &bytes).unwrap();
        Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn rule(&self, file: &str) -> String {
        format!("{{host: {}, methods: [GET], paths: [/{file}]}}", self.name)
    }

    /// A sandbox that begins with this archive.
    pub fn sandbox(&self, name: &str, file: &str, sha256: &str, more: &str) -> String {
        let url = format!("https://{}/{file}", self.name);
        beginning(name, &url, sha256, more, &[&self.rule(file)])
    }

    /// A sandbox that asks another host for this archive, which redirects to here.
    fn redirected(&self, name: &str, file: &str, sha256: &str, more: &[&str]) -> String {
        let url = format!("https://{REDIRECTS}/redirect?to=https://{}/{file}", self.name);
        let rule = format!("{{host: {REDIRECTS}, methods: [GET], paths: [/redirect]}}");
        beginning(name, &url, sha256, "", &[&[rule.as_str()][..], more].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

fn beginning(name: &str, url: &str, sha256: &str, more: &str, rules: &[&str]) -> String {
    let manifest = fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", rules);
    let archive = format!("{{url: \"{url}\", sha256: \"{sha256}\", stripComponents: 1}}");
    manifest.replace("spec:\n", &format!("spec:\n  workspace: {{archive: {archive}, {more}}}\n"))
}

pub fn put(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, format!("shop-1.0/{name}"), content.as_bytes()).unwrap();
}

fn code(builder: &mut tar::Builder<Vec<u8>>) {
    put(builder, "src/run.sh", "#!/bin/sh\necho it runs\n");
    put(builder, ".env.example", CONTROL);
    SECRETS.iter().for_each(|name| put(builder, name, CANARY));
}

fn escaping(builder: &mut tar::Builder<Vec<u8>>) {
    code(builder);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "shop-1.0/src/up", "../../../etc").unwrap();
}

#[tokio::test]
async fn p_g7_an_agent_has_its_code_through_its_own_proxy_and_no_secret_of_it() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "workspace", async |ns| {
        let host = Host::new(&rig, &ns);
        let sha256 = host.serve("shop.tar.gz", code);
        let more = "exclude: ['*.secret'], include: [.env.example]";
        let works = ns.sandbox("works", &host.sandbox("works", "shop.tar.gz", &sha256, more)).await;
        let more = format!("{more}, access: ReadOnly");
        let reads = ns.sandbox("reads", &host.sandbox("reads", "shop.tar.gz", &sha256, &more)).await;
        works.ready().await;
        the_code_is_there_and_no_canary(&works).await;
        what_was_left_out_is_counted_and_named_in_the_log_alone(&works).await;
        it_came_through_the_proxy(&works, &host).await;

        reads.ready().await;
        the_code_is_there_and_no_canary(&reads).await;
        let write = "touch /workspace/new 2>&1; echo x >> /workspace/src/run.sh; rm -f /workspace/src/run.sh";
        let refused = reads.sh(write).await;
        assert!(refused.text().contains("Read-only file system"), "{refused:?}");
        assert_eq!(reads.sh("sh /workspace/src/run.sh; ls /workspace").await.ok().stdout, "it runs\nsrc\n");
        works.sh("touch /workspace/new && rm /workspace/src/run.sh").await.ok();
    })
    .await;
}

async fn the_code_is_there_and_no_canary(agent: &Sandbox) {
    assert_eq!(agent.sh("/workspace/src/run.sh").await.ok().stdout, "it runs\n");
    let found = agent.sh("cat /workspace/.env.example").await.ok().stdout;
    assert_eq!(found, CONTROL, "what is included is there");
    let names = agent.sh("cd /workspace && find . -mindepth 1 | sort").await.ok().stdout;
    assert_eq!(names, "./.env.example\n./src\n./src/run.sh\n");
    // Wherever the archive, or what was staged of it, could lie.
    let search =
        "grep -rl CANARY /workspace /tmp /home /var /run /etc 2>/dev/null; true".replace("CANARY", CANARY);
    assert_eq!(agent.sh(&search).await.ok().stdout, "");
    let control = search.replace(CANARY, CONTROL);
    assert_eq!(
        agent.sh(&control).await.ok().stdout,
        "/workspace/.env.example\n",
        "the search finds what is there"
    );
}

async fn what_was_left_out_is_counted_and_named_in_the_log_alone(agent: &Sandbox) {
    let ready = agent.condition("WorkspaceReady").await.unwrap().unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Unpacked"), "{ready:?}");
    let status = agent.get().await.status.unwrap();
    let counts = status.workspace.clone().unwrap();
    assert_eq!((counts.files, counts.left_out), (2, SECRETS.len() as i64));
    let told = serde_json::to_string(&status).unwrap();
    let log = agent.log(&agent.agent_pod(), "workspace").await;
    for name in SECRETS {
        assert!(log.contains(&format!("left out: {name}\n")), "{name}: {log}");
        assert!(!told.contains(name), "{name}: {told}");
    }
    assert!(!log.contains(CANARY), "{log}");
}

async fn it_came_through_the_proxy(agent: &Sandbox, host: &Host) {
    let audit = agent.audit().await;
    let fetched =
        audit.iter().filter(|line| line["host"] == host.name.as_str() && line["path"] == "/shop.tar.gz");
    let fetched: Vec<_> = fetched.collect();
    assert!(!fetched.is_empty() && fetched.iter().all(|line| line["decision"] == "allow"), "{audit:?}");
}

#[tokio::test]
async fn an_archive_that_is_hostile_or_another_one_starts_no_agent_and_says_which_path_or_digest() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "hostile-code", async |ns| {
        let host = Host::new(&rig, &ns);
        let (escaping, code) = (host.serve("escaping.tar.gz", escaping), host.serve("shop.tar.gz", code));
        let hostile = ns.sandbox("hostile", &host.sandbox("hostile", "escaping.tar.gz", &escaping, "")).await;
        let other = ns.sandbox("other", &host.sandbox("other", "shop.tar.gz", &escaping, "")).await;
        let missing = ns.sandbox("missing", &host.sandbox("missing", "none.tar.gz", &code, "")).await;

        let told = hostile.await_reason("WorkspaceReady", "ArchiveRefused", TOLD_WITHIN).await;
        assert!(told.message.contains("src/up"), "{}", told.message);
        let told = other.await_reason("WorkspaceReady", "DigestMismatch", TOLD_WITHIN).await;
        assert!(told.message.contains(&code) && told.message.contains(&escaping), "{}", told.message);
        let told = missing.await_reason("WorkspaceReady", "FetchFailed", TOLD_WITHIN).await;
        assert!(told.message.contains("status 404"), "{}", told.message);
        for sandbox in [hostile, other, missing] {
            let pod = sandbox.pods().get(&sandbox.agent_pod()).await.unwrap().status.unwrap();
            let agent = &pod.container_statuses.unwrap()[0];
            assert!(agent.started != Some(true) && agent.restart_count == 0, "{agent:?}");
            let waits = agent.state.as_ref().and_then(|state| state.waiting.as_ref());
            assert!(waits.is_some(), "{agent:?}");
            let isolated = sandbox.condition("NetworkIsolated").await.unwrap().unwrap();
            assert_eq!(isolated.status, "True", "the fence's proof stands: {isolated:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn p_g7_a_redirect_to_a_host_without_a_rule_is_denied_by_the_proxy_and_told_with_its_advice() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "code-elsewhere", async |ns| {
        let host = Host::new(&rig, &ns);
        let sha256 = host.serve("shop.tar.gz", code);
        let denied = ns.sandbox("denied", &host.redirected("denied", "shop.tar.gz", &sha256, &[])).await;
        let rule = host.rule("shop.tar.gz");
        let allowed =
            ns.sandbox("allowed", &host.redirected("allowed", "shop.tar.gz", &sha256, &[&rule])).await;

        let told = denied.await_reason("WorkspaceReady", "FetchDenied", TOLD_WITHIN).await;
        assert!(told.message.contains(&host.name) && told.message.contains("HostNotAllowed"), "{told:?}");
        let audit = denied.audit().await;
        let there: Vec<_> = audit.iter().filter(|line| line["host"] == host.name.as_str()).collect();
        assert!(!there.is_empty() && there.iter().all(|line| line["decision"] == "deny"), "{there:?}");
        allowed.ready().await;
        assert_eq!(allowed.sh("/workspace/src/run.sh").await.ok().stdout, "it runs\n", "the control");
    })
    .await;
}
