//! The binary, told to log all that its libraries can say.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::world::{HOST, KEY, World, get, over_http1, standalone};

const QUERY: &str = "canary-of-a-query";

/// It bounds a hang; it is no promise.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy of its own beside the one of the world.
struct Proxy {
    child: Child,
    address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// All that it said, once it has ended.
    fn said(mut self) -> String {
        self.child.kill().unwrap();
        self.log.take().unwrap().join().unwrap()
    }
}

/// One with the same policy and secrets.
fn told_to_say_everything(world: &World) -> Proxy {
    let at = |name: &str| world.folder.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
    command.arg("serve").arg("--policy").arg(at("policy.yaml"));
    command.arg("--secrets").arg(at("secrets")).arg("--state").arg(world.folder.path());
    command.args(["--bind=127.0.0.1", "--resolve", &format!("{HOST}=127.0.0.1"), "--admin-port=0"]);
    command.args(["--http-port=0", "--socks-port=0", "--base-url-port=0"]);
    let mut child =
        command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).split(b'\n');
    let (tells, told) = mpsc::channel();
    let log = thread::spawn(move || {
        let (mut said, mut tells) = (String::new(), Some(tells));
        for line in lines.map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let address = tells.as_ref().and_then(|_| base_url(&line));
            if let Some((tells, address)) = address.and_then(|address| Some((tells.take()?, address))) {
                let _ = tells.send(address);
            }
            said.push_str(&line);
            said.push('\n');
        }
        said
    });
    // Held before anything is waited for, so that it ends with the test however that ends.
    let mut proxy = Proxy { child, address: ([0, 0, 0, 0], 0).into(), log: Some(log) };
    proxy.address = told.recv_timeout(PATIENCE).unwrap();
    proxy
}

/// Where its base-URL entrance is, if this line says so.
fn base_url(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let is_it = line["fields"]["port"] == "Entrance(BaseUrl)";
    is_it.then(|| line["fields"]["address"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn p_f10_neither_the_key_nor_a_query_is_in_a_log_that_says_everything() {
    for (protocol, libraries) in [("h2", &["rustls::", "h2::"][..]), ("http/1.1", &["rustls::"])] {
        let world = standalone(&[protocol]).await;
        let proxy = told_to_say_everything(&world);
        let before = world.upstream_connections();
        let io = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let answer = over_http1(io, get(&format!("/good/v1/x?q={QUERY}"), "proxy")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert!(answer.body.contains(QUERY) && answer.body.contains("x-api-key"), "{}", answer.body);
        assert_eq!(world.upstream_connections(), before + 1);
        let said = proxy.said();
        for target in libraries {
            assert!(
                said.contains(&format!("\"target\":\"{target}")),
                "{target} has not said anything: {said}"
            );
        }
        assert!(!said.contains(KEY), "{protocol}: the key is in the log");
        assert!(!said.contains(QUERY), "{protocol}: the query is in the log");
    }
}
