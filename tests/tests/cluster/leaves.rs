//! Each field of each kind with each kind of wrong value, made from the schema itself: what is refused is told by the field's name,
//! and what is taken is settled by the operator in words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_crds::schema;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Error};
use serde_json::{Value, json};
use xtask::install;

use crate::fixtures;

/// Longer than any field may be, and shorter than what the API server refuses unread.
const HUGE_CHARACTERS: usize = 200_000;
/// Text in several scripts, with a mark that reverses it, a mark that has no width, and one beyond sixteen bits.
const UNICODE: &str = "ü名\u{202e}\u{200b}𝕏";

/// Objects that are accepted as they stand and have, together, every field of the schema.
fn whole() -> Vec<Value> {
    let sandbox = json!({"kind": "AgentSandbox", "spec": {
        "className": "world",
        "agent": {"image": fixtures::AGENT_IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep"], "args": ["infinity"],
            "workingDir": "/workspace", "env": [{"name": "A", "value": "b"}], "proxyEnvironment": "Set"},
        "workspace": {"sizeLimit": "100Mi", "medium": "Memory", "execution": "Allow", "access": "ReadOnly", "exclude": ["*.tmp"], "include": [".env.example"],
            "archive": {"url": "https://echo.world.test/a/code.tar.gz", "sha256": "a".repeat(64), "stripComponents": 1}},
        "scratch": {"medium": "Memory", "tmp": "16Mi", "home": "32Mi", "execution": "Allow",
            "additional": [{"path": "/cache", "sizeLimit": "16Mi", "medium": "Disk"}]},
        "lifecycle": {"mode": "Service", "maxLifetime": "8h", "idleTimeout": "2h", "ttlAfterFinished": "30m", "state": "Running"},
        "resources": {"limits": {"cpu": "500m", "memory": "300Mi", "ephemeralStorage": "1Gi"}},
        "egress": {"onRevoke": "Drain", "drainSeconds": 60, "allow": [{"name": "rule", "host": "echo.world.test", "ports": [443], "scheme": "Https", "methods": ["GET"],
            "paths": ["/a/**"], "credential": "echo", "clientCertificate": "shown", "websocket": "Deny", "tls": "Intercept",
            "limits": {"uploadBytes": "1Mi", "uploadBytesPerMinute": "1Mi"},
            "answer": {"maxBytes": "1Mi", "contentTypes": ["text/*"]}, "headers": ["accept"]}]},
    }});
    // gVisor has no process sandbox.
    let confined = json!({"kind": "AgentSandbox", "spec": {
        "className": "container",
        "agent": {"image": fixtures::AGENT_IMAGE, "command": ["sleep"], "processSandbox": {
            "readPaths": ["/usr"], "writePaths": ["/workspace"], "noExecutePaths": ["/tmp"]}},
        "lifecycle": {"mode": "Task", "activeDeadline": "30m"},
    }});
    let class = json!({"kind": "AgentSandboxClass", "spec": {
        "isolation": "GVisor", "runtimeClassName": "gvisor", "sidecarPlacement": "Pod", "agentNetwork": "Pod", "processSandbox": "Optional",
        "scheduling": {"nodeSelector": {"pool": "agents"},
            "tolerations": [{"key": "agents", "value": "only", "effect": "NoSchedule"}]},
        "resources": {"pidsMax": 4096, "default": {"cpu": "1", "memory": "1Gi", "ephemeralStorage": "1Gi"},
            "max": {"cpu": "2", "memory": "2Gi", "ephemeralStorage": "2Gi", "workspace": "2Gi"}},
        "images": {"allowedRegistries": ["ghcr.io/acme"]},
        "egress": {"allowedHosts": ["**.example.com"], "allowedPrivateRanges": ["10.20.0.0/16"], "tlsPassthrough": "Deny", "onRevoke": "Kill",
            "limits": {"uploadBytes": "1Mi", "uploadBytesPerMinute": "1Mi"},
            "additionalRoots": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
            "upstreamProxy": {"url": "http://proxy.example.com:3128",
                "login": {"username": "agents", "secretRef": {"name": "login", "key": "password"}}}},
        "persistentWorkspace": {"maxSize": "10Gi", "storageClassNames": ["local"]},
        "tracing": {"endpoint": "http://collector.observability.svc.cluster.local:4318",
            "pods": {"namespace": "observability", "labels": {"app": "collector"}}},
    }});
    let credential = |spec: Value| {
        let mut spec = spec;
        spec["secretRef"] = json!({"name": "key", "key": "token"});
        json!({"kind": "AgentCredential", "spec": spec})
    };
    let hosts = json!([{"host": "api.example.com", "ports": [443], "methods": ["GET"], "paths": ["/v1/**"]}]);
    let ways = [
        json!({"type": "Header", "header": {"name": "x-api-key", "prefix": "Key "}}),
        json!({"type": "Basic", "basic": {"username": "agents"}}),
        json!({"type": "Query", "query": {"name": "key"}}),
        json!({"type": "Cookie", "cookie": {"name": "session"}}),
        json!({"type": "PathSegment", "pathSegment": {"after": "/bot"}}),
    ];
    let env = json!([{"name": "KEY", "value": "placeholder"}, {"name": "OTHER", "prefix": "sk-"}]);
    let pinned = json!([{"name": "x-team", "value": "agents"}]);
    let mut of_git = sandbox.clone();
    of_git["spec"]["workspace"] =
        json!({"git": {"url": "https://echo.world.test/a/shop.git", "ref": "main", "depth": 1}});
    of_git["spec"]["workspace"]["access"] = json!("Overlay");
    of_git["spec"]["egress"]["allow"][0]["methods"] = json!(["GET", "POST"]);
    let mut lasting = sandbox.clone();
    lasting["spec"]["workspace"] = json!({"access": "Persistent",
        "persistent": {"size": "1Gi", "storageClassName": "local", "whenDeleted": "Delete"}});
    let mut of_claim = sandbox.clone();
    of_claim["spec"]["workspace"] = json!({"persistentVolumeClaim": {"claimName": "datasets", "path": "src/shop"}, "sanitize": ["Npmrc"]});
    let mut of_map = sandbox.clone();
    of_map["spec"]["workspace"] = json!({"configMap": {"name": "task"}});
    let mut of_image = sandbox.clone();
    of_image["spec"]["workspace"] =
        json!({"image": {"reference": fixtures::AGENT_IMAGE, "path": "etc/apt", "pullPolicy": "Never"}});
    let mut all = vec![
        sandbox,
        of_git,
        of_claim,
        of_map,
        of_image,
        lasting,
        confined,
        class,
        credential(json!({"preset": "OpenAI"})),
    ];
    // What a sandbox may say a template may, but for whether it runs for now.
    let templates: Vec<Value> =
        all.iter().filter(|one| one["kind"] == "AgentSandbox").map(template).collect();
    all.extend(templates);
    all.push(json!({"kind": "AgentSandbox", "spec": {"templateRef": {"name": "leaf"}}}));
    all.extend(ways.map(|inject| {
        credential(json!({"inject": inject, "hosts": hosts, "placeholderEnv": env, "pinnedHeaders": pinned}))
    }));
    for object in &mut all {
        object["apiVersion"] = json!("agentsandbox.dev/v1alpha1");
        object["metadata"] = json!({"name": "leaf"});
    }
    all
}

fn template(sandbox: &Value) -> Value {
    let mut spec = sandbox["spec"].clone();
    if let Some(lifecycle) = spec["lifecycle"].as_object_mut() {
        lifecycle.remove("state");
    }
    let spec: Value =
        spec.as_object().unwrap().clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
    let bounds = json!({"images": ["ghcr.io/acme/*"], "classNames": ["gvisor"]});
    json!({"kind": "AgentSandboxTemplate", "spec": {"sandbox": spec, "bounds": bounds}})
}

/// A field that holds no further fields.
struct Leaf {
    /// Where it is in the object.
    pointer: String,
    /// The same, without the numbers of entries.
    path: String,
    schema: Value,
}

/// Every leaf of a schema, whether some object has it or not: its path, and where an object has it.
fn leaves(schema: &Value, object: Option<&Value>, pointer: &str, path: &str, found: &mut Vec<Leaf>) {
    if let Some(fields) = schema["properties"].as_object() {
        for (name, inner) in fields {
            let object = object.and_then(|object| object.get(name));
            leaves(inner, object, &format!("{pointer}/{name}"), &format!("{path}/{name}"), found);
        }
    } else if schema["type"] == "array" {
        let entries = object.and_then(Value::as_array).cloned().unwrap_or_default();
        for (index, entry) in entries.iter().enumerate() {
            leaves(&schema["items"], Some(entry), &format!("{pointer}/{index}"), path, found);
        }
        if entries.is_empty() {
            leaves(&schema["items"], None, "", path, found);
        }
    } else if schema["type"] == "object" {
        let entry = object.and_then(Value::as_object).and_then(|map| map.iter().next());
        let pointer = entry.map(|(key, _)| format!("{pointer}/{key}")).unwrap_or_default();
        found.push(Leaf { pointer, path: path.to_owned(), schema: schema["additionalProperties"].clone() });
    } else {
        let pointer = object.map(|_| pointer.to_owned()).unwrap_or_default();
        found.push(Leaf { pointer, path: path.to_owned(), schema: schema.clone() });
    }
}

/// What no field, or hardly any, should take; and the bounds of this one, which it may. Each once.
fn values(schema: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for value in candidates(schema) {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

fn candidates(schema: &Value) -> Vec<Value> {
    if schema["type"] == "integer" {
        let bound = |name: &str| schema[name].as_f64().map_or(0, |bound| bound as i64);
        let (min, max) = (bound("minimum"), bound("maximum"));
        let numbers = [min, max, min - 1, max + 1, 0, -1, i64::MAX, i64::MIN].map(Value::from);
        return numbers.into_iter().chain([json!(1.5), json!("1"), json!({}), Value::Null]).collect();
    }
    let length = |name: &str| schema[name].as_u64().and_then(|length| usize::try_from(length).ok());
    let (min, max) = (length("minLength").unwrap_or(0), length("maxLength").unwrap_or(64));
    let texts = [0, 1, min, max, max + 1, HUGE_CHARACTERS].map(|characters| "a".repeat(characters));
    let odd =
        [UNICODE, " ", "-1", "-1Gi", "0", "1e9", "null", "../../etc", "\u{0}", "a\nb"].map(str::to_owned);
    let texts = texts.into_iter().chain(odd).map(Value::from);
    texts.chain([json!(1), json!(true), json!({}), json!(["a"]), Value::Null]).collect()
}

/// Asks the API server to create this and to say whatever is wrong with it.
async fn asked(ns: &Namespace, object: &Value, dry_run: &str) -> Result<Value, Error> {
    let api = ns.api_of(object);
    let path = format!("{}?fieldValidation=Strict{dry_run}", api.resource_url());
    let request = Request::post(path).header("content-type", "application/json");
    ns.client.request(request.body(object.to_string().into_bytes()).unwrap()).await
}

/// The last name in a path.
fn field(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Tries every value in every field of an object; what was taken is returned with its field.
async fn tried(
    ns: &Namespace,
    object: &Value,
    found: &[Leaf],
    wrong: &mut Vec<String>,
) -> (usize, Vec<(String, Value)>) {
    let (mut refused, mut taken) = (0, Vec::new());
    for leaf in found.iter().filter(|leaf| !leaf.pointer.is_empty()) {
        for value in values(&leaf.schema) {
            let mut object = object.clone();
            *object.pointer_mut(&leaf.pointer).unwrap() = value.clone();
            match asked(ns, &object, "&dryRun=All").await {
                Ok(_) => taken.push((leaf.path.clone(), object)),
                Err(Error::Api(status))
                    if [400, 422].contains(&status.code) && status.message.contains(field(&leaf.path)) =>
                {
                    refused += 1
                }
                other => wrong.push(format!(
                    "{} = {:.60}: {:.600}",
                    leaf.path,
                    value.to_string(),
                    format!("{other:?}")
                )),
            }
        }
    }
    (refused, taken)
}

/// What the sandboxes refer to.
const CREDENTIALS: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentCredential
metadata: {name: shown}
spec:
  secretRef: {name: shown}
  inject: {type: ClientCertificate}
  hosts:
  - {host: echo.world.test}
";

/// Sandboxes that are there at a time. The policy engine writes all of its rules anew for each wall that comes or goes.
const AT_A_TIME: usize = 60;

/// A class is refused by nobody but the API server; of a sandbox the operator says what is wrong.
async fn settled(ns: &Namespace, taken: Vec<(String, Value)>) {
    // Nothing runs: what is judged is what the operator says.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    ns.apply(&quota.to_string()).await.unwrap();
    let mut left = taken.into_iter().enumerate().peekable();
    while left.peek().is_some() {
        let mut names = BTreeMap::new();
        for (index, (path, mut object)) in left.by_ref().take(AT_A_TIME) {
            let name = format!("leaf-{index}");
            object["metadata"]["name"] = json!(name);
            asked(ns, &object, "").await.unwrap();
            names.insert(name, path);
        }
        accepted_or_told(ns, &names).await;
        let all: Api<AgentSandbox> = Api::namespaced(ns.client.clone(), &ns.name);
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        eventually("they are gone", SETTLED_WITHIN, || async {
            let left = all.list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
            if left.items.is_empty() { Ok(()) } else { Err(format!("{} are left", left.items.len())) }
        })
        .await;
    }
}

/// Waits until each is accepted, or refused with the name of its field.
async fn accepted_or_told(ns: &Namespace, names: &BTreeMap<String, String>) {
    eventually("each is settled", SETTLED_WITHIN, || async {
        let mut open = Vec::new();
        for (name, path) in names {
            match ns.handle(name).condition("Accepted").await? {
                Some(c) if c.status == "True" => {}
                Some(c) if c.status == "False" && c.message.contains(field(path)) => {}
                other => open.push(format!("{path}: {other:?}")),
            }
        }
        if open.is_empty() { Ok(()) } else { Err(open.join("\n")) }
    })
    .await;
}

/// Bounds a hang.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

async fn restarts_of_the_operator(rig: &Rig) -> i32 {
    let pods: Api<Pod> = Api::namespaced(rig.client.clone(), install::NAMESPACE);
    let all = pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await.unwrap();
    let statuses = all.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
    statuses.map(|status| status.restart_count).sum()
}

#[tokio::test]
async fn o_r18_each_wrong_value_of_each_field_is_refused_or_settled_with_the_fields_name() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "leaves", async |ns| {
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        ns.apply(CREDENTIALS).await.unwrap();
        let restarts = restarts_of_the_operator(&rig).await;
        let schemas = schema::all().unwrap();
        let (mut wrong, mut refused, mut taken) = (Vec::new(), 0, Vec::new());
        let (mut all, mut had) = (BTreeSet::new(), BTreeSet::new());
        for object in whole() {
            asked(&ns, &object, "&dryRun=All").await.unwrap();
            let of_kind = |r: &&schema::Rendered| r.manifest["spec"]["names"]["kind"] == object["kind"];
            let manifest = &schemas.iter().find(of_kind).unwrap().manifest;
            let spec = &manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            let mut found = Vec::new();
            leaves(spec, Some(&object["spec"]), "/spec", &format!("{}/spec", object["kind"]), &mut found);
            all.extend(found.iter().map(|leaf| leaf.path.clone()));
            had.extend(found.iter().filter(|leaf| !leaf.pointer.is_empty()).map(|leaf| leaf.path.clone()));
            let (number, of_object) = tried(&ns, &object, &found, &mut wrong).await;
            refused += number;
            taken.extend(of_object.into_iter().filter(|(_, object)| object["kind"] == "AgentSandbox"));
        }
        assert!(wrong.is_empty(), "neither taken nor refused by name:\n{}", wrong.join("\n"));
        let missing: Vec<_> = all.difference(&had).collect();
        assert!(missing.is_empty(), "no object here has {missing:?}");
        eprintln!("{} fields: {refused} values refused, {} sandboxes taken", all.len(), taken.len());
        settled(&ns, taken).await;
        assert_eq!(restarts_of_the_operator(&rig).await, restarts, "the operator ended");
    })
    .await;
}
