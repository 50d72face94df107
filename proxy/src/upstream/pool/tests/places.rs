//! What becomes of requests that need a connection while as many are open as may be.

use std::time::Duration;

use futures::FutureExt;

use super::waiting::{full_pool, upstream};
use super::*;
use crate::upstream::Unleased;
use crate::upstream::places::{self, Place, Placed, Places, Window};
use crate::upstream::spoken;

fn until() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn place(places: &Places) -> Option<Place> {
    match places.take(until(), || None::<()>).await {
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
    let upstream = super::waiting::upstream(&Arc::default(), pool);
    upstream.places.add(1);
    let got = upstream.find(at("good.test"), &nobody(), until()).await;
    assert!(matches!(got, Err(Unleased::Opening(opening, _)) if opening.is_for_one_more()));
}
