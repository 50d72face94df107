//! What becomes of requests that find all connections full.

use std::convert::Infallible;
use std::pin::{Pin, pin};

use futures::FutureExt;
use http::{Request, Response};
use tokio::io::AsyncReadExt;

use super::*;
use crate::exchange::Progress;
use crate::limits::{CONNECT_TIMEOUT, H2_UPSTREAM_STREAM_WAIT_MAX};
use crate::metrics::Metrics;
use crate::respond::{Body, full};
use crate::upstream::places::{Places, Window};
use crate::upstream::{Answer, ExchangeError, Purpose, Upstream};

/// A pool with `full` connections that carry one stream each, and as many streams.
pub(super) async fn full_pool(connections: usize) -> (Arc<Pool>, Vec<Lease>, Vec<DuplexStream>) {
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

/// What those that wait have come to, without any time passing: leases, and leaves to open one more.
fn gone_on(waiting: &mut Vec<Waiting>) -> (Vec<Lease>, Vec<Opening>) {
    let (mut leases, mut openings) = (Vec::new(), Vec::new());
    loop {
        let before = waiting.len();
        waiting.retain_mut(|each| match each.now_or_never() {
            Some(Ok(lease)) => {
                leases.push(lease);
                false
            }
            Some(Err(Unleased::Opening(opening))) if opening.is_for_one_more() => {
                openings.push(opening);
                false
            }
            Some(Err(unleased)) => panic!("{unleased:?}"),
            None => true,
        });
        if waiting.len() == before {
            return (leases, openings);
        }
    }
}

/// The leases among these, where nobody may open one more.
fn leases(waiting: &mut Vec<Waiting>) -> Vec<Lease> {
    let (leases, openings) = gone_on(waiting);
    assert!(openings.is_empty(), "{openings:?}");
    leases
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
async fn p_i4_a_connection_does_not_become_too_old_while_a_stream_of_it_is_open() {
    let (pool, streams, _held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let nobody = nobody();
    let waited = pool.lease(at("good.test"), &nobody, Instant::now() + IDLE_CONNECTION_AGE_MAX * 3).await;
    assert!(matches!(waited, Err(Unleased::Full)), "those that wait do not all open their own");
    assert_eq!(count(&pool), H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX);
    drop(streams);
    tokio::time::sleep(IDLE_CONNECTION_AGE_MAX / 2).await;
    assert_eq!(count(&pool), H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX, "it was used until just now");
    tokio::time::sleep(IDLE_CONNECTION_AGE_MAX + IDLE_SWEEP_INTERVAL).await;
    assert_eq!(count(&pool), 0, "it lay idle");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_leaves_room_for_another_though_its_streams_are_not_over() {
    let (pool, mut streams) = (Arc::new(Pool::default()), Vec::new());
    let (near, far) = tokio::io::duplex(1024);
    pool.put(lease(
        crate::upstream::spoken::over_http2(near, Window::least()).await.unwrap(),
        at("good.test"),
        &nobody(),
    ));
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

#[tokio::test]
async fn p_f17_nobody_waits_with_an_older_reading_once_a_connection_of_the_newer_is_kept() {
    let pool = Arc::new(Pool::default());
    let (old, new) = (voice(None, None, Some(5)), voice(None, None, Some(6)));
    let mut held = Vec::new();
    for _ in 0..H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX {
        let (lease, far) = over_http2(at("good.test"), &old, 0).await;
        held.push(far);
        pool.put(lease);
    }
    let until = Instant::now() + H2_UPSTREAM_STREAM_WAIT_MAX;
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(pool.lease(at("good.test"), &old, until))).collect();
    assert!(waiting.iter_mut().all(|each| each.now_or_never().is_none()));
    let (lease, _far) = over_http2(at("good.test"), &new, 1).await;
    pool.put(lease);
    for each in waiting {
        assert!(matches!(each.now_or_never(), Some(Err(Unleased::Opening(_)))));
    }
    assert!(take(&pool, at("good.test"), &new).is_some());
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
async fn p_i4_only_one_stream_begins_and_no_other_connection_before_the_upstream_has_said_how_many_it_allows()
{
    for (allowed, sent, opened) in [(Some(3), 3, 1), (Some(1), 1, 1), (None, 250, 0)] {
        let pool = Arc::new(Pool::default());
        let (near, far) = tokio::io::duplex(1024);
        pool.put(lease(
            crate::upstream::spoken::over_http2(near, Window::least()).await.unwrap(),
            at("good.test"),
            &nobody(),
        ));
        let mut streams = vec![take(&pool, at("good.test"), &nobody()).unwrap()];
        let mut waiting: Vec<_> = (1..250).map(|_| waiting(&pool)).collect();
        tokio::spawn(serving((far, Arc::default()), allowed, std::future::pending::<()>()));
        let mut openings = Vec::new();
        for _ in 0..100 {
            let (more, leaves) = gone_on(&mut waiting);
            streams.extend(more);
            openings.extend(leaves);
            tokio::task::yield_now().await;
        }
        assert_eq!((streams.len(), openings.len()), (sent, opened), "{allowed:?}");
    }
}

/// An upstream that allows so many streams, tells what it is asked, answers nothing, and wants to end the connection when told.
async fn serving((io, asked): (DuplexStream, Arc<Notify>), allowed: Option<u32>, end: impl Future) {
    let service = hyper::service::service_fn(move |_| {
        asked.notify_one();
        std::future::pending::<Result<Response<Body>, Infallible>>()
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut served = pin!(server.max_concurrent_streams(allowed).serve_connection(TokioIo::new(io), service));
    tokio::select! {
        _ = served.as_mut() => return,
        _ = end => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

#[tokio::test]
async fn p_i4_those_that_wait_open_no_other_connection_while_the_newest_may_yet_allow_them() {
    for (allowed, sent) in [(1, 0), (3, 2)] {
        let (pool, _streams, _held) = full_pool(1).await;
        let one_more = opening(&pool).unwrap();
        let mut waiting: Vec<_> = (0..5).map(|_| waiting(&pool)).collect();
        let streams = Streams::new();
        let (lease, _far) = with_streams(&streams, at("good.test"), &nobody()).await;
        let _own = lease.shared().unwrap();
        pool.put(lease);
        drop(one_more);
        let (leases, openings) = gone_on(&mut waiting);
        assert_eq!((leases.len(), openings.len()), (0, 0), "nobody knows yet");
        streams.allows(allowed);
        let (leases, openings) = gone_on(&mut waiting);
        assert_eq!((leases.len(), openings.len()), (sent, 1), "{allowed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_never_says_how_many_streams_it_allows_is_not_waited_for_longer_than_for_a_handshake()
 {
    let pool = Arc::new(Pool::default());
    let (lease, _far) = with_streams(&Streams::new(), at("good.test"), &nobody()).await;
    let _own = lease.shared().unwrap();
    pool.put(lease);
    let begin = Instant::now();
    let got = waiting(&pool).await;
    assert!(matches!(got, Err(Unleased::Opening(opening)) if opening.is_for_one_more()));
    let waited = begin.elapsed();
    assert!((CONNECT_TIMEOUT..CONNECT_TIMEOUT + IDLE_SWEEP_INTERVAL).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_connection_that_its_upstream_wants_to_end_makes_room_for_another_though_its_streams_go_on() {
    let (pool, (near, far)) = (Arc::new(Pool::default()), tokio::io::duplex(1024));
    pool.put(lease(
        crate::upstream::spoken::over_http2(near, Window::least()).await.unwrap(),
        at("good.test"),
        &nobody(),
    ));
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let asked = Arc::new(Notify::new());
    tokio::spawn(serving((far, Arc::clone(&asked)), Some(2), ends));
    let (upstream, mut sent) = (Arc::new(upstream(&Arc::default(), Arc::clone(&pool))), Vec::new());
    for _ in 0..2 {
        let until = Instant::now() + H2_UPSTREAM_STREAM_WAIT_MAX;
        let lease =
            pool.lease(at("good.test"), &nobody(), until).await.unwrap_or_else(|got| panic!("{got:?}"));
        sent.push(tokio::spawn(send(Arc::clone(&upstream), lease)));
        asked.notified().await;
    }
    // Held, so that there is nothing to wait for but this connection.
    let _one_more = opening(&pool).unwrap();
    let waiting = waiting(&pool);
    let begin = Instant::now();
    end.send(()).unwrap();
    let got = waiting.await;
    assert!(matches!(got, Err(Unleased::Opening(opening)) if !opening.is_for_one_more()));
    assert_eq!(begin.elapsed().as_secs(), 0, "that is seen at once");
    assert!(sent.iter().all(|sent| !sent.is_finished()), "what was sent goes on");
}

#[tokio::test]
async fn an_idle_http_1_connection_is_found_under_a_full_http_2_one() {
    let pool = Arc::new(Pool::default());
    let (plain, _far) = over_http1(at("good.test"), &nobody()).await;
    pool.put(plain);
    let (lease, _other_far) = over_http2(at("good.test"), &nobody(), 1).await;
    let _own = lease.shared().unwrap();
    pool.put(lease);
    let found = take(&pool, at("good.test"), &nobody()).unwrap();
    assert!(matches!(found.sender, Sender::Http1(_)));
    assert!(take(&pool, at("good.test"), &nobody()).is_none(), "it was the only one");
}

/// A request that has found all connections full, and does not wait yet: its thread has come no further.
fn looked(pool: &Pool) -> OwnedNotified {
    match pool.take(at("good.test"), &nobody()) {
        Found::Wait(change) => change,
        Found::Lease(_) | Found::Opening(_) | Found::Retired => panic!("there is room"),
    }
}

#[tokio::test]
async fn p_i4_what_comes_twice_before_anybody_waits_for_it_lets_two_go_on() {
    for is_leave in [true, false] {
        let (pool, streams, _held) = full_pool(1).await;
        let one_more = opening(&pool).unwrap();
        let (first, second) = (looked(&pool), looked(&pool));
        let mut held = Vec::new();
        if is_leave {
            drop((streams, one_more));
        } else {
            for _ in 0..2 {
                let (plain, far) = over_http1(at("good.test"), &nobody()).await;
                pool.put(plain);
                held.push((far, streams.len(), one_more.is_for_one_more()));
            }
        }
        let (nobody, until) = (nobody(), Instant::now() + H2_UPSTREAM_STREAM_WAIT_MAX);
        let first = pool.wait(first, at("good.test"), &nobody, until).now_or_never();
        assert!(matches!(first, Some(Ok(_))), "{is_leave}");
        let second = pool.wait(second, at("good.test"), &nobody, until).now_or_never();
        match second {
            Some(Err(Unleased::Opening(opening))) => assert!(is_leave && opening.is_for_one_more()),
            Some(Ok(_)) => assert!(!is_leave),
            Some(Err(Unleased::Full | Unleased::Retired)) | None => {
                panic!("it waits though it could go on: {is_leave}")
            }
        }
    }
}

#[tokio::test]
async fn p_c5_a_pool_whose_policy_is_replaced_ends_what_it_keeps_and_keeps_nothing_and_nobody_waits_for_it() {
    let (pool, _streams, _held) = full_pool(H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX).await;
    let (idle, mut far) = over_http1(at("other.test"), &nobody()).await;
    pool.put(idle);
    let (in_use, _far) = over_http1(at("other.test"), &nobody()).await;
    let waiting: Vec<_> = (0..3).map(|_| waiting(&pool)).collect();
    assert!((&mut pin!(far.read_u8())).now_or_never().is_none(), "it is open");
    pool.retire();
    assert!(far.read_u8().await.is_err(), "it has ended");
    for each in waiting {
        assert!(matches!(each.now_or_never(), Some(Err(Unleased::Retired))));
    }
    pool.put(in_use);
    assert_eq!(count(&pool), 0);
    assert!(take(&pool, at("other.test"), &nobody()).is_none());
}

pub(super) fn upstream(places: &Arc<Places>, pool: Arc<Pool>) -> Upstream {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let upstream = Upstream::new(None, &provider, Arc::<Metrics>::default(), Arc::clone(places));
    Upstream { pool, ..upstream.unwrap() }
}

async fn send(upstream: Arc<Upstream>, lease: Lease) -> Result<Response<Answer>, ExchangeError> {
    let request = Request::new(full(""));
    upstream.exchange(lease, request, ("/", Purpose::Exchange), &Progress::default()).await
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
    let streams = allowing(STREAMS);
    pool.put(lease(Sender::Http2(sender, Arc::clone(&streams)), at("good.test"), &nobody()));
    let running = tokio::spawn(connection);
    let upstream = Arc::new(upstream(&Arc::default(), Arc::clone(&pool)));
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
    assert_eq!(streams.open(), STREAMS);
    assert!(take(&pool, at("good.test"), &nobody()).is_none(), "no more is handed to hyper");
    running.abort();
    drop(far);
    while streams.open() > 0 {
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
