//! Other people's proxies between ours and the internet, as an organisation has one, each with a login of its own.
//!
//! A client asks as always; what differs is the way on from our proxy, and what the organisation's own makes of its login: takes it, does not
//! know it, or knows it and opens no way for it. Beside what a client and a stand-in see, the line between the proxies is listened to: no key is
//! ever on it but within TLS, and the login only where something was allowed.

use agentsandbox_world::names;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::catalogue::{Catalogue, Client, Front, Quick};
use crate::cell::{self, Ask, Outcome};
use crate::entrance::Entrance;
use crate::failure::{Failure, Result};
use crate::install::Folders;
use crate::netns::PROXY_OUT;
use crate::rig::{LOGIN, Rig};
use crate::wire::{Wire, asks_for_connection, has};

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
        let scope = json!({"host": self.front.host, "ports": [self.front.port()?]});
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
    let port = front.port()?;
    let mut asked = |username: &str, password: &str, ask: Ask, words: &str| {
        // A fresh proxy has no tunnel open, so that the login is told for each.
        rig.serve(Some(&Way { front, username, password }))?;
        let begin = wire.end(&rig.spaces)?;
        let mut outcome = cell::run(rig, folders, client, target, Entrance::Connect, ask)?;
        wire.end(&rig.spaces)?;
        let fault = fault_of_wire(&wire.since(begin)?, ask, (username, password), port);
        let elsewhere = fault_of_stand_ins(rig)?;
        let untold = || fault_of_words(client, &outcome.said, words);
        let fault = fault.or(elsewhere).or_else(untold);
        outcome.fault = outcome.fault.or(fault);
        Ok::<_, Failure>(outcome)
    };
    let (known, right) = (names::PROXY_USER, names::PROXY_PASSWORD);
    let place = format!("The upstream proxy {}:{port}", front.host);
    let no_login = format!("{place} does not take the login of credential {LOGIN}");
    let no_way = format!("{place} opens no way to {}:", target.host);
    let outcomes = [
        ("a denied path", asked(known, right, Ask::DeniedPath, "")?),
        ("allowed", asked(known, right, Ask::Allowed, "")?),
        ("a login that it does not take", asked(known, WRONG_PASSWORD, Ask::UpstreamRefuses, &no_login)?),
        ("a destination that it does not open", asked(UNWANTED, right, Ask::UpstreamRefuses, &no_way)?),
    ];
    let protocol = if front.url.starts_with("http:") { "CONNECT" } else { "SOCKS5" };
    Ok(FrontRow {
        front: format!("{} {version}", front.name),
        protocol,
        client: client.name.clone(),
        outcomes,
    })
}

/// Of the clients that show an answer as it is, each shows these words: which proxy refuses, what, and so who can change it.
fn fault_of_words(client: &Client, said: &str, words: &str) -> Option<String> {
    let is_told = client.quick == Quick::No || said.contains(words);
    (!is_told).then(|| format!("it is not told: {words}"))
}

/// What may not be on the line, and what must be: the login, unless the request was denied before there was a way to look for. Then the
/// front, which listens at this port, is not asked for a connection either.
fn fault_of_wire(heard: &[u8], ask: Ask, (username, password): (&str, &str), port: u16) -> Option<String> {
    if let Some(name) = Rig::key_in(heard) {
        return Some(format!("the key of {name} can be read on the line"));
    }
    let basic = BASE64.encode(format!("{username}:{password}"));
    let told = [password, &basic].iter().any(|login| has(heard, login.as_bytes()));
    let is_asked = asks_for_connection(heard, PROXY_OUT, port);
    let fault = match ask {
        Ask::DeniedPath if told || is_asked => "the organisation's proxy was asked for what is denied",
        Ask::Allowed | Ask::UpstreamRefuses if !told => "the login was not sent",
        // Then the one that must not be would not be seen either.
        Ask::Allowed | Ask::UpstreamRefuses if !is_asked => {
            "no connection to the organisation's proxy was seen"
        }
        _ => return None,
    };
    Some(fault.to_owned())
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
        let fault = |heard: &[u8], ask| fault_of_wire(heard, ask, login, 1080);
        let asked =
            [&PROXY_OUT.octets()[..], &[9, 9, 9, 9, 0, 1], &1080_u16.to_be_bytes(), &[0; 9], &[2]].concat();
        let with = |said: &[u8]| [&asked[..], said].concat();
        for ask in [Ask::Allowed, Ask::UpstreamRefuses] {
            assert_eq!(fault(&with(clear), ask), None);
            assert_eq!(fault(&with(basic), ask), None);
            assert!(fault(clear, ask).is_some() && fault(&with(b"nothing"), ask).is_some());
            assert!(fault(&[&with(clear)[..], b"real-key-of-echo-5f1d"].concat(), ask).is_some());
        }
        for heard in [clear, basic, &asked] {
            assert!(fault(heard, Ask::DeniedPath).is_some());
        }
        assert_eq!(fault(b"nothing", Ask::DeniedPath), None);
    }

    #[test]
    fn a_client_that_shows_answers_as_they_are_is_told_which_proxy_refuses_and_others_are_not_asked() {
        let catalogue = Catalogue::read().unwrap();
        let quick = |wanted| catalogue.clients.iter().find(|client| client.quick == wanted).unwrap();
        let fault = |wanted, said| fault_of_words(quick(wanted), said, "proxy a opens no way");
        assert_eq!(fault(Quick::Yes, "403: proxy a opens no way to b"), None);
        assert!(fault(Quick::Yes, "403: proxy b opens no way to b").is_some());
        assert_eq!(fault(Quick::No, "403"), None);
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
