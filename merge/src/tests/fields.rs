//! Each field of a sandbox, beside what bounds it.

use super::*;

/// What a sandbox says by itself, whatever its template says: it makes nothing wider than a bound beside it, or it is the sandbox's task.
const FREE: [&str; 22] = [
    "agent.args",
    "agent.command",
    "agent.env",
    "agent.imagePullPolicy",
    // United, so it cannot be taken back.
    "agent.processSandbox.noExecutePaths",
    "agent.proxyEnvironment",
    "agent.workingDir",
    // Each rule lies within one of the template's: `egress.rs` and its tests.
    "egress.allow",
    // With Drain and its seconds, in a test of its own.
    "egress.onRevoke",
    "lifecycle.state",
    "scratch.medium",
    "templateRef.name",
    "workspace.archive",
    "workspace.configMap",
    // United, and a test of its own for what takes back.
    "workspace.exclude",
    "workspace.git",
    "workspace.image",
    "workspace.medium",
    "workspace.persistentVolumeClaim",
    // In tests of their own: the size at most the template's, its storage class the same.
    "workspace.persistent.size",
    "workspace.persistent.storageClassName",
    "workspace.persistent.whenDeleted",
];

fn fields(schema: &Value, at: &str, found: &mut Vec<String>) {
    const WHOLE: [&str; 5] = [
        "workspace.archive",
        "workspace.git",
        "workspace.image",
        "workspace.configMap",
        "workspace.persistentVolumeClaim",
    ];
    let below = schema["properties"].as_object().filter(|_| !WHOLE.contains(&at));
    let Some(below) = below else { return found.push(at.to_owned()) };
    for (name, schema) in below {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        fields(schema, &at, found);
    }
}

#[test]
fn each_field_of_a_sandbox_is_bounded_by_its_template_or_said_to_be_free() {
    let crds = agentsandbox_crds::schema::all().unwrap();
    let crd = crds.iter().find(|crd| crd.manifest["spec"]["names"]["kind"] == "AgentSandbox").unwrap();
    let schema = &crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut all = Vec::new();
    fields(schema, "", &mut all);
    let bounded = BOUNDS.map(|(.., field, _)| field.split('[').next().unwrap());
    let new: Vec<_> = all
        .iter()
        .filter(|field| !bounded.contains(&field.as_str()) && !FREE.contains(&field.as_str()))
        .collect();
    assert!(new.is_empty(), "say of a new field whether a template bounds it: {new:?}");
    let gone: Vec<_> = FREE.iter().filter(|field| !all.iter().any(|one| one == *field)).collect();
    assert!(gone.is_empty(), "{gone:?}");
}
