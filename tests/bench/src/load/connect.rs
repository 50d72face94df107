//! Connections to a contender, and requests on them.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, TE};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Load, Way};
use crate::pki::Pki;
use crate::upstream::{Body, pieces};

/// A gRPC message: no compression, a length of 59, and so many bytes.
const MESSAGE: [u8; 64] = {
    let mut message = [b'm'; 64];
    message[0] = 0;
    message[1] = 0;
    message[2] = 0;
    message[3] = 0;
    message[4] = 59;
    message
};

/// A connection that requests are sent on.
pub enum Sender {
    /// One at a time.
    Http1(http1::SendRequest<Body>),
    /// Many at a time.
    Http2(http2::SendRequest<Body>),
}

/// Something on the way went wrong; it is counted, and what exactly is in the contender's log.
#[derive(Debug)]
pub struct Failed;

impl<E: std::error::Error> From<E> for Failed {
    fn from(_: E) -> Self {
        Self
    }
}

/// Opens connections for one load.
pub struct Client {
    load: Load,
    tls: TlsConnector,
    uri: Uri,
}

impl Client {
    /// Made once for a run.
    #[must_use]
    pub fn new(load: Load) -> Self {
        let protocols: &[&str] = if load.http2 { &["h2"] } else { &["http/1.1"] };
        let tls = TlsConnector::from(Arc::new(Pki::at(&load.pki).client(protocols)));
        let (scheme, absolute) = match load.way {
            Way::Plain => ("http", false),
            Way::Absolute => ("http", true),
            Way::Tls | Way::Tunnel => ("https", load.http2),
        };
        let before = if absolute { format!("{scheme}://{}", load.authority) } else { String::new() };
        let uri = format!("{before}{}", load.path).parse().unwrap();
        Self { load, tls, uri }
    }

    /// What is done.
    pub fn load(&self) -> &Load {
        &self.load
    }

    async fn tcp(&self) -> Result<TcpStream, Failed> {
        let io = TcpStream::connect(self.load.entry).await?;
        io.set_nodelay(true)?;
        Ok(io)
    }

    /// A TLS connection to this name, in a tunnel if that is the way.
    pub async fn secure(&self, authority: &str) -> Result<TlsStream<TcpStream>, Failed> {
        let io = self.tcp().await?;
        let io = if self.load.way == Way::Tunnel { through(io, authority).await? } else { io };
        let name = authority.split(':').next().unwrap_or_default().to_owned();
        Ok(self.tls.connect(ServerName::try_from(name)?, io).await?)
    }

    /// A connection that is ready for requests.
    pub async fn open(&self) -> Result<Sender, Failed> {
        match self.load.way {
            Way::Plain | Way::Absolute => over(self.tcp().await?, false).await,
            Way::Tls | Way::Tunnel => over(self.secure(&self.load.authority).await?, self.load.http2).await,
        }
    }

    /// Sends one request and waits for the head of an answer with status 200.
    pub async fn ask(&self, sender: &mut Sender, body: Body) -> Result<Response<Incoming>, Failed> {
        let mut request = Request::new(body);
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&self.load.authorization)?);
        if self.load.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
            *request.method_mut() = Method::POST;
        }
        if let Sender::Http1(_) = sender {
            let host = if self.load.way == Way::Plain { "127.0.0.1" } else { &self.load.authority };
            request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
        }
        sent(sender, request).await
    }

    /// One request and its whole answer.
    pub async fn exchange(&self, sender: &mut Sender) -> Result<(), Failed> {
        let message = if self.load.grpc { Bytes::from_static(&MESSAGE) } else { Bytes::new() };
        let mut answer = self.ask(sender, Full::new(message).boxed_unsync()).await?.into_body();
        let mut grpc_status = false;
        while let Some(frame) = answer.frame().await {
            grpc_status |= frame?.trailers_ref().is_some_and(|fields| fields.contains_key("grpc-status"));
        }
        if grpc_status == self.load.grpc { Ok(()) } else { Err(Failed) }
    }

    /// One request with a body of so many bytes, and its whole answer.
    pub async fn upload(&self, sender: &mut Sender, bytes: u64) -> Result<Bytes, Failed> {
        let mut request = Request::new(pieces(bytes));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&self.load.authorization)?);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1"));
        Ok(sent(sender, request).await?.into_body().collect().await?.to_bytes())
    }
}

async fn sent(sender: &mut Sender, request: Request<Body>) -> Result<Response<Incoming>, Failed> {
    let response = match sender {
        Sender::Http1(sender) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
        Sender::Http2(sender) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
    };
    if response.status() == StatusCode::OK { Ok(response) } else { Err(Failed) }
}

async fn over(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
) -> Result<Sender, Failed> {
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(16 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(Sender::Http1(sender))
}

/// A tunnel to the authority, as the socket it is.
async fn through(io: TcpStream, authority: &str) -> Result<TcpStream, Failed> {
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(io)).await?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::connect(authority).header(HOST, authority).body(Full::default())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(Failed);
    }
    let parts = hyper::upgrade::on(response).await?.downcast::<TokioIo<TcpStream>>().map_err(|_| Failed)?;
    Ok(parts.io.into_inner())
}
