//! The typed other end of the control socket, for the tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), agentsandbox_world::client::Error> {
//! use agentsandbox_world::client::Client;
//! use agentsandbox_world::journal::PacketFilter;
//!
//! let world = Client::new("/run/world".as_ref());
//! world.reset().await?;
//! world.set_keys([("anthropic", "sk-ant-test")]).await?;
//! let arrived = world.packets(PacketFilter { source: Some([10, 244, 0, 7].into()), ..Default::default() }).await?;
//! assert!(arrived.entries.is_empty());
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::authority::CA_CERTIFICATE_FILE;
use crate::control::SOCKET_FILE;
use crate::gates::GateState;
use crate::journal::{Entries, PacketFilter, Packets, Question, Request as Seen};
use crate::servers::{Kind, State};

/// Why the world did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket does not answer.
    #[error("the world's control socket {0} does not answer")]
    Connect(PathBuf, #[source] io::Error),
    /// The connection broke.
    #[error("the world's answer broke off")]
    Http(#[source] hyper::Error),
    /// A request could not be written.
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    /// The world refused.
    #[error("the world answered {status}: {body}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it said.
        body: String,
    },
    /// The answer is not what this client reads.
    #[error("the world's answer cannot be read")]
    Json(#[source] serde_json::Error),
    /// The CA certificate is not where it should be.
    #[error("the world's CA certificate {0} cannot be read")]
    Authority(PathBuf, #[source] io::Error),
}

/// The control socket of one world.
#[derive(Debug, Clone)]
pub struct Client {
    folder: PathBuf,
}

impl Client {
    /// The world whose state folder this is.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The certificate of the world's CA, as PEM.
    ///
    /// # Errors
    /// Fails where there is no world in the folder.
    pub fn ca_certificate(&self) -> Result<String, Error> {
        let file = self.folder.join(CA_CERTIFICATE_FILE);
        fs::read_to_string(&file).map_err(|error| Error::Authority(file, error))
    }

    /// How each real server is.
    ///
    /// # Errors
    /// Fails where the world does not answer; so do all that follow.
    pub async fn status(&self) -> Result<BTreeMap<Kind, State>, Error> {
        self.get("/status").await
    }

    /// The packets that arrived, and the counters.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn packets(&self, filter: PacketFilter) -> Result<Packets, Error> {
        let parameters = [
            filter.source.map(|source| format!("source={source}")),
            filter.destination.map(|destination| format!("destination={destination}")),
            filter.since_ns.map(|since| format!("since_ns={since}")),
        ];
        let query: Vec<String> = parameters.into_iter().flatten().collect();
        self.get(&format!("/packets?{}", query.join("&"))).await
    }

    /// The HTTP requests that arrived.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn requests(&self) -> Result<Entries<Seen>, Error> {
        self.get("/requests").await
    }

    /// The HTTP requests that arrived for one host.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn requests_to(&self, host: &str) -> Result<Vec<Seen>, Error> {
        let seen = self.requests().await?;
        Ok(seen.entries.into_iter().filter(|request| request.host == host).collect())
    }

    /// The DNS questions that arrived.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn dns(&self) -> Result<Entries<Question>, Error> {
        self.get("/dns").await
    }

    /// Every gate anyone has named.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn gates(&self) -> Result<BTreeMap<String, GateState>, Error> {
        self.get("/gates").await
    }

    /// Opens a gate.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn open_gate(&self, name: &str) -> Result<(), Error> {
        self.call(Method::POST, &format!("/gate/{name}/open"), Bytes::new()).await
    }

    /// Sets the keys that services accept: `anthropic`, `git`.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn set_keys<const N: usize>(&self, keys: [(&str, &str); N]) -> Result<(), Error> {
        let body = serde_json::to_vec(&BTreeMap::from(keys)).map_err(Error::Json)?;
        self.call(Method::POST, "/keys", Bytes::from(body)).await
    }

    /// Forgets what arrived and every gate; keys stay.
    ///
    /// # Errors
    /// Fails where the world does not answer.
    pub async fn reset(&self) -> Result<(), Error> {
        self.call(Method::POST, "/reset", Bytes::new()).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let socket = self.folder.join(SOCKET_FILE);
        let stream = UnixStream::connect(&socket).await.map_err(|error| Error::Connect(socket, error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Error::Http)?;
        // Its error is the sender's error too.
        tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", "world").body(Full::new(body));
        let response = sender.send_request(request.map_err(Error::Request)?).await.map_err(Error::Http)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(Error::Http)?.to_bytes();
        if status != StatusCode::OK {
            return Err(Error::Refused { status, body: String::from_utf8_lossy(&body).into_owned() });
        }
        serde_json::from_slice(&body).map_err(Error::Json)
    }
}
