//! What a rule says of answers, through real connections.

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;

use crate::world::{Setup, World, build, speak};

const RULE: (&str, &str) =
    ("websocket: Allow}", "answer: {maxBytes: 1000, contentTypes: [application/json, text/*]}}");

/// All that an agent gets where the upstream answers with this, and the last line that is written of it.
async fn answered(answer: String) -> (String, serde_json::Value) {
    let setup = Setup {
        protocols: vec!["http/1.1"],
        script: Some(answer.into_bytes()),
        policy: vec![RULE],
        ..Setup::default()
    };
    let world: World = build(setup).await;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    let told = speak(&world, Entrance::HttpProxy, head.as_bytes()).await;
    (told, world.line(&[("event", "end")]).await)
}

fn with(fields: &str, bytes: usize) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}content-length: {bytes}\r\n\r\n{}", "x".repeat(bytes))
}

#[tokio::test]
async fn p_g5_an_answer_of_another_type_is_refused_and_one_without_a_body_has_none() {
    for fields in ["content-type: text/plain; charset=utf-8\r\n", "content-type: Application/JSON\r\n"] {
        let (told, end) = answered(with(fields, 10)).await;
        assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("xxxxxxxxxx"), "{fields}: {told}");
        assert_eq!((&end["decision"], &end["reason"]), (&"allow".into(), &serde_json::Value::Null), "{end}");
    }
    let named = "connection: content-type, x-own\r\nx-own: 1\r\ncontent-type: text/plain\r\n";
    let (told, _) = answered(with(named, 10)).await;
    assert!(told.contains("content-type: text/plain\r\n") && !told.contains("x-own"), "{told}");
    let (told, _) = answered("HTTP/1.1 204 No Content\r\n\r\n".to_owned()).await;
    assert!(told.starts_with("HTTP/1.1 204"), "{told}");
    for fields in [
        "content-type: text\r\n",
        "content-type: image/png\r\n",
        "content-type: application/jsonp\r\n",
        "content-type: text/plain\r\ncontent-type: image/png\r\n",
        "",
    ] {
        let (told, end) = answered(with(fields, 10)).await;
        assert!(
            told.starts_with("HTTP/1.1 502") && told.contains("\"AnswerNotAllowed\""),
            "{fields}: {told}"
        );
        assert!(!told.contains("xxxxxxxxxx"), "{told}");
        assert_eq!(
            (&end["reason"], &end["status"]),
            (&"AnswerNotAllowed".into(), &StatusCode::BAD_GATEWAY.as_u16().into())
        );
    }
}

#[tokio::test]
async fn p_g5_an_answer_that_is_too_long_is_refused_or_cut_and_the_trail_says_so() {
    let text = "content-type: text/plain\r\n";
    let (told, end) = answered(with(text, 1000)).await;
    assert!(told.ends_with(&"x".repeat(1000)), "{told}");
    assert_eq!((&end["reason"], &end["bytesDown"]), (&serde_json::Value::Null, &1000.into()));
    let (told, end) = answered(with(text, 1001)).await;
    assert!(told.starts_with("HTTP/1.1 502") && told.contains("\"AnswerTooLarge\""), "{told}");
    assert_eq!((&end["reason"], &end["status"]), (&"AnswerTooLarge".into(), &502.into()));
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let chunked = |chunks: usize| {
        format!(
            "HTTP/1.1 200 OK\r\n{text}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(chunks)
        )
    };
    let (told, end) = answered(chunked(2)).await;
    let body = told.split_once("\r\n\r\n").unwrap().1;
    assert_eq!((body.matches('x').count(), &end["reason"]), (1000, &serde_json::Value::Null), "{told}");
    let (told, end) = answered(chunked(3)).await;
    assert!(told.starts_with("HTTP/1.1 200") && !told.ends_with("0\r\n\r\n"), "it has no end: {told}");
    assert_eq!(&end["reason"], "AnswerTooLarge");
    assert!(end["bytesDown"].as_u64().unwrap() <= 1000, "{end}");
}
