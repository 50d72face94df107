//! The contenders, and how each is set up.
//!
//! Each is tuned for this: one worker, connections to the upstream kept, access log to a file, and the secret put into
//! each request by its own means. Only ours has a policy, judges addresses and searches answers for the secret.

mod envoy;
mod mitmproxy;
mod ours;
mod servers;
mod squid;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::load::Way;
use crate::pki::Pki;
use crate::process::{CONTENDER_CORE, Running, free_address, pinned};
use crate::scenario::{Back, Front, Scenario};
use crate::upstream::Addresses;
use crate::{AGENTS_OWN, API, H2, PLAIN, SECRET};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Our proxy.
    Ours,
    /// hyper and rustls, forwarding and nothing else.
    Bare,
    /// Envoy.
    Envoy,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Squid.
    Squid,
    /// mitmproxy.
    Mitmproxy,
    /// Ours once more, with a policy of 10,000 rules.
    #[value(name = "ours-10k-rules")]
    #[serde(rename = "ours-10k-rules")]
    OursManyRules,
    /// Nobody: the load speaks with the upstream.
    Direct,
}

/// Rules of the policy of [`Contender::Ours`].
const RULES: usize = 100;
/// Rules of the policy of [`Contender::OursManyRules`].
const MANY_RULES: usize = 10_000;
/// Connections that ours serves at a time outside a pod (`CONNECTIONS_MAX` of the proxy's limits).
const OURS_CONNECTIONS_MAX: usize = 1024;

/// Somebody else's proxy, installed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// The program.
    pub program: PathBuf,
    /// Where its packages are unpacked.
    pub root: PathBuf,
    /// Its shared libraries.
    pub libraries: PathBuf,
    /// What it says its version is.
    pub version: String,
}

/// The programs of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Programs {
    /// Our proxy, built for release.
    pub ours: PathBuf,
    /// Folder with this crate's programs.
    pub bench: PathBuf,
    /// Peers by name.
    pub peers: BTreeMap<String, Peer>,
}

/// What a contender is set up for.
pub struct Setting<'a> {
    /// The programs.
    pub programs: &'a Programs,
    /// The certificates.
    pub pki: &'a Pki,
    /// Where the upstream listens.
    pub upstream: Addresses,
    /// What will be asked.
    pub scenario: Scenario,
    /// A folder of the contender's own.
    pub folder: PathBuf,
    /// Where it is to listen.
    pub listen: SocketAddr,
}

/// A contender that accepts connections.
pub struct Contestant {
    /// Its process; none for [`Contender::Direct`].
    pub running: Option<Running>,
    /// Where it listens.
    pub entry: SocketAddr,
    /// How it is spoken to.
    pub way: Way,
    /// What stands before each path.
    pub prefix: &'static str,
    /// What the load sends in `Authorization`.
    pub authorization: String,
}

impl Setting<'_> {
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn show(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The upstream of this scenario.
    #[must_use]
    pub fn target(&self) -> SocketAddr {
        match self.scenario.back() {
            Back::Plain => self.upstream.plain,
            Back::Http1 => self.upstream.http1,
            Back::Http2 => self.upstream.http2,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.scenario.back() {
            Back::Plain => PLAIN,
            Back::Http1 => API,
            Back::Http2 => H2,
        }
    }

    fn peer(&self, name: &str) -> &Peer {
        self.programs.peers.get(name).unwrap_or_else(|| panic!("{name} is not installed"))
    }

    fn peer_command(&self, name: &str) -> Command {
        let peer = self.peer(name);
        let mut command = pinned(CONTENDER_CORE, &peer.program);
        command.env("LD_LIBRARY_PATH", &peer.libraries);
        command
    }
}

impl Contender {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::Ours,
        Self::Bare,
        Self::Envoy,
        Self::Nginx,
        Self::Haproxy,
        Self::Squid,
        Self::Mitmproxy,
        Self::OursManyRules,
        Self::Direct,
    ];

    /// The stable name.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Why it takes no part, if it takes none.
    #[must_use]
    pub const fn absent(self, scenario: Scenario) -> Option<&'static str> {
        match (self, scenario.front()) {
            (Self::Direct, _) if !matches!(scenario, Scenario::Events) => {
                Some("only where delay is measured, and at a half rate beside each contender")
            }
            (Self::Ours, _) => None,
            (Self::OursManyRules, _) if !matches!(scenario, Scenario::Rules) => {
                Some("only where rules are counted")
            }
            (Self::OursManyRules, _) => None,
            (_, _) if matches!(scenario, Scenario::Rules) => Some("has no policy"),
            (Self::Nginx | Self::Haproxy, Front::Tunnel) => Some("knows no CONNECT"),
            (Self::Envoy | Self::Bare, _) if matches!(scenario, Scenario::Mint) => {
                Some("makes no certificates")
            }
            (Self::Mitmproxy, _) if matches!(scenario, Scenario::Events) => {
                Some("still had all 1,000 streams to answer after a minute of CPU time")
            }
            (Self::Squid, Front::TunnelH2) => Some("speaks no HTTP/2"),
            (Self::Nginx, Front::TunnelH2) if matches!(scenario, Scenario::H2) => {
                Some("speaks HTTP/2 to upstreams for gRPC only")
            }
            _ => None,
        }
    }

    /// Whether it is no proxy of its own, but something to measure one by.
    #[must_use]
    pub const fn is_reference(self) -> bool {
        matches!(self, Self::Direct | Self::OursManyRules)
    }

    /// Connections that it serves at a time, where it bounds them below what is asked.
    #[must_use]
    pub const fn connections_max(self) -> usize {
        match self {
            Self::Ours | Self::OursManyRules => OURS_CONNECTIONS_MAX,
            _ => usize::MAX,
        }
    }

    /// Sets it up and waits until it accepts connections.
    #[must_use]
    pub fn start(self, mut setting: Setting<'_>) -> Contestant {
        setting.listen = free_address();
        let command = match self {
            Self::Ours => ours::command(&setting, RULES),
            Self::OursManyRules => ours::command(&setting, MANY_RULES),
            Self::Bare => bare(&setting),
            Self::Envoy => envoy::command(&setting),
            Self::Nginx => servers::nginx(&setting),
            Self::Haproxy => servers::haproxy(&setting),
            Self::Squid => squid::command(&setting),
            Self::Mitmproxy => mitmproxy::command(&setting),
            Self::Direct => return direct(&setting),
        };
        let log = setting.folder.join("stderr");
        let mut running = Running::start(command, &setting.folder.join("stdout"), &log);
        running.await_listening(setting.listen, &log);
        let authorization = if self == Self::Bare { right() } else { AGENTS_OWN.to_owned() };
        let (way, prefix) = match setting.scenario.front() {
            Front::BaseUrl => (Way::Plain, "/api"),
            Front::Absolute => (Way::Absolute, ""),
            Front::TunnelH2 if matches!(self, Self::Nginx | Self::Haproxy) => (Way::Tls, ""),
            Front::Tunnel | Front::TunnelH2 => (Way::Tunnel, ""),
        };
        Contestant { running: Some(running), entry: setting.listen, way, prefix, authorization }
    }
}

/// What the upstream wants to see.
#[must_use]
pub fn right() -> String {
    format!("Bearer {SECRET}")
}

/// The load's own way to the upstream.
#[must_use]
pub fn direct(setting: &Setting<'_>) -> Contestant {
    let entry = setting.target();
    Contestant { running: None, entry, way: Way::Tls, prefix: "", authorization: right() }
}

fn bare(setting: &Setting<'_>) -> Command {
    let mut command = pinned(CONTENDER_CORE, &setting.programs.bench.join("bench-bare"));
    let scheme = if setting.scenario.back() == Back::Plain { "http" } else { "https" };
    let base = format!("{scheme}://{}", setting.target());
    let folder = setting.pki.ca.parent().unwrap_or(Path::new("/"));
    command.args([&setting.listen.to_string(), &base, setting.name()]).arg(folder);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_asked_for_no_more_connections_than_its_limits_say() {
        let limits = include_str!("../../../proxy/src/limits.rs");
        assert!(limits.contains(&format!("CONNECTIONS_MAX: usize = {OURS_CONNECTIONS_MAX};")));
    }

    #[test]
    fn every_contender_is_known_by_the_name_that_is_kept() {
        for contender in Contender::ALL {
            assert_eq!(serde_json::to_string(&contender).unwrap(), format!("{:?}", contender.name()));
        }
    }
}
