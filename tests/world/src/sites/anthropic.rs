//! The stand-in for the Anthropic API: as much of it as a coding agent needs for one answer.
//!
//! `POST /v1/messages` answers 401 in the API's own form unless the right key came as `x-api-key` or Bearer, and
//! otherwise streams an answer by server-sent events, or gives it whole where no stream was asked. The prompt steers the
//! answer: `[[say:TEXT]]` sets its text; `[[gate:NAME]]` holds it after the first words until the test opens the gate; `[[use:TOOL
//! {"input": …}]]` has the agent use a tool of its own first, one after the other where there are several. Everything else is 404.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{BODY_BYTES_MAX, Body, json_response, read_body, streaming};
use crate::world::World;

/// The name of the key in the control API.
const KEY: &str = "anthropic";
/// Opens the marker that sets the answer's text.
pub const SAY_MARKER: &str = "[[say:";
/// Opens the marker that names a gate.
pub const GATE_MARKER: &str = "[[gate:";
/// Opens the marker that names a tool and, after a space, its input.
pub const USE_MARKER: &str = "[[use:";
/// What is said where the prompt asks for nothing.
const DEFAULT_TEXT: &str = "hello from the world";
/// The longest text or name a marker may hold.
const MARKER_BYTES_MAX: usize = 4096;

pub(super) async fn answer(world: &World, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(body) = read_body(body).await.and_then(|body| decoded(&head.headers, body)) else {
        return error(StatusCode::BAD_REQUEST, "invalid_request_error", "the body cannot be read");
    };
    match (head.method, head.uri.path()) {
        (Method::POST, "/v1/messages") if !authorised(world, &head.headers) => {
            error(StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key")
        }
        (Method::POST, "/v1/messages") => message(world, &body),
        (Method::POST, "/v1/messages/count_tokens") => {
            json_response(StatusCode::OK, &json!({"input_tokens": 10}))
        }
        _ => error(StatusCode::NOT_FOUND, "not_found_error", "Not found"),
    }
}

fn message(world: &World, body: &[u8]) -> Response<Body> {
    let Ok(asked) = serde_json::from_slice::<Value>(body) else {
        return error(StatusCode::BAD_REQUEST, "invalid_request_error", "the body is not JSON");
    };
    let script = Script::from_prompt(&asked);
    if asked["stream"] != Value::Bool(true) {
        return json_response(StatusCode::OK, &script.whole());
    }
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(play(script, world.clone(), sender));
    let mut response = Response::new(streaming(receiver));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

async fn play(script: Script, world: World, sender: mpsc::Sender<Bytes>) {
    let (first, last) = script.events();
    if sender.send(first).await.is_err() {
        return;
    }
    if let Some(gate) = &script.gate {
        // A gate that never opened cuts the stream: the test then sees an answer without its end.
        if !world.gates().pass(gate).await {
            return;
        }
    }
    // A client that went away does not want the rest.
    let _ = sender.send(last).await;
}

/// What will be said or done, as the prompt asked for it.
#[derive(Debug, PartialEq)]
struct Script {
    model: String,
    text: String,
    gate: Option<String>,
    call: Option<Call>,
}

/// A tool of the agent's that it is to use next.
#[derive(Debug, PartialEq)]
struct Call {
    id: String,
    tool: String,
    input: Value,
}

impl Script {
    fn from_prompt(asked: &Value) -> Self {
        let none = Vec::new();
        let messages = asked["messages"].as_array().unwrap_or(&none);
        // Only what the user said last counts: an agent's own system prompt may quote anything. What tools gave is none of it.
        let said = |m: &Value| m["role"] == "user" && results(m) == 0;
        let last = messages.iter().rposition(said);
        let prompt = last.map(|at| texts(&messages[at]["content"])).unwrap_or_default();
        let done: usize = messages.iter().skip(last.unwrap_or_default()).map(results).sum();
        let has =
            |name: &str| asked["tools"].as_array().is_some_and(|all| all.iter().any(|t| t["name"] == name));
        Self {
            model: asked["model"].as_str().unwrap_or("claude").to_owned(),
            text: marked(&prompt, SAY_MARKER).unwrap_or_else(|| DEFAULT_TEXT.to_owned()),
            gate: marked(&prompt, GATE_MARKER),
            // An agent also asks for a title, without any tools.
            call: calls(&prompt).nth(done).filter(|call| has(&call.tool)),
        }
    }

    fn whole(&self) -> Value {
        let mut message = self.start();
        message["content"] = match &self.call {
            Some(call) => {
                json!([{"type": "tool_use", "id": call.id, "name": call.tool, "input": call.input}])
            }
            None => json!([{"type": "text", "text": self.text}]),
        };
        message["stop_reason"] = json!(self.stop_reason());
        message
    }

    fn stop_reason(&self) -> &'static str {
        if self.call.is_some() { "tool_use" } else { "end_turn" }
    }

    fn start(&self) -> Value {
        json!({
            "id": "msg_world", "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1},
        })
    }

    /// What is sent at once, and what is sent when the gate is open. The text is split so that the first part shows.
    fn events(&self) -> (Bytes, Bytes) {
        let (block, head, tail) = self.block();
        let first = [
            json!({"type": "message_start", "message": self.start()}),
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
            head,
        ];
        let last = [
            tail,
            json!({"type": "content_block_stop", "index": 0}),
            json!({
                "type": "message_delta", "delta": {"stop_reason": self.stop_reason(), "stop_sequence": null},
                "usage": {"output_tokens": 5},
            }),
            json!({"type": "message_stop"}),
        ];
        (events(&first), events(&last))
    }

    /// The beginning of the only block, and its content in two pieces.
    fn block(&self) -> (Value, Value, Value) {
        let delta = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
        let Some(call) = &self.call else {
            let (head, tail) = split(&self.text);
            let text = |text: &str| delta(json!({"type": "text_delta", "text": text}));
            return (json!({"type": "text", "text": ""}), text(head), text(tail));
        };
        let input = call.input.to_string();
        let (head, tail) = split(&input);
        let json = |part: &str| delta(json!({"type": "input_json_delta", "partial_json": part}));
        (json!({"type": "tool_use", "id": call.id, "name": call.tool, "input": {}}), json(head), json(tail))
    }
}

/// The first character, and the rest.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.char_indices().nth(1).map_or(text.len(), |(at, _)| at))
}

/// How many results of tools a message brings.
fn results(message: &Value) -> usize {
    message["content"].as_array().map_or(0, |all| all.iter().filter(|b| b["type"] == "tool_result").count())
}

/// The tools that the prompt asks for, in order.
fn calls(prompt: &str) -> impl Iterator<Item = Call> {
    prompt.split(USE_MARKER).skip(1).enumerate().filter_map(|(at, rest)| {
        let (tool, input) = rest.split_once("]]")?.0.split_once(' ')?;
        let input = serde_json::from_str(input).ok()?;
        Some(Call { id: format!("toolu_world_{at}"), tool: tool.to_owned(), input })
    })
}

fn events(events: &[Value]) -> Bytes {
    let lines = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("")));
    Bytes::from(lines.collect::<String>())
}

/// The text of a content that is a string or a list of blocks.
fn texts(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// What stands between the last such marker and its closing brackets: an agent may put text of its own before the prompt.
fn marked(prompt: &str, marker: &str) -> Option<String> {
    let (_, rest) = prompt.rsplit_once(marker)?;
    let (text, _) = rest.split_once("]]")?;
    (!text.is_empty() && text.len() <= MARKER_BYTES_MAX).then(|| text.to_owned())
}

fn authorised(world: &World, headers: &HeaderMap) -> bool {
    let Some(key) = world.key(KEY) else { return false };
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = value("authorization").and_then(|value| value.strip_prefix("Bearer "));
    [value("x-api-key"), bearer].into_iter().flatten().any(|given| given == key)
}

/// The body as it was before the client compressed it; none if it is not what its header says, or grows too large.
fn decoded(headers: &HeaderMap, body: Bytes) -> Option<Bytes> {
    if headers.get(header::CONTENT_ENCODING).is_none_or(|encoding| encoding != "gzip") {
        return Some(body);
    }
    let mut plain = Vec::new();
    GzDecoder::new(&body[..]).take(BODY_BYTES_MAX as u64).read_to_end(&mut plain).ok()?;
    Some(Bytes::from(plain))
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    json_response(status, &json!({"type": "error", "error": {"type": kind, "message": message}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn asked(content: &Value) -> Value {
        json!({"model": "m", "system": "[[say:system]]", "messages": [{"role": "user", "content": content}]})
    }

    #[test]
    fn the_prompt_sets_text_and_gate() {
        let script = Script::from_prompt(&asked(&json!("please [[say:forty two]] [[gate:last]]")));
        let gate = Some("last".into());
        assert_eq!(script, Script { model: "m".into(), text: "forty two".into(), gate, call: None });
    }

    #[test]
    fn markers_are_found_in_blocks_and_not_in_the_system_prompt() {
        let script =
            Script::from_prompt(&asked(&json!([{"type": "text", "text": "[[say:a]]"}, {"type": "image"}])));
        assert_eq!(script.text, "a");
        assert_eq!(Script::from_prompt(&asked(&json!("hi"))).text, DEFAULT_TEXT);
    }

    #[test]
    fn the_two_halves_of_the_stream_make_the_text_and_every_event_once() {
        let script = Script { model: "m".into(), text: "größe".into(), gate: None, call: None };
        let (first, last) = script.events();
        let stream = format!("{}{}", String::from_utf8_lossy(&first), String::from_utf8_lossy(&last));
        let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> = data.map(|line| serde_json::from_str(line).unwrap()).collect();
        let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
        assert_eq!(text, "größe");
        assert_eq!(events.first().unwrap()["type"], "message_start");
        assert_eq!(events.last().unwrap()["type"], "message_stop");
    }

    #[test]
    fn tools_are_asked_for_in_turn_and_what_is_to_be_said_comes_last() {
        let prompt = r#"[[use:Bash {"command": "ls"}]] then [[use:Write {"path": "a"}]] [[say:done]]"#;
        let tools = json!([{"name": "Bash"}, {"name": "Write"}]);
        let user = |content: Value| json!({"role": "user", "content": content});
        let result =
            user(json!([{"type": "tool_result", "content": "[[say:no]]"}, {"type": "text", "text": "hint"}]));
        let mut messages = vec![user(json!("[[say:before]]")), user(json!(prompt))];
        let mut said = Vec::new();
        for _ in 0..3 {
            let script = Script::from_prompt(&json!({"tools": tools, "messages": messages}));
            said.push(script.call.map_or(script.text, |call| format!("{} {}", call.tool, call.input)));
            messages.push(result.clone());
        }
        assert_eq!(said, [r#"Bash {"command":"ls"}"#, r#"Write {"path":"a"}"#, "done"]);
        let untitled = Script::from_prompt(&json!({"messages": messages[..2]}));
        assert_eq!(untitled.call, None, "of who has no tools none is asked for");
    }

    #[test]
    fn a_compressed_body_is_read_and_a_false_one_refused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{}").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", "gzip".parse().unwrap());
        assert_eq!(decoded(&headers, Bytes::from(gzip.finish().unwrap())).unwrap(), "{}");
        assert!(decoded(&headers, Bytes::from_static(b"plain")).is_none());
    }
}
