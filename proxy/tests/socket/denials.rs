//! What was denied, in numbers, for whoever may reach the admin port.

use agentsandbox_policy::Tally;
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::Port;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{HOST, World, get, over_http1, standalone};

async fn tally(world: &World) -> Tally {
    let admin = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
    serde_json::from_str(&over_http1(admin, get("/denials", "proxy")).await.body).unwrap()
}

#[tokio::test]
async fn denials_are_counted_by_host_port_and_reason_and_what_is_allowed_is_not() {
    let world = standalone(&["h2"]).await;
    let nothing = Tally { sandbox: "u1".to_owned(), unusable: Some(Vec::new()), ..Tally::default() };
    assert_eq!(tally(&world).await, nothing, "it says whose proxy it is");
    let ask = async |url: &str, host: &str| {
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        over_http1(io, get(url, host)).await.status
    };
    assert_eq!(ask(&world.url("/v1/x"), &world.authority()).await, StatusCode::OK);
    assert_eq!(tally(&world).await, nothing);
    for _ in 0..3 {
        assert_eq!(ask("http://evil.test/x", "evil.test").await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&world.url("/admin"), &world.authority()).await, StatusCode::FORBIDDEN);
    assert_eq!(
        ask("http://fence.agentsandbox.invalid/", "fence.agentsandbox.invalid").await,
        StatusCode::FORBIDDEN
    );
    let told = tally(&world).await;
    let kinds: Vec<_> =
        told.latest.iter().map(|kind| (kind.host.as_deref(), kind.reason.as_str(), kind.count)).collect();
    assert_eq!(told.denied, 4);
    assert_eq!(kinds[1], (Some("evil.test"), "HostNotAllowed", 3), "{kinds:?}");
    assert_eq!((kinds[0].1, kinds[0].2), ("PathNotAllowed", 1), "{kinds:?}");
}

#[tokio::test]
async fn p_i5_a_request_that_cannot_be_read_is_told_with_the_place_where_it_was() {
    let world = standalone(&["http/1.1"]).await;
    let port = world.upstream.port();
    let answer = world.through_connect("http/1.1", get("/v1/..;/admin?q=1", &world.authority())).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let line = world.line(&[("event", "deny"), ("reason", "MalformedRequest")]).await;
    for told in [&told, &line] {
        let place = (&told["host"], &told["method"], &told["path"]);
        assert_eq!(place, (&HOST.into(), &"GET".into(), &"/v1/..;/admin".into()), "{told}");
    }
    assert_eq!(line["port"], port);
    // What hyper refuses has no method and no path.
    let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "http/1.1").await.unwrap();
    let (mut read, mut write) = tokio::io::split(io);
    write.write_all(b"GET /v1/x HTTP/1.1\r\nno colon\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let is_bare = |line: &&serde_json::Value| line["reason"] == "MalformedRequest" && line["path"].is_null();
    let written = async {
        loop {
            match world.lines().iter().find(is_bare) {
                Some(line) => return line.clone(),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let line = tokio::time::timeout(std::time::Duration::from_secs(60), written).await.unwrap();
    assert_eq!((&line["host"], &line["port"]), (&HOST.into(), &port.into()));
}
