//! The transparent entrances, for programs that know nothing of a proxy: the policy DNS gave them this address, so the
//! address plays no part; SNI or Host says where they want to go.

use std::sync::Arc;

use super::line::Line;
use super::{Binding, EntranceContext, Origin, serve_http1, tls};
use crate::pipeline::Proxy;

const HTTPS_PORT: u16 = 443;

/// Serves one TLS connection.
pub(crate) async fn serve_tls(proxy: Arc<Proxy>, io: Line, origin: Origin) {
    tls::intercept(proxy, io, origin, None, HTTPS_PORT).await;
}

/// Serves one HTTP connection.
pub(crate) async fn serve_http(proxy: Arc<Proxy>, io: Line, origin: Origin) {
    serve_http1(proxy, io, EntranceContext { origin, binding: Binding::HostHeader }).await;
}
