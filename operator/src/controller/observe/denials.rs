//! What proxies have denied, and when something last passed through them. A proxy has no Kubernetes token and can tell nobody, so the
//! operator asks each one's admin port, which that proxy's wall opens to the operator alone. What was denied is counted and shown; nothing
//! is decided by it. That nothing passes may end a sandbox ([`idle`]).

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::PORT_ADMIN;
use agentsandbox_policy::{Host, SecretError, TALLY_KINDS_MAX, Tally, UnusableCredential};
use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedSender;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio::net::TcpStream;

use super::activity::Activities;
use super::{Stores, address, ready_since};
use crate::clock::Clock;
use crate::controller::accept::Identity;
use crate::controller::desired::Component;
use crate::controller::life::idle;
use crate::controller::memory::Memory;
use crate::controller::plan::is_owned;
use crate::controller::template;

/// How often each proxy is asked: soon enough for somebody who waits for a denial to show, and one small request.
const INTERVAL: Duration = Duration::from_secs(15);
/// A proxy answers from memory; one that does not is asked again in the next round.
const PATIENCE: Duration = Duration::from_secs(2);
/// Proxies asked at the same time.
const AT_ONCE: usize = 16;
/// A whole tally is well below this.
const TALLY_BYTES_MAX: usize = 32 * 1024;
/// A policy document holds no more credentials and client certificates.
const UNUSABLE_MAX: usize = 128;
/// Longest name of an AgentCredential.
const NAME_BYTES_MAX: usize = 63;
/// Longest reason that is shown.
const REASON_BYTES_MAX: usize = 64;

/// The latest answer of each sandbox's proxy, by the sandbox's UID.
#[derive(Debug, Default)]
pub struct Denials {
    answers: Mutex<HashMap<String, Answer>>,
    /// Proxies are asked at all.
    asked: AtomicBool,
    /// Sandboxes whose proxy did not answer in the last round.
    unheard: Mutex<BTreeSet<String>>,
    /// The API server drops what it is told, as one does that has the kind's schema of an earlier release.
    dropped: AtomicBool,
    /// What proxies say of when something last passed.
    pub activities: Activities,
}

/// What one proxy said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    /// UID of its pod: what it said of its secrets does not hold for the next one.
    pod: String,
    tally: Tally,
}

/// What is known of the secrets of a proxy that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It held them all when it became ready, and is not asked since.
    NotAsked,
    /// It is asked again and again, and lacks these.
    AllBut(Vec<UnusableCredential>),
}

/// Why a proxy's tally is not known. It is asked again, so this is for the log only.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("the proxy cannot be reached")]
    Connect(#[from] std::io::Error),
    #[error("the proxy did not answer in HTTP")]
    Http(#[from] hyper::Error),
    #[error("the proxy's answer is too long or broken off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the proxy answered with {0}")]
    Status(StatusCode),
    #[error("the proxy's answer is no tally")]
    Json(#[from] serde_json::Error),
    #[error("another sandbox's proxy answered")]
    AnotherSandbox,
    #[error("the proxy did not answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

impl Denials {
    /// What is known of a sandbox's proxy.
    #[must_use]
    pub fn of(&self, sandbox_uid: &str) -> Option<Tally> {
        if self.dropped.load(Ordering::Relaxed) {
            return None;
        }
        self.all().get(sandbox_uid).map(|answer| answer.tally.clone())
    }

    /// What is known of the secrets that this pod of a sandbox's proxy holds. Until it has answered, it lacks none: it could not be
    /// ready.
    #[must_use]
    pub fn held(&self, sandbox_uid: &str, proxy: Option<&Pod>) -> Held {
        if !self.asked.load(Ordering::Relaxed) {
            return Held::NotAsked;
        }
        let all = self.all();
        let uid = proxy.and_then(ResourceExt::uid).unwrap_or_default();
        match all.get(sandbox_uid).filter(|answer| answer.pod == uid) {
            Some(Answer { tally: Tally { unusable: None, .. }, .. }) => Held::NotAsked,
            Some(answer) => Held::AllBut(answer.tally.unusable.clone().unwrap_or_default()),
            None => Held::AllBut(Vec::new()),
        }
    }

    /// What was told is not in the API server's answer, so telling it again would never end.
    pub fn are_not_kept(&self) {
        if !self.dropped.swap(true, Ordering::Relaxed) {
            tracing::warn!("the API server drops status.egress: install the CRDs of this release");
        }
    }

    /// Tells when a proxy is not heard any more, and when it is again.
    fn heard(&self, sandbox: &AgentSandbox, error: Option<&Unknown>) {
        let uid = sandbox.uid().unwrap_or_default();
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if error.is_some() { unheard.insert(uid) } else { unheard.remove(&uid) };
        if changed {
            tracing::warn!(
                sandbox.namespace = sandbox.namespace(),
                sandbox.name = sandbox.name_any(),
                error = error.map(|error| crate::controller::chain(error)),
                "whether its proxy says what it denied has changed"
            );
        }
    }

    /// Takes in an answer; whether it is news. That time has passed is none. Of one that does not say how long nothing has passed, as that of
    /// an earlier release, nothing is known.
    fn learn(&self, sandbox: &AgentSandbox, pod: &Pod, mut tally: Tally, now: Timestamp) -> bool {
        if let Some(idle) = tally.idle.take() {
            self.activities.learn(sandbox, idle, now);
        }
        self.tells(&sandbox.uid().unwrap_or_default(), pod, tally)
    }

    fn tells(&self, sandbox_uid: &str, pod: &Pod, tally: Tally) -> bool {
        let answer = Answer { pod: pod.uid().unwrap_or_default(), tally };
        self.all().insert(sandbox_uid.to_owned(), answer.clone()).as_ref() != Some(&answer)
    }

    /// Forgets all sandboxes but these.
    fn keep(&self, sandbox_uids: &BTreeSet<String>) {
        self.all().retain(|uid, _| sandbox_uids.contains(uid));
        self.activities.keep(sandbox_uids);
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid| sandbox_uids.contains(uid));
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all proxies again and again, and wakes each sandbox of which there is news. Never returns by itself.
pub async fn follow(
    stores: Stores,
    (denials, memory): (Arc<Denials>, Arc<Memory>),
    clock: Clock,
    wake: UnboundedSender<ObjectRef<AgentSandbox>>,
) {
    denials.asked.store(true, Ordering::Relaxed);
    loop {
        tokio::time::sleep(INTERVAL).await;
        round(&stores, &denials, PORT_ADMIN, &clock, &wake).await;
        wake_idle(&stores, (&denials, &memory), &clock, &wake);
    }
}

/// Wakes each sandbox that was idle for too long, or of whose idleness there is something to tell.
fn wake_idle(
    stores: &Stores,
    (denials, memory): (&Denials, &Memory),
    clock: &Clock,
    wake: &UnboundedSender<ObjectRef<AgentSandbox>>,
) {
    let now = clock.now();
    let all = stores.sandboxes.state();
    for sandbox in all.iter().filter_map(|sandbox| template::idling(stores, sandbox)) {
        let uid = sandbox.uid().unwrap_or_default();
        let pod = own_pod(stores, &sandbox, Component::Agent);
        let agent = pod.as_ref().map(|pod| (pod, memory.began(&uid, Some(pod), now)));
        if idle::is_news(&sandbox, agent, denials.activities.of(&uid)) {
            // Nobody is there to be woken once the controller has ended.
            let _ = wake.unbounded_send(ObjectRef::from_obj(sandbox.as_ref()));
        }
    }
}

/// Asks each proxy once.
async fn round(
    stores: &Stores,
    denials: &Denials,
    port: u16,
    clock: &Clock,
    wake: &UnboundedSender<ObjectRef<AgentSandbox>>,
) {
    let sandboxes = stores.sandboxes.state();
    denials.keep(&sandboxes.iter().filter_map(|sandbox| sandbox.uid()).collect());
    let proxies = sandboxes.iter().filter_map(|sandbox| Some((sandbox, proxy(stores, sandbox)?)));
    futures::stream::iter(proxies)
        .for_each_concurrent(AT_ONCE, async |(sandbox, pod)| {
            let Some(address) = address(&pod) else { return };
            let uid = sandbox.uid().unwrap_or_default();
            let answer = ask(SocketAddr::new(address, port), &uid).await;
            denials.heard(sandbox, answer.as_ref().err());
            let learns = |tally| {
                let idling = template::idling(stores, sandbox);
                denials.learn(idling.as_ref().unwrap_or(sandbox), &pod, tally, clock.now())
            };
            if answer.is_ok_and(learns) {
                // Nobody is there to be woken once the controller has ended, and then this ends too.
                let _ = wake.unbounded_send(ObjectRef::from_obj(sandbox.as_ref()));
            }
        })
        .await;
}

/// The pod of a sandbox's proxy, by its name and its owner. A pod that was made up to look like one can lie about numbers, and about
/// whether its sandbox is idle, which whoever makes it could delete; it cannot have the operator ask a node.
fn proxy(stores: &Stores, sandbox: &AgentSandbox) -> Option<Pod> {
    let pod = own_pod(stores, sandbox, Component::Proxy)?;
    let on_the_node = pod.spec.as_ref().is_none_or(|spec| spec.host_network == Some(true));
    (!on_the_node && ready_since(&pod).is_some()).then_some(pod)
}

/// A pod of a sandbox, by its name and its owner.
fn own_pod(stores: &Stores, sandbox: &AgentSandbox, component: Component) -> Option<Pod> {
    let identity = Identity::of(sandbox)?;
    let name = component.name(&identity);
    let pod = stores.pods.get(&identity.namespace, &name)?;
    is_owned(pod.meta(), &identity).then_some(pod)
}

async fn ask(admin: SocketAddr, sandbox_uid: &str) -> Result<Tally, Unknown> {
    let tally = tokio::time::timeout(PATIENCE, exchange(admin)).await??;
    // Addresses are dealt anew, and a watch may be behind.
    if tally.sandbox != sandbox_uid {
        return Err(Unknown::AnotherSandbox);
    }
    Ok(tally)
}

async fn exchange(admin: SocketAddr) -> Result<Tally, Unknown> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/denials");
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("proxy"));
    let asked = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(Unknown::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), TALLY_BYTES_MAX).collect().await;
        Ok(bounded(serde_json::from_slice(&body.map_err(Unknown::Body)?.to_bytes())?))
    };
    let mut asked = Box::pin(asked);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // The server closes after its answer, which may still have to be read.
        _ = connection => asked.await,
    }
}

/// What the kind's schema takes and is fit to be shown, whatever the proxy says.
fn bounded(mut tally: Tally) -> Tally {
    tally.denied = tally.denied.min(u64::try_from(i64::MAX).unwrap_or(0));
    let is_host = |host: &String| Host::parse(host).is_ok_and(|parsed| parsed.as_str() == host);
    tally.latest.retain(|kind| {
        kind.host.as_ref().is_none_or(is_host)
            && kind.reason.len() <= REASON_BYTES_MAX
            && kind.reason.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    tally.latest.truncate(TALLY_KINDS_MAX);
    let is_plain = |text: &str, bytes_max: usize| {
        (1..=bytes_max).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    };
    if let Some(unusable) = &mut tally.unusable {
        unusable.retain(|one| {
            is_plain(&one.name, NAME_BYTES_MAX)
                && matches!(one.reason.as_str(), "CredentialMissing" | "CredentialMalformed")
        });
        unusable.truncate(UNUSABLE_MAX);
        for one in unusable {
            one.error = one.error.take().filter(|error| SecretError::named(error).is_some());
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::controller::desired::Child;
    use crate::fixtures;

    /// A proxy that answers each connection with these bytes.
    async fn answering(answer: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let read = io.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /denials HTTP/1.1\r\n"));
                let _ = io.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn told(denied: &str, latest: &str) -> String {
        ok(&format!(r#"{{"sandbox":"{}","denied":{denied},"latest":[{latest}]}}"#, fixtures::UID))
    }

    const KIND: &str = r#"{"host":"a.test","port":443,"reason":"HostNotAllowed","count":3}"#;

    /// The sandboxes that are woken by one round, and what is known then.
    async fn after(children: &[Child], answer: String, rounds: usize) -> (usize, Option<Tally>) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let port = answering(answer).await;
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let ctx = fixtures::ctx(client, &fixtures::sandbox(|_| ()), children, &[]);
        let (wake, woken) = futures::channel::mpsc::unbounded();
        for _ in 0..rounds {
            round(&ctx.stores, &ctx.denials, port, &ctx.clock, &wake).await;
        }
        drop(wake);
        (woken.count().await, ctx.denials.of(fixtures::UID))
    }

    fn own() -> Vec<Child> {
        vec![Child::Pod(Box::new(fixtures::proxy_pod("127.0.0.1")))]
    }

    #[tokio::test]
    async fn news_of_a_proxy_wakes_its_sandbox_once() {
        let (woken, tally) = after(&own(), told("3", KIND), 3).await;
        assert_eq!((woken, tally.map(|tally| tally.denied)), (1, Some(3)));
        let (woken, tally) = after(&own(), told("0", ""), 1).await;
        assert_eq!(tally.map(|tally| tally.denied), Some(0));
        assert_eq!(woken, 1, "it wakes once to find that there is nothing to tell");
    }

    #[tokio::test]
    async fn nobody_is_asked_in_place_of_a_proxy() {
        type Change = fn(&mut Pod);
        let changes: [Change; 3] = [
            |pod| pod.metadata.owner_references = None,
            |pod| pod.spec.as_mut().unwrap().host_network = Some(true),
            |pod| pod.metadata.name = Some("another".to_owned()),
        ];
        for change in changes {
            let mut pod = fixtures::proxy_pod("127.0.0.1");
            change(&mut pod);
            assert_eq!(after(&[Child::Pod(Box::new(pod))], told("3", KIND), 1).await, (0, None));
        }
    }

    #[tokio::test]
    async fn o_n8_the_answer_of_another_sandboxs_proxy_is_dropped() {
        let answer = ok(&format!(r#"{{"sandbox":"another","denied":3,"latest":[{KIND}]}}"#));
        assert_eq!(after(&own(), answer, 1).await, (0, None));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_tally_says_nothing_and_one_without_end_is_cut_off() {
        for answer in [
            "HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "SSH-2.0-x\r\n".to_owned(),
            ok("[]"),
            told(&format!("{}3", " ".repeat(TALLY_BYTES_MAX)), KIND),
        ] {
            assert_eq!(after(&own(), answer.clone(), 1).await, (0, None), "{answer:.40}");
        }
    }

    #[tokio::test]
    async fn what_is_not_fit_to_be_shown_is_left_out() {
        let long = "x".repeat(300);
        let kinds = [
            format!(r#"{{"host":"{long}","reason":"A","count":1}}"#),
            format!(r#"{{"reason":"{long}","count":1}}"#),
            r#"{"host":"a.test\u001b[2J","reason":"C","count":1}"#.to_owned(),
            r#"{"reason":"D\nE","count":1}"#.to_owned(),
            r#"{"host":"a.test","reason":"B","count":1}"#.to_owned(),
        ];
        let tally = after(&own(), told("18446744073709551615", &kinds.join(",")), 1).await.1.unwrap();
        assert_eq!(tally.denied, u64::try_from(i64::MAX).unwrap());
        assert_eq!(tally.latest.iter().map(|kind| kind.reason.as_str()).collect::<Vec<_>>(), ["B"]);
    }

    #[test]
    fn of_a_proxy_that_does_not_say_how_long_nothing_has_passed_nothing_is_known() {
        let (denials, sandbox, pod) =
            (Denials::default(), fixtures::sandbox(|_| ()), fixtures::proxy_pod("127.0.0.1"));
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        for _ in 0..3 {
            denials.learn(&sandbox, &pod, Tally::default(), now);
            assert_eq!(denials.activities.of(fixtures::UID), None);
        }
        let idle = Some(agentsandbox_policy::Idle { seconds: 60, has_passed: true });
        denials.learn(&sandbox, &pod, Tally { idle, ..Tally::default() }, now);
        assert!(denials.activities.of(fixtures::UID).is_some(), "the control");
    }

    fn lacks(name: &str, reason: &str) -> String {
        ok(&format!(
            r#"{{"sandbox":"{}","denied":0,"latest":[],"unusable":[{{"name":"{name}","reason":"{reason}"}}]}}"#,
            fixtures::UID
        ))
    }

    /// What is known of the proxy's secrets after one round, if proxies are asked.
    async fn held_after(answer: String, pod: &Pod) -> Held {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let port = answering(answer).await;
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let ctx = fixtures::ctx(client, &fixtures::sandbox(|_| ()), &own(), &[]);
        assert_eq!(ctx.denials.held(fixtures::UID, Some(pod)), Held::NotAsked);
        ctx.denials.asked.store(true, Ordering::Relaxed);
        assert_eq!(ctx.denials.held(fixtures::UID, Some(pod)), Held::AllBut(Vec::new()));
        round(&ctx.stores, &ctx.denials, port, &ctx.clock, &futures::channel::mpsc::unbounded().0).await;
        ctx.denials.held(fixtures::UID, Some(pod))
    }

    #[tokio::test]
    async fn o_h26_a_proxy_that_lost_a_secret_says_which_and_one_of_an_earlier_release_says_nothing() {
        let pod = fixtures::proxy_pod("127.0.0.1");
        let lost = UnusableCredential {
            name: "anthropic".to_owned(),
            reason: "CredentialMissing".to_owned(),
            error: None,
        };
        let answer = lacks("anthropic", "CredentialMissing");
        assert_eq!(held_after(answer.clone(), &pod).await, Held::AllBut(vec![lost]));
        let mut next = pod.clone();
        next.metadata.uid = Some("another".to_owned());
        assert_eq!(held_after(answer, &next).await, Held::AllBut(Vec::new()), "another pod, other secrets");
        assert_eq!(held_after(told("3", KIND), &pod).await, Held::NotAsked);
        for unfit in [lacks("a b", "CredentialMissing"), lacks("anthropic", "Because")] {
            assert_eq!(held_after(unfit, &pod).await, Held::AllBut(Vec::new()), "it is not fit to be shown");
        }
        for (error, is_known) in [("Empty", true), ("<b>", false)] {
            let answer = lacks("anthropic", &format!(r#"CredentialMalformed","error":"{error}"#));
            let Held::AllBut(lacks) = held_after(answer, &pod).await else { unreachable!() };
            assert_eq!(lacks[0].error.as_deref(), is_known.then_some(error));
        }
    }

    #[tokio::test]
    async fn that_time_passes_is_no_news_and_a_sandbox_is_woken_when_it_is_idle_for_too_long() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let woken_by = async |seconds: u64| {
            let told = format!(
                r#"{{"sandbox":"{}","denied":0,"latest":[],"idle":{{"seconds":{seconds},"hasPassed":true}}}}"#,
                fixtures::UID
            );
            let port = answering(ok(&told)).await;
            let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
            let client = kube::Client::try_from(config).unwrap();
            let sandbox = fixtures::sandbox(|sandbox| {
                sandbox.spec.lifecycle = Some(fixtures::from(serde_json::json!({"idleTimeout": "1h"})));
            });
            let mut children = own();
            children.push(Child::Pod(Box::new(fixtures::agent_pod())));
            let ctx = fixtures::ctx(client, &sandbox, &children, &[]);
            let (wake, woken) = futures::channel::mpsc::unbounded();
            round(&ctx.stores, &ctx.denials, port, &ctx.clock, &wake).await;
            round(&ctx.stores, &ctx.denials, port, &ctx.clock, &wake).await;
            assert_eq!(ctx.denials.of(fixtures::UID).unwrap().idle, None, "it is kept apart");
            let (wake_idle_too, woken_idle) = futures::channel::mpsc::unbounded();
            wake_idle(&ctx.stores, (&ctx.denials, &ctx.memory), &ctx.clock, &wake_idle_too);
            drop((wake, wake_idle_too));
            (woken.count().await, woken_idle.count().await)
        };
        assert_eq!(woken_by(10).await, (1, 0), "the first answer is news, and no other");
        assert_eq!(woken_by(3600).await, (1, 1));
    }

    #[tokio::test]
    async fn of_a_sandbox_that_is_gone_nothing_is_kept_and_of_one_that_is_there_all_is() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let ctx = fixtures::ctx(
            kube::Client::try_from(config).unwrap(),
            &fixtures::sandbox(|_| ()),
            &[Child::Pod(Box::new(fixtures::proxy_pod("127.0.0.1")))],
            &[],
        );
        for uid in [fixtures::UID, "gone"] {
            ctx.denials.tells(uid, &Pod::default(), Tally::default());
            let sandbox = fixtures::sandbox(|sandbox| sandbox.metadata.uid = Some(uid.to_owned()));
            ctx.denials.activities.learn(
                &sandbox,
                agentsandbox_policy::Idle { seconds: 7, has_passed: true },
                ctx.clock.now(),
            );
            ctx.denials.heard(&sandbox, Some(&Unknown::AnotherSandbox));
        }
        // Nobody answers at this port, so what the round itself learns is nothing.
        round(&ctx.stores, &ctx.denials, 1, &ctx.clock, &futures::channel::mpsc::unbounded().0).await;
        let unheard = ctx.denials.unheard.lock().unwrap().clone();
        for (uid, is_there) in [(fixtures::UID, true), ("gone", false)] {
            assert_eq!(ctx.denials.of(uid).is_some(), is_there, "{uid}");
            assert_eq!(ctx.denials.activities.of(uid).is_some(), is_there, "{uid}");
            assert_eq!(unheard.contains(uid), is_there, "{uid}");
        }
    }

    #[test]
    fn what_the_api_server_drops_is_not_told_again() {
        let denials = Denials::default();
        denials.tells("u", &Pod::default(), Tally::default());
        assert!(denials.of("u").is_some());
        denials.are_not_kept();
        assert_eq!(denials.of("u"), None);
    }
}
