//! What a host that knows the key may write into its answers, and how little of it arrives.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::{NARROW_DECODERS_MAX, WIDE_DECODERS_MAX};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{KEY, Setup, World, build, get, over_http1, scripted, speak};

const BROTLI: &[u8] = include_bytes!("fixtures/key.br");
const ZSTD: &[u8] = include_bytes!("fixtures/key.zst");
const LINES: usize = 40;
/// No rule adds the key, though it may go to this host.
const NOT_INJECTED: (&str, &str) = (", credential: good, websocket: Allow", ", websocket: Allow");
/// The key may go to another host only.
const NOT_KNOWN: (&str, &str) = ("scopes: [{host: api.good.test", "scopes: [{host: other.good.test");

/// The text of the fixtures.
fn text() -> String {
    let line = |n| format!("line {n} of a log that names the key {KEY} among other things");
    (0..LINES).map(line).collect::<Vec<_>>().join(" ")
}

async fn answering(answer: impl Into<Vec<u8>>, policy: &[(&'static str, &'static str)]) -> World {
    let script = Some(answer.into());
    build(Setup { protocols: vec!["http/1.1"], script, policy: policy.to_vec(), ..Setup::default() }).await
}

/// What is answered to a request with these fields, byte for byte.
async fn told(world: &World, fields: &str) -> String {
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{fields}\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    speak(world, Entrance::HttpProxy, head.as_bytes()).await
}

fn whole(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn p_f6_a_host_that_remembers_the_key_gives_it_back_over_no_rule() {
    let answer =
        whole(&format!("x-log: key={KEY}\r\n"), format!("keys: {KEY}, c2stcmVhbC0wMTIzNDU2Nzg5").as_bytes());
    let world = answering(answer.clone(), &[NOT_INJECTED]).await;
    let masked = told(&world, "").await;
    assert!(!world.received().contains(KEY), "the rule adds none");
    assert!(masked.starts_with("HTTP/1.1 200") && masked.contains("x-log: key=[redacted]"), "{masked}");
    assert!(!masked.contains(KEY) && !masked.contains("c2stcmVhbC0wMTIzNDU2Nzg5"), "{masked}");
    assert!(masked.contains(&format!("keys: {}, ", "*".repeat(KEY.len()))), "{masked}");
    // A host that was never sent it is not searched.
    let world = answering(answer, &[NOT_INJECTED, NOT_KNOWN]).await;
    assert!(told(&world, "").await.contains(&format!("keys: {KEY}, ")));
}

#[tokio::test]
async fn p_f17_a_replaced_key_is_masked_and_a_missing_one_hinders_nobody() {
    let world = answering(whole("", format!("keys: {KEY}").as_bytes()), &[]).await;
    assert!(!told(&world, "").await.contains(KEY));
    let file = world.folder.path().join("secrets/good");
    std::fs::write(&file, "sk-other-9876543210").unwrap();
    for _ in 0..50 {
        assert!(!told(&world, "").await.contains(KEY), "the one before is masked");
        if world.received().contains("sk-other-9876543210") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.received().contains("sk-other-9876543210"));
    let world = answering(whole("", format!("keys: {KEY}").as_bytes()), &[NOT_INJECTED]).await;
    std::fs::remove_file(world.folder.path().join("secrets/good")).unwrap();
    let masked = told(&world, "").await;
    assert!(masked.starts_with("HTTP/1.1 200") && !masked.contains(KEY), "{masked}");
}

/// What becomes of an answer that is awaited while the key is given to its host, or while nothing happens.
async fn awaited(answer: String, is_given: bool) -> String {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, went) = (Arc::clone(&asked), Arc::clone(&go));
    let behaviour = Behaviour::new(move |mut io| {
        let (answer, seen, went) = (answer.clone(), Arc::clone(&seen), Arc::clone(&went));
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(io.read_u8().await.unwrap());
            }
            seen.notify_one();
            went.notified().await;
            io.write_all(answer.as_bytes()).await.unwrap();
            let _ = io.shutdown().await;
        }
    });
    let policy = vec![NOT_INJECTED, NOT_KNOWN];
    let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), policy, ..Setup::default() };
    let world = build(setup).await;
    let change = async {
        asked.notified().await;
        if is_given {
            world.edit(|text| text.replace(NOT_KNOWN.1, NOT_KNOWN.0)).await;
        }
        go.notify_one();
    };
    tokio::join!(self::told(&world, "range: bytes=0-9\r\n"), change).0
}

#[tokio::test]
async fn p_f6_a_key_that_a_host_is_given_while_its_answer_is_awaited_is_masked() {
    let whole = format!("HTTP/1.1 200 OK\r\nconnection: close\r\nx-log: {KEY}\r\n\r\nkeys: {KEY}.");
    let masked = awaited(whole.clone(), true).await;
    assert!(masked.starts_with("HTTP/1.1 200") && masked.contains("x-log: [redacted]"), "{masked}");
    assert!(masked.contains("keys: ***") && !masked.contains(KEY), "{masked}");
    assert!(awaited(whole.clone(), false).await.contains(&format!("keys: {KEY}.")));
    // A part was asked for, and of a part nobody knows what it is a part of.
    let part = whole.replace("200 OK", "206 Partial Content");
    let refused = awaited(part.clone(), true).await;
    assert!(refused.starts_with("HTTP/1.1 502") && refused.contains("UnreadableAnswer"), "{refused}");
    assert!(awaited(part, false).await.starts_with("HTTP/1.1 206"));
}

#[tokio::test]
async fn p_f6_a_part_of_an_answer_cannot_be_asked_for_where_the_key_is_known() {
    let fields = "range: bytes=0-4\r\nif-range: \"a\"\r\nrange: bytes=5-9\r\naccept-encoding: gzip\r\n";
    let answer = whole("accept-ranges: bytes\r\ndigest: md5=x\r\netag: \"a\"\r\n", b"ok");
    for policy in [&[][..], &[NOT_INJECTED]] {
        let world = answering(answer.clone(), policy).await;
        let told = told(&world, fields).await;
        let sent = world.received();
        assert!(!sent.contains("range") && sent.contains("accept-encoding: identity"), "{sent}");
        assert!(
            !told.contains("accept-ranges") && !told.contains("digest") && told.contains("etag: \"a\""),
            "{told}"
        );
    }
    let world = answering(answer, &[NOT_INJECTED, NOT_KNOWN]).await;
    let told = told(&world, fields).await;
    assert!(
        world.received().contains("range: bytes=0-4") && world.received().contains("accept-encoding: gzip")
    );
    assert!(told.contains("accept-ranges: bytes") && told.contains("digest: md5=x"));
}

#[tokio::test]
async fn p_f6_the_key_comes_back_in_no_compressed_answer() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text().as_bytes()).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(text().as_bytes()).unwrap();
    let codings = [
        ("gzip", gzip.finish().unwrap()),
        ("deflate", zlib.finish().unwrap()),
        ("br", BROTLI.to_vec()),
        ("zstd", ZSTD.to_vec()),
    ];
    for (coding, body) in codings {
        let world =
            answering(whole(&format!("content-encoding: {coding}\r\netag: \"a\"\r\n"), &body), &[]).await;
        let told = told(&world, "").await;
        let (head, _) = told.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("etag: W/\"a\""), "{coding}: {head}");
        assert!(!head.contains("content-encoding") && !head.contains("content-length"), "{coding}: {head}");
        assert!(!told.contains(KEY), "{coding}: {told}");
        // Of each up to three bytes may have gone before the rest came.
        assert!(told.matches('*').count() >= LINES * (KEY.len() - 3), "{coding}: {told}");
        let cut =
            answering(whole(&format!("content-encoding: {coding}\r\n"), &body[..body.len() - 3]), &[]).await;
        let _ = self::told(&cut, "").await;
        let end = cut.line(&[("event", "end")]).await;
        assert_eq!(
            (&end["reason"], &end["decision"]),
            (&"UnreadableAnswer".into(), &"allow".into()),
            "{coding}"
        );
    }
}

#[tokio::test]
async fn p_f7_an_answer_that_cannot_be_read_is_a_bad_gateway() {
    for fields in [
        "content-encoding: compress\r\n",
        "content-encoding: gzip, br\r\n",
        "grpc-encoding: gzip\r\n",
        "content-encoding: dcz\r\n",
    ] {
        let world = answering(whole(fields, b"\x1f\x9dnonsense"), &[]).await;
        let refused =
            over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url("/v1/x"), &world.authority()))
                .await;
        assert_eq!(refused.status, StatusCode::BAD_GATEWAY, "{fields}");
        assert!(refused.body.contains("UnreadableAnswer"), "{}", refused.body);
        let end = world.line(&[("event", "end"), ("reason", "UnreadableAnswer")]).await;
        assert_eq!(end["status"], 502);
        let world = answering(whole(fields, b"as it is"), &[NOT_INJECTED, NOT_KNOWN]).await;
        assert!(
            told(&world, "").await.ends_with("as it is"),
            "a host that knows no key compresses as it likes"
        );
    }
}

#[tokio::test]
async fn p_d10_one_compressed_answer_more_than_may_be_decoded_at_a_time_is_refused() {
    for (coding, most) in [("br", WIDE_DECODERS_MAX), ("gzip", NARROW_DECODERS_MAX)] {
        // Each answer stays open: what was announced never comes.
        let world =
            scripted(format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: 9\r\n\r\n"))
                .await;
        let head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", world.url("/v1/x"), world.authority());
        let ask = async || {
            let mut io = to(&world, Entrance::HttpProxy).await;
            io.write_all(head.as_bytes()).await.unwrap();
            (read_until(&mut io, "\r\n\r\n").await, io)
        };
        let mut open = Vec::new();
        for number in 0..most {
            let (told, io) = ask().await;
            assert!(told.starts_with("HTTP/1.1 200"), "{coding} {number}: {told}");
            open.push(io);
        }
        let (told, mut io) = ask().await;
        assert!(told.starts_with("HTTP/1.1 502"), "{coding}: {told}");
        read_until(&mut io, "UnreadableAnswer").await;
        crate::halves::reset(open.pop().unwrap());
        let again = async { while !ask().await.0.starts_with("HTTP/1.1 200") {} };
        timeout(Duration::from_secs(20), again).await.unwrap();
    }
}

#[tokio::test]
async fn p_f14_a_session_is_not_passed_on_where_the_key_was_sent() {
    let answer = whole("set-cookie: session=1\r\nx-plain: stays\r\n", b"ok");
    let told_with = answering(answer.clone(), &[]).await;
    let injected = told(&told_with, "").await;
    assert!(!injected.contains("session=1") && injected.contains("x-plain: stays"), "{injected}");
    let bare = answering(answer, &[NOT_INJECTED]).await;
    assert!(told(&bare, "").await.contains("set-cookie: session=1"));
}

#[tokio::test]
async fn p_i5_the_end_of_a_broken_answer_says_who_broke_it() {
    let broken =
        scripted("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nnonsense\r\n").await;
    let _ = told(&broken, "").await;
    let end = broken.line(&[("event", "end")]).await;
    assert_eq!(
        (&end["reason"], &end["decision"], &end["bytesDown"]),
        (&"AnswerBroken".into(), &"allow".into(), &2.into())
    );
    let left = scripted("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun").await;
    let mut io = to(&left, Entrance::HttpProxy).await;
    let head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", left.url("/v1/x"), left.authority());
    io.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut io, "begun").await;
    crate::halves::reset(io);
    assert_eq!(left.line(&[("event", "end")]).await["reason"], "Interrupted");
    let good = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert!(told(&good, "").await.ends_with("ok"));
    assert!(good.line(&[("event", "end")]).await["reason"].is_null());
}

/// Reads until this has come.
async fn read_until(io: &mut TcpStream, wanted: &str) -> String {
    let mut read = Vec::new();
    let all = async {
        while !String::from_utf8_lossy(&read).contains(wanted) {
            read.push(io.read_u8().await.unwrap());
        }
    };
    timeout(Duration::from_secs(20), all).await.unwrap();
    String::from_utf8_lossy(&read).into_owned()
}

/// The answer to the handshake of RFC 6455, 1.3, with these fields, and then a frame with this text.
fn socket(fields: &str, text: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n{fields}\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    [head.as_bytes(), &[0x81, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

async fn shake(world: &World) -> TcpStream {
    let mut io = to(world, Entrance::HttpProxy).await;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-extensions: permessage-deflate\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        world.url("/v1/socket"),
        world.authority()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    io
}

#[tokio::test]
async fn p_f6_the_key_comes_back_in_no_frame_of_a_socket() {
    for policy in [&[][..], &[NOT_INJECTED]] {
        let world = answering(socket("", &format!("<{KEY}> end")), policy).await;
        let told = read_until(&mut shake(&world).await, " end").await;
        assert!(told.starts_with("HTTP/1.1 101") && !told.contains(KEY), "{told}");
        assert!(told.contains(&format!("<{}> end", "*".repeat(KEY.len()))), "{told}");
        assert!(!world.received().contains("sec-websocket-extensions"), "{}", world.received());
    }
    let world = answering(socket("", &format!("<{KEY}> end")), &[NOT_INJECTED, NOT_KNOWN]).await;
    assert!(read_until(&mut shake(&world).await, " end").await.contains(KEY));
    assert!(world.received().contains("sec-websocket-extensions: permessage-deflate"));
}

#[tokio::test]
async fn p_h1_a_socket_with_an_extension_that_nobody_asked_for_is_none() {
    let extension = "sec-websocket-extensions: permessage-deflate\r\n";
    let world = answering(socket(extension, "x end"), &[]).await;
    assert!(read_until(&mut shake(&world).await, "\r\n\r\n").await.starts_with("HTTP/1.1 502"));
    let world = answering(socket(extension, "x end"), &[NOT_INJECTED, NOT_KNOWN]).await;
    assert!(read_until(&mut shake(&world).await, "x end").await.starts_with("HTTP/1.1 101"));
}

#[tokio::test]
async fn p_f17_a_key_whose_credential_was_taken_from_the_policy_is_masked_for_a_while() {
    let world = answering(whole("", format!("keys: {KEY}").as_bytes()), &[]).await;
    assert!(!told(&world, "").await.contains(KEY));
    let file = world.folder.path().join("policy.yaml");
    let document = std::fs::read_to_string(&file).unwrap();
    // The same rules without a credential, a path more that tells when they are in force, and no credentials at all.
    let document = document.replace(NOT_INJECTED.0, NOT_INJECTED.1).replace("'/v1/**'", "'/**'");
    let (before, credentials) = document.split_once("credentials:").unwrap();
    let (_, after) = credentials.split_once("addresses:").unwrap();
    std::fs::write(&file, format!("{before}addresses:{after}")).unwrap();
    let mut answer = String::new();
    for _ in 0..50 {
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            world.url("/new"),
            world.authority()
        );
        answer = speak(&world, Entrance::HttpProxy, head.as_bytes()).await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains(KEY), "{answer}");
}
