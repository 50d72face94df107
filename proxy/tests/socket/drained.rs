//! Bodies that are on their way when their rule goes, where the document gives them time to end. Time is paused here and passes in small
//! steps.

use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::entrances::to;
use crate::revoked::{Uploading, uploading};
use crate::streams::websocket;
use crate::times::small_steps;
use crate::world::{World, get, over_http1, standalone};

const PATHS: &str = "methods: [GET, POST], paths: ['/v1/**']";
const OTHER_PATHS: &str = "methods: [GET, POST], paths: ['/v2/**']";
/// Longer than it takes to look at a document, and then at what is under way.
const LOOKED: Duration = Duration::from_millis(1600);

/// The document without a rule for what is on its way, with so many seconds for it.
fn draining(seconds: u32) -> impl Fn(&str) -> String {
    move |document| document.replace(PATHS, OTHER_PATHS) + &format!("drainSeconds: {seconds}\n")
}

/// An answer that has begun, and rests.
async fn begun(world: &World) -> Incoming {
    let io = TokioIo::new(to(world, Entrance::HttpProxy).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let asked = get(&world.url("/v1/pieces"), &world.authority());
    let mut body = sender.send_request(asked).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: first\n\n");
    body
}

/// Whether a body that rests is broken off, and not ended.
async fn breaks_off(body: &mut Incoming) -> bool {
    timeout(Duration::from_secs(30), body.frame()).await.unwrap().unwrap().is_err()
}

#[tokio::test(start_paused = true)]
async fn p_c5_an_answer_that_may_drain_ends_by_itself_and_nothing_new_begins() {
    small_steps();
    for upstream in ["h2", "http/1.1"] {
        let world = standalone(&[upstream]).await;
        let mut body = begun(&world).await;
        world.edit(draining(60)).await;
        sleep(LOOKED).await;
        let again = get(&world.url("/v1/pieces"), &world.authority());
        let denied = over_http1(to(&world, Entrance::HttpProxy).await, again).await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN, "whoever asks again is denied");
        world.finish.notify_one();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: last\n\n");
        assert!(body.frame().await.is_none(), "it is whole");
        drop(body);
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((line["reason"].is_null(), &line["drained"]), (true, &true.into()), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn p_c5_what_drains_ends_at_its_deadline_and_no_later_document_puts_that_off() {
    small_steps();
    let world = standalone(&["http/1.1"]).await;
    let mut body = begun(&world).await;
    let begin = Instant::now();
    world.edit(draining(10)).await;
    sleep(Duration::from_secs(7)).await;
    // Another document that denies it as well, and would give it more.
    world.edit_again(|document| document.replace("drainSeconds: 10", "drainSeconds: 300")).await;
    assert!(breaks_off(&mut body).await);
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(13), "{took:?}");
    let line = world.line(&[("event", "end")]).await;
    assert_eq!((&line["reason"], &line["drained"]), (&"PathNotAllowed".into(), &true.into()), "{line}");
}

#[tokio::test(start_paused = true)]
async fn p_c5_what_drains_ends_at_once_with_a_document_that_gives_no_time() {
    small_steps();
    let world = standalone(&["http/1.1"]).await;
    let mut body = begun(&world).await;
    world.edit(draining(60)).await;
    sleep(LOOKED).await;
    world.edit_again(|document| document.replace("drainSeconds: 60\n", "")).await;
    let begin = Instant::now();
    assert!(breaks_off(&mut body).await);
    assert!(begin.elapsed() < Duration::from_secs(10));
    let line = world.line(&[("event", "end")]).await;
    assert_eq!((&line["reason"], &line["drained"]), (&"PathNotAllowed".into(), &true.into()), "{line}");
}

#[tokio::test(start_paused = true)]
async fn p_c5_what_its_owner_withdraws_never_drains() {
    small_steps();
    let narrower = (
        "scopes: [{host: api.good.test, ports: [PORT]}]",
        "scopes: [{host: api.good.test, ports: [PORT], paths: ['/v2/**']}]",
    );
    for (from, to, reason) in [
        (narrower.0, narrower.1, "PathNotAllowed"),
        ("inject: {type: Header, name: x-api-key}", "inject: {type: Bearer}", "PathNotAllowed"),
    ] {
        let world = standalone(&["http/1.1"]).await;
        let port = world.upstream.port().to_string();
        let (from, to) = (from.replace("PORT", &port), to.replace("PORT", &port));
        let mut body = begun(&world).await;
        world
            .edit(|document| {
                assert!(document.contains(&from), "{from}");
                draining(60)(document).replace(&from, &to)
            })
            .await;
        let begin = Instant::now();
        assert!(breaks_off(&mut body).await);
        assert!(begin.elapsed() < Duration::from_secs(10), "{to}");
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((&line["reason"], line["drained"].is_null()), (&reason.into(), true), "{to}");
    }
    // Its rule is there, and gives another key or none.
    let world = standalone(&["http/1.1"]).await;
    let mut body = begun(&world).await;
    world.edit(|document| document.replace(", credential: good", "") + "drainSeconds: 60\n").await;
    let begin = Instant::now();
    assert!(breaks_off(&mut body).await);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(world.line(&[("event", "end")]).await["reason"], "CredentialScope");
}

#[tokio::test(start_paused = true)]
async fn p_c5_an_upload_drains_as_well_and_a_websocket_does_not() {
    small_steps();
    let Uploading { world, took, mut io } = uploading().await;
    world.edit(draining(60)).await;
    sleep(LOOKED).await;
    io.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    let mut told = String::new();
    let _ = io.read_to_string(&mut told).await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert!(took.lock().unwrap().windows(4).any(|bytes| bytes == b"last"));
    let line = world.line(&[("event", "end")]).await;
    assert_eq!((line["reason"].is_null(), &line["drained"]), (true, &true.into()), "{line}");
    // Nobody sees what begins in a WebSocket.
    let world = standalone(&["http/1.1"]).await;
    let io = TokioIo::new(to(&world, Entrance::HttpProxy).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(websocket(&world, "/v1/socket")).await.unwrap();
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    world.edit(draining(60)).await;
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(10), io.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it is open");
    assert_eq!(rest.get(2..4), Some(&1008_u16.to_be_bytes()[..]), "{rest:?}");
}
