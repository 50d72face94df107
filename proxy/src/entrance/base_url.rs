//! The base-URL entrance: `http://proxy:8080/<rule>/…` stands for the rule's host, for clients that know no proxy but
//! can be given another base URL.

use std::sync::Arc;

use super::line::Line;
use super::{Binding, EntranceContext, Origin, serve_http1};
use crate::pipeline::Proxy;

/// Serves one connection.
pub(crate) async fn serve(proxy: Arc<Proxy>, io: Line, origin: Origin) {
    serve_http1(proxy, io, EntranceContext { origin, binding: Binding::BaseUrl }).await;
}
