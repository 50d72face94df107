//! What the fence asks of the sandbox's own proxy: that it takes this pod as its agent, and that its policy DNS denies.
//! One after the other, for the DNS serves only an enrolled agent. The token is shown to nobody else, and only after the walls are proven.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{Name, RecordType};
use http_body_util::Empty;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, InvalidHeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::probe;

/// How long one request may take; the proxy is a neighbour.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a handshake may take. A lost first packet would be repeated only after a second, so asking anew is quicker.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Pause before the proxy is asked again.
const PAUSE: Duration = Duration::from_millis(25);
/// How long one answer of the policy DNS may take.
const DNS_TIMEOUT: Duration = Duration::from_millis(250);
/// A name that no rule can allow (RFC 6761 reserves `.invalid`).
const NAME_UNKNOWN: &str = "fence.agentsandbox.invalid.";

/// The token, ready to be sent. It has no `Debug` of its own text: the header value is marked sensitive.
pub struct Token(HeaderValue);

/// Why the proxy did not take this pod.
#[derive(Debug, Error)]
pub enum EnrolmentError {
    /// The token could not be read.
    #[error("cannot read the enrolment token")]
    ReadToken(#[source] io::Error),
    /// The token cannot stand in a header.
    #[error("the enrolment token is empty or malformed")]
    MalformedToken(#[source] Option<InvalidHeaderValue>),
    /// No connection, or it broke.
    #[error("cannot reach the proxy")]
    Connect(#[source] io::Error),
    /// The exchange failed.
    #[error("the proxy's answer broke off")]
    Http(#[source] hyper::Error),
    /// The request could not be formed.
    #[error("the request is malformed")]
    Request(#[source] hyper::http::Error),
    /// It took too long.
    #[error("the proxy did not answer in time")]
    Timeout,
    /// The proxy refused.
    #[error("the proxy refused enrolment with status {0}")]
    Refused(StatusCode),
    /// The policy DNS answered with something else than a denial.
    #[error("the policy DNS did not deny a name that no rule can allow")]
    DnsInvents,
    /// The policy DNS answered something that is not DNS.
    #[error("the policy DNS answered something malformed")]
    DnsMalformed,
}

impl Token {
    /// Reads the token from its file.
    pub fn read(path: &Path) -> Result<Self, EnrolmentError> {
        let text = fs::read_to_string(path).map_err(EnrolmentError::ReadToken)?;
        let token = text.trim();
        if token.is_empty() {
            return Err(EnrolmentError::MalformedToken(None));
        }
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|error| EnrolmentError::MalformedToken(Some(error)))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Makes this pod's address the agent's. Asks again until the proxy takes or refuses it; the caller holds the deadline.
pub async fn enrol(proxy: SocketAddr, token: &Token) -> Result<(), EnrolmentError> {
    loop {
        match show(proxy, token).await {
            Ok(StatusCode::NO_CONTENT) => return Ok(()),
            Ok(status) if status.is_client_error() => return Err(EnrolmentError::Refused(status)),
            Ok(_) | Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Asks the policy DNS for a name that it must deny, until it answers.
pub async fn check_dns(dns: SocketAddr) -> Result<(), EnrolmentError> {
    let name = Name::from_ascii(NAME_UNKNOWN).map_err(|_| EnrolmentError::DnsMalformed)?;
    loop {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name.clone(), RecordType::A));
        match timeout(DNS_TIMEOUT, ask(dns, &query)).await {
            Ok(Ok(answer)) => return judge_answer(&query, &answer),
            Ok(Err(_)) => sleep(PAUSE).await,
            Err(_silence) => {}
        }
    }
}

fn judge_answer(query: &Message, answer: &[u8]) -> Result<(), EnrolmentError> {
    let answer = Message::from_vec(answer).map_err(|_| EnrolmentError::DnsMalformed)?;
    let ours =
        answer.metadata.id == query.metadata.id && answer.metadata.message_type == MessageType::Response;
    match (ours, answer.answers.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => Err(EnrolmentError::DnsInvents),
        (false, _) => Err(EnrolmentError::DnsMalformed),
    }
}

async fn ask(dns: SocketAddr, query: &Message) -> io::Result<Vec<u8>> {
    let socket = probe::connected(dns).await?;
    socket.send(&query.to_vec().map_err(io::Error::other)?).await?;
    let mut packet = vec![0; 1024];
    let length = socket.recv(&mut packet).await?;
    packet.truncate(length);
    Ok(packet)
}

/// Shows the token once.
async fn show(proxy: SocketAddr, Token(token): &Token) -> Result<StatusCode, EnrolmentError> {
    let exchange = async {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(proxy)).await;
        let stream = connected.map_err(|_| EnrolmentError::Timeout)?.map_err(EnrolmentError::Connect)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(EnrolmentError::Http)?;
        // Not raced against the answer: a server that closes after it ends the connection at the same moment. An error of
        // the connection is the sender's error too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri("/enrol")
            .header(HOST, proxy.to_string())
            .header(AUTHORIZATION, token.clone())
            .body(Empty::<Bytes>::new())
            .map_err(EnrolmentError::Request)?;
        Ok(sender.send_request(request).await.map_err(EnrolmentError::Http)?.status())
    };
    timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| EnrolmentError::Timeout)?
}

#[cfg(test)]
mod tests;
