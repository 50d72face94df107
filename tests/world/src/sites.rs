//! What each host of this internet answers.
//!
//! The request has been journaled before it comes here. A host without a site of its own is recorded and told so: for those the journal is the point.

mod anthropic;
mod echo;
mod files;
mod openai;
mod upstream;

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::names;
use crate::servers::Kind;
use crate::world::World;

pub use anthropic::{GATE_MARKER, SAY_MARKER};

/// Any failure while a body is sent; it only ever ends the connection.
type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// The most of a request body that a stand-in reads.
const BODY_BYTES_MAX: usize = 32 << 20;

/// Answers one request for one host.
pub async fn answer(world: &World, host: &str, request: Request<Incoming>) -> Response<Body> {
    match host {
        names::ANTHROPIC => anthropic::answer(world, request).await,
        names::ECHO => echo::answer(request).await,
        names::OPENAI => openai::answer(world, request).await,
        names::PIP | names::PIP_UPLOAD => upstream::forward(world, Kind::Pip, host, request).await,
        names::NPM => upstream::forward(world, Kind::Npm, host, request).await,
        names::GIT | names::GITHUB => unavailable(world, Kind::Git),
        _ => match files::folder(world, host) {
            Some(folder) => files::answer(&folder, &request).await,
            None => recorded(request).await,
        },
    }
}

/// Reads the body to its end, so that a client who sends much is not reset in the middle, and says that it was seen.
async fn recorded(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    json_response(StatusCode::OK, &json!({"recorded": true}))
}

fn unavailable(world: &World, kind: Kind) -> Response<Body> {
    let state = world.servers().state(kind);
    json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": format!("{kind} server: {state}")}))
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

/// The whole body, or none where it is too large or breaks off.
async fn read_body(body: Incoming) -> Option<Bytes> {
    let limited = http_body_util::Limited::new(body, BODY_BYTES_MAX);
    limited.collect().await.ok().map(http_body_util::Collected::to_bytes)
}

/// A body whose chunks are sent as they are put into the channel.
fn streaming(chunks: tokio::sync::mpsc::Receiver<Bytes>) -> Body {
    let frames = futures::stream::unfold(chunks, |mut chunks| async move {
        let chunk = chunks.recv().await?;
        Some((Ok::<_, BodyError>(hyper::body::Frame::data(chunk)), chunks))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
