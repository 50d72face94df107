//! The binary, told to log all that its libraries can say.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use http::StatusCode;
use serde_json::Value;

use crate::world::{HOST, KEY, World, get, over_http1, standalone};

const QUERY: &str = "canary-of-a-query";

/// A proxy of its own beside the one of the world, with the same policy and secrets.
fn told_to_say_everything(world: &World) -> (Child, BufReader<ChildStderr>, SocketAddr) {
    let at = |name: &str| world.folder.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
    command.arg("serve").arg("--policy").arg(at("policy.yaml"));
    command.arg("--secrets").arg(at("secrets")).arg("--state").arg(world.folder.path());
    command.args(["--bind=127.0.0.1", "--resolve", &format!("{HOST}=127.0.0.1"), "--admin-port=0"]);
    command.args(["--http-port=0", "--socks-port=0", "--base-url-port=0"]);
    let mut child =
        command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let address = log.by_ref().lines().find_map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).ok()?;
        let is_it = line["fields"]["port"] == "Entrance(BaseUrl)";
        is_it.then(|| line["fields"]["address"].as_str().unwrap().parse().unwrap())
    });
    (child, log, address.unwrap())
}

#[tokio::test]
async fn p_f10_neither_the_key_nor_a_query_is_in_a_log_that_says_everything() {
    for (protocol, libraries) in [("h2", &["rustls::", "h2::"][..]), ("http/1.1", &["rustls::"])] {
        let world = standalone(&[protocol]).await;
        let (mut child, mut log, address) = told_to_say_everything(&world);
        let log = std::thread::spawn(move || {
            let mut said = String::new();
            log.read_to_string(&mut said).unwrap();
            said
        });
        let before = world.upstream_connections();
        let io = tokio::net::TcpStream::connect(address).await.unwrap();
        let answer = over_http1(io, get(&format!("/good/v1/x?q={QUERY}"), "proxy")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert!(answer.body.contains(QUERY) && answer.body.contains("x-api-key"), "{}", answer.body);
        assert_eq!(world.upstream_connections(), before + 1);
        child.kill().unwrap();
        child.wait().unwrap();
        let said = log.join().unwrap();
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
