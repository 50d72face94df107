//! What the agent brings of its own is removed at each entrance, and the key goes to nobody but the proven host.

use agentsandbox_proxy::entrance::Entrance;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::entrances::to;
use crate::world::{HOST, KEY, Setup, build, get, over_http1, scripted, standalone};

/// A request with these fields, beside one that must pass, through each entrance that reaches the upstream.
async fn passed_on(world: &crate::world::World, fields: &[(&str, &str)]) -> Vec<String> {
    let request = |uri: &str, host: &str| {
        let all = fields.iter().chain(&[("x-plain", "stays")]);
        let request = all.fold(Request::get(uri).header("host", host), |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(Full::default()).unwrap()
    };
    let authority = world.authority();
    let absolute =
        over_http1(to(world, Entrance::HttpProxy).await, request(&world.url("/v1/x"), &authority)).await;
    let base_url = over_http1(to(world, Entrance::BaseUrl).await, request("/good/v1/x", "proxy:8080")).await;
    let http1 = world.through_connect("http/1.1", request("/v1/x", &authority)).await;
    let http2 = world.through_connect("h2", request(&world.url("/v1/x"), &authority)).await;
    let io = crate::entrances::socks(world, HOST, world.upstream.port()).await.unwrap();
    let socks =
        over_http1(world.tls(io, HOST, "http/1.1").await.unwrap(), request("/v1/x", &authority)).await;
    let all = [absolute, base_url, http1, http2, socks].map(|answer| {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert!(answer.body.contains("x-plain: stays"));
        answer.body
    });
    all.to_vec()
}

#[tokio::test]
async fn p_a17_fields_that_name_another_client_or_host_are_removed() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let fields = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-anything",
        "x-original-url",
        "x-rewrite-url",
        "x-http-host-override",
        "x_forwarded_host",
        "via",
        "x-real-ip",
    ];
    let sent: Vec<_> = fields.iter().map(|name| (*name, "forged")).collect();
    for body in passed_on(&world, &sent).await {
        assert!(!body.contains("forged"), "{body}");
    }
}

#[tokio::test]
async fn p_a18_a_method_cannot_be_overridden() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let names = ["x-http-method-override", "x-method-override", "x-http-method", "X_HTTP_Method_Override"];
    let sent: Vec<_> = names.iter().map(|name| (*name, "DELETE")).collect();
    for body in passed_on(&world, &sent).await {
        assert!(!body.contains("DELETE"), "{body}");
    }
}

#[tokio::test]
async fn p_d14_every_spelling_of_an_authenticating_field_is_replaced_by_the_one_key() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let sent = [
        ("authorization", "Bearer own"),
        ("Authorization", "Basic own"),
        ("x-api-key", "own"),
        ("X_Api_Key", "own"),
        ("x-api_key", "own"),
        ("proxy_authorization", "own"),
        ("private-token", "own"),
        ("x-goog-api-key", "own"),
        ("cookie", "session=own"),
    ];
    for body in passed_on(&world, &sent).await {
        assert!(!body.contains("own"), "{body}");
        assert_eq!(body.matches(KEY).count(), 1, "{body}");
    }
}

#[tokio::test]
async fn p_f1_what_the_agent_sent_in_the_place_of_the_key_is_replaced() {
    for (inject, expected) in [
        ("{type: Header, name: x-api-key}", format!("x-api-key: {KEY}\n")),
        ("{type: Bearer}", format!("authorization: Bearer {KEY}\n")),
        ("{type: Basic, username: u}", "authorization: Basic dTpzay1yZWFsLTAxMjM0NTY3ODk=\n".to_owned()),
        ("{type: Query, name: key}", format!("/v1/x?a=1&key={KEY}\n")),
    ] {
        let policy = vec![("{type: Header, name: x-api-key}", inject)];
        let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
        let request = Request::get(world.url("/v1/x?a=1&KEY=own")).header("host", world.authority());
        let request = request
            .header("authorization", "Bearer own")
            .header("x-api-key", "own")
            .header("cookie", "s=own");
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, request.body(Full::default()).unwrap()).await;
        assert!(answer.body.contains(&expected), "{inject}: {}", answer.body);
        let own = if inject.contains("Query") { 0 } else { 1 };
        assert_eq!(answer.body.matches("own").count(), own, "only an unrelated query stays: {}", answer.body);
    }
}

#[tokio::test]
async fn p_f19_the_ca_of_one_sandbox_is_worth_nothing_in_another() {
    let (one, other) = (standalone(&["h2"]).await, standalone(&["h2"]).await);
    let io = other.connect(&other.authority()).await.unwrap();
    assert!(one.tls(io, HOST, "h2").await.unwrap_err().to_string().contains("certificate"));
    let io = other.connect(&other.authority()).await.unwrap();
    assert!(other.tls(io, HOST, "h2").await.is_ok());
}

#[tokio::test]
async fn p_f20_a_client_that_does_not_trust_the_ca_gets_no_tunnel() {
    let (world, stranger) = (standalone(&["h2"]).await, standalone(&["h2"]).await);
    let io = world.connect(&world.authority()).await.unwrap();
    assert!(stranger.tls(io, HOST, "h2").await.is_err());
    world.line(&[("event", "deny"), ("reason", "UnsupportedProtocol")]).await;
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn p_f9_an_upstream_that_cannot_prove_its_name_is_sent_nothing() {
    let setup = Setup {
        protocols: vec!["http/1.1"],
        script: Some(Vec::new()),
        certificate: Some("evil.test"),
        ..Setup::default()
    };
    let world = build(setup).await;
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.body.contains("UpstreamUntrusted"));
    assert_eq!((world.upstream_connections(), world.received().as_str()), (1, ""));
    let world = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(world.received().contains(KEY));
}

/// A client that notes whether it was asked for a certificate.
#[derive(Debug, Default)]
struct Asked(std::sync::atomic::AtomicBool);

impl rustls::client::ResolvesClientCert for Asked {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn p_f21_the_agent_is_never_asked_for_a_certificate() {
    let world = standalone(&["http/1.1"]).await;
    let asked = std::sync::Arc::new(Asked::default());
    let mut config = world.trusting("http/1.1");
    config.client_auth_cert_resolver = asked.clone();
    let io = world.connect(&world.authority()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(HOST).unwrap();
    let io = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, io).await.unwrap();
    assert_eq!(over_http1(io, get("/v1/x", &world.authority())).await.status, StatusCode::OK);
    assert!(!asked.0.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn p_f10_the_key_is_in_no_audit_line_and_neither_it_nor_a_host_in_a_metric() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let url = world.url(&format!("/v1/x?q={KEY}"));
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, get(&url, &world.authority())).await;
    assert!(answer.body.contains(KEY), "it was injected");
    world.line(&[("event", "end")]).await;
    let admin =
        tokio::net::TcpStream::connect(world.port(agentsandbox_proxy::serve::Port::Admin)).await.unwrap();
    let metrics = over_http1(admin, get("/metrics", "proxy")).await.body;
    assert!(metrics.contains("decisions_total"), "{metrics}");
    assert!(!metrics.contains(KEY) && !metrics.contains(HOST), "{metrics}");
    assert!(!format!("{:?}", world.lines()).contains(KEY));
}

#[tokio::test]
async fn p_f15_an_answer_that_asks_for_another_token_is_passed_on_and_nothing_is_asked_again() {
    let refusal = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n";
    let world = scripted(refusal).await;
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let end = world.line(&[("event", "end")]).await;
    assert_eq!((&end["status"], &end["decision"]), (&401.into(), &"allow".into()));
    assert_eq!(world.received().matches("/v1/x").count(), 1, "one request, with the key that there is");
    assert_eq!(world.upstream_connections(), 1);
}

#[tokio::test]
async fn p_g2_an_agent_can_neither_change_nor_remove_what_its_credential_pins() {
    let pins = (
        "  inject: {type: Header, name: x-api-key}",
        "  pinnedHeaders: [{name: openai-organization, value: org-ours}, {name: sudo}]\n  inject: {type: Header, name: x-api-key}",
    );
    let setup = Setup { protocols: vec!["h2", "http/1.1"], policy: vec![pins], ..Setup::default() };
    let world = build(setup).await;
    let sent = [
        ("openai-organization", "org-theirs"),
        ("OpenAI_Organization", "org-theirs"),
        ("sudo", "root-theirs"),
        ("Sudo", "root-theirs"),
        ("connection", "openai-organization"),
    ];
    // Over HTTP/2 there is no Connection.
    for sent in [&sent[..4], &[]] {
        for body in passed_on(&world, sent).await {
            assert!(!body.contains("theirs"), "{body}");
            assert_eq!(body.matches("openai-organization: org-ours").count(), 1, "{body}");
        }
    }
    let request = Request::get(world.url("/v1/x")).header("host", world.authority());
    let request = sent.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, request.body(Full::default()).unwrap()).await;
    assert!(answer.body.contains("openai-organization: org-ours"), "{}", answer.body);
    // Without the credential the fields are the agent's own.
    world.edit(|text| text.replace(", credential: good", "")).await;
    for body in passed_on(&world, &sent[..1]).await {
        assert!(body.contains("org-theirs"), "{body}");
    }
}
