//! CONNECT, SNI, Host and :authority: all must name the same destination.

use agentsandbox_proxy::entrance::Entrance;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::entrances::to;
use crate::world::{HOST, get, over_http1, raw, scripted, speak, standalone};

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
        let answer = raw(&world, Entrance::TransparentHttp, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{pair:?}: {answer}");
    }
    let answer = raw(&world, Entrance::TransparentHttp, b"GET / HTTP/1.1\r\n\r\n").await;
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
        let answer = raw(&world, Entrance::HttpProxy, head.as_bytes()).await;
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
    let closed =
        |line: &&serde_json::Value| line["event"] == "deny" && line["reason"] == "UnsupportedProtocol";
    for (number, text) in
        ["\0\0\0\x0cSSH-2.0-x\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "EHLO mail.test\r\n"].into_iter().enumerate()
    {
        let mut io = world.connect(&world.authority()).await.unwrap();
        io.write_all(text.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{text:?}");
        assert_eq!(world.audit(2 * number + 2).await.iter().filter(closed).count(), number + 1, "{text:?}");
    }
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

#[tokio::test]
async fn p_h6_a_url_of_another_scheme_is_not_fetched_in_plain_text() {
    let world = standalone(&["http/1.1"]).await;
    for (url, status) in [
        ("ftp://plain.good.test/x", StatusCode::BAD_REQUEST),
        ("https://plain.good.test/x", StatusCode::MISDIRECTED_REQUEST),
        // It is allowed, and nobody lives there.
        ("http://plain.good.test/x", StatusCode::BAD_GATEWAY),
        ("/x", StatusCode::BAD_GATEWAY),
    ] {
        let io = TcpStream::connect(world.at(Entrance::TransparentHttp)).await.unwrap();
        assert_eq!(over_http1(io, get(url, "plain.good.test")).await.status, status, "{url}");
    }
}

#[tokio::test]
async fn p_a3_a_tunnel_without_a_server_name_is_refused() {
    let world = standalone(&["h2"]).await;
    let mut config = world.trusting("h2");
    config.enable_sni = false;
    let io = world.connect(&world.authority()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(HOST).unwrap();
    let connected = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, io).await;
    assert!(connected.unwrap_err().to_string().contains("AccessDenied"));
    world.line(&[("event", "deny"), ("reason", "AuthorityMismatch")]).await;
    let io = world.connect(&world.authority()).await.unwrap();
    assert!(world.tls(io, HOST, "h2").await.is_ok(), "with its name it is served");
}

#[tokio::test]
async fn p_a8_a_host_field_that_can_be_read_in_two_ways_is_malformed() {
    let world = standalone(&["http/1.1"]).await;
    let url = world.url("/v1/x");
    for field in [
        "Host : api.good.test",
        "Host: api.good.test, evil.test",
        "Host: api.good.test\tevil.test",
        "Host: api.good.test\0",
        "Host: api.good.test\r\n evil.test",
        "Host: user@api.good.test",
        "Host: api.good.test/x",
        "Host:",
    ] {
        let entrances = [
            (Entrance::HttpProxy, url.as_str()),
            (Entrance::TransparentHttp, "/"),
            (Entrance::BaseUrl, "/good/v1/x"),
        ];
        for (entrance, target) in entrances {
            let head = format!("GET {target} HTTP/1.1\r\n{field}\r\n\r\n");
            let answer = raw(&world, entrance, head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{entrance:?} {field:?}: {answer}");
        }
    }
    assert_eq!(world.upstream_connections(), 0);
    let head = format!("GET {url} HTTP/1.1\r\nHost: {}\r\nconnection: close\r\n\r\n", world.authority());
    assert!(speak(&world, Entrance::HttpProxy, head.as_bytes()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn p_a15_the_proxy_is_no_destination_for_itself() {
    let world = standalone(&["http/1.1"]).await;
    for entrance in [Entrance::HttpProxy, Entrance::BaseUrl, Entrance::Dns] {
        let own = world.at(entrance).to_string();
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get(&format!("http://{own}/"), &own)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(world.connect(&own).await.unwrap_err().starts_with("HTTP/1.1 403"));
        assert_eq!(
            crate::entrances::socks(&world, "127.0.0.1", world.at(entrance).port()).await.unwrap_err(),
            2
        );
    }
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn p_a21_the_agent_is_never_sent_to_another_protocol() {
    let world = standalone(&["h2", "http/1.1"]).await;
    for protocol in ["h2", "http/1.1"] {
        let uri = if protocol == "h2" { world.url("/v1/x") } else { "/v1/x".to_owned() };
        let answer = world.through_connect(protocol, get(&uri, &world.authority())).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!answer.headers.contains_key("alt-svc"), "the upstream sends one: see its echo");
    }
    let (code, data) = crate::entrances::query(&world, HOST, 65).await;
    assert_eq!((code, data), (0, None), "an HTTPS record would carry ech and alpn=h3");
}

#[tokio::test]
async fn p_a24_dns_over_https_is_a_request_like_any_other() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let answer = world.through_connect("http/1.1", get("/dns-query?dns=AAAA", &world.authority())).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(world.connect("dns.google:443").await.unwrap_err().starts_with("HTTP/1.1 403"));
    let answer = world.through_connect("http/1.1", get("/v1/dns-query", &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK, "where a rule allows the path");
}

#[tokio::test]
async fn p_h5_a_preamble_or_field_does_not_change_who_the_agent_is() {
    let world = standalone(&["http/1.1"]).await;
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nconnection: close\r\n\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    let preamble = format!("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n{head}");
    assert!(speak(&world, Entrance::HttpProxy, preamble.as_bytes()).await.starts_with("HTTP/1.1 400"));
    assert!(speak(&world, Entrance::HttpProxy, head.as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert!(world.lines().iter().all(|line| !line.to_string().contains("10.0.0.1")));
}

#[tokio::test]
async fn p_c6_a_redirect_is_never_followed() {
    for target in [
        "http://169.254.169.254/latest/",
        "https://evil.test/",
        "http://api.good.test/v1/x",
        "hT\ttp://evil.test/",
        "//evil.test/http:",
    ] {
        let world =
            scripted(format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n")).await;
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority()))
                .await;
        assert_eq!(
            (answer.status, answer.headers["location"].to_str().unwrap()),
            (StatusCode::FOUND, target)
        );
        assert_eq!((world.upstream_connections(), world.received().matches("HTTP/1.1\r\n").count()), (1, 1));
        let ends = world.line(&[("event", "end")]).await;
        let is_flagged = ends.get("leadsToHttp").is_some_and(|flag| flag == true);
        assert_eq!(is_flagged, target.replace('\t', "").to_lowercase().starts_with("http:"), "{ends}");
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get("https://evil.test/", "evil.test")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "what the agent does with it is judged afresh");
    }
}

#[tokio::test]
async fn p_i14_a_denial_asks_for_no_retry() {
    let world = standalone(&["http/1.1"]).await;
    for path in ["/admin", "/v1/x"] {
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url(path), &world.authority()))
                .await;
        let refused = answer.status == StatusCode::FORBIDDEN;
        assert_eq!(refused, path == "/admin", "403 is in no client's list of what to try again");
        assert_eq!(answer.headers.get("x-should-retry").is_some_and(|told| told == "false"), refused);
    }
}

#[tokio::test]
async fn p_a19_a_method_that_echoes_is_allowed_nowhere_and_the_answer_says_so() {
    let world = standalone(&["http/1.1"]).await;
    for (method, status) in [
        ("TRACE", StatusCode::METHOD_NOT_ALLOWED),
        ("TRACK", StatusCode::METHOD_NOT_ALLOWED),
        ("DEBUG", StatusCode::FORBIDDEN),
        ("DELETE", StatusCode::FORBIDDEN),
        ("GET", StatusCode::OK),
    ] {
        for url in [world.url("/v1/x"), "https://evil.test/".to_owned()] {
            let status = if url.contains("evil") && method == "GET" { StatusCode::FORBIDDEN } else { status };
            let host = url.split('/').nth(2).unwrap().to_owned();
            let request = Request::builder().method(method).uri(&url).header("host", host);
            let io = to(&world, Entrance::HttpProxy).await;
            let answer = over_http1(io, request.body(Full::default()).unwrap()).await;
            assert_eq!(answer.status, status, "{method} {url}");
            assert_eq!(answer.headers.contains_key("allow"), status == StatusCode::METHOD_NOT_ALLOWED);
        }
    }
}

#[tokio::test]
async fn p_g6_nothing_is_answered_from_a_cache() {
    let world =
        scripted("HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\netag: \"e\"\r\ncontent-length: 0\r\n\r\n")
            .await;
    for sent in 1..=2 {
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority()))
                .await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(world.received().matches("GET /v1/x HTTP/1.1").count(), sent);
    }
    assert!(!world.received().contains("if-none-match"));
}

#[tokio::test]
async fn p_a4_transparent_tls_is_dialled_where_its_name_lives() {
    let world = standalone(&["http/1.1"]).await;
    let io =
        world.tls(to(&world, Entrance::TransparentTls).await, "tls.good.test", "http/1.1").await.unwrap();
    over_http1(io, get("/", "tls.good.test")).await;
    let line = world.line(&[("event", "end"), ("entrance", "transparent-tls")]).await;
    assert_eq!((&line["host"], &line["address"]), (&"tls.good.test".into(), &"127.0.0.7:443".into()));
}

#[tokio::test]
async fn p_a5_transparent_http_is_dialled_where_its_host_lives() {
    let world = standalone(&["http/1.1"]).await;
    over_http1(to(&world, Entrance::TransparentHttp).await, get("/", "plain.good.test")).await;
    let line = world.line(&[("event", "end"), ("entrance", "transparent-http")]).await;
    assert_eq!((&line["host"], &line["address"]), (&"plain.good.test".into(), &"127.0.0.8:80".into()));
    let answer = over_http1(to(&world, Entrance::TransparentHttp).await, get("/", "evil.test")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}
