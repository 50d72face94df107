//! What becomes of requests that need a connection while as many are open as may be.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;

use super::waiting::{self, full_pool, upstream};
use super::*;
use crate::upstream::places::{self, Place, Placed, Places, Window};
use crate::upstream::{Unleased, Upstream, spoken};

fn until() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn place(places: &Places) -> Option<Place> {
    match places.take(until(), || ControlFlow::<(), _>::Continue(None)).await {
        places::Taken::Place(place) => Some(place),
        places::Taken::Found(()) | places::Taken::Late => None,
    }
}

#[tokio::test(start_paused = true)]
async fn p_i4_a_place_is_waited_for_in_turn_and_no_longer_than_the_bound() {
    let places = Places::default();
    let begin = Instant::now();
    assert!(place(&places).await.is_none(), "none before it is said how many there are");
    assert_eq!(begin.elapsed(), Duration::from_secs(60));
    places.add(1);
    let held = place(&places).await.unwrap();
    let clone = held.clone();
    let (mut first, mut second) = (Box::pin(place(&places)), Box::pin(place(&places)));
    drop(held);
    assert!((&mut first).now_or_never().is_none(), "a clone is held");
    assert!((&mut second).now_or_never().is_none());
    drop(clone);
    assert!((&mut second).now_or_never().is_none(), "it is not its turn");
    let got = first.now_or_never().unwrap();
    assert!(got.is_some() && places.now().is_none());
    assert!(second.await.is_none());
    drop(got);
    assert!(places.now().is_some());
}

/// A connection that holds a place.
async fn placed(place: Place, is_http2: bool) -> (Lease, DuplexStream) {
    let (near, far) = tokio::io::duplex(1024);
    let io = Placed::new(near, place);
    let mut sender = match is_http2 {
        true => spoken::over_http2(io, Window::least()).await.unwrap(),
        false => spoken::over_http1(io).await.unwrap(),
    };
    if let Sender::Http1(sender) = &mut sender {
        sender.ready().await.unwrap();
    }
    (lease(sender, at("good.test"), &nobody()), far)
}

#[tokio::test(start_paused = true)]
async fn p_i4_what_is_kept_makes_room_once_it_carries_nothing() {
    for is_http2 in [false, true] {
        let places = Places::default();
        places.add(1);
        let pool = places.pool();
        let (lease, _far) = placed(place(&places).await.unwrap(), is_http2).await;
        // Of HTTP/2 it is kept while it is used, of HTTP/1.1 once it is not.
        let used = match lease.shared() {
            Some(stream) => {
                pool.put(lease);
                stream
            }
            None => lease,
        };
        let mut waiting = Box::pin(place(&places));
        for _ in 0..20 {
            assert!((&mut waiting).now_or_never().is_none(), "{is_http2}");
            tokio::task::yield_now().await;
        }
        if is_http2 {
            drop(used)
        } else {
            pool.put(used)
        }
        let begin = Instant::now();
        assert!(waiting.await.is_some(), "{is_http2}");
        assert!(begin.elapsed() < IDLE_SWEEP_INTERVAL, "not only because it became too old: {is_http2}");
        assert_eq!(count(&pool), 0, "{is_http2}");
    }
}

#[tokio::test(start_paused = true)]
async fn p_i4_a_request_that_waits_for_a_place_takes_a_connection_that_comes_free() {
    for host in ["good.test", "other.test"] {
        let places = Arc::new(Places::default());
        places.add(1);
        let mut upstream = upstream(&places, Arc::default());
        upstream.pool = places.pool();
        let (in_use, _far) = placed(place(&places).await.unwrap(), false).await;
        let voice = nobody();
        let mut waiting = Box::pin(upstream.find(at(host), &voice, until()));
        assert!((&mut waiting).now_or_never().is_none());
        upstream.pool.put(in_use);
        let got = waiting.await;
        assert_eq!(got.is_ok(), host == "good.test", "{host}");
        assert!(matches!(got, Ok(_) | Err(Unleased::Opening(..))), "one of another host makes room");
    }
}

#[tokio::test(start_paused = true)]
async fn p_i4_without_a_place_a_stream_of_a_full_connection_is_waited_for_and_nothing_else_for_ever() {
    let (pool, mut streams, _held) = full_pool(1).await;
    let upstream = upstream(&Arc::default(), pool);
    let other = upstream.find(at("other.test"), &nobody(), until()).await;
    assert!(matches!(other, Err(Unleased::NoPlace)), "to no destination");
    let voice = nobody();
    let mut waiting = Box::pin(upstream.find(at("good.test"), &voice, until()));
    assert!((&mut waiting).now_or_never().is_none());
    drop(streams.pop());
    assert!(waiting.await.is_ok(), "a stream has ended");
    // With one it is opened.
    let (pool, _streams, _others) = full_pool(1).await;
    let upstream = waiting::upstream(&Arc::default(), pool);
    upstream.places.add(1);
    let got = upstream.find(at("good.test"), &nobody(), until()).await;
    assert!(matches!(got, Err(Unleased::Opening(opening, _)) if opening.is_for_one_more()));
}

/// Requests for one destination that all wait for the only place there is, and the place.
async fn cold(places: &Arc<Places>, upstream: &Arc<Upstream>, requests: usize) -> (Vec<Finding>, Place) {
    let held = place(places).await.unwrap();
    let mut waiting: Vec<_> = (0..requests).map(|_| finding(upstream)).collect();
    assert!(waiting.iter_mut().all(|each| each.now_or_never().is_none()));
    (waiting, held)
}

type Finding = Pin<Box<dyn Future<Output = Result<Lease, Unleased>> + Send>>;

fn finding(upstream: &Arc<Upstream>) -> Finding {
    let upstream = Arc::clone(upstream);
    Box::pin(async move { upstream.find(at("good.test"), &nobody(), until()).await })
}

fn with_places(count: usize) -> (Arc<Places>, Arc<Upstream>) {
    let places = Arc::new(Places::default());
    places.add(count);
    let mut upstream = upstream(&places, Arc::default());
    upstream.pool = places.pool();
    (places, Arc::new(upstream))
}

#[tokio::test(start_paused = true)]
async fn p_i4_requests_that_wait_for_a_place_share_a_connection_that_one_of_them_opens() {
    const REQUESTS: usize = 20;
    let (places, upstream) = with_places(1);
    let (mut waiting, held) = cold(&places, &upstream, REQUESTS).await;
    drop(held);
    let opened = waiting.remove(0).now_or_never().unwrap();
    let Err(Unleased::Opening(opening, _place)) = opened else { panic!("it has a place") };
    assert!(!opening.is_for_one_more(), "there was none");
    let streams = Streams::new();
    let (lease, _far) = with_streams(&streams, at("good.test"), &nobody()).await;
    let own = lease.shared().unwrap();
    upstream.pool.put(lease);
    assert!(waiting.iter_mut().all(|each| each.now_or_never().is_none()), "nobody knows how many it allows");
    streams.allows(REQUESTS - 1);
    // Whoever goes on wakes the next.
    let mut leases: Vec<_> = waiting.iter_mut().filter_map(|each| each.now_or_never()).collect();
    assert_eq!(leases.len(), REQUESTS - 2);
    assert!(leases.iter().all(Result::is_ok));
    leases.pop();
    let last = waiting.pop().unwrap().now_or_never();
    assert!(matches!(last, Some(Ok(_))), "a stream has ended");
    drop(own);
}

#[tokio::test(start_paused = true)]
async fn p_i4_a_request_that_gets_a_place_opens_no_connection_that_it_does_not_need() {
    // Which of two is seen first when both are there is left to chance.
    for _ in 0..50 {
        // Or what one task may do in a turn is used up, and nothing is ready.
        tokio::task::yield_now().await;
        let (places, upstream) = with_places(1);
        let (mut waiting, held) = cold(&places, &upstream, 1).await;
        let (lease, _far) = over_http2(at("good.test"), &nobody(), 1).await;
        upstream.pool.put(lease);
        drop(held);
        let got = waiting.pop().unwrap().now_or_never();
        assert!(matches!(got, Some(Ok(_))), "there is a stream");
        assert!(places.now().is_some(), "the place is given back");
    }
    for _ in 0..50 {
        // Or what one task may do in a turn is used up, and nothing is ready.
        tokio::task::yield_now().await;
        let (places, upstream) = with_places(1);
        let (mut waiting, held) = cold(&places, &upstream, 2).await;
        let (lease, _far) = over_http2(at("good.test"), &nobody(), 1).await;
        let _own = lease.shared().unwrap();
        upstream.pool.put(lease);
        let one_more = opening(&upstream.pool).unwrap();
        drop(held);
        assert!(waiting.iter_mut().all(|each| each.now_or_never().is_none()), "another opens one");
        assert!(places.now().is_some(), "and they keep no place meanwhile");
        drop(one_more);
        let got: Vec<_> = waiting.iter_mut().filter_map(|each| each.now_or_never()).collect();
        assert!(matches!(&got[..], [Err(Unleased::Opening(opening, _))] if opening.is_for_one_more()));
    }
}

#[tokio::test(start_paused = true)]
async fn p_i4_one_more_connection_is_opened_as_soon_as_one_that_lies_idle_has_made_room_for_it() {
    let (places, upstream) = with_places(2);
    let (full, _far) = placed(place(&places).await.unwrap(), true).await;
    let Sender::Http2(_, streams) = &full.sender else { panic!("HTTP/2 has streams") };
    streams.allows(1);
    let _own = full.shared().unwrap();
    upstream.pool.put(full);
    let (mut idle, _other_far) = placed(place(&places).await.unwrap(), false).await;
    idle.to = Way::to(at("other.test")).unwrap();
    upstream.pool.put(idle);
    let begin = Instant::now();
    let mut waiting = [finding(&upstream), finding(&upstream)];
    assert!(waiting.iter_mut().all(|each| each.now_or_never().is_none()));
    let [one, other] = waiting;
    let got = one.await;
    assert!(matches!(&got, Err(Unleased::Opening(opening, _)) if opening.is_for_one_more()));
    assert_eq!(begin.elapsed().as_secs(), 0, "and not only after the next sweep");
    assert!(other.now_or_never().is_none(), "one of them opens one");
    assert_eq!(count(&upstream.pool), 1);
}

#[tokio::test(start_paused = true)]
async fn p_i4_one_that_waits_to_open_one_more_has_its_turn_and_takes_a_stream_that_ends_before() {
    for is_stream in [false, true] {
        let (places, upstream) = with_places(1);
        let held = place(&places).await.unwrap();
        let (full, _far) = over_http2(at("good.test"), &nobody(), 1).await;
        let own = full.shared().unwrap();
        upstream.pool.put(full);
        let mut first = finding(&upstream);
        assert!((&mut first).now_or_never().is_none());
        let mut second = Box::pin(place(&places));
        assert!((&mut second).now_or_never().is_none());
        if is_stream {
            drop(own);
            assert!(matches!(first.now_or_never(), Some(Ok(_))), "without a place");
            assert!((&mut second).now_or_never().is_none());
            drop(held);
        } else {
            drop(held);
            assert!((&mut second).now_or_never().is_none(), "it came later");
            let got = first.now_or_never();
            assert!(matches!(&got, Some(Err(Unleased::Opening(opening, _))) if opening.is_for_one_more()));
        }
        assert!(second.await.is_some(), "{is_stream}");
    }
}

#[tokio::test(start_paused = true)]
async fn p_c5_a_request_that_waits_for_a_place_is_told_at_once_that_its_policy_is_replaced() {
    let (places, upstream) = with_places(1);
    let (mut waits, held) = cold(&places, &upstream, 3).await;
    let mut alone = Box::pin(upstream.anew(until()));
    assert!((&mut alone).now_or_never().is_none());
    let newer = Arc::new(Upstream { pool: places.pool(), ..waiting::upstream(&places, Arc::default()) });
    let mut other = finding(&newer);
    assert!((&mut other).now_or_never().is_none());
    upstream.retire();
    for each in waits.drain(..) {
        assert!(matches!(each.now_or_never(), Some(Err(Unleased::Retired))));
    }
    assert!(matches!(alone.now_or_never(), Some(Unleased::Retired)));
    assert!((&mut other).now_or_never().is_none(), "the policy of this one is in force");
    drop(held);
    assert!(matches!(other.now_or_never(), Some(Err(Unleased::Opening(..)))), "it is its turn");
}
