//! What becomes of requests when all connections to an upstream carry as many streams as it allows.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{KEY, Setup, World, build, get, over_http1};

/// An upstream that allows one stream for each connection, answers when it is let, and remembers what it was asked for, and with
/// which key where that is another than at first.
pub fn narrow(asked: &Arc<Mutex<Vec<String>>>, answers: &Arc<Semaphore>) -> Behaviour {
    let (asked, answers) = (Arc::clone(asked), Arc::clone(answers));
    Behaviour::new(move |io| {
        let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path();
                let what = match request.headers().get("x-api-key").map(|key| key.to_str().unwrap()) {
                    None | Some(KEY) => path.to_owned(),
                    Some(other) => format!("{path} with {other}"),
                };
                asked.lock().unwrap().push(what);
                let answers = Arc::clone(&answers);
                async move {
                    answers.acquire().await.unwrap().forget();
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.max_concurrent_streams(1).serve_connection(TokioIo::new(io), service).await;
        }
    })
}

/// A world whose upstream carries as many requests as it can, and the requests. Each is answered once it may be.
async fn full(
    asked: &Arc<Mutex<Vec<String>>>,
    answers: &Arc<Semaphore>,
) -> (Arc<World>, Vec<JoinHandle<StatusCode>>) {
    let behaviour = Some(narrow(asked, answers));
    let world = Arc::new(build(Setup { protocols: vec!["h2"], behaviour, ..Setup::default() }).await);
    let mut answered = Vec::new();
    for number in 0..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        answered.push(ask(&world, &format!("/v1/{number}")));
        for _ in 0..500 {
            if asked.lock().unwrap().len() > number {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    assert_eq!(*asked.lock().unwrap(), ["/v1/0", "/v1/1", "/v1/2", "/v1/3"]);
    (world, answered)
}

pub fn ask(world: &Arc<World>, path: &str) -> JoinHandle<StatusCode> {
    let (world, path) = (Arc::clone(world), path.to_owned());
    tokio::spawn(async move {
        let request = get(&world.url(&path), &world.authority());
        let io = to(&world, Entrance::HttpProxy).await;
        // Whoever gives it up is then seen to be gone, and not only to have no more to say.
        rustix::net::sockopt::set_socket_linger(&io, Some(std::time::Duration::ZERO)).unwrap();
        over_http1(io, request).await.status
    })
}

pub async fn until_begun(world: &World, path: &str) {
    world.line(&[("event", "begin"), ("path", path)]).await;
}

#[tokio::test]
async fn p_i4_a_request_waits_in_the_proxy_while_all_connections_are_full_and_is_not_sent_if_it_is_given_up()
{
    let (asked, answers) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let (world, mut answered) = full(&asked, &answers).await;
    let given_up = ask(&world, "/v1/given-up");
    until_begun(&world, "/v1/given-up").await;
    answered.push(ask(&world, "/v1/waits"));
    until_begun(&world, "/v1/waits").await;
    given_up.abort();
    world.line(&[("event", "end"), ("reason", "Interrupted")]).await;
    answers.add_permits(100);
    for each in answered {
        assert_eq!(each.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(asked.lock().unwrap()[4..], ["/v1/waits"]);
    assert_eq!(world.upstream_connections(), H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX);
}

#[tokio::test]
async fn p_f17_a_request_that_waits_is_not_sent_once_the_policy_has_changed_and_has_the_new_secret_once_that_has()
 {
    for is_policy in [true, false] {
        let (asked, answers) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let (world, answered) = full(&asked, &answers).await;
        let overtaken = ask(&world, "/v1/overtaken");
        until_begun(&world, "/v1/overtaken").await;
        if is_policy {
            world.edit(|policy| policy.replace("/v1/", "/v2/")).await;
        } else {
            world.rotate().await;
        }
        answers.add_permits(100);
        // They were sent before; what a rule that is gone allowed has no answer any more, though nobody looked while it was awaited.
        let before = if is_policy { StatusCode::FORBIDDEN } else { StatusCode::OK };
        for each in answered {
            assert_eq!(each.await.unwrap(), before, "{is_policy}");
        }
        let (status, sent) = match is_policy {
            true => (StatusCode::SERVICE_UNAVAILABLE, &[][..]),
            false => (StatusCode::OK, &["/v1/overtaken with sk-short"][..]),
        };
        assert_eq!(overtaken.await.unwrap(), status, "{is_policy}");
        assert_eq!(asked.lock().unwrap()[H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX..], *sent, "{is_policy}");
    }
}
