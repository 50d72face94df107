//! What an agent can have the proxy hold that no bound of a single thing is of, and what becomes of it where that is more than there is.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::STREAMS_PER_CONNECTION_MAX;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::sync::Semaphore;

use crate::abuse::{Io, field, frame, head, open};
use crate::early::next;
use crate::entrances::to;
use crate::flow::{fast, settled, tunnel};
use crate::unread::{Process, WIDEST_WINDOW, answering};
use crate::upstream::Behaviour;
use crate::world::{Setup, World, build, get, over_http1};

const MIB: usize = 1 << 20;
/// What the process is told of: more than it takes by itself, in a build without optimisation too.
const MEMORY_MIB: usize = 64;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What each stream may send that nobody reads, in frames of which each is as short as one may be that is not counted as longer.
const LEFT_BYTES: usize = 256;
const LEFT_FRAMES: usize = 60;
/// What is sent with each of them and is read at once: together they are what the library reads at a time.
const READ_BYTES: usize = 7_900;
/// What a stream may send at first, and a connection (RFC 9113, 6.9.2).
const STREAM_WINDOW: usize = 24 * 1024;
const CONNECTION_WINDOW: usize = 65_535;

/// An upstream that takes one request at a time of each connection, and all of its body.
fn one_at_a_time() -> Behaviour {
    Behaviour::new(|io| async {
        let service = service_fn(|request: Request<Incoming>| async {
            let mut body = request.into_body();
            while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.max_concurrent_streams(1).serve_connection(TokioIo::new(io), service).await;
    })
}

/// Hears what may be sent on the connection and on its first stream, to the end of the connection.
async fn hears(mut read: ReadHalf<Io>, connection: Arc<Semaphore>, first: Arc<Semaphore>) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        let more = || usize::try_from(u32::from_be_bytes(payload[..4].try_into().unwrap())).unwrap();
        match (head[3], head[8]) {
            (WINDOW_UPDATE, 0) => connection.add_permits(more()),
            (WINDOW_UPDATE, 1) => first.add_permits(more()),
            _ => {}
        }
    }
    connection.close();
    first.close();
}

/// An agent most of whose streams wait for their upstream with little on their way. Each frame of them lies where it was read to, together
/// with one that is passed on. How many it got rid of before its connection ended, of how many.
async fn has_buffers_kept(world: &World) -> (usize, usize) {
    let io = tunnel(world, "h2").await;
    // Each step waits for the one before.
    io.get_ref().0.set_nodelay(true).unwrap();
    let (read, mut write) = tokio::io::split(io);
    write
        .write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    let windows = [CONNECTION_WINDOW, STREAM_WINDOW].map(|bytes| Arc::new(Semaphore::new(bytes)));
    let [connection, first] = windows;
    tokio::spawn(hears(read, Arc::clone(&connection), Arc::clone(&first)));
    let post = head(world, "POST");
    write.write_all(&frame(HEADERS, END_HEADERS, 1, &post)).await.unwrap();
    let all = usize::try_from(STREAMS_PER_CONNECTION_MAX - 1).unwrap() * LEFT_FRAMES;
    for number in 0..all {
        let bytes = u32::try_from(LEFT_BYTES + READ_BYTES).unwrap();
        let (Ok(may), Ok(read)) = (
            connection.acquire_many(bytes).await,
            first.acquire_many(u32::try_from(READ_BYTES).unwrap()).await,
        ) else {
            return (number, all);
        };
        may.forget();
        read.forget();
        let stream = 3 + 2 * u32::try_from(number / LEFT_FRAMES).unwrap();
        let mut sent =
            if number % LEFT_FRAMES == 0 { frame(HEADERS, END_HEADERS, stream, &post) } else { Vec::new() };
        sent.extend(frame(DATA, 0, stream, &[b'x'; LEFT_BYTES]));
        sent.extend(frame(DATA, 0, 1, &[b'x'; READ_BYTES]));
        if write.write_all(&sent).await.is_err() {
            return (number, all);
        }
    }
    (all, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_i4_an_agent_that_would_have_more_held_than_there_is_memory_loses_its_connections_and_is_served_again()
 {
    for memory in [Some(MEMORY_MIB), None] {
        let mut world =
            build(Setup { protocols: vec!["h2"], behaviour: Some(one_at_a_time()), ..Setup::default() })
                .await;
        let process = Process::in_place_of(&mut world, memory);
        let before = process.resident_bytes();
        let (sent, all) = has_buffers_kept(&world).await;
        let (peak, left) = (process.peak_bytes(), process.resident_bytes());
        let told = format!(
            "{memory:?}: {sent} of {all}; {} MiB before, {} at most, {} now",
            before / MIB,
            peak / MIB,
            left / MIB
        );
        println!("{told}");
        match memory {
            None => assert!(sent == all && peak > MEMORY_MIB * MIB, "nothing was tried: {told}"),
            Some(most) => {
                assert!(sent < all && peak < most * MIB, "{told}");
                let again = get(&world.url("/v1/x"), &world.authority());
                let answer = over_http1(to(&world, Entrance::HttpProxy).await, again).await;
                assert_eq!(answer.status, StatusCode::OK);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_i4_answers_that_would_take_more_memory_than_there_is_end_the_connections_of_who_does_not_read_them()
 {
    const CONNECTIONS: usize = 10;
    let (behaviour, sent) = answering("h2", usize::MAX, &[b'x'; 16 * 1024]);
    let mut world =
        build(Setup { protocols: vec!["h2"], behaviour: Some(behaviour), ..Setup::default() }).await;
    let process = Process::in_place_of(&mut world, Some(MEMORY_MIB));
    let mut agents = Vec::new();
    for _ in 0..CONNECTIONS {
        agents.push(open(&world, &WIDEST_WINDOW).await);
    }
    let head = head(&world, "GET");
    let mut asks = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    let streams = 0..STREAMS_PER_CONNECTION_MAX;
    asks.extend(streams.flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head)));
    for (_, write) in &mut agents {
        // Some have ended by then.
        let _ = write.write_all(&asks).await;
        let _ = write.flush().await;
    }
    settled(&sent).await;
    let told = format!("{} MiB at most", process.peak_bytes() / MIB);
    assert!(process.peak_bytes() < MEMORY_MIB * MIB, "{told}");
    for (mut read, _) in agents {
        // One that goes on has no end.
        let (mut buffer, mut taken) = (vec![0; MIB], 0);
        while taken < 64 * MIB
            && let Ok(bytes @ 1..) = read.read(&mut buffer).await
        {
            taken += bytes;
        }
        assert!(taken < 64 * MIB, "{told}");
    }
}

#[tokio::test]
async fn p_i4_connections_that_end_for_memory_are_written_down_and_where_it_does_not_come_free_the_proxy_ends()
 {
    // Less than any process takes, with nothing that could come free.
    let (behaviour, _) = fast();
    let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
    let mut world = build(Setup { memory_mib: Some(1), ..setup }).await;
    let mut io = to(&world, Entrance::HttpProxy).await;
    let ask = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", world.url("/v1/x"), world.authority());
    io.write_all(ask.as_bytes()).await.unwrap();
    let (mut buffer, mut taken) = (vec![0; MIB], 0);
    while let Ok(bytes @ 1..) = io.read(&mut buffer).await {
        taken += bytes;
        assert!(taken < 64 * MIB, "it would have no end");
    }
    let line = world.line(&[("event", "deny"), ("reason", "LimitExceeded")]).await;
    assert_eq!(line["entrance"], "http-proxy", "{line}");
    world.line(&[("event", "end"), ("path", "/v1/x"), ("reason", "Interrupted")]).await;
    // Nobody told it to.
    world.has_ended().await;
}

/// Whether each of so many requests was answered by the upstream, and not refused here.
async fn served(read: &mut ReadHalf<Io>, count: usize) -> usize {
    /// `:status: 200` (RFC 7541, appendix A).
    const OK: u8 = 0x88;
    let (mut answered, mut served) = (0, 0);
    while answered < count {
        let (kind, _, _, payload) = next(read).await;
        answered += usize::from(kind == HEADERS);
        served += usize::from(kind == HEADERS && payload[0] == OK);
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_i4_one_more_long_head_than_may_wait_is_refused_and_taken_once_others_are_answered() {
    /// A head of many fields takes 32 KiB, so that 1,024 wait.
    const ROOM: usize = 1024;
    const CONNECTIONS: usize = 9;
    let (asked, answers) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Semaphore::new(0)));
    let behaviour = Some(crate::fullness::narrow(&asked, &answers));
    let world = build(Setup { protocols: vec!["h2"], behaviour, ..Setup::default() }).await;
    let mut long = head(&world, "GET");
    (0..90).for_each(|number| long.extend(field(&format!("x-{number}"), &"x".repeat(100))));
    let streams = 0..STREAMS_PER_CONNECTION_MAX;
    let ask = |number: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &long);
    let mut agents = Vec::new();
    for _ in 0..CONNECTIONS {
        let (read, mut write) = open(&world, &[]).await;
        write.write_all(&streams.clone().flat_map(ask).collect::<Vec<_>>()).await.unwrap();
        write.flush().await.unwrap();
        agents.push((read, write));
    }
    let line = world.line(&[("event", "deny"), ("reason", "LimitExceeded")]).await;
    assert_eq!(line["entrance"], "http-proxy", "{line}");
    answers.add_permits(2 * CONNECTIONS * streams.len());
    let mut all = 0;
    for (read, _) in &mut agents {
        all += served(read, streams.len()).await;
    }
    assert_eq!(all, asked.lock().unwrap().len(), "no refused one was sent");
    // There may be room again before the last of them comes.
    assert!((ROOM..CONNECTIONS * streams.len()).contains(&all), "{all}");
    let (read, write) = &mut agents[CONNECTIONS - 1];
    write.write_all(&ask(STREAMS_PER_CONNECTION_MAX)).await.unwrap();
    write.flush().await.unwrap();
    assert_eq!(served(read, 1).await, 1);
}
