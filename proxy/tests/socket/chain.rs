//! Destinations behind a proxy of the organisation's own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use agentsandbox_proxy::entrance::Entrance;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::entrances::{denied, injected, to};
use crate::world::{HOST, KEY, World, get, over_http1, standalone};

pub const PASSWORD: &str = "pw-corporate-0123";

/// What a proxy was told, byte for byte.
pub type Told = Arc<Mutex<Vec<u8>>>;

/// A proxy that hands on to loopback, whatever the name, and takes one user only.
pub async fn corporate(protocol: &'static str) -> (SocketAddr, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, told) = (listener.local_addr().unwrap(), Told::default());
    let heard = Arc::clone(&told);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                if protocol == "http" { http(io, heard).await } else { socks5(io, heard).await }
            });
        }
    });
    (address, told)
}

async fn http(mut io: TcpStream, told: Told) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = io.read_u8().await else { return };
        head.push(byte);
    }
    told.lock().unwrap().extend_from_slice(&head);
    let head = String::from_utf8(head).unwrap();
    let login = format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(format!("agent:{PASSWORD}")));
    if !head.contains(&login) {
        let _ =
            io.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
        return;
    }
    let port: u16 = head.split(' ').nth(1).unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    io.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = copy_bidirectional(&mut io, &mut far).await;
}

async fn socks5(mut io: TcpStream, told: Told) {
    let mut read = async |length: usize| {
        let mut bytes = vec![0; length];
        io.read_exact(&mut bytes).await.unwrap();
        told.lock().unwrap().extend_from_slice(&bytes);
        bytes
    };
    assert_eq!(read(3).await, [5, 1, 2]);
    io.write_all(&[5, 2]).await.unwrap();
    let mut read = async |length: usize| {
        let mut bytes = vec![0; length];
        io.read_exact(&mut bytes).await.unwrap();
        told.lock().unwrap().extend_from_slice(&bytes);
        bytes
    };
    let name = usize::from(read(2).await[1]);
    let name = read(name).await;
    let password = usize::from(read(1).await[0]);
    let fits = name == b"agent" && read(password).await == PASSWORD.as_bytes();
    io.write_all(&[1, u8::from(!fits)]).await.unwrap();
    if !fits {
        return;
    }
    let mut head = [0; 5];
    io.read_exact(&mut head).await.unwrap();
    assert_eq!(head[..4], [5, 1, 0, 3], "a name, not an address");
    let mut name = vec![0; usize::from(head[4])];
    io.read_exact(&mut name).await.unwrap();
    told.lock().unwrap().extend_from_slice(&name);
    let mut far = TcpStream::connect(("127.0.0.1", io.read_u16().await.unwrap())).await.unwrap();
    io.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let _ = copy_bidirectional(&mut io, &mut far).await;
}

/// Puts a proxy between this world's proxy and its upstream.
async fn behind(world: &World, url: &str, password: &str) {
    std::fs::write(world.folder.path().join("secrets/corporate"), password).unwrap();
    world.edit(|text| through(text, url)).await;
}

/// The policy document with a proxy in it.
pub fn through(text: &str, url: &str) -> String {
    let port = url.rsplit(':').next().unwrap();
    let credential = format!(
        "credentials:\n- {{name: corporate, inject: {{type: Basic, username: agent}}, scopes: [{{host: proxy.test, ports: [{port}]}}, {{host: meta.good.test, ports: [{port}]}}]}}\n"
    );
    let proxy = format!("upstream:\n  proxy: {{url: '{url}', credential: corporate}}\n");
    text.replace("credentials:\n", &credential).replace("upstream:\n", &proxy)
}

async fn ask(world: &World) -> crate::world::Answer {
    over_http1(to(world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await
}

#[tokio::test]
async fn every_upstream_is_reached_through_the_proxy_that_the_policy_names() {
    for protocol in ["http", "socks5"] {
        let world = standalone(&["h2", "http/1.1"]).await;
        let (address, told) = corporate(protocol).await;
        behind(&world, &format!("{protocol}://proxy.test:{}", address.port()), PASSWORD).await;
        let answer = ask(&world).await;
        injected(&answer);
        assert!(
            !answer.body.contains("proxy-auth") && !answer.body.contains("x-agentsandbox-loop"),
            "{}",
            answer.body
        );
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((&line["host"], &line["address"]), (&HOST.into(), &address.to_string().into()));
        let heard = String::from_utf8_lossy(&told.lock().unwrap()).into_owned();
        assert!(heard.contains(HOST) && !heard.contains(KEY), "{heard:?}");
        assert_eq!(world.upstream_connections(), 1);
        assert!(
            !std::fs::read_to_string(world.folder.path().join("policy.yaml")).unwrap().contains(PASSWORD)
        );
        // What is denied is denied before the proxy hears of it.
        let before = told.lock().unwrap().len();
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get("https://evil.test/", "evil.test")).await;
        assert_eq!((answer.status, told.lock().unwrap().len()), (StatusCode::FORBIDDEN, before));
    }
}

#[tokio::test]
async fn without_its_proxy_an_upstream_is_not_reached_at_all() {
    for protocol in ["http", "socks5"] {
        let world = standalone(&["http/1.1"]).await;
        let (address, _) = corporate(protocol).await;
        behind(&world, &format!("{protocol}://proxy.test:{}", address.port()), "pw-wrong").await;
        let answer = ask(&world).await;
        denied(&answer, StatusCode::FORBIDDEN, "UpstreamProxyRefused");
        let whom = format!(
            "The upstream proxy proxy.test:{} does not take the login of credential corporate",
            address.port()
        );
        assert!(answer.body.contains(&whom) && !answer.body.contains("pw-wrong"), "{}", answer.body);
        std::fs::remove_file(world.folder.path().join("secrets/corporate")).unwrap();
        for _ in 0..500 {
            if ask(&world).await.body.contains("CredentialUnavailable") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        denied(&ask(&world).await, StatusCode::FORBIDDEN, "CredentialUnavailable");
        assert_eq!(world.upstream_connections(), 0);
    }
    let world = standalone(&["http/1.1"]).await;
    assert_eq!(ask(&world).await.status, StatusCode::OK);
}

/// A proxy that answers each CONNECT with this status, and how often it was asked.
async fn refusing(status: u16) -> (SocketAddr, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, told) = (listener.local_addr().unwrap(), Told::default());
    let heard = Arc::clone(&told);
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = io.read_u8().await else { break };
                head.push(byte);
            }
            heard.lock().unwrap().push(b'.');
            let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 6\r\n\r\n<html>");
            let _ = io.write_all(answer.as_bytes()).await;
        }
    });
    (address, told)
}

#[tokio::test]
async fn p_i14_what_the_upstream_proxy_refuses_is_final_and_is_told_with_the_proxy_and_its_status() {
    for (status, is_final, says) in [
        (403, true, "opens no way to api.good.test:"),
        (407, true, "does not take the login of credential corporate"),
        (404, true, "opens no way to"),
        (302, true, "opens no way to"),
        (429, false, "try again later"),
        (502, false, "try again later"),
        (503, false, "try again later"),
    ] {
        let world = standalone(&["http/1.1"]).await;
        let (address, told) = refusing(status).await;
        behind(&world, &format!("http://proxy.test:{}", address.port()), PASSWORD).await;
        let answer = ask(&world).await;
        let (expected, reason) = match is_final {
            true => (StatusCode::FORBIDDEN, "UpstreamProxyRefused"),
            false => (StatusCode::BAD_GATEWAY, "UpstreamUnreachable"),
        };
        denied(&answer, expected, reason);
        let no_retry = answer.headers.get("x-should-retry").map(|value| value.to_str().unwrap());
        assert_eq!(no_retry, is_final.then_some("false"), "{status}");
        assert!(answer.body.contains(says) && !answer.body.contains("<html>"), "{}", answer.body);
        let named = format!("The upstream proxy proxy.test:{}", address.port());
        let numbered = format!("status {status}");
        assert_eq!(
            answer.body.contains(&named) && answer.body.contains(&numbered),
            is_final,
            "{}",
            answer.body
        );
        assert_eq!(told.lock().unwrap().len(), 1, "{status}: it was asked once");
        let line = world.line(&[("event", "end"), ("reason", reason)]).await;
        assert_eq!((&line["decision"], world.upstream_connections()), (&"allow".into(), 0), "{line}");
    }
}

#[tokio::test]
async fn p_i14_an_upstream_proxy_that_asks_for_a_login_where_none_is_written_is_told_as_that() {
    for protocol in ["http", "socks5"] {
        let world = standalone(&["http/1.1"]).await;
        let (address, _) = if protocol == "http" { refusing(407).await } else { wanting_a_password().await };
        let url = format!("{protocol}://proxy.test:{}", address.port());
        world
            .edit(|text| text.replace("upstream:\n", &format!("upstream:\n  proxy: {{url: '{url}'}}\n")))
            .await;
        let answer = ask(&world).await;
        denied(&answer, StatusCode::FORBIDDEN, "UpstreamProxyRefused");
        assert!(answer.body.contains("asks for a login, and none is written"), "{}", answer.body);
    }
}

/// A proxy of SOCKS5 that takes no other way of login than a password.
async fn wanting_a_password() -> (SocketAddr, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let mut said = [0; 3];
            let _ = io.read_exact(&mut said).await;
            let _ = io.write_all(&[5, 0xff]).await;
        }
    });
    (address, Told::default())
}

#[tokio::test]
async fn p_f17_a_tunnel_that_was_opened_with_a_replaced_or_deleted_password_carries_no_more_requests() {
    for protocol in ["http", "socks5"] {
        for upstream in ["h2", "http/1.1"] {
            let world = standalone(&[upstream]).await;
            let (address, told) = corporate(protocol).await;
            behind(&world, &format!("{protocol}://proxy.test:{}", address.port()), PASSWORD).await;
            injected(&ask(&world).await);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let heard = told.lock().unwrap().len();
            injected(&ask(&world).await);
            assert_eq!(told.lock().unwrap().len(), heard, "the tunnel is kept, and used again");
            let file = world.folder.path().join("secrets/corporate");
            // The proxy takes the old password only: what is told the new one is a new tunnel.
            std::fs::write(&file, "pw-rotated").unwrap();
            until(&world, StatusCode::FORBIDDEN).await;
            denied(&ask(&world).await, StatusCode::FORBIDDEN, "UpstreamProxyRefused");
            std::fs::write(&file, PASSWORD).unwrap();
            until(&world, StatusCode::OK).await;
            std::fs::remove_file(&file).unwrap();
            until(&world, StatusCode::FORBIDDEN).await;
            denied(&ask(&world).await, StatusCode::FORBIDDEN, "CredentialUnavailable");
        }
    }
}

/// Asks until this is the answer, for as long as a rotation may take.
async fn until(world: &World, status: StatusCode) {
    for _ in 0..500 {
        if ask(world).await.status == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn p_c7_the_address_of_the_upstream_proxy_is_judged_like_any_other() {
    let world = standalone(&["http/1.1"]).await;
    let (address, told) = corporate("http").await;
    behind(&world, &format!("http://meta.good.test:{}", address.port()), PASSWORD).await;
    let answer = ask(&world).await;
    denied(&answer, StatusCode::FORBIDDEN, "ForbiddenAddress");
    assert!(answer.body.contains("meta.good.test resolves to 169.254.169.254"), "{}", answer.body);
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn p_a15_a_proxy_that_is_its_own_upstream_proxy_goes_round_once() {
    let world = standalone(&["http/1.1"]).await;
    let own = world.at(Entrance::HttpProxy).port();
    behind(&world, &format!("http://proxy.test:{own}"), PASSWORD).await;
    denied(&ask(&world).await, StatusCode::BAD_GATEWAY, "UpstreamUnreachable");
    world.line(&[("event", "deny"), ("reason", "LoopDetected")]).await;
    assert_eq!(world.upstream_connections(), 0);
}
