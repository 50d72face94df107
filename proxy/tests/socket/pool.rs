//! Which requests share a connection to an upstream, and what becomes of one that comes back or was handed on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::entrances::{denied, injected, to};
use crate::upstream::Behaviour;
use crate::world::{Answer, KEY, Setup, World, build, get, over_http1, standalone};

/// Which keys came on which connection.
type Seen = Arc<Mutex<BTreeSet<(usize, String)>>>;

/// An upstream that remembers who spoke on each of its connections.
fn remembering() -> (Behaviour, Seen, Arc<AtomicUsize>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let (seen, number) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let remembered = Arc::clone(&seen);
    let behaviour = Behaviour::new(move |io| {
        let (remembered, number) = (Arc::clone(&remembered), number.fetch_add(1, Ordering::SeqCst));
        let ended = Arc::clone(&counted);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let key = request.headers().get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
                remembered.lock().unwrap().insert((number, key.unwrap_or_default()));
                async { Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default())) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    (behaviour, seen, ended)
}

async fn ask(world: &World, path: &str) -> Answer {
    let answer =
        over_http1(to(world, Entrance::HttpProxy).await, get(&world.url(path), &world.authority())).await;
    // A connection is free again once its answer was read to the end, a few turns of the scheduler later.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    answer
}

#[tokio::test]
async fn p_a11_a_connection_carries_one_reading_of_one_secret() {
    for protocol in ["h2", "http/1.1"] {
        let (behaviour, seen, ended) = remembering();
        let setup = Setup { protocols: vec![protocol], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let secrets = world.folder.path().join("secrets");
        std::fs::write(secrets.join("other"), "sk-other").unwrap();
        let rule = |name, more| {
            let port = world.upstream.port();
            format!(
                "- {{name: {name}, host: api.good.test, ports: [{port}], scheme: https, paths: ['/{name}/**']{more}}}\n"
            )
        };
        let rules = [rule("other", ", credential: other"), rule("bare", "")].concat();
        let credential = format!(
            "credentials:\n- {{name: other, inject: {{type: Header, name: x-api-key}}, scopes: [{{host: api.good.test, ports: [{}]}}]}}\n",
            world.upstream.port()
        );
        world.edit(|text| text.replace("credentials:\n", &format!("{rules}{credential}"))).await;
        for path in ["/v1/x", "/other/x", "/bare/x", "/v1/x", "/other/x", "/bare/x"] {
            assert_eq!(ask(&world, path).await.status, StatusCode::OK, "{path}");
        }
        let keys = |seen: &Seen| seen.lock().unwrap().iter().map(|(_, key)| key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&seen), [KEY, "sk-other", ""], "{protocol}: three connections, each used twice");
        std::fs::write(secrets.join("good"), "sk-rotated").unwrap();
        for _ in 0..100 {
            assert_eq!(ask(&world, "/v1/x").await.status, StatusCode::OK);
            if keys(&seen).contains(&"sk-rotated".to_owned()) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(
            keys(&seen),
            [KEY, "sk-other", "", "sk-rotated"],
            "{protocol}: a new secret, a new connection"
        );
        assert_eq!(world.upstream_connections(), 4, "{protocol}");
        for _ in 0..500 {
            if ended.load(Ordering::SeqCst) > 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(
            ended.load(Ordering::SeqCst),
            1,
            "{protocol}: the old secret's connection is closed, no other"
        );
    }
}

#[tokio::test]
async fn p_a15_a_request_that_comes_back_is_refused() {
    let world = standalone(&["http/1.1"]).await;
    let own = world.at(Entrance::BaseUrl).port();
    let rule = format!("rules:\n- {{name: loop, host: api.good.test, ports: [{own}], scheme: http}}\n");
    world.edit(|text| text.replace("rules:\n", &rule)).await;
    let before = world.lines().len();
    let path = "/loop/loop/loop/loop/v1/x";
    let answer = over_http1(to(&world, Entrance::BaseUrl).await, get(path, "proxy")).await;
    denied(&answer, StatusCode::LOOP_DETECTED, "LoopDetected");
    let begun = world.lines()[before..].iter().filter(|line| line["event"] == "begin").count();
    assert_eq!(begun, 1, "it went round once");
    let mut request = get(&world.url("/v1/x"), &world.authority());
    request.headers_mut().insert("x-agentsandbox-loop", "own".parse().unwrap());
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, request).await;
    injected(&answer);
    assert!(!answer.body.contains("x-agentsandbox-loop: own"), "{}", answer.body);
}

/// Somebody in between, who hands bytes on both ways.
async fn relay(to: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn p_a16_a_request_that_was_handed_on_is_judged_as_if_it_came_directly() {
    let world = standalone(&["http/1.1"]).await;
    let direct = world.at(Entrance::HttpProxy);
    let handed_on = relay(direct).await;
    let mut told = Vec::new();
    for address in [direct, handed_on] {
        for (url, host) in [
            (world.url("/v1/x"), world.authority()),
            (world.url("/admin"), world.authority()),
            ("http://evil.test/".to_owned(), "evil.test".to_owned()),
        ] {
            let before = world.lines().len();
            let answer = over_http1(TcpStream::connect(address).await.unwrap(), get(&url, &host)).await;
            let line = world.audit(before + 1).await[before].clone();
            told.push((
                answer.status,
                line["decision"].clone(),
                line["reason"].clone(),
                line["rule"].clone(),
            ));
        }
    }
    let (first, second) = told.split_at(3);
    assert_eq!(first, second);
    assert_eq!(first.iter().map(|told| told.0.as_u16()).collect::<Vec<_>>(), [200, 403, 403]);
}
