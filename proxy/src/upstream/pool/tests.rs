use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use std::pin::{Pin, pin};

use futures::FutureExt;
use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;

use super::*;
use crate::limits::H2_UPSTREAM_STREAM_WAIT_MAX;
use crate::metrics::Metrics;
use crate::respond::{Body, full};
use crate::upstream::{Answer, ExchangeError, Purpose, Upstream};

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

/// What a request gets that does not wait.
fn take(pool: &Pool, to: Destination, voice: &Voice) -> Option<Lease> {
    match pool.take(to, voice) {
        Taken::Lease(lease) => Some(lease),
        Taken::Opening(_) | Taken::Wait(_) => None,
    }
}

fn opening(pool: &Pool) -> Option<Opening> {
    match pool.take(at("good.test"), &nobody()) {
        Taken::Opening(opening) => Some(opening),
        Taken::Lease(_) | Taken::Wait(_) => None,
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
        assert!(matches!(taken, Taken::Opening(opening) if !opening.is_for_one_more()), "{to:?} {other:?}");
    }
    let pool = Arc::new(Pool::default());
    let (lease, _far) = over_http1(at("good.test"), &own).await;
    pool.put(lease);
    assert!(take(&pool, at("good.test"), &own).is_some());
    assert!(take(&pool, at("good.test"), &own).is_none(), "it was taken");
}

#[tokio::test]
async fn p_f17_what_was_opened_with_a_replaced_secret_or_password_ends_and_is_not_kept_when_it_comes_back() {
    let old = voice(Some("key"), Some(3), Some(5));
    for new in [voice(Some("key"), Some(4), Some(5)), voice(Some("key"), Some(3), Some(6))] {
        let pool = Arc::new(Pool::default());
        let (kept, _far) = over_http1(at("good.test"), &old).await;
        let (in_use, _other_far) = over_http1(at("good.test"), &old).await;
        pool.put(kept);
        assert!(take(&pool, at("good.test"), &new).is_none());
        assert_eq!(count(&pool), 0, "the old one has ended");
        let (latest, _latest_far) = over_http1(at("good.test"), &new).await;
        pool.put(latest);
        pool.put(in_use);
        assert_eq!(count(&pool), 1, "the old one is not kept");
        assert!(take(&pool, at("good.test"), &old).is_none());
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

/// A pool with `full` connections that carry one stream each, and as many streams.
async fn full_pool(connections: usize) -> (Arc<Pool>, Vec<Lease>, Vec<DuplexStream>) {
    let pool = Arc::new(Pool::default());
    let (mut streams, mut held) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let (lease, far) = over_http2(at("good.test"), &nobody(), 1).await;
        held.push(far);
        pool.put(lease);
        streams.push(take(&pool, at("good.test"), &nobody()).unwrap());
    }
    (pool, streams, held)
}

type Waiting = Pin<Box<dyn Future<Output = Result<Lease, Unleased>> + Send>>;

/// A request that found all connections full.
fn waiting(pool: &Arc<Pool>) -> Waiting {
    let (pool, until) = (Arc::clone(pool), Instant::now() + H2_UPSTREAM_STREAM_WAIT_MAX);
    let mut waiting: Waiting = Box::pin(async move { pool.lease(at("good.test"), &nobody(), until).await });
    assert!((&mut waiting).now_or_never().is_none(), "it is not to be sent yet");
    waiting
}

/// What those that wait have come to, without any time passing.
fn leases(waiting: &mut Vec<Waiting>) -> Vec<Lease> {
    let mut leases = Vec::new();
    loop {
        let before = leases.len();
        waiting.retain_mut(|each| match each.now_or_never() {
            Some(Ok(lease)) => {
                leases.push(lease);
                false
            }
            Some(Err(unleased)) => panic!("{unleased:?}"),
            None => true,
        });
        if leases.len() == before {
            return leases;
        }
    }
}

#[tokio::test]
async fn when_all_http2_connections_are_full_one_more_is_opened_by_one_request_and_up_to_a_bound() {
    let pool = Arc::new(Pool::default());
    let (mut streams, mut held) = (Vec::new(), Vec::new());
    for number in 0..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        let (lease, far) = over_http2(at("good.test"), &nobody(), 2).await;
        held.push(far);
        pool.put(lease);
        for _ in 0..2 {
            let stream = take(&pool, at("good.test"), &nobody());
            streams.push(stream.unwrap_or_else(|| panic!("connection {number} has room")));
        }
        if number + 1 < H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
            let one_more = opening(&pool).filter(Opening::is_for_one_more);
            assert!(one_more.is_some(), "connection {number} is full");
            drop(waiting(&pool));
            drop(one_more);
            assert!(opening(&pool).is_some_and(|opening| opening.is_for_one_more()), "it was not opened");
        }
    }
    drop(waiting(&pool));
    let (lease, far) = over_http2(at("good.test"), &nobody(), 2).await;
    held.push(far);
    pool.put(lease);
    assert_eq!(count(&pool), H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX, "nor are more kept");
}

#[tokio::test]
async fn p_i4_requests_wait_for_a_connection_that_is_being_opened_and_share_it() {
    let (pool, _streams, _held) = full_pool(1).await;
    let one_more = opening(&pool).unwrap();
    let mut waiting: Vec<_> = (0..20).map(|_| waiting(&pool)).collect();
    let (lease, _far) = over_http2(at("good.test"), &nobody(), 15).await;
    pool.put(lease);
    assert_eq!(leases(&mut waiting).len(), 15, "as many as it has streams");
    drop(one_more);
}

#[tokio::test]
async fn p_i4_a_request_that_waits_is_sent_when_a_stream_ends_and_none_is_lost_with_one_that_is_given_up() {
    let (pool, mut streams, _held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let mut waiting: Vec<_> = (0..20).map(|_| waiting(&pool)).collect();
    let mut sent = 0;
    while !waiting.is_empty() {
        streams.pop();
        // Whoever was woken is given up before it looks.
        drop(waiting.remove(0));
        let next = leases(&mut waiting);
        assert!(next.len() <= 1, "one stream, one request");
        sent += next.len();
        streams.extend(next);
    }
    assert_eq!(sent, 10);
}

#[tokio::test]
async fn p_i4_whoever_waits_may_open_when_the_one_that_would_have_is_gone() {
    let (pool, _streams, _held) = full_pool(1).await;
    let one_more = opening(&pool).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| waiting(&pool)).collect();
    drop(one_more);
    let openings = waiting.iter_mut().filter_map(|each| each.now_or_never());
    let openings: Vec<_> =
        openings.filter(|got| matches!(got, Err(Unleased::Opening(o)) if o.is_for_one_more())).collect();
    assert_eq!(openings.len(), 1, "one of them, at a time");
}

#[tokio::test(start_paused = true)]
async fn when_one_more_cannot_be_opened_nobody_tries_again_before_the_next_sweep() {
    let (pool, _streams, _held) = full_pool(1).await;
    let one_more = opening(&pool).unwrap();
    let (first, second) = (waiting(&pool), waiting(&pool));
    one_more.failed();
    let begin = Instant::now();
    let (got, _) = futures::future::select(first, second).await.factor_first();
    let Err(Unleased::Opening(opening)) = got else { panic!("nobody may open") };
    assert!(opening.is_for_one_more());
    assert_eq!(begin.elapsed().as_secs(), IDLE_SWEEP_INTERVAL.as_secs());
}

#[tokio::test]
async fn p_i4_when_the_connections_are_gone_all_that_wait_open_their_own() {
    let (pool, streams, held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let waiting: Vec<_> = (0..20).map(|_| waiting(&pool)).collect();
    drop(held);
    while pool.kept().groups.values().any(|group| group.idle.iter().any(|idle| idle.lease.is_open())) {
        tokio::task::yield_now().await;
    }
    // The last stream that ends wakes one, who finds nothing left.
    drop(streams);
    for each in waiting {
        assert!(matches!(each.await, Err(Unleased::Opening(opening)) if !opening.is_for_one_more()));
    }
}

#[tokio::test(start_paused = true)]
async fn p_i4_when_the_connections_have_become_too_old_all_that_wait_open_their_own() {
    let (pool, _streams, _held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let until = Instant::now() + IDLE_CONNECTION_AGE_MAX * 2;
    let nobody = nobody();
    let waiting: Vec<_> = (0..20).map(|_| pool.lease(at("good.test"), &nobody, until)).collect();
    for each in futures::future::join_all(waiting).await {
        assert!(matches!(each, Err(Unleased::Opening(opening)) if !opening.is_for_one_more()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_leaves_room_for_another_though_its_streams_are_not_over() {
    let (pool, mut streams) = (Arc::new(Pool::default()), Vec::new());
    let (near, far) = tokio::io::duplex(1024);
    pool.put(lease(crate::upstream::over_http2(near).await.unwrap(), at("good.test"), &nobody()));
    let mut held = Vec::new();
    for _ in 1..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        let (lease, far) = over_http2(at("good.test"), &nobody(), 1).await;
        held.push(far);
        pool.put(lease);
    }
    while let Some(stream) = take(&pool, at("good.test"), &nobody()) {
        streams.push(stream);
    }
    let waiting = waiting(&pool);
    drop(far);
    let begin = Instant::now();
    assert!(matches!(waiting.await, Err(Unleased::Opening(opening)) if opening.is_for_one_more()));
    assert_eq!(begin.elapsed().as_secs(), 0, "that is seen before the next sweep");
}

#[tokio::test]
async fn p_f17_a_newer_reading_ends_the_wait_for_a_connection_of_the_older() {
    let pool = Arc::new(Pool::default());
    let (old, new) = (voice(Some("key"), Some(3), None), voice(Some("key"), Some(4), None));
    let mut held = Vec::new();
    for _ in 0..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        let (lease, far) = over_http2(at("good.test"), &old, 0).await;
        held.push(far);
        pool.put(lease);
    }
    let mut waiting = pin!(pool.lease(at("good.test"), &old, Instant::now() + H2_UPSTREAM_STREAM_WAIT_MAX));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(take(&pool, at("good.test"), &new).is_none());
    assert!(matches!(waiting.now_or_never(), Some(Err(Unleased::Opening(_)))));
}

#[tokio::test(start_paused = true)]
async fn p_i4_a_request_waits_for_a_stream_no_longer_than_the_bound() {
    let (pool, streams, _held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let begin = Instant::now();
    let until = begin + IDLE_SWEEP_INTERVAL;
    let refused = pool.lease(at("good.test"), &nobody(), until).await;
    assert!(matches!(refused, Err(Unleased::Full)));
    assert_eq!(begin.elapsed().as_secs(), IDLE_SWEEP_INTERVAL.as_secs());
    drop(streams);
    assert!(pool.lease(at("good.test"), &nobody(), until).await.is_ok());
}

#[tokio::test]
async fn an_upstream_that_allows_more_streams_than_before_is_sent_those_that_wait() {
    let (pool, _streams, _held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let mut waiting: Vec<_> = (0..5).map(|_| waiting(&pool)).collect();
    let allowing = pool.kept().groups.values().next().unwrap().idle[2].streams().cloned().unwrap();
    allowing.allows(4);
    assert_eq!(leases(&mut waiting).len(), 3);
}

#[tokio::test]
async fn p_i4_only_one_stream_begins_before_the_upstream_has_said_how_many_it_allows() {
    for (allowed, sent) in [(Some(3), 3), (Some(1), 1), (None, 250)] {
        let pool = Arc::new(Pool::default());
        let (near, far) = tokio::io::duplex(1024);
        pool.put(lease(crate::upstream::over_http2(near).await.unwrap(), at("good.test"), &nobody()));
        let mut streams = vec![take(&pool, at("good.test"), &nobody()).unwrap()];
        // Held, so that those that wait do not open another one.
        let _one_more = opening(&pool).unwrap();
        let mut waiting: Vec<_> = (1..250).map(|_| waiting(&pool)).collect();
        let service =
            hyper::service::service_fn(|_| std::future::pending::<Result<Response<Body>, Infallible>>());
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.max_concurrent_streams(allowed).serve_connection(TokioIo::new(far), service));
        for _ in 0..100 {
            streams.extend(leases(&mut waiting));
            tokio::task::yield_now().await;
        }
        assert_eq!(streams.len(), sent, "{allowed:?}");
    }
}

fn upstream(pool: &Arc<Pool>) -> Upstream {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Upstream { pool: Arc::clone(pool), ..Upstream::new(None, &provider, Arc::<Metrics>::default()).unwrap() }
}

async fn send(upstream: Arc<Upstream>, lease: Lease) -> Result<Response<Answer>, ExchangeError> {
    let request = Request::new(full(""));
    upstream.exchange(lease, request, "/", Purpose::Exchange).await
}

#[tokio::test]
async fn p_i4_a_request_that_is_given_up_is_counted_for_as_long_as_hyper_keeps_it() {
    const STREAMS: usize = 3;
    let pool = Arc::new(Pool::default());
    let (near, far) = tokio::io::duplex(1024);
    // The other end allows fewer streams than the pool knows of, as it does when it has not yet seen one end.
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) =
        builder.initial_max_send_streams(1).handshake(TokioIo::new(near)).await.unwrap();
    let streams = Streams::new(STREAMS);
    pool.put(lease(Sender::Http2(sender, Arc::clone(&streams)), at("good.test"), &nobody()));
    let running = tokio::spawn(connection);
    let upstream = Arc::new(upstream(&pool));
    for number in 0..STREAMS {
        let lease = take(&pool, at("good.test"), &nobody());
        let lease = lease.unwrap_or_else(|| panic!("stream {number}"));
        let mut sent = Box::pin(send(Arc::clone(&upstream), lease));
        // The first opens the only stream, the others stay in hyper's queue.
        for _ in 0..20 {
            assert!((&mut sent).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        if number == 0 {
            tokio::spawn(async move { drop(sent.await) });
        }
    }
    assert_eq!(streams.open.load(Ordering::Relaxed), STREAMS);
    assert!(take(&pool, at("good.test"), &nobody()).is_none(), "no more is handed to hyper");
    running.abort();
    drop(far);
    while streams.open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_that_has_ended_leaves_room_for_another_on_the_connection() {
    let pool = Arc::new(Pool::default());
    let (lease, _far) = over_http2(at("good.test"), &nobody(), 1).await;
    pool.put(lease);
    let stream = take(&pool, at("good.test"), &nobody());
    assert!(stream.is_some() && take(&pool, at("good.test"), &nobody()).is_none());
    drop(stream);
    assert!(take(&pool, at("good.test"), &nobody()).is_some());
}
