//! What was denied, in numbers, for whoever may reach the admin port.

use agentsandbox_policy::Tally;
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::Port;
use http::StatusCode;
use tokio::net::TcpStream;

use crate::world::{World, get, over_http1, standalone};

async fn tally(world: &World) -> Tally {
    let admin = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
    serde_json::from_str(&over_http1(admin, get("/denials", "proxy")).await.body).unwrap()
}

#[tokio::test]
async fn denials_are_counted_by_host_port_and_reason_and_what_is_allowed_is_not() {
    let world = standalone(&["h2"]).await;
    let nothing = Tally { sandbox: "u1".to_owned(), unusable: Some(Vec::new()), ..Tally::default() };
    assert_eq!(tally(&world).await, nothing, "it says whose proxy it is");
    let ask = async |url: &str, host: &str| {
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        over_http1(io, get(url, host)).await.status
    };
    assert_eq!(ask(&world.url("/v1/x"), &world.authority()).await, StatusCode::OK);
    assert_eq!(tally(&world).await, nothing);
    for _ in 0..3 {
        assert_eq!(ask("http://evil.test/x", "evil.test").await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&world.url("/admin"), &world.authority()).await, StatusCode::FORBIDDEN);
    assert_eq!(
        ask("http://fence.agentsandbox.invalid/", "fence.agentsandbox.invalid").await,
        StatusCode::FORBIDDEN
    );
    let told = tally(&world).await;
    let kinds: Vec<_> =
        told.latest.iter().map(|kind| (kind.host.as_deref(), kind.reason.as_str(), kind.count)).collect();
    assert_eq!(told.denied, 4);
    assert_eq!(kinds[1], (Some("evil.test"), "HostNotAllowed", 3), "{kinds:?}");
    assert_eq!((kinds[0].1, kinds[0].2), ("PathNotAllowed", 1), "{kinds:?}");
}
