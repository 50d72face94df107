//! What contenders are asked to do.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::load::Job;

/// One question to all contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Plain HTTP/1.1 in, TLS out.
    BaseUrl,
    /// A URL in the request line, no TLS.
    Absolute,
    /// CONNECT, TLS on both sides, HTTP/1.1.
    Connect,
    /// A new connection for each request, plain in, TLS out.
    Fresh,
    /// CONNECT and a TLS handshake, always the same name.
    Handshake,
    /// CONNECT and a TLS handshake, never the same name.
    Mint,
    /// HTTP/2 on both sides.
    H2,
    /// gRPC unary calls.
    Grpc,
    /// Server-sent events.
    Events,
    /// A large answer.
    Download,
    /// A large request.
    Upload,
    /// Half of what the contender can do at most.
    Latency,
    /// Ours with many rules, beside ours with few.
    Rules,
    /// Memory.
    Idle,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// What the report is about.
    Whole,
    /// As little as shows that every part works; what comes of it is no measurement.
    Smoke,
}

/// How requests come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// `/api/…` without TLS.
    BaseUrl,
    /// Absolute form.
    Absolute,
    /// HTTP/1.1 inside TLS inside CONNECT.
    Tunnel,
    /// HTTP/2 inside TLS inside CONNECT; contenders without CONNECT are given TLS.
    TunnelH2,
}

/// Which upstream requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// Without TLS.
    Plain,
    /// HTTP/1.1 over TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
}

/// Connections of the request scenarios.
pub const CONNECTIONS: usize = 64;
/// Streams of the HTTP/2 scenarios, on one connection.
pub const STREAMS: usize = 128;
/// Handshakes at a time: enough that none waits for the other side.
const HANDSHAKES: usize = 16;
/// Connections of the event streams, and streams on each: 1,000 in all.
const EVENT_STREAMS: (usize, usize) = (8, 125);
/// The same where only the way is tried.
const SMOKE_EVENT_STREAMS: (usize, usize) = (2, 8);
/// Time between two events of one stream.
pub const EVENT_MILLIS: u64 = 500;
/// Bytes of a large body.
const LARGE_BYTES: u64 = 1 << 30;
/// Bytes of a large body where only the way is tried: more than fits into any window.
const SMOKE_LARGE_BYTES: u64 = 4 << 20;
/// Connections held for the memory scenario.
pub const PAIRS: [usize; 4] = [0, 64, 500, 1000];
/// The same where only the way is tried.
const SMOKE_PAIRS: [usize; 2] = [0, 4];

impl Size {
    const fn large_bytes(self) -> u64 {
        match self {
            Self::Whole => LARGE_BYTES,
            Self::Smoke => SMOKE_LARGE_BYTES,
        }
    }

    const fn event_streams(self) -> (usize, usize) {
        match self {
            Self::Whole => EVENT_STREAMS,
            Self::Smoke => SMOKE_EVENT_STREAMS,
        }
    }

    /// Connections held for the memory scenario.
    #[must_use]
    pub const fn pairs(self) -> &'static [usize] {
        match self {
            Self::Whole => &PAIRS,
            Self::Smoke => &SMOKE_PAIRS,
        }
    }
}

impl Scenario {
    /// All, in the order of the report.
    pub const ALL: [Self; 14] = [
        Self::BaseUrl,
        Self::Absolute,
        Self::Connect,
        Self::Fresh,
        Self::Handshake,
        Self::Mint,
        Self::H2,
        Self::Grpc,
        Self::Events,
        Self::Download,
        Self::Upload,
        Self::Latency,
        Self::Rules,
        Self::Idle,
    ];

    /// The stable name; also of its file.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What is done, in a sentence for the report.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::BaseUrl => "HTTP/1.1 by base URL, https behind: 64 kept connections",
            Self::Absolute => "HTTP/1.1 in absolute form, http behind: 64 kept connections, no credential",
            Self::Connect => "CONNECT and interception, HTTP/1.1 on both sides: 64 kept connections",
            Self::Fresh => "HTTP/1.1 by base URL, a new connection for each request",
            Self::Handshake => "CONNECT and a TLS handshake, one name",
            Self::Mint => "CONNECT and a TLS handshake, a new name each time",
            Self::H2 => "HTTP/2 on both sides: one connection, 128 streams",
            Self::Grpc => "gRPC unary calls: one connection, 128 streams",
            Self::Events => {
                "1,000 streams of server-sent events, two a second on each, over 8 HTTP/2 connections"
            }
            Self::Download => "1 GiB down, https behind",
            Self::Upload => "1 GiB up, https behind",
            Self::Latency => {
                "Delay of an answer at half of the contender's own rate, by base URL, https behind, and without it"
            }
            Self::Rules => {
                "HTTP/1.1 by base URL, https behind: 64 kept connections, among 100 and 10,000 rules"
            }
            Self::Idle => {
                "Resident memory with intercepted connections on which an answer has begun and rests"
            }
        }
    }

    /// How requests come in.
    #[must_use]
    pub const fn front(self) -> Front {
        match self {
            Self::BaseUrl | Self::Fresh | Self::Download | Self::Upload | Self::Latency | Self::Rules => {
                Front::BaseUrl
            }
            Self::Absolute => Front::Absolute,
            Self::Connect | Self::Handshake | Self::Mint | Self::Idle => Front::Tunnel,
            Self::H2 | Self::Grpc | Self::Events => Front::TunnelH2,
        }
    }

    /// Where they go.
    #[must_use]
    pub const fn back(self) -> Back {
        match self {
            Self::Absolute => Back::Plain,
            Self::H2 | Self::Grpc | Self::Events => Back::Http2,
            _ => Back::Http1,
        }
    }

    /// The path that is asked for.
    #[must_use]
    pub fn path(self, size: Size) -> String {
        match self {
            Self::Events => format!("/events?millis={EVENT_MILLIS}"),
            // An hour: none comes.
            Self::Idle => "/events?millis=3600000".to_owned(),
            Self::Download => format!("/download?bytes={}", size.large_bytes()),
            Self::Upload => "/upload".to_owned(),
            Self::Grpc => "/bench.Echo/Unary".to_owned(),
            _ => "/v1/models".to_owned(),
        }
    }

    /// What the load does; a rate and a number of pairs are filled in by whoever knows them.
    #[must_use]
    pub const fn job(self, size: Size) -> Job {
        match self {
            Self::BaseUrl | Self::Absolute | Self::Connect | Self::Rules => {
                Job::Closed { connections: CONNECTIONS, streams: 1 }
            }
            Self::Fresh => Job::Fresh { concurrency: CONNECTIONS },
            Self::Handshake => Job::Handshakes { concurrency: HANDSHAKES, distinct: false },
            Self::Mint => Job::Handshakes { concurrency: HANDSHAKES, distinct: true },
            Self::H2 | Self::Grpc => Job::Closed { connections: 1, streams: STREAMS },
            Self::Events => {
                let (connections, streams) = size.event_streams();
                Job::Events { connections, streams }
            }
            Self::Download => Job::Download { bytes: size.large_bytes() },
            Self::Upload => Job::Upload { bytes: size.large_bytes() },
            Self::Latency => Job::Rate { connections: CONNECTIONS, per_second: 0.0 },
            Self::Idle => Job::Idle { pairs: 0 },
        }
    }
}
