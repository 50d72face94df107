//! Requests whose connection ends before anything of an answer is there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::LOST_REQUEST_AGE_MAX;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Semaphore};

use crate::entrances::to;
use crate::upstream::{Behaviour, behaving, identity, listen};
use crate::world::{Answer, HOST, KEY, Setup, World, build, get, over_http1};

/// Of each request that an upstream saw: its connection, its method and path, and whether it had the key.
type Seen = Arc<Mutex<Vec<(usize, String, bool)>>>;

/// An upstream that ends its connection, politely or not, in place of an answer to what is asked for `/v1/gone`, and to what is
/// asked for `/v1/lost` or `/v1/late` on a connection that was used before.
#[derive(Clone)]
struct Forgetful {
    seen: Seen,
    /// What is asked for `/v1/both` is answered twice at a time.
    both: Arc<Barrier>,
    /// Somebody waits for `/v1/late`.
    waits: Arc<Semaphore>,
    /// It may end.
    ends: Arc<Semaphore>,
}

impl Forgetful {
    fn new() -> Self {
        let none = || Arc::new(Semaphore::new(0));
        Self { seen: Seen::default(), both: Arc::new(Barrier::new(2)), waits: none(), ends: none() }
    }

    fn behaviour(&self, politely: bool) -> Behaviour {
        let (this, number) = (self.clone(), AtomicUsize::new(0));
        Behaviour::new(move |mut io| {
            let (this, number) = (this.clone(), number.fetch_add(1, Ordering::SeqCst));
            async move {
                for is_used in std::iter::once(false).chain(std::iter::repeat(true)) {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = io.read_u8().await else { return };
                        head.push(byte);
                    }
                    if !this.answers(number, &String::from_utf8(head).unwrap(), is_used).await {
                        if politely {
                            let _ = io.shutdown().await;
                        }
                        return;
                    }
                    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
        })
    }

    async fn answers(&self, connection: usize, head: &str, is_used: bool) -> bool {
        let asked = head.split(" HTTP").next().unwrap();
        self.seen.lock().unwrap().push((connection, asked.to_owned(), head.contains(KEY)));
        match asked.rsplit('/').next().unwrap() {
            "gone" => false,
            "lost" => !is_used,
            "late" if is_used => {
                self.waits.add_permits(1);
                self.ends.acquire().await.unwrap().forget();
                false
            }
            "both" => {
                self.both.wait().await;
                true
            }
            _ => true,
        }
    }
}

async fn ask(world: &World, method: &str, path: &str, body: &'static str) -> StatusCode {
    let authority = world.authority();
    let request = Request::builder().method(method).uri(world.url(path)).header("host", authority);
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    let answer = over_http1(to(world, Entrance::HttpProxy).await, request).await;
    // A connection is free again once its answer was read to the end, a few turns of the scheduler later.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    answer.status
}

async fn world(politely: bool) -> (World, Forgetful) {
    world_with(politely, ("methods: [GET, POST]", "methods: [GET, OPTIONS, POST, PUT, DELETE]")).await
}

/// The same with this change of the policy document.
async fn world_with(politely: bool, change: (&'static str, &'static str)) -> (World, Forgetful) {
    let upstream = Forgetful::new();
    let (behaviour, policy) = (upstream.behaviour(politely), vec![change]);
    let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), policy, ..Setup::default() };
    (build(setup).await, upstream)
}

/// What came of this on a kept connection, and on which connections it was seen.
async fn on_kept(method: &str, path: &str, body: &'static str, politely: bool) -> (StatusCode, Vec<usize>) {
    let (world, upstream) = world(politely).await;
    assert_eq!(ask(&world, "GET", "/v1/x", "").await, StatusCode::OK);
    let status = ask(&world, method, path, body).await;
    let mut seen = upstream.seen.lock().unwrap().clone();
    assert_eq!(seen.remove(0), (0, "GET /v1/x".to_owned(), true));
    assert!(
        seen.iter().all(|(_, asked, has_key)| *asked == format!("{method} {path}") && *has_key),
        "{seen:?}"
    );
    let line = world.line(&[("event", "end"), ("path", path)]).await;
    assert_eq!(line["host"], HOST);
    assert_eq!(line["resent"].as_bool(), (seen.len() > 1).then_some(true), "{line}");
    let begun = world.lines().iter().filter(|line| line["event"] == "begin" && line["path"] == path).count();
    assert_eq!(begun, 1, "under one permit");
    (status, seen.into_iter().map(|(number, ..)| number).collect())
}

#[tokio::test]
async fn a_request_whose_kept_connection_ends_under_it_is_sent_once_more_if_it_only_asks() {
    for politely in [false, true] {
        for method in ["GET", "OPTIONS"] {
            let came = on_kept(method, "/v1/lost", "", politely).await;
            assert_eq!(came, (StatusCode::OK, vec![0, 1]), "{method} {politely}");
            let came = on_kept(method, "/v1/gone", "", politely).await;
            assert_eq!(came, (StatusCode::BAD_GATEWAY, vec![0, 1]), "{method} {politely}: and no third time");
        }
    }
}

#[tokio::test]
async fn a_request_that_may_have_done_something_or_has_a_body_is_sent_once_though_its_connection_ends() {
    for politely in [false, true] {
        for (method, body) in
            [("POST", ""), ("POST", "x"), ("PUT", ""), ("PUT", "x"), ("DELETE", ""), ("DELETE", "x")]
        {
            let came = on_kept(method, "/v1/lost", body, politely).await;
            assert_eq!(came, (StatusCode::BAD_GATEWAY, vec![0]), "{method} {body} {politely}");
        }
    }
}

#[tokio::test]
async fn p_i4_what_is_sent_once_more_needs_no_place_beside_the_one_it_has_lost() {
    let upstream = Forgetful::new();
    let setup = Setup {
        protocols: vec!["http/1.1"],
        behaviour: Some(upstream.behaviour(true)),
        upstream_connections_max: Some(1),
        ..Setup::default()
    };
    let world = build(setup).await;
    assert_eq!(ask(&world, "GET", "/v1/x", "").await, StatusCode::OK);
    assert_eq!(ask(&world, "GET", "/v1/lost", "").await, StatusCode::OK);
    let seen: Vec<_> = upstream.seen.lock().unwrap().iter().map(|(number, ..)| *number).collect();
    assert_eq!(seen, [0, 0, 1], "each on the only connection there is");
}

#[tokio::test]
async fn a_request_whose_new_connection_ends_under_it_is_sent_once() {
    let (world, upstream) = world(true).await;
    assert_eq!(ask(&world, "GET", "/v1/gone", "").await, StatusCode::BAD_GATEWAY);
    assert_eq!(*upstream.seen.lock().unwrap(), [(0, "GET /v1/gone".to_owned(), true)]);
}

#[tokio::test]
async fn what_is_sent_once_more_goes_on_no_other_kept_connection() {
    let (world, upstream) = world(true).await;
    let both = || ask(&world, "GET", "/v1/both", "");
    assert_eq!(tokio::join!(both(), both()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(ask(&world, "GET", "/v1/lost", "").await, StatusCode::OK);
    let seen = upstream.seen.lock().unwrap().clone();
    let lost: Vec<_> = seen.iter().filter(|(_, asked, _)| asked.ends_with("/lost")).collect();
    assert_eq!((lost.len(), lost[1].0), (2, 2), "on a third connection: {seen:?}");
}

/// A request for `/v1/late` that is with the upstream.
async fn asked_late(world: &World, upstream: &Forgetful) -> tokio::task::JoinHandle<Answer> {
    assert_eq!(ask(world, "GET", "/v1/x", "").await, StatusCode::OK);
    let request = Request::get(world.url("/v1/late")).header("host", world.authority());
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let io = to(world, Entrance::HttpProxy).await;
    let asked = tokio::spawn(over_http1(io, request));
    upstream.waits.acquire().await.unwrap().forget();
    asked
}

#[tokio::test]
async fn what_a_server_was_at_work_on_is_not_sent_once_more() {
    for (is_old, status, times) in [(false, StatusCode::OK, 2), (true, StatusCode::BAD_GATEWAY, 1)] {
        let (world, upstream) = world(true).await;
        let asked = asked_late(&world, &upstream).await;
        if is_old {
            tokio::time::pause();
            tokio::time::advance(LOST_REQUEST_AGE_MAX + Duration::from_millis(1)).await;
            tokio::time::resume();
        }
        upstream.ends.add_permits(1);
        assert_eq!(asked.await.unwrap().status, status, "{is_old}");
        assert_eq!(upstream.seen.lock().unwrap().len(), 1 + times);
    }
}

#[tokio::test]
async fn p_f9_a_server_that_nobody_vouches_for_is_told_as_that_also_where_a_request_is_to_be_sent_once_more()
{
    let upstream = Forgetful::new();
    let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("host: {HOST}, ports: [{}]", near.local_addr().unwrap().port());
    let rule = format!("- {{name: near, {at}, scheme: https, paths: ['/v1/**']}}\ncredentials:\n").leak();
    let behaviour = Some(upstream.behaviour(true));
    let policy = vec![("credentials:\n", &*rule)];
    let setup = Setup { protocols: vec!["http/1.1"], behaviour, policy, ..Setup::default() };
    let world = build(setup).await;
    let (other, other_address) = listen().await;
    let (acceptor, _) = identity(&["http/1.1"], HOST, None);
    behaving(other, acceptor, Arc::default(), upstream.behaviour(true));
    let port = near.local_addr().unwrap().port();
    let first = world.upstream;
    tokio::spawn(async move {
        for address in std::iter::once(first).chain(std::iter::repeat(other_address)) {
            let (mut near, _) = near.accept().await.unwrap();
            let mut far = TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let asked = async |path: &str| {
        let authority = format!("{HOST}:{port}");
        let request = get(&format!("https://{authority}{path}"), &authority);
        let answer = over_http1(to(&world, Entrance::HttpProxy).await, request).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        answer
    };
    assert_eq!(asked("/v1/x").await.status, StatusCode::OK);
    let answer = asked("/v1/lost").await;
    assert!(answer.body.contains("UpstreamUntrusted"), "{} {}", answer.status, answer.body);
    assert_eq!(upstream.seen.lock().unwrap().len(), 2, "nothing was said to the other");
}

#[tokio::test]
async fn a_new_secret_that_does_not_fit_its_place_does_not_make_a_request_unsent() {
    let cookie = ("{type: Header, name: x-api-key}", "{type: Cookie, name: sid}");
    let (world, upstream) = world_with(true, cookie).await;
    let asked = asked_late(&world, &upstream).await;
    world.rotate_to("a;b", 1).await;
    upstream.ends.add_permits(1);
    let answer = asked.await.unwrap();
    assert!(answer.body.contains("UpstreamUnreachable"), "{} {}", answer.status, answer.body);
    assert_eq!(upstream.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_may_not_be_sent_once_more_is_not_said_to_be_unsent() {
    let (world, upstream) = world(true).await;
    let asked = asked_late(&world, &upstream).await;
    world.edit(|policy| policy.replace("/v1/", "/v2/")).await;
    upstream.ends.add_permits(1);
    let answer = asked.await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.body.contains("UpstreamUnreachable"), "{}", answer.body);
    let line = world.line(&[("event", "end"), ("path", "/v1/late")]).await;
    assert!(line.get("resent").is_none() && upstream.seen.lock().unwrap().len() == 2, "{line}");
}

#[tokio::test]
async fn p_g3_a_head_that_is_sent_again_counts_again_and_is_not_sent_where_there_is_no_room() {
    for (bytes, status, times) in [(3_000, StatusCode::OK, 2), (6_000, StatusCode::BAD_GATEWAY, 1)] {
        let limited = ("websocket: Allow}", "websocket: Allow, limits: {uploadBytes: 10000}}");
        let (world, upstream) = world_with(true, limited).await;
        assert_eq!(ask(&world, "GET", "/v1/x", "").await, StatusCode::OK);
        let request = Request::get(world.url("/v1/lost")).header("host", world.authority());
        let request = request.header("x-data", "x".repeat(bytes)).body(Full::default()).unwrap();
        let answer = over_http1(to(&world, Entrance::HttpProxy).await, request).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(upstream.seen.lock().unwrap().len(), 1 + times);
        let line = world.line(&[("event", "end"), ("path", "/v1/lost")]).await;
        let said = (line["decision"].as_str(), line["reason"].as_str());
        let why = (times == 1).then_some("UpstreamUnreachable");
        assert_eq!(said, (Some("allow"), why), "it went out once, and the server is at fault: {line}");
    }
}
