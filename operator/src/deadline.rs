//! The end of every request. A list of a watch is asked by the client library, which waits for its answer as long as
//! something of it comes; one that hangs, or never ends, would keep every sandbox waiting. So each request has to be
//! answered whole in time; of a watch, which lasts, the head of the answer has to come in time, and the library itself ends
//! one on which nothing comes any more.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use kube::client::Body;
use tower_service::Service;

/// Longer than a pass waits for any request of its own, and than a server takes for a page of a list.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// A page of a list is 500 objects, of which none is larger than etcd takes by far.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A service whose answers come in time, or fail.
#[derive(Clone, Debug)]
pub struct Deadlined<S>(S);

impl<S> Deadlined<S> {
    /// The same service with a deadline.
    pub const fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S, B> Service<Request<Body>> for Deadlined<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<Fault>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Fault>,
{
    type Response = Response<UnsyncBoxBody<Bytes, Fault>>;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Self::Response, Fault>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let lasts = query.split('&').any(|pair| pair == "watch=true");
        let answer = self.0.call(request);
        let answer = async move {
            let (head, body) = answer.await.map_err(Into::into)?.into_parts();
            let body = if lasts {
                body.map_err(Into::into).boxed_unsync()
            } else {
                let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
                Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
            };
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(ANSWERED_WITHIN, answer).map(|answer| answer?).boxed()
    }
}
