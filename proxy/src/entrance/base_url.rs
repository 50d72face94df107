//! The base-URL entrance: `http://proxy:8080/<rule>/…` stands for the rule's host, for clients that know no proxy but
//! can be given another base URL.

use std::sync::Arc;

use super::{Binding, Entrance, EntranceContext, serve_http1};
use crate::pipeline::Proxy;

/// Serves one connection.
pub(crate) async fn serve(proxy: Arc<Proxy>, io: tokio::net::TcpStream, peer: std::net::IpAddr) {
    let context = EntranceContext { entrance: Entrance::BaseUrl, peer, binding: Binding::BaseUrl };
    serve_http1(proxy, io, context).await;
}
