//! The real servers behind some hosts, as children of this process: git behind nginx, a Python index, an npm registry, and a proxy.
//!
//! Each is started from the cache that [`crate::prepare`] filled, with its configuration and data in the state folder, and is killed by the kernel
//! when this process ends, however it ends. A server whose programs are missing stays away: its host answers 503 and the status
//! says what is missing. Nothing else fails for it.

mod git;
mod npm;
mod pip;
mod proxy;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::authority::Authority;
use crate::journal::Request;
use crate::prepare::Cache;

pub(crate) use npm::publish_command;

/// How long a server may take until it accepts a connection.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a starting server is tried.
const START_POLL: Duration = Duration::from_millis(50);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `git http-backend` behind nginx.
    Git,
    /// The Python index.
    Pip,
    /// The npm registry.
    Npm,
    /// The organisation's own proxy.
    Proxy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Git, Self::Pip, Self::Npm, Self::Proxy];
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Git => "git",
            Self::Pip => "pip",
            Self::Npm => "npm",
            Self::Proxy => "proxy",
        })
    }
}

/// How a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// It has been started and does not answer yet.
    Starting,
    /// It answers.
    Ready,
    /// Its programs are not in the cache.
    Missing {
        /// What to do.
        message: String,
    },
    /// It did not start.
    Failed {
        /// Why, and where its log is.
        message: String,
    },
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => formatter.write_str("starting"),
            Self::Ready => formatter.write_str("ready"),
            Self::Missing { message } | Self::Failed { message } => formatter.write_str(message),
        }
    }
}

/// Where those listen that have an address of their own.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The git server.
    pub git: SocketAddr,
    /// The organisation's own proxy.
    pub proxy: SocketAddr,
    /// The name server that the proxy asks.
    pub names: Ipv4Addr,
}

/// Why a server is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its programs are not in the cache.
    #[error("not installed; run `agentsandbox-world prepare`")]
    Missing,
    /// Its configuration or data cannot be written.
    #[error("its files cannot be written in {0}")]
    Files(PathBuf, #[source] io::Error),
    /// There is no certificate for it.
    #[error("it has no certificate")]
    Certificate(#[source] crate::authority::Error),
    /// Its program does not start.
    #[error("its program does not start")]
    Spawn(#[source] io::Error),
    /// It did not accept a connection in time.
    #[error("it does not answer; its log is {0}")]
    Silent(PathBuf),
}

/// All servers. Clones share them.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    slots: Mutex<BTreeMap<Kind, Slot>>,
}

struct Slot {
    state: State,
    port: Option<u16>,
    /// Kept so that they live as long as the world does: dropping a child kills it.
    _children: Vec<Child>,
}

/// A started server, not yet seen to answer.
struct Started {
    address: SocketAddr,
    children: Vec<Child>,
    log: PathBuf,
}

impl Servers {
    /// No server yet; their files will lie in this folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(Arc::new(Inner { folder, slots: Mutex::default() }))
    }

    /// The world's state folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Starts every server beside the others and returns at once; [`Self::state`] tells how each fares.
    pub fn start(&self, cache: &Cache, authority: &Arc<Authority>, addresses: Addresses) {
        for kind in Kind::ALL {
            let folder = self.0.folder.join(kind.to_string());
            let started = match kind {
                Kind::Git => git::start(cache, authority, addresses.git, &folder),
                Kind::Pip => pip::start(cache, &folder),
                Kind::Npm => npm::start(cache, &folder),
                Kind::Proxy => proxy::start(cache, addresses.proxy, addresses.names, &folder),
            };
            match started {
                Ok(started) => {
                    let (address, log) = (started.address, started.log);
                    self.put(kind, State::Starting, Some(address.port()), started.children);
                    tokio::spawn(self.clone().watch(kind, address, log));
                }
                Err(error) => self.put(kind, state_of(&error), None, Vec::new()),
            }
        }
    }

    /// How a server is.
    #[must_use]
    pub fn state(&self, kind: Kind) -> State {
        self.states().remove(&kind).unwrap_or_else(|| state_of(&Error::Missing))
    }

    /// How every started server is.
    #[must_use]
    pub fn states(&self) -> BTreeMap<Kind, State> {
        let slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(kind, slot)| (*kind, slot.state.clone())).collect()
    }

    /// The loopback port of a server that answers.
    #[must_use]
    pub fn port(&self, kind: Kind) -> Option<u16> {
        let slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&kind).filter(|slot| slot.state == State::Ready).and_then(|slot| slot.port)
    }

    /// The requests that went to the git server, which is not behind the front and keeps its own log.
    #[must_use]
    pub fn git_requests(&self) -> Vec<Request> {
        git::requests(&self.0.folder.join(Kind::Git.to_string()))
    }

    /// Forgets the git server's log.
    pub fn forget_git_requests(&self) {
        git::forget_requests(&self.0.folder.join(Kind::Git.to_string()));
    }

    /// Sets the only token that the git server accepts.
    ///
    /// # Errors
    /// Fails where its password file cannot be written.
    pub fn set_git_token(&self, token: &str) -> io::Result<()> {
        git::set_token(&self.0.folder.join(Kind::Git.to_string()), token)
    }

    async fn watch(self, kind: Kind, address: SocketAddr, log: PathBuf) {
        let answers = tokio::time::timeout(START_TIMEOUT, async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(START_POLL).await;
            }
        });
        let state = match answers.await {
            Ok(()) => State::Ready,
            Err(_) => state_of(&Error::Silent(log)),
        };
        if let Some(slot) = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&kind) {
            slot.state = state;
        }
    }

    fn put(&self, kind: Kind, state: State, port: Option<u16>, children: Vec<Child>) {
        tracing::info!(server.kind = %kind, server.state = %state, children = children.len(), "server");
        let pids: Vec<String> = children.iter().filter_map(Child::id).map(|pid| pid.to_string()).collect();
        // The record lets someone who finds the world gone see what it had started.
        if let Err(error) = fs::write(self.0.folder.join(format!("{kind}.pids")), pids.join("\n")) {
            tracing::warn!(server.kind = %kind, error.message = %error, "pids not recorded");
        }
        self.0
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(kind, Slot { state, port, _children: children });
    }
}

fn state_of(error: &Error) -> State {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    if matches!(error, Error::Missing) { State::Missing { message } } else { State::Failed { message } }
}

/// A command whose process the kernel kills when this process ends. `setpriv` sets that before it becomes the program,
/// since Rust offers it only through unsafe code.
fn bound_command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn spawn(mut command: Command, log: &Path) -> Result<Child, Error> {
    let file = File::create(log).and_then(|out| Ok((out.try_clone()?, out)));
    let (out, err) = file.map_err(|error| Error::Files(log.to_owned(), error))?;
    command.stdout(out).stderr(err).spawn().map_err(Error::Spawn)
}

/// A loopback port that was free a moment ago.
fn free_port() -> Result<u16, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::Spawn)?;
    listener.local_addr().map(|address| address.port()).map_err(Error::Spawn)
}

/// A fresh folder: what an earlier world left there is gone, so that every start is the same.
fn fresh_folder(folder: &Path) -> Result<(), Error> {
    let made = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    };
    made.map_err(|error| Error::Files(folder.to_owned(), error))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    copy_entries(from, to).map_err(|error| Error::Files(to.to_owned(), error))
}

fn copy_entries(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_entries(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn write(file: &Path, content: &str) -> Result<(), Error> {
    fs::write(file, content).map_err(|error| Error::Files(file.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_server_says_what_to_do_and_fails_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::load_or_create(folder.path()).unwrap());
        let servers = Servers::new(folder.path().to_owned());
        let nothing = Cache::at(folder.path().join("nothing"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let addresses = Addresses { git: nowhere, proxy: nowhere, names: Ipv4Addr::LOCALHOST };
        servers.start(&nothing, &authority, addresses);
        for kind in Kind::ALL {
            assert!(
                matches!(servers.state(kind), State::Missing { message } if message.contains("prepare")),
                "{kind}"
            );
            assert_eq!(servers.port(kind), None);
        }
    }
}
