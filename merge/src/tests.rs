//! What a sandbox has of its template, and what it may not have beside it.

use agentsandbox_crds::template::AgentSandboxTemplateSpec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;

mod egress;
mod fields;
mod folders;

/// A sandbox `team/fix` of the template `jobs`, with these fields.
fn sandbox(mut spec: Value) -> Arc<AgentSandbox> {
    spec["templateRef"] = json!({"name": "jobs"});
    let mut sandbox = AgentSandbox::new("fix", serde_json::from_value(spec).unwrap());
    sandbox.metadata.namespace = Some("team".to_owned());
    Arc::new(sandbox)
}

fn template(sandbox: &Value, bounds: &Value) -> AgentSandboxTemplate {
    let mut spec: AgentSandboxTemplateSpec = serde_json::from_value(json!({"sandbox": sandbox})).unwrap();
    spec.bounds = serde_json::from_value(bounds.clone()).unwrap();
    let mut template = AgentSandboxTemplate::new("jobs", spec);
    template.metadata.namespace = Some("team".to_owned());
    template
}

/// The merged spec without the reference, or the faults.
fn bounded(own: Value, of: &Value, bounds: &Value) -> Result<Value, Vec<Fault>> {
    let merged = merge(sandbox(own), Some(&template(of, bounds)))?;
    assert_eq!(merged.template(), Some("jobs"));
    let mut spec = value(&merged.sandbox().spec);
    spec.as_object_mut().unwrap().remove("templateRef");
    Ok(spec)
}

fn merged(own: Value, of: &Value) -> Result<Value, Vec<Fault>> {
    bounded(own, of, &json!(null))
}

/// A template that says something of each field.
fn whole() -> Value {
    json!({
        "className": "gvisor",
        "agent": {
            "image": "ghcr.io/acme/agent:2.1", "imagePullPolicy": "Always", "command": ["agent"], "args": ["-p", "work"],
            "workingDir": "/workspace/src", "env": [{"name": "MODE", "value": "fast"}], "proxyEnvironment": "Unset",
            "processSandbox": {"readPaths": ["/usr", "/etc"], "writePaths": ["/workspace", "/tmp"], "noExecutePaths": ["/tmp"]},
        },
        "workspace": {
            "sizeLimit": "1Gi", "medium": "Memory", "execution": "Deny", "access": "ReadWrite",
            "git": {"url": "https://github.com/acme/shop.git"}, "exclude": ["*.secret"], "include": [".env.example"],
            "sanitize": ["Npmrc"],
        },
        "scratch": {"medium": "Memory", "tmp": "64Mi", "home": "64Mi", "execution": "Deny",
            "additional": [{"path": "/cache", "sizeLimit": "64Mi"}]},
        "egress": {"onRevoke": "Drain", "drainSeconds": 30, "allow": [{"name": "model", "host": "api.anthropic.com", "credential": "anthropic"}]},
        "resources": {"limits": {"cpu": "1", "memory": "1Gi", "ephemeralStorage": "1Gi"}},
        "lifecycle": {"mode": "Task", "maxLifetime": "2h", "activeDeadline": "1h", "idleTimeout": "30m", "ttlAfterFinished": "1h"},
    })
}

#[test]
fn a_sandbox_that_says_nothing_has_what_its_template_says() {
    assert_eq!(merged(json!({}), &whole()), Ok(whole()));
}

#[test]
fn a_sandbox_without_a_template_is_as_it_is_written() {
    let alone = AgentSandbox::new("fix", serde_json::from_value(whole()).unwrap());
    let kept = merge(Arc::new(alone.clone()), Some(&template(&json!({}), &json!(null)))).unwrap();
    assert_eq!((&**kept.sandbox(), kept.template()), (&alone, None));
}

#[test]
fn o_t2_a_template_of_another_name_or_namespace_is_none() {
    let found = |change: fn(&mut AgentSandboxTemplate)| {
        let mut template = template(&whole(), &json!(null));
        change(&mut template);
        merge(sandbox(json!({})), Some(&template)).map(|_| ())
    };
    assert_eq!(found(|_| ()), Ok(()));
    let missing = merge(sandbox(json!({})), None).map(|_| ());
    let [fault] = missing.as_ref().unwrap_err().as_slice() else { panic!("{missing:?}") };
    assert_eq!(
        (fault.reason, fault.field.as_str()),
        (FaultReason::TemplateNotFound, "spec.templateRef.name")
    );
    assert_eq!(found(|one| one.metadata.name = Some("other".to_owned())), missing);
    assert_eq!(found(|one| one.metadata.namespace = Some("others".to_owned())), missing);
}

#[test]
fn what_bounds_nothing_is_the_sandboxs_to_say() {
    let own = json!({
        "agent": {"imagePullPolicy": "IfNotPresent", "command": ["other"], "workingDir": "/workspace", "proxyEnvironment": "Set",
            "env": [{"name": "MODE", "value": "slow"}, {"name": "MORE", "value": "1"}],
            "processSandbox": {"noExecutePaths": ["/home/agent"]}},
        "workspace": {"medium": "Disk", "git": {"url": "https://github.com/acme/other.git", "ref": "main"}, "exclude": ["*.key"]},
        "scratch": {"medium": "Disk"},
        "lifecycle": {"state": "Suspended"},
    });
    let mut template = whole();
    template["lifecycle"]["state"] = json!("Suspended");
    let running = merged(json!({}), &template).unwrap();
    assert_eq!(running["lifecycle"].get("state"), None, "whether one runs for now is that one's to say");
    let found = merged(own, &whole()).unwrap();
    let agent = &found["agent"];
    assert_eq!(agent["command"], json!(["other"]));
    assert_eq!(agent["args"], json!(null), "arguments belong to the command that they were written for");
    assert_eq!(
        agent["env"],
        json!([{"name": "MODE", "value": "slow"}, {"name": "MORE", "value": "1"}]),
        "variables are united by name"
    );
    assert_eq!(agent["image"], "ghcr.io/acme/agent:2.1");
    assert_eq!(agent["processSandbox"]["noExecutePaths"], json!(["/tmp", "/home/agent"]));
    assert_eq!(agent["processSandbox"]["writePaths"], json!(["/workspace", "/tmp"]));
    assert_eq!(found["workspace"]["git"]["url"], "https://github.com/acme/other.git");
    assert_eq!(found["workspace"]["exclude"], json!(["*.secret", "*.key"]));
    assert_eq!(found["scratch"]["tmp"], "64Mi");
    assert_eq!(found["lifecycle"]["state"], "Suspended");
    assert_eq!(found["lifecycle"]["activeDeadline"], "1h");
    let archive = json!({"url": "https://a.test/x", "sha256": "a".repeat(64)});
    let archived = merged(json!({"workspace": {"archive": archive}}), &whole()).unwrap();
    assert_eq!(archived["workspace"]["git"], json!(null), "one source stands in the place of the other");
}

/// Where a sandbox says something, what it may and may not say there, its field at fault, and the template's.
const BOUNDS: [(&str, &str, &str, &str, &str); 23] = [
    ("/className", r#""gvisor""#, r#""container""#, "className", "sandbox.className"),
    (
        "/agent/image",
        r#""ghcr.io/acme/agent:2.1""#,
        r#""ghcr.io/acme/agent:2.2""#,
        "agent.image",
        "sandbox.agent.image",
    ),
    (
        "/agent/processSandbox",
        r#"{"readPaths": ["/usr/bin"]}"#,
        r#"{"readPaths": ["/usrlocal"]}"#,
        "agent.processSandbox.readPaths",
        "sandbox.agent.processSandbox.readPaths",
    ),
    (
        "/agent/processSandbox",
        r#"{"writePaths": ["/tmp"]}"#,
        r#"{"writePaths": ["/tmp", "/var"]}"#,
        "agent.processSandbox.writePaths",
        "sandbox.agent.processSandbox.writePaths",
    ),
    (
        "/workspace",
        r#"{"sizeLimit": "1Gi"}"#,
        r#"{"sizeLimit": "2Gi"}"#,
        "workspace.sizeLimit",
        "sandbox.workspace.sizeLimit",
    ),
    (
        "/workspace",
        r#"{"execution": "Deny"}"#,
        r#"{"execution": "Allow"}"#,
        "workspace.execution",
        "sandbox.workspace.execution",
    ),
    (
        "/workspace",
        r#"{"access": "Overlay"}"#,
        r#"{"access": "Persistent"}"#,
        "workspace.access",
        "sandbox.workspace.access",
    ),
    (
        "/workspace",
        r#"{"include": [".env.example"]}"#,
        r#"{"include": [".env"]}"#,
        "workspace.include",
        "sandbox.workspace.include",
    ),
    (
        "/workspace",
        r#"{"sanitize": ["Npmrc"]}"#,
        r#"{"sanitize": ["Npmrc", "Netrc"]}"#,
        "workspace.sanitize",
        "sandbox.workspace.sanitize",
    ),
    ("/scratch", r#"{"tmp": "32Mi"}"#, r#"{"tmp": "65Mi"}"#, "scratch.tmp", "sandbox.scratch.tmp"),
    ("/scratch", r#"{"home": "32Mi"}"#, r#"{"home": "65Mi"}"#, "scratch.home", "sandbox.scratch.home"),
    (
        "/scratch",
        r#"{"execution": "Deny"}"#,
        r#"{"execution": "Allow"}"#,
        "scratch.execution",
        "sandbox.scratch.execution",
    ),
    (
        "/scratch",
        r#"{"additional": [{"path": "/cache", "sizeLimit": "1Mi"}]}"#,
        r#"{"additional": [{"path": "/cache", "sizeLimit": "1Gi"}]}"#,
        "scratch.additional[0].sizeLimit",
        "sandbox.scratch.additional[0].sizeLimit",
    ),
    (
        "/scratch",
        r#"{"additional": [{"path": "/cache", "sizeLimit": "1Mi"}]}"#,
        r#"{"additional": [{"path": "/other", "sizeLimit": "1Mi"}]}"#,
        "scratch.additional[0].path",
        "sandbox.scratch.additional",
    ),
    (
        "/egress",
        r#"{"onRevoke": "Kill"}"#,
        r#"{"onRevoke": "Drain", "drainSeconds": 31}"#,
        "egress.drainSeconds",
        "sandbox.egress.drainSeconds",
    ),
    (
        "/resources",
        r#"{"limits": {"cpu": "500m"}}"#,
        r#"{"limits": {"cpu": "1.001"}}"#,
        "resources.limits.cpu",
        "sandbox.resources.limits.cpu",
    ),
    (
        "/resources",
        r#"{"limits": {"memory": "1024Mi"}}"#,
        r#"{"limits": {"memory": "1025Mi"}}"#,
        "resources.limits.memory",
        "sandbox.resources.limits.memory",
    ),
    (
        "/resources",
        r#"{"limits": {"ephemeralStorage": "1G"}}"#,
        r#"{"limits": {"ephemeralStorage": "2G"}}"#,
        "resources.limits.ephemeralStorage",
        "sandbox.resources.limits.ephemeralStorage",
    ),
    (
        "/lifecycle",
        r#"{"maxLifetime": "120m"}"#,
        r#"{"maxLifetime": "121m"}"#,
        "lifecycle.maxLifetime",
        "sandbox.lifecycle.maxLifetime",
    ),
    (
        "/lifecycle",
        r#"{"mode": "Task", "activeDeadline": "1h"}"#,
        r#"{"mode": "Task", "activeDeadline": "1h1s"}"#,
        "lifecycle.activeDeadline",
        "sandbox.lifecycle.activeDeadline",
    ),
    (
        "/lifecycle",
        r#"{"idleTimeout": "1m"}"#,
        r#"{"idleTimeout": "31m"}"#,
        "lifecycle.idleTimeout",
        "sandbox.lifecycle.idleTimeout",
    ),
    (
        "/lifecycle",
        r#"{"ttlAfterFinished": "0s"}"#,
        r#"{"ttlAfterFinished": "2h"}"#,
        "lifecycle.ttlAfterFinished",
        "sandbox.lifecycle.ttlAfterFinished",
    ),
    (
        "/lifecycle",
        r#"{"mode": "Task"}"#,
        r#"{"mode": "Service"}"#,
        "lifecycle.mode",
        "sandbox.lifecycle.activeDeadline",
    ),
];

#[test]
fn each_bound_is_kept_and_a_fault_names_both_fields() {
    for (own, kept, wider, field, of) in BOUNDS {
        let [kept, wider]: [Value; 2] = [kept, wider].map(|text| serde_json::from_str(text).unwrap());
        let with = |value: &Value| {
            let mut spec = json!({"agent": {}});
            let (parent, name) = own.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[name] = value.clone();
            merged(spec, &whole())
        };
        assert!(with(&kept).is_ok(), "{field}: {:?}", with(&kept));
        refused(with(&wider), field, of);
        // The control: a template that says nothing of it bounds nothing.
        let mut silent = whole();
        let (parent, name) = own.rsplit_once('/').unwrap();
        silent.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        let mut spec = json!({"agent": {"image": "ghcr.io/acme/agent:2.1"}});
        spec.pointer_mut(parent).unwrap()[name] = wider.clone();
        assert!(merged(spec, &silent).is_ok(), "{field} without a bound");
    }
}

#[test]
fn o_t2_a_template_lends_nobody_what_its_own_writer_may_not_read() {
    let lent =
        [("configMap", json!({"name": "notes"})), ("persistentVolumeClaim", json!({"claimName": "data"}))];
    for (name, source) in lent {
        let own = json!({"workspace": {name: source}});
        assert!(merged(own.clone(), &whole()).is_ok(), "the control: a sandbox's own {name}");
        let mut of = whole();
        of["workspace"] = own["workspace"].clone();
        refused(merged(json!({}), &of), &format!("workspace.{name}"), &format!("sandbox.workspace.{name}"));
    }
}

#[track_caller]
fn refused(found: Result<Value, Vec<Fault>>, field: &str, of: &str) {
    let faults = found.unwrap_err();
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault.reason, FaultReason::OutsideTemplate);
    assert_eq!(fault.field, format!("spec.{field}"));
    assert!(fault.message.contains(&format!("in spec.{of}; ")), "{fault}");
    assert!(fault.message.contains("AgentSandboxTemplate jobs has "), "{fault}");
}

#[test]
fn a_volume_is_bounded_by_its_template_and_is_no_way_round_the_size_of_a_folder() {
    let volume = json!({"agent": {"image": "a:1"}, "workspace": {"access": "Persistent",
        "persistent": {"size": "1Gi", "storageClassName": "fast", "whenDeleted": "Retain"}}});
    let asks = |persistent: Value| json!({"workspace": {"access": "Persistent", "persistent": persistent}});
    let found = merged(asks(json!({"size": "512Mi", "whenDeleted": "Delete"})), &volume).unwrap();
    assert_eq!(
        found["workspace"]["persistent"],
        json!({"size": "512Mi", "storageClassName": "fast", "whenDeleted": "Delete"})
    );
    let field = "workspace.persistent.size";
    refused(merged(asks(json!({"size": "2Gi"})), &volume), field, &format!("sandbox.{field}"));
    let field = "workspace.persistent.storageClassName";
    let other = asks(json!({"size": "1Gi", "storageClassName": "slow"}));
    refused(merged(other, &volume), field, &format!("sandbox.{field}"));
    let folder = merged(json!({"workspace": {"access": "ReadWrite", "sizeLimit": "1Gi"}}), &volume).unwrap();
    assert_eq!(folder["workspace"], json!({"access": "ReadWrite", "sizeLimit": "1Gi"}));
    let larger = json!({"workspace": {"access": "ReadWrite", "sizeLimit": "2Gi"}});
    refused(merged(larger, &volume), "workspace.sizeLimit", "sandbox.workspace.sizeLimit");
    let unclear = json!({"workspace": {"medium": "Memory"}});
    refused(merged(unclear, &volume), "workspace.access", "sandbox.workspace.access");
    let sized = json!({"agent": {"image": "a:1"}, "workspace": {"sizeLimit": "1Gi"}});
    let round = asks(json!({"size": "100Gi"}));
    refused(merged(round, &sized), "workspace.persistent", "sandbox.workspace.sizeLimit");
}

#[test]
fn draining_lasts_no_longer_than_the_template_lets_it_where_it_says_no_time() {
    let of = json!({"agent": {"image": "a:1"}, "egress": {"onRevoke": "Drain"}});
    let asks = |seconds: i32| merged(json!({"egress": {"onRevoke": "Drain", "drainSeconds": seconds}}), &of);
    refused(asks(31), "egress.drainSeconds", "sandbox.egress.drainSeconds");
    assert!(asks(30).is_ok());
}

#[test]
fn an_image_is_the_templates_or_one_that_its_bounds_name() {
    let images = json!({"images": ["ghcr.io/acme/agent:2.*", "ghcr.io/acme/tools/*", "ghcr.io/acme/one:1"]});
    let asks = |image: &str, of: &Value| {
        bounded(json!({"agent": {"image": image}}), of, &images).map(|found| found["agent"]["image"].clone())
    };
    let of = json!({"agent": {"image": "ghcr.io/acme/agent:1.0"}});
    for image in [
        "ghcr.io/acme/agent:1.0",
        "ghcr.io/acme/agent:2.7",
        "ghcr.io/acme/tools/linter:1",
        "ghcr.io/acme/one:1",
    ] {
        assert_eq!(asks(image, &of), Ok(json!(image)));
    }
    let digest = "a".repeat(64);
    for image in [
        "ghcr.io/acme/agent:3.0",
        "ghcr.io/acme/agent:2.",
        "ghcr.io/acme/tools/deeper/linter:1",
        "ghcr.io/acme/tools/",
        "ghcr.io/acme/one:1.1",
        "evil.test/ghcr.io/acme/agent:2.7",
        &format!("ghcr.io/acme/agent:2.7@sha256:{digest}"),
        &format!("ghcr.io/acme/agent@sha256:{digest}"),
    ] {
        let found = asks(image, &of).map(|_| json!(null));
        refused(found, "agent.image", "bounds.images");
    }
    let none = bounded(json!({}), &json!({}), &images).unwrap_err();
    assert_eq!((none[0].reason, none[0].field.as_str()), (FaultReason::InvalidField, "spec.agent.image"));
    assert!(none[0].message.contains("in spec.sandbox.agent.image; write"), "{}", none[0]);
}

#[test]
fn a_class_is_the_templates_or_one_that_its_bounds_name_and_never_the_default_beside_them() {
    let (image, names) = (json!({"image": "a:1"}), json!({"classNames": ["gvisor", "kata-qemu"]}));
    let asks = |own: Value, of: Value| bounded(own, &of, &names);
    let of = || json!({"agent": image, "className": "gvisor"});
    assert_eq!(asks(json!({"className": "kata-qemu"}), of()).unwrap()["className"], "kata-qemu");
    assert_eq!(asks(json!({}), of()).unwrap()["className"], "gvisor");
    refused(asks(json!({"className": "container"}), of()), "className", "sandbox.className");
    let without = || json!({"agent": image});
    refused(asks(json!({}), without()), "className", "bounds.classNames");
    assert!(asks(json!({"className": "gvisor"}), without()).is_ok());
}

#[test]
fn each_field_of_a_merged_spec_is_told_with_where_it_is_from() {
    let own = json!({
        "agent": {"env": [{"name": "MORE", "value": "1"}]},
        "workspace": {"exclude": ["*.key"]},
        "egress": {"allow": [{"host": "api.anthropic.com", "paths": ["/v1/**"]}]},
    });
    let merged = merge(sandbox(own), Some(&template(&whole(), &json!(null)))).unwrap();
    let fields = merged.fields();
    let from = |path: &str| fields.iter().find(|field| field.path == path).map(|field| field.from);
    for path in [
        "agent.env[1].value",
        "workspace.exclude[1]",
        "egress.allow[0].host",
        "egress.allow[0].paths[0]",
        "templateRef.name",
    ] {
        assert_eq!(from(path), Some(Origin::Sandbox), "{path}");
    }
    for path in [
        "agent.env[0].value",
        "workspace.exclude[0]",
        "egress.allow[0].credential",
        "className",
        "agent.image",
    ] {
        assert_eq!(from(path), Some(Origin::Template), "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_quantity_of_a_merged_spec_is_above_the_templates(
        own in prop::collection::vec(option::of(1_i64..6), 8),
        of in prop::collection::vec(option::of(1_i64..6), 8),
    ) {
        let spec = |of: &[Option<i64>]| {
            let text = |at: usize, unit: &str| of[at].map_or(Value::Null, |count| json!(format!("{count}{unit}")));
            let mut spec = json!({
                "agent": {"image": "a:1"},
                "resources": {"limits": {"cpu": text(0, ""), "memory": text(1, "Gi"), "ephemeralStorage": text(2, "Gi")}},
                "lifecycle": {"maxLifetime": text(3, "h"), "idleTimeout": text(4, "h"), "ttlAfterFinished": text(5, "h")},
                "scratch": {"tmp": text(6, "Mi")}, "workspace": {"sizeLimit": text(7, "Gi")},
            });
            for path in ["/resources/limits", "/lifecycle", "/scratch", "/workspace"] {
                spec.pointer_mut(path).unwrap().as_object_mut().unwrap().retain(|_, value| !value.is_null());
            }
            spec
        };
        let is_wider = own.iter().zip(&of).any(|(own, of)| matches!((own, of), (Some(own), Some(of)) if own > of));
        let found = merged(spec(&own), &spec(&of));
        prop_assert_eq!(found.is_err(), is_wider);
        if let Ok(found) = found {
            let least: Vec<Option<i64>> = own.iter().zip(&of).map(|(own, of)| own.or(*of)).collect();
            prop_assert_eq!(found, spec(&least));
        }
    }
}
