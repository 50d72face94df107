//! Everything that acts on the store, in one queue: what is due first is done first, one thing in each virtual millisecond.
//! When something is due, and what goes first of two that are due at once, follows from the seed and from what the thing
//! is, never from the order in which it was put in: two tasks of the operator may be polled in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::actors::{self, Step};
use crate::faults::{Asked, Fate, Faults, hash};
use crate::invariants::Invariants;
use crate::serve::{Call, told};
use crate::store::{Refusal, Store, text};
use crate::watches::{Chunk, Watch};

mod watching;

/// What an asker hears.
pub enum Answer {
    /// A status, seconds of `Retry-After`, a body.
    Whole(u16, Option<u64>, Bytes),
    /// A status, and a body that comes piece by piece.
    Stream(u16, mpsc::UnboundedReceiver<Chunk>),
    /// A status, and a body without end.
    Endless(u16),
    /// The connection was reset.
    Broken,
}

/// A request that has arrived.
pub struct Pending {
    process: u64,
    call: Result<Call, Refusal>,
    line: String,
    repeats: u64,
    query: String,
    to: oneshot::Sender<Answer>,
    /// What has delayed it.
    delayed: Option<Fate>,
}

enum Action {
    Request(Box<Pending>),
    Reply(oneshot::Sender<Answer>, Answer),
    Bring(u64, Bytes),
    Bookmark(u64),
    End(u64),
    Step(Step),
    User(Box<dyn FnOnce(&mut Store) + Send>),
}

/// What was asked, and what it came to: an HTTP status, or none where nothing was answered.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request.
    pub asked: Asked,
    /// Which process asked.
    pub process: u64,
    /// HTTP status.
    pub code: Option<u16>,
    /// The body that came with it.
    pub body: serde_json::Value,
    /// Whether it is a server-side apply.
    pub applies: bool,
}

/// The world.
pub struct World {
    /// What the API server keeps.
    pub store: Store,
    /// What goes wrong.
    pub faults: Box<dyn Faults>,
    /// Every request, in the order in which the server came to it.
    pub outcomes: Vec<Outcome>,
    /// What was violated, each with its revision.
    pub violations: Vec<String>,
    /// The processes that are dead.
    pub dead: BTreeSet<u64>,
    /// A process whose requests with this in their line are never answered from a virtual millisecond on.
    pub cut: Option<(u64, String, u64)>,
    /// How the kubelet goes about its pods.
    pub node: actors::Node,
    invariants: Invariants,
    seed: u64,
    start: Instant,
    epoch: Timestamp,
    queue: BTreeMap<(u64, u64, u64), Action>,
    put: u64,
    watches: BTreeMap<u64, Watch>,
    opened: u64,
    repeats: BTreeMap<String, u64>,
    seen: usize,
    /// Connections on which nothing ever comes.
    silent: Vec<oneshot::Sender<Answer>>,
    /// A line for each request and each revision, if they are kept.
    pub lines: Option<Vec<String>>,
}

/// A world that is shared by those who act in it.
#[derive(Clone)]
pub struct Shared {
    world: Arc<Mutex<World>>,
    /// Something was put into the queue.
    pub put: Arc<Notify>,
    /// A process died.
    pub died: Arc<Notify>,
}

impl Shared {
    /// A world whose store was filled by `fill`.
    pub fn new(seed: u64, faults: Box<dyn Faults>, fill: impl FnOnce(&mut Store)) -> Self {
        let epoch: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let mut store = Store::new(epoch);
        fill(&mut store);
        let mut world = World {
            store,
            faults,
            outcomes: Vec::new(),
            violations: Vec::new(),
            dead: BTreeSet::new(),
            cut: None,
            node: actors::Node::default(),
            invariants: Invariants::default(),
            seed,
            start: Instant::now(),
            epoch,
            queue: BTreeMap::new(),
            put: 0,
            watches: BTreeMap::new(),
            opened: 0,
            repeats: BTreeMap::new(),
            seen: 0,
            silent: Vec::new(),
            lines: None,
        };
        world.look();
        let (world, put, died) = (Arc::new(Mutex::new(world)), Arc::default(), Arc::default());
        Self { world, put, died }
    }

    /// The world, for as long as nothing is awaited.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due, for ever.
    pub async fn turn(self) {
        let mut last = 0;
        loop {
            let due = self.world().queue.first_key_value().map(|((due, ..), _)| *due);
            let Some(due) = due else {
                self.put.notified().await;
                continue;
            };
            let at = self.world().start + Duration::from_millis(due.max(last + 1));
            tokio::select! {
                biased;
                () = self.put.notified() => {}
                () = tokio::time::sleep_until(at) => {
                    let mut world = self.world();
                    last = world.millis();
                    let dead = world.dead.len();
                    world.one();
                    if world.dead.len() > dead {
                        self.died.notify_one();
                    }
                }
            }
        }
    }

    /// Changes the store now, as somebody.
    pub fn act<T>(&self, by: &'static str, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut world = self.world();
        let now = world.now();
        world.store.acting(by, now);
        let result = change(&mut world.store);
        world.look();
        drop(world);
        self.put.notify_one();
        result
    }

    /// Changes the store at a virtual millisecond, as a user.
    pub fn at(&self, due: u64, change: impl FnOnce(&mut Store) + Send + 'static) {
        self.world().enqueue(due, "user", Action::User(Box::new(change)));
        self.put.notify_one();
    }

    /// A request arrives.
    pub fn arrive(&self, process: u64, call: Result<Call, Refusal>, to: oneshot::Sender<Answer>) {
        self.world().arrive(process, call, to);
        self.put.notify_one();
    }
}

impl World {
    /// Virtual milliseconds since the world began.
    pub fn millis(&self) -> u64 {
        u64::try_from((Instant::now() - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// The time that everybody's wall clock shows.
    pub fn now(&self) -> Timestamp {
        self.epoch + SignedDuration::from_millis(i64::try_from(self.millis()).unwrap_or_default())
    }

    fn note(&mut self, text: &str) {
        let text = format!("{} {text}\n", self.millis());
        self.lines.iter_mut().for_each(|lines| lines.push(text.clone()));
    }

    fn enqueue(&mut self, due: u64, what: &str, action: Action) {
        self.put += 1;
        self.queue.insert((due, hash(self.seed, what), self.put), action);
    }

    /// Puts a step of an actor into the queue.
    pub fn step_in(&mut self, millis: u64, step: Step) {
        let what = format!("{step:?}");
        let draw = hash(self.seed, &what) % 7;
        self.enqueue(self.millis() + 1 + millis + draw, &what, Action::Step(step));
    }

    fn arrive(&mut self, process: u64, call: Result<Call, Refusal>, to: oneshot::Sender<Answer>) {
        // Its tasks may be polled once more before they are taken away.
        if self.dead.contains(&process) {
            return self.silent.push(to);
        }
        let (line, query) = match &call {
            Ok(call) => {
                let query = call.query.iter().filter(|(key, _)| key != "resourceVersion");
                (
                    call.line(),
                    query.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&"),
                )
            }
            Err(refusal) => (refusal.message.clone(), String::new()),
        };
        let what = format!("{process} {line} {query}");
        let count = self.repeats.entry(what.clone()).or_default();
        *count += 1;
        let what = format!("{what} {count}");
        let pending = Pending { process, call, line, repeats: *count, query, to, delayed: None };
        let due = self.millis() + 1 + hash(self.seed ^ 1, &what) % 4;
        self.enqueue(due, &what, Action::Request(Box::new(pending)));
    }

    fn one(&mut self) {
        let now = self.millis();
        if self.queue.first_key_value().is_none_or(|((due, ..), _)| *due > now) {
            return;
        }
        let Some((_, action)) = self.queue.pop_first() else { return };
        let time = self.now();
        match action {
            Action::Request(pending) => {
                self.store.acting("operator", time);
                self.serve(*pending);
            }
            // Nobody may listen any more.
            Action::Reply(to, answer) => drop(to.send(answer)),
            Action::Bring(id, bytes) => self.bring(id, bytes),
            Action::Bookmark(id) => self.bookmark(id),
            Action::End(id) => drop(self.watches.remove(&id)),
            Action::Step(step) => {
                self.store.acting("cluster", time);
                actors::take(self, step);
            }
            Action::User(change) => {
                self.store.acting("user", time);
                change(&mut self.store);
            }
        }
        self.look();
    }

    fn serve(&mut self, mut pending: Pending) {
        if matches!(pending.delayed, Some(Fate::Held(_))) && pending.to.is_canceled() {
            return;
        }
        let number = self.outcomes.len() as u64;
        let asked = Asked {
            number,
            at: self.millis(),
            line: pending.line.clone(),
            repeats: pending.repeats,
            namespace: pending.call.as_ref().map(|call| call.namespace.clone()).unwrap_or_default(),
            query: pending.query.clone(),
        };
        let cut = self.cut.as_ref().is_some_and(|(process, what, from)| {
            *process == pending.process && asked.line.contains(what) && asked.at >= *from
        });
        let fate = match (cut, pending.delayed) {
            (true, _) => Fate::Silence,
            (false, Some(_)) => Fate::Serve,
            (false, None) => self.faults.request(&asked),
        };
        if let Fate::Slow(millis) | Fate::Held(millis) = fate {
            pending.delayed = Some(fate);
            let what = format!("{} {} {}", pending.process, pending.line, pending.repeats);
            return self.enqueue(self.millis() + 1 + millis, &what, Action::Request(Box::new(pending)));
        }
        let body = pending.call.as_ref().map(|call| call.body.clone()).unwrap_or_default();
        let applies = pending.call.as_ref().is_ok_and(|call| call.content_type.contains("apply-patch"));
        let (process, query) = (pending.process, pending.query.clone());
        let code = self.carry_out(pending, fate);
        if self.lines.is_some() {
            let told = told(&body);
            self.note(&format!("{process} {} {query} {fate:?} {code:?} {told}", asked.line));
        }
        self.outcomes.push(Outcome { asked, process, code, body, applies });
    }

    /// Lets a request come to its fate; answers with the status that is heard.
    fn carry_out(&mut self, pending: Pending, fate: Fate) -> Option<u16> {
        let Pending { process, call, to, .. } = pending;
        match fate {
            Fate::CrashBefore => {
                self.dead.insert(process);
                return None;
            }
            Fate::Reset => {
                self.reply(to, Answer::Broken);
                return None;
            }
            Fate::Silence => {
                self.silent.push(to);
                return None;
            }
            Fate::Refuse(code, retry_after) => {
                let reason = if code == 409 { "Conflict" } else { "InternalError" };
                let refusal = Refusal::new(code, reason, "the server refuses for a while");
                self.reply(to, Answer::Whole(code, retry_after, Bytes::from(refusal.body().to_string())));
                return Some(code);
            }
            Fate::Deny => {
                let refusal = Refusal::new(403, "Forbidden", "User \"operator\" cannot do that");
                self.reply(to, Answer::Whole(403, None, Bytes::from(refusal.body().to_string())));
                return Some(403);
            }
            _ => {}
        }
        if let Ok(call) = &call
            && call.is_watch()
        {
            return self.open(call.clone(), to, fate);
        }
        let mut answer = || call.clone().and_then(|call| call.answer(&mut self.store));
        let first = answer();
        if fate == Fate::Duplicate {
            let _ = answer();
        }
        let (code, body) = first.unwrap_or_else(|refusal| (refusal.code, refusal.body()));
        let bytes = Bytes::from(body.to_string());
        match fate {
            Fate::Lose => self.reply(to, Answer::Broken),
            Fate::LoseSilently => self.silent.push(to),
            Fate::CrashAfter => {
                self.dead.insert(process);
            }
            Fate::Cut => {
                let (half, parts) = mpsc::unbounded();
                let _ = half.unbounded_send(Ok(bytes.slice(..bytes.len() / 2)));
                let _ = half.unbounded_send(Err(std::io::ErrorKind::ConnectionReset.into()));
                self.reply(to, Answer::Stream(code, parts));
            }
            Fate::Endless => self.reply(to, Answer::Endless(code)),
            _ => {
                self.reply(to, Answer::Whole(code, None, bytes));
                return Some(code);
            }
        }
        None
    }

    fn reply(&mut self, to: oneshot::Sender<Answer>, answer: Answer) {
        let number = self.outcomes.len();
        let due = self.millis() + 1 + hash(self.seed ^ 2, &number.to_string()) % 3;
        self.enqueue(due, &format!("reply {number}"), Action::Reply(to, answer));
    }

    /// Looks at each revision that is new: whether it breaks an invariant, and who is to be told.
    fn look(&mut self) {
        while let Some(revision) = self.store.log.get(self.seen).cloned() {
            self.seen += 1;
            let (kind, number) = (revision.kind.plural, revision.number);
            if self.lines.is_some() {
                let name = if kind == "events" { "" } else { text(&revision.object, "/metadata/name") };
                self.note(&format!("{number} {} {:?} {kind}/{name}", revision.by, revision.change));
            }
            let broken = self.invariants.look(&self.store, &revision);
            self.violations.extend(broken.into_iter().map(|what| format!("revision {number}: {what}")));
            let of_kind = self.watches.iter().filter(|(_, watch)| watch.call.kind == revision.kind);
            let ids: Vec<u64> = of_kind.map(|(id, _)| *id).collect();
            for id in ids {
                self.tell(id, &revision);
            }
            actors::react(self, &revision);
        }
    }

    /// What is violated now, when nothing happens any more.
    pub fn at_rest(&mut self) -> Vec<String> {
        let now = self.now();
        let mut all = std::mem::take(&mut self.violations);
        all.extend(self.invariants.at_rest(&self.store, now));
        all
    }

    /// When something was last changed by anybody, in virtual milliseconds since the world began.
    pub fn last_change(&self) -> u64 {
        let last = self.store.log.last().map_or(self.epoch, |revision| revision.at);
        u64::try_from(last.duration_since(self.epoch).as_millis()).unwrap_or_default()
    }
}
