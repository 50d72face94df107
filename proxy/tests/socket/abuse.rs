//! HTTP/2 frames that cost their sender little (P-D12): each flood is cut off, or is not read on, after a bounded number of
//! bytes; nothing of it reaches an upstream, and another connection is served meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::entrances::to;
use crate::peers::in_turns;
use crate::world::{Setup, World, build, get, over_http1, scripted};
use agentsandbox_proxy::entrance::Entrance;

const MIB: usize = 1 << 20;
/// More than any buffer holds.
const FLOOD_BYTES_MAX: usize = 64 * MIB;
/// Turns of the runtime that are enough for a proxy that reads to read: half a second.
const STALL: u32 = 50;
/// And for one that has had enough to say so: five seconds.
const GOODBYE: u32 = 500;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal that enters no table (RFC 7541, 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The head of an allowed request.
pub fn head(world: &World, method: &str) -> Vec<u8> {
    let authority = world.authority();
    let fields = [(":method", method), (":scheme", "https"), (":authority", &authority), (":path", "/v1/x")];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub type Io = TlsStream<tokio::net::TcpStream>;

pub async fn open(world: &World, settings: &[u8]) -> (ReadHalf<Io>, WriteHalf<Io>) {
    let mut io = crate::flow::tunnel(world, "h2").await;
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, settings)].concat();
    io.write_all(&preface).await.unwrap();
    tokio::io::split(io)
}

/// How a flood ended.
#[derive(Debug)]
struct Flood {
    /// Bytes that were taken.
    taken: usize,
    /// The code of the GOAWAY, if there was one.
    code: Option<u32>,
    /// Whether the proxy read all of it.
    endless: bool,
}

/// Sends pieces until the proxy has had enough. A client that `reads` takes what it is answered.
async fn flood(
    (mut read, mut write): (impl AsyncRead + Unpin + Send + 'static, impl AsyncWrite + Unpin),
    reads: bool,
    mut piece: impl FnMut(u32) -> Vec<u8>,
) -> Flood {
    let answers = tokio::spawn(async move {
        let mut code = None;
        loop {
            if !reads {
                break;
            }
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                break;
            }
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            if head[3] == 7 {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        (read, code)
    });
    let (mut taken, mut number) = (0, 0);
    let endless = loop {
        let bytes = piece(number);
        match in_turns(STALL, write.write_all(&bytes)).await {
            Some(Ok(())) if taken < FLOOD_BYTES_MAX => taken += bytes.len(),
            Some(Ok(())) => break true,
            _ => break false,
        }
        number += 1;
    };
    if !reads {
        return Flood { taken, code: None, endless };
    }
    let code = in_turns(GOODBYE, answers).await.and_then(|ended| ended.unwrap().1);
    Flood { taken, code, endless }
}

/// Somebody else is served, and the flood reached no upstream.
async fn others_are_served(world: &World) {
    let answer =
        over_http1(to(world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

async fn world() -> World {
    scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
}

const ENHANCE_YOUR_CALM: Option<u32> = Some(11);

#[tokio::test]
async fn p_d12_streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let world = world().await;
    let head = head(&world, "GET");
    let flood = flood(open(&world, &[]).await, true, |number| {
        let one = |number| {
            let stream = 2 * number + 1;
            [
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &head),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat()
        };
        (0..100).flat_map(|more| one(100 * number + more)).collect()
    })
    .await;
    assert!(!flood.endless && flood.taken < 4 * MIB && flood.code == ENHANCE_YOUR_CALM, "{flood:?}");
    assert!(world.upstream_connections() < 100, "{}", world.upstream_connections());
    others_are_served(&world).await;
}

#[tokio::test]
async fn p_d12_a_head_without_end_ends_the_connection() {
    let world = world().await;
    let head = head(&world, "GET");
    for empty in [true, false] {
        let flood = flood(open(&world, &[]).await, true, |number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &head),
            _ if empty => frame(CONTINUATION, 0, 1, &[]),
            _ => frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100)).repeat(10)),
        })
        .await;
        assert!(!flood.endless && flood.taken < MIB && flood.code == ENHANCE_YOUR_CALM, "{flood:?}");
    }
    assert_eq!(world.upstream_connections(), 0);
    others_are_served(&world).await;
}

#[tokio::test]
async fn p_d12_what_must_be_acknowledged_is_not_read_faster_than_it_can_be() {
    let world = world().await;
    for (kind, payload) in [(PING, &[7; 8][..]), (SETTINGS, &[0, 4, 0, 0, 255, 255])] {
        let many = frame(kind, 0, 0, payload).repeat(100);
        let flood = flood(open(&world, &[]).await, false, |_| many.clone()).await;
        assert!(!flood.endless && flood.taken < 16 * MIB, "{kind}: {flood:?}");
        others_are_served(&world).await;
    }
    assert_eq!(world.lines().iter().filter(|line| line["event"] == "begin").count(), 2);
}

#[tokio::test]
async fn p_d12_empty_pieces_of_a_body_take_no_room() {
    let world = world().await;
    let head = head(&world, "POST");
    let empty = frame(DATA, 0, 1, &[]).repeat(100);
    let flood = flood(open(&world, &[]).await, true, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &head),
        _ => empty.clone(),
    })
    .await;
    assert!(!flood.endless && flood.taken < MIB && flood.code == ENHANCE_YOUR_CALM, "{flood:?}");
    others_are_served(&world).await;
}

#[tokio::test]
async fn p_d12_a_small_head_that_unpacks_to_a_large_one_is_refused() {
    let world = world().await;
    // One long field enters the table, and is then meant by one byte each (RFC 7541, 6.1 and 6.2.1).
    let long = [&[0x40, 1, b'x', 0x7f, 0x81, 0x1e][..], &[b'y'; 4000]].concat();
    let bomb = [head(&world, "GET"), long, vec![0xbe; 12_000]].concat();
    let (mut read, mut write) = open(&world, &[]).await;
    write.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await.unwrap();
    let refused = async {
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            read.read_exact(&mut payload).await.unwrap();
            if matches!(head[3], HEADERS | RST_STREAM | 7) {
                return (head[3], payload);
            }
        }
    };
    let (kind, payload) = timeout(Duration::from_secs(20), refused).await.unwrap();
    assert!(kind != HEADERS || String::from_utf8_lossy(&payload).contains("431"), "{payload:?}");
    assert_eq!(world.upstream_connections(), 0);
    others_are_served(&world).await;
}

#[tokio::test]
async fn p_d12_streams_without_a_window_hold_nothing_back_but_their_upstreams() {
    const WINDOW_OF_ZERO: [u8; 6] = [0, 4, 0, 0, 0, 0];
    for protocol in ["http/1.1", "h2"] {
        let (behaviour, sent) =
            if protocol == "h2" { crate::flow::fast_http2() } else { crate::flow::fast() };
        let setup = Setup { protocols: vec![protocol], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let head = head(&world, "GET");
        let (mut read, mut write) = open(&world, &WINDOW_OF_ZERO).await;
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        for number in 0..128 {
            let opened = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head);
            write.write_all(&opened).await.unwrap();
        }
        write.flush().await.unwrap();
        let begun = || world.lines().iter().filter(|line| line["event"] == "begin").count();
        let dialled = if protocol == "h2" { 1 } else { 128 };
        for _ in 0..2000 {
            if begun() == 128 && world.upstream_connections() >= dialled && sent.load(Ordering::SeqCst) > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((begun(), world.upstream_connections() >= dialled), (128, true), "{protocol}");
        let taken = crate::flow::settled(&sent).await;
        println!("{protocol}: {taken} bytes were taken from the upstreams of 128 streams");
        // Most of it lies in the kernel's buffers, those of the upstreams' own sockets among them.
        assert!(taken < 80 * MIB, "{protocol}: {taken}");
    }
}
