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

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{Setup, build, get, over_http1};

/// An upstream that allows one stream for each connection, answers when it is let, and remembers what it was asked for.
fn narrow(asked: &Arc<Mutex<Vec<String>>>, answers: &Arc<Semaphore>) -> Behaviour {
    let (asked, answers) = (Arc::clone(asked), Arc::clone(answers));
    Behaviour::new(move |io| {
        let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                asked.lock().unwrap().push(request.uri().path().to_owned());
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

#[tokio::test]
async fn p_i4_a_request_waits_in_the_proxy_while_all_connections_are_full_and_is_not_sent_if_it_is_given_up()
{
    let (asked, answers) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let behaviour = Some(narrow(&asked, &answers));
    let world = Arc::new(build(Setup { protocols: vec!["h2"], behaviour, ..Setup::default() }).await);
    let ask = |path: String| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let request = get(&world.url(&path), &world.authority());
            over_http1(to(&world, Entrance::HttpProxy).await, request).await.status
        })
    };
    let until_begun = async |path: &str| world.line(&[("event", "begin"), ("path", path)]).await;
    let mut answered = Vec::new();
    for number in 0..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        answered.push(ask(format!("/v1/{number}")));
        for _ in 0..500 {
            if asked.lock().unwrap().len() > number {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    let full = asked.lock().unwrap().clone();
    assert_eq!(full, ["/v1/0", "/v1/1", "/v1/2", "/v1/3"]);
    let given_up = ask("/v1/given-up".to_owned());
    until_begun("/v1/given-up").await;
    answered.push(ask("/v1/waits".to_owned()));
    until_begun("/v1/waits").await;
    given_up.abort();
    world.line(&[("event", "end"), ("reason", "Interrupted")]).await;
    answers.add_permits(100);
    for each in answered {
        assert_eq!(each.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(asked.lock().unwrap()[4..], ["/v1/waits"]);
    assert_eq!(world.upstream_connections(), H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX);
}
