use std::net::{Ipv4Addr, SocketAddr};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;

use super::*;

fn at(host: &str) -> Destination {
    (Scheme::Https, Host::parse(host).unwrap(), 443)
}

fn voice(credential: Option<&str>, secret: Option<u64>, password: Option<u64>) -> Voice {
    Voice { credential: credential.map(str::to_owned), readings: Readings { secret, password } }
}

fn nobody() -> Voice {
    voice(None, None, None)
}

fn lease(sender: Sender, to: Destination, voice: &Voice) -> Lease {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Lease { sender, to, voice: voice.clone(), address, may_lead_back: false, stream: None }
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
    let (near, far) = tokio::io::duplex(1024);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    (lease(Sender::Http2(sender, Streams::new(streams_max)), to, voice), far)
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
        assert!(pool.take(to.clone(), &other).is_err(), "{to:?} {other:?}");
        assert!(pool.share(to.clone(), &other).is_none(), "{to:?} {other:?}");
    }
    let pool = Arc::new(Pool::default());
    let (lease, _far) = over_http1(at("good.test"), &own).await;
    pool.put(lease);
    assert!(pool.take(at("good.test"), &own).is_ok());
    assert!(pool.take(at("good.test"), &own).is_err(), "it was taken");
}

#[tokio::test]
async fn p_f17_what_was_opened_with_a_replaced_secret_or_password_ends_and_is_not_kept_when_it_comes_back() {
    let old = voice(Some("key"), Some(3), Some(5));
    for new in [voice(Some("key"), Some(4), Some(5)), voice(Some("key"), Some(3), Some(6))] {
        let pool = Arc::new(Pool::default());
        let (kept, _far) = over_http1(at("good.test"), &old).await;
        let (in_use, _other_far) = over_http1(at("good.test"), &old).await;
        pool.put(kept);
        assert!(pool.take(at("good.test"), &new).is_err());
        assert_eq!(count(&pool), 0, "the old one has ended");
        let (latest, _latest_far) = over_http1(at("good.test"), &new).await;
        pool.put(latest);
        pool.put(in_use);
        assert_eq!(count(&pool), 1, "the old one is not kept");
        assert!(pool.take(at("good.test"), &old).is_err());
        assert!(pool.take(at("good.test"), &new).is_ok(), "the new one is kept");
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
    assert!(pool.take(at("good.test"), &nobody()).is_err(), "all of the first host were older");
    assert!(pool.take(at("x0.test"), &nobody()).is_ok());
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
    assert!(pool.take(at("good.test"), &nobody()).is_err());
    assert_eq!(count(&pool), 0);
    for (age, is_given) in [(IDLE_CONNECTION_AGE_MAX / 2, true), (IDLE_CONNECTION_AGE_MAX, false)] {
        let (lease, _far) = over_http1(at("good.test"), &nobody()).await;
        pool.put(lease);
        tokio::time::advance(age).await;
        assert_eq!(pool.take(at("good.test"), &nobody()).is_ok(), is_given, "{age:?}");
    }
}

#[tokio::test]
async fn when_all_http2_connections_are_full_one_more_is_opened_by_one_request_and_up_to_a_bound() {
    let pool = Arc::new(Pool::default());
    let take = || pool.take(at("good.test"), &nobody());
    let (mut streams, mut held) = (Vec::new(), Vec::new());
    for number in 0..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        let (lease, far) = over_http2(at("good.test"), &nobody(), 2).await;
        held.push(far);
        pool.put(lease);
        for _ in 0..2 {
            streams.push(take().unwrap_or_else(|_| panic!("connection {number} has room")));
        }
        if number + 1 < H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
            let opening = take().err().filter(Opening::is_for_one_more);
            assert!(opening.is_some(), "connection {number} is full");
            assert!(take().is_ok(), "the others wait on one that is full while it is opened");
            drop(opening);
            assert!(take().err().is_some_and(|opening| opening.is_for_one_more()), "it was not opened");
        }
    }
    assert!(take().is_ok(), "no more than so many are opened");
    let (lease, far) = over_http2(at("good.test"), &nobody(), 2).await;
    held.push(far);
    pool.put(lease);
    assert_eq!(count(&pool), H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX, "nor are more kept");
}

#[tokio::test]
async fn a_stream_that_has_ended_leaves_room_for_another_on_the_connection() {
    let pool = Arc::new(Pool::default());
    let (lease, _far) = over_http2(at("good.test"), &nobody(), 1).await;
    pool.put(lease);
    let stream = pool.take(at("good.test"), &nobody());
    assert!(stream.is_ok() && pool.take(at("good.test"), &nobody()).is_err());
    drop(stream);
    assert!(pool.take(at("good.test"), &nobody()).is_ok());
}
