//! Listening and ending. Every entrance is bound before any is served, so the proxy is whole or absent. A peer is
//! judged at accept, before a byte is read. On SIGTERM listening stops, what runs may end, and a deadline ends the rest.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use agentsandbox_policy::DenialReason;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admin;
use crate::audit::Audit;
use crate::audit::pace::Pace;
use crate::config::Config;
use crate::entrance::dns::{self, Budget};
use crate::entrance::line::{Line, Pulse};
use crate::entrance::room::Room;
use crate::entrance::{Entrance, Origin, Slot, base_url, http_proxy, socks5, transparent};
use crate::limits::{
    ACCEPT_BACKLOG, ADMIN_CONNECTIONS_MAX, AUDIT_FOLD_WINDOW, DRAIN_TIMEOUT, ENROLMENTS_MAX,
    FIRST_BYTE_TIMEOUT, MEMORY_SETTLES_AFTER, POLICY_POLL_INTERVAL, TRACES_LAST_TIMEOUT,
};
use crate::pipeline::Proxy;
use crate::reload::ActivePolicy;
use crate::resolve::Resolver;
use crate::scrub::decode::Places;
use crate::stream::Bodies;
use crate::traces;

/// Why a port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be bound")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// What listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// An entrance.
    Entrance(Entrance),
    /// Health and metrics.
    Admin,
}

/// A proxy with all its ports bound, not yet serving.
pub struct Bound {
    proxy: Arc<Proxy>,
    listeners: Vec<(Port, TcpListener)>,
    dns: Option<UdpSocket>,
    slots: Slots,
}

/// Places for connections. Those of enrolment are its own: a flood of the agent's must not keep out the fence of its
/// successor, and a flood of enrolments not the agent. So are those of the admin port: a probe must get through any.
#[derive(Clone)]
struct Slots {
    agent: Arc<Semaphore>,
    enrolment: Arc<Semaphore>,
    admin: Arc<Semaphore>,
}

impl Slots {
    fn take(&self, entrance: Entrance) -> Option<Slot> {
        let slots = if entrance == Entrance::Enrolment { &self.enrolment } else { &self.agent };
        Arc::clone(slots).try_acquire_owned().ok().map(Slot::new)
    }
}

/// Binds every port.
pub async fn bind(
    config: Config,
    audit: Box<dyn std::io::Write + Send>,
    shutdown: CancellationToken,
) -> Result<Bound, BindError> {
    let ports = [
        (Port::Entrance(Entrance::HttpProxy), config.ports.http),
        (Port::Entrance(Entrance::Socks5), config.ports.socks),
        (Port::Entrance(Entrance::BaseUrl), config.ports.base_url),
        (Port::Entrance(Entrance::TransparentTls), config.ports.tls),
        (Port::Entrance(Entrance::TransparentHttp), config.ports.plain),
        (Port::Entrance(Entrance::Dns), config.ports.dns),
        (Port::Entrance(Entrance::Enrolment), config.ports.enrolment),
        (Port::Admin, config.ports.admin),
    ];
    let mut listeners = Vec::new();
    let mut dns = None;
    for (port, number) in ports {
        let Some(number) = number else { continue };
        let address = SocketAddr::new(config.bind, number);
        let listener = listen(address).map_err(|source| BindError { address, source })?;
        if port == Port::Entrance(Entrance::Dns) {
            let address = listener.local_addr().unwrap_or(address);
            dns = Some(UdpSocket::bind(address).await.map_err(|source| BindError { address, source })?);
        }
        listeners.push((port, listener));
    }
    let slots = Slots {
        agent: Arc::new(Semaphore::new(config.connections_max)),
        enrolment: Arc::new(Semaphore::new(ENROLMENTS_MAX)),
        admin: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
    };
    Ok(Bound { proxy: Arc::new(assemble(config, audit, shutdown)), listeners, dns, slots })
}

pub(crate) fn assemble(
    config: Config,
    audit: Box<dyn std::io::Write + Send>,
    shutdown: CancellationToken,
) -> Proxy {
    let (file, text, loaded) = config.policy;
    // Files are counted for one of an upstream's for each that is served.
    loaded.upstream.places().add(config.upstream_connections_max.min(config.connections_max));
    let policy = ActivePolicy::new(file, text, loaded, config.provider, Arc::clone(&config.metrics));
    Proxy {
        policy: Arc::new(policy),
        secrets: config.secrets,
        authority: config.authority,
        resolver: Resolver::new(&config.resolve),
        enrolment: config.enrolment,
        budgets: config.budgets,
        audit: Audit::new(audit, Pace::new(config.decisions_per_second), Arc::clone(&config.metrics)),
        metrics: config.metrics,
        advertise: config.advertise,
        shutdown,
        connections: TaskTracker::new(),
        upstream_wait_max: config.upstream_wait_max,
        decoders: Places::default(),
        bodies: Bodies::default(),
        room: Room::default(),
        dns_budget: Budget::default(),
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted container must not wait for the old one's connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

impl Bound {
    /// The addresses that are listened on.
    pub fn addresses(&self) -> impl Iterator<Item = (Port, SocketAddr)> {
        self.listeners.iter().filter_map(|(port, listener)| Some((*port, listener.local_addr().ok()?)))
    }

    /// Serves until shutdown, then drains.
    pub async fn run(self) {
        let Self { proxy, listeners, dns, slots } = self;
        let background = TaskTracker::new();
        background.spawn(Arc::clone(&proxy.policy).follow(proxy.shutdown.clone()));
        background.spawn(tidy(Arc::clone(&proxy)));
        background.spawn(look_after(Arc::clone(&proxy)));
        background.spawn(stay_below(Arc::clone(&proxy)));
        let audit = Arc::clone(&proxy.audit);
        let tending = tokio::spawn(async move { audit.tend().await });
        let ending = CancellationToken::new();
        let exporting =
            AbortOnDropHandle::new(tokio::spawn(traces::export(Arc::clone(&proxy), ending.clone())));
        if let Some(socket) = dns {
            background.spawn(dns::serve_udp(Arc::clone(&proxy), socket));
        }
        for (port, listener) in listeners {
            background.spawn(accept(Arc::clone(&proxy), port, listener, slots.clone()));
        }
        background.close();
        background.wait().await;
        proxy.connections.close();
        if timeout(DRAIN_TIMEOUT, proxy.connections.wait()).await.is_err() {
            tracing::warn!(left = proxy.connections.len(), "connections are cut off at the drain deadline");
        }
        tending.abort();
        // It was meant to end.
        let _ = tending.await;
        // Those that are cut off still decide until the process is gone.
        proxy.end_folds();
        ending.cancel();
        if timeout(TRACES_LAST_TIMEOUT, exporting).await.is_err() {
            tracing::debug!("the last traces are not sent");
        }
    }
}

async fn tidy(proxy: Arc<Proxy>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(AUDIT_FOLD_WINDOW) => proxy.tidy(),
            () = proxy.shutdown.cancelled() => return,
        }
    }
}

/// Ends answers of which nothing passes with what allowed them.
async fn look_after(proxy: Arc<Proxy>) {
    // Were this to end by a panic, answers would outlast their rules from then on.
    let _ends_with_this = proxy.shutdown.clone().drop_guard();
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLICY_POLL_INTERVAL) => proxy.bodies.look().await,
            () = proxy.shutdown.cancelled() => return,
        }
    }
}

/// Tells that the memory was full, and ends the process where it stays so although all that the agent had open has ended.
async fn stay_below(proxy: Arc<Proxy>) {
    let ceiling = Arc::clone(proxy.policy.places().ceiling());
    loop {
        tokio::select! {
            () = ceiling.exceeded() => {}
            () = proxy.shutdown.cancelled() => return,
        }
        proxy.metrics.memory_was_full();
        tracing::warn!("the memory is full: all that the agent has open ends");
        tokio::select! {
            () = tokio::time::sleep(MEMORY_SETTLES_AFTER) => {}
            () = proxy.shutdown.cancelled() => return,
        }
        if !ceiling.goes_on() {
            tracing::error!("the memory does not come free: the proxy ends, to begin anew");
            return proxy.shutdown.cancel();
        }
    }
}

async fn accept(proxy: Arc<Proxy>, port: Port, listener: TcpListener, slots: Slots) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = proxy.shutdown.cancelled() => return,
        };
        let (io, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %error, "accept failed");
                // Out of descriptors, most likely: give others the time to close theirs.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let peer = peer.ip();
        if port == Port::Admin && !proxy.enrolment.admits_to_admin(peer) {
            proxy.metrics.unknown_peer();
            continue;
        }
        if let Port::Entrance(entrance) = port
            && entrance != Entrance::Enrolment
            && !proxy.knows(entrance, peer)
        {
            continue;
        }
        let _ = io.set_nodelay(true);
        let work: Work = match port {
            Port::Admin => {
                let Ok(place) = Arc::clone(&slots.admin).try_acquire_owned() else {
                    proxy.metrics.admin_connection_refused();
                    continue;
                };
                let serving = admin::serve(Arc::clone(&proxy), io);
                Box::pin(async move {
                    serving.await;
                    drop(place);
                })
            }
            Port::Entrance(entrance) => {
                let Some(slot) = slots.take(entrance) else {
                    proxy.metrics.connection_refused();
                    proxy.refuse_often(entrance, None, DenialReason::LimitExceeded);
                    continue;
                };
                let pulse = Pulse::default();
                Box::pin(attend(Arc::clone(&proxy), io, Origin { entrance, peer, slot, pulse }))
            }
        };
        let owner = Arc::clone(&proxy);
        proxy.connections.spawn(async move {
            let entrance = match port {
                Port::Admin | Port::Entrance(Entrance::Enrolment) => return work.await,
                Port::Entrance(entrance) => entrance,
            };
            tokio::select! {
                biased;
                () = owner.cuts_off(entrance, peer) => {}
                () = work => {}
            }
        });
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves a client that says something in time.
async fn attend(proxy: Arc<Proxy>, io: TcpStream, origin: Origin) {
    // `readable` alone may answer before there is anything to read.
    match timeout(FIRST_BYTE_TIMEOUT, io.peek(&mut [0])).await {
        Ok(Ok(_)) => {
            let io = Line::new(io, Arc::clone(proxy.policy.places().ceiling()));
            let pulse = io.pulse();
            serve(proxy, io, Origin { pulse, ..origin }).await;
        }
        Ok(Err(_)) => {}
        Err(_) => proxy.refuse_often(origin.entrance, None, DenialReason::LimitExceeded),
    }
}

fn serve(proxy: Arc<Proxy>, io: Line, origin: Origin) -> Work {
    match origin.entrance {
        Entrance::HttpProxy => Box::pin(http_proxy::serve(proxy, io, origin)),
        Entrance::Socks5 => Box::pin(socks5::serve(proxy, io, origin)),
        Entrance::BaseUrl => Box::pin(base_url::serve(proxy, io, origin)),
        Entrance::TransparentTls => Box::pin(transparent::serve_tls(proxy, io, origin)),
        Entrance::TransparentHttp => Box::pin(transparent::serve_http(proxy, io, origin)),
        Entrance::Dns => Box::pin(dns::serve_tcp(proxy, io, origin)),
        Entrance::Enrolment => Box::pin(admin::serve_enrolment(proxy, io, origin)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::Path;

    use agentsandbox_policy::Host;
    use http::{Request, Response};
    use hyper::body::Incoming;

    use super::*;
    use crate::cli::{Ports, ServeArgs};
    use crate::entrance::EntranceContext;
    use crate::pipeline::handle;
    use crate::respond::Body;

    /// A proxy with this policy, whose secrets stand in the folder as well. It knows the addresses of these names.
    pub(crate) fn proxy(folder: &Path, policy: &str, resolve: Vec<(Host, IpAddr)>) -> Proxy {
        std::fs::write(folder.join("policy.yaml"), policy).unwrap();
        let args = ServeArgs {
            policy: folder.join("policy.yaml"),
            secrets: folder.to_owned(),
            keys: None,
            state: folder.to_owned(),
            advertise: None,
            enrolled: None,
            termination_log: None,
            bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            resolve,
            memory_mib: None,
            ports: Ports::default(),
        };
        let config = Config::parse(&args).unwrap_or_else(|error| panic!("{error:?}"));
        assemble(config, Box::new(std::io::sink()), CancellationToken::new())
    }

    fn bytes_of<A, B, C, F: Future<Output = Response<Body>>>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_is_not_moved_about_with_the_room_for_a_handshake_that_it_seldom_makes() {
        type Context = &'static Arc<EntranceContext>;
        let bytes = bytes_of(|proxy: Arc<Proxy>, request: Request<Incoming>, context: Context| {
            handle(proxy, request, context)
        });
        assert!((1..8 * 1024).contains(&bytes), "{bytes}");
    }
}
