//! What is spoken on a connection to an upstream, once it is open and verified.

use std::pin::Pin;
use std::sync::Arc;

use agentsandbox_policy::{DenialReason, Host};
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Sender;
use super::heads::Counted;
use super::places::Window;
use super::pool::Streams;
use crate::config::chain;
use crate::limits::{
    H2_PING_INTERVAL, H2_PING_TIMEOUT, H2_SEND_BUFFER_BYTES, H2_UPSTREAM_STREAM_SHARE,
    H2_UPSTREAM_STREAM_WINDOW_BYTES, HEADER_BYTES_MAX,
};

/// The name that a server has to prove.
pub(crate) fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host.address() {
        Some(address) => Some(ServerName::from(address)),
        None => ServerName::try_from(host.to_string()).ok(),
    }
}

pub(super) async fn over_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Sender, DenialReason> {
    let head_bytes = usize::try_from(HEADER_BYTES_MAX).unwrap_or(usize::MAX);
    // It also bounds what of an answer lies here while its agent does not read.
    let handshake = http1::Builder::new().max_buf_size(head_bytes).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|_| DenialReason::UpstreamUnreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = chain(&error), "an upstream connection ended");
        }
    });
    Ok(Sender::Http1(sender))
}

/// What hyper takes an upstream to allow that has said nothing yet. None says this: a number of streams has 32 bits, and where
/// none is said it is the largest there is.
const NOTHING_TOLD: usize = usize::MAX - 1;

/// Runs the tasks of a connection. hyper polls the connection itself only when there is a request to send, and while it is full
/// there is none: until then it is polled after each step of theirs as well, or nobody would see that it allows more, or that
/// the upstream wants to end it.
#[derive(Clone)]
struct Telling(Arc<Streams>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Telling {
    fn execute(&self, task: F) {
        let streams = Arc::clone(&self.0);
        // A stream's task is as large as a connection's, and would be copied with each move on its way into the runtime.
        let mut task = Box::pin(task);
        tokio::spawn(std::future::poll_fn(move |cx| {
            let polled = task.as_mut().poll(cx);
            streams.may_be_told();
            polled
        }));
    }
}

pub(super) async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    window: Window,
) -> Result<Sender, DenialReason> {
    let streams = Streams::new();
    let window_bytes = window.bytes;
    streams.hold(window);
    let mut builder = http2::Builder::new(Telling(Arc::clone(&streams)));
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(NOTHING_TOLD)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(
            H2_UPSTREAM_STREAM_WINDOW_BYTES.min(window_bytes / H2_UPSTREAM_STREAM_SHARE),
        )
        .initial_connection_window_size(window_bytes)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        // Only while an answer is waited for: an upstream that is gone without a word is found out long before it is late.
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    let handshake = builder.handshake(TokioIo::new(Counted::new(stream))).await;
    let (sender, mut connection) = handshake.map_err(|_| DenialReason::UpstreamUnreachable)?;
    let told = Arc::clone(&streams);
    tokio::spawn(async move {
        let ended = std::future::poll_fn(|cx| {
            told.wakes(cx.waker());
            let polled = Pin::new(&mut connection).poll(cx);
            match connection.current_max_send_streams() {
                NOTHING_TOLD => {}
                allowed => told.allows(allowed),
            }
            polled
        });
        if let Err(error) = ended.await {
            tracing::debug!(error = chain(&error), "an upstream connection ended");
        }
        // Only then is it seen to be closed.
        drop(connection);
        told.wake_one();
    });
    Ok(Sender::Http2(sender, streams))
}
