//! Who is served: nobody before enrolment, then one address.

use agentsandbox_proxy::entrance::Entrance;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

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

/// Reads what a peer gets without saying a word: nothing, and the end.
async fn is_closed(mut io: TcpStream) -> bool {
    let read = tokio::time::timeout(std::time::Duration::from_secs(3), io.read_u8()).await;
    read.is_ok_and(|read| read.is_err())
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
    assert!(is_closed(busy(Entrance::BaseUrl).await).await, "the agent has one place");
    let mut fences = Vec::new();
    for _ in 0..ENROLMENTS {
        assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT, "whatever the agent does");
        fences.push(busy(Entrance::Enrolment).await);
        // A place is taken when the connection is accepted.
        if fences.len() < ENROLMENTS {
            assert_eq!(enrol(&world, "wrong").await, StatusCode::UNAUTHORIZED);
        }
    }
    assert!(is_closed(busy(Entrance::Enrolment).await).await, "enrolments have {ENROLMENTS}");
    drop(agent);
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let answer = over_http1(io, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK, "whatever the fences do");
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
