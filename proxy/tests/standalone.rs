//! The example outside Kubernetes works as its README says: its commands, with its policy, on free ports.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states its claims by them, and so do its helpers"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// What the README writes before the program's arguments.
const PROGRAM: &str = "../../target/release/agentsandbox-proxy ";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/standalone")
}

/// The arguments of the README's line that runs the program with this subcommand.
fn arguments(subcommand: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(example().join("README.md")).unwrap();
    let line = readme
        .lines()
        .find_map(|line| line.strip_prefix(PROGRAM).filter(|rest| rest.starts_with(subcommand)));
    let line = line.unwrap_or_else(|| panic!("the README does not run {subcommand}"));
    // The one argument with spaces is quoted.
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

fn run(subcommand: &str, change: impl Fn(String) -> String) -> (bool, String) {
    let arguments = arguments(subcommand).into_iter().map(change);
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
    let output = command.args(arguments).current_dir(example()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn the_examples_policy_is_valid_and_explained() {
    let (valid, said) = run("check", |word| word);
    assert!(valid && said.contains("3 rules"), "{said}");
    let (allowed, said) = run("explain", |word| word);
    assert!(allowed && said.contains("\"credential\": \"anthropic\""), "{said}");
    let (allowed, said) = run("explain", |word| word.replace("api.anthropic.com", "example.com"));
    assert!(!allowed && said.contains("HostNotAllowed"), "{said}");
}

fn answer(address: SocketAddr, request: &str) -> String {
    let mut io = TcpStream::connect(address).unwrap();
    io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    io.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_example_serves_denies_with_a_remedy_and_tells_its_health() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["secrets", "state"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("secrets/anthropic"), "sk-ant-example").unwrap();
    std::fs::copy(example().join("policy.yaml"), folder.path().join("policy.yaml")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
    command.args(arguments("serve")).current_dir(folder.path());
    command.args(["--http-port=0", "--socks-port=0", "--base-url-port=0", "--admin-port=0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut listens = |port: &str| -> SocketAddr {
        let lines = log.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let mut found = lines.filter(|line| line["fields"]["port"] == port);
        found.next().unwrap()["fields"]["address"].as_str().unwrap().parse().unwrap()
    };
    let (http, admin) = (listens("Entrance(HttpProxy)"), listens("Admin"));

    let denied =
        answer(http, "GET http://example.com/ HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n");
    assert!(denied.starts_with("HTTP/1.1 403") && denied.contains("howToAllow"), "{denied}");
    let ready = answer(admin, "GET /readyz?exclude=resolver HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let metrics = answer(admin, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(metrics.contains("# TYPE"), "{metrics}");
    assert!(folder.path().join("state/ca.crt").is_file(), "the CA that clients are told to trust is there");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn tls_that_passes_unopened_is_explained_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    let policy = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1,
        rules: [{name: pinned, host: pinned.test, ports: [443], scheme: https, tls: Passthrough}]}";
    std::fs::write(&file, policy).unwrap();
    let explain = |request: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
        command.arg("explain").arg("--policy").arg(&file).args(["--request", request]);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (allowed, said) = explain("GET https://pinned.test/x");
    assert!(allowed && said.contains("Passthrough") && said.contains("pinned"), "{said}");
    assert!(!explain("GET http://pinned.test/x").0 && !explain("GET https://pinned.test:8443/x").0);
}
