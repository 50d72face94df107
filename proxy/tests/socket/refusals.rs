//! Upstreams that refuse TLS: the client certificate that they are shown, or that they are shown none.

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use rcgen::KeyPair;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::certificates::{Clients, ask, put, until, world_of};
use crate::entrances::{denied, to};
use crate::upstream::Asks;
use crate::world::{Answer, HOST, World, over_http1};

/// One that refuses who shows no certificate of `clients`.
fn strict(clients: &Clients, version: &'static SupportedProtocolVersion) -> Asks {
    Asks { of_all: true, version: Some(version), ..clients.asked() }
}

#[track_caller]
fn refused(answer: &Answer, parts: [&str; 2]) {
    denied(answer, StatusCode::BAD_GATEWAY, "UpstreamRefused");
    assert_eq!(answer.headers["x-should-retry"], "false", "asking again changes nothing");
    for part in parts {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
}

#[tokio::test]
async fn p_f21_a_host_that_refuses_a_certificate_or_misses_one_is_told_so_with_what_to_change() {
    let (clients, strangers) = (Clients::new(), Clients::named("strangers"));
    let key = KeyPair::generate().unwrap();
    let expired =
        clients.pair_of("agent", &key, |client| client.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let (certificate, own) = clients.pair("agent");
    for version in [&TLS12, &TLS13] {
        for protocol in ["h2", "http/1.1"] {
            let bad = [(&expired, "certificate_expired"), (&strangers.pair("agent"), "unknown_ca")];
            for ((bad, key), alert) in bad {
                let (world, seen) = world_of(protocol, true, strict(&clients, version), (bad, key)).await;
                for path in ["/shown/x", "/both/x"] {
                    refused(&ask(&world, path).await, ["AgentCredential mtls", alert]);
                }
                let advice = "in clientCertificate of the rule";
                refused(&ask(&world, "/bare/x").await, ["certificate_required", advice]);
                assert_eq!(world.upstream_connections(), 3, "{protocol}: each is asked once");
                assert!(seen.names().is_empty(), "{protocol}");
                let line = world.line(&[("event", "end"), ("path", "/shown/x")]).await;
                assert_eq!(line["reason"], "UpstreamRefused", "{line}");
                put(&world, "tls.crt", &certificate);
                put(&world, "tls.key", &own);
                until(&world, "/shown/x", |answer| answer.body == "agent - -").await;
            }
        }
    }
}

/// A body that is on its way when the refusal comes.
async fn upload(world: &World) -> Answer {
    let authority = format!("{HOST}:{}", world.upstream.port());
    let request = Request::post(format!("https://{authority}/bare/x"))
        .header("host", authority)
        .body(Full::new(Bytes::from(vec![b'a'; 4 * 1024 * 1024])))
        .unwrap();
    over_http1(to(world, Entrance::HttpProxy).await, request).await
}

#[tokio::test]
async fn a_refusal_is_heard_while_a_long_body_is_sent() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    for protocol in ["h2", "http/1.1"] {
        let (world, _) = world_of(protocol, true, strict(&clients, &TLS13), (&certificate, &key)).await;
        for _ in 0..20 {
            refused(&upload(&world).await, ["certificate_required", "in clientCertificate of the rule"]);
        }
        assert_eq!(world.upstream_connections(), 20, "{protocol}");
    }
}
