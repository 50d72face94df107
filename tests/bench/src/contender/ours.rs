//! Ours, without Kubernetes and with everything on: a policy, injection, scrubbing, and the audit trail into a file.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use super::Setting;
use crate::process::{CONTENDER_CORE, pinned};
use crate::scenario::Front;
use crate::{API, H2, MINT, PLAIN, SECRET};

/// Ours with so many rules; what is asked for is allowed by one of the last four.
pub(super) fn command(setting: &Setting<'_>, rules: usize) -> Command {
    for folder in ["secrets", "state"] {
        fs::create_dir_all(setting.folder.join(folder)).unwrap();
    }
    setting.file("secrets/bench", SECRET);
    fs::copy(&setting.pki.ca, setting.folder.join("state/ca.crt")).unwrap();
    fs::copy(&setting.pki.ca_key, setting.folder.join("state/ca.key")).unwrap();
    let policy = setting.file("policy.yaml", &policy(setting, rules));
    let mut command = pinned(CONTENDER_CORE, &setting.programs.ours);
    command.arg("serve").arg("--policy").arg(policy);
    command.arg("--secrets").arg(setting.folder.join("secrets"));
    command.arg("--state").arg(setting.folder.join("state"));
    for name in [API, H2, PLAIN] {
        command.args(["--resolve", &format!("{name}=127.0.0.1")]);
    }
    let port = setting.listen.port().to_string();
    let (base_url, http) = match setting.scenario.front() {
        Front::BaseUrl => (port.as_str(), "0"),
        _ => ("0", port.as_str()),
    };
    command.args([
        "--base-url-port",
        base_url,
        "--http-port",
        http,
        "--socks-port",
        "0",
        "--admin-port",
        "0",
    ]);
    command
}

fn policy(setting: &Setting<'_>, rules: usize) -> String {
    let (plain, http1, http2) =
        (setting.upstream.plain.port(), setting.upstream.http1.port(), setting.upstream.http2.port());
    let mut text = "apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: bench, name: bench}
generation: 1
addresses: {allow: [127.0.0.0/8]}
credentials:
- name: bench
  inject: {type: Bearer}
  scopes:
"
    .to_owned();
    for (host, port) in [(API, http1), (H2, http2)] {
        let _ = writeln!(text, "  - {{host: {host}, ports: [{port}], paths: ['/**']}}");
    }
    let roots = fs::read_to_string(&setting.pki.ca).unwrap();
    let _ = writeln!(text, "upstream:\n  additionalRoots: |\n    {}", roots.trim().replace('\n', "\n    "));
    text.push_str("rules:\n");
    for number in 0..rules - 4 {
        let _ = writeln!(
            text,
            "- {{name: other{number}, host: host{number}.example.com, ports: [443], scheme: https, methods: [GET, POST], paths: ['/v1/**', '/v2/*/items']}}"
        );
    }
    let rest = [
        format!("name: api, host: {API}, ports: [{http1}], scheme: https, paths: ['/**'], credential: bench"),
        format!("name: h2, host: {H2}, ports: [{http2}], scheme: https, paths: ['/**'], credential: bench"),
        format!("name: plain, host: {PLAIN}, ports: [{plain}], scheme: http, methods: [GET]"),
        format!("name: mint, host: '*.{MINT}', ports: [{http1}], scheme: https"),
    ];
    for rule in rest {
        let _ = writeln!(text, "- {{{rule}}}");
    }
    text
}
