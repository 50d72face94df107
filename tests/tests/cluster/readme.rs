//! What the README tells a reader to write and to run works as it stands there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use agentsandbox_tests::{Rig, eventually, with_namespace};
use xtask::shell;

/// Run by `cargo xtask test cluster` itself, before this test and around it.
const RUN_AROUND_THIS_TEST: [&str; 2] = ["cargo xtask quickstart", "cargo xtask test"];

fn readme() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(path).expect("the README is there")
}

/// The fenced blocks of a language; the empty language is a block of commands.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fences = text.split("```").skip(1).step_by(2);
    fences
        .filter_map(|block| block.split_once('\n'))
        .filter(|(name, _)| *name == language)
        .map(|(_, body)| body)
        .collect()
}

/// Every command in the README, in blocks and in running text.
fn commands(text: &str) -> BTreeSet<String> {
    let lines =
        blocks(text, "").into_iter().flat_map(str::lines).map(|line| line.split(" #").next().unwrap_or(line));
    let prose: String = text.split("```").step_by(2).collect();
    let inline = prose.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let all = lines.map(str::to_owned).chain(inline).map(|command| command.trim().to_owned());
    all.filter(|c| ["cargo ", "kubectl ", "helm "].iter().any(|program| c.starts_with(program))).collect()
}

#[tokio::test]
async fn the_manifest_of_the_readme_is_accepted_and_each_of_its_commands_runs() {
    let rig = Rig::beside().await;
    let text = readme();
    with_namespace(&rig, "readme", async |ns| {
        let manifests = blocks(&text, "yaml");
        assert!(!manifests.is_empty(), "the README shows no manifest");
        for manifest in manifests {
            ns.apply(manifest).await.unwrap();
        }
        // Its images are not here; what can be shown is that the operator takes it and raises its walls.
        let sandbox = ns.handle("fix-login");
        sandbox.await_condition("Accepted", "True", Duration::from_secs(20)).await;
        let policies: kube::Api<k8s_openapi::api::networking::v1::NetworkPolicy> =
            kube::Api::namespaced(ns.client.clone(), &ns.name);
        eventually("its walls", Duration::from_secs(20), || async {
            policies.get("fix-login-agent").await.map(drop).map_err(|e| e.to_string())
        })
        .await;

        let commands = commands(&text);
        assert!(RUN_AROUND_THIS_TEST.iter().all(|command| commands.contains(*command)), "{commands:?}");
        for command in commands.iter().filter(|c| !RUN_AROUND_THIS_TEST.contains(&c.as_str())) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let Some((&"kubectl", args)) = words.split_first() else {
                panic!("nothing runs the README's command: {command}");
            };
            let args = [&["-n", ns.name.as_str()], args].concat();
            let printed = shell::output(&mut rig.cluster.kubectl(&args).unwrap()).unwrap();
            assert!(printed.contains("fix-login"), "{command} printed: {printed}");
        }
    })
    .await;
}
