//! One of the two servers, and what is known of it: versions and UIDs go by the order in which they were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agentsandbox_sim::kinds::{ACCOUNTS, CONFIG_MAPS, Kind, SANDBOXES};
use agentsandbox_sim::merge::merge;
use agentsandbox_sim::store::{Part, text};
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::commands::{ANCHOR, ANCHOR_UID, Command, GROUP, KINDS, LAST, OURS, Verb, Watched, Which};

/// A UID that nothing has.
const NOBODY: &str = "11111111-1111-4111-8111-111111111111";
/// Who writes where the real server's controllers do. Of ours that is the collector of pods alone: twice or thrice a minute it
/// marks those that end before they have a node as failed (kubernetes/pkg/controller/podgc, `gcUnscheduledTerminating`).
const CONTROLLERS: &str = "kube-controller-manager";
/// Seconds after which a watch ends that never shows its end.
const WATCHED_SECS: u32 = 20;

/// An answer, in words that both servers have in common.
#[derive(Clone, PartialEq)]
pub struct Answer {
    pub code: u16,
    /// Empty where nothing was refused.
    pub reason: String,
    pub body: Value,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.reason, self.body)
    }
}

/// One server.
pub struct Server {
    client: Client,
    namespace: String,
    version: String,
    /// Each object as it was seen last, and the first version of it.
    seen: BTreeMap<(&'static str, String), (Value, String)>,
    uids: BTreeMap<String, Vec<String>>,
    versions: BTreeMap<String, Vec<u64>>,
    newest: u64,
    pages: BTreeMap<&'static str, (String, bool)>,
    begun: BTreeMap<&'static str, String>,
    anchor: String,
    /// What a controller wrote to, by kind and name.
    taken: BTreeSet<(&'static str, String)>,
    /// The commands and what they came to, by kind and name.
    told: BTreeMap<(&'static str, &'static str), Vec<String>>,
}

impl Server {
    /// A server whose sandboxes are of this group and version.
    pub fn new(client: Client, namespace: &str, version: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            version: version.to_owned(),
            seen: BTreeMap::new(),
            uids: BTreeMap::new(),
            versions: BTreeMap::new(),
            newest: 0,
            pages: BTreeMap::new(),
            begun: BTreeMap::new(),
            anchor: String::new(),
            taken: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// Makes what the objects of a sequence refer to, and remembers the version from which a kind is watched.
    pub async fn begin(&mut self, kind: &'static Kind) {
        if self.anchor.is_empty() {
            self.ensure(&ACCOUNTS).await;
            self.anchor = self.ensure(&CONFIG_MAPS).await;
        }
        let answer = self
            .send("GET", &self.path(kind, "", ""), &format!("labelSelector={OURS}=yes"), "", &Value::Null)
            .await;
        self.begun.insert(kind.plural, text(&answer.1, "/metadata/resourceVersion").to_owned());
    }

    /// Makes an object that a sequence refers to; answers with its UID.
    async fn ensure(&mut self, kind: &'static Kind) -> String {
        let path = self.path(kind, "", "");
        let object = json!({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": ANCHOR}});
        self.send("POST", &path, "", "application/json", &object).await;
        let (_, made) = self.send("GET", &format!("{path}/{ANCHOR}"), "", "", &Value::Null).await;
        text(&made, "/metadata/uid").to_owned()
    }

    /// An object with the defaults that this server gives it.
    pub async fn completed(&mut self, kind: &'static Kind, base: &Value) -> Value {
        self.ensure(&ACCOUNTS).await;
        let mut object = base.clone();
        object["apiVersion"] = json!(self.version_of(kind));
        object["kind"] = json!(kind.kind);
        object["metadata"]["name"] = json!("base");
        let path = self.path(kind, "", "");
        let (code, mut whole) = self.send("POST", &path, "dryRun=All", "application/json", &object).await;
        assert_eq!(code, 201, "{whole}");
        whole["metadata"] = json!({"labels": base["metadata"]["labels"]});
        let map = whole.as_object_mut().unwrap();
        map.remove("status");
        if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        whole["apiVersion"] = json!(kind.api_version);
        whole
    }

    fn version_of(&self, kind: &Kind) -> String {
        if *kind == SANDBOXES { self.version.clone() } else { kind.api_version.to_owned() }
    }

    fn path(&self, kind: &Kind, name: &str, part: &str) -> String {
        let version = self.version_of(kind);
        let root = if version.contains('/') { "apis" } else { "api" };
        let slash = if name.is_empty() { "" } else { "/" };
        format!("/{root}/{version}/namespaces/{}/{}{slash}{name}{part}", self.namespace, kind.plural)
    }

    async fn send(&self, method: &str, path: &str, query: &str, content: &str, body: &Value) -> (u16, Value) {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            let text = body.to_string().replace(ANCHOR_UID, &self.anchor);
            text.replace(SANDBOXES.api_version, &self.version).into_bytes()
        };
        let request = Request::builder().method(method).uri(format!("{path}?{query}"));
        let request = request.header("content-type", content).header("accept", "application/json");
        let response = self.client.send(request.body(Body::from(bytes)).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The UID that is meant; null where it does not matter.
    fn uid(&self, command: &Command, which: Which) -> Value {
        let key = (command.kind.plural, command.name.to_owned());
        match (which, self.seen.get(&key)) {
            (Which::Any, _) => Value::Null,
            (Which::Latest, Some((object, _))) => object["metadata"]["uid"].clone(),
            _ => json!(NOBODY),
        }
    }

    /// The version that is meant; null where it does not matter.
    fn version(&self, command: &Command, which: Which) -> Value {
        let key = (command.kind.plural, command.name.to_owned());
        match (which, self.seen.get(&key)) {
            (Which::Any, _) => Value::Null,
            (Which::Latest, Some((object, _))) => object["metadata"]["resourceVersion"].clone(),
            (_, Some((_, first))) => json!(first),
            (_, None) => json!("1"),
        }
    }

    /// A body without what does not matter, with the name that both share.
    fn body(&self, command: &Command, mut object: Value) -> Value {
        object["apiVersion"] = json!(command.kind.api_version);
        object["kind"] = json!(command.kind.kind);
        object["metadata"]["name"] = json!(command.name);
        object
    }

    /// Gives a command.
    pub async fn give(&mut self, command: &Command) -> Answer {
        let (kind, name) = (command.kind, command.name);
        let at = self.path(kind, name, "");
        let (code, body) = match &command.verb {
            Verb::Create(object) => {
                let path = self.path(kind, "", "");
                let body = self.body(command, object.clone());
                self.send("POST", &path, "fieldManager=one", "application/json", &body).await
            }
            Verb::Get => self.send("GET", &at, "", "", &Value::Null).await,
            Verb::Apply { manager, force, object, uid } => {
                let mut body = self.body(command, object.clone());
                body["metadata"]["uid"] = self.uid(command, *uid);
                let query = format!("fieldManager={manager}&force={force}");
                self.send("PATCH", &at, &query, "application/apply-patch+yaml", &without_nulls(body)).await
            }
            Verb::Merge { manager, part, patch, version, uid } => {
                let mut body = patch.clone();
                for (field, value) in
                    [("resourceVersion", self.version(command, *version)), ("uid", self.uid(command, *uid))]
                {
                    if !value.is_null() {
                        body["metadata"][field] = value;
                    }
                }
                let at = self.path(kind, name, if *part == Part::Status { "/status" } else { "" });
                let query = format!("fieldManager={manager}");
                self.send("PATCH", &at, &query, "application/merge-patch+json", &body).await
            }
            Verb::Replace { manager, object, change, version } => {
                let key = (kind.plural, name.to_owned());
                let before = self.seen.get(&key).map_or(object, |(seen, _)| seen).clone();
                let mut body = self.body(command, before);
                merge(&mut body, change);
                body["metadata"]["resourceVersion"] = self.version(command, *version);
                let query = format!("fieldManager={manager}");
                self.send("PUT", &at, &query, "application/json", &without_nulls(body)).await
            }
            Verb::Delete { uid, version } => {
                let preconditions = json!({"uid": self.uid(command, *uid), "resourceVersion": self.version(command, *version)});
                let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": preconditions});
                self.send("DELETE", &at, "", "application/json", &without_nulls(body)).await
            }
            Verb::List { limit, tier } => self.list(kind, *limit, *tier, "").await,
            Verb::Next { limit, .. } => match self.pages.remove(kind.plural) {
                Some((token, tier)) => self.list(kind, *limit, tier, &token).await,
                None => return Answer { code: 0, reason: String::new(), body: Value::Null },
            },
        };
        if let Verb::List { tier, .. } | Verb::Next { tier, .. } = &command.verb {
            let token = text(&body, "/metadata/continue");
            if !token.is_empty() {
                self.pages.insert(kind.plural, (token.to_owned(), *tier));
            }
        }
        let answer = self.answer(command, code, &body);
        let told = self.told.entry((kind.plural, name)).or_default();
        told.push(format!("{:?} {} {}", command.verb, answer.code, answer.reason));
        answer
    }

    async fn list(&self, kind: &'static Kind, limit: usize, tier: bool, token: &str) -> (u16, Value) {
        let more = if token.is_empty() { String::new() } else { format!("&continue={}", encoded(token)) };
        let query = format!("labelSelector={}&limit={limit}{more}", selector(tier));
        self.send("GET", &self.path(kind, "", ""), &query, "", &Value::Null).await
    }

    fn answer(&mut self, command: &Command, code: u16, body: &Value) -> Answer {
        if code >= 400 {
            return Answer { code, reason: text(body, "/reason").to_owned(), body: Value::Null };
        }
        let body = match (&command.verb, text(body, "/kind")) {
            (Verb::Delete { .. }, "Status") => json!(text(body, "/status")),
            (Verb::List { .. } | Verb::Next { .. }, _) => {
                let items = body["items"].as_array().into_iter().flatten();
                let items: Vec<Value> = items.map(|one| self.normal(command.kind, one)).collect();
                let version: u64 = text(body, "/metadata/resourceVersion").parse().unwrap_or_default();
                let is_current = matches!(command.verb, Verb::List { .. }).then_some(version >= self.newest);
                let more = !text(body, "/metadata/continue").is_empty();
                json!({"items": items, "more": more, "current": is_current})
            }
            _ => {
                let key = (command.kind.plural, command.name.to_owned());
                let version = text(body, "/metadata/resourceVersion").to_owned();
                let same =
                    |(object, _): &&(Value, String)| object["metadata"]["uid"] == body["metadata"]["uid"];
                let first = self.seen.get(&key).filter(same).map_or(version, |(_, first)| first.clone());
                self.seen.insert(key, (body.clone(), first));
                self.normal(command.kind, body)
            }
        };
        Answer { code, reason: String::new(), body }
    }

    /// The object without what is the server's own: versions and UIDs by the order in which they came, times only as such.
    fn normal(&mut self, kind: &'static Kind, object: &Value) -> Value {
        self.note_writers(kind, object);
        let mut object = object.clone();
        let uid = text(&object, "/metadata/uid").to_owned();
        let number: u64 = text(&object, "/metadata/resourceVersion").parse().unwrap_or_default();
        self.newest = self.newest.max(number);
        let versions = self.versions.entry(uid.clone()).or_default();
        let version = versions.iter().position(|one| *one == number).unwrap_or_else(|| {
            versions.push(number);
            versions.len() - 1
        });
        let is_late = versions[..version].iter().any(|before| *before > number);
        let name = format!("{} {}", kind.plural, text(&object, "/metadata/name"));
        object["metadata"]["uid"] = json!(self.number(&name, &uid));
        object["metadata"]["resourceVersion"] =
            json!(format!("{version}{}", if is_late { " late" } else { "" }));
        for time in ["creationTimestamp", "deletionTimestamp"] {
            if object["metadata"][time].is_string() {
                object["metadata"][time] = json!("a time");
            }
        }
        for owner in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
            owner["uid"] = json!(self.number("owner", text(owner, "/uid")));
        }
        let of_copy = text(&object, "/apiVersion").starts_with(GROUP);
        if of_copy {
            object["apiVersion"] = json!(SANDBOXES.api_version);
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        metadata.remove("namespace");
        own_ways(kind, &mut object);
        without_nulls(object)
    }

    fn note_writers(&mut self, kind: &'static Kind, object: &Value) {
        let writers = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        if writers.map(|entry| text(entry, "/manager")).any(|manager| manager == CONTROLLERS) {
            self.taken.insert((kind.plural, text(object, "/metadata/name").to_owned()));
        }
    }

    /// Whether a controller of this server wrote to what is named, or to one of the kind where nothing is: there is none beside
    /// the simulated server, so that the two need not be the same any more.
    pub async fn was_written_by_another(&mut self, kind: &'static Kind, name: &str) -> bool {
        let ours = format!("labelSelector={OURS}=yes");
        let (_, list) = self.send("GET", &self.path(kind, "", ""), &ours, "", &Value::Null).await;
        for object in list["items"].as_array().into_iter().flatten() {
            self.note_writers(kind, object);
        }
        self.taken.iter().any(|(of, taken)| *of == kind.plural && (name.is_empty() || name == taken))
    }

    /// Which one of its name it is.
    fn number(&mut self, name: &str, uid: &str) -> usize {
        let all = self.uids.entry(name.to_owned()).or_default();
        all.iter().position(|one| one == uid).unwrap_or_else(|| {
            all.push(uid.to_owned());
            all.len() - 1
        })
    }

    /// What a watch brings until the last object of a sequence.
    pub async fn watch(&mut self, watch: &Watched) -> Vec<(String, Value)> {
        let from = if watch.forgotten { "1" } else { self.begun[watch.kind.plural].as_str() };
        let query = format!(
            "watch=true&resourceVersion={from}&labelSelector={}&timeoutSeconds={WATCHED_SECS}&allowWatchBookmarks=true",
            selector(watch.tier)
        );
        let accept = if watch.metadata {
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        } else {
            "application/json"
        };
        let request = Request::builder().uri(format!("{}?{query}", self.path(watch.kind, "", "")));
        let request = request.header("accept", accept).body(Body::empty()).unwrap();
        let mut body = self.client.send(request).await.unwrap().into_body();
        let (mut events, mut text_so_far) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            text_so_far.extend(frame.unwrap().into_data().unwrap_or_default());
            while let Some(end) = text_so_far.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text_so_far.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                let (what, object) = (text(&event, "/type").to_owned(), &event["object"]);
                match what.as_str() {
                    "BOOKMARK" => continue,
                    "ERROR" => {
                        events.push((what, json!([object["code"], object["reason"]])));
                        return events;
                    }
                    _ => events.push((what, self.normal(watch.kind, object))),
                }
                if text(object, "/metadata/name") == LAST {
                    return events;
                }
            }
        }
        events
    }

    /// What was done with an object before a command, for the message of a failure.
    pub fn told(&self, command: &Command) -> String {
        let all = self.told.get(&(command.kind.plural, command.name)).map_or(&[][..], Vec::as_slice);
        all[..all.len().saturating_sub(1)].join("\n  ")
    }

    /// Takes the finalizers off everything, so that its namespace can end.
    pub async fn release(&self) {
        for kind in KINDS {
            let path = self.path(kind, "", "");
            let (_, list) =
                self.send("GET", &path, &format!("labelSelector={OURS}=yes"), "", &Value::Null).await;
            for object in list["items"].as_array().into_iter().flatten() {
                let at = format!("{path}/{}", text(object, "/metadata/name"));
                let patch = json!({"metadata": {"finalizers": null}});
                self.send("PATCH", &at, "", "application/merge-patch+json", &patch).await;
            }
        }
    }
}

/// A value as a query has it.
fn encoded(value: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

fn selector(tier: bool) -> String {
    format!("{OURS}%3Dyes{}", if tier { "%2Ctier%3D1" } else { "" })
}

/// What the simulated server leaves out, each with the reason why the operator does not miss it.
fn own_ways(kind: &Kind, object: &mut Value) {
    match kind.plural {
        "pods" => {
            // It follows from the requests and limits, and nobody of ours reads it.
            if let Some(status) = object["status"].as_object_mut() {
                status.remove("qosClass");
            }
        }
        "services" => {
            // Which address it is, is the server's; the second form of it says the same.
            if let Some(spec) = object["spec"].as_object_mut() {
                spec.remove("clusterIPs");
                if spec.get("clusterIP").is_some_and(|address| address != "None") {
                    spec.insert("clusterIP".to_owned(), json!("an address"));
                }
            }
        }
        _ => {}
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key, without_nulls(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
