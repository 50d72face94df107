//! Decisions of the owner that come while a request is on its way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::UNCHECKED_WAIT_MAX;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::entrances::to;
use crate::fullness::{ask, narrow};
use crate::upstream::Behaviour;
use crate::world::{HOST, Setup, World, build, get, over_http1};

/// Somebody in between, who accepts at once, says so, and hands bytes on once that is allowed.
struct Gate {
    address: SocketAddr,
    upstream: Arc<OnceLock<SocketAddr>>,
    accepted: Arc<Semaphore>,
    allowed: Arc<Semaphore>,
}

async fn gate() -> Gate {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let none = || Arc::new(Semaphore::new(0));
    let gate = Gate { address, upstream: Arc::default(), accepted: none(), allowed: none() };
    let (accepted, allowed, upstream) =
        (Arc::clone(&gate.accepted), Arc::clone(&gate.allowed), Arc::clone(&gate.upstream));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            accepted.add_permits(1);
            let (allowed, upstream) = (Arc::clone(&allowed), Arc::clone(&upstream));
            tokio::spawn(async move {
                allowed.acquire().await.unwrap().forget();
                let mut far = TcpStream::connect(upstream.get().unwrap()).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    gate
}

/// A policy that allows the good host behind the gate as well.
fn behind(gate: &Gate) -> Vec<(&'static str, &'static str)> {
    let at = format!("host: {HOST}, ports: [{}]", gate.address.port());
    let rule =
        format!("- {{name: slow, {at}, scheme: https, paths: ['/v1/**'], credential: good}}\ncredentials:\n");
    let scope = format!("scopes: [{{{at}}}, {{host: {HOST}, ");
    vec![("credentials:\n", &*rule.leak()), ("scopes: [{host: api.good.test, ", &*scope.leak())]
}

/// A request under way to an upstream behind a gate, and what that upstream was asked.
struct Waiting {
    gate: Gate,
    world: Arc<World>,
    asked: Arc<Mutex<Vec<String>>>,
    answered: JoinHandle<StatusCode>,
}

async fn waiting() -> Waiting {
    let (asked, answers) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Semaphore::new(100)));
    let (gate, behaviour) = (gate().await, Some(narrow(&asked, &answers)));
    let policy = behind(&gate);
    let setup = Setup { protocols: vec!["h2"], behaviour, policy, ..Setup::default() };
    let world = Arc::new(build(setup).await);
    gate.upstream.set(world.upstream).unwrap();
    let (asking, authority) = (Arc::clone(&world), format!("{HOST}:{}", gate.address.port()));
    let answered = tokio::spawn(async move {
        let request = get(&format!("https://{authority}/v1/x"), &authority);
        over_http1(to(&asking, Entrance::HttpProxy).await, request).await.status
    });
    Waiting { gate, world, asked, answered }
}

#[tokio::test]
async fn p_f17_a_request_whose_upstream_is_slow_is_not_sent_once_the_policy_has_changed_and_has_the_new_secret_once_that_has()
 {
    for change in ["none", "policy", "secret"] {
        let Waiting { gate, world, asked, answered } = waiting().await;
        gate.accepted.acquire().await.unwrap().forget();
        match change {
            "policy" => world.edit(|policy| policy.replace("/v1/", "/v2/")).await,
            "secret" => {
                // One that is replaced sooner is as one that is replaced during the decision.
                tokio::time::sleep(UNCHECKED_WAIT_MAX).await;
                world.rotate().await;
            }
            _ => {}
        }
        // With another secret on another connection.
        gate.allowed.add_permits(2);
        let (status, sent) = match change {
            "none" => (StatusCode::OK, &["/v1/x"][..]),
            "secret" => (StatusCode::OK, &["/v1/x with sk-short"][..]),
            _ => (StatusCode::SERVICE_UNAVAILABLE, &[][..]),
        };
        assert_eq!(answered.await.unwrap(), status, "{change}");
        assert_eq!(*asked.lock().unwrap(), sent, "{change}");
        let line = world.line(&[("event", "end"), ("path", "/v1/x")]).await;
        let said = (line["decision"].as_str(), line["reason"].as_str());
        assert_eq!(said, (Some("allow"), (change == "policy").then_some("Overtaken")), "{change}: {line}");
        assert_eq!(world.upstream_connections(), if change == "secret" { 2 } else { 1 }, "{change}");
    }
}

#[tokio::test]
async fn p_f17_a_request_whose_secret_is_replaced_again_and_again_while_it_waits_is_not_sent() {
    let Waiting { gate, world, asked, answered } = waiting().await;
    for (secret, short) in [("sk-short", 1), ("sk-other", 2)] {
        gate.accepted.acquire().await.unwrap().forget();
        tokio::time::sleep(UNCHECKED_WAIT_MAX).await;
        world.rotate_to(secret, short).await;
        gate.allowed.add_permits(1);
    }
    assert_eq!(answered.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn p_c5_idle_connections_of_a_replaced_policy_end_at_once_though_one_of_its_requests_is_not_answered_yet()
 {
    let (asked, answers) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let ended = Arc::new(AtomicUsize::new(0));
    let (tells, may, counts) = (Arc::clone(&asked), Arc::clone(&answers), Arc::clone(&ended));
    let behaviour = Behaviour::new(move |io| {
        let (tells, may, counts) = (Arc::clone(&tells), Arc::clone(&may), Arc::clone(&counts));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (tells, may) = (Arc::clone(&tells), Arc::clone(&may));
                async move {
                    if request.uri().path() == "/v1/held" {
                        tells.add_permits(1);
                        may.acquire().await.unwrap().forget();
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(io), service).await;
            counts.fetch_add(1, Ordering::SeqCst);
        }
    });
    let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
    let world = Arc::new(build(setup).await);
    let held = ask(&world, "/v1/held");
    asked.acquire().await.unwrap().forget();
    assert_eq!(ask(&world, "/v1/idle").await.unwrap(), StatusCode::OK);
    assert_eq!((world.upstream_connections(), ended.load(Ordering::SeqCst)), (2, 0));
    world.edit(|policy| policy.replace("methods: [GET, POST]", "methods: [GET]")).await;
    for _ in 0..500 {
        if ended.load(Ordering::SeqCst) > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(ended.load(Ordering::SeqCst), 1, "the idle one");
    assert!(!held.is_finished());
    answers.add_permits(1);
    assert_eq!(held.await.unwrap(), StatusCode::OK, "what was sent is answered");
}
