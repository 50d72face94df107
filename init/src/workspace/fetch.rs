//! Fetching one file over HTTPS, into a file that is open. Bounded in bytes and in time without any; redirects are followed to https
//! alone, a few times, and each is a request that the proxy judges anew. Nothing that a host says is believed but its bytes' digest.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use agentsandbox_workspace::git::wire::WireError;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::LOCATION;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time::timeout;
use url::{Host, Url};

use super::tunnel::{Answer, Reply, Way};

/// The port of https.
pub const HTTPS_PORT: u16 = 443;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// How long a host may send nothing: a minute.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Bytes of an address that are told: what follows it in a message is worth more.
const TOLD_BYTES_MAX: usize = 300;

/// Why the archive, or the repository, could not be had.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The address is none that is asked.
    #[error("the address cannot be asked: {0}")]
    Address(&'static str),
    /// The proxy denied a tunnel to the host.
    #[error("the proxy denied {url} ({reason}): {how_to_allow}")]
    Denied {
        /// What was asked for, without its query.
        url: String,
        /// The proxy's reason.
        reason: String,
        /// The proxy's advice.
        how_to_allow: String,
    },
    /// The proxy opened no tunnel, and no rule is what it lacks.
    #[error("the proxy could not get {url} ({reason}): {how_to_allow}")]
    Proxy {
        /// What was asked for, without its query.
        url: String,
        /// The proxy's reason.
        reason: String,
        /// The proxy's advice.
        how_to_allow: String,
    },
    /// The host, or the proxy in its place, answered with something else than the file.
    #[error(
        "the host or the proxy answered for {url} with status {status}; the proxy's audit log says which of them, and why"
    )]
    Status {
        /// What was asked for, without its query.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects {why}")]
    Redirect {
        /// What was asked for, without its query.
        url: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// What a git server says is none of git's protocol, or that it cannot.
    #[error("what {url} answers cannot be used")]
    Git {
        /// The repository.
        url: String,
        /// What is wrong with it.
        #[source]
        error: WireError,
    },
    /// It is too long.
    #[error(
        "more than {0} bytes came, which is all of the workspace: raise spec.workspace.sizeLimit, or persistent.size"
    )]
    TooLarge(u64),
    /// The proxy cannot be reached.
    #[error("cannot reach the proxy")]
    Connect(#[source] io::Error),
    /// Nobody answered in time.
    #[error("no answer came in time")]
    Silent,
    /// The host stopped sending.
    #[error("nothing came for a minute, after {0} bytes")]
    Stalled(u64),
    /// It took too long as a whole.
    #[error("it did not come within {0} seconds")]
    Deadline(u64),
    /// No TLS with the host, as the proxy shows it.
    #[error("cannot speak TLS in the proxy's tunnel")]
    Tls(#[source] io::Error),
    /// The exchange broke off.
    #[error("the answer broke off")]
    Http(#[source] hyper::Error),
    /// The request could not be formed.
    #[error("the request is malformed")]
    Request(#[source] hyper::http::Error),
    /// The file could not be written.
    #[error("cannot write it to the volume")]
    Write(#[source] io::Error),
}

/// What came.
#[derive(Debug)]
pub struct Fetched {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256, as hexadecimal digits in lower case.
    pub sha256: String,
}

/// The proxy's words, to CONNECT alone; it says more, which is in its log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refusal {
    reason: String,
    how_to_allow: String,
}

/// Fetches `url` into a file of at most `bytes_max` bytes. The caller holds the deadline.
///
/// # Errors
/// Tells why it could not be had, and names addresses without their queries, which may hold secrets.
pub async fn fetch(way: &Way, mut url: Url, into: &mut File, bytes_max: u64) -> Result<Fetched, FetchError> {
    let mut named = told(&url);
    for _ in 0..=REDIRECTS_MAX {
        let (host, port, path) = place(&url)?;
        let answer = match way.get(host, port, &path).await? {
            Reply::Tunnel(answer) => answer,
            Reply::Proxy(answer) => {
                return Err(refused(named, answer.response.status(), answer.response.into_body()).await);
            }
        };
        let status = answer.response.status();
        match status {
            StatusCode::OK => return store(answer, into, bytes_max).await,
            _ if is_redirect(status) => url = next(&url, named, &answer)?,
            _ => return Err(FetchError::Status { url: named, status }),
        }
        // The path is the other host's to choose, and may hold a secret.
        named = url.origin().ascii_serialization();
    }
    Err(FetchError::Redirect { url: named, why: "too often" })
}

/// An address as it may be told: without login, query and fragment, and cut where it is long.
#[must_use]
pub fn told(url: &Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    plain.set_fragment(None);
    // Neither fails for what has a host; what has none holds no login.
    let _ = plain.set_username("").and_then(|()| plain.set_password(None));
    let mut text = String::from(plain);
    if text.len() > TOLD_BYTES_MAX {
        // An address is ASCII.
        text.truncate(TOLD_BYTES_MAX);
        text.push_str("...");
    }
    text
}

/// Host, port, and path with query, if it is an address that is asked.
pub(super) fn place(url: &Url) -> Result<(&str, u16, String), FetchError> {
    if url.scheme() != "https" {
        return Err(FetchError::Address("only https is spoken"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(FetchError::Address("it holds a login; name an AgentCredential in the rule instead"));
    }
    let Some(Host::Domain(host)) = url.host() else {
        return Err(FetchError::Address("its host is no DNS name"));
    };
    let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
    Ok((host, url.port().unwrap_or(HTTPS_PORT), format!("{}{query}", url.path())))
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

fn next(url: &Url, named: String, answer: &Answer) -> Result<Url, FetchError> {
    let unfollowed = |why| FetchError::Redirect { url: named.clone(), why };
    let location = answer.response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| unfollowed("without saying where to"))?;
    let next = url.join(location).map_err(|_| unfollowed("to what is no address"))?;
    place(&next).map_err(|_| unfollowed("to an address that is not asked"))?;
    Ok(next)
}

async fn store(answer: Answer, into: &mut File, bytes_max: u64) -> Result<Fetched, FetchError> {
    let Answer { response, .. } = &answer;
    if response.headers().get(hyper::header::CONTENT_LENGTH).is_some_and(|length| {
        length.to_str().ok().and_then(|length| length.parse::<u64>().ok()).is_none_or(|n| n > bytes_max)
    }) {
        return Err(FetchError::TooLarge(bytes_max));
    }
    let (mut answer, mut bytes, mut digest) = (answer, 0_u64, Sha256::new());
    let body = answer.response.body_mut();
    while let Some(frame) =
        timeout(STALL_TIMEOUT, body.frame()).await.map_err(|_| FetchError::Stalled(bytes))?
    {
        let Ok(data) = frame.map_err(FetchError::Http)?.into_data() else { continue };
        bytes = bytes.saturating_add(data.len() as u64);
        if bytes > bytes_max {
            return Err(FetchError::TooLarge(bytes_max));
        }
        digest.update(&data);
        into.write_all(&data).map_err(FetchError::Write)?;
    }
    let mut sha256 = String::new();
    for byte in digest.finalize() {
        // Writing to a String does not fail.
        let _ = write!(sha256, "{byte:02x}");
    }
    Ok(Fetched { bytes, sha256 })
}

/// What the proxy's own answer to CONNECT means. Only a status of 403 is a denial, which a rule would change.
pub(super) async fn refused(url: String, status: StatusCode, body: Incoming) -> FetchError {
    let read = timeout(STALL_TIMEOUT, Limited::new(body, REFUSAL_BYTES_MAX).collect()).await;
    let read = read.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes);
    match read.and_then(|body| serde_json::from_slice(&body).ok()) {
        Some(Refusal { reason, how_to_allow }) => {
            let how_to_allow = how_to_allow.trim_end_matches('.').to_owned();
            match status {
                StatusCode::FORBIDDEN => FetchError::Denied { url, reason, how_to_allow },
                _ => FetchError::Proxy { url, reason, how_to_allow },
            }
        }
        None => FetchError::Status { url, status },
    }
}
