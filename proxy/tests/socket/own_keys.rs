//! Keys of the agent's own in a query, spelled as some upstream reads them, through the whole proxy.

use agentsandbox_proxy::entrance::Entrance;

use crate::world::{Setup, World, build, speak};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
/// The good host without one, on its rule and at all.
pub const WITHOUT_CREDENTIAL: [(&str, &str); 2] = [
    ("credential: good, websocket: Allow", "websocket: Allow"),
    ("scopes: [{host: api.good.test, ", "scopes: [{host: other.good.test, "),
];

async fn world(policy: Vec<(&'static str, &'static str)>) -> World {
    let script = Some(ANSWER.to_vec());
    build(Setup { protocols: vec!["http/1.1"], script, policy, ..Setup::default() }).await
}

/// What is answered to a GET with this query.
async fn asked(world: &World, query: &str) -> String {
    let (url, authority) = (world.url("/v1/x"), world.authority());
    let request =
        format!("GET {url}?a=1&{query}=own HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    speak(world, Entrance::HttpProxy, request.as_bytes()).await
}

#[tokio::test]
async fn p_f1_a_key_of_the_agents_own_in_the_query_is_refused_in_each_spelling_that_some_server_reads() {
    let spellings = [
        "access_token",
        "access_token%00",
        "access_token%00x",
        "access.token",
        "access%20token",
        "access+token",
        "access[token",
        "+access_token",
        "%20access_token",
        "[access_token]",
        "%5Baccess_token%5D",
        "]access_token",
        "[[access_token]",
        "access_token[0]",
        "%u0061ccess_token",
        "%uFF41ccess_token",
    ];
    for policy in [vec![], vec![WITHOUT_CREDENTIAL[0]]] {
        let world = world(policy).await;
        for spelling in spellings {
            let told = asked(&world, spelling).await;
            assert!(
                told.starts_with("HTTP/1.1 403") && told.contains("ForeignCredential"),
                "{spelling}: {told}"
            );
        }
        assert_eq!(world.upstream_connections(), 0);
        for other in
            ["token", "access", "access_tokens", "b[access_token]", "xaccess_token", "%2561ccess_token"]
        {
            let told = asked(&world, other).await;
            assert!(told.starts_with("HTTP/1.1 200"), "{other}: {told}");
        }
    }
    let world = world(WITHOUT_CREDENTIAL.to_vec()).await;
    for spelling in spellings {
        let told = asked(&world, spelling).await;
        assert!(told.starts_with("HTTP/1.1 200"), "no credential is for this host: {spelling}: {told}");
    }
}

#[tokio::test]
async fn p_f1_a_parameter_of_the_agents_own_gives_way_to_the_key_in_each_spelling_that_some_server_reads() {
    let query = ("inject: {type: Header, name: x-api-key}", "inject: {type: Query, name: our-key}");
    let world = world(vec![query]).await;
    for (sent, spelling) in
        ["[our-key]", "our.key%00x", "%u006fur_key", "OUR-KEY[]", "+our_key"].into_iter().enumerate()
    {
        let told = asked(&world, spelling).await;
        assert!(told.starts_with("HTTP/1.1 200"), "{spelling}: {told}");
        let received = world.received();
        assert!(!received.contains("=own"), "{spelling}: {received}");
        assert_eq!(received.matches("/v1/x?a=1&our-key=sk-real").count(), sent + 1, "{spelling}: {received}");
    }
    assert!(asked(&world, "b[our-key]").await.starts_with("HTTP/1.1 200"));
    assert!(world.received().contains("/v1/x?a=1&b[our-key]=own&our-key=sk-real"), "{}", world.received());
}

#[tokio::test]
async fn p_g2_an_account_is_not_chosen_in_the_query_in_a_spelling_that_some_server_reads() {
    let pinned = ("- name: good\n", "- name: good\n  pinnedHeaders: [{name: sudo}]\n");
    let world = world(vec![pinned]).await;
    for spelling in ["sudo", "[sudo]", "sudo%00x", "+sudo", "%u0073udo", "sudo[]"] {
        let told = asked(&world, spelling).await;
        assert!(told.starts_with("HTTP/1.1 403") && told.contains("ForeignCredential"), "{spelling}: {told}");
    }
    assert_eq!(world.upstream_connections(), 0);
    assert!(asked(&world, "b[sudo]").await.starts_with("HTTP/1.1 200"));
}
