use std::net::{Ipv4Addr, SocketAddr};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;

use super::super::Way;
use super::*;

mod places;
mod waiting;
mod windows;

fn at(host: &str) -> Destination {
    (Scheme::Https, Host::parse(host).unwrap(), 443)
}

fn voice(credential: Option<&str>, secret: Option<u64>, password: Option<u64>) -> Voice {
    let who = Who { credential: credential.map(Into::into), certificate: None };
    Voice { who, readings: Readings { secret, certificate: None, password } }
}

fn certified(certificate: Option<&str>, reading: Option<u64>, credential: Option<&str>) -> Voice {
    let who = Who { credential: credential.map(Into::into), certificate: certificate.map(Into::into) };
    Voice { who, readings: Readings { certificate: reading, ..Readings::default() } }
}

fn nobody() -> Voice {
    voice(None, None, None)
}

fn lease(sender: Sender, to: Destination, voice: &Voice) -> Lease {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let to = Way::to(to).unwrap();
    let voice = voice.clone();
    Lease { sender, to, voice, address, may_lead_back: false, shown: None, stream: None, heard: None }
}

/// A connection that stays open for as long as the other end is held.
async fn over_http1(to: Destination, voice: &Voice) -> (Lease, DuplexStream) {
    let (near, far) = tokio::io::duplex(1024);
    let (sender, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender;
    sender.ready().await.unwrap();
    (lease(Sender::Http1(sender), to, voice), far)
}

async fn over_http2(to: Destination, voice: &Voice, streams_max: usize) -> (Lease, DuplexStream) {
    with_streams(&allowing(streams_max), to, voice).await
}

async fn with_streams(streams: &Arc<Streams>, to: Destination, voice: &Voice) -> (Lease, DuplexStream) {
    let (near, far) = tokio::io::duplex(1024);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    (lease(Sender::Http2(sender, Arc::clone(streams)), to, voice), far)
}

/// The streams of an upstream that has said how many it allows.
fn allowing(streams_max: usize) -> Arc<Streams> {
    let streams = Streams::new();
    streams.allows(streams_max);
    streams
}

/// What a request gets that does not wait.
fn take(pool: &Pool, to: Destination, voice: &Voice) -> Option<Lease> {
    match pool.take(to, voice) {
        Found::Lease(lease) => Some(lease),
        Found::Opening(_) | Found::Wait(_) | Found::Retired => None,
    }
}

fn opening(pool: &Pool) -> Option<Opening> {
    match pool.take(at("good.test"), &nobody()) {
        Found::Opening(opening) => Some(opening),
        Found::Lease(_) | Found::Wait(_) | Found::Retired => None,
    }
}

fn count(pool: &Pool) -> usize {
    let kept = pool.kept();
    let counted = kept.groups.values().map(|group| group.idle.len()).sum();
    assert_eq!(kept.count, counted);
    counted
}

#[tokio::test]
async fn p_a11_a_connection_is_found_only_by_all_that_it_may_carry() {
    let own = voice(Some("key"), Some(3), Some(5));
    let others = [
        ((Scheme::Http, Host::parse("good.test").unwrap(), 443), own.clone()),
        (at("other.test"), own.clone()),
        ((Scheme::Https, Host::parse("good.test").unwrap(), 8443), own.clone()),
        (at("good.test"), voice(Some("other"), Some(3), Some(5))),
        (at("good.test"), voice(None, None, Some(5))),
        (at("good.test"), voice(Some("key"), Some(2), Some(5))),
        (at("good.test"), voice(Some("key"), Some(4), Some(5))),
        (at("good.test"), voice(Some("key"), Some(3), Some(4))),
        (at("good.test"), voice(Some("key"), Some(3), Some(6))),
        (at("good.test"), voice(Some("key"), Some(3), None)),
    ];
    for (to, other) in others {
        let pool = Arc::new(Pool::default());
        let (lease, _far) = over_http1(at("good.test"), &own).await;
        pool.put(lease);
        let taken = pool.take(to.clone(), &other);
        assert!(matches!(taken, Found::Opening(opening) if !opening.is_for_one_more()), "{to:?} {other:?}");
    }
    let pool = Arc::new(Pool::default());
    let (lease, _far) = over_http1(at("good.test"), &own).await;
    pool.put(lease);
    assert!(take(&pool, at("good.test"), &own).is_some());
    assert!(take(&pool, at("good.test"), &own).is_none(), "it was taken");
}

#[tokio::test]
async fn p_a11_a_connection_that_shows_a_client_certificate_is_found_by_no_request_that_does_not_show_this_one()
 {
    let own = certified(Some("mtls"), Some(3), None);
    let others = [
        nobody(),
        certified(Some("other"), Some(3), None),
        certified(Some("mtls"), Some(2), None),
        certified(Some("mtls"), Some(4), None),
        certified(Some("mtls"), Some(3), Some("key")),
        voice(Some("key"), Some(3), None),
        // A key of the same name.
        voice(Some("mtls"), Some(3), None),
    ];
    for other in others {
        for (kept, asking) in [(&own, &other), (&other, &own)] {
            let pool = Arc::new(Pool::default());
            let (lease, _far) = over_http1(at("good.test"), kept).await;
            pool.put(lease);
            assert!(take(&pool, at("good.test"), asking).is_none(), "{kept:?} {asking:?}");
        }
    }
    let pool = Arc::new(Pool::default());
    let (lease, _far) = over_http1(at("good.test"), &own).await;
    pool.put(lease);
    assert!(take(&pool, at("good.test"), &own).is_some());
}

#[tokio::test]
async fn p_f17_what_was_opened_with_a_replaced_secret_or_password_ends_and_is_not_kept_when_it_comes_back() {
    let old = voice(Some("key"), Some(3), Some(5));
    let of_certificate = |reading| certified(Some("mtls"), Some(reading), None);
    for (old, new) in [
        (&old, voice(Some("key"), Some(4), Some(5))),
        (&old, voice(Some("key"), Some(3), Some(6))),
        (&of_certificate(3), of_certificate(4)),
    ] {
        let pool = Arc::new(Pool::default());
        let (kept, _far) = over_http1(at("good.test"), old).await;
        let (in_use, _other_far) = over_http1(at("good.test"), old).await;
        pool.put(kept);
        assert!(take(&pool, at("good.test"), &new).is_none());
        assert_eq!(count(&pool), 0, "the old one has ended");
        let (latest, _latest_far) = over_http1(at("good.test"), &new).await;
        pool.put(latest);
        pool.put(in_use);
        assert_eq!(count(&pool), 1, "the old one is not kept");
        assert!(take(&pool, at("good.test"), old).is_none());
        assert!(take(&pool, at("good.test"), &new).is_some(), "the new one is kept");
    }
}

#[tokio::test]
async fn p_f17_what_comes_back_with_a_replaced_secret_is_not_kept_where_no_connection_is_left_either() {
    let (old, new) = (voice(Some("key"), Some(3), None), voice(Some("key"), Some(4), None));
    for newer_at in ["good.test", "other.test"] {
        let pool = Arc::new(Pool::default());
        let (in_use, _far) = over_http1(at("good.test"), &old).await;
        let (newer, _newer_far) = over_http1(at(newer_at), &new).await;
        pool.put(newer);
        assert!(take(&pool, at(newer_at), &new).is_some());
        pool.put(in_use);
        assert_eq!(count(&pool), 0, "{newer_at}");
        let (newer, _newer_far) = over_http1(at(newer_at), &new).await;
        pool.put(newer);
        assert_eq!(count(&pool), 1, "{newer_at}");
    }
}

#[tokio::test]
async fn p_i4_kept_connections_are_bounded_for_each_destination_and_in_all_and_the_oldest_goes() {
    let pool = Arc::new(Pool::default());
    let mut held = Vec::new();
    for _ in 0..IDLE_CONNECTIONS_PER_HOST_MAX + 3 {
        let (lease, far) = over_http1(at("good.test"), &nobody()).await;
        held.push(far);
        pool.put(lease);
    }
    assert_eq!(count(&pool), IDLE_CONNECTIONS_PER_HOST_MAX);
    let more = IDLE_CONNECTIONS_MAX - IDLE_CONNECTIONS_PER_HOST_MAX;
    for number in 0..more {
        let (lease, far) = over_http1(at(&format!("x{number}.test")), &nobody()).await;
        held.push(far);
        pool.put(lease);
    }
    assert_eq!(count(&pool), IDLE_CONNECTIONS_MAX);
    for number in 0..IDLE_CONNECTIONS_PER_HOST_MAX {
        let (lease, far) = over_http1(at(&format!("y{number}.test")), &nobody()).await;
        held.push(far);
        pool.put(lease);
    }
    assert_eq!(count(&pool), IDLE_CONNECTIONS_MAX);
    assert!(take(&pool, at("good.test"), &nobody()).is_none(), "all of the first host were older");
    assert!(take(&pool, at("x0.test"), &nobody()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_or_too_old_is_not_given_out() {
    let pool = Arc::new(Pool::default());
    let (lease, far) = over_http1(at("good.test"), &nobody()).await;
    pool.put(lease);
    drop(far);
    while pool.kept().groups.values().any(|group| group.idle.iter().any(|idle| idle.lease.is_open())) {
        tokio::task::yield_now().await;
    }
    assert!(take(&pool, at("good.test"), &nobody()).is_none());
    assert_eq!(count(&pool), 0);
    for (age, is_given) in [(IDLE_CONNECTION_AGE_MAX / 2, true), (IDLE_CONNECTION_AGE_MAX, false)] {
        let (lease, _far) = over_http1(at("good.test"), &nobody()).await;
        pool.put(lease);
        tokio::time::advance(age).await;
        assert_eq!(take(&pool, at("good.test"), &nobody()).is_some(), is_given, "{age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_below_another_of_http_2_is_not_given_out_either() {
    let pool = Arc::new(Pool::default());
    let (below, far) = over_http1(at("good.test"), &nobody()).await;
    let (above, _far) = over_http2(at("good.test"), &nobody(), 1).await;
    pool.put(below);
    pool.put(above);
    drop(far);
    let is_open = |idle: &Idle| idle.streams().is_none() && idle.lease.is_open();
    while pool.kept().groups.values().any(|group| group.idle.iter().any(is_open)) {
        tokio::task::yield_now().await;
    }
    let taken = take(&pool, at("good.test"), &nobody()).unwrap();
    assert!(matches!(taken.sender, Sender::Http2(..)));
}
