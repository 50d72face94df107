//! Sessions of TLS that an agent resumes: under which name, and what is judged then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentsandbox_proxy::entrance::Entrance;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::entrances::to;
use crate::world::{HOST, World, standalone};

const OTHER: &str = "tls.good.test";

/// A client that shows the tickets of each name under all of them, and counts how many it showed.
#[derive(Debug)]
struct Mixing {
    kept: ClientSessionMemoryCache,
    shown: AtomicUsize,
}

fn one() -> ServerName<'static> {
    ServerName::try_from("one.test").unwrap()
}

impl ClientSessionStore for Mixing {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(one(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(&one())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(one(), session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(&one())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept.remove_tls12_session(&one());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.kept.insert_tls13_ticket(one(), ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.kept.take_tls13_ticket(&one());
        self.shown.fetch_add(usize::from(ticket.is_some()), Ordering::SeqCst);
        ticket
    }
}

/// A client of this world, and what it keeps.
fn client(world: &World) -> (Arc<ClientConfig>, Arc<Mixing>) {
    let kept = Arc::new(Mixing { kept: ClientSessionMemoryCache::new(8), shown: AtomicUsize::default() });
    let mut config = world.trusting("http/1.1");
    config.enable_early_data = true;
    config.resumption = Resumption::store(Arc::clone(&kept) as Arc<dyn ClientSessionStore>);
    (Arc::new(config), kept)
}

/// A handshake under this name.
async fn shakes<S>(config: &Arc<ClientConfig>, io: S, name: &'static str) -> std::io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(name).unwrap(), io).await
}

/// What kind of handshake it was. The tickets behind it are taken, with an answer.
async fn kind<S: AsyncRead + AsyncWrite + Unpin>(mut tls: TlsStream<S>, host: &str) -> HandshakeKind {
    let head = format!("GET /v1/x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 "), "{host}");
    let connection = tls.get_ref().1;
    assert!(connection.tls13_tickets_received() <= 1, "one for the next connection");
    connection.handshake_kind().unwrap()
}

#[tokio::test]
async fn p_a23_a_session_is_resumed_under_its_own_name_and_under_no_other() {
    let world = standalone(&["http/1.1"]).await;
    let (config, kept) = client(&world);
    let (good, other) = ((HOST, world.authority()), (OTHER, format!("{OTHER}:443")));
    for ((name, authority), shown, wanted) in [
        (&good, 0, HandshakeKind::Full),
        (&good, 1, HandshakeKind::Resumed),
        (&other, 2, HandshakeKind::Full),
        (&other, 3, HandshakeKind::Resumed),
        (&good, 4, HandshakeKind::Full),
    ] {
        let io = world.connect(authority).await.unwrap();
        let tls = shakes(&config, io, name).await.unwrap();
        assert_eq!(kind(tls, authority).await, wanted, "{name}, after {shown}");
        assert_eq!(kept.shown.load(Ordering::SeqCst), shown, "a ticket is shown each time but the first");
    }
    // Each was judged as the name that it was opened for, resumed or not.
    let hosts = |name: &str| {
        world.lines().iter().filter(|line| line["event"] == "begin" && line["host"] == name).count()
    };
    assert_eq!((hosts(HOST), hosts(OTHER)), (3, 2));
}

#[tokio::test]
async fn p_a23_a_ticket_does_not_open_what_no_rule_allows_any_more() {
    let world = standalone(&["http/1.1"]).await;
    let (config, kept) = client(&world);
    let entrance = Entrance::TransparentTls;
    for wanted in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let tls = shakes(&config, to(&world, entrance).await, OTHER).await.unwrap();
        assert_eq!(kind(tls, OTHER).await, wanted);
    }
    world.edit(|document| document.replace("host: tls.good.test", "host: gone.good.test")).await;
    let refused = shakes(&config, to(&world, entrance).await, OTHER).await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    assert_eq!(kept.shown.load(Ordering::SeqCst), 2, "a ticket was shown");
    let line = world.line(&[("event", "deny"), ("host", OTHER)]).await;
    assert_eq!(line["reason"], "HostNotAllowed");
}
