use std::net::Ipv4Addr;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;
use crate::entrance::line::Pulse;
use crate::entrance::{Binding, Origin, Slot, serve_http1};
use crate::limits::POLICY_STALE_MAX;

fn policy(generation: u32, scheme: &str, port: u16) -> String {
    format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: {generation},
  rules: [{{name: good, host: api.good.test, ports: [{port}], scheme: {scheme}}}],
  addresses: {{allow: ['127.0.0.0/8']}}}}"
    )
}

/// A proxy that obeys this policy, whose host lives at two addresses of the machine.
fn proxy(folder: &std::path::Path, policy: &str) -> Arc<Proxy> {
    let at = |last| (Host::parse("api.good.test").unwrap(), Ipv4Addr::new(127, 0, 0, last).into());
    Arc::new(crate::serve::tests::proxy(folder, policy, vec![at(1), at(2)]))
}

/// The policy's file has been invalid for longer than the last good one is obeyed.
fn is_stale(proxy: &Proxy, folder: &std::path::Path) {
    std::fs::write(folder.join("policy.yaml"), "rules: nonsense").unwrap();
    proxy.policy.refresh(Instant::now() - POLICY_STALE_MAX * 2);
    assert_eq!(proxy.policy.current(Instant::now()).err(), Some(DenialReason::StalePolicy));
}

/// An agent's connection.
fn agent(proxy: &Arc<Proxy>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let slot = Slot::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
    let origin = Origin {
        entrance: Entrance::HttpProxy,
        peer: Ipv4Addr::LOCALHOST.into(),
        slot,
        pulse: Pulse::default(),
    };
    let context = EntranceContext { origin, binding: Binding::AbsoluteForm };
    tokio::spawn(serve_http1(Arc::clone(proxy), far, context));
    near
}

/// Sends a head and half of a body.
async fn begin(io: &mut DuplexStream, port: u16) {
    let head = format!("POST http://api.good.test:{port}/x HTTP/1.1\r\nhost: api.good.test:{port}\r\n");
    io.write_all(format!("{head}content-length: 10\r\n\r\n12345").as_bytes()).await.unwrap();
}

/// Reads a refusal, sends the rest of the body and another request, and reads what comes of that.
async fn refused_twice(mut io: DuplexStream, port: u16) -> [String; 2] {
    let mut first = String::new();
    while !first.ends_with("}\n") {
        first.push(char::from(io.read_u8().await.unwrap()));
    }
    let head = format!("GET http://api.good.test:{port}/x HTTP/1.1\r\nhost: api.good.test:{port}\r\n");
    // If the connection has ended, that is seen below.
    let _ = io.write_all(format!("67890{head}connection: close\r\n\r\n").as_bytes()).await;
    let mut second = String::new();
    io.read_to_string(&mut second).await.unwrap();
    [first, second]
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_refused_for_want_of_a_policy_can_use_its_connection_again_once_its_body_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = proxy(folder.path(), &policy(1, "http", 80));
    is_stale(&proxy, folder.path());
    let mut io = agent(&proxy);
    begin(&mut io, 80).await;
    for answer in refused_twice(io, 80).await {
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("StalePolicy"), "{answer}");
    }
}

#[tokio::test]
async fn an_agent_whose_answer_comes_when_there_is_no_policy_left_can_use_its_connection_again() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = upstream.local_addr().unwrap().port();
    let proxy = proxy(folder.path(), &policy(1, "http", port));
    let mut io = agent(&proxy);
    begin(&mut io, port).await;
    let (mut upstream, _) = upstream.accept().await.unwrap();
    let mut sent = Vec::new();
    while !sent.ends_with(b"12345") {
        sent.push(upstream.read_u8().await.unwrap());
    }
    is_stale(&proxy, folder.path());
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    for answer in refused_twice(io, port).await {
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("StalePolicy"), "{answer}");
    }
}

/// What a policy permits of this path.
fn permit(policy: &str, path: &str) -> Permit {
    let asked = agentsandbox_policy::Request {
        scheme: agentsandbox_policy::Scheme::Https,
        host: Host::parse("a.test").unwrap(),
        port: 443,
        method: agentsandbox_policy::Method::parse("GET").unwrap(),
        target: agentsandbox_policy::Target::parse(path).unwrap(),
        websocket: false,
    };
    agentsandbox_policy::Policy::from_yaml(policy).unwrap().decide(asked).unwrap()
}

#[test]
fn p_f21_no_cookie_of_the_agents_goes_out_on_a_rule_with_a_client_certificate() {
    let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, \
        rules: [{name: shown, host: a.test, ports: [443], scheme: https, paths: [/shown], clientCertificate: pair}, \
        {name: bare, host: a.test, ports: [443], scheme: https, paths: [/bare]}], \
        clientCertificates: [{name: pair, certificateFile: tls.crt, keyFile: tls.key, scopes: [{host: a.test, ports: [443]}]}]}";
    let sent = |path| {
        let mut fields = HeaderMap::new();
        for name in ["cookie", "x-plain"] {
            fields.insert(name, "session=mine".parse().unwrap());
        }
        outgoing(&permit(text, path), fields, None, None).unwrap().0.into_parts().0.headers
    };
    assert_eq!(sent("/shown").keys().collect::<Vec<_>>(), ["x-plain"]);
    assert_eq!(sent("/bare").len(), 2, "on another rule it is for the caller to remove");
}

#[test]
fn a_secret_that_does_not_fit_its_place_denies_in_the_name_of_its_credential() {
    let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, \
        rules: [{name: good, host: a.test, ports: [443], scheme: https, credential: sid}], \
        credentials: [{name: sid, inject: {type: Cookie, name: sid}, scopes: [{host: a.test, ports: [443]}]}]}";
    let permit = permit(text, "/x");
    let made = |secret| outgoing(&permit, HeaderMap::new(), Some(&Secret::of(secret)), None);
    let denial = made("a;b").unwrap_err();
    assert_eq!(
        (denial.reason, denial.credential.as_deref()),
        (DenialReason::CredentialUnavailable, Some("sid"))
    );
    assert_eq!(made("ab").unwrap().0.headers()["cookie"], "sid=ab");
}

#[tokio::test]
async fn p_f17_no_other_address_is_dialled_once_the_policy_has_changed() {
    for is_changed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).await.unwrap();
        let proxy = proxy(folder.path(), &policy(1, "https", port));
        let mut io = agent(&proxy);
        let head =
            format!("GET https://api.good.test:{port}/x HTTP/1.1\r\nhost: api.good.test:{port}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        let (handshake, _) = first.accept().await.unwrap();
        if is_changed {
            std::fs::write(folder.path().join("policy.yaml"), policy(2, "https", port)).unwrap();
            proxy.policy.refresh(Instant::now());
        }
        drop(handshake);
        if is_changed {
            let mut answer = String::new();
            while !answer.ends_with("}\n") {
                answer.push(char::from(io.read_u8().await.unwrap()));
            }
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Overtaken"), "{answer}");
            assert!(second.accept().now_or_never().is_none());
        } else {
            second.accept().await.unwrap();
        }
    }
}

#[tokio::test]
async fn p_f17_no_name_is_looked_up_for_a_request_that_its_policy_has_overtaken() {
    for (is_changed, reason) in [(false, DenialReason::ForbiddenAddress), (true, DenialReason::Overtaken)] {
        let folder = tempfile::tempdir().unwrap();
        let name = Host::parse("a.test").unwrap();
        // What it leads to is known once it was looked up, and refused then.
        let forbidden = Ipv4Addr::new(169, 254, 169, 254).into();
        let policy = |generation| policy(generation, "https", 443).replace("api.good.test", "a.test");
        let proxy = crate::serve::tests::proxy(folder.path(), &policy(1), vec![(name, forbidden)]);
        let loaded = proxy.policy.current(Instant::now()).unwrap();
        let mut entry = proxy.audit.open(Entrance::HttpProxy, Some(&loaded.policy));
        let recorded = entry.begins(permit(&policy(1), "/x")).await.unwrap();
        let permit = recorded.permit();
        let keys = Keys::of(&proxy, &loaded.policy, permit, Instant::now()).unwrap();
        let voice = keys.voice(permit);
        if is_changed {
            std::fs::write(folder.path().join("policy.yaml"), policy(2)).unwrap();
            proxy.policy.refresh(Instant::now());
        }
        let mut leave = Leave {
            loaded: &loaded,
            recorded: &recorded,
            keys,
            voice,
            target: None,
            progress: &Progress::default(),
            head_bytes: 0,
            // However soon.
            since: Instant::now(),
            is_renewed: false,
        };
        let failed =
            send(&proxy, &mut leave, Request::new(respond::empty()), &mut entry).await.err().unwrap();
        assert_eq!(failed.reason, reason);
    }
}

#[test]
fn a_request_that_went_out_and_is_not_sent_again_is_not_told_that_it_did_not() {
    let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, \
        rules: [{name: a, host: a.test, ports: [443], scheme: https}]}";
    let permit = permit(text, "/");
    let no_place =
        || Box::new(denial(&permit, DenialReason::UpstreamUnreachable).with_how_to_allow(NO_PLACE));
    let overtaken = || Box::new(denial(&permit, DenialReason::Overtaken));
    let bare = denial(&permit, DenialReason::UpstreamUnreachable);
    for denied in [&no_place as &dyn Fn() -> Box<Denial>, &overtaken] {
        assert_eq!(*send::told(denied(), &permit, false), *denied());
        assert_eq!(*send::told(denied(), &permit, true), bare);
    }
}
