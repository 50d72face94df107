//! How long silence is borne. Time is paused here and passes in small steps.

use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{HOST, Setup, World, build, get, over_http1, scripted, standalone};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// A step, and what the measured times may be late by.
const STEP: Duration = Duration::from_millis(20);
/// What a step takes of real time.
const PACE: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_millis(1500);

/// Paused time jumps to the next timer whenever there is nothing to do, also when a socket is about to bring something. This
/// makes the jumps small, and lets the kernel bring it: a stall of a tenth of a second is a second here.
pub fn small_steps() {
    steps(STEP);
}

/// The same for tests of long silence, in which nothing is measured to the second.
fn larger_steps() {
    steps(STEP * 10);
}

fn steps(step: Duration) {
    tokio::spawn(async move {
        loop {
            sleep(step).await;
            std::thread::sleep(PACE);
        }
    });
}

/// How long until the other side ends the connection, and what it said before.
async fn ends_after(io: &mut (impl AsyncRead + Unpin), since: Instant) -> (Duration, String) {
    let mut told = Vec::new();
    let _ = io.read_to_end(&mut told).await;
    (since.elapsed(), String::from_utf8_lossy(&told).into_owned())
}

#[track_caller]
fn about(took: Duration, seconds: u64) {
    let expected = Duration::from_secs(seconds);
    assert!(took >= expected && took < expected + LATE, "{took:?}, not {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn p_d11_a_client_that_says_nothing_is_closed_after_five_seconds() {
    let world = standalone(&["http/1.1"]).await;
    small_steps();
    for entrance in [
        Entrance::HttpProxy,
        Entrance::Socks5,
        Entrance::BaseUrl,
        Entrance::TransparentTls,
        Entrance::TransparentHttp,
        Entrance::Enrolment,
    ] {
        let (mut io, since) = (to(&world, entrance).await, Instant::now());
        let (took, told) = ends_after(&mut io, since).await;
        about(took, 5);
        assert_eq!(told, "", "{entrance:?}");
    }
    let io = to(&world, Entrance::HttpProxy).await;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(over_http1(io, get(&world.url("/v1/x"), &world.authority())).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn p_d11_a_head_or_handshake_that_trickles_is_closed_after_ten_seconds() {
    let world = scripted(OK).await;
    small_steps();
    for (entrance, bytes) in [
        (Entrance::HttpProxy, &b"GET http://x"[..]),
        (Entrance::BaseUrl, b"GET /good/"),
        (Entrance::TransparentHttp, b"GET / HTTP"),
        (Entrance::TransparentTls, &[0x16, 3, 1, 2, 0, 1, 0]),
        (Entrance::Socks5, &[5, 9, 0, 1, 2]),
    ] {
        let (io, since) = (to(&world, entrance).await, Instant::now());
        let (mut read, mut write) = tokio::io::split(io);
        let slowly = async {
            for byte in bytes {
                let _ = write.write_all(&[*byte]).await;
                sleep(Duration::from_secs(5)).await;
            }
        };
        let ended = tokio::select! { ended = ends_after(&mut read, since) => ended, () = slowly => (since.elapsed(), String::new()) };
        about(ended.0, 10);
    }
    let since = Instant::now();
    let mut io = world.connect(&world.authority()).await.unwrap();
    about(ends_after(&mut io, since).await.0, 10);
    assert_eq!(world.upstream_connections(), 0);
    assert!(world.lines().iter().filter(|line| line["reason"] == "LimitExceeded").count() >= 3);
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

/// Sends a POST's head through the HTTP proxy.
async fn post(world: &World, fields: &str) -> TcpStream {
    let mut io = to(world, Entrance::HttpProxy).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{fields}\r\n\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    io
}

#[tokio::test(start_paused = true)]
async fn p_a14_a_tunnel_in_which_nothing_is_said_is_closed_after_ten_seconds_and_written_down() {
    let world = standalone(&["http/1.1"]).await;
    small_steps();
    // One that its agent ends unused is no attempt at anything.
    drop(world.connect(&world.authority()).await.unwrap());
    for (said, number) in [("", 1), ("EHLO", 2)] {
        let mut io = world.connect(&world.authority()).await.unwrap();
        io.write_all(said.as_bytes()).await.unwrap();
        let (took, told) = ends_after(&mut io, Instant::now()).await;
        assert!(told.is_empty(), "{told}");
        about(took, 10);
        // With a line for each tunnel that was opened.
        let lines = world.audit(2 * number + 1).await;
        let denied = lines.iter().filter(|line| line["event"] == "deny");
        let denied: Vec<_> = denied.map(|line| (&line["reason"], &line["host"])).collect();
        assert_eq!(denied, vec![(&"UnsupportedProtocol".into(), &HOST.into()); number], "{said:?}");
    }
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn p_d11_a_body_may_be_silent_for_a_minute() {
    let world = standalone(&["http/1.1"]).await;
    small_steps();
    let mut io = post(&world, "content-length: 3").await;
    for byte in [b"a", b"b", b"c"] {
        sleep(Duration::from_secs(50)).await;
        io.write_all(byte).await.unwrap();
    }
    assert!(
        ends_after(&mut io, Instant::now()).await.1.starts_with("HTTP/1.1 200"),
        "slow, and never silent"
    );
    let mut io = post(&world, "content-length: 3").await;
    io.write_all(b"a").await.unwrap();
    let (took, told) = ends_after(&mut io, Instant::now()).await;
    about(took, 60);
    assert!(told.starts_with("HTTP/1.1 408") && told.contains("RequestStalled"), "{told}");
    let line = world.line(&[("event", "end"), ("reason", "RequestStalled")]).await;
    assert_eq!((&line["decision"], &line["status"]), (&"allow".into(), &408.into()));
    // A call may be opened and wait.
    let mut io = post(&world, "content-type: application/grpc\r\ncontent-length: 1").await;
    sleep(Duration::from_secs(90)).await;
    io.write_all(b"a").await.unwrap();
    assert!(ends_after(&mut io, Instant::now()).await.1.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn p_h3_ten_minutes_of_silence_cut_no_answer() {
    for protocol in ["h2", "http/1.1"] {
        let world = standalone(&[protocol]).await;
        larger_steps();
        let io = world.connect(&world.authority()).await.unwrap();
        let io = world.tls(io, HOST, "h2").await.unwrap();
        let finish = std::sync::Arc::clone(&world.finish);
        tokio::spawn(async move {
            sleep(Duration::from_secs(600)).await;
            finish.notify_one();
        });
        let answer = crate::world::over_http2(io, get(&world.url("/v1/events"), &world.authority())).await;
        assert!(answer.body.ends_with("data: last\n\n"), "{protocol}: {}", answer.body);
    }
    // Neither does the agent's silence, once its answer has begun.
    let world = standalone(&["http/1.1"]).await;
    let mut io = to(&world, Entrance::HttpProxy).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\nhello",
        world.url("/v1/events"),
        world.authority()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    world.finish.notify_one();
    let told = ends_after(&mut io, Instant::now()).await.1;
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("data: last"), "{told}");
}

/// An upstream that takes so much of a body before it answers, after a silence of its own.
fn thoughtful(body_bytes: usize, silence: Duration) -> Behaviour {
    Behaviour::new(move |mut io| async move {
        let (mut sent, mut buffer) = (Vec::new(), [0; 4096]);
        let is_whole = |sent: &[u8]| {
            let head = sent.windows(4).position(|end| end == b"\r\n\r\n");
            head.is_some_and(|at| sent.len() - at - 4 >= body_bytes)
        };
        while !is_whole(&sent) {
            match io.read(&mut buffer).await {
                Ok(read @ 1..) => sent.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        sleep(silence).await;
        let _ = io.write_all(OK.as_bytes()).await;
        let _ = io.flush().await;
    })
}

#[tokio::test(start_paused = true)]
async fn p_h3_an_upload_of_more_than_ten_minutes_passes_and_an_upstream_that_never_answers_it_does_not() {
    const PIECES: u32 = 13;
    const BETWEEN: Duration = Duration::from_secs(50);
    larger_steps();
    for (silence, status) in [(400, "200"), (900, "502")] {
        let behaviour = thoughtful(PIECES as usize, Duration::from_secs(silence));
        let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let mut io = post(&world, &format!("content-length: {PIECES}")).await;
        let begin = Instant::now();
        for _ in 0..PIECES {
            sleep(BETWEEN).await;
            io.write_all(b"x").await.unwrap();
        }
        let end = Instant::now();
        assert!(end - begin > Duration::from_secs(600), "longer than an upstream may think");
        let (took, told) = ends_after(&mut io, end).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{silence} s: {told}");
        assert!(took < Duration::from_secs(700), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p_h4_a_call_may_wait_longer_than_ten_minutes_for_the_head_of_its_answer() {
    larger_steps();
    for (kind, status) in [("application/grpc", "200"), ("application/json", "502")] {
        let behaviour = thoughtful(1, Duration::from_secs(700));
        let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let mut io = post(&world, &format!("content-type: {kind}\r\ncontent-length: 1")).await;
        io.write_all(b"x").await.unwrap();
        let told = ends_after(&mut io, Instant::now()).await.1;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{kind}: {told}");
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: u8 = 6;

/// Reads frames until the end, and acknowledges each ping if told to.
async fn speak_http2(io: &mut (impl AsyncRead + AsyncWrite + Unpin), answers: bool) -> Duration {
    let since = Instant::now();
    io.write_all(PREFACE).await.unwrap();
    loop {
        let mut head = [0; 9];
        if io.read_exact(&mut head).await.is_err() {
            return since.elapsed();
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if io.read_exact(&mut payload).await.is_err() {
            return since.elapsed();
        }
        if head[3] == PING && head[4] == 0 && answers {
            head[4] = 1;
            let _ = io.write_all(&[&head[..], &payload].concat()).await;
            let _ = io.flush().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p_d11_an_agent_that_is_gone_or_idle_gives_its_place_back() {
    let world = standalone(&["http/1.1"]).await;
    small_steps();
    for (answers, seconds) in [(false, 45), (true, 180)] {
        let io = world.connect(&world.authority()).await.unwrap();
        let mut io = world.tls(io, HOST, "h2").await.unwrap();
        let patience = Duration::from_secs(1000);
        about(timeout(patience, speak_http2(&mut io, answers)).await.unwrap(), seconds);
    }
    let blamed = |line: &serde_json::Value| line["reason"] == "MalformedRequest";
    assert!(!world.lines().iter().any(blamed), "nobody broke the protocol");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_gone_without_a_word_is_found_out_before_it_is_late() {
    let behaviour = Behaviour::new(|mut io| async move {
        io.write_all(&PREFACE[24..]).await.unwrap();
        // It takes everything, and says nothing more.
        let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
    });
    let world = build(Setup { protocols: vec!["h2"], behaviour: Some(behaviour), ..Setup::default() }).await;
    small_steps();
    let since = Instant::now();
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    about(since.elapsed(), 45);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_to_an_upstream_is_closed_before_the_upstream_would() {
    let world = scripted(OK).await;
    small_steps();
    let answer =
        over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority())).await;
    let since = Instant::now();
    assert_eq!((answer.status, world.upstream_closed()), (StatusCode::OK, 0));
    while world.upstream_closed() == 0 {
        assert!(since.elapsed() < Duration::from_secs(62), "it is still open");
        sleep(Duration::from_secs(1)).await;
    }
    assert!(since.elapsed() > Duration::from_secs(49), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_http_1_connection_of_the_agents_is_closed_after_ten_seconds_and_nobody_is_blamed() {
    let world = scripted(OK).await;
    small_steps();
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    let ended = tokio::spawn(connection);
    let response = sender.send_request(get(&world.url("/v1/x"), &world.authority())).await.unwrap();
    http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    let since = Instant::now();
    let _ = ended.await.unwrap();
    about(since.elapsed(), 10);
    assert!(world.lines().iter().all(|line| line["reason"].is_null()));
}
