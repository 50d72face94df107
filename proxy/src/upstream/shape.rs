//! The form of a request on its way to an upstream: what its protocol makes of destination, path and length.

use agentsandbox_policy::{DenialReason, Scheme};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{self, PathAndQuery};
use http::{HeaderValue, Request, Uri, Version};
use http_body::Body as _;

use super::{Lease, Sender};
use crate::loops;
use crate::respond::Body;

/// Gives the request the form of the connection's protocol: origin form with Host, or pseudo-header fields.
pub(super) fn shape(request: &mut Request<Body>, lease: &Lease, target: &str) -> Result<(), DenialReason> {
    let target = PathAndQuery::try_from(target).map_err(|_| DenialReason::MalformedRequest)?;
    request.headers_mut().remove(HOST);
    // It may have been framed for a connection that was gone.
    request.headers_mut().remove(TRANSFER_ENCODING);
    loops::mark(request.headers_mut(), lease.may_lead_back);
    match lease.sender {
        Sender::Http1(_) => {
            request.headers_mut().insert(HOST, lease.to.field.clone());
            *request.uri_mut() = Uri::from(target);
            *request.version_mut() = Version::HTTP_11;
            frame(request);
        }
        Sender::Http2(..) => {
            let mut uri = uri::Parts::default();
            uri.scheme = Some(match lease.to.to.0 {
                Scheme::Https => uri::Scheme::HTTPS,
                Scheme::Http => uri::Scheme::HTTP,
            });
            uri.authority = Some(lease.to.authority.clone());
            uri.path_and_query = Some(target);
            *request.uri_mut() = Uri::from_parts(uri).map_err(|_| DenialReason::MalformedRequest)?;
            *request.version_mut() = Version::HTTP_2;
        }
    }
    Ok(())
}

/// Says that a body of unknown length follows. hyper takes a GET or HEAD that does not say so for one without a body.
fn frame(request: &mut Request<Body>) {
    let is_open = !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    if is_open && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}
