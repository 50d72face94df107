//! Envoy: one worker, its credential injector, and for interception a TLS listener inside the process that its CONNECT
//! ends at.

use std::process::Command;

use super::{Setting, right};
use crate::scenario::{Back, Front};

pub(super) fn command(setting: &Setting<'_>) -> Command {
    let file = setting.file("envoy.yaml", &bootstrap(setting));
    let mut command = setting.peer_command("envoy");
    command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
    command
}

fn bootstrap(setting: &Setting<'_>) -> String {
    let (host, port) = (setting.listen.ip(), setting.listen.port());
    let address = format!("address: {{socket_address: {{address: {host}, port_value: {port}}}}}");
    let listeners = match setting.scenario.front() {
        Front::BaseUrl | Front::Absolute => format!(
            "  - name: front
    {address}
    filter_chains:
    - filters:
{}",
            manager(setting, "HTTP1")
        ),
        Front::Tunnel => tunnel(setting, &address, "http/1.1"),
        Front::TunnelH2 => tunnel(setting, &address, "h2"),
    };
    format!(
        "bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config: {{'@type': type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener}}
static_resources:
  secrets:
  - name: token
    generic_secret: {{secret: {{inline_string: '{bearer}'}}}}
  listeners:
{listeners}
  clusters:
{clusters}",
        bearer = right(),
        clusters = clusters(setting)
    )
}

fn tunnel(setting: &Setting<'_>, address: &str, protocol: &str) -> String {
    let codec = if protocol == "h2" { "HTTP2" } else { "HTTP1" };
    format!(
        "  - name: front
    {address}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: tunnel
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{connect_matcher: {{}}}}
                route:
                  cluster: inside
                  timeout: 0s
                  upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  - name: inside
    internal_listener: {{}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [{protocol}]
            tls_certificates:
            - certificate_chain: {{filename: '{}'}}
              private_key: {{filename: '{}'}}
      filters:
{}",
        setting.pki.leaf.display(),
        setting.pki.leaf_key.display(),
        manager(setting, codec)
    )
}

/// What handles requests: it logs to a file, injects, and forwards.
fn manager(setting: &Setting<'_>, codec: &str) -> String {
    let injector = match setting.scenario.back() {
        Back::Plain => "",
        _ => {
            "
          - name: envoy.filters.http.credential_injector
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector
              overwrite: true
              credential:
                name: envoy.http.injected_credentials.generic
                typed_config:
                  '@type': type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic
                  credential: {name: token}
                  header: authorization"
        }
    };
    format!(
        "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: {codec}
          generate_request_id: false
          http_protocol_options: {{allow_absolute_url: true}}
          http2_protocol_options: {{max_concurrent_streams: 1024}}
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{prefix: '/api/'}}
                route: {{cluster: up, prefix_rewrite: '/', host_rewrite_literal: {name}, timeout: 0s}}
              - match: {{prefix: '/'}}
                route: {{cluster: up, host_rewrite_literal: {name}, timeout: 0s}}
          http_filters:{injector}
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
              dynamic_stats: false",
        log = setting.show("access.log"),
        name = setting.name()
    )
}

fn clusters(setting: &Setting<'_>) -> String {
    let options = match setting.scenario.back() {
        Back::Http2 => "http2_protocol_options: {}",
        Back::Http1 | Back::Plain => "http_protocol_options: {}",
    };
    let tls = match setting.scenario.back() {
        Back::Plain => String::new(),
        back => format!(
            "
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {name}
        common_tls_context:
          alpn_protocols: [{protocol}]
          validation_context:
            trusted_ca: {{filename: '{ca}'}}
            match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: '*.bench.test'}}}}]",
            name = setting.name(),
            protocol = if back == Back::Http2 { "h2" } else { "http/1.1" },
            ca = setting.pki.ca.display()
        ),
    };
    let limits = "circuit_breakers: {thresholds: [{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}]}";
    format!(
        "  - name: up
    {limits}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{options}}}
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}{tls}
  - name: inside
    {limits}
    load_assignment:
      cluster_name: inside
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{envoy_internal_address: {{server_listener_name: inside}}}}}}
",
        ip = setting.target().ip(),
        port = setting.target().port()
    )
}
