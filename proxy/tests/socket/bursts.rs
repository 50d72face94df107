//! Many requests at a time.

use agentsandbox_proxy::entrance::Entrance;
use futures::future::join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::world::{World, get, standalone};

/// Requests at a time: more than one program sends, fewer than an agent with all its tools could.
const BURST: usize = 32;

/// An answer that has begun and has not ended.
async fn begun(world: &World) -> Incoming {
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let request = get(&world.url("/v1/events"), &world.authority());
    let mut body = sender.send_request(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    body
}

/// Has so many answers under way at once, lets them end, and says how many connections the upstream has seen so far.
async fn burst(world: &World) -> usize {
    let begun = join_all((0..BURST).map(|_| begun(world))).await;
    let ends = join_all(begun.into_iter().map(BodyExt::collect));
    let tell = async {
        loop {
            world.finish.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ends = ends => ends.into_iter().for_each(|end| drop(end.unwrap())),
        () = tell => {}
    }
    world.upstream_connections()
}

#[tokio::test]
async fn the_connections_of_one_burst_serve_the_next() {
    let world = standalone(&["http/1.1"]).await;
    let mut opened = burst(&world).await;
    assert_eq!(opened, BURST, "each of the first had to open its own");
    // A connection is free a moment after its answer has ended, so that the next burst may be too early for some.
    for _ in 0..10 {
        let now = burst(&world).await;
        if now == opened {
            return;
        }
        opened = now;
    }
    panic!("each burst opens connections of its own: {opened}");
}
