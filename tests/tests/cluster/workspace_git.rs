//! The code an agent works on, from a private repository: fetched behind the fence with the key that the proxy adds, checked out
//! without the secrets in it, and pushed from.

use std::time::Duration;

use agentsandbox_tests::{Rig, Sandbox, with_namespace};

use crate::fixtures;

/// What must not be readable anywhere in the agent.
const CANARY: &str = "repository-canary-3e8a";
/// What comes back by `include`.
const CONTROL: &str = "repository-control-b174";
const RULE: &str = "{host: github.com, paths: [\"/acme/shop.git/**\"], credential: git}";
const TOLD_WITHIN: Duration = Duration::from_secs(120);

fn of_git(name: &str, git: &str, more: &str) -> String {
    let manifest = fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", &[RULE]);
    let git = format!("{{url: \"https://github.com/acme/shop.git\", {git}}}");
    manifest.replace("spec:\n", &format!("spec:\n  workspace: {{git: {git}, {more}}}\n"))
}

/// A branch with secrets in its tree and in its history.
fn seeding(branch: &str) -> String {
    let commit = "git -c user.email=a@b.test -c user.name=agent commit -q";
    format!(
        "set -e; cd /workspace; git checkout -q -b {branch}
         mkdir -p deploy code; printf {CANARY} > past.pem; printf {CANARY} > .env
         git add --sparse -f .; {commit} -m past; git rm --sparse -q past.pem
         printf new-{CANARY} > .env; printf {CANARY} > deploy/.env.production; printf {CANARY} > own.secret
         printf {CONTROL} > .env.example; printf '#!/bin/sh\\necho it runs\\n' > code/run.sh; chmod +x code/run.sh
         git add --sparse -f .; {commit} -m today; git push -q origin HEAD; git rev-parse HEAD"
    )
}

#[tokio::test]
async fn p_g7_an_agent_works_on_a_private_repository_and_no_object_of_it_holds_its_secrets() {
    let rig = Rig::beside().await;
    rig.world.set_keys([("git", fixtures::GIT_KEY)]).await.unwrap();
    with_namespace(&rig, "repository", async |ns| {
        ns.secret("git", "token", fixtures::GIT_KEY).await;
        ns.apply(fixtures::GIT_CREDENTIAL).await.unwrap();
        let seeds = ns.sandbox("seeds", &of_git("seeds", "", "")).await;
        seeds.ready().await;
        let pushed = seeds.sh(&seeding(&ns.name)).await.ok().stdout;
        let commit = pushed.trim();

        let git = format!("ref: {}, depth: 5", ns.name);
        let more = "exclude: ['*.secret'], include: [.env.example]";
        let works = ns.sandbox("works", &of_git("works", &git, more)).await;
        let none = ns.sandbox("none", &of_git("none", "ref: no-such-branch", "")).await;
        works.ready().await;
        the_code_is_there_and_no_canary(&works).await;
        let status = works.get().await.status.unwrap().workspace.unwrap();
        assert_eq!((status.commit.as_deref(), status.left_out), (Some(commit), 3));
        it_came_through_the_proxy_with_its_key(&works).await;

        let push = format!(
            "set -e; cd /workspace; git checkout -q -b {0}-works; echo change >> code/run.sh
             git -c user.email=a@b.test -c user.name=agent commit -qam change; git push -q origin HEAD
             git diff --name-status {commit} HEAD",
            ns.name
        );
        let changed = works.sh(&push).await.ok().stdout;
        assert_eq!(changed, "M\tcode/run.sh\n", "what is left out is not deleted");

        let told = none.await_reason("WorkspaceReady", "FetchFailed", TOLD_WITHIN).await;
        assert!(told.message.contains("no branch or tag of this name"), "{}", told.message);
    })
    .await;
}

async fn the_code_is_there_and_no_canary(agent: &Sandbox) {
    assert_eq!(agent.sh("/workspace/code/run.sh").await.ok().stdout, "it runs\n");
    assert_eq!(
        agent.sh("cat /workspace/.env.example").await.ok().stdout,
        CONTROL,
        "what is included is there"
    );
    let git = "cd /workspace && git status --porcelain && git fsck --full --strict && git log --format=%s -2";
    let said = agent.sh(git).await.ok().stdout;
    assert_eq!(said, "today\npast\n");
    let search = |text: &str| {
        format!(
            "cd /workspace; grep -rla {text} /workspace /tmp /home /var /run /etc 2>/dev/null
             git cat-file --batch-all-objects --batch | grep -ac {text}; true"
        )
    };
    assert_eq!(agent.sh(&search(CANARY)).await.ok().stdout, "0\n");
    let control = agent.sh(&search(CONTROL)).await.ok().stdout;
    assert_eq!(control, "/workspace/.env.example\n1\n", "the search finds what is there");
    // Commands stand in the audit log of the cluster, which holds no key.
    let pattern = fixtures::GIT_KEY.replace("real", "rea[l]");
    let key = agent.sh(&format!("grep -rla '{pattern}' /workspace /home /tmp; env")).await;
    assert!(!key.text().contains("/workspace/") && !key.text().contains(fixtures::GIT_KEY), "{key:?}");
}

async fn it_came_through_the_proxy_with_its_key(agent: &Sandbox) {
    let audit = agent.audit().await;
    let of = |path: &str| {
        audit.iter().filter(|line| line["path"] == path && line["decision"] == "allow").collect::<Vec<_>>()
    };
    let (refs, packs) = (of("/acme/shop.git/info/refs"), of("/acme/shop.git/git-upload-pack"));
    assert!(!refs.is_empty() && packs.len() >= 2, "{audit:?}");
    assert!(refs.iter().chain(&packs).all(|line| line["credential"] == "git"), "{audit:?}");
}
