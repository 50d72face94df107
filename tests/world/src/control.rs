//! The control socket: HTTP/1.1 with JSON on a unix socket, by which a test reads the journal and steers the world.
//!
//! | request | does |
//! |---|---|
//! | `GET /status` | how each real server is |
//! | `GET /packets?source=A&destination=A&since_ns=N` | packets and counters |
//! | `GET /requests` | HTTP requests, the git server's among them, in order of time |
//! | `GET /dns` | DNS questions |
//! | `GET /gates` | every gate anyone has named |
//! | `POST /gate/NAME/open` | opens a gate |
//! | `POST /keys` `{"anthropic": "…", "git": "…"}` | sets the keys named |
//! | `POST /reset` | forgets what arrived and every gate; keys stay |
//!
//! Only processes that may open the socket's file can speak here; nothing in the namespace's network can.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};

use crate::journal::PacketFilter;
use crate::world::World;

/// The socket's file in the state folder.
pub const SOCKET_FILE: &str = "control.sock";
/// The git server's key in `POST /keys`.
pub const GIT_KEY: &str = "git";
/// The most of a request body that is read.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What the control socket answers when it does not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no such request")]
    Unknown,
    #[error("`{0}` is not what this parameter takes")]
    Parameter(String),
    #[error("the body is not the JSON that this request takes")]
    Body,
    #[error("the git server's password file cannot be written: {0}")]
    GitToken(io::Error),
}

/// Binds the socket, replacing what an earlier world left, and serves it until the process ends.
///
/// # Errors
/// Fails where the socket cannot be made.
pub fn serve(folder: &Path, world: World) -> io::Result<()> {
    let file = folder.join(SOCKET_FILE);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(file)?;
    tokio::spawn(accept(listener, world));
    Ok(())
}

async fn accept(listener: UnixListener, world: World) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve_connection(stream, world.clone()));
    }
}

async fn serve_connection(stream: UnixStream, world: World) {
    let service = service_fn(move |request| {
        let world = world.clone();
        async move { Ok::<_, Infallible>(respond(&world, request).await) }
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(error.message = %error, "control connection ended early");
    }
}

async fn respond(world: &World, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match route(world, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => {
            let status = match refusal {
                Refusal::Unknown => StatusCode::NOT_FOUND,
                Refusal::Parameter(_) | Refusal::Body => StatusCode::BAD_REQUEST,
                Refusal::GitToken(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, json(&BTreeMap::from([("error", refusal.to_string())])))
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

async fn route(world: &World, request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/status") => Ok(json(&world.servers().states())),
        (&Method::GET, "/packets") => {
            let filter = packet_filter(request.uri().query().unwrap_or_default())?;
            Ok(json(&world.journal().packets(filter)))
        }
        (&Method::GET, "/requests") => Ok(requests(world)),
        (&Method::GET, "/dns") => Ok(json(&world.journal().questions())),
        (&Method::GET, "/gates") => Ok(json(&world.gates().states())),
        (&Method::POST, "/keys") => set_keys(world, body(request).await?),
        (&Method::POST, "/reset") => reset(world),
        (&Method::POST, path) => {
            let gate = path
                .strip_prefix("/gate/")
                .and_then(|rest| rest.strip_suffix("/open"))
                .ok_or(Refusal::Unknown)?;
            world.gates().open(gate);
            Ok(json(&()))
        }
        _ => Err(Refusal::Unknown),
    }
}

fn requests(world: &World) -> Bytes {
    let mut seen = world.journal().requests();
    seen.entries.extend(world.servers().git_requests());
    seen.entries.sort_by_key(|request| request.time_ns);
    json(&seen)
}

fn set_keys(world: &World, keys: BTreeMap<String, String>) -> Result<Bytes, Refusal> {
    if let Some(token) = keys.get(GIT_KEY) {
        world.servers().set_git_token(token).map_err(Refusal::GitToken)?;
    }
    world.set_keys(keys);
    Ok(json(&()))
}

fn reset(world: &World) -> Result<Bytes, Refusal> {
    world.journal().reset();
    world.servers().forget_git_requests();
    world.gates().clear();
    Ok(json(&()))
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body =
        Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await.map_err(|_| Refusal::Body)?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| Refusal::Body)
}

fn packet_filter(query: &str) -> Result<PacketFilter, Refusal> {
    let mut filter = PacketFilter::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let refusal = || Refusal::Parameter(pair.to_owned());
        match pair.split_once('=').ok_or_else(refusal)? {
            ("source", value) => filter.source = Some(value.parse().map_err(|_| refusal())?),
            ("destination", value) => filter.destination = Some(value.parse().map_err(|_| refusal())?),
            ("since_ns", value) => filter.since_ns = Some(value.parse().map_err(|_| refusal())?),
            _ => return Err(refusal()),
        }
    }
    Ok(filter)
}

/// The journal's types always serialise; should one not, an empty body is no valid JSON and the client says so.
fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_filter_takes_its_three_parameters_and_refuses_any_other() {
        let filter = packet_filter("source=10.0.0.1&since_ns=5").unwrap();
        assert_eq!((filter.source, filter.since_ns), (Some([10, 0, 0, 1].into()), Some(5)));
        for query in ["src=10.0.0.1", "source=here", "since_ns=-1", "source"] {
            assert!(packet_filter(query).is_err(), "{query}");
        }
    }
}
