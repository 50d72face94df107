//! Bodies that are on their way when the rule or the credential ends that allowed them. Time is paused here and passes in small steps.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::entrances::to;
use crate::times::small_steps;
use crate::upstream::Behaviour;
use crate::world::{Setup, build, get, standalone};

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

#[tokio::test(start_paused = true)]
async fn p_c5_an_upload_ends_with_the_rule_that_allowed_it_and_with_no_other_change() {
    small_steps();
    for (edited, status) in [
        ("methods: [GET], paths: ['/v1/**'], credential: good, websocket: Allow}", "403"),
        ("methods: [GET, POST], paths: ['/v1/**'], credential: good}", "200"),
    ] {
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
        let (mut read, mut write) = tokio::io::split(to(&world, Entrance::HttpProxy).await);
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            world.url("/v1/x"),
            world.authority()
        );
        write.write_all(head.as_bytes()).await.unwrap();
        while !took.lock().unwrap().windows(5).any(|bytes| bytes == b"first") {
            tokio::task::yield_now().await;
        }
        world.edit(|document| document.replace(RULE, edited)).await;
        sleep(LOOKED).await;
        let _ = write.write_all(b"4\r\nlast\r\n0\r\n\r\n").await;
        let mut told = Vec::new();
        let _ = timeout(Duration::from_secs(30), read.read_to_end(&mut told)).await.unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{edited}: {told}");
        let is_sent = took.lock().unwrap().windows(4).any(|bytes| bytes == b"last");
        assert_eq!(is_sent, status == "200", "{edited}");
        let line = world.line(&[("event", "end")]).await;
        let reason = (status == "403").then_some("MethodNotAllowed");
        assert_eq!(line["reason"].as_str(), reason, "{edited}: {line}");
    }
}
