//! Traces, at a collector that notes what it is sent and answers as a test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::Port;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::entrances::{denied, to};
use crate::upstream;
use crate::world::{HOST, KEY, World, get, over_http1, standalone};

/// What one POST brought.
struct Post {
    target: String,
    fields: HeaderMap,
    body: Vec<u8>,
}

/// A collector on loopback.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    /// What the next posts are answered with, the last first; 200 beyond them.
    statuses: Arc<Mutex<Vec<StatusCode>>>,
    /// Clients that went away in a TLS handshake.
    refused: Arc<AtomicUsize>,
}

/// Whom its certificate names.
const CERTIFIED: &str = "pass.good.test";

impl Collector {
    /// One that answers; over TLS as [`CERTIFIED`], with the root that vouches for it.
    async fn start(statuses: &[StatusCode], tls: bool) -> (Self, String) {
        let (listener, address) = upstream::listen().await;
        let statuses = Arc::new(Mutex::new(statuses.iter().rev().copied().collect()));
        let collector = Self { address, posts: Arc::default(), statuses, refused: Arc::default() };
        let (acceptor, root) = upstream::identity(&["http/1.1"], CERTIFIED, None);
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (own, acceptor, refused) =
                    (serving.clone(), acceptor.clone(), Arc::clone(&serving.refused));
                tokio::spawn(async move {
                    let service = service_fn(move |request| own.clone().answer(request));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        false => drop(http.serve_connection(TokioIo::new(io), service).await),
                        true => match acceptor.accept(io).await {
                            Ok(io) => drop(http.serve_connection(TokioIo::new(io), service).await),
                            Err(_) => {
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                        },
                    }
                });
            }
        });
        (collector, root)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        assert_eq!(head.method, Method::POST);
        let body = body.collect().await?.to_bytes().to_vec();
        self.posts.lock().unwrap().push(Post { target: head.uri.to_string(), fields: head.headers, body });
        let status = self.statuses.lock().unwrap().pop().unwrap_or(StatusCode::OK);
        let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
        *response.status_mut() = status;
        Ok(response)
    }

    /// All that it was sent, as text.
    fn text(&self) -> String {
        let posts = self.posts.lock().unwrap();
        posts.iter().map(|post| String::from_utf8(post.body.clone()).unwrap()).collect()
    }

    async fn refuses_a_handshake(&self) {
        for _ in 0..1000 {
            if self.refused.load(Ordering::SeqCst) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody went away in a handshake")
    }

    /// The first span that fits, with its resource, once it is there.
    async fn span(&self, wanted: impl Fn(&Value) -> bool) -> (Value, Value) {
        for _ in 0..1000 {
            let found = self.posts.lock().unwrap().iter().find_map(|post| {
                let all: Value = serde_json::from_slice(&post.body).unwrap();
                let of = &all["resourceSpans"][0];
                let spans = of["scopeSpans"][0]["spans"].as_array().unwrap();
                Some((of["resource"].clone(), spans.iter().find(|span| wanted(span))?.clone()))
            });
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no such span: {}", self.text())
    }
}

fn attribute(of: &Value, name: &str) -> Value {
    let all = of["attributes"].as_array().unwrap();
    all.iter().find(|each| each["key"] == name).map_or(Value::Null, |each| each["value"].clone())
}

fn text(text: &str) -> Value {
    json!({"stringValue": text})
}

/// From now on this world's traces go there.
async fn traced(world: &World, endpoint: &str) {
    world.edit(|policy| format!("{policy}tracing: {{endpoint: '{endpoint}'}}\n")).await;
}

async fn ask(world: &World, request: Request<Full<Bytes>>) -> crate::world::Answer {
    over_http1(to(world, Entrance::HttpProxy).await, request).await
}

/// The value of a metric.
async fn metric(world: &World, name: &str) -> u64 {
    let io = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
    let all = over_http1(io, get("/metrics", "proxy")).await.body;
    let value = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} is not among {all}"))
}

async fn becomes(world: &World, name: &str, least: u64) {
    for _ in 0..1000 {
        if metric(world, name).await >= least {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} stays at {}", metric(world, name).await)
}

const UNREACHABLE: &str = "agentsandbox_proxy_spans_dropped_total{reason=\"unreachable\"}";
const REFUSED: &str = "agentsandbox_proxy_spans_dropped_total{reason=\"refused\"}";
const SENT: &str = "agentsandbox_proxy_spans_sent_total";

#[tokio::test]
async fn a_collector_is_told_of_what_was_allowed_and_of_what_was_denied() {
    let world = standalone(&["http/1.1"]).await;
    let (collector, _) = Collector::start(&[], false).await;
    traced(&world, &format!("http://{}", collector.address)).await;
    let answer = ask(&world, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = ask(&world, get("http://evil.test/", "evil.test")).await;
    denied(&answer, StatusCode::FORBIDDEN, "HostNotAllowed");
    let (resource, span) = collector.span(|span| attribute(span, "server.address") == text(HOST)).await;
    assert_eq!(attribute(&resource, "k8s.namespace.name"), text("team"));
    assert_eq!(attribute(&resource, "agentsandbox.sandbox.name"), text("fix-login"));
    let line = world.line(&[("event", "end")]).await;
    for (name, value) in [
        ("agentsandbox.decision", text("allow")),
        ("agentsandbox.rule", text("good")),
        ("agentsandbox.request_id", text(line["requestId"].as_str().unwrap())),
        ("http.request.method", text("GET")),
        ("http.response.status_code", json!({"intValue": "200"})),
        ("network.peer.address", text("127.0.0.1")),
        ("http.response.body.size", json!({"intValue": line["bytesDown"].to_string()})),
    ] {
        assert_eq!(attribute(&span, name), value, "{name}");
    }
    let (_, span) = collector.span(|span| attribute(span, "server.address") == text("evil.test")).await;
    assert_eq!(attribute(&span, "agentsandbox.decision"), text("deny"));
    assert_eq!(span["status"], json!({"code": 2, "message": "HostNotAllowed"}));
    let posts = collector.posts.lock().unwrap();
    for post in posts.iter() {
        assert_eq!(
            (post.target.as_str(), &post.fields["content-type"]),
            ("/v1/traces", &"application/json".parse().unwrap())
        );
        assert_eq!(post.fields["host"].to_str().unwrap(), collector.address.to_string());
    }
}

#[tokio::test]
async fn a_collector_over_tls_has_to_prove_its_name() {
    // Both names lead to it.
    let cases = [(false, CERTIFIED, false), (true, "proxy.test", false), (true, CERTIFIED, true)];
    for (is_root_known, name, is_told) in cases {
        let world = standalone(&["http/1.1"]).await;
        let (collector, root) = Collector::start(&[], true).await;
        let root = format!("    {}\n", root.trim_end().replace('\n', "\n    "));
        let root = if is_root_known { root.as_str() } else { "" };
        let endpoint = format!("https://{name}:{}", collector.address.port());
        world.edit(|policy| format!("{policy}{root}tracing: {{endpoint: '{endpoint}'}}\n")).await;
        if is_told {
            collector.span(|_| true).await;
            assert_eq!(collector.refused.load(Ordering::SeqCst), 0);
        } else {
            collector.refuses_a_handshake().await;
            assert_eq!(collector.text(), "", "{name}");
        }
    }
}

#[tokio::test]
async fn p_f10_no_secret_query_body_field_or_path_is_in_a_trace() {
    let world = standalone(&["http/1.1"]).await;
    let (collector, _) = Collector::start(&[], false).await;
    traced(&world, &format!("http://{}", collector.address)).await;
    let mut request = Request::post(world.url("/v1/in-the-path?q=in-the-query"))
        .header("host", world.authority())
        .header("x-note", "in-a-field")
        .header("tracestate", "a=in-the-state")
        .header("authorization", "Bearer in-the-agents-own");
    request = request.header("baggage", "a=in-the-baggage");
    let answer = ask(&world, request.body(Full::from("in-the-body")).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    // What is looked for was really sent.
    assert!(
        answer.body.contains("/v1/in-the-path?q=in-the-query") && answer.body.contains("in-a-field"),
        "{}",
        answer.body
    );
    collector.span(|span| attribute(span, "server.address") == text(HOST)).await;
    let told = collector.text();
    // And what is told is found.
    for told_of in [HOST, "good", "POST", "127.0.0.1"] {
        assert!(told.contains(told_of), "{told_of}");
    }
    for secret in [KEY, "in-the-", "in-a-field", "x-note", "x-api-key"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[tokio::test]
async fn what_an_agent_says_of_traces_changes_none_and_goes_on_to_the_upstream() {
    let world = standalone(&["http/1.1"]).await;
    let (collector, _) = Collector::start(&[], false).await;
    traced(&world, &format!("http://{}", collector.address)).await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = Request::get(world.url("/v1/x"))
        .header("host", world.authority())
        .header("traceparent", format!("00-{trace}-{parent}-00"));
    let answer = ask(&world, request.body(Full::default()).unwrap()).await;
    assert!(answer.body.contains(trace), "{}", answer.body);
    // It is not sampled, says the agent; it is told all the same.
    let (_, span) = collector.span(|span| attribute(span, "server.address") == text(HOST)).await;
    assert_eq!(span.get("parentSpanId"), None);
    let told = collector.text();
    assert!(!told.contains(trace) && !told.contains(parent), "{told}");
}

#[tokio::test]
async fn p_c7_an_agent_reaches_no_collector_and_says_nothing_to_it() {
    // Both names lead to it, and a rule allows each of them.
    let both = ["proxy.test", CERTIFIED];
    let cases = [(None, &[][..]), (Some("proxy.test"), &both[..1]), (Some("127.0.0.1"), &both[..])];
    for (endpoint, refused) in cases {
        let world = standalone(&["http/1.1"]).await;
        let (collector, _) = Collector::start(&[], false).await;
        let port = collector.address.port();
        let rule = |host: &&str| {
            format!("- {{name: to.{host}, host: {host}, ports: [{port}], scheme: http, methods: [POST]}}\n")
        };
        let rules = both.iter().map(rule).collect::<String>();
        let tracing = endpoint.map(|host| format!("tracing: {{endpoint: 'http://{host}:{port}'}}\n"));
        let text = |policy: &str| policy.replacen("rules:\n", &format!("rules:\n{rules}"), 1);
        world.edit(|policy| text(policy) + tracing.as_deref().unwrap_or_default()).await;
        for host in both {
            let authority = format!("{host}:{port}");
            let forged = Request::post(format!("http://{authority}/v1/traces")).header("host", &authority);
            let answer = ask(&world, forged.body(Full::from(format!("forged for {host}"))).unwrap()).await;
            if refused.contains(&host) {
                denied(&answer, StatusCode::FORBIDDEN, "ForbiddenAddress");
            } else {
                assert_eq!(answer.status, StatusCode::OK, "{host} of {endpoint:?}");
            }
            let is_told = collector.text().contains(&format!("forged for {host}"));
            assert_eq!(is_told, !refused.contains(&host), "{host} of {endpoint:?}");
        }
        if let Some(endpoint) = endpoint {
            assert!(world.connect(&format!("{endpoint}:{port}")).await.is_err());
        }
    }
}

#[tokio::test]
async fn no_request_waits_for_a_collector_that_never_answers() {
    let world = standalone(&["http/1.1"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    traced(&world, &format!("http://{}", silent.local_addr().unwrap())).await;
    let (held, _) = silent.accept().await.unwrap();
    held.readable().await.unwrap();
    for _ in 0..5 {
        let answer = ask(&world, get(&world.url("/v1/x"), &world.authority())).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    // Nothing has come of any span so far, neither good nor bad: that takes a minute.
    assert_eq!((metric(&world, SENT).await, metric(&world, UNREACHABLE).await), (0, 0));
    drop(held);
}

#[tokio::test]
async fn a_batch_is_sent_again_to_a_collector_that_is_busy_and_not_to_one_that_refuses_it() {
    let world = standalone(&["http/1.1"]).await;
    let (collector, _) =
        Collector::start(&[StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST], false).await;
    traced(&world, &format!("http://{}", collector.address)).await;
    // That it is named is seen by a denial, which has a span.
    becomes(&world, REFUSED, 1).await;
    let posts: Vec<_> = collector.posts.lock().unwrap().iter().map(|post| post.body.clone()).collect();
    assert_eq!(posts.len(), 2, "busy, and then refused");
    assert_eq!(posts[0], posts[1], "the same spans with the same ids");
    assert_eq!((metric(&world, SENT).await, metric(&world, UNREACHABLE).await), (0, 0));
    ask(&world, get(&world.url("/v1/x"), &world.authority())).await;
    becomes(&world, SENT, 1).await;
}

#[tokio::test]
async fn the_last_spans_are_sent_when_the_proxy_ends() {
    let mut world = standalone(&["http/1.1"]).await;
    let (collector, _) = Collector::start(&[], false).await;
    traced(&world, &format!("http://{}", collector.address)).await;
    ask(&world, get(&world.url("/v1/last"), &world.authority())).await;
    world.line(&[("event", "end")]).await;
    world.end().await;
    assert!(collector.text().contains(HOST));
}
