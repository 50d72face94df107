//! Each manifest in `examples/rejected` is refused, at admission or with `Accepted=False`, by a message that names the
//! field and says what to write; and nothing of it is half applied.
//!
//! A file says in its first lines what is expected: `# field: spec.agent.image` and `# message: a part of the message`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, asked, eventually, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use crate::fixtures;

/// The fewest cases that count as a catalogue.
const CASES_MIN: usize = 40;

struct Case {
    file: String,
    field: String,
    message: String,
    manifest: String,
}

fn cases() -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/rejected");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let manifest = fs::read_to_string(&path).unwrap();
            let header = |key: &str| {
                let line = manifest.lines().find_map(|l| l.strip_prefix(&format!("# {key}: ")));
                line.unwrap_or_else(|| panic!("{} has no `# {key}: ` line", path.display())).to_owned()
            };
            Case {
                file: path.file_name().unwrap().to_string_lossy().into_owned(),
                field: header("field"),
                message: header("message"),
                manifest,
            }
        })
        .collect()
}

impl Case {
    fn is_told_by(&self, text: &str) -> Result<(), String> {
        if text.contains(&self.field) && text.contains(&self.message) { Ok(()) } else { Err(text.to_owned()) }
    }

    /// The name of the AgentSandbox in it, if there is one.
    fn sandbox(&self) -> Option<String> {
        self.manifest.split("\n---\n").find_map(|d| {
            let object: serde_json::Value = serde_yaml::from_str(d).ok()?;
            (object["kind"] == "AgentSandbox")
                .then(|| object["metadata"]["name"].as_str().map(str::to_owned))?
        })
    }
}

/// Whether a manifest is refused as it should be, wherever the refusal comes from; else what was said last.
async fn is_refused(ns: &Namespace, case: &Case) -> Result<(), String> {
    if let Err(error) = ns.apply(&case.manifest).await {
        return case.is_told_by(&error.to_string());
    }
    let name = case.sandbox().ok_or("it was taken")?;
    let sandbox = ns.handle(&name);
    // The first refusal need not be this one: a watch may bring the objects that the sandbox refers to after the sandbox.
    asked(Duration::from_secs(20), || async {
        match sandbox.condition("Accepted").await? {
            Some(c) if c.status == "False" => case.is_told_by(&c.message),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn every_wrong_manifest_is_refused_with_the_field_and_the_remedy() {
    let rig = Rig::beside().await;
    let cases = cases();
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    with_namespace(&rig, "rejected", async |ns| {
        let mut wrong = Vec::new();
        for case in &cases {
            if let Err(said) = is_refused(&ns, case).await {
                wrong.push(format!("{}: {said}", case.file));
            }
        }
        assert!(wrong.is_empty(), "refused otherwise, or not at all:\n{}", wrong.join("\n"));
        let pods: Api<Pod> = ns.pods();
        let half: Vec<_> = pods.list(&ListParams::default()).await.unwrap().items;
        assert!(half.is_empty(), "a refused manifest left pods: {half:?}");
    })
    .await;
}

#[tokio::test]
async fn a_refused_sandbox_starts_once_it_is_mended() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "mended", async |ns| {
        let wrong = fixtures::closed("m").replace("className: world", "className: no-such-class");
        let sandbox = ns.sandbox("m", &wrong).await;
        sandbox.await_condition("Accepted", "False", Duration::from_secs(20)).await;
        ns.apply(&fixtures::closed("m")).await.unwrap();
        sandbox.ready().await;
        eventually("Accepted", Duration::from_secs(5), || async {
            match sandbox.condition("Accepted").await? {
                Some(c) if c.status == "True" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    })
    .await;
}
