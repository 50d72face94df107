//! The way to the collector, and the only socket that is opened for no request: to where the policy document says, and to nothing that
//! an agent could name. One batch is one connection, so nothing is kept that could grow old; its TLS sessions are its own.

use std::net::SocketAddr;
use std::sync::Arc;

use agentsandbox_policy::{Collector, Policy, Scheme};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::Dropped;
use crate::config::chain;
use crate::limits::{TRACES_ANSWER_HEAD_BYTES_MAX, TRACES_TIMEOUT};
use crate::resolve::Resolver;
use crate::upstream::server_name;

/// Where OTLP over HTTP takes traces.
const PATH: &str = "/v1/traces";
/// The name of what sends, as the protocol asks for.
const AGENT: &str = concat!("agentsandbox-proxy/", env!("CARGO_PKG_VERSION"));

/// How to reach one collector.
pub(crate) struct Way {
    to: Collector,
    tls: TlsConnector,
}

impl Way {
    /// To a collector that is verified as upstreams are.
    pub(crate) fn to(to: Collector, mut tls: ClientConfig) -> Self {
        tls.resumption = Resumption::in_memory_sessions(1);
        Self { to, tls: TlsConnector::from(Arc::new(tls)) }
    }

    /// Sends an `ExportTraceServiceRequest` once.
    pub(super) async fn post(
        &self,
        policy: &Policy,
        resolver: &Resolver,
        body: Bytes,
    ) -> Result<(), Dropped> {
        let posting = timeout(TRACES_TIMEOUT, self.connect_and_post(policy, resolver, body));
        posting.await.unwrap_or(Err(Dropped::Unreachable))
    }

    async fn connect_and_post(
        &self,
        policy: &Policy,
        resolver: &Resolver,
        body: Bytes,
    ) -> Result<(), Dropped> {
        let found = resolver.resolve_collector(&self.to).await.map_err(|_| Dropped::Unreachable)?;
        let judged: Vec<SocketAddr> =
            found.into_iter().filter_map(|address| self.to.at(policy, address)).collect();
        let io = TcpStream::connect(judged.first().ok_or(Dropped::Refused)?).await.map_err(unreachable)?;
        match self.to.scheme() {
            Scheme::Http => self.ask(io, body).await,
            Scheme::Https => {
                let name = server_name(self.to.host()).ok_or(Dropped::Refused)?;
                self.ask(self.tls.connect(name, io).await.map_err(unreachable)?, body).await
            }
        }
    }

    async fn ask<S>(&self, io: S, body: Bytes) -> Result<(), Dropped>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut request = Request::post(PATH).body(Full::new(body)).map_err(|_| Dropped::Refused)?;
        let authority = format!("{}:{}", self.to.host(), self.to.port());
        let fields = request.headers_mut();
        fields.insert(HOST, HeaderValue::try_from(authority).map_err(|_| Dropped::Refused)?);
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let mut http = http1::Builder::new();
        http.max_buf_size(TRACES_ANSWER_HEAD_BYTES_MAX);
        let (mut sender, connection) = http.handshake(TokioIo::new(io)).await.map_err(unreachable)?;
        // It ends with this function, whatever the collector does.
        let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = sender.send_request(request).await.map_err(unreachable)?;
        taken(answer.status())
    }
}

/// What a collector says of a batch. These failures are worth another attempt by the protocol ("Retryable Response Codes").
fn taken(status: StatusCode) -> Result<(), Dropped> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Dropped::Unreachable),
        _ => Err(Dropped::Refused),
    }
}

fn unreachable(error: impl std::error::Error) -> Dropped {
    tracing::debug!(error = chain(&error), "the collector is not reached");
    Dropped::Unreachable
}
