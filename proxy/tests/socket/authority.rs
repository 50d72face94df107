//! CONNECT, SNI, Host and :authority: all must name the same destination.

use agentsandbox_proxy::entrance::Entrance;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{HOST, World, get, over_http1, standalone};

async fn raw(world: &World, entrance: Entrance, bytes: &str) -> String {
    let mut io = TcpStream::connect(world.at(entrance)).await.unwrap();
    io.write_all(bytes.as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn p_a1_connect_good_sni_evil() {
    let world = standalone(&["h2"]).await;
    let io = world.connect(&world.authority()).await.unwrap();
    assert!(world.tls(io, "evil.test", "h2").await.unwrap_err().to_string().contains("AccessDenied"));
    world.line(&[("event", "deny"), ("reason", "AuthorityMismatch")]).await;
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn p_a2_connect_good_sni_good_host_evil() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let answer = world.through_connect("http/1.1", get("/v1/x", "evil.test")).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn p_a6_absolute_form_of_another_host_inside_the_tunnel() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let answer = world.through_connect("http/1.1", get("https://evil.test/v1/x", "evil.test")).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn p_a7_two_host_fields() {
    let world = standalone(&["http/1.1"]).await;
    for pair in [["meta.good.test", "evil.test"], ["evil.test", "meta.good.test"], ["meta.good.test"; 2]] {
        let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nHost: {}\r\n\r\n", pair[0], pair[1]);
        let answer = raw(&world, Entrance::TransparentHttp, &head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{pair:?}: {answer}");
    }
    let answer = raw(&world, Entrance::TransparentHttp, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn p_a9_http_2_authority_and_host_differ() {
    let world = standalone(&["h2"]).await;
    let answer = world.through_connect("h2", get(&world.url("/v1/x"), "evil.test")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = world.through_connect("h2", get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn p_a10_each_request_of_a_connection_is_judged_alone() {
    let world = standalone(&["http/1.1"]).await;
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let mut statuses = Vec::new();
    for (url, host) in [
        (world.url("/v1/x"), world.authority()),
        (world.url("/admin"), world.authority()),
        ("http://evil.test/".to_owned(), "evil.test".to_owned()),
    ] {
        sender.ready().await.unwrap();
        let response = sender.send_request(get(&url, &host)).await.unwrap();
        statuses.push(response.status().as_u16());
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    }
    assert_eq!(statuses, [200, 403, 403]);
}

#[tokio::test]
async fn p_a12_connect_authorities_that_are_none() {
    let world = standalone(&["h2"]).await;
    for authority in ["good", "good:", "good:443:80", "good:0", "good:65536", "good:+443", "good:0443"] {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let answer = raw(&world, Entrance::HttpProxy, &head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{authority}: {answer}");
    }
}

#[tokio::test]
async fn p_a13_connect_to_another_port_of_an_allowed_host() {
    let world = standalone(&["h2"]).await;
    for port in [22, 25, 8443, 9200] {
        assert!(
            world.connect(&format!("{HOST}:{port}")).await.unwrap_err().starts_with("HTTP/1.1 403"),
            "{port}"
        );
    }
}

#[tokio::test]
async fn p_a14_a_tunnel_that_speaks_something_else_is_closed() {
    let world = standalone(&["h2"]).await;
    let mut io = world.connect(&world.authority()).await.unwrap();
    io.write_all(b"\0\0\0\x0cSSH-2.0-x\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let io = world.connect(&world.authority()).await.unwrap();
    assert!(world.tls(io, HOST, "acme-tls/1").await.is_err());
    let io = world.connect(&world.authority()).await.unwrap();
    let plain = over_http1(io, get("/v1/x", &world.authority())).await;
    assert_eq!(plain.status, StatusCode::FORBIDDEN, "plaintext where the rule says https");
    assert!(plain.body.contains("SchemeNotAllowed"));
    world.line(&[("event", "deny"), ("reason", "UnsupportedProtocol")]).await;
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn p_f18_a_denied_name_mints_no_leaf() {
    let world = standalone(&["h2"]).await;
    for name in ["a.evil.test", "b.evil.test"] {
        let io = TcpStream::connect(world.at(Entrance::TransparentTls)).await.unwrap();
        assert!(world.tls(io, name, "h2").await.is_err());
    }
    let admin = TcpStream::connect(world.port(agentsandbox_proxy::serve::Port::Admin)).await.unwrap();
    let metrics = over_http1(admin, get("/metrics", "proxy")).await;
    assert!(metrics.body.contains("leaves_minted_total 0"));
}

#[tokio::test]
async fn p_h6_only_http_urls_can_be_requested() {
    let world = standalone(&["h2"]).await;
    for url in ["ftp://api.good.test/x", "gopher://api.good.test/x", "ws://api.good.test/x"] {
        let request = Request::get(url).header("host", HOST).body(Full::default()).unwrap();
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        assert_eq!(over_http1(io, request).await.status, StatusCode::BAD_REQUEST, "{url}");
    }
}
