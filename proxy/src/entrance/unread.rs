//! Heads that are not read. The library answers one that it cannot read by itself, and without a word of why; where it is the first
//! of its connection that answer is withheld, and the agent is told what is wrong.

use agentsandbox_policy::{Denial, DenialReason, Host};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::line::Listened;
use super::{Binding, Entrance};
use crate::limits::{
    H2_CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, HEADS_BYTES_MAX, LATE_BODY_BYTES_MAX,
    LATE_BODY_IDLE_TIMEOUT, LATE_BODY_TIMEOUT, STREAMS_PER_CONNECTION_MAX, TARGET_BYTES_MAX,
};
use crate::pipeline::Proxy;
use crate::respond::{self, Body};

/// What hyper refuses by itself, at the place that the connection leads to.
pub(super) fn at(reason: DenialReason, binding: &Binding) -> Denial {
    match binding {
        Binding::Bound { host, port, .. } => Denial::new(reason).with_host(host).with_port(*port),
        Binding::AbsoluteForm | Binding::BaseUrl | Binding::HostHeader => Denial::new(reason),
    }
}

/// A path and query that are too long.
pub(crate) fn long_target() -> Denial {
    Denial::new(DenialReason::LimitExceeded)
        .with_how_to_allow(format!("Send a path and query of {TARGET_BYTES_MAX} bytes at most."))
}

/// A stream beyond those that its connection may have. It was not begun, so that it may be sent again (RFC 9113, 8.7).
pub(super) fn one_more_stream(binding: &Binding) -> Denial {
    at(DenialReason::LimitExceeded, binding).with_how_to_allow(format!(
        "Open {STREAMS_PER_CONNECTION_MAX} streams on this connection at a time, as its SETTINGS say."
    ))
}

/// HTTP/2 for a client that speaks nothing else, where there are as many connections as may be.
pub(super) fn one_more_connection(host: &Host, port: u16) -> Denial {
    Denial::new(DenialReason::LimitExceeded).with_host(host).with_port(port).with_how_to_allow(format!(
        "Close an HTTP/2 connection: {H2_CONNECTIONS_MAX} are open. A client that offers http/1.1 too is served with that."
    ))
}

/// A head for which there is no room beside those of requests that are not answered yet.
pub(crate) fn one_more_head() -> Denial {
    let mib = HEADS_BYTES_MAX / (1024 * 1024);
    Denial::new(DenialReason::LimitExceeded).with_how_to_allow(format!(
        "Send shorter header fields, or fewer requests at a time: those that are not answered yet have {mib} MiB of fields together."
    ))
}

fn large_head() -> Denial {
    let kib = HEADER_BYTES_MAX / 1024;
    Denial::new(DenialReason::LimitExceeded).with_how_to_allow(format!(
        "Send {HEADER_FIELDS_MAX} header fields at most, and {kib} KiB of them together with the request line."
    ))
}

/// Whether a request line alone is beyond what a head may have.
fn is_long(first_line_bytes: usize) -> bool {
    usize::try_from(HEADER_BYTES_MAX).is_ok_and(|most| first_line_bytes >= most)
}

/// Writes down that a head was not read, and tells the client if nothing else was.
pub(super) async fn refuse<S>(proxy: &Proxy, entrance: Entrance, client: Listened<S>, denial: Denial)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let loaded = proxy.policy.current(std::time::Instant::now()).ok();
    let mut entry = proxy.audit.open(entrance, loaded.as_ref().map(|loaded| &*loaded.policy));
    if !client.withholds() {
        return entry.refuses(&denial, None);
    }
    let (denial, status) = match denial.reason {
        DenialReason::LimitExceeded if is_long(client.first_line_bytes()) => {
            let told = long_target().how_to_allow;
            (denial.with_how_to_allow(told), StatusCode::URI_TOO_LONG)
        }
        DenialReason::LimitExceeded => {
            let told = large_head().how_to_allow;
            (denial.with_how_to_allow(told), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        reason => (denial, respond::status(reason)),
    };
    let mut response = respond::refusal(&denial, &entry.request_id().to_string(), &HeaderMap::new());
    *response.status_mut() = status;
    entry.refuses(&denial, Some(status.as_u16()));
    // It is written before it is told.
    drop(entry);
    // A client that does not take it has seen the end of its connection.
    let _ = timeout(LATE_BODY_TIMEOUT, tell(client, response)).await;
}

/// Writes the answer and the end. A connection that is closed with bytes unread is reset, and the client's kernel may then throw the
/// answer away, so a little of what still comes is taken.
async fn tell<S>(mut client: Listened<S>, response: Response<Body>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut text =
        format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", head.status, body.len());
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str("\r\n");
    client.releases();
    client.write_all(text.as_bytes()).await?;
    client.write_all(&body).await?;
    client.shutdown().await?;
    let (mut taken, mut buffer) = (0, [0; 1024]);
    while taken <= LATE_BODY_BYTES_MAX
        && let Ok(Ok(read @ 1..)) = timeout(LATE_BODY_IDLE_TIMEOUT, client.read(&mut buffer)).await
    {
        taken += read;
    }
    Ok(())
}
