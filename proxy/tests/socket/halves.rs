//! Sides that have no more to say: what they asked for still comes, whole; and one that is gone gives its place back.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{HOST, Setup, World, build, get, over_http1, standalone};

const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole";

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Both for S {}

/// An upstream that says when it has been asked, and answers when it may.
struct Slow {
    asked: Arc<Semaphore>,
    may_answer: Arc<Semaphore>,
}

impl Slow {
    fn new() -> (Self, Behaviour) {
        let (asked, may_answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let slow = Self { asked: Arc::clone(&asked), may_answer: Arc::clone(&may_answer) };
        let behaviour = Behaviour::new(move |mut io| {
            let (asked, may_answer) = (Arc::clone(&asked), Arc::clone(&may_answer));
            async move {
                while head(&mut io).await.is_some() {
                    asked.add_permits(1);
                    may_answer.acquire().await.unwrap().forget();
                    let _ = io.write_all(ANSWER).await;
                }
            }
        });
        (slow, behaviour)
    }

    async fn is_asked(&self) {
        timeout(PATIENCE, self.asked.acquire()).await.unwrap().unwrap().forget();
    }

    async fn world(connections_max: Option<usize>) -> (Self, World) {
        let (slow, behaviour) = Self::new();
        let behaviour = Some(behaviour);
        let setup = Setup { protocols: vec!["http/1.1"], behaviour, connections_max, ..Setup::default() };
        (slow, build(setup).await)
    }
}

/// One head, or none at the end.
async fn head(io: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Somebody else's exchange, in which the proxy has many turns to notice what came before it.
async fn meanwhile(world: &World) {
    let refused = get("http://nobody.test/", "nobody.test");
    assert_eq!(over_http1(to(world, Entrance::HttpProxy).await, refused).await.status, StatusCode::FORBIDDEN);
}

fn request(target: &str, world: &World) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", world.authority()).into_bytes()
}

/// What a client that has sent `request` and shut its side reads until the end.
async fn answered<S>(mut io: S, request: &[u8], (slow, world): (&Slow, &World)) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(request).await.unwrap();
    slow.is_asked().await;
    io.shutdown().await.unwrap();
    meanwhile(world).await;
    slow.may_answer.add_permits(1);
    let mut told = Vec::new();
    timeout(PATIENCE, io.read_to_end(&mut told)).await.unwrap().unwrap();
    String::from_utf8(told).unwrap()
}

/// TLS whose end says goodbye and leaves TCP open.
struct Goodbye(TlsStream<TcpStream>);

impl AsyncRead for Goodbye {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Goodbye {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.get_mut().1.send_close_notify();
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
}

#[tokio::test]
async fn a_client_that_shuts_its_side_after_a_whole_request_gets_the_whole_answer_through_each_entrance() {
    let (slow, world) = Slow::world(None).await;
    let with = (&slow, &world);
    let is_whole =
        |told: &str| assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("\r\n\r\nwhole"), "{told}");
    let url = request(&world.url("/v1/x"), &world);
    is_whole(&answered(to(&world, Entrance::HttpProxy).await, &url, with).await);
    let base = request("/good/v1/x", &world);
    is_whole(&answered(to(&world, Entrance::BaseUrl).await, &base, with).await);
    let path = request("/v1/x", &world);
    // With its goodbye TLS ends, and TCP with it or not.
    let tunnel = async || {
        let io = world.connect(&world.authority()).await.unwrap();
        world.tls(io, HOST, "http/1.1").await.unwrap()
    };
    is_whole(&answered(tunnel().await, &path, with).await);
    is_whole(&answered(Goodbye(tunnel().await), &path, with).await);
    let lines = world.lines();
    assert_eq!(lines.iter().filter(|line| line["event"] == "begin").count(), 4);
    assert!(lines.iter().all(|line| line["event"] != "end" || line["reason"].is_null()), "{lines:#?}");
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_none_however_its_client_ends() {
    let (_slow, world) = Slow::world(None).await;
    let post = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\nhello",
        world.url("/v1/x"),
        world.authority()
    );
    let mut io = to(&world, Entrance::HttpProxy).await;
    io.write_all(post.as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    let line = world.line(&[("event", "end")]).await;
    assert_eq!(line["reason"], "Interrupted");
}

/// Ends a connection so that its kernel says that nobody is there.
pub fn reset(io: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&io, Some(Duration::ZERO)).unwrap();
    drop(io);
}

#[tokio::test]
async fn p_i4_a_client_that_is_gone_after_it_shut_its_side_gives_its_place_back() {
    let (slow, world) = Slow::world(Some(1)).await;
    for (is_shut, more) in [(false, ""), (true, ""), (false, "G")] {
        let before = world.lines().len();
        let mut io = to(&world, Entrance::HttpProxy).await;
        io.write_all(&request(&world.url("/v1/x"), &world)).await.unwrap();
        slow.is_asked().await;
        // Of another request, which is not read before this one is answered.
        io.write_all(more.as_bytes()).await.unwrap();
        if is_shut {
            io.shutdown().await.unwrap();
        }
        let mut waits = to(&world, Entrance::HttpProxy).await;
        assert!(waits.read_u8().await.is_err(), "there is one place, and it is taken");
        reset(io);
        let is_given_up = async {
            while !world.lines().iter().skip(before).any(|line| line["reason"] == "Interrupted") {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, is_given_up).await.unwrap();
        // For the one that was given up, and for one more.
        slow.may_answer.add_permits(2);
        let served = async {
            loop {
                let mut io = to(&world, Entrance::HttpProxy).await;
                // One that is refused may be closed before this.
                let _ = io.write_all(&request(&world.url("/v1/x"), &world)).await;
                if io.read_u8().await.is_ok() {
                    return;
                }
            }
        };
        timeout(PATIENCE, served).await.unwrap();
        slow.is_asked().await;
    }
}

#[tokio::test]
async fn tls_that_breaks_off_without_its_goodbye_is_given_up_at_once() {
    let (slow, world) = Slow::world(None).await;
    let mut io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "http/1.1").await.unwrap();
    io.write_all(&request("/v1/x", &world)).await.unwrap();
    slow.is_asked().await;
    io.get_mut().0.shutdown().await.unwrap();
    let line = world.line(&[("event", "end")]).await;
    assert_eq!((&line["reason"], line["status"].is_null()), (&"Interrupted".into(), true));
    drop(io);
}

#[tokio::test]
async fn an_upload_goes_in_pieces_as_large_as_they_come_while_its_client_is_listened_to() {
    const BYTES: usize = 256 * 1024;
    let pieces = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&pieces);
    let behaviour = Behaviour::new(move |io| {
        let counts = Arc::clone(&counts);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let counts = Arc::clone(&counts);
                async move {
                    let (mut body, mut bytes) = (request.into_body(), 0);
                    while let Some(frame) = body.frame().await {
                        bytes += frame?.into_data().map_or(0, |data| data.len());
                        counts.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(bytes.to_string()))))
                }
            });
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
        }
    });
    let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
    let world = build(setup).await;
    let post = |target: &str| {
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
            world.authority()
        );
        [format!("{head}{BYTES:x}\r\n").as_bytes(), &vec![b'x'; BYTES], b"\r\n0\r\n\r\n"].concat()
    };
    let is_whole = async |mut io: Box<dyn Both>, asked: Vec<u8>| {
        let mut told = String::new();
        timeout(PATIENCE, async {
            io.write_all(&asked).await.unwrap();
            io.read_to_string(&mut told).await.unwrap();
        })
        .await
        .unwrap();
        let taken = pieces.swap(0, Ordering::SeqCst);
        assert!(told.ends_with(&BYTES.to_string()) && taken < BYTES / 256, "{taken} pieces: {told}");
    };
    is_whole(Box::new(to(&world, Entrance::HttpProxy).await), post(&world.url("/v1/x"))).await;
    is_whole(Box::new(to(&world, Entrance::BaseUrl).await), post("/good/v1/x")).await;
    let tunnel = world.connect(&world.authority()).await.unwrap();
    is_whole(Box::new(world.tls(tunnel, HOST, "http/1.1").await.unwrap()), post("/v1/x")).await;
}

type Answers = fn(tokio_rustls::server::TlsStream<TcpStream>) -> BoxFuture<'static, ()>;

#[tokio::test]
async fn an_upstream_that_answers_and_shuts_its_side_before_it_has_read_the_body_is_heard_out() {
    const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwhole";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    for answer in [ANSWER, CLOSE, CHUNKED] {
        let behaviour = Behaviour::new(move |mut io| async move {
            head(&mut io).await.unwrap();
            io.write_all(answer).await.unwrap();
            io.shutdown().await.unwrap();
            // It reads on, and finds no end.
            let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
        });
        let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let io = TokioIo::new(to(&world, Entrance::HttpProxy).await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        // A body whose end does not come.
        let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("hello")))]);
        let body = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
        let asked = Request::post(world.url("/v1/x")).header("host", world.authority()).body(body).unwrap();
        let response = timeout(PATIENCE, sender.send_request(asked)).await.unwrap().unwrap();
        let told = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        assert_eq!(told, "whole", "{}", String::from_utf8_lossy(answer));
    }
}

/// A world that passes its upstream's TLS unopened, and a connection through it.
async fn passing(behaviour: Answers) -> (World, TlsStream<TcpStream>) {
    let behaviour = Some(Behaviour::new(behaviour));
    let setup = Setup {
        protocols: vec!["http/1.1"],
        behaviour,
        certificate: Some("pass.good.test"),
        ..Setup::default()
    };
    let world = build(setup).await;
    let port = world.upstream.port();
    let rule = format!(
        "rules:\n- {{name: pass, host: pass.good.test, ports: [{port}], scheme: https, tls: Passthrough}}\n"
    );
    world.edit(|text| text.replace("rules:\n", &rule)).await;
    let io = world.connect(&format!("pass.good.test:{port}")).await.unwrap();
    let mut config = world.trusting("http/1.1");
    let document = std::fs::read_to_string(world.folder.path().join("policy.yaml")).unwrap();
    let pem = document.split("additionalRoots: |").nth(1).unwrap().replace("    ", "");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    config = {
        let provider = Arc::clone(config.crypto_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        builder.unwrap().with_root_certificates(roots).with_no_client_auth()
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let io = connector.connect("pass.good.test".try_into().unwrap(), io).await.unwrap();
    (world, io)
}

#[tokio::test]
async fn p_f20_each_side_of_a_connection_that_is_passed_on_may_end_alone_and_is_heard_out() {
    const BYTES: usize = 1 << 20;
    // The agent first: the upstream answers what it has read to its end.
    let (world, mut io) = passing(|mut io| {
        Box::pin(async move {
            let mut said = Vec::new();
            io.read_to_end(&mut said).await.unwrap();
            io.write_all(&vec![b'x'; said.len()]).await.unwrap();
            io.shutdown().await.unwrap();
        })
    })
    .await;
    let mut told = Vec::new();
    timeout(PATIENCE, async {
        io.write_all(&vec![b'x'; BYTES]).await.unwrap();
        io.shutdown().await.unwrap();
        io.read_to_end(&mut told).await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(told.len(), BYTES);
    assert!(world.line(&[("event", "end")]).await["reason"].is_null());
    // The upstream first: it takes what the agent still says.
    let (world, mut io) = passing(|mut io| {
        Box::pin(async move {
            io.write_all(b"first").await.unwrap();
            io.shutdown().await.unwrap();
            let mut said = Vec::new();
            io.read_to_end(&mut said).await.unwrap();
            assert_eq!(said.len(), BYTES);
        })
    })
    .await;
    timeout(PATIENCE, async {
        let mut told = Vec::new();
        io.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"first");
        io.write_all(&vec![b'x'; BYTES]).await.unwrap();
        io.shutdown().await.unwrap();
    })
    .await
    .unwrap();
    let line = world.line(&[("event", "end")]).await;
    assert_eq!(
        (line["reason"].is_null(), line["bytesUp"].as_u64() > Some(BYTES as u64)),
        (true, true),
        "{line}"
    );
}

#[tokio::test]
async fn p_h1_an_agent_that_shuts_its_side_of_a_socket_still_gets_what_the_other_says() {
    let world = standalone(&["http/1.1"]).await;
    let mut io = to(&world, Entrance::HttpProxy).await;
    let asked = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        world.url("/v1/socket"),
        world.authority()
    );
    // An empty text and an empty close, with the handshake and its end.
    let asked = [asked.as_bytes(), b"\x81\x80\0\0\0\0\x88\x80\0\0\0\0"].concat();
    io.write_all(&asked).await.unwrap();
    io.shutdown().await.unwrap();
    let mut told = Vec::new();
    timeout(PATIENCE, io.read_to_end(&mut told)).await.unwrap().unwrap();
    assert!(
        told.starts_with(b"HTTP/1.1 101") && told.ends_with(b"\x81\0\x88\0"),
        "{}",
        String::from_utf8_lossy(&told)
    );
}
