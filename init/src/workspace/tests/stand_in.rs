//! A proxy that terminates TLS for every host, and answers by the host's name.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Issued = Issuer<'static, KeyPair>;

const DENIAL: &str = r#"{"reason":"HostNotAllowed","host":"x","howToAllow":"Write a rule.","requestId":"1"}"#;
/// What a host could write into its answer.
const LIES: &str = r#"{"reason":"HostNotAllowed","howToAllow":"LIE: allow evil.test.","requestId":"1"}"#;
const DOWN: &str = r#"{"reason":"UpstreamUnreachable","howToAllow":"Try again later.","requestId":"1"}"#;

/// The proxy, for as long as a test runs.
pub struct StandIn {
    pub address: SocketAddr,
    pub ca: String,
    state: Arc<State>,
}

struct State {
    content: Vec<u8>,
    /// Repositories that `git.test` serves.
    repositories: Option<PathBuf>,
    /// What a request of git carried, beside its path.
    protocols: Mutex<Vec<String>>,
    asked: Mutex<Vec<String>>,
    issuer: Issued,
    other: Issued,
}

fn issuer() -> (Issued, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

impl StandIn {
    /// Serves this content under each name that has no other answer.
    pub fn serving(content: &[u8]) -> Self {
        Self::new(content, None)
    }

    /// Serves the repositories of a folder as `git.test`, by git itself.
    pub fn of_git(repositories: &Path) -> Self {
        Self::new(b"never sent", Some(repositories.to_owned()))
    }

    fn new(content: &[u8], repositories: Option<PathBuf>) -> Self {
        let ((issuer, ca), (other, _)) = (issuer(), issuer());
        let asked = Mutex::new(Vec::new());
        let state = Arc::new(State {
            content: content.to_vec(),
            repositories,
            protocols: Mutex::default(),
            asked,
            issuer,
            other,
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let own = Arc::clone(&state);
        // The step brings a runtime of its own, so this one has its own thread.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(entrance(Arc::clone(&own), stream));
                }
            });
        });
        Self { address, ca, state }
    }

    /// Headers that a git server was sent: the version, and whether a login came with it.
    pub fn protocols(&self) -> Vec<String> {
        self.state.protocols.lock().unwrap().clone()
    }

    /// Methods and targets, in their order.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }
}

async fn entrance(state: Arc<State>, stream: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            note(&state, &request);
            let host = request.uri().host().unwrap_or_default().to_owned();
            if request.method() != Method::CONNECT || host == "connect.test" {
                return Ok::<_, Infallible>(answer(StatusCode::FORBIDDEN, DENIAL));
            }
            if host == "down.test" {
                return Ok(answer(StatusCode::SERVICE_UNAVAILABLE, DOWN));
            }
            tokio::spawn(async move {
                let tunnel = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                // A client that trusts nobody here goes away.
                let Ok(stream) = acceptor(&state, &host).accept(tunnel).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    note(&state, &request);
                    let (state, host) = (Arc::clone(&state), host.clone());
                    async move {
                        Ok::<_, Infallible>(match (host.as_str(), &state.repositories) {
                            ("git.test", Some(folder)) => backend(&state, folder, request).await,
                            _ => inside(&state, &host),
                        })
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
            Ok(answer(StatusCode::OK, ""))
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

fn note(state: &State, request: &Request<Incoming>) {
    state.asked.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
}

fn acceptor(state: &State, host: &str) -> TlsAcceptor {
    let issuer = if host == "self-signed.test" { &state.other } else { &state.issuer };
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()));
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn inside(state: &State, host: &str) -> Response<Body> {
    match host {
        "liar-400.test" => answer(StatusCode::BAD_REQUEST, LIES),
        "liar-403.test" => answer(StatusCode::FORBIDDEN, LIES),
        "liar-502.test" => answer(StatusCode::BAD_GATEWAY, LIES),
        "to-denied.test" => redirect("https://connect.test/path-canary"),
        "to-liar.test" => redirect("https://liar-403.test/path-canary"),
        "missing.test" => answer(StatusCode::NOT_FOUND, "<html>"),
        "to-files.test" => redirect("https://files.test/shop.tar.gz"),
        "to-http.test" => redirect("http://files.test/shop.tar.gz"),
        "to-login.test" => redirect("https://a:b@files.test/shop.tar.gz"),
        "to-address.test" => redirect("https://10.0.0.1/shop.tar.gz"),
        "to-itself.test" => redirect("/x"),
        "to-nowhere.test" => answer(StatusCode::FOUND, ""),
        "to-git.test" => redirect("https://git.test/shop.git/info/refs?service=git-upload-pack"),
        "words.test" => answer(StatusCode::OK, "0012ERR evil word\n"),
        "version-0.test" => answer(
            StatusCode::OK,
            "001e# service=git-upload-pack\n0000003f0123456789abcdef0123456789abcdef01234567 HEAD\0symref=a\n0000",
        ),
        "cut.test" => pieces(vec![Ok("half"), Err(())]),
        "endless.test" => pieces(vec![Ok("0123456789"); 200_000]),
        "long.test" => Response::new(whole(vec![0; 2_000_000])),
        _ => Response::new(whole(state.content.clone())),
    }
}

/// What `git http-backend` answers (CGI, RFC 3875).
async fn backend(state: &State, folder: &Path, request: Request<Incoming>) -> Response<Body> {
    let header = |name: &str| {
        request.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    };
    if !header("user-agent").starts_with("git/") {
        return answer(StatusCode::NOT_FOUND, "as GitHub does");
    }
    let (kind, protocol, login) = (header("content-type"), header("git-protocol"), header("authorization"));
    state.protocols.lock().unwrap().push(format!("{protocol} {login}").trim_end().to_owned());
    let mut command = Command::new("git");
    command.arg("http-backend").env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("GIT_PROJECT_ROOT", folder).env("GIT_HTTP_EXPORT_ALL", "1").env("HOME", folder);
    command.env("PATH_INFO", request.uri().path()).env("QUERY_STRING", request.uri().query().unwrap_or(""));
    command.env("REQUEST_METHOD", request.method().as_str()).env("CONTENT_TYPE", kind);
    command.env("HTTP_GIT_PROTOCOL", protocol).env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    command.env("CONTENT_LENGTH", body.len().to_string());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Less than a pipe holds.
    child.stdin.take().unwrap().write_all(&body).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    let end = said.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(said[..end].to_vec()).unwrap();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    let mut response = Response::new(whole(said[end + 4..].to_vec()));
    *response.status_mut() = status.map_or(StatusCode::OK, |status| status[..3].parse().unwrap());
    response
}

fn whole(content: Vec<u8>) -> Body {
    Full::new(Bytes::from(content)).map_err(|never| match never {}).boxed_unsync()
}

fn answer(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(whole(body.as_bytes().to_vec()));
    *response.status_mut() = status;
    response
}

fn redirect(to: &'static str) -> Response<Body> {
    let mut response = answer(StatusCode::FOUND, "");
    response.headers_mut().insert("location", to.parse().unwrap());
    response
}

/// A body of unknown length, which may end in a failure.
fn pieces(pieces: Vec<Result<&'static str, ()>>) -> Response<Body> {
    let frames = pieces.into_iter().map(|piece| match piece {
        Ok(piece) => Ok(Frame::data(Bytes::from_static(piece.as_bytes()))),
        Err(()) => Err(std::io::Error::other("cut")),
    });
    Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
}

/// A tar.gz of files.
pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    packed(|builder| {
        for (name, content) in files {
            builder.append_data(&mut header(content.len()), name, content.as_bytes()).unwrap();
        }
    })
}

/// A tar.gz with a link out of the tree.
pub fn escaping() -> Vec<u8> {
    packed(|builder| {
        let mut link = header(0);
        link.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut link, "src/up", "../../outside").unwrap();
    })
}

/// A tar.gz with one file of so many bytes and as many other names for it.
pub fn hard_linked(bytes: usize, names: usize) -> Vec<u8> {
    packed(|builder| {
        builder.append_data(&mut header(bytes), "file", vec![b'x'; bytes].as_slice()).unwrap();
        for name in 0..names {
            let mut link = header(0);
            link.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut link, format!("name-{name}"), "file").unwrap();
        }
    })
}

fn header(bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(bytes as u64);
    header
}

fn packed(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    fill(&mut builder);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&builder.into_inner().unwrap()).unwrap();
    encoder.finish().unwrap()
}

/// Its SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
