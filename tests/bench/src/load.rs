//! The load: one process, one thread, one job, one line of JSON.

mod connect;
mod jobs;
mod pace;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the contender is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Origin form without TLS.
    Plain,
    /// Absolute form without TLS.
    Absolute,
    /// TLS with the contender itself, in the upstream's name.
    Tls,
    /// CONNECT, and TLS inside.
    Tunnel,
}

/// What is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// A new request on a stream as soon as the last is answered.
    Closed {
        /// Connections.
        connections: usize,
        /// Streams on each.
        streams: usize,
    },
    /// A new connection for each request.
    Fresh {
        /// Requests at a time.
        concurrency: usize,
    },
    /// Connections that end after the TLS handshake.
    Handshakes {
        /// Handshakes at a time.
        concurrency: usize,
        /// Whether each asks for a name that nobody asked for before.
        distinct: bool,
    },
    /// Requests at a fixed rate, evenly spread, whether or not the earlier ones are answered.
    Rate {
        /// Connections.
        connections: usize,
        /// Requests per second.
        per_second: f64,
    },
    /// Streams of events; their delay is measured.
    Events {
        /// Connections.
        connections: usize,
        /// Streams on each.
        streams: usize,
    },
    /// One answer of so many bytes.
    Download {
        /// Bytes.
        bytes: u64,
    },
    /// One request of so many bytes.
    Upload {
        /// Bytes.
        bytes: u64,
    },
    /// Answers that begin and do not go on, until standard input ends.
    Idle {
        /// Connections.
        pairs: usize,
    },
}

/// One run of the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Where the contender listens.
    pub entry: SocketAddr,
    /// How it is spoken to.
    pub way: Way,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// The upstream's name and port.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// What stands in `Authorization`.
    pub authorization: String,
    /// Whether each request is a gRPC call.
    pub grpc: bool,
    /// Folder of the run's certificates.
    pub pki: PathBuf,
    /// How long, where the job has no end of its own.
    pub millis: u64,
    /// What is done.
    pub job: Job,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests, handshakes or events that were answered as they should be.
    pub done: u64,
    /// The others.
    pub failed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of bodies, where bodies are what is measured.
    pub bytes: u64,
    /// Delays in microseconds: of an answer, or of an event.
    pub micros_p50: f64,
    /// See [`Outcome::micros_p50`].
    pub micros_p99: f64,
}

/// Runs it.
pub async fn run(load: Load) -> Outcome {
    jobs::run(load).await
}
