//! Bodies that are on their way when the rule or the credential ends that allowed them. Time is paused here and passes in small steps.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::entrances::to;
use crate::last_event::{asks, rest};
use crate::times::small_steps;
use crate::upstream::Behaviour;
use crate::world::{Setup, World, build, get, over_http1, standalone};

const RULE: &str = "methods: [GET, POST], paths: ['/v1/**'], credential: good, websocket: Allow}";
/// Longer than it takes to look at a document, and then at what is under way.
const LOOKED: Duration = Duration::from_millis(1600);

#[tokio::test(start_paused = true)]
async fn p_c5_an_answer_ends_with_the_rule_or_the_credential_that_allowed_it_and_with_no_other_change() {
    small_steps();
    for (edited, reason) in [
        (
            "methods: [GET, POST], paths: ['/v2/**'], credential: good, websocket: Allow}",
            Some("PathNotAllowed"),
        ),
        ("methods: [GET, POST], paths: ['/v1/**'], websocket: Allow}", Some("CredentialScope")),
        ("methods: [GET], paths: ['/v1/**'], credential: good}", None),
    ] {
        for upstream in ["h2", "http/1.1"] {
            let world = standalone(&[upstream]).await;
            let io = TokioIo::new(to(&world, Entrance::HttpProxy).await);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let asked = get(&world.url("/v1/pieces"), &world.authority());
            let mut body = sender.send_request(asked).await.unwrap().into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, "data: first\n\n");
            world.edit(|document| document.replace(RULE, edited)).await;
            if reason.is_none() {
                sleep(LOOKED).await;
                world.finish.notify_one();
                let rest = body.collect().await.unwrap().to_bytes();
                assert_eq!(rest, "data: last\n\n", "{upstream}");
                continue;
            }
            // It is silent: nothing has to pass for it to end.
            let ended = timeout(Duration::from_secs(30), body.frame()).await.unwrap();
            assert!(ended.unwrap().is_err(), "{edited} {upstream}: an end that looks whole");
            let line = world.line(&[("event", "end")]).await;
            assert_eq!(line["reason"].as_str(), reason, "{edited} {upstream}");
            assert_eq!(line["lastEvent"].as_bool(), None, "{edited} {upstream}");
        }
    }
}

/// An upload on its way, of which the first piece has arrived.
pub struct Uploading {
    pub world: World,
    /// What the upstream was sent so far.
    pub took: Arc<Mutex<Vec<u8>>>,
    /// The agent's connection. The body goes on with the next chunk.
    pub io: TcpStream,
}

/// An upload to an upstream that answers it once it has ended.
pub async fn uploading() -> Uploading {
    let took = Arc::<Mutex<Vec<u8>>>::default();
    let taken = Arc::clone(&took);
    let behaviour = Behaviour::new(move |mut io| {
        let taken = Arc::clone(&taken);
        async move {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = io.read(&mut buffer).await {
                taken.lock().unwrap().extend_from_slice(&buffer[..read]);
                if taken.lock().unwrap().ends_with(b"0\r\n\r\n") {
                    let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        }
    });
    let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
    let world = build(setup).await;
    let mut io = to(&world, Entrance::HttpProxy).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    while !took.lock().unwrap().windows(5).any(|bytes| bytes == b"first") {
        tokio::task::yield_now().await;
    }
    Uploading { world, took, io }
}

#[tokio::test(start_paused = true)]
async fn p_c5_an_upload_ends_with_the_rule_that_allowed_it_and_with_no_other_change() {
    small_steps();
    for (edited, status) in [
        ("methods: [GET], paths: ['/v1/**'], credential: good, websocket: Allow}", "403"),
        ("methods: [GET, POST], paths: ['/v1/**'], credential: good}", "200"),
    ] {
        let Uploading { world, took, mut io } = uploading().await;
        world.edit(|document| document.replace(RULE, edited)).await;
        sleep(LOOKED).await;
        let _ = io.write_all(b"4\r\nlast\r\n0\r\n\r\n").await;
        let mut told = Vec::new();
        let _ = timeout(Duration::from_secs(30), io.read_to_end(&mut told)).await.unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{edited}: {told}");
        let is_sent = took.lock().unwrap().windows(4).any(|bytes| bytes == b"last");
        assert_eq!(is_sent, status == "200", "{edited}");
        let line = world.line(&[("event", "end")]).await;
        let reason = (status == "403").then_some("MethodNotAllowed");
        assert_eq!(line["reason"].as_str(), reason, "{edited}: {line}");
    }
}

/// An upstream that answers without end under `/v1`, and in two words elsewhere; and two counters: of the pieces that it could send, and of
/// the endless answers that were ended.
fn flooding(kind: &'static str) -> (Behaviour, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (sent, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counters = (Arc::clone(&sent), Arc::clone(&ended));
    let behaviour = Behaviour::new(move |mut io| {
        let (sent, ended) = counters.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = io.read_u8().await else { return };
                head.push(byte);
            }
            if !head.starts_with(b"GET /v1/") {
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                return drop(io.read_u8().await);
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
            let _ = io.write_all(head.as_bytes()).await;
            let piece = format!("data: {}\n\n", "x".repeat(1000));
            while io.write_all(piece.as_bytes()).await.is_ok() {
                sent.fetch_add(1, Ordering::SeqCst);
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    (behaviour, sent, ended)
}

/// Waits until no more can be sent.
async fn rests(sent: &AtomicUsize) {
    let (mut before, mut turns) = (0, 0);
    while turns < 25 {
        sleep(Duration::from_millis(20)).await;
        let now = sent.load(Ordering::SeqCst);
        turns = if now > 0 && now == before { turns + 1 } else { 0 };
        before = now;
    }
}

#[tokio::test(start_paused = true)]
async fn p_c5_an_answer_that_nobody_reads_ends_with_its_rule_and_leaves_its_place_to_the_next() {
    small_steps();
    for agent in ["h2", "http/1.1"] {
        for (kind, in_order) in [("text/event-stream", true), ("text/plain", false)] {
            let (behaviour, sent, ended) = flooding(kind);
            let world = build(Setup {
                protocols: vec!["http/1.1"],
                behaviour: Some(behaviour),
                upstream_connections_max: Some(1),
                ..Setup::default()
            });
            let world = world.await;
            let mut body = asks(&world, agent, "/v1/x").await.into_body();
            rests(&sent).await;
            let elsewhere = "methods: [GET, POST], paths: ['/v2/**'], credential: good, websocket: Allow}";
            world.edit(|document| document.replace(RULE, elsewhere)).await;
            let line = world.line(&[("event", "end"), ("path", "/v1/x")]).await;
            assert_eq!(line["reason"], "PathNotAllowed", "{agent} {kind}");
            assert_eq!(line["lastEvent"].as_bool(), in_order.then_some(true), "{agent} {kind}");
            let is_cut = async {
                while ended.load(Ordering::SeqCst) == 0 {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            assert!(timeout(Duration::from_secs(10), is_cut).await.is_ok(), "{agent} {kind}: it is open");
            let next = get(&world.url("/v2/x"), &world.authority());
            let next = over_http1(to(&world, Entrance::HttpProxy).await, next).await;
            assert_eq!((next.status, next.body.as_str()), (StatusCode::OK, "ok"), "{agent} {kind}");
            // As it reads again it has what had passed, and learns of the stop.
            let (text, is_whole) = rest(&mut body).await;
            assert_eq!(is_whole, in_order, "{agent} {kind}");
            assert_eq!(
                text.contains("event: error\ndata: {\"reason\":\"PathNotAllowed\""),
                in_order,
                "{agent}"
            );
        }
    }
}
