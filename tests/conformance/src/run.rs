//! The engine: each case against one proxy, with its control, and a verdict.
//!
//! Whatever a vector is about, no spelling of the secret may be in what the client is told or in what any other host is
//! sent, nothing denied may be dialled or asked of the name server, and the nearest allowed request must pass in the same
//! run. A proxy that is dead, hangs or denies everything therefore passes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::adapter::{Kind, Program, Proxy};
use crate::client::{Door, Ended, Told, speak};
use crate::failure::{During, Failure};
use crate::secret;
use crate::vector::{Case, Entrance, Expect, Need, Send, Upstream};
use crate::world::{GOOD, New, World};

/// How long our audit trail may lag behind an answer.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The admin port of our proxy, where it is when nobody says otherwise.
const OUR_ADMIN: &str = "127.0.0.1:9090";
/// Cases that wait longer than this run beside each other.
const SLOW_SECS: u64 = 6;
/// Hosts that the policy names, whole or as the end of a name.
const NAMED: [&str; 12] = [
    "api.good.test",
    "git.good.test",
    "pypi.good.test",
    "plain.good.test",
    "hosts.good.test",
    "wrong.good.test",
    "expired.good.test",
    "self.good.test",
    "xn--bcher-kva.test",
    "bücher.test",
    ".wild.test",
    ".rebind.test",
];

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it must be.
    Passed,
    /// Not as it must be, and why.
    Failed(String),
    /// The proxy has no such entrance or feature.
    Inapplicable(String),
}

/// A case and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The entry of the catalogue.
    pub id: String,
    /// What it says.
    pub title: String,
    /// Which spelling.
    pub each: Option<String>,
    /// The way in.
    pub entrance: Entrance,
    /// The verdict.
    pub verdict: Verdict,
}

/// A whole run against one proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which proxy.
    pub proxy: Kind,
    /// Its version, as it says itself.
    pub version: String,
    /// What came of each case.
    pub outcomes: Vec<Outcome>,
}

struct Engine<'a> {
    world: &'a World,
    program: &'a Program,
    folder: &'a Path,
    proxy: Proxy,
    controls: BTreeMap<String, Result<(), String>>,
}

/// Runs all cases against one proxy.
///
/// # Errors
/// When the world or the proxy cannot be started at all.
pub async fn all(cases: &[Case], program: &Program, version: &str, folder: &Path) -> Result<Run, Failure> {
    let world = World::start().await?;
    let proxy = Proxy::start(program, &world, folder)?;
    let mut engine = Engine { world: &world, program, folder, proxy, controls: BTreeMap::new() };
    let mut outcomes = Vec::new();
    let (slow, quick): (Vec<_>, Vec<_>) =
        cases.iter().partition(|case| case.send.patience.is_some_and(|seconds| seconds > SLOW_SECS));
    outcomes.extend(engine.beside_each_other(&slow).await?);
    for case in quick {
        let verdict = engine.case(case).await?;
        outcomes.push(outcome(case, verdict));
    }
    outcomes.extend(engine.still_serves().await);
    outcomes.sort_by_key(|outcome| order(&outcome.id));
    Ok(Run { proxy: program.kind, version: version.to_owned(), outcomes })
}

fn outcome(case: &Case, verdict: Verdict) -> Outcome {
    Outcome {
        id: case.id.clone(),
        title: case.title.clone(),
        each: case.each.clone(),
        entrance: case.entrance,
        verdict,
    }
}

/// `P-A10` comes behind `P-A9`.
#[must_use]
pub fn order(id: &str) -> (String, u32) {
    let digits = id.find(|c: char| c.is_ascii_digit()).unwrap_or(id.len());
    let (group, number) = id.split_at(digits);
    (group.to_owned(), number.parse().unwrap_or(u32::MAX))
}

impl Engine<'_> {
    /// A case as this proxy can be asked it: some take no absolute form of https, and are asked for the same over http, or for
    /// the plaintext host.
    fn in_its_reach(&self, case: &Case) -> Case {
        let mut case = case.clone();
        if case.entrance != Entrance::Absolute {
            return case;
        }
        for send in [&mut case.send, &mut case.control] {
            if !self.proxy.kind.in_absolute_form(send) {
                case.needs.push(Need::Intercept);
            }
        }
        case
    }

    fn door(&self, case: &Case) -> Result<Door, Verdict> {
        let Some(door) = self.proxy.doors.get(&case.entrance) else {
            return Err(Verdict::Inapplicable("it has no such entrance".to_owned()));
        };
        match case.needs.iter().find(|need| !self.proxy.can.contains(need)) {
            Some(need) => Err(Verdict::Inapplicable(lacks(*need).to_owned())),
            None => Ok(door.clone()),
        }
    }

    async fn case(&mut self, case: &Case) -> Result<Verdict, Failure> {
        let case = &self.in_its_reach(case);
        let door = match self.door(case) {
            Ok(door) => door,
            Err(verdict) => return Ok(verdict),
        };
        if let Err(why) = self.control(&door, case.entrance, &case.control).await {
            return Ok(Verdict::Failed(format!("its control fails: {why}")));
        }
        let judged = self.attempt(&door, case.entrance, &case.send, &case.expect).await;
        if !self.proxy.is_alive() {
            // The next vector gets a proxy that lives.
            self.proxy = Proxy::start(self.program, self.world, self.folder)?;
            return Ok(Verdict::Failed("the proxy ended".to_owned()));
        }
        Ok(judged.map_or_else(Verdict::Failed, |()| Verdict::Passed))
    }

    /// The nearest allowed request; each is tried once for each entrance.
    async fn control(&mut self, door: &Door, entrance: Entrance, send: &Send) -> Result<(), String> {
        let mut send = send.clone();
        if entrance == Entrance::Dns && send.query.is_none() {
            send.query = Some(("api.good.test".to_owned(), "A".to_owned()));
        }
        let key = format!("{entrance} {}", serde_json::to_string(&send).map_err(|error| error.to_string())?);
        if let Some(known) = self.controls.get(&key) {
            return known.clone();
        }
        let expect = Expect { allow: Some(vec![200, 101]), ..Expect::default() };
        let passed = self.attempt(door, entrance, &send, &expect).await;
        self.controls.insert(key, passed.clone());
        passed
    }

    async fn attempt(
        &self,
        door: &Door,
        entrance: Entrance,
        send: &Send,
        expect: &Expect,
    ) -> Result<(), String> {
        let (mark, lines) = (self.world.state.mark(), self.proxy.audit.len());
        let is_ours_asked = self.proxy.kind == Kind::Ours;
        let counted = if is_ours_asked { decided(expect).await } else { 0 };
        self.world.state.follow(send.answer.as_deref());
        let told = speak(door, entrance, send).await.map_err(|error| format!("no connection: {error}"))?;
        if send.answer.is_some() {
            self.world.state.quiet().await;
        }
        // A connection that was opened is accepted a moment later.
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.world.state.follow(None);
        let (before, new) = (usize::from(send.after), self.world.state.since(mark));
        let injects = self.proxy.can.contains(&Need::Inject);
        judge(entrance, send, expect, &told, &new, before, injects)?;
        if is_ours_asked {
            self.is_written_down(entrance, expect, (lines, counted)).await?;
            is_ours(expect, &told)?;
        }
        Ok(())
    }

    /// Our own trail must say what was decided, and why: in a line, or in a count once there are many lines like it.
    async fn is_written_down(
        &self,
        entrance: Entrance,
        expect: &Expect,
        (from, counted): (usize, u64),
    ) -> Result<(), String> {
        // Repeated questions to the name server are counted, not written one by one.
        if entrance == Entrance::Dns || expect.single.is_some() {
            return Ok(());
        }
        let refused = is_refused(expect);
        let decision = if refused { r#""decision":"deny""# } else { r#""decision":"allow""# };
        let reason =
            expect.reason.as_ref().map_or_else(String::new, |reason| format!(r#""reason":"{reason}""#));
        let wanted = |line: &String| line.contains(decision) && line.contains(&reason);
        let end = tokio::time::Instant::now() + AUDIT_TIMEOUT;
        loop {
            // Before the lines are read: those from before a stall say nothing of the time after it.
            let is_late = tokio::time::Instant::now() > end;
            let lines = self.proxy.audit.since(from);
            if let Some(line) = lines.iter().find(|line| secret::found_in(line.as_bytes()).is_some()) {
                return Err(format!("the secret is in the audit trail: {line}"));
            }
            if lines.iter().any(wanted) || (refused && decided(expect).await > counted) {
                return Ok(());
            }
            if is_late {
                return Err(format!("no audit line with {decision} {reason} among {lines:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Vectors that wait: none may reach anybody, so they need not wait for each other.
    async fn beside_each_other(&mut self, cases: &[&Case]) -> Result<Vec<Outcome>, Failure> {
        let mark = self.world.state.mark();
        let mut running = Vec::new();
        for case in cases {
            let case = self.in_its_reach(case);
            let (send, entrance) = (case.send.clone(), case.entrance);
            let begun = self.door(&case).map(|door| {
                let to = door.clone();
                (door, tokio::spawn(async move { speak(&to, entrance, &send).await }))
            });
            running.push((case, begun));
        }
        let mut told = Vec::new();
        for (case, begun) in running {
            told.push(match begun {
                Err(verdict) => (case, Err(verdict)),
                Ok((door, task)) => (case, Ok((door, task.await.during("a client ended")?))),
            });
        }
        let new = self.world.state.since(mark);
        let mut outcomes = Vec::new();
        for (case, told) in told {
            let verdict = match told {
                Err(verdict) => verdict,
                Ok((_, Err(error))) => Verdict::Failed(format!("no connection: {error}")),
                Ok((door, Ok(told))) => {
                    let judged = judge(case.entrance, &case.send, &case.expect, &told, &new, 0, false);
                    match judged {
                        Err(why) => Verdict::Failed(why),
                        Ok(()) => match self.control(&door, case.entrance, &case.control).await {
                            Err(why) => Verdict::Failed(format!("its control fails: {why}")),
                            Ok(()) => Verdict::Passed,
                        },
                    }
                }
            };
            outcomes.push(outcome(&case, verdict));
        }
        Ok(outcomes)
    }

    /// At the end each entrance must still pass what it passed at the beginning.
    async fn still_serves(&mut self) -> Vec<Outcome> {
        let doors = self.proxy.doors.clone();
        self.controls.clear();
        let mut failed = Vec::new();
        for (entrance, door) in doors {
            let mut send = Send::default();
            if entrance == Entrance::Absolute {
                self.proxy.kind.in_absolute_form(&mut send);
            }
            // What a proxy cannot do at the end it could not do before either.
            let tried = self.proxy.can.contains(&Need::Intercept) || !entrance.is_tls();
            if tried && let Err(why) = self.control(&door, entrance, &send).await {
                failed.push(Outcome {
                    id: "P-0".to_owned(),
                    title: "after all vectors, an allowed request passes".to_owned(),
                    each: None,
                    entrance,
                    verdict: Verdict::Failed(why),
                });
            }
        }
        failed
    }
}

const fn lacks(need: Need) -> &'static str {
    match need {
        Need::Intercept => "it neither looks inside TLS nor speaks it",
        Need::Inject => "it adds no credential over TLS",
        Need::Wildcard => "no host pattern is configured for it",
        Need::Websocket => "it cannot allow a WebSocket by rule",
    }
}

/// What ours promises beyond what is asked of every proxy: one of the documented statuses.
fn is_ours(expect: &Expect, told: &Told) -> Result<(), String> {
    let statuses = expect.deny.as_ref().or(expect.single.as_ref());
    match statuses {
        Some(statuses) if !statuses.contains(&told.status.unwrap_or(0)) => {
            Err(format!("the status is {:?} and not one of {statuses:?}", told.status))
        }
        _ => Ok(()),
    }
}

fn judge(
    entrance: Entrance,
    send: &Send,
    expect: &Expect,
    told: &Told,
    new: &New,
    before: usize,
    injects: bool,
) -> Result<(), String> {
    leaks_nothing(told, new)?;
    let own: Vec<&String> = new.requests.iter().skip(before).map(|(_, request)| request).collect();
    if expect.deny.is_some() {
        is_denied(expect, told, new, own.len(), before)?;
    } else if let Some(statuses) = &expect.allow {
        if !told.status.is_some_and(|status| statuses.contains(&status)) {
            return Err(format!(
                "the status is {:?} and not one of {statuses:?}: {:.200}",
                told.status,
                told.text()
            ));
        }
        is_passed_on(send, entrance, &own, new, injects)?;
    } else if told.is_refusal() {
        // A refusal that came from the good server is a request that was passed on.
        if own.len() > 1 {
            return Err(format!("{} requests arrived", own.len()));
        }
    } else {
        is_passed_on(send, entrance, &own, new, injects)?;
    }
    let sent = own.iter().map(|request| request.to_lowercase()).collect::<String>();
    contains(&sent, &expect.sent, true, "what was sent")?;
    contains(&sent, &expect.not_sent, false, "what was sent")?;
    contains(&told.text().to_lowercase(), &expect.told, true, "what was told")?;
    contains(&told.text().to_lowercase(), &expect.not_told, false, "what was told")
}

fn is_denied(expect: &Expect, told: &Told, new: &New, own: usize, before: usize) -> Result<(), String> {
    if told.ended == Ended::Hung {
        return Err("neither an answer nor an end".to_owned());
    }
    if !told.is_refusal() {
        return Err(format!("it was answered with {:?}: {:.200}", told.status, told.text()));
    }
    let connections = new.connections.len().saturating_sub(before);
    match expect.upstream {
        Upstream::None if connections > 0 || own > 0 => {
            return Err(format!("a connection was opened to {:?}, {own} requests sent", new.connections));
        }
        Upstream::Handshake if !new.bytes.is_empty() => {
            return Err("bytes of a request were sent".to_owned());
        }
        _ => {}
    }
    if new.connections.iter().any(|(address, _)| *address != GOOD) {
        return Err(format!("a connection was opened to {:?}", new.connections));
    }
    asks_for_nothing_denied(new)
}

/// The client's own address, which Squid looks up: that says nothing to anybody.
const OWN_ADDRESS: &str = "1.0.0.127.in-addr.arpa";

fn asks_for_nothing_denied(new: &New) -> Result<(), String> {
    let is_named = |name: &String| {
        NAMED.iter().any(|known| name == known || (known.starts_with('.') && name.ends_with(known)))
    };
    match new.questions.iter().find(|name| !is_named(name) && *name != OWN_ADDRESS) {
        Some(name) => Err(format!("the name server was asked for {name}")),
        None => Ok(()),
    }
}

/// Once, to the right place, and with the credential where there is one.
fn is_passed_on(
    send: &Send,
    entrance: Entrance,
    own: &[&String],
    new: &New,
    injects: bool,
) -> Result<(), String> {
    let wanted = usize::from(entrance != Entrance::Dns);
    if own.len() != wanted {
        return Err(format!("{} requests arrived", own.len()));
    }
    let is_strange = |to: &&(std::net::IpAddr, u16)| to.0 != GOOD || !matches!(to.1, 80 | 443);
    if let Some(stranger) = new.connections.iter().find(is_strange) {
        return Err(format!("a connection was opened to {stranger:?}"));
    }
    if injects {
        own.iter().try_for_each(|request| is_injected(send, entrance, request))?;
    }
    Ok(())
}

/// The credential stands in the request exactly once, where there is one.
fn is_injected(send: &Send, entrance: Entrance, request: &str) -> Result<(), String> {
    let usual =
        if entrance == Entrance::TransparentHttp { "plain.good.test:80" } else { "api.good.test:443" };
    let name = send.to.as_deref().unwrap_or(usual).to_lowercase();
    let keyed = is_for_the_keys_host(request) || name.starts_with("api.good.test");
    let (count, wanted) = (request.matches(secret::REAL).count(), usize::from(keyed));
    if count == wanted { Ok(()) } else { Err(format!("the credential was sent {count} times, not {wanted}")) }
}

/// Whether a request names the credential's host, with its port or without.
fn is_for_the_keys_host(request: &str) -> bool {
    let request = request.to_lowercase();
    ["", ":443"].iter().any(|port| request.contains(&format!("host: api.good.test{port}\r\n")))
}

/// No spelling of the secret where it must not be, whatever the vector is about.
fn leaks_nothing(told: &Told, new: &New) -> Result<(), String> {
    let spelling = secret::found_in(&told.bytes).or_else(|| secret::found_in(told.text().as_bytes()));
    if let Some(spelling) = spelling {
        return Err(format!("the client was told the secret, as {spelling}"));
    }
    for (to, _) in new.bytes.iter().filter(|(_, bytes)| secret::found_in(bytes).is_some()) {
        if to.ip() != GOOD {
            return Err(format!("{to} was sent the secret"));
        }
        if to.port() != 443 {
            return Err("the secret was sent in plaintext".to_owned());
        }
    }
    let keyless = |request: &str| !is_for_the_keys_host(request);
    if new.requests.iter().any(|(_, request)| keyless(request) && request.contains(secret::REAL)) {
        return Err("a request that does not name its host has the secret".to_owned());
    }
    Ok(())
}

fn contains(text: &str, all: &[String], wanted: bool, what: &str) -> Result<(), String> {
    let found = |part: &&String| text.contains(&secret::filled_in(part).to_lowercase()) != wanted;
    match all.iter().find(found) {
        Some(part) if wanted => Err(format!("{part:?} is not in {what}: {text:.300}")),
        Some(part) => Err(format!("{part:?} is in {what}")),
        None => Ok(()),
    }
}

/// Whether our proxy must have refused it itself.
fn is_refused(expect: &Expect) -> bool {
    expect.deny.is_some() && expect.upstream == Upstream::None
}

/// How many decisions of the expected kind our proxy's counters know of. One that does not answer knows of none.
async fn decided(expect: &Expect) -> u64 {
    let ask = async {
        let mut io = TcpStream::connect(OUR_ADMIN).await?;
        io.write_all(b"GET /metrics HTTP/1.1\r\nhost: proxy\r\n\r\n").await?;
        let mut text = String::new();
        io.read_to_string(&mut text).await.map(|_| text)
    };
    let text: std::io::Result<String> = ask.await;
    let decision = if is_refused(expect) { "decision=\"deny\"" } else { "decision=\"allow\"" };
    let reason = expect.reason.as_ref().map_or_else(String::new, |reason| format!("reason=\"{reason}\""));
    let lines = text.unwrap_or_default();
    let counts = lines.lines().filter(|line| line.contains(decision) && line.contains(&reason));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests;
