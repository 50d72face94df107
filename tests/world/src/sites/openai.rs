//! The stand-in for the OpenAI API: one answer, by the Responses API or by chat completions.
//!
//! Without a key every request is answered 401, and so is one with another key. `POST /v1/responses` gives the answer whole, or as
//! server-sent events where a stream was asked; its WebSocket is refused with 426, as by a server that has none, and clients fall back.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Body, full, json_response, read_body};
use crate::world::World;

/// The name of the key in the control API.
const KEY: &str = "openai";
/// What is said.
const TEXT: &str = "hello from the world";

pub(super) async fn answer(world: &World, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.headers.contains_key(header::UPGRADE) {
        return error(StatusCode::UPGRADE_REQUIRED, "there is no WebSocket here");
    }
    let body = read_body(body).await.unwrap_or_default();
    if !authorised(world, &head.headers) {
        return error(StatusCode::UNAUTHORIZED, "no key is right here");
    }
    let asked = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    match (head.method, head.uri.path()) {
        (Method::POST, "/v1/responses") if asked["stream"] == true => {
            let mut response = Response::new(full(events()));
            let stream = header::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, stream);
            response
        }
        (Method::POST, "/v1/responses") => json_response(StatusCode::OK, &whole("completed")),
        (Method::POST, "/v1/chat/completions") => json_response(
            StatusCode::OK,
            &json!({
                "id": "chatcmpl-world", "object": "chat.completion", "created": 1, "model": asked["model"],
                "choices": [{
                    "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT},
                }],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }),
        ),
        _ => error(StatusCode::NOT_FOUND, "not found"),
    }
}

fn item() -> Value {
    json!({
        "type": "message", "id": "msg_world", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
    })
}

fn whole(status: &str) -> Value {
    let output = if status == "completed" { json!([item()]) } else { json!([]) };
    json!({
        "id": "resp_world", "object": "response", "created_at": 1, "status": status, "model": "world", "output": output,
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2,
        },
    })
}

fn events() -> Bytes {
    let events = [
        json!({"type": "response.created", "sequence_number": 0, "response": whole("in_progress")}),
        json!({"type": "response.output_item.done", "sequence_number": 1, "output_index": 0, "item": item()}),
        json!({"type": "response.completed", "sequence_number": 2, "response": whole("completed")}),
    ];
    let lines = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("")));
    Bytes::from(lines.collect::<String>())
}

fn authorised(world: &World, headers: &HeaderMap) -> bool {
    let Some(key) = world.key(KEY) else { return false };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|given| given == key)
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    json_response(status, &json!({"error": {"message": message, "type": "invalid_request_error"}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_ends_with_the_whole_answer() {
        let events = events();
        let text = std::str::from_utf8(&events).unwrap();
        let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], TEXT);
    }
}
