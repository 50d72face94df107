//! The transparent entrances, for programs that know nothing of a proxy: the policy DNS gave them this address, so the
//! address plays no part; SNI or Host says where they want to go.

use std::sync::Arc;

use super::{Binding, Entrance, EntranceContext, serve_http1, tls};
use crate::pipeline::Proxy;

const HTTPS_PORT: u16 = 443;

/// Serves one TLS connection.
pub(crate) async fn serve_tls(proxy: Arc<Proxy>, io: tokio::net::TcpStream, peer: std::net::IpAddr) {
    tls::intercept(proxy, io, Entrance::TransparentTls, peer, None, HTTPS_PORT).await;
}

/// Serves one HTTP connection.
pub(crate) async fn serve_http(proxy: Arc<Proxy>, io: tokio::net::TcpStream, peer: std::net::IpAddr) {
    let context = EntranceContext { entrance: Entrance::TransparentHttp, peer, binding: Binding::HostHeader };
    serve_http1(proxy, io, context).await;
}
