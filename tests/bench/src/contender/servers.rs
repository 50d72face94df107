//! nginx and HAProxy, as reverse proxies: they take a base URL or TLS, and know no CONNECT.

use std::process::Command;

use super::{Setting, right};
use crate::scenario::{Back, Front, Scenario};

pub(super) fn nginx(setting: &Setting<'_>) -> Command {
    let (name, bearer, listen) = (setting.name(), right(), setting.listen);
    // To upstreams it speaks HTTP/2 for gRPC alone, so that its events come over HTTP/1.1.
    let back = match setting.scenario {
        Scenario::Events => setting.upstream.http1,
        _ => setting.target(),
    };
    let name = if setting.scenario == Scenario::Events { crate::API } else { name };
    let scheme = if setting.scenario.back() == Back::Plain { "http" } else { "https" };
    let secure = setting.scenario.front() == Front::TunnelH2;
    let tls = if secure { " ssl http2" } else { "" };
    let pass = match setting.scenario {
        Scenario::Grpc => "location / { grpc_pass grpcs://up; }".to_owned(),
        _ => format!(
            "location /api/ {{ proxy_pass {scheme}://up/; }} location / {{ proxy_pass {scheme}://up; }}"
        ),
    };
    let (ca, leaf, key) =
        (setting.pki.ca.display(), setting.pki.leaf.display(), setting.pki.leaf_key.display());
    let folder = setting.folder.display();
    let authorization = match setting.scenario.back() {
        Back::Plain => String::new(),
        _ => format!(
            "proxy_set_header Authorization \"{bearer}\"; grpc_set_header Authorization \"{bearer}\";"
        ),
    };
    let buffering = match setting.scenario {
        Scenario::Events => "proxy_buffering off;",
        _ => {
            "proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;"
        }
    };
    let text = format!(
        "daemon off; master_process off; worker_processes 1;
pid {folder}/pid; error_log {folder}/error.log error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  tcp_nodelay on; keepalive_requests 1000000000; http2_max_concurrent_streams 1024;
  client_max_body_size 0; proxy_request_buffering off; {buffering}
  upstream up {{ server {back}; keepalive 1024; keepalive_requests 1000000000; }}
  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host {name};
  {authorization}
  proxy_ssl_server_name on; proxy_ssl_name {name}; proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};
  proxy_ssl_protocols TLSv1.2 TLSv1.3;
  grpc_ssl_server_name on; grpc_ssl_name {name}; grpc_ssl_verify on; grpc_ssl_trusted_certificate {ca};
  grpc_ssl_protocols TLSv1.2 TLSv1.3;
  ssl_certificate {leaf}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
  server {{ listen {listen}{tls}; {pass} }}
}}
"
    );
    let file = setting.file("nginx.conf", &text);
    let mut command = setting.peer_command("nginx");
    command
        .arg("-p")
        .arg(&setting.folder)
        .arg("-e")
        .arg(setting.folder.join("error.log"))
        .arg("-c")
        .arg(file);
    command
}

pub(super) fn haproxy(setting: &Setting<'_>) -> Command {
    let (name, bearer, listen, back) = (setting.name(), right(), setting.listen, setting.target());
    let (ca, leaf) = (setting.pki.ca.display(), setting.pki.leaf_with_key.display());
    let front = match setting.scenario.front() {
        Front::TunnelH2 => format!(" ssl crt {leaf} alpn h2"),
        _ => String::new(),
    };
    let tls = |protocol: &str| {
        format!(" ssl verify required ca-file {ca} sni str({name}) verifyhost {name} alpn {protocol}")
    };
    let (server, authorization) = match setting.scenario.back() {
        Back::Plain => (String::new(), String::new()),
        Back::Http1 => (tls("http/1.1"), format!("http-request set-header authorization \"{bearer}\"")),
        Back::Http2 => (tls("h2"), format!("http-request set-header authorization \"{bearer}\"")),
    };
    let text = format!(
        "global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
  tune.h2.max-concurrent-streams 1024
defaults
  mode http
  log global
  option httplog
  timeout connect 10s
  timeout client 600s
  timeout server 600s
frontend front
  bind {listen}{front}
  http-request replace-path /api/(.*) /\\1
  http-request set-header host {name}
  {authorization}
  default_backend back
backend back
  http-reuse always
  server up {back}{server}
"
    );
    let file = setting.file("haproxy.cfg", &text);
    let mut command = setting.peer_command("haproxy");
    command.arg("-db").arg("-f").arg(file);
    command
}
