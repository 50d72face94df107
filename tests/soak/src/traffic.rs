//! The load: workers that open connections through every entrance, and ask what is allowed and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentsandbox_conformance::vector::Entrance;
use bytes::Bytes;
use futures::future::join_all;

use crate::client::{Sender, Sent, Unopened, open, speak};
use crate::ledger::{Ledger, Told};
use crate::plan::{Ask, Place};

/// Agents' tools at a time.
pub const WORKERS: usize = 16;
/// Requests on one connection, at most.
const REQUESTS_PER_CONNECTION_MAX: u32 = 12;
/// Streams at a time on one connection of HTTP/2.
const STREAMS: usize = 4;
/// The largest body; a refused one of this size is still taken whole, so that its refusal is heard.
const BODY_BYTES_MAX: usize = 48 * 1024;
/// The longest pause between two requests.
const PAUSE_MILLIS_MAX: u64 = 20;

/// Every way in that carries requests.
pub const ENTRANCES: [Entrance; 7] = [
    Entrance::Absolute,
    Entrance::Connect,
    Entrance::ConnectH2,
    Entrance::Socks5,
    Entrance::BaseUrl,
    Entrance::TransparentTls,
    Entrance::TransparentHttp,
];
/// At the host that secrets are for.
const AT_API: [Place; 6] = [Place::V1, Place::Other, Place::Bare, Place::Flip, Place::Swap, Place::Admin];
/// Without TLS.
const PLAIN: [Place; 2] = [Place::Plain, Place::PlainFlip];

/// Shared by the workers.
pub struct Traffic {
    /// Where what they see is judged.
    pub ledger: Arc<Ledger>,
    /// Certificates that they trust.
    pub roots_pem: String,
    /// Told to end.
    pub ends: AtomicBool,
}

impl Traffic {
    /// One worker, until it is told to end.
    pub async fn work(self: Arc<Self>, worker: u64) {
        let mut random = fastrand::Rng::with_seed(self.ledger.seed.wrapping_add(worker));
        while !self.ends.load(Ordering::Relaxed) {
            let entrance = any(&ENTRANCES, Entrance::Connect, &mut random);
            match random.u8(..10) {
                0 => self.mismatch(entrance).await,
                1 | 2 => self.socket(entrance, &mut random).await,
                _ => self.requests(entrance, &mut random).await,
            }
        }
    }

    /// Opens a connection, and judges whether that was right.
    async fn open(&self, entrance: Entrance, place: Place) -> Option<Box<dyn crate::client::Io>> {
        let began = self.ledger.timeline.begin();
        let opened = open(&self.roots_pem, entrance, place, place.host()).await;
        let told = match &opened {
            Ok(_) => Ok(()),
            Err(Unopened::Refused(reason)) => Err(reason.as_str()),
            Err(Unopened::Broken(why)) => {
                self.ledger.accuse(format_args!("{entrance:?} to {place:?} is not opened: {why}"));
                return None;
            }
        };
        if is_bound(entrance) {
            self.ledger.opens(&began, entrance, place, told);
        }
        opened.ok()
    }

    /// A tunnel to one host, and TLS that names another.
    async fn mismatch(&self, entrance: Entrance) {
        let entrance = if is_bound(entrance) { entrance } else { Entrance::Connect };
        if entrance == Entrance::TransparentTls {
            return;
        }
        match open(&self.roots_pem, entrance, Place::V1, "plain.good.test").await {
            Err(Unopened::Refused(_)) => self.ledger.refused(entrance),
            Err(Unopened::Broken(why)) => {
                self.ledger.accuse(format_args!("a mismatch is not refused: {why}"))
            }
            Ok(_) => self.ledger.accuse("a tunnel to one host took the name of another"),
        }
    }

    async fn socket(&self, entrance: Entrance, random: &mut fastrand::Rng) {
        let entrance = match entrance {
            Entrance::ConnectH2 | Entrance::Absolute | Entrance::TransparentHttp => Entrance::Connect,
            other => other,
        };
        let place = if random.u8(..4) == 0 { Place::V1 } else { Place::Socket };
        let Some(io) = self.open(entrance, place).await else { return };
        let ask = Ask { place, method: "GET", own_key: false, socket: true };
        let sent = Sent { number: self.ledger.asks(entrance, ask), ask, body: Bytes::new(), events: false };
        let told = sent.talk(&self.ledger, io, entrance).await;
        self.ledger.told(sent.number, "socket", &told);
    }

    async fn requests(&self, entrance: Entrance, random: &mut fastrand::Rng) {
        let first = place(entrance, random);
        let Some(io) = self.open(entrance, first).await else { return };
        let mut sender = match speak(io, entrance).await {
            Ok(sender) => sender,
            Err(error) => return self.ledger.accuse(format_args!("{entrance:?} speaks no HTTP: {error:?}")),
        };
        for _ in 0..random.u32(1..=REQUESTS_PER_CONNECTION_MAX) {
            let mut next =
                || if is_bound(entrance) { beside(first, random) } else { place(entrance, random) };
            let streams = if matches!(sender, Sender::Http2(_)) { STREAMS } else { 1 };
            let places: Vec<Place> = (0..streams).map(|_| next()).collect();
            let all_go_on = match &mut sender {
                Sender::Http2(shared) => {
                    let sent = places.into_iter().map(|place| {
                        let mut sender = Sender::Http2(shared.clone());
                        let mut random = random.fork();
                        async move { self.request(entrance, place, &mut sender, &mut random).await }
                    });
                    join_all(sent).await.into_iter().all(|goes_on| goes_on)
                }
                Sender::Http1(_) => match places.first() {
                    Some(place) => self.request(entrance, *place, &mut sender, random).await,
                    None => false,
                },
            };
            if !all_go_on || self.ends.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(random.u64(..PAUSE_MILLIS_MAX))).await;
        }
    }

    /// One request; whether its connection can carry another.
    async fn request(
        &self,
        entrance: Entrance,
        place: Place,
        sender: &mut Sender,
        random: &mut fastrand::Rng,
    ) -> bool {
        let events = random.u8(..6) == 0;
        let method = match random.u8(..8) {
            0 => "DELETE",
            1..=3 if !events => "POST",
            _ => "GET",
        };
        let size = if method == "POST" { random.usize(..BODY_BYTES_MAX) } else { 0 };
        let body: Bytes = std::iter::repeat_with(|| random.alphanumeric() as u8).take(size).collect();
        let ask = Ask { place, method, own_key: random.bool(), socket: false };
        let number = self.ledger.asks(entrance, ask);
        let sent = Sent { number, ask, body, events };
        let told = sent.send(&self.ledger, sender, entrance).await;
        self.ledger.told(number, if events { "events" } else { "request" }, &told);
        matches!(told, Told::Served | Told::Denied(_))
    }
}

/// Whether what is opened leads to one host.
const fn is_bound(entrance: Entrance) -> bool {
    matches!(entrance, Entrance::Connect | Entrance::ConnectH2 | Entrance::Socks5 | Entrance::TransparentTls)
}

/// One of several.
fn any<T: Copy>(all: &[T], usual: T, random: &mut fastrand::Rng) -> T {
    random.choice(all).copied().unwrap_or(usual)
}

/// What is asked first through an entrance.
fn place(entrance: Entrance, random: &mut fastrand::Rng) -> Place {
    let roll = random.u8(..10);
    match (entrance, roll) {
        (Entrance::TransparentHttp, 0 | 1) | (_, 0) => Place::Evil,
        (Entrance::TransparentHttp, _) => any(&PLAIN, Place::Plain, random),
        (Entrance::TransparentTls | Entrance::BaseUrl, 1) => Place::Repo,
        (_, 1) => Place::Port,
        (_, 2 | 3) => Place::Repo,
        (Entrance::Absolute | Entrance::BaseUrl, 4 | 5) => any(&PLAIN, Place::Plain, random),
        _ => any(&AT_API, Place::V1, random),
    }
}

/// What else is asked on a connection to the host of this place.
fn beside(first: Place, random: &mut fastrand::Rng) -> Place {
    if AT_API.contains(&first) { any(&AT_API, Place::V1, random) } else { first }
}
