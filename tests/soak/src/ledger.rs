//! What was asked, what arrived, what was written down and what was told, each judged the moment it is known.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentsandbox_conformance::vector::Entrance;
use tokio::sync::Notify;

use crate::keys::{Leaks, Slot};
use crate::plan::{Ask, Place, Policy, Verdict};
use crate::timeline::{Began, Span, Timeline};

/// Reasons for which an allowed request fails.
pub const OF_UPSTREAM: [&str; 2] = ["UpstreamUnreachable", "AnswerBroken"];
/// Of a credential whose file is deleted.
pub const NO_SECRET: &str = "CredentialUnavailable";
/// Of a request that waited for its upstream while its policy was replaced, or its secret again and again: it is not sent.
const OVERTAKEN: &str = "Overtaken";
/// What is told of a request that goes on under a rule with another credential.
const OTHER_SECRET: &str = "CredentialScope";

/// What became of a request, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The upstream's answer, whole and for this request.
    Served,
    /// A refusal, for this reason.
    Denied(String),
    /// No whole answer.
    Broken(String),
    /// It was not sent, for its connection had ended.
    Nothing,
}

/// A request.
#[derive(Clone, Debug)]
struct Asked {
    ask: Ask,
    entrance: Entrance,
    began: Began,
    begun: bool,
    arrived: Option<u32>,
    /// How often.
    arrivals: u32,
    /// The reason in its `end`.
    end: Option<String>,
    /// It was cut off with its rule, if its `end` has one of these reasons.
    revoked: Vec<&'static str>,
    /// The reason for which it was refused. Where it had begun, its rule went while its answer was awaited, and its `end` says so.
    refused: Option<String>,
}

/// Counts of one row of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Answered by the upstream.
    pub served: u64,
    /// Refused.
    pub denied: u64,
    /// Failed as the upstream did.
    pub failed: u64,
    /// Not sent, or cut off, for what it was judged by had been replaced meanwhile.
    pub overtaken: u64,
}

impl Row {
    /// Adds the counts of another.
    pub const fn add(&mut self, other: Self) {
        self.served += other.served;
        self.denied += other.denied;
        self.failed += other.failed;
        self.overtaken += other.overtaken;
    }
}

/// How a request came, and what it was.
pub type Kind = (Entrance, &'static str);

/// Shared by all who see something.
pub struct Ledger {
    /// What the policies depend on.
    pub seed: u64,
    /// What may be in force.
    pub timeline: Timeline,
    /// Finds secrets.
    pub leaks: Leaks,
    book: Mutex<Book>,
    /// Told of the first wrong thing.
    pub wrong: Notify,
}

#[derive(Default)]
struct Book {
    next: u64,
    asked: HashMap<u64, Asked>,
    rows: BTreeMap<Kind, Row>,
    /// Requests that began, by the id in the audit trail, and have not ended.
    open: HashMap<String, u64>,
    /// Refusals of the proxy's own by entrance, as the audit trail calls it: told, and written down.
    refusals: BTreeMap<String, Refusals>,
    first_wrong: Option<String>,
}

/// How many refusals there were, by those who were refused and by the audit trail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Refusals {
    told: u64,
    written: u64,
}

/// A line of the audit trail about one request.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// `begin`, `end` or `deny`.
    pub event: &'a str,
    /// The proxy's id.
    pub request_id: &'a str,
    /// The entrance.
    pub entrance: &'a str,
    /// The host.
    pub host: &'a str,
    /// The credential.
    pub credential: Option<&'a str>,
    /// The reason.
    pub reason: Option<&'a str>,
    /// The number of the policy.
    pub generation: u32,
}

impl Ledger {
    /// Empty.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (timeline, leaks, wrong) = (Timeline::default(), Leaks::default(), Notify::new());
        Self { seed, timeline, leaks, book: Mutex::default(), wrong }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong; the first is kept.
    pub fn accuse(&self, what: impl Display) {
        self.book().first_wrong.get_or_insert_with(|| what.to_string());
        self.wrong.notify_one();
    }

    /// The first wrong thing.
    #[must_use]
    pub fn first_wrong(&self) -> Option<String> {
        self.book().first_wrong.clone()
    }

    /// The counts.
    #[must_use]
    pub fn rows(&self) -> BTreeMap<Kind, Row> {
        self.book().rows.clone()
    }

    /// A request is about to be sent: its number.
    #[must_use]
    pub fn asks(&self, entrance: Entrance, ask: Ask) -> u64 {
        let began = self.timeline.begin();
        let mut book = self.book();
        book.next += 1;
        let number = book.next;
        let (begun, arrived, arrivals, end, revoked, refused) = (false, None, 0, None, Vec::new(), None);
        let asked = Asked { ask, entrance, began, begun, arrived, arrivals, end, revoked, refused };
        book.asked.insert(number, asked);
        number
    }

    /// These bytes came to an agent, to a host that no secret is for, or to a log: a secret in them is a leak.
    pub fn search(&self, bytes: &[u8], whose: impl Display) {
        if let Some(spelling) = self.leaks.find(bytes) {
            self.accuse(format_args!("a secret, spelled as {spelling}, is in {whose}"));
        }
    }

    /// A request is at the upstream, with this in the places of secrets: a version of one, or something else.
    pub fn arrives(&self, number: u64, host: &str, secrets: &[(Slot, Option<u32>)]) {
        let asked = self.book().asked.get(&number).cloned();
        let Some(asked) = asked else {
            return self.accuse(format_args!("request {number} arrived at {host}, and nobody sent it"));
        };
        let span = self.timeline.since(&asked.began);
        // Once more, where its first connection may have ended under it and twice is no more than once.
        let most = 1 + u32::from(asked.ask.method != "POST" && self.timeline.may_have_failed(&asked.began));
        if let Err(why) = arrival(self.seed, (&asked, most), &span, host, secrets) {
            return self
                .accuse(format_args!("request {number} arrived at {host} {why}: {asked:?}, {span:?}"));
        }
        let version = secrets.first().and_then(|(_, version)| *version).unwrap_or_default();
        if let Some(entry) = self.book().asked.get_mut(&number) {
            entry.arrived = Some(version);
            entry.arrivals += 1;
        }
    }

    /// The version of the secret with which a request arrived, if it did.
    #[must_use]
    pub fn arrived(&self, number: u64) -> Option<u32> {
        self.book().asked.get(&number)?.arrived
    }

    /// A line about a request.
    pub fn writes(&self, number: u64, line: &Written<'_>) {
        let mut book = self.book();
        let Some(asked) = book.asked.get_mut(&number) else {
            drop(book);
            return self.accuse(format_args!("the audit trail has request {number}, which nobody sent"));
        };
        let newest = self.timeline.policy.newest();
        let mut judged = written(self.seed, asked, newest, line);
        asked.begun |= line.event == "begin";
        if line.event == "end" {
            asked.end = line.reason.map(str::to_owned);
        }
        let asked = asked.clone();
        match line.event {
            "begin" if book.open.insert(line.request_id.to_owned(), number).is_some() => {
                judged = Err("begins twice".to_owned());
            }
            "end" if book.open.remove(line.request_id) != Some(number) => {
                judged = Err("ends and had not begun".to_owned());
            }
            _ => {}
        }
        drop(book);
        if let Err(why) = judged {
            self.accuse(format_args!("an audit line of request {number} {why}: {line:?}, {asked:?}"));
        }
    }

    /// What its client was told.
    pub fn told(&self, number: u64, kind: &'static str, told: &Told) {
        let asked = self.book().asked.get(&number).cloned();
        let Some(asked) = asked else { return };
        let span = self.timeline.since(&asked.began);
        let excused = self.timeline.may_have_failed(&asked.began);
        match answer(self.seed, &asked, &span, excused, told) {
            Ok(count) => {
                if matches!(told, Told::Broken(_)) && !excused {
                    let revoked = revocations(self.seed, &asked.ask, &span);
                    self.book().asked.entry(number).and_modify(|asked| asked.revoked = revoked);
                }
                count(self.book().rows.entry((asked.entrance, kind)).or_default());
                if let Told::Denied(reason) = told
                    && !is_of_allowed(reason)
                {
                    self.book().asked.entry(number).and_modify(|asked| asked.refused = Some(reason.clone()));
                }
            }
            Err(why) => {
                self.accuse(format_args!("request {number} {why}: {told:?}, {asked:?}, {span:?}"));
            }
        }
    }

    /// A tunnel or TLS connection was opened to this place, or refused.
    pub fn opens(&self, began: &Began, entrance: Entrance, place: Place, opened: Result<(), &str>) {
        let span = self.timeline.since(began);
        let mut admits = policies(self.seed, &span).map(|policy| policy.admits(place));
        let is_right = admits.any(|admits| admits == opened.is_ok());
        if !is_right {
            return self.accuse(format_args!("a tunnel to {place:?} by {entrance:?}: {opened:?}, {span:?}"));
        }
        let mut book = self.book();
        let row = book.rows.entry((entrance, "tunnel")).or_default();
        if opened.is_ok() {
            row.served += 1
        } else {
            row.denied += 1
        }
        drop(book);
        if opened.is_err() {
            self.refused(entrance);
        }
    }

    /// Something that came in here was refused, and its client knows.
    pub fn refused(&self, entrance: Entrance) {
        self.book().refusals.entry(in_audit(entrance).to_owned()).or_default().told += 1;
    }

    /// The audit trail tells of so many refusals in one line.
    pub fn writes_refusals(&self, entrance: &str, count: u64) {
        self.book().refusals.entry(entrance.to_owned()).or_default().written += count;
    }

    /// What can only be judged once everything has ended.
    pub fn close(&self) {
        let mut book = self.book();
        // What had begun has its refusal in its end.
        let refused = book.asked.values().filter(|asked| asked.refused.is_some() && !asked.begun);
        let entrances: Vec<_> = refused.map(|asked| in_audit(asked.entrance)).collect();
        for entrance in entrances {
            book.refusals.entry(entrance.to_owned()).or_default().told += 1;
        }
        let open = book.open.values().next().copied();
        let unwritten = book.asked.iter().find(|(_, asked)| asked.arrived.is_some() && !asked.begun);
        let unwritten = unwritten.map(|(number, asked)| format!("{number}, {asked:?}"));
        let cut = book.asked.iter().find(|(_, asked)| {
            let end = asked.end.as_deref().unwrap_or_default();
            let was_refused = asked.begun && asked.refused.as_deref().is_some_and(|reason| reason != end);
            was_refused || !asked.revoked.is_empty() && !asked.revoked.contains(&end)
        });
        let cut = cut.map(|(number, asked)| format!("{number}, {asked:?}"));
        let miscounted = book.refusals.iter().find(|(_, refusals)| refusals.told != refusals.written);
        let miscounted = miscounted.map(|(entrance, refusals)| format!("{entrance}: {refusals:?}"));
        drop(book);
        if let Some(what) = miscounted {
            self.accuse(format_args!(
                "the audit trail has another number of refusals than were told by {what}"
            ));
        }
        if let Some(number) = open {
            self.accuse(format_args!("request {number} began in the audit trail and never ended"));
        }
        if let Some(which) = unwritten {
            self.accuse(format_args!("a request was sent that the audit trail does not have: {which}"));
        }
        if let Some(which) = cut {
            self.accuse(format_args!("an answer or a WebSocket was cut off, and not with its rule: {which}"));
        }
    }
}

/// Whether a reason is told of requests that were allowed: none of them has a line of refusal.
#[must_use]
pub fn is_of_allowed(reason: &str) -> bool {
    reason == OVERTAKEN || OF_UPSTREAM.contains(&reason)
}

fn policies(seed: u64, span: &Span) -> impl Iterator<Item = Policy> {
    (span.policy.0..=span.policy.1).map(move |number| Policy::of(seed, number))
}

/// Everything that may rightly become of a request: with a secret of these versions, or without one, or refused.
fn outcomes(seed: u64, ask: &Ask, span: &Span) -> Vec<Verdict> {
    let one = |verdict: Verdict| {
        let Verdict::Allow(Some(slot)) = verdict else { return vec![verdict] };
        let (first, last) = span.secret(slot);
        let is_there = |version| slot.value(version).is_some();
        let some = (first..=last).any(is_there).then_some(verdict);
        let none = (first..=last).any(|version| !is_there(version)).then_some(Verdict::Deny(NO_SECRET));
        some.into_iter().chain(none).collect()
    };
    policies(seed, span).flat_map(|policy| one(policy.verdict(ask))).collect()
}

/// Why a request that one of these policies allowed had to end under a later one, if it was still on its way; none where it had not.
fn revocations(seed: u64, ask: &Ask, span: &Span) -> Vec<&'static str> {
    let mut allowed = None;
    let revoked = policies(seed, span).map(|policy| match (policy.verdict(ask), allowed) {
        (Verdict::Deny(reason), Some(_)) => Some(reason),
        (Verdict::Allow(slot), Some(before)) if slot != before => Some(OTHER_SECRET),
        (Verdict::Allow(slot), _) => {
            allowed = Some(slot);
            None
        }
        (Verdict::Deny(_), None) => None,
    });
    revoked.flatten().collect()
}

fn arrival(
    seed: u64,
    (asked, most): (&Asked, u32),
    span: &Span,
    host: &str,
    secrets: &[(Slot, Option<u32>)],
) -> Result<(), String> {
    if asked.arrivals >= most {
        return Err("once too often".to_owned());
    }
    if host != asked.ask.place.host() {
        return Err(format!("and was for {}", asked.ask.place.host()));
    }
    let has = match secrets {
        [] => None,
        [(slot, Some(version))] => {
            let (first, last) = span.secret(*slot);
            if !(first..=last).contains(version) {
                return Err(format!("with version {version} of the secret"));
            }
            Some(*slot)
        }
        _ => return Err(format!("with {secrets:?}")),
    };
    if outcomes(seed, &asked.ask, span).contains(&Verdict::Allow(has)) {
        return Ok(());
    }
    Err(format!("with {has:?}, which no policy allows"))
}

fn written(seed: u64, asked: &Asked, newest: u32, line: &Written<'_>) -> Result<(), String> {
    let now = asked.began.policy(newest);
    if !(now.0..=now.1).contains(&line.generation) {
        return Err("is of a policy that was not in force".to_owned());
    }
    if line.entrance != in_audit(asked.entrance) {
        return Err("has another entrance".to_owned());
    }
    let expected = Policy::of(seed, line.generation).verdict(&asked.ask);
    let is_right = match (line.event, expected) {
        ("begin" | "end", Verdict::Allow(slot)) => {
            line.credential == slot.map(Slot::name) && line.host == asked.ask.place.host()
        }
        ("deny", Verdict::Allow(Some(_))) => line.reason == Some(NO_SECRET),
        ("deny", Verdict::Deny(reason)) => line.reason == Some(reason),
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("should say {expected:?}")) }
}

type Count = fn(&mut Row);

fn answer(seed: u64, asked: &Asked, span: &Span, excused: bool, told: &Told) -> Result<Count, String> {
    let right = outcomes(seed, &asked.ask, span);
    let allows = right.iter().any(|verdict| matches!(verdict, Verdict::Allow(_)));
    match told {
        Told::Served if !allows => Err("was served, which no policy allows".to_owned()),
        Told::Served if asked.arrived.is_none() => Err("was served, and nothing arrived".to_owned()),
        Told::Served => Ok(|row| row.served += 1),
        // No policy denies for this reason: it is told of what had begun, and may be told before what was sent has been looked at.
        Told::Denied(reason)
            if (asked.arrived.is_some() || reason == OTHER_SECRET)
                && revocations(seed, &asked.ask, span).contains(&reason.as_str()) =>
        {
            Ok(|row| row.overtaken += 1)
        }
        Told::Denied(reason) if right.iter().any(|v| matches!(v, Verdict::Deny(r) if r == reason)) => {
            match asked.arrived {
                None => Ok(|row| row.denied += 1),
                Some(_) => Err("was denied, and arrived".to_owned()),
            }
        }
        Told::Denied(reason) if allows && excused && OF_UPSTREAM.contains(&reason.as_str()) => {
            Ok(|row| row.failed += 1)
        }
        Told::Denied(reason)
            if allows && reason == OVERTAKEN && span.changes() && asked.arrived.is_none() =>
        {
            Ok(|row| row.overtaken += 1)
        }
        Told::Denied(_) => Err("was denied, which no policy says".to_owned()),
        Told::Broken(_) if allows && excused => Ok(|row| row.failed += 1),
        Told::Broken(_) if asked.arrived.is_some() && !revocations(seed, &asked.ask, span).is_empty() => {
            Ok(|row| row.overtaken += 1)
        }
        Told::Broken(_) => Err("was not answered".to_owned()),
        Told::Nothing => Ok(|_| {}),
    }
}

/// How the audit trail calls an entrance.
const fn in_audit(entrance: Entrance) -> &'static str {
    match entrance {
        Entrance::Absolute | Entrance::Connect | Entrance::ConnectH2 => "http-proxy",
        Entrance::Socks5 => "socks5",
        Entrance::BaseUrl => "base-url",
        Entrance::TransparentTls => "transparent-tls",
        Entrance::TransparentHttp => "transparent-http",
        Entrance::Dns => "dns",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests;
