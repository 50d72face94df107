//! A request, as the API server reads it: path, query, kind of patch; and its answer out of the store.

use http::{Method, Uri};
use serde_json::{Value, json};

use crate::kinds::{self, Kind};
use crate::store::{Deletion, Part, Refusal, Store, text};

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct Call {
    /// HTTP method.
    pub method: Method,
    /// Which kind.
    pub kind: &'static Kind,
    /// Empty for all, or for what lives in none.
    pub namespace: String,
    /// Empty for all.
    pub name: String,
    /// Which part of the object.
    pub part: Part,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// `Accept`.
    pub accept: String,
    /// `Content-Type`.
    pub content_type: String,
    /// The body; null if there is none.
    pub body: Value,
}

/// Which labels objects must have: `key=value` joined by commas; empty takes all.
pub type Selector = Vec<(String, String)>;

impl Call {
    /// Reads a request.
    ///
    /// # Errors
    /// For what the server does not serve.
    pub fn read(method: &Method, uri: &Uri, headers: &http::HeaderMap, body: &[u8]) -> Result<Self, Refusal> {
        let unknown = || Refusal::new(404, "NotFound", "the server could not find the requested resource");
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let (version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return Err(unknown()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, part) = match rest {
            [plural] => (*plural, "", Part::Main),
            [plural, name] => (*plural, *name, Part::Main),
            [plural, name, "status"] => (*plural, *name, Part::Status),
            _ => return Err(unknown()),
        };
        let header =
            |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        Ok(Self {
            method: method.clone(),
            kind: kinds::find(&version, plural).ok_or_else(unknown)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            part,
            query: query(uri.query().unwrap_or_default()),
            accept: header("accept"),
            content_type: header("content-type"),
            body: serde_json::from_slice(body).unwrap_or(Value::Null),
        })
    }

    /// A value of the query; empty if there is none.
    pub fn asks(&self, key: &str) -> &str {
        self.query.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// Whether it is a watch.
    pub fn is_watch(&self) -> bool {
        self.method == Method::GET && self.name.is_empty() && self.asks("watch") == "true"
    }

    /// Whether only metadata is wanted.
    pub fn wants_metadata(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }

    /// As [`crate::faults::Asked::line`].
    pub fn line(&self) -> String {
        let verb = match (&self.method, self.name.is_empty(), self.is_watch()) {
            (_, _, true) => "WATCH",
            (&Method::GET, true, false) => "LIST",
            (method, ..) => method.as_str(),
        };
        let status = if self.part == Part::Status { "/status" } else { "" };
        let of_body = text(&self.body, "/metadata/name");
        let name = match (self.kind.plural, self.name.as_str(), &self.method) {
            // Their names hold the time at which they were made.
            ("events", "", &Method::POST) => {
                format!("{}.{}", text(&self.body, "/regarding/name"), text(&self.body, "/reason"))
            }
            ("events", name, _) => name.split('.').next().unwrap_or_default().to_owned(),
            (_, "", &Method::POST) => of_body.to_owned(),
            (_, name, _) => name.to_owned(),
        };
        let slash = if name.is_empty() { "" } else { "/" };
        format!("{verb} {}{slash}{name}{status}", self.kind.plural)
    }

    /// Which labels it asks for.
    pub fn selector(&self) -> Selector {
        let pairs = self.asks("labelSelector").split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Whether an object is among those that it asks for.
    pub fn wants(&self, object: &Value, selector: &Selector) -> bool {
        let here = self.namespace.is_empty() || text(object, "/metadata/namespace") == self.namespace;
        let labels = &object["metadata"]["labels"];
        here && selector.iter().all(|(key, value)| labels[key] == json!(value))
    }

    /// An object as it is wanted.
    pub fn shown(&self, object: &Value) -> Value {
        if !self.wants_metadata() {
            return object.clone();
        }
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    }

    /// An object as it is wanted in a list, which says itself what kind the core's are.
    fn listed(&self, object: &Value) -> Value {
        let mut object = self.shown(object);
        if let Some(object) =
            object.as_object_mut().filter(|_| !self.wants_metadata() && !self.kind.is_ours())
        {
            object.remove("apiVersion");
            object.remove("kind");
        }
        object
    }

    /// Carries it out; not for watches.
    ///
    /// # Errors
    /// As the API server.
    pub fn answer(&self, store: &mut Store) -> Result<(u16, Value), Refusal> {
        let manager = Some(self.asks("fieldManager")).filter(|manager| !manager.is_empty());
        let at = (self.namespace.as_str(), self.name.as_str());
        if let Some(manager) = manager {
            store.managing(manager);
        }
        match (&self.method, self.name.is_empty()) {
            (&Method::GET, true) => self.list(store).map(|list| (200, list)),
            (&Method::GET, false) => {
                store.get(self.kind, at.0, at.1).map(|object| (200, self.shown(object))).ok_or_else(|| {
                    Refusal::new(404, "NotFound", format!("{} \"{}\" not found", self.kind.plural, at.1))
                })
            }
            (&Method::POST, true) => {
                let mut object = self.body.clone();
                if self.kind.namespaced {
                    object["metadata"]["namespace"] = json!(self.namespace);
                }
                store.create(self.kind, manager, object, self.asks("dryRun") == "All").map(|made| (201, made))
            }
            (&Method::PUT, false) => {
                let code = if store.get(self.kind, at.0, at.1).is_some() { 200 } else { 201 };
                let mut object = self.body.clone();
                if self.kind.namespaced {
                    object["metadata"]["namespace"] = json!(self.namespace);
                }
                store.replace(self.kind, self.part, object).map(|new| (code, new))
            }
            (&Method::PATCH, false) if self.content_type.contains("apply-patch") => {
                let force = self.asks("force") == "true";
                let manager = manager.ok_or_else(|| {
                    Refusal::new(422, "Invalid", "fieldManager is required for apply patch")
                })?;
                let code = if store.get(self.kind, at.0, at.1).is_some() { 200 } else { 201 };
                store.apply(self.kind, at, manager, force, self.body.clone()).map(|new| (code, new))
            }
            (&Method::PATCH, false) if self.content_type.contains("merge-patch") => {
                store.merge(self.kind, self.part, at, &self.body).map(|new| (200, new))
            }
            (&Method::DELETE, false) => {
                let last = store.delete(self.kind, at, &self.deletion())?;
                let is_gone = store.get(self.kind, at.0, at.1).is_none();
                let is_shown = self.kind.is_shown_when_deleted() || !is_gone;
                Ok((200, if is_shown { last } else { deleted(self.kind, &last) }))
            }
            _ => Err(Refusal::new(405, "MethodNotAllowed", "the simulated server does not serve this")),
        }
    }

    fn deletion(&self) -> Deletion {
        let precondition = |name: &str| {
            let value = text(&self.body, &format!("/preconditions/{name}"));
            (!value.is_empty()).then(|| value.to_owned())
        };
        Deletion {
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            grace: self.body["gracePeriodSeconds"].as_i64(),
            adds: match text(&self.body, "/propagationPolicy") {
                "Foreground" => Some("foregroundDeletion"),
                "Orphan" => Some("orphan"),
                _ => None,
            },
        }
    }

    /// A list, page by page, all of them as of the first; a page that continues says of when that is, and from which key on.
    fn list(&self, store: &Store) -> Result<Value, Refusal> {
        let selector = self.selector();
        let (from, revision) = match self.asks("continue") {
            "" => (String::new(), store.revision()),
            token => {
                let (revision, key) = token.split_once('/').unwrap_or_default();
                let revision: u64 = revision.parse().unwrap_or_default();
                if revision < store.compacted {
                    return Err(expired());
                }
                (key.to_owned(), revision)
            }
        };
        let limit = self.asks("limit").parse::<usize>().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let place = |object: &Value| {
            format!("{}\u{1}{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
        };
        let all: Vec<&Value> = if revision == store.revision() {
            store.all(self.kind).collect()
        } else {
            store.as_of(self.kind, revision)
        };
        let here = all.into_iter().filter(|object| self.wants(object, &Selector::new()));
        let rest: Vec<&Value> = here.filter(|object| place(object).as_str() > from.as_str()).collect();
        let page: Vec<&Value> =
            rest.iter().copied().filter(|object| self.wants(object, &selector)).take(limit).collect();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        // A page that is full says that there is more where anything follows, wanted or not.
        let last = page.last().filter(|_| page.len() == limit).map(|last| place(last));
        if let Some(last) = last
            && rest.last().is_some_and(|object| place(object) > last)
        {
            metadata["continue"] = json!(format!("{revision}/{last}"));
        }
        let items: Vec<Value> = page.iter().map(|object| self.listed(object)).collect();
        let (kind, version) = if self.wants_metadata() {
            ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1")
        } else {
            (format!("{}List", self.kind.kind), self.kind.api_version)
        };
        Ok(json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}))
    }
}

/// What is said of a deletion that took effect at once.
fn deleted(kind: &Kind, last: &Value) -> Value {
    let details = json!({"name": text(last, "/metadata/name"), "kind": kind.plural, "uid": text(last, "/metadata/uid")});
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// What is said of a revision that the server has forgotten.
pub fn expired() -> Refusal {
    Refusal::new(410, "Expired", "too old resource version")
}

/// A body as the trace tells it, without what is never the same: keys that were drawn, and the system's clock, after which
/// the client library names its Events.
pub fn told(body: &Value) -> String {
    let mut body = body.clone();
    let strange: &[&str] = match body["kind"].as_str() {
        Some("Secret") => &["/data", "/stringData"],
        Some("Event") => &["/metadata/name", "/eventTime", "/series"],
        _ => &[],
    };
    for pointer in strange {
        if let Some(value) = body.pointer_mut(pointer) {
            *value = Value::Null;
        }
    }
    body.to_string()
}

fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
