//! How client certificates are shown through another proxy, and what the audit trail says of them.

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
