//! What the proxy holds of answers that an agent does not read over HTTP/2. It is measured on a process of its own, in which nothing
//! else takes memory.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::{
    FILES_BESIDE_CONNECTIONS, FILES_PER_CONNECTION, H2_CONNECTIONS_MAX, STREAMS_PER_CONNECTION_MAX,
    UPSTREAM_CONNECTIONS_IN_POD_MAX,
};
use agentsandbox_proxy::serve::Port;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Semaphore;

use crate::abuse::{Io, frame, head, open};
use crate::early::next;
use crate::flow::settled;
use crate::upstream::Behaviour;
use crate::world::{HOST, Setup, World, build};

const MIB: usize = 1 << 20;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// All that a stream may be let send, as a setting.
pub const WIDEST_WINDOW: [u8; 6] = [0, 4, 0x7f, 0xff, 0xff, 0xff];
/// Nothing of it.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
/// What is taken of each answer at least, whatever others hold.
const LEAST_TAKEN: usize = 16 * 1024;

/// An upstream that answers each request with so many pieces, and how much it got rid of.
pub fn answering(protocol: &str, pieces: usize, piece: &'static [u8]) -> (Behaviour, Arc<AtomicUsize>) {
    let (sent, is_http2) = (Arc::new(AtomicUsize::new(0)), protocol == "h2");
    let counted = Arc::clone(&sent);
    let behaviour = Behaviour::new(move |io| {
        let counted = Arc::clone(&counted);
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let counted = Arc::clone(&counted);
                let body = stream::iter(0..pieces).map(move |_| {
                    counted.fetch_add(piece.len(), Ordering::SeqCst);
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece)))
                });
                // With a length, so that the end of an answer comes with its last byte.
                let mut answer = Response::new(StreamBody::new(body));
                if let Some(length) = piece.len().checked_mul(pieces) {
                    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
                }
                async { Ok::<_, Infallible>(answer) }
            });
            if is_http2 {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(10_000).max_send_buf_size(piece.len());
                let _ = builder.serve_connection(TokioIo::new(io), service).await;
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder.serve_connection(TokioIo::new(io), service).await;
            }
        }
    });
    (behaviour, sent)
}

/// The proxy as a process.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// One that takes the place of the world's own.
    pub fn in_place_of(world: &mut World, memory_mib: Option<usize>) -> Self {
        let folder = world.folder.path();
        let mut command = Command::new("sh");
        // As many connections to upstreams as in a pod.
        let files = UPSTREAM_CONNECTIONS_IN_POD_MAX as u64 * FILES_PER_CONNECTION + FILES_BESIDE_CONNECTIONS;
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]);
        command
            .arg(env!("CARGO_BIN_EXE_agentsandbox-proxy"))
            .arg("serve")
            .arg("--policy")
            .arg(folder.join("policy.yaml"));
        command.arg("--secrets").arg(folder.join("secrets")).arg("--state").arg(folder.join("state"));
        command.arg("--resolve").arg(format!("{HOST}=127.0.0.1"));
        command.args(memory_mib.map(|mib| format!("--memory-mib={mib}")));
        command.args(["--http-port=0", "--socks-port=0", "--base-url-port=0", "--admin-port=0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .find(|line| line["fields"]["port"] == "Entrance(HttpProxy)")
            .map(|line| line["fields"]["address"].as_str().unwrap().parse().unwrap())
            .unwrap();
        // Its log must not fill the pipe.
        std::thread::spawn(move || log.for_each(drop));
        world.ports = vec![(Port::Entrance(Entrance::HttpProxy), address)];
        Self(child)
    }

    pub fn resident_bytes(&self) -> usize {
        self.bytes("VmRSS:")
    }

    /// The most that it has taken.
    pub fn peak_bytes(&self) -> usize {
        self.bytes("VmHWM:")
    }

    fn bytes(&self, of: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

/// An agent that does not read.
#[derive(Clone, Copy, Debug)]
enum Agent {
    /// Its streams may send all they have.
    Open,
    /// Its streams may send nothing.
    Shut,
}

/// By how much the proxy grows for an agent that opens as many connections and streams as it may, and reads nothing. Each is answered with so
/// many pieces.
async fn grown(agent: Agent, protocol: &'static str, pieces: usize, piece: &'static [u8]) -> usize {
    let (behaviour, sent) = answering(protocol, pieces, piece);
    let mut world =
        build(Setup { protocols: vec![protocol], behaviour: Some(behaviour), ..Setup::default() }).await;
    let process = Process::in_place_of(&mut world, None);
    let before = process.resident_bytes();
    let head = head(&world, "GET");
    let mut unread = Vec::new();
    for _ in 0..H2_CONNECTIONS_MAX {
        let window = if matches!(agent, Agent::Open) { &WIDEST_WINDOW } else { &NO_WINDOW };
        let (read, mut write) = open(&world, window).await;
        let mut asks = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        for number in 0..STREAMS_PER_CONNECTION_MAX {
            asks.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head));
        }
        write.write_all(&asks).await.unwrap();
        write.flush().await.unwrap();
        unread.push((read, write));
    }
    while sent.load(Ordering::SeqCst) < MIB {
        tokio::task::yield_now().await;
    }
    settled(&sent).await;
    settled(&sent).await;
    let sent = sent.load(Ordering::SeqCst);
    // A connection of an upstream's over HTTP/1.1 carries one of them, and has a place of its own.
    let begun = match protocol {
        "h2" => STREAMS_PER_CONNECTION_MAX as usize * H2_CONNECTIONS_MAX,
        _ => 200,
    };
    let least = begun * piece.len().min(LEAST_TAKEN) / 2;
    assert!(sent >= least, "{sent} bytes were sent, and not {least}: nothing was tried");
    process.resident_bytes().saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_i4_an_agent_that_reads_none_of_its_answers_over_http_2_takes_a_bounded_part_of_the_memory() {
    // The window of the upstream's connection is part of what it grows by, and so is what a request takes by itself.
    for (agent, protocol, pieces, piece, most) in [
        (Agent::Open, "h2", 5, &[b'x'; 16 * 1024][..], 96),
        (Agent::Open, "h2", usize::MAX, &[b'x'; 16 * 1024], 128),
        (Agent::Shut, "http/1.1", 1, &[b'x'; 60 * 1024], 112),
    ] {
        let grown = grown(agent, protocol, pieces, piece).await;
        let of =
            format!("{} MiB, {protocol}, {pieces} pieces of {} bytes, {agent:?}", grown / MIB, piece.len());
        println!("{of}");
        assert!(grown < most * MIB, "{of}");
    }
}

#[tokio::test]
async fn p_i4_an_answer_over_http_1_1_keeps_its_connection_until_it_is_taken() {
    // One that the proxy takes whole gives its connection back, read or not.
    for (length, used) in [(1, 1), (110, 6)] {
        let piece: &'static [u8] = vec![b'x'; length * 1024].leak();
        let (behaviour, sent) = answering("http/1.1", 1, piece);
        let world =
            build(Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() })
                .await;
        let (mut read, mut write) = open(&world, &NO_WINDOW).await;
        for number in 0..6 {
            let ask = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head(&world, "GET"));
            write.write_all(&ask).await.unwrap();
            assert_eq!(answered(&mut read, HEADERS, 1).await, [2 * number + 1]);
            // Time to be read to its end by whoever would give it back.
            settled(&sent).await;
        }
        assert_eq!(world.upstream_connections(), used, "{length} KiB");
    }
}

/// Ids of the streams that this answer or reset comes for, of so many.
async fn answered(read: &mut ReadHalf<Io>, kind: u8, count: usize) -> Vec<u32> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let (got, _, stream, _) = next(read).await;
        if got == kind {
            streams.push(stream);
        }
    }
    streams
}

#[tokio::test]
async fn p_d12_a_stream_beyond_those_of_its_connection_is_refused_unsent_and_served_when_it_is_sent_again() {
    const STREAMS: u32 = STREAMS_PER_CONNECTION_MAX;
    let (asked, answers) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let behaviour = Some(crate::fullness::narrow(&asked, &answers));
    let world = build(Setup { protocols: vec!["h2"], behaviour, ..Setup::default() }).await;
    // More than it may, before it has read how many that are.
    let (mut read, mut write) = open(&world, &[]).await;
    let ask = async |write: &mut WriteHalf<Io>, numbers: std::ops::Range<u32>| {
        let head = head(&world, "GET");
        let all = numbers.flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head));
        write.write_all(&all.collect::<Vec<_>>()).await.unwrap();
    };
    ask(&mut write, 0..STREAMS + 3).await;
    let (kind, _, _, settings) = next(&mut read).await;
    let told = settings.chunks(6).find(|one| one[..2] == [0, 3]).unwrap();
    assert_eq!((kind, &told[2..]), (SETTINGS, &STREAMS.to_be_bytes()[..]));
    assert_eq!(
        answered(&mut read, RST_STREAM, 3).await,
        [STREAMS, STREAMS + 1, STREAMS + 2].map(|n| 2 * n + 1)
    );
    let line = world.line(&[("event", "deny"), ("reason", "LimitExceeded")]).await;
    assert_eq!(line["host"], HOST, "{line}");
    answers.add_permits(1000);
    answered(&mut read, HEADERS, STREAMS as usize).await;
    assert_eq!(asked.lock().unwrap().len(), STREAMS as usize, "none of the refused was sent");
    ask(&mut write, STREAMS + 3..STREAMS + 6).await;
    assert_eq!(answered(&mut read, HEADERS, 3).await.len(), 3);
}
