//! Which connections client certificates have, also through another proxy, and what the audit trail says of them.

use crate::certificates::{Clients, NOBODY, ask, put, until, world_with};
use crate::chain;
use crate::world::HOST;

#[tokio::test]
async fn p_f21_a_certificate_that_a_host_did_not_ask_for_is_written_down_as_not_shown() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    for protocol in ["h2", "http/1.1"] {
        let pair = (None, (certificate.as_str(), key.as_str()));
        let (world, _) = world_with(protocol, true, pair, |text| text).await;
        for path in ["/shown/x", "/shown/y"] {
            assert_eq!(ask(&world, path).await.body, "nobody - -", "{protocol}");
            let line = world.line(&[("event", "end"), ("path", path)]).await;
            let said = (&line["clientCertificate"], &line["clientCertificateShown"]);
            assert_eq!(said, (&"mtls".into(), &false.into()), "{protocol}: {line}");
            let line = world.line(&[("event", "begin"), ("path", path)]).await;
            assert!(line.get("clientCertificateShown").is_none(), "{protocol}: {line}");
        }
        assert_eq!(world.upstream_connections(), 1, "{protocol}");
    }
}

/// A policy document with what it says of one certificate said of a second one as well.
fn with_a_second(text: String) -> String {
    let second = |part: &str| {
        part.replace("shown", "second").replace("mtls", "second").replace("tls.", "other.") + "\n"
    };
    let rule = second(text.lines().find(|line| line.starts_with("- {name: shown")).unwrap());
    let owned: Vec<_> = text.lines().skip_while(|line| *line != "- name: mtls").take(4).collect();
    let owned = second(&owned.join("\n"));
    text.replace("rules:\n", &format!("rules:\n{rule}"))
        .replace("clientCertificates:\n", &format!("clientCertificates:\n{owned}"))
}

#[tokio::test]
async fn p_a11_of_two_client_certificates_for_one_host_each_has_a_connection_and_neither_ends_the_others() {
    let clients = Clients::new();
    let ((certificate, key), (other, other_key)) = (clients.pair("agent"), clients.pair("other"));
    for protocol in ["h2", "http/1.1"] {
        let pair = (Some(clients.asked()), (certificate.as_str(), key.as_str()));
        let (world, seen) = world_with(protocol, true, pair, with_a_second).await;
        put(&world, "other.crt", &other);
        put(&world, "other.key", &other_key);
        until(&world, "/second/x", |answer| answer.body == "other - -").await;
        for _ in 0..3 {
            for (path, wanted) in
                [("/shown/x", "agent - -"), ("/second/x", "other - -"), ("/bare/x", "nobody - -")]
            {
                assert_eq!(ask(&world, path).await.body, wanted, "{protocol}");
            }
        }
        assert_eq!(seen.names(), ["other", "agent", NOBODY], "{protocol}: each is used three times");
    }
}

#[tokio::test]
async fn p_f21_the_host_behind_an_upstream_proxy_is_shown_the_certificate() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    for protocol in ["http", "socks5"] {
        let (address, told) = chain::corporate(protocol).await;
        let url = format!("{protocol}://proxy.test:{}", address.port());
        let pair = (Some(clients.asked()), (certificate.as_str(), key.as_str()));
        let (world, seen) = world_with("h2", true, pair, |text| chain::through(&text, &url)).await;
        put(&world, "corporate", chain::PASSWORD);
        until(&world, "/shown/x", |answer| answer.body == "agent - -").await;
        assert_eq!(ask(&world, "/bare/x").await.body, "nobody - -", "{protocol}");
        assert_eq!(seen.names(), ["agent", NOBODY], "{protocol}");
        let line = world.line(&[("event", "end"), ("path", "/shown/x"), ("decision", "allow")]).await;
        assert_eq!(line["address"], address.to_string(), "{protocol}: the proxy was gone through");
        assert!(String::from_utf8_lossy(&told.lock().unwrap()).contains(HOST), "{protocol}");
    }
}
