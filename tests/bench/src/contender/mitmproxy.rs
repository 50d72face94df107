//! mitmproxy, with an add-on that injects and streams bodies.

use std::fs;
use std::process::Command;

use super::{Setting, right};
use crate::scenario::{Back, Front};

pub(super) fn command(setting: &Setting<'_>) -> Command {
    fs::create_dir_all(setting.folder.join("home")).unwrap();
    let bundle =
        [&setting.pki.ca_key, &setting.pki.ca].map(|file| fs::read_to_string(file).unwrap()).concat();
    setting.file("home/mitmproxy-ca.pem", &bundle);
    let inject = match setting.scenario.back() {
        Back::Plain => "pass".to_owned(),
        _ => format!("flow.request.headers['authorization'] = '{}'", right()),
    };
    let text = format!(
        "def requestheaders(flow):
    {inject}
    flow.request.stream = True
def responseheaders(flow):
    flow.response.stream = True
def server_connect(data):
    data.server.address = ('127.0.0.1', {})
",
        setting.target().port()
    );
    let addon = setting.file("bench.py", &text);
    let mode = match setting.scenario.front() {
        Front::BaseUrl => format!("reverse:https://{}:{}", setting.name(), setting.target().port()),
        _ => "regular".to_owned(),
    };
    let mut command = setting.peer_command("mitmproxy");
    command.args(["--mode", &mode, "--listen-host", "127.0.0.1"]);
    command.args(["--listen-port", &setting.listen.port().to_string()]);
    command.arg("--scripts").arg(addon);
    for option in [
        format!("confdir={}", setting.show("home")),
        format!("ssl_verify_upstream_trusted_ca={}", setting.pki.ca.display()),
        "connection_strategy=lazy".to_owned(),
        "upstream_cert=false".to_owned(),
        "flow_detail=1".to_owned(),
    ] {
        command.args(["--set", &option]);
    }
    command
}
