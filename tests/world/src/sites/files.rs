//! A host whose files lie in the state folder, under `sites/<host>`: what static package indexes are.
//!
//! Only plain names are followed: the journal is what a test reads, and nothing here may lead out of the folder.

use std::path::{Path, PathBuf};

use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::{Body, full, json_response};
use crate::world::World;

/// The host's folder, where it has one.
pub(super) fn folder(world: &World, host: &str) -> Option<PathBuf> {
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-');
    let folder = world.servers().folder().join("sites").join(host);
    (plain && !host.starts_with('.') && folder.is_dir()).then_some(folder)
}

pub(super) async fn answer<B>(folder: &Path, request: &Request<B>) -> Response<Body> {
    let readable = matches!(*request.method(), Method::GET | Method::HEAD);
    let Some(file) = below(folder, request.uri().path()).filter(|_| readable) else {
        return json_response(StatusCode::BAD_REQUEST, &json!({"error": "not a plain path to read"}));
    };
    match tokio::fs::read(file).await {
        Ok(bytes) => Response::new(full(bytes)),
        Err(_) => json_response(StatusCode::NOT_FOUND, &json!({"error": "no such file"})),
    }
}

fn below(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut file = folder.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part.starts_with('.') || part.contains(['\\', '\0', '%']) {
            return None;
        }
        file.push(part);
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_below_the_folder_or_nowhere() {
        let folder = Path::new("/state");
        assert_eq!(below(folder, "/a//b.zip"), Some(PathBuf::from("/state/a/b.zip")));
        for path in ["/../x", "/a/.hidden", "/%2e%2e/x", "/a\\b"] {
            assert_eq!(below(folder, path), None, "{path}");
        }
    }
}
