//! Vectors: what a client sends, and what must come of it. They are written in `vectors/*.yaml`.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::failure::{During, Failure, Result};

/// A way into a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entrance {
    /// A request in absolute form.
    Absolute,
    /// CONNECT, then TLS with HTTP/1.1 inside.
    Connect,
    /// CONNECT, then TLS with HTTP/2 inside.
    ConnectH2,
    /// SOCKS5 by name, then as CONNECT.
    Socks5,
    /// `/<rule>/…` on a server of its own.
    BaseUrl,
    /// TLS, whose server name says the destination.
    TransparentTls,
    /// Plain HTTP, whose Host says the destination.
    TransparentHttp,
    /// Queries to the name server that the agent is given.
    Dns,
}

impl Entrance {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Absolute,
        Self::Connect,
        Self::ConnectH2,
        Self::Socks5,
        Self::BaseUrl,
        Self::TransparentTls,
        Self::TransparentHttp,
        Self::Dns,
    ];

    /// The name by which vectors call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::Connect => "connect",
            Self::ConnectH2 => "connect-h2",
            Self::Socks5 => "socks5",
            Self::BaseUrl => "base-url",
            Self::TransparentTls => "transparent-tls",
            Self::TransparentHttp => "transparent-http",
            Self::Dns => "dns",
        }
    }

    /// Whether a destination is agreed on before the first request.
    #[must_use]
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Connect | Self::ConnectH2 | Self::Socks5)
    }

    /// Whether the client opens TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        self.is_tunnel() || matches!(self, Self::TransparentTls)
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Entrances, written as words: their names, or `http1` for all that take an HTTP/1.1 request, `keyed` for those of them
/// that reach a destination with a credential, `tunnels` and `tls`.
fn entrances(text: &str) -> Result<Vec<Entrance>> {
    use Entrance::{Absolute, BaseUrl, Connect, Socks5, TransparentHttp, TransparentTls};
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "http1" => found.extend([Absolute, Connect, Socks5, BaseUrl, TransparentTls, TransparentHttp]),
            "keyed" => found.extend([Absolute, Connect, Socks5, BaseUrl, TransparentTls]),
            "tunnels" => found.extend([Connect, Socks5]),
            "tls" => found.extend([Connect, Socks5, TransparentTls]),
            name => found.push(
                Entrance::ALL
                    .into_iter()
                    .find(|entrance| entrance.as_str() == name)
                    .ok_or_else(|| Failure::new(format!("{name} is no entrance")))?,
            ),
        }
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { Err(Failure::new("a vector names no entrance")) } else { Ok(found) }
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Entrance>, D::Error> {
    entrances(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// What a client sends. Whatever is not written is as in an allowed request. Texts are sent byte for byte; `{target}`,
/// `{authority}`, `{host}`, `{path}` and `{method}` stand for what the entrance makes of the fields below.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Send {
    /// `host:port`; on `transparent-http` an allowed plaintext host if nothing is said, else an allowed one with TLS.
    pub to: Option<String>,
    /// Scheme of the absolute form.
    pub scheme: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// The request line, without its end.
    pub line: Option<String>,
    /// The Host field, with its end; it may be none or several.
    pub host: Option<String>,
    /// More header lines, each with its end.
    pub lines: Option<String>,
    /// What follows the head.
    pub body: Option<String>,
    /// So often `lines` is repeated, with `{n}` counted from 0.
    pub repeat: Option<usize>,
    /// Replaces a `{pad}` anywhere by so many `x`.
    pub pad: Option<usize>,
    /// The server name of TLS; empty says none.
    pub sni: Option<String>,
    /// The protocols that TLS offers; HTTP/1.1 or HTTP/2 if nothing is said.
    pub alpn: Option<Vec<String>>,
    /// The authority of CONNECT.
    pub connect: Option<String>,
    /// Sent in place of TLS and a request, into the tunnel or the connection.
    pub inside: Option<String>,
    /// Sent before anything else.
    pub preamble: Option<String>,
    /// Whether an allowed request goes before it on the same connection.
    pub after: bool,
    /// Fields of HTTP/2, as `name|value`, in raw frames, in place of, or beside, those of an allowed request.
    pub fields: Vec<String>,
    /// A question to the name server: name and type.
    pub query: Option<(String, String)>,
    /// What the servers answer in place of "ok"; `{real}` and its spellings stand for the injected secret.
    pub answer: Option<String>,
    /// The longest time to wait for the end, in seconds; 5 if nothing is said.
    pub patience: Option<u64>,
}

/// How far a denied request may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upstream {
    /// No connection is opened.
    #[default]
    None,
    /// A connection may be opened, but no byte of a request is sent.
    Handshake,
    /// A request is sent and its answer is refused.
    Request,
}

/// What must come of it. Exactly one of `deny`, `allow` and `single` is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Expect {
    /// Refused. Any proxy may say so by any error or by closing; ours must by one of these statuses, where 0 is closing.
    pub deny: Option<Vec<u16>>,
    /// Passed on exactly once, and answered with one of these.
    pub allow: Option<Vec<u16>>,
    /// Refused before anything is sent, or passed on as exactly one request; ours answers with one of these.
    pub single: Option<Vec<u16>>,
    /// The reason in our audit trail.
    pub reason: Option<String>,
    /// How far a denied request may get.
    pub upstream: Upstream,
    /// What must be in the request that arrives, in any letter case.
    pub sent: Vec<String>,
    /// What must not be in it.
    pub not_sent: Vec<String>,
    /// What the client must be told.
    pub told: Vec<String>,
    /// What it must not be told.
    pub not_told: Vec<String>,
}

/// What a proxy must be able to do for a vector to apply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// It looks inside TLS.
    Intercept,
    /// It adds a credential.
    Inject,
    /// It knows hosts by pattern.
    Wildcard,
    /// It lets a WebSocket pass where a rule says so.
    Websocket,
}

/// A vector as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    id: String,
    title: String,
    #[serde(deserialize_with = "words")]
    on: Vec<Entrance>,
    #[serde(default)]
    send: Send,
    expect: Expect,
    #[serde(default)]
    control: Send,
    #[serde(default)]
    needs: Vec<Need>,
}

/// One thing to send through one entrance.
#[derive(Clone, Debug)]
pub struct Case {
    /// The entry of the catalogue, such as `P-A1`.
    pub id: String,
    /// What the entry says.
    pub title: String,
    /// Which of the vector's `each`, if it has some.
    pub each: Option<String>,
    /// The way in.
    pub entrance: Entrance,
    /// What is sent.
    pub send: Send,
    /// What must come of it.
    pub expect: Expect,
    /// The nearest allowed request: it must pass in the same run.
    pub control: Send,
    /// What a proxy must be able to do.
    pub needs: Vec<Need>,
}

/// Every case of every file in the folder, in the order of the catalogue.
///
/// # Errors
/// When a file cannot be read, or says something that is not understood.
pub fn read(folder: &Path) -> Result<Vec<Case>> {
    let entries = std::fs::read_dir(folder).during(format!("{} cannot be read", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "yaml")) {
        let text = std::fs::read_to_string(file).during(format!("{} cannot be read", file.display()))?;
        let written: Vec<Value> =
            serde_yaml::from_str(&text).during(format!("{} is not a list of vectors", file.display()))?;
        for vector in written {
            cases.extend(
                expanded(vector).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?,
            );
        }
    }
    Ok(cases)
}

/// One vector becomes a case for each of its `each` and each of its entrances.
fn expanded(mut vector: Value) -> Result<Vec<Case>> {
    let id = vector["id"].as_str().unwrap_or("a vector without id").to_owned();
    let each = vector.as_object_mut().and_then(|object| object.remove("each"));
    let each: Vec<Option<String>> = match each {
        None => vec![None],
        Some(list) => serde_json::from_value::<Vec<String>>(list)
            .during(format!("{id}: each is a list of texts"))?
            .into_iter()
            .map(Some)
            .collect(),
    };
    let mut cases = Vec::new();
    for each in each {
        let mut one = vector.clone();
        if let Some(each) = &each {
            replace(&mut one, each);
        }
        let written: Written = serde_json::from_value(one).during(&id)?;
        let outcomes = [&written.expect.deny, &written.expect.allow, &written.expect.single];
        if outcomes.iter().filter(|outcome| outcome.is_some()).count() != 1 {
            return Err(Failure::new(format!("{id}: expect one of deny, allow and single")));
        }
        for entrance in written.on {
            let (send, expect) = (written.send.clone(), written.expect.clone());
            let mut needs = written.needs.clone();
            if entrance == Entrance::ConnectH2 || (entrance.is_tls() && is_read_inside(&send)) {
                needs.push(Need::Intercept);
            }
            cases.push(Case {
                id: written.id.clone(),
                title: written.title.clone(),
                each: each.clone(),
                entrance,
                send,
                expect,
                control: written.control.clone(),
                needs,
            });
        }
    }
    Ok(cases)
}

/// Whether the vector lies in the request, which stands inside TLS: only who looks there can judge it.
fn is_read_inside(send: &Send) -> bool {
    let outside = Send {
        to: send.to.clone(),
        sni: send.sni.clone(),
        alpn: send.alpn.clone(),
        connect: send.connect.clone(),
        inside: send.inside.clone(),
        preamble: send.preamble.clone(),
        patience: send.patience,
        ..Send::default()
    };
    *send != outside
}

/// Puts `each` where a text says `{each}`.
fn replace(value: &mut Value, each: &str) {
    match value {
        Value::String(text) => *text = text.replace("{each}", each),
        Value::Array(list) => list.iter_mut().for_each(|value| replace(value, each)),
        Value::Object(map) => map.values_mut().for_each(|value| replace(value, each)),
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vector_is_a_case_for_each_spelling_and_entrance() {
        let cases = expanded(json!({
            "id": "P-E1", "title": "a climb", "on": "absolute connect", "each": ["/a", "/b"],
            "send": {"path": "{each}"}, "expect": {"deny": [403]}
        }));
        let cases = cases.unwrap();
        let paths: Vec<_> = cases.iter().map(|case| case.send.path.clone().unwrap()).collect();
        assert_eq!(paths, ["/a", "/a", "/b", "/b"]);
        assert!(cases[0].needs.is_empty(), "a request in absolute form is read by every proxy");
        assert_eq!(cases[1].needs, [Need::Intercept], "a path inside TLS is not");
    }

    #[test]
    fn what_is_misspelt_or_says_no_outcome_is_refused() {
        for wrong in [
            json!({"id": "P-1", "title": "t", "on": "absolute", "expect": {"deny": [403], "allow": [200]}}),
            json!({"id": "P-1", "title": "t", "on": "absolute", "expect": {}}),
            json!({"id": "P-1", "title": "t", "on": "absolut", "expect": {"deny": [403]}}),
            json!({"id": "P-1", "title": "t", "on": "", "expect": {"deny": [403]}}),
            json!({"id": "P-1", "title": "t", "on": "absolute", "send": {"pth": "/"}, "expect": {"deny": [403]}}),
        ] {
            assert!(expanded(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
