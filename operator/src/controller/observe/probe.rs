//! Whether a proxy is closed to everybody but its agent: the operator's own connection to its data port has to fail.
//!
//! Not every failure is evidence. Only what a wall does counts: silence, a refusal, "no route to that host", "not
//! permitted". A failure of the operator's own (no descriptor, no port, no route at all) says nothing, and what is not
//! known starts no agent.
//!
//! One failure is weak evidence, since a lost packet or a proxy that restarts in this very moment looks the same; two,
//! [`CONFIRM_AFTER`] apart, are strong. The way from agent to proxy is opened on the first, for the fence inside proves its
//! own walls anyway. `NetworkIsolated` is true on the second only, and a connection that succeeds instead shuts the way and
//! stops the agent. The first is made as soon as the proxy says that it listens; the second counts only while the kubelet
//! calls it ready, for of a proxy that does not serve a refusal proves nothing. A sighting is about one run of one proxy:
//! another pod, or another run of its container, is tried anew.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::names::PORT_HTTP_PROXY;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Recent, address, ready_since, serving_since};
use crate::config::WallProbe;
use crate::controller::desired::proxy_pod;

/// A connection that is neither accepted nor refused within this time counts as closed: walls mostly drop.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// Time between a first sighting and its confirmation: longer than a SYN's first retransmission takes.
pub(super) const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// Whether the proxy is closed to everybody but its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closedness {
    /// The proxy does not serve yet, so a refusal would prove nothing.
    Untried,
    /// The probe failed in a way that says nothing about walls; why.
    Unclear(String),
    /// The operator's connection succeeded: the walls do not hold, or do not hold yet.
    Open,
    /// The operator's connection succeeded where one had failed before: the earlier sighting was no proof.
    Reopened,
    /// It failed once while the proxy served; it is to be confirmed after this time.
    Seen(ProxyClosed, Duration),
    /// It failed twice.
    Proven(ProxyClosed),
    /// The operator's flags waive the proof.
    Waived(ProxyClosed),
}

impl Closedness {
    /// The proof, if there is one.
    #[must_use]
    pub const fn proof(&self) -> Option<&ProxyClosed> {
        match self {
            Self::Seen(proof, _) | Self::Proven(proof) | Self::Waived(proof) => Some(proof),
            Self::Untried | Self::Unclear(_) | Self::Open | Self::Reopened => None,
        }
    }
}

/// Evidence that the proxy serves and is closed to the operator; only the probe makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyClosed {
    _only_the_probe_makes_it: (),
}

/// What one connection attempt showed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    Open,
    Closed,
    Unclear(String),
}

/// One run of one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProxyRun {
    pod_uid: String,
    restarts: i32,
}

/// That a proxy was seen closed.
#[derive(Clone, Debug)]
struct Sighting {
    run: ProxyRun,
    /// When it was judged last; it counts as long as nothing was seen since.
    seen: Instant,
    since: Since,
}

/// What was seen after the first sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Nothing,
    Confirmed,
    /// It stays so until the proxy is seen closed again: the agent might not have been stopped in the first attempt.
    Reopened,
}

/// The latest sighting of each sandbox's proxy, by the sandbox's UID.
#[derive(Debug, Default)]
pub(super) struct Sightings(Mutex<HashMap<String, Sighting>>);

/// Whether the proxy is closed to the operator.
pub async fn closedness(
    sandbox_uid: &str,
    proxy: Option<&Pod>,
    probe: WallProbe,
    recent: &Recent,
) -> Closedness {
    let Some(pod) = proxy.filter(|pod| serving_since(pod).is_some()) else { return Closedness::Untried };
    let (Some(run), Some(address)) = (run(pod), address(pod)) else { return Closedness::Untried };
    if probe == WallProbe::None {
        return Closedness::Waived(ProxyClosed { _only_the_probe_makes_it: () });
    }
    if let Some(known) = recent.sightings.known(sandbox_uid, &run, Instant::now()) {
        return known;
    }
    let connection = TcpStream::connect(SocketAddr::new(address, PORT_HTTP_PROXY));
    let sight = match tokio::time::timeout(PROBE_TIMEOUT, connection).await {
        Ok(result) => sight(&result.map(|_| ())),
        Err(_) => Sight::Closed,
    };
    let sight = match sight {
        // A kubelet that was restarted meanwhile calls a container started whose hook never ended.
        Sight::Closed if recent.sightings.is_tried(sandbox_uid, &run) && ready_since(pod).is_none() => {
            Sight::Unclear("the proxy is not ready".to_owned())
        }
        sight => sight,
    };
    recent.sightings.judge(sandbox_uid, run, sight, Instant::now())
}

/// None for a container whose run is not known: a pod that serves has one.
fn run(pod: &Pod) -> Option<ProxyRun> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let container = containers.iter().find(|status| status.name == proxy_pod::CONTAINER)?;
    Some(ProxyRun { pod_uid: pod.uid()?, restarts: container.restart_count })
}

/// What the result of a connection attempt says about walls.
fn sight(result: &io::Result<()>) -> Sight {
    let Err(error) = result else { return Sight::Open };
    match error.kind() {
        // The kernel's own timeout, a RST or port-unreachable, any other ICMP rejection, a filter on this node.
        ErrorKind::TimedOut
        | ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::PermissionDenied => Sight::Closed,
        // Network-unreachable among these: mostly this node's own word for having no route, to the proxy or to anything.
        _ => Sight::Unclear(error.to_string()),
    }
}

impl Sightings {
    /// What needs no connection: a proof, or a first sighting whose confirmation is not due.
    fn known(&self, sandbox_uid: &str, run: &ProxyRun, now: Instant) -> Option<Closedness> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sighting = all.get(sandbox_uid).filter(|sighting| sighting.run == *run)?;
        let closed = ProxyClosed { _only_the_probe_makes_it: () };
        match sighting.since {
            Since::Confirmed => Some(Closedness::Proven(closed)),
            Since::Reopened => None,
            Since::Nothing => {
                let due_in = CONFIRM_AFTER.saturating_sub(now.saturating_duration_since(sighting.seen));
                (!due_in.is_zero()).then_some(Closedness::Seen(closed, due_in))
            }
        }
    }

    /// Whether this run was seen closed before.
    fn is_tried(&self, sandbox_uid: &str, run: &ProxyRun) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(sandbox_uid).is_some_and(|sighting| sighting.run == *run)
    }

    /// Takes in what an attempt showed.
    fn judge(&self, sandbox_uid: &str, run: ProxyRun, sight: Sight, now: Instant) -> Closedness {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier =
            all.get(sandbox_uid).filter(|sighting| sighting.run == run).map(|sighting| sighting.since);
        let closed = ProxyClosed { _only_the_probe_makes_it: () };
        let (since, judged) = match (sight, earlier) {
            (Sight::Open, None) => return Closedness::Open,
            (Sight::Unclear(why), None | Some(Since::Reopened)) => return Closedness::Unclear(why),
            // The first sighting is worth no less than before; it still wants its confirmation.
            (Sight::Unclear(_), Some(Since::Nothing | Since::Confirmed)) => {
                return Closedness::Seen(closed, CONFIRM_AFTER);
            }
            (Sight::Open, Some(_)) => (Since::Reopened, Closedness::Reopened),
            (Sight::Closed, None | Some(Since::Reopened)) => {
                (Since::Nothing, Closedness::Seen(closed, CONFIRM_AFTER))
            }
            (Sight::Closed, Some(Since::Nothing | Since::Confirmed)) => {
                (Since::Confirmed, Closedness::Proven(closed))
            }
        };
        all.insert(sandbox_uid.to_owned(), Sighting { run, seen: now, since });
        judged
    }

    /// Forgets a sandbox that is gone.
    pub(super) fn forget(&self, sandbox_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(sandbox_uid);
    }
}

#[cfg(test)]
impl ProxyClosed {
    /// A proof in a test, where there is no proxy to try.
    pub(crate) const fn for_tests() -> Self {
        Self { _only_the_probe_makes_it: () }
    }
}

#[cfg(test)]
impl Recent {
    /// As if this pod had been seen closed when its confirmation came due just now.
    pub(crate) fn saw_closed(&self, sandbox_uid: &str, pod: &Pod) {
        let first = Instant::now().checked_sub(CONFIRM_AFTER).unwrap();
        self.sightings.judge(sandbox_uid, run(pod).unwrap(), Sight::Closed, first);
    }
}

#[cfg(test)]
mod tests;
