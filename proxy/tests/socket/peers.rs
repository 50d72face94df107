//! Who is served: nobody before enrolment, then one address.

use std::time::{Duration, Instant};

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::{ADMIN_CONNECTIONS_MAX, HEADER_READ_TIMEOUT};
use agentsandbox_proxy::serve::Port;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::world::{Setup, TOKEN, World, args, build, get, in_pod, over_http1};

const ENTRANCES: [Entrance; 6] = [
    Entrance::HttpProxy,
    Entrance::Socks5,
    Entrance::BaseUrl,
    Entrance::TransparentTls,
    Entrance::TransparentHttp,
    Entrance::Dns,
];

async fn enrol(world: &World, token: &str) -> StatusCode {
    let io = TcpStream::connect(world.at(Entrance::Enrolment)).await.unwrap();
    let request =
        Request::post("/enrol").header("host", "proxy").header("authorization", format!("Bearer {token}"));
    over_http1(io, request.body(Full::default()).unwrap()).await.status
}

/// A turn of the runtime.
const TURN: Duration = Duration::from_millis(10);

/// What comes of this within so many turns of the runtime, in which the proxy has its turns too: however long the machine stands
/// still, it is one turn.
pub async fn in_turns<T>(turns: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    for _ in 0..turns {
        if let Ok(done) = timeout(TURN, future.as_mut()).await {
            return Some(done);
        }
    }
    None
}

/// Reads what a peer gets without saying a word: nothing, and the end; in three seconds, long before silence is the reason.
pub async fn is_closed(mut io: TcpStream) -> bool {
    in_turns(300, io.read_u8()).await.is_some_and(|read| read.is_err())
}

#[tokio::test]
async fn nobody_gets_a_byte_before_enrolment() {
    let world = in_pod().await;
    for entrance in ENTRANCES {
        let io = TcpStream::connect(world.at(entrance)).await.unwrap();
        assert!(is_closed(io).await, "{entrance:?}");
    }
    let lines = world.audit(1).await;
    assert_eq!(lines[0]["reason"], "UnknownPeer");
    assert!(lines.len() < ENTRANCES.len(), "strangers are folded into one line");
}

#[tokio::test]
async fn the_fence_sees_that_the_proxy_answers_and_then_enrols() {
    let world = in_pod().await;
    let io = TcpStream::connect(world.at(Entrance::Enrolment)).await.unwrap();
    assert_eq!(over_http1(io, get("/enrol", "proxy")).await.status, StatusCode::OK);
    assert_eq!(enrol(&world, "wrong").await, StatusCode::UNAUTHORIZED);
    assert!(is_closed(TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap()).await);
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT);
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let answer = over_http1(io, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
    let kept = std::fs::read_to_string(world.folder.path().join("state/enrolled")).unwrap();
    assert_eq!(kept, "127.0.0.1");
}

#[tokio::test]
async fn readiness_waits_for_the_agent_unless_that_is_left_out() {
    let world = in_pod().await;
    // What the machine that runs the test has for a resolver is not asked.
    let ask = async |query: &str| {
        let io = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
        over_http1(io, get(&format!("/readyz?exclude=resolver{query}"), "proxy")).await
    };
    let waiting = ask("").await;
    assert_eq!(waiting.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(waiting.body.contains("\n{\"item\":\"enrolment\","), "{}", waiting.body);
    assert_eq!(ask("&exclude=enrolment").await.status, StatusCode::OK);
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT);
    let ready = ask("").await;
    assert_eq!((ready.status, ready.body.as_str()), (StatusCode::OK, "{\"ready\":true,\"pending\":[]}\n"));
}

#[tokio::test]
async fn p_f23_another_address_gets_nothing_after_enrolment() {
    let world = in_pod().await;
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    assert!(is_closed(socket.connect(world.at(Entrance::HttpProxy)).await.unwrap()).await);
}

#[tokio::test]
async fn a_new_enrolment_ends_the_connections_of_the_old_agent() {
    let world = in_pod().await;
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT);
    let old = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let io = socket.connect(world.at(Entrance::Enrolment)).await.unwrap();
    let request =
        Request::post("/enrol").header("host", "proxy").header("authorization", format!("Bearer {TOKEN}"));
    let answer = over_http1(io, request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(is_closed(old).await);
}

#[tokio::test]
async fn p_d11_agents_and_enrolments_have_places_of_their_own() {
    for _ in 0..10 {
        let begin = Instant::now();
        let shown = places().await;
        // Later the first of them are closed for their silence, and then nothing is shown.
        if begin.elapsed() < HEADER_READ_TIMEOUT {
            assert_eq!(shown, Ok(()));
            return;
        }
    }
    panic!("the machine is too slow to fill all places in {HEADER_READ_TIMEOUT:?}");
}

/// Fills all places; what is not as it should be.
async fn places() -> Result<(), &'static str> {
    const ENROLMENTS: usize = 16;
    let setup = Setup {
        protocols: vec!["http/1.1"],
        token: Some(TOKEN),
        connections_max: Some(1),
        ..Setup::default()
    };
    let world = build(setup).await;
    let busy = |entrance| {
        let address = world.at(entrance);
        async move {
            let mut io = TcpStream::connect(address).await.unwrap();
            io.write_all(b"G").await.unwrap();
            io
        }
    };
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT);
    let agent = busy(Entrance::HttpProxy).await;
    if !is_closed(busy(Entrance::BaseUrl).await).await {
        return Err("the agent has more than one place");
    }
    let mut fences = Vec::new();
    for _ in 0..ENROLMENTS {
        if enrol(&world, TOKEN).await != StatusCode::NO_CONTENT {
            return Err("the agent takes the places of enrolments");
        }
        fences.push(busy(Entrance::Enrolment).await);
        // A place is taken when the connection is accepted.
        if fences.len() < ENROLMENTS && enrol(&world, "wrong").await != StatusCode::UNAUTHORIZED {
            return Err("enrolments have fewer than 16 places");
        }
    }
    if !is_closed(busy(Entrance::Enrolment).await).await {
        return Err("enrolments have more than 16 places");
    }
    drop(agent);
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let answer = over_http1(io, get(&world.url("/v1/x"), &world.authority())).await;
    if answer.status == StatusCode::OK { Ok(()) } else { Err("enrolments take the place of the agent") }
}

#[tokio::test]
async fn p_i4_connections_to_the_admin_port_are_bounded_and_take_no_place_of_an_agents() {
    for _ in 0..10 {
        let begin = Instant::now();
        let world = build(Setup { protocols: vec!["http/1.1"], ..Setup::default() }).await;
        let admin = || async { TcpStream::connect(world.port(Port::Admin)).await.unwrap() };
        let mut held = Vec::new();
        for _ in 1..ADMIN_CONNECTIONS_MAX {
            held.push(admin().await);
        }
        let (last, more) = (admin().await, admin().await);
        let is_refused = is_closed(more).await;
        let metrics = over_http1(last, get("/metrics", "proxy")).await;
        let is_served = metrics.status == StatusCode::OK;
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        let agent = over_http1(io, get(&world.url("/v1/x"), &world.authority())).await.status;
        // Later the first of them are closed for their silence, and then nothing is shown.
        if begin.elapsed() < HEADER_READ_TIMEOUT {
            assert_eq!((is_refused, is_served, agent), (true, true, StatusCode::OK));
            for (name, count) in [("admin_connections_refused", 1), ("connections_refused", 0)] {
                let line = format!("\nagentsandbox_proxy_{name}_total {count}\n");
                assert!(metrics.body.contains(&line), "{line}");
            }
            return;
        }
    }
    panic!("the machine is too slow to fill all places in {HEADER_READ_TIMEOUT:?}");
}

#[test]
fn p_c13_without_a_first_policy_there_is_nothing_that_could_listen() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["secrets", "state"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let parse = || agentsandbox_proxy::config::Config::parse(&args(folder.path().to_owned(), None));
    let refused = || match parse() {
        Err(agentsandbox_proxy::config::StartError::Faults(faults)) => {
            faults.len() == 1 && faults[0].contains("--policy")
        }
        _ => false,
    };
    assert!(refused(), "there is no document");
    std::fs::write(folder.path().join("policy.yaml"), "rules: [").unwrap();
    assert!(refused(), "there is half a document");
    let document = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1, rules: []}";
    std::fs::write(folder.path().join("policy.yaml"), document).unwrap();
    assert!(parse().is_ok());
}
