//! One client, one entrance, one request; judged by what arrived, by what was written down, and by what the client could see.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agentsandbox_world::journal::Request;
use agentsandbox_world::names;
use serde_json::Value;

use crate::catalogue::{Client, Target};
use crate::entrance::Entrance;
use crate::failure::{During, Result};
use crate::install::Folders;
use crate::rig::Rig;

/// How long a client may take; a coding agent starts slowly.
pub const CLIENT_TIMEOUT_SECS: u32 = 120;
/// How long a client is watched that is refused the host: some ask for a tunnel until they are stopped.
const WATCHED_SECS: u32 = 60;
/// What a client ends with that was stopped.
const KILLED: i32 = 128 + 9;
/// How much of what a client says is told with a fault.
const TOLD_BYTES: usize = 1500;
/// A denied request may be asked for twice: a decision does not change by asking again.
pub const REQUESTS_PER_DENIAL_MAX: usize = 2;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A path that the policy allows.
    Allowed,
    /// A path of the same host that no rule allows.
    DeniedPath,
    /// A host that no rule names.
    DeniedHost,
    /// A path that the policy allows, of a host that the agent's placeholder is not for.
    PlaceholderElsewhere,
    /// A path that the policy allows, on a way that the organisation's own proxy opens for nobody like us.
    UpstreamRefuses,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What is wrong, in a sentence.
    pub fault: Option<String>,
    /// How often the client asked for the same thing that was denied.
    pub denials: usize,
    /// Whether it was stopped while it was still asking.
    pub stopped: bool,
    /// Other hosts that the client asked for and was denied.
    pub elsewhere: BTreeSet<String>,
    /// What it printed.
    pub said: String,
}

/// What a client's run left behind.
struct Traces {
    code: Option<i32>,
    said: String,
    requests: Vec<Request>,
    names: Vec<String>,
    audit: Vec<Value>,
    agents_packets: usize,
}

/// A client's script, and what it is told.
pub struct Script<'a> {
    /// The script.
    pub run: &'a str,
    /// The way.
    pub entrance: Entrance,
    /// Where the request goes, path included.
    pub base: String,
    /// The folders of the parts.
    pub folders: &'a Folders,
    /// How long it may take.
    pub seconds: u32,
}

/// Runs a client once and judges it.
///
/// # Errors
/// When the rig fails; a client's failure is an outcome.
pub fn run(
    rig: &Rig,
    folders: &Folders,
    client: &Client,
    target: &Target,
    entrance: Entrance,
    ask: Ask,
) -> Result<Outcome> {
    let base = match ask {
        Ask::Allowed | Ask::UpstreamRefuses | Ask::PlaceholderElsewhere => {
            format!("{}{}", entrance.origin(target), target.allowed)
        }
        Ask::DeniedPath => format!("{}{}", entrance.origin(target), target.denied),
        Ask::DeniedHost => entrance.origin(target).replace(&target.host, names::EVIL) + &target.allowed,
    };
    let seconds = if ask == Ask::DeniedHost { WATCHED_SECS } else { CLIENT_TIMEOUT_SECS };
    let traces = trace(rig, &Script { run: &client.run, entrance, base, folders, seconds })?;
    let fault = match ask {
        Ask::Allowed => fault_of_allowed(&traces, client, target, entrance),
        _ => fault_of_denied(&traces, client, target, ask),
    };
    let mut asked_for = BTreeMap::<_, usize>::new();
    for line in traces.audit.iter().filter(|line| is_denial(line, target, ask)) {
        *asked_for.entry((line["method"].as_str(), line["path"].as_str())).or_default() += 1;
    }
    let denials = asked_for.into_values().max().unwrap_or_default();
    // What is counted later is counted in another client's time.
    let refused = traces.audit.iter().filter(|line| line["event"] == "deny");
    let hosts = refused.filter(|line| line["folded"].is_null()).filter_map(|line| line["host"].as_str());
    let elsewhere = hosts.filter(|host| *host != target.host && *host != names::EVIL);
    let elsewhere = elsewhere.map(str::to_owned).collect();
    let fault = fault.or_else(|| fault_of_any(&traces)).or_else(|| fault_of_count(ask, denials));
    let fault = fault.map(|fault| format!("{fault}\n{}", tail(&traces.said)));
    Ok(Outcome { fault, denials, stopped: traces.code == Some(KILLED), elsewhere, said: traces.said })
}

/// Runs a script in the agent's namespace with a home of its own, and says how it ended and what it printed.
///
/// # Errors
/// When it cannot be started.
pub fn script(rig: &Rig, script: &Script<'_>) -> Result<(Option<i32>, String)> {
    let home = tempfile::tempdir().during("there is no place for a client's home")?;
    let mut command = rig.spaces.agent.contained("timeout");
    command.args(["-s", "KILL", &script.seconds.to_string(), "sh", "-euc", script.run]);
    // Go takes no folder of temporary files itself for a module.
    let work = home.path().join("work");
    std::fs::create_dir(&work).during("a client's folder cannot be made")?;
    command.current_dir(work).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home.path()).env("TMPDIR", home.path()).env("LANG", "C.UTF-8");
    command.env("BASE", &script.base).env("TRUST", rig.trust());
    // Toolchains of the user who runs this are below the real home.
    command.env("MACHINE_HOME", std::env::var_os("HOME").unwrap_or_default());
    command.envs(script.folders).envs(&rig.placeholders).envs(script.entrance.variables(&rig.trust()));
    let out = command.output().during("a client cannot be started")?;
    let said = [out.stdout, out.stderr].concat();
    Ok((out.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

fn trace(rig: &Rig, asked: &Script<'_>) -> Result<Traces> {
    rig.forget()?;
    let begin = rig.audit_end()?;
    let (code, said) = script(rig, asked)?;
    Ok(Traces {
        code,
        said,
        requests: rig.requests()?,
        names: rig.names_asked_for()?,
        audit: rig.audit_since(begin)?,
        agents_packets: rig.packets()?.0,
    })
}

fn fault_of_allowed(traces: &Traces, client: &Client, target: &Target, entrance: Entrance) -> Option<String> {
    if traces.code != Some(0) {
        return Some(format!("it ended with {:?} though the request is allowed", traces.code));
    }
    if !traces.said.contains(&client.says) {
        return Some(format!("it did not say {:?}", client.says));
    }
    let host = target.behind.as_ref().unwrap_or(&target.host);
    let arrived = |request: &&Request| request.host == *host && request.path.starts_with(&target.allowed);
    let mut requests = traces.requests.iter().filter(arrived).peekable();
    if requests.peek().is_none() {
        return Some("no request arrived, yet the client was answered".to_owned());
    }
    let (field, value) = &target.key;
    let requests: Vec<_> = requests.collect();
    if let Some((field, value)) = &client.arrives {
        let came = |request: &&&Request| request.header(field) == Some(value);
        if requests.iter().filter(came).count() == 0 {
            return Some(format!("no request arrived with {field}: {value}"));
        }
    }
    let keys: Vec<_> = requests.iter().map(|request| request.header(field)).collect();
    let wanted = entrance.carries_a_key().then_some(value.as_str());
    keys.iter().any(|key| *key != wanted).then(|| format!("{field} arrived as {keys:?}"))
}

fn fault_of_denied(traces: &Traces, client: &Client, target: &Target, ask: Ask) -> Option<String> {
    if traces.code == Some(0) {
        return Some("it ended well though the request is denied".to_owned());
    }
    let arrived = traces.requests.iter().find(|request| match ask {
        Ask::DeniedHost => request.host == names::EVIL,
        Ask::UpstreamRefuses | Ask::PlaceholderElsewhere => true,
        _ if target.behind.as_ref() == Some(&request.host) => true,
        _ => request.host == target.host && request.path.starts_with(&target.denied),
    });
    if let Some(request) = arrived {
        return Some(format!("{} {} arrived", request.method, request.path));
    }
    if ask == Ask::DeniedHost && traces.names.iter().any(|name| name == names::EVIL) {
        return Some("the denied host's name was resolved".to_owned());
    }
    // Of a tunnel that was refused many clients say no more than that.
    let signs = ["403", "NotAllowed", "PlaceholderMisuse", "UpstreamProxyRefused", "agentsandbox refused"];
    let shown = signs.iter().any(|sign| traces.said.contains(sign));
    let shows = ask == Ask::DeniedHost || shown || !client.hides.is_empty();
    (!shows).then(|| "the denial cannot be seen in what it says".to_owned())
}

fn fault_of_any(traces: &Traces) -> Option<String> {
    if let Some(name) = Rig::secret_in(&traces.said) {
        return Some(format!("the key of {name} is in what it says"));
    }
    (traces.agents_packets > 0).then(|| format!("{} packets went around the proxy", traces.agents_packets))
}

fn fault_of_count(ask: Ask, denials: usize) -> Option<String> {
    match (ask, denials) {
        (Ask::Allowed, _) | (_, 1..=REQUESTS_PER_DENIAL_MAX) => None,
        (_, 0) => Some("the proxy wrote down no denial".to_owned()),
        // A client that gets no tunnel gets no answer either that could tell it to stop. What it does is told, not judged.
        (Ask::DeniedHost, _) => None,
        (_, more) => Some(format!("it asked {more} times for what was denied")),
    }
}

fn is_denial(line: &Value, target: &Target, ask: Ask) -> bool {
    let path = line["path"].as_str().unwrap_or_default();
    let denied = line["event"] == "deny";
    match ask {
        Ask::Allowed => false,
        Ask::DeniedPath => denied && line["host"] == *target.host && path.starts_with(&target.denied),
        Ask::DeniedHost => denied && line["host"] == names::EVIL,
        Ask::PlaceholderElsewhere => denied && line["reason"] == "PlaceholderMisuse",
        // The policy allows it, so it is what became of it that says so.
        Ask::UpstreamRefuses => line["event"] == "end" && line["reason"] == "UpstreamProxyRefused",
    }
}

fn tail(text: &str) -> &str {
    let mut begin = text.len().saturating_sub(TOLD_BYTES);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    text.get(begin..).unwrap_or_default()
}

impl fmt::Display for Ask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Allowed => "allowed",
            Self::DeniedPath => "denied path",
            Self::DeniedHost => "denied host",
            Self::PlaceholderElsewhere => "placeholder elsewhere",
            Self::UpstreamRefuses => "refused by the upstream proxy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    /// What an allowed request through CONNECT leaves behind.
    fn traces(path: &str, key: Option<&str>) -> Traces {
        let headers = key.map(|key| ("authorization".to_owned(), key.to_owned())).into_iter().collect();
        let request = Request {
            time_ns: 0,
            peer: [10, 9, 1, 2].into(),
            local: None,
            scheme: "https".to_owned(),
            sni: None,
            certificate: None,
            host: names::ECHO.to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            version: "HTTP/1.1".to_owned(),
            headers,
            body_bytes: None,
        };
        Traces {
            code: Some(0),
            said: "200".to_owned(),
            requests: vec![request],
            names: Vec::new(),
            audit: Vec::new(),
            agents_packets: 0,
        }
    }

    #[test]
    fn an_allowed_request_is_answered_and_arrives_with_the_key_where_one_is_added() {
        let catalogue = Catalogue::read().unwrap();
        let (client, target) = (&catalogue.clients[0], &catalogue.targets["echo"]);
        let key = target.key.1.as_str();
        let fault = |traces: &Traces, entrance| fault_of_allowed(traces, client, target, entrance);
        let (tls, plain) = (Entrance::Connect, Entrance::TransparentHttp);
        assert_eq!(fault(&traces("/allowed/x", Some(key)), tls), None);
        assert_eq!(fault(&traces("/allowed/x", None), plain), None);
        assert!(fault(&traces("/allowed/x", None), tls).is_some());
        assert!(fault(&traces("/allowed/x", Some("Bearer another")), tls).is_some());
        assert!(fault(&traces("/allowed/x", Some(key)), plain).is_some());
        assert!(fault(&traces("/elsewhere", Some(key)), tls).is_some());
        assert!(fault(&Traces { code: Some(1), ..traces("/allowed/x", Some(key)) }, tls).is_some());
    }

    #[test]
    fn a_denied_request_fails_visibly_and_arrives_nowhere() {
        let catalogue = Catalogue::read().unwrap();
        let (client, target) = (&catalogue.clients[0], &catalogue.targets["echo"]);
        let refused = |path| Traces { code: Some(22), said: "403".to_owned(), ..traces(path, None) };
        let fault = |traces: &Traces| fault_of_denied(traces, client, target, Ask::DeniedPath);
        assert_eq!(fault(&refused("/allowed/before")), None);
        assert!(fault(&refused("/denied/x")).is_some());
        assert!(fault(&Traces { code: Some(0), ..refused("/allowed/before") }).is_some());
        assert!(fault(&Traces { said: "timeout".to_owned(), ..refused("/allowed/before") }).is_some());
        let resolved = Traces { names: vec![names::EVIL.to_owned()], ..refused("/allowed/before") };
        assert!(fault_of_denied(&resolved, client, target, Ask::DeniedHost).is_some());
    }

    #[test]
    fn a_key_that_a_client_prints_and_a_packet_around_the_proxy_are_faults() {
        let told = Traces { said: "it was real-key-of-echo-5f1d".to_owned(), ..traces("/allowed/x", None) };
        assert!(fault_of_any(&told).is_some());
        assert!(fault_of_any(&Traces { agents_packets: 1, ..traces("/allowed/x", None) }).is_some());
        assert_eq!(fault_of_any(&traces("/allowed/x", None)), None);
    }

    #[test]
    fn a_denial_that_nobody_wrote_down_or_that_is_asked_for_thrice_is_a_fault() {
        for (ask, denials, is_fault) in [
            (Ask::Allowed, 0, false),
            (Ask::DeniedPath, 0, true),
            (Ask::DeniedPath, 2, false),
            (Ask::DeniedPath, 3, true),
            (Ask::DeniedHost, 0, true),
            (Ask::DeniedHost, 3, false),
        ] {
            assert_eq!(fault_of_count(ask, denials).is_some(), is_fault, "{ask} {denials}");
        }
    }
}
