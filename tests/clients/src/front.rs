//! Other people's proxies between ours and the internet, as an organisation has one, each with a login of its own.
//!
//! A client asks as always; what differs is the way on from our proxy, and what the organisation's own makes of its login: takes it, does not
//! know it, or knows it and opens no way for it. Beside what a client and a stand-in see, the line between the proxies is listened to: no key is
//! ever on it but within TLS, and the login only where something was allowed.

use agentsandbox_world::names;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::catalogue::{Catalogue, Client, Front};
use crate::cell::{self, Ask, Outcome};
use crate::entrance::Entrance;
use crate::failure::{During, Failure, Result};
use crate::install::Folders;
use crate::rig::{LOGIN, Rig};
use crate::wire::{Wire, has};

/// Whom each front knows, and opens no way for.
const UNWANTED: &str = "visitors";
/// What nobody has for a password.
const WRONG_PASSWORD: &str = "proxy-wrong-07be11d2c9a84f63";

/// The way to the internet through an organisation's own proxy.
pub struct Way<'a> {
    /// Whose.
    pub front: &'a Front,
    /// As whom.
    pub username: &'a str,
    /// With which password.
    pub password: &'a str,
}

/// One client through one of them.
#[derive(Debug)]
pub struct FrontRow {
    /// The organisation's proxy, with its version.
    pub front: String,
    /// How it is spoken to.
    pub protocol: &'static str,
    /// The client.
    pub client: String,
    /// What came of each question, with its name.
    pub outcomes: [(&'static str, Outcome); 4],
}

impl Way<'_> {
    /// The login, as an item of the policy document's credentials.
    ///
    /// # Errors
    /// When the front's URL has no port.
    pub fn credential(&self) -> Result<Value> {
        let port = self.front.url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let scope =
            json!({"host": self.front.host, "ports": [port.during("a front's URL ends with a port")?]});
        let inject = json!({"type": "Basic", "username": self.username});
        Ok(json!({"name": LOGIN, "inject": inject, "scopes": [scope]}))
    }
}

impl FrontRow {
    /// Everything that is wrong, each in a sentence.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let faults = self.outcomes.iter().filter_map(|(ask, outcome)| Some((ask, outcome.fault.as_ref()?)));
        faults.map(|(ask, fault)| format!("{} through {}, {ask}: {fault}", self.client, self.front)).collect()
    }

    /// The row of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let [path, allowed, login, destination] = &self.outcomes;
        let well = |(_, outcome): &(_, Outcome), word: &str| match outcome.fault {
            None => word.to_owned(),
            Some(_) => "**failed**".to_owned(),
        };
        let asked = |(_, outcome): &(_, Outcome)| outcome.denials;
        let most = [path, login, destination].map(asked).into_iter().max().unwrap_or_default();
        let Self { front, protocol, client, .. } = self;
        format!(
            "| {front} | {protocol} | {client} | {} | {} | {} | {} | {most} |",
            well(allowed, "with the key"),
            well(path, "refused before it"),
            well(login, "told"),
            well(destination, "told"),
        )
    }
}

/// Runs a client through a front, and leaves the rig with that way.
///
/// # Errors
/// When the rig fails; what the client or the front does wrong is in the row.
pub fn row(
    (rig, wire): (&mut Rig, &Wire),
    catalogue: &Catalogue,
    folders: &Folders,
    client: &Client,
    (front, version): (&Front, &str),
) -> Result<FrontRow> {
    let target = catalogue.target(&client.target)?;
    let mut asked = |username: &str, password: &str, ask: Ask| {
        // A fresh proxy has no tunnel open, so that the login is told for each.
        rig.serve(Some(&Way { front, username, password }))?;
        let begin = wire.end(&rig.spaces)?;
        let mut outcome = cell::run(rig, folders, client, target, Entrance::Connect, ask)?;
        wire.end(&rig.spaces)?;
        let fault = fault_of_wire(&wire.since(begin)?, ask, (username, password));
        let elsewhere = fault_of_stand_ins(rig)?;
        outcome.fault = outcome.fault.or(fault).or(elsewhere);
        Ok::<_, Failure>(outcome)
    };
    let (known, right) = (names::PROXY_USER, names::PROXY_PASSWORD);
    let outcomes = [
        ("a denied path", asked(known, right, Ask::DeniedPath)?),
        ("allowed", asked(known, right, Ask::Allowed)?),
        ("a login that it does not take", asked(known, WRONG_PASSWORD, Ask::UpstreamRefuses)?),
        ("a destination that it does not open", asked(UNWANTED, right, Ask::UpstreamRefuses)?),
    ];
    let protocol = if front.url.starts_with("http:") { "CONNECT" } else { "SOCKS5" };
    Ok(FrontRow {
        front: format!("{} {version}", front.name),
        protocol,
        client: client.name.clone(),
        outcomes,
    })
}

/// What may not be on the line, and what must be: the login, unless the request was denied before there was a way to look for.
fn fault_of_wire(heard: &[u8], ask: Ask, (username, password): (&str, &str)) -> Option<String> {
    if let Some(name) = Rig::key_in(heard) {
        return Some(format!("the key of {name} can be read on the line"));
    }
    let basic = BASE64.encode(format!("{username}:{password}"));
    let told = [password, &basic].iter().any(|login| has(heard, login.as_bytes()));
    match (told, ask) {
        (true, Ask::DeniedPath) => Some("the organisation's proxy was asked for what is denied".to_owned()),
        (false, Ask::Allowed | Ask::UpstreamRefuses) => Some("the login was not sent".to_owned()),
        _ => None,
    }
}

/// The login is for the organisation's proxy, and no destination hears of it.
fn fault_of_stand_ins(rig: &Rig) -> Result<Option<String>> {
    let requests = rig.requests()?;
    let mut fields = requests.iter().flat_map(|request| &request.headers);
    let told = fields.find(|(name, value)| {
        name == "proxy-authorization" || Rig::secret_in(value).is_some_and(|secret| secret == LOGIN)
    });
    Ok(told.map(|(name, _)| format!("{name} of the login arrived at the destination")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_clear_is_a_fault_and_so_is_a_login_without_need_and_none_where_there_is_need() {
        let login = ("agents", "a-password");
        let (clear, basic) = (&b"..\x01\x06agents\x0aa-password"[..], &b"Basic YWdlbnRzOmEtcGFzc3dvcmQ="[..]);
        for ask in [Ask::Allowed, Ask::UpstreamRefuses] {
            assert_eq!(fault_of_wire(clear, ask, login), None);
            assert_eq!(fault_of_wire(basic, ask, login), None);
            assert!(fault_of_wire(b"nothing", ask, login).is_some());
            let key = [clear, b"real-key-of-echo-5f1d"].concat();
            assert!(fault_of_wire(&key, ask, login).is_some());
        }
        assert!(fault_of_wire(clear, Ask::DeniedPath, login).is_some());
        assert_eq!(fault_of_wire(b"nothing", Ask::DeniedPath, login), None);
    }

    #[test]
    fn the_login_is_a_credential_for_the_fronts_own_host_and_port() {
        let catalogue = Catalogue::read().unwrap();
        for front in &catalogue.fronts {
            let way = Way { front, username: "agents", password: "x" };
            let scope = &way.credential().unwrap()["scopes"][0];
            assert_eq!(scope["host"], front.host);
            assert!(front.url.ends_with(&format!("//{}:{}", front.host, scope["ports"][0])));
        }
    }
}
