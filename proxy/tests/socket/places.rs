//! How many connections to upstreams are open at a time, whatever an agent has under way.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::Port;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::entrances::to;
use crate::flow::settled;
use crate::fullness::{ask, narrow as recording, until_begun};
use crate::upstream::Behaviour;
use crate::world::{Answer, HOST, Setup, World, build, get, over_http1};

/// An upstream over HTTP/1.1 that answers when it is let, and how often it was asked.
fn patient(answers: &Arc<Semaphore>) -> (Behaviour, Arc<AtomicUsize>) {
    let (answers, asked) = (Arc::clone(answers), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    let behaviour = Behaviour::new(move |io| {
        let (answers, asked) = (Arc::clone(&answers), Arc::clone(&counted));
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                asked.fetch_add(1, Ordering::SeqCst);
                let answers = Arc::clone(&answers);
                async move {
                    answers.acquire().await.unwrap().forget();
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        }
    });
    (behaviour, asked)
}

#[tokio::test]
async fn p_i4_streams_of_one_connection_open_no_more_connections_to_upstreams_than_there_are_places() {
    const STREAMS: usize = 12;
    for (places, open) in [(Some(3), 3), (None, STREAMS)] {
        let answers = Arc::new(Semaphore::new(0));
        let (behaviour, asked) = patient(&answers);
        let setup = Setup {
            protocols: vec!["http/1.1"],
            behaviour: Some(behaviour),
            upstream_connections_max: places,
            ..Setup::default()
        };
        let world = build(setup).await;
        let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "h2").await.unwrap();
        let (agent, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let asking: Vec<_> = (0..STREAMS)
            .map(|number| {
                let request =
                    Request::get(world.url(&format!("/v1/{number}"))).body(Full::<Bytes>::default());
                tokio::spawn(agent.clone().send_request(request.unwrap()))
            })
            .collect();
        world.audit(STREAMS).await;
        assert_eq!((settled(&asked).await, world.upstream_connections()), (open, open));
        answers.add_permits(STREAMS);
        for each in asking {
            assert_eq!(each.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        // Who waits for a place takes a connection that has come free meanwhile.
        assert_eq!((asked.load(Ordering::SeqCst), world.upstream_connections()), (STREAMS, open));
    }
}

/// A world with one place. What its rule `bare` allows goes on other connections than what the first does.
async fn narrow() -> Arc<World> {
    narrow_with(Setup { protocols: vec!["http/1.1"], ..Setup::default() }).await
}

async fn narrow_with(setup: Setup) -> Arc<World> {
    let world = build(Setup { upstream_connections_max: Some(1), ..setup }).await;
    let port = world.upstream.port();
    let rules = format!(
        "rules:
- {{name: bare, host: {HOST}, ports: [{port}], scheme: https, paths: ['/bare/**']}}
- {{name: pass, host: pass.good.test, ports: [{port}], scheme: https, tls: Passthrough}}
"
    );
    world.edit(|text| text.replace("rules:\n", &rules)).await;
    Arc::new(world)
}

#[tokio::test]
async fn p_i4_a_connection_that_lies_idle_makes_room_for_one_that_is_needed() {
    let world = narrow().await;
    for (path, connections) in [("/v1/a", 1), ("/v1/b", 1), ("/bare/c", 2), ("/v1/d", 3)] {
        assert_eq!(ask(&world, path).await.unwrap(), StatusCode::OK, "{path}");
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.upstream_connections(), connections, "{path}");
    }
}

async fn websocket(world: &World) -> TcpStream {
    let mut io = to(world, Entrance::HttpProxy).await;
    let (url, host) = (world.url("/v1/socket"), world.authority());
    let head = format!(
        "GET {url} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    io.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    io.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    io
}

/// A handshake that the upstream has answered, and that goes no further.
async fn unopened(world: &World) -> TcpStream {
    let mut io = world.connect(&format!("pass.good.test:{}", world.upstream.port())).await.unwrap();
    let name = "pass.good.test".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(world.trusting("http/1.1")), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    io.write_all(&hello).await.unwrap();
    io.read_u8().await.unwrap();
    io
}

#[tokio::test]
async fn p_i4_what_is_handed_on_keeps_its_place_to_its_end() {
    for is_websocket in [true, false] {
        let world = narrow().await;
        let held = if is_websocket { websocket(&world).await } else { unopened(&world).await };
        let waits = ask(&world, "/v1/waits");
        world.line(&[("event", "begin"), ("path", "/v1/waits")]).await;
        settled(&AtomicUsize::new(0)).await;
        assert_eq!((waits.is_finished(), world.upstream_connections()), (false, 1), "{is_websocket}");
        drop(held);
        assert_eq!(waits.await.unwrap(), StatusCode::OK, "{is_websocket}");
        assert_eq!(world.upstream_connections(), 2);
    }
}

/// A world whose only place is taken by a request, which is answered once it may be, and what its upstream was asked for.
struct Taken {
    world: Arc<World>,
    held: tokio::task::JoinHandle<StatusCode>,
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<Semaphore>,
}

async fn taken(upstream_wait_max: Option<Duration>) -> Taken {
    let (asked, answers) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let behaviour = Some(recording(&asked, &answers));
    let world =
        narrow_with(Setup { protocols: vec!["h2"], behaviour, upstream_wait_max, ..Setup::default() }).await;
    let held = ask(&world, "/bare/held");
    for _ in 0..500 {
        if !asked.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(*asked.lock().unwrap(), ["/bare/held"]);
    Taken { world, held, asked, answers }
}

#[tokio::test]
async fn p_f17_a_request_that_waits_for_a_place_is_not_sent_once_the_policy_has_changed_and_has_the_new_secret_once_that_has()
 {
    for is_policy in [true, false] {
        let Taken { world, held, asked, answers } = taken(None).await;
        let waits = ask(&world, "/v1/waits");
        until_begun(&world, "/v1/waits").await;
        if is_policy {
            world.edit(|policy| policy.replace("/v1/", "/v2/")).await;
            // It is told at once, and not only when it is its turn.
            assert_eq!(waits.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(!held.is_finished(), "there is no place");
            world.line(&[("event", "end"), ("path", "/v1/waits"), ("reason", "Overtaken")]).await;
            answers.add_permits(100);
        } else {
            world.rotate().await;
            answers.add_permits(100);
            assert_eq!(waits.await.unwrap(), StatusCode::OK);
        }
        assert_eq!(held.await.unwrap(), StatusCode::OK, "it was sent before");
        let sent = if is_policy { &[][..] } else { &["/v1/waits with sk-short"][..] };
        assert_eq!(asked.lock().unwrap()[1..], *sent, "{is_policy}");
        assert_eq!(world.upstream_connections(), 1 + sent.len());
    }
}

#[tokio::test]
async fn p_i4_a_request_that_no_place_comes_free_for_is_told_so_and_its_end_is_written_down() {
    for bound in [Some(Duration::from_millis(100)), None] {
        let Taken { world, held, asked, answers } = taken(bound).await;
        let waits = tokio::spawn({
            let world = Arc::clone(&world);
            async move { whole(&world, "/v1/waits").await }
        });
        until_begun(&world, "/v1/waits").await;
        if bound.is_none() {
            settled(&AtomicUsize::new(0)).await;
            assert!(!waits.is_finished(), "it waits for longer");
            answers.add_permits(100);
            assert_eq!((waits.await.unwrap().status, held.await.unwrap()), (StatusCode::OK, StatusCode::OK));
            assert_eq!(asked.lock().unwrap()[1..], ["/v1/waits"]);
            continue;
        }
        let answer = waits.await.unwrap();
        assert!(!held.is_finished(), "there is no place");
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(told["reason"], "UpstreamUnreachable");
        let advice = told["howToAllow"].as_str().unwrap();
        assert!(advice.starts_with("As many connections to upstreams as the proxy opens"), "{advice}");
        let end = world.line(&[("event", "end"), ("path", "/v1/waits")]).await;
        assert_eq!((&end["reason"], &end["requestId"]), (&told["reason"], &told["requestId"]));
        assert!(end["address"].is_null() && end["bytesUp"] == 0, "nothing was sent: {end}");
        assert_eq!((asked.lock().unwrap().len(), world.upstream_connections()), (1, 1));
        held.abort();
    }
}

async fn whole(world: &World, path: &str) -> Answer {
    over_http1(to(world, Entrance::HttpProxy).await, get(&world.url(path), &world.authority())).await
}

/// Waits until the metrics tell of one place, which is in use, and of so many that wait for it.
async fn told(world: &World, waiting: usize) {
    let all = [("", 1), ("_in_use", 1), ("_waiting", waiting)];
    let wanted = all.map(|(name, value)| format!("\nagentsandbox_proxy_upstream_places{name} {value}\n"));
    let mut told = String::new();
    for _ in 0..500 {
        let io = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
        told = over_http1(io, get("/metrics", "proxy")).await.body;
        if wanted.iter().all(|line| told.contains(line)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{wanted:?} are not told: {told}");
}

#[tokio::test]
async fn p_i4_the_metrics_tell_how_many_places_are_in_use_and_how_many_requests_wait_for_one() {
    let Taken { world, held, answers, .. } = taken(None).await;
    told(&world, 0).await;
    let waiting: Vec<_> = ["/v1/first", "/v1/second"].map(|path| ask(&world, path)).into();
    told(&world, 2).await;
    waiting[1].abort();
    told(&world, 1).await;
    answers.add_permits(100);
    assert_eq!(held.await.unwrap(), StatusCode::OK);
    // The connection lies idle.
    told(&world, 0).await;
}
