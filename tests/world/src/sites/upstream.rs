//! Hands a request to the real server behind a host, a child of this process on loopback.
//!
//! TLS ended at the front; the child is told the host and scheme the client used, so that the links it writes lead back here. A missing or
//! dead child is a 503 that says so.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use super::{Body, json_response, unavailable};
use crate::names;
use crate::servers::Kind;
use crate::world::World;

/// Headers that belong to one connection and end with it.
const CONNECTION_HEADERS: [HeaderName; 5] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER];

pub(super) async fn forward(
    world: &World,
    kind: Kind,
    host: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(port) = world.servers().port(kind) else { return unavailable(world, kind) };
    let Some(request) = inner_request(request, host, port) else {
        return json_response(StatusCode::BAD_REQUEST, &json!({"error": "the request cannot be forwarded"}));
    };
    let client: Client<HttpConnector, Incoming> = Client::builder(TokioExecutor::new()).build_http();
    match client.request(request).await {
        Ok(mut response) => {
            *response.version_mut() = Version::HTTP_11;
            for name in CONNECTION_HEADERS {
                response.headers_mut().remove(name);
            }
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        }
        Err(error) => {
            json_response(StatusCode::BAD_GATEWAY, &json!({"error": format!("{kind} server: {error}")}))
        }
    }
}

fn inner_request<B>(mut request: Request<B>, host: &str, port: u16) -> Option<Request<B>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("http://127.0.0.1:{port}{}", inner_path(host, path)).parse::<Uri>().ok()?;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    for name in CONNECTION_HEADERS {
        headers.remove(name);
    }
    headers.insert(header::HOST, HeaderValue::from_str(host).ok()?);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    Some(request)
}

/// Uploads go to `/legacy/` on the index that people use, and to `/` on the server behind this one.
fn inner_path<'p>(host: &str, path: &'p str) -> &'p str {
    if host == names::PIP_UPLOAD {
        path.strip_prefix("/legacy").filter(|rest| rest.starts_with('/')).unwrap_or(path)
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_handed_on_at_the_root_and_nothing_else_is_rewritten() {
        assert_eq!(inner_path(names::PIP_UPLOAD, "/legacy/"), "/");
        assert_eq!(inner_path(names::PIP_UPLOAD, "/legacyx"), "/legacyx");
        assert_eq!(inner_path(names::PIP, "/legacy/"), "/legacy/");
    }

    #[test]
    fn the_server_learns_the_host_and_scheme_the_client_used() {
        let request = Request::builder()
            .uri("https://npm.world.test/shopkit?x=1")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let request = inner_request(request, names::NPM, 4873).unwrap();
        assert_eq!(request.uri(), "http://127.0.0.1:4873/shopkit?x=1");
        assert_eq!(request.headers()["host"], names::NPM);
        assert_eq!(request.headers()["x-forwarded-proto"], "https");
        assert!(!request.headers().contains_key("te"));
    }
}
