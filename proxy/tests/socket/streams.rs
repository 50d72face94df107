//! Streaming, rotation and reload.

use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::world::{KEY, World, get, over_http1, standalone};

async fn once(world: &World) -> crate::world::Answer {
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    over_http1(io, get(&world.url("/v1/x"), &world.authority())).await
}

/// Asks again until the answer is as expected, for as long as is promised.
async fn until(world: &World, expected: impl Fn(&crate::world::Answer) -> bool) {
    for _ in 0..50 {
        if expected(&once(world).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within five seconds");
}

#[tokio::test]
async fn p_h3_the_first_event_arrives_before_the_last_is_sent() {
    for upstream in ["h2", "http/1.1"] {
        let world = standalone(&[upstream]).await;
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(get(&world.url("/v1/events"), &world.authority())).await.unwrap();
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: first\n\n");
        world.finish.notify_one();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, "data: last\n\n", "{upstream}");
    }
}

#[tokio::test]
async fn p_f17_a_rotated_secret_is_used_within_five_seconds_and_a_deleted_one_denies() {
    let world = standalone(&["h2", "http/1.1"]).await;
    assert!(once(&world).await.body.contains(KEY));
    let file = world.folder.path().join("secrets/good");
    std::fs::write(&file, "sk-rotated").unwrap();
    until(&world, |answer| answer.body.contains("sk-rotated") && !answer.body.contains(KEY)).await;
    std::fs::remove_file(&file).unwrap();
    until(&world, |answer| {
        answer.status == StatusCode::FORBIDDEN && answer.body.contains("CredentialUnavailable")
    })
    .await;
}

#[tokio::test]
async fn p_i8_a_new_policy_takes_effect_and_an_invalid_one_does_not() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let file = world.folder.path().join("policy.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("rules:", "rulez:")).unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(once(&world).await.status, StatusCode::OK, "the last good policy stays");
    std::fs::write(&file, good.replace("'/v1/**'", "'/v2/**'")).unwrap();
    until(&world, |answer| answer.status == StatusCode::FORBIDDEN && answer.body.contains("PathNotAllowed"))
        .await;
}
