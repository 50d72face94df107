//! Each way in: an allowed request arrives with the key and without what the agent sent; a denied one arrives nowhere.

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::world::{Answer, HOST, KEY, World, get, over_http1, standalone};

/// The upstream saw the key once, and nothing that the agent sent in a place that authenticates.
pub fn injected(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body.matches(KEY).count(), 1, "{}", answer.body);
    for own in ["mine", "x_api_key", "x-forwarded-for", "proxy-authorization"] {
        assert!(!answer.body.contains(own), "{own} went through: {}", answer.body);
    }
    assert!(!answer.headers.contains_key("alt-svc"));
}

pub fn denied(answer: &Answer, status: StatusCode, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(told["reason"], reason);
    assert!(told["howToAllow"].as_str().unwrap().ends_with('.') && told["requestId"].is_string());
}

fn with_own_auth(uri: &str, host: &str) -> Request<Full<Bytes>> {
    Request::post(uri)
        .header("host", host)
        .header("x-api-key", "mine-1")
        .header("X_Api_Key", "mine-2")
        .header("authorization", "Bearer mine-3")
        .header("proxy-authorization", "Basic mine-4")
        .header("x-forwarded-for", "1.2.3.4")
        .body(Full::from("hello"))
        .unwrap()
}

pub async fn to(world: &World, entrance: Entrance) -> TcpStream {
    TcpStream::connect(world.at(entrance)).await.unwrap()
}

#[tokio::test]
async fn absolute_form_is_answered_with_the_key_and_without_the_agents_own() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let request = with_own_auth(&world.url("/v1/x?q=secret-query"), &world.authority());
    injected(&over_http1(to(&world, Entrance::HttpProxy).await, request).await);
    let line = world.line(&[("event", "end")]).await;
    assert_eq!(line["decision"], "allow");
    assert_eq!(line["path"], "/v1/x");
    assert_eq!(
        (&line["credential"], &line["bytesUp"], &line["generation"]),
        (&"good".into(), &5.into(), &7.into())
    );
    assert!(!line.to_string().contains("secret-query"));
}

#[tokio::test]
async fn connect_works_in_every_mix_of_http_1_and_2() {
    for upstream in ["h2", "http/1.1"] {
        for client in ["h2", "http/1.1"] {
            let world = standalone(&[upstream]).await;
            let uri = if client == "h2" { world.url("/v1/x") } else { "/v1/x".to_owned() };
            let answer = world.through_connect(client, with_own_auth(&uri, &world.authority())).await;
            injected(&answer);
            let seen = if upstream == "h2" { "HTTP/2.0 POST" } else { "HTTP/1.1 POST" };
            assert!(answer.body.starts_with(seen), "{client} to {upstream}: {}", answer.body);
            assert_eq!(answer.version, if client == "h2" { Version::HTTP_2 } else { Version::HTTP_11 });
            assert!(answer.body.contains("body: 5 bytes"));
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_for_the_same_destination_only() {
    for upstream in ["h2", "http/1.1"] {
        let world = standalone(&[upstream]).await;
        for _ in 0..3 {
            injected(&world.through_connect("http/1.1", get("/v1/x", &world.authority())).await);
            // The connection is free again once the answer was read to its end, a moment later.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(world.upstream_connections(), 1, "{upstream}");
    }
}

#[tokio::test]
async fn socks5_carries_tls_to_an_allowed_name() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let io = socks(&world, HOST, world.upstream.port()).await.unwrap();
    let io = world.tls(io, HOST, "http/1.1").await.unwrap();
    injected(&over_http1(io, with_own_auth("/v1/x", &world.authority())).await);
    assert_eq!(world.audit(1).await[0]["entrance"], "socks5");
}

#[tokio::test]
async fn socks5_refuses_a_name_that_no_rule_allows() {
    let world = standalone(&["h2"]).await;
    assert_eq!(socks(&world, "evil.test", 443).await.unwrap_err(), 2);
    assert_eq!(world.audit(1).await[0]["reason"], "HostNotAllowed");
    assert_eq!(world.upstream_connections(), 0);
}

pub async fn socks(world: &World, host: &str, port: u16) -> Result<TcpStream, u8> {
    let mut io = to(world, Entrance::Socks5).await;
    io.write_all(&[5, 1, 0]).await.unwrap();
    let mut chosen = [0; 2];
    io.read_exact(&mut chosen).await.unwrap();
    assert_eq!(chosen, [5, 0]);
    let length = u8::try_from(host.len()).unwrap();
    let request = [&[5, 1, 0, 3, length][..], host.as_bytes(), &port.to_be_bytes()].concat();
    io.write_all(&request).await.unwrap();
    let mut reply = [0; 10];
    io.read_exact(&mut reply).await.unwrap();
    if reply[1] == 0 { Ok(io) } else { Err(reply[1]) }
}

#[tokio::test]
async fn base_url_names_the_rule_in_its_first_segment() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let answer =
        over_http1(to(&world, Entrance::BaseUrl).await, with_own_auth("/good/v1/x?a=b", "proxy:8080")).await;
    injected(&answer);
    assert!(answer.body.contains("/v1/x?a=b"));
    let answer = over_http1(to(&world, Entrance::BaseUrl).await, get("/nobody/v1/x", "proxy:8080")).await;
    denied(&answer, StatusCode::FORBIDDEN, "HostNotAllowed");
}

#[tokio::test]
async fn transparent_tls_goes_where_its_sni_says() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let io = world.tls(to(&world, Entrance::TransparentTls).await, "tls.good.test", "h2").await.unwrap();
    drop(io);
    let refused = world.tls(to(&world, Entrance::TransparentTls).await, "evil.test", "h2").await;
    assert!(refused.unwrap_err().to_string().contains("AccessDenied"));
    world.line(&[("entrance", "transparent-tls"), ("event", "admit"), ("host", "tls.good.test")]).await;
    world.line(&[("entrance", "transparent-tls"), ("reason", "HostNotAllowed"), ("host", "evil.test")]).await;
}

#[tokio::test]
async fn p_c3_transparent_http_never_dials_a_metadata_address() {
    let world = standalone(&["h2"]).await;
    let answer = over_http1(to(&world, Entrance::TransparentHttp).await, get("/", "meta.good.test")).await;
    denied(&answer, StatusCode::FORBIDDEN, "ForbiddenAddress");
    assert!(world.line(&[("event", "end"), ("reason", "ForbiddenAddress")]).await["address"].is_null());
}

#[tokio::test]
async fn denied_requests_are_told_why_and_reach_no_upstream() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let proxy = || to(&world, Entrance::HttpProxy);
    let answer = over_http1(proxy().await, get("http://evil.test/x", "evil.test")).await;
    denied(&answer, StatusCode::FORBIDDEN, "HostNotAllowed");
    let answer = over_http1(proxy().await, get(&world.url("/admin"), &world.authority())).await;
    denied(&answer, StatusCode::FORBIDDEN, "PathNotAllowed");
    let delete = Request::delete(world.url("/v1/x")).header("host", world.authority());
    let answer = over_http1(proxy().await, delete.body(Full::default()).unwrap()).await;
    denied(&answer, StatusCode::FORBIDDEN, "MethodNotAllowed");
    assert!(world.connect("evil.test:443").await.unwrap_err().starts_with("HTTP/1.1 403"));
    assert_eq!(world.upstream_connections(), 0);
    let lines = world.audit(4).await;
    assert!(lines.iter().all(|line| line["decision"] == "deny"));
    assert_eq!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn git_is_refused_in_plain_text() {
    let world = standalone(&["h2"]).await;
    let request = Request::get(world.url("/other.git/info/refs")).header("host", world.authority());
    let request = request.header("user-agent", "git/2.39.5").body(Full::default()).unwrap();
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, request).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(
        answer.body.starts_with("agentsandbox refused api.good.test/other.git/info/refs: PathNotAllowed")
    );
}

#[tokio::test]
async fn p_c10_a_name_has_no_address_of_a_kind_that_is_not_fenced() {
    let world = standalone(&["h2"]).await;
    assert_eq!(query(&world, HOST, 28).await, (0, None), "no AAAA where the proxy has no IPv6 address");
    assert!(query(&world, HOST, 1).await.1.is_some());
}

#[tokio::test]
async fn p_c8_policy_dns_answers_allowed_names_with_the_proxy_and_denies_all_others() {
    let world = standalone(&["h2"]).await;
    assert_eq!(query(&world, "api.good.test", 1).await, (0, Some(vec![10, 96, 0, 9])));
    assert_eq!(query(&world, "api.good.test", 16).await, (0, None));
    assert_eq!(query(&world, "c2vjcmv0.evil.test", 1).await, (3, None));
    assert_eq!(query(&world, "x.api.good.test", 1).await, (3, None));
}

pub async fn query(world: &World, name: &str, kind: u16) -> (u8, Option<Vec<u8>>) {
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0]);
    packet.extend_from_slice(&[kind.to_be_bytes(), [0, 1]].concat());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&packet, world.at(Entrance::Dns)).await.unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await.unwrap();
    let data = (answer[7] == 1).then(|| answer[length - 4..length].to_vec());
    (answer[3] & 15, data)
}

#[tokio::test]
async fn websocket_passes_bytes_both_ways_after_an_accepted_handshake() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let io = world.connect(&world.authority()).await.unwrap();
    let io = world.tls(io, HOST, "http/1.1").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/v1/socket").header("host", world.authority());
    let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
    let request =
        request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").body(Full::<Bytes>::default());
    let response: Response<_> = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let mut io = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    let mut back = [0; 4];
    io.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"\x81\x02hi");
    drop(io);
    assert_eq!(world.line(&[("event", "end")]).await["status"], 101);
}

#[tokio::test]
async fn p_a20_no_other_upgrade_passes() {
    let world = standalone(&["http/1.1"]).await;
    let request = Request::get(world.url("/v1/x")).header("host", world.authority());
    let request = request.header("connection", "Upgrade, HTTP2-Settings").header("upgrade", "h2c");
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, request.body(Full::default()).unwrap()).await;
    denied(&answer, StatusCode::FORBIDDEN, "UnsupportedProtocol");
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn a_client_of_socks5_that_resolves_names_itself_is_served_in_plain_text_and_over_tls() {
    let world = standalone(&["http/1.1"]).await;
    // What the policy DNS answers with.
    let own = "10.96.0.9";
    let io = socks(&world, own, 80).await.unwrap();
    let answer = over_http1(io, get("/x", "plain.good.test")).await;
    denied(&answer, StatusCode::BAD_GATEWAY, "UpstreamUnreachable");
    let io = socks(&world, own, 80).await.unwrap();
    denied(&over_http1(io, get("/x", "evil.test")).await, StatusCode::FORBIDDEN, "HostNotAllowed");
    let io = socks(&world, own, 443).await.unwrap();
    assert!(world.tls(io, "tls.good.test", "http/1.1").await.is_ok());
}

#[tokio::test]
async fn p_i3_no_entrance_leads_to_the_admin_port() {
    let world = standalone(&["http/1.1"]).await;
    let admin = world.port(agentsandbox_proxy::serve::Port::Admin);
    let request = get(&format!("http://{admin}/metrics"), &admin.to_string());
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, request).await;
    denied(&answer, StatusCode::FORBIDDEN, "HostNotAllowed");
    let direct = TcpStream::connect(admin).await.unwrap();
    let metrics = over_http1(direct, get("/metrics", "proxy")).await;
    assert!(metrics.body.contains("reason=\"HostNotAllowed\"} 1"));
}
