//! What would become of one request, by the code that decides real ones.
//!
//! The document is read whole and the decision made by [`Policy::decide`], on a destination that is read as the proxy's HTTP
//! entrance reads it, and placeholders are looked for as the proxy looks for them. Fields and bodies, which it judges too, are not
//! asked about here.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::{KEY_POLICY, SUFFIX_POLICY};
use agentsandbox_policy::{
    Denial, Explanation, InvalidPolicy, Method, Placeholders, Policy, Request, Scheme, Target,
    parse_authority,
};
use http::Uri;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::find::{self, FindError};
use crate::status::condition;
use crate::text::pairs;

/// The proxy refuses a longer path with its query before it judges it.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// The condition that what the sandbox asks for is what its document holds.
const ACCEPTED: &str = "Accepted";
/// The condition that its proxy serves by its document.
const PROXY_READY: &str = "ProxyReady";

/// A request as it is written on a command line.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its URL, whole.
    pub url: &'a str,
    /// Whether it asks for a WebSocket.
    pub websocket: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Whether the request would be sent.
    pub allowed: bool,
    /// By which rule and with which credential, or why not and what to write; as the proxy's own `explain` says it.
    pub text: Value,
}

/// Why there is no answer: what is wrong with the question, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswerable(String);

/// Why there is no document to decide by.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A file cannot be read.
    #[error("the policy document {file} cannot be read")]
    File {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no valid document.
    #[error("{0} is no valid policy document: {1}")]
    Invalid(String, String),
    /// The sandbox has none yet.
    #[error(
        "AgentSandbox {name} has no policy document yet, so its proxy allows nothing; see `kubectl agentsandbox status {name}`"
    )]
    None {
        /// The sandbox.
        name: String,
    },
    /// The document of its name is another sandbox's.
    #[error(
        "the ConfigMap {config_map} is not the policy document of AgentSandbox {name}: look who wrote it, and delete it"
    )]
    Foreign {
        /// Its name.
        config_map: String,
        /// The sandbox.
        name: String,
    },
}

/// A document, and what has to be said of it.
#[derive(Debug)]
pub struct Document {
    /// What is decided by.
    pub policy: Policy,
    /// What speaks for another one being obeyed just now, as sentences.
    pub note: Option<String>,
}

impl Document {
    /// Reads a text, which `from` names in errors.
    ///
    /// # Errors
    /// [`DocumentError::Invalid`] with every fault.
    pub fn parse(from: &str, text: &str) -> Result<Self, DocumentError> {
        let faults = |error: InvalidPolicy| {
            error.faults().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let policy = Policy::from_yaml(text)
            .map_err(|error| DocumentError::Invalid(from.to_owned(), faults(error)))?;
        Ok(Self { policy, note: None })
    }

    /// That of a sandbox, from its ConfigMap.
    ///
    /// # Errors
    /// Where it is not there, is invalid, or is another's.
    pub fn of(sandbox: &AgentSandbox, config_map: &ConfigMap) -> Result<Self, DocumentError> {
        let (name, from) = (sandbox.name_any(), config_map.name_any());
        let text = config_map.data.as_ref().and_then(|data| data.get(KEY_POLICY));
        let Some(text) = text else { return Err(DocumentError::None { name }) };
        let document = Self::parse(&format!("ConfigMap {from}"), text)?;
        let whose = document.policy.sandbox();
        let is_own = whose.name == name
            && Some(whose.namespace.as_str()) == sandbox.metadata.namespace.as_deref()
            && Some(whose.uid.as_str()) == sandbox.metadata.uid.as_deref();
        if !is_own {
            return Err(DocumentError::Foreign { config_map: from, name });
        }
        Ok(Self { note: doubts(sandbox, document.policy.generation()), ..document })
    }
}

/// Why the proxy may obey another document than the one of this generation, or none.
fn doubts(sandbox: &AgentSandbox, decided_by: i64) -> Option<String> {
    let name = sandbox.name_any();
    let newest = sandbox.metadata.generation.unwrap_or_default();
    let mut doubts = Vec::new();
    if sandbox.metadata.deletion_timestamp.is_some() {
        doubts.push("The AgentSandbox is being deleted: its proxy ends with it.".to_owned());
    }
    if decided_by != newest {
        doubts.push(format!(
            "The document in force is of generation {decided_by} and the AgentSandbox of generation {newest}: what changed since is not in force."
        ));
    }
    let is_true = |type_: &str| condition(sandbox, type_).is_some_and(|one| one.status == "True");
    if !is_true(ACCEPTED) {
        doubts.push(format!(
            "The AgentSandbox does not say {ACCEPTED}=True: what it asks for now is not what is decided by."
        ));
    }
    if !is_true(PROXY_READY) {
        doubts.push(format!(
            "It does not say {PROXY_READY}=True: whether its proxy obeys this document is not known."
        ));
    }
    (!doubts.is_empty())
        .then(|| format!("{} `kubectl agentsandbox status {name}` says why.", doubts.join(" ")))
}

/// The document that is written for the proxy of this sandbox.
///
/// # Errors
/// Where there is no such sandbox, or no document that is its own.
pub async fn in_force(cluster: &Cluster, name: &str) -> Result<Document, crate::error::Error> {
    let sandbox = find::sandbox(cluster, name).await?;
    let config_maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &cluster.namespace);
    let config_map = config_maps.get_opt(&format!("{name}{SUFFIX_POLICY}")).await.map_err(
        FindError::not_given(format!(
            "the policy document of AgentSandbox {name}, for which you need the verb get on configmaps"
        )),
    )?;
    let Some(config_map) = config_map else {
        return Err(DocumentError::None { name: name.to_owned() }.into());
    };
    Ok(Document::of(&sandbox, &config_map)?)
}

/// Decides the request.
///
/// # Errors
/// [`Unanswerable`] when it is not written as a request, or only the proxy can judge it.
pub fn explain(policy: &Policy, question: Question<'_>) -> Result<Explained, Unanswerable> {
    let request = match request(question)? {
        Ok(request) => request,
        Err(denial) => return told(&*denial),
    };
    if request.scheme == Scheme::Https
        && let Some(pass) = policy.pass(&request.host, request.port)
    {
        return told(&pass);
    }
    let permit = match policy.decide(request) {
        Ok(permit) => permit,
        Err(denial) => return told(&*denial),
    };
    let placeholders = Placeholders::of(policy).map_err(|error| Unanswerable(error.to_string()))?;
    if let Some(credential) = placeholders.misused_in_target(&permit) {
        return told(&permit.misuse(credential));
    }
    if policy.has_own_key_in_query(&permit) {
        return told(&policy.own_key(&permit));
    }
    told(&permit)
}

/// The request in canonical parts, or why it is refused before any rule is asked.
fn request(question: Question<'_>) -> Result<Result<Request, Box<Denial>>, Unanswerable> {
    let usage =
        || Unanswerable("write --url as a whole URL, such as https://api.example.com/v1/models".to_owned());
    let uri: Uri = question.url.parse().map_err(|_| usage())?;
    let scheme = match uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => return Err(usage()),
    };
    let authority = uri.authority().ok_or_else(usage)?;
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    if target.len() > TARGET_BYTES_MAX {
        return Err(Unanswerable(format!(
            "the path with its query has {} bytes, and the proxy takes {TARGET_BYTES_MAX}: ask for a shorter one",
            target.len()
        )));
    }
    // A method that HTTP does not know as one is no request at all.
    http::Method::from_bytes(question.method.as_bytes())
        .map_err(|_| Unanswerable("write --method as a method, such as GET".to_owned()))?;
    if question.websocket && question.method != "GET" {
        return Err(Unanswerable("a WebSocket is asked for with GET: leave --method out".to_owned()));
    }
    let parts = || -> Result<Request, Box<Denial>> {
        let method = Method::parse(question.method)?;
        let (host, port) = parse_authority(authority.as_str(), Some(scheme.default_port()))?;
        let target = Target::parse(target)?;
        Ok(Request { scheme, host, port, method, target, websocket: question.websocket })
    };
    Ok(parts())
}

fn told<'a>(decision: impl Into<Explanation<'a>>) -> Result<Explained, Unanswerable> {
    let explanation = decision.into();
    let text = serde_json::to_value(&explanation).map_err(|error| Unanswerable(error.to_string()))?;
    Ok(Explained { allowed: explanation.is_allowed(), text })
}

impl Explained {
    /// The answer for people.
    #[must_use]
    pub fn table(&self, note: Option<&str>) -> String {
        let from = if self.allowed { &self.text } else { &self.text["denial"] };
        let text = |key: &str| match &from[key] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Array(items) if items.is_empty() => None,
            Value::Array(items) => {
                Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
            }
            other => Some(other.to_string()),
        };
        let decision = if self.allowed { "allowed" } else { "denied" };
        pairs(&[
            ("decision", Some(decision.to_owned())),
            ("reason", text("reason")),
            ("rule", text("rule")),
            ("tls", text("tls")),
            ("method", text("method")),
            ("host", text("host")),
            ("port", text("port")),
            ("path", text("path")),
            ("credential", text("credential")),
            ("place", text("place")),
            ("pinned headers", text("pinnedHeaders")),
            ("client certificate", text("clientCertificate")),
            ("how to allow", text("howToAllow")),
            ("note", note.map(str::to_owned)),
        ])
    }
}

#[cfg(test)]
mod tests;
