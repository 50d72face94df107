//! The end of every request. A list of a watch is asked by the client library, which waits for its answer as long as
//! something of it comes; one that hangs, or never ends, would keep every sandbox waiting. So each request has to be
//! answered whole in time; of a watch, which lasts, the head of the answer has to come in time, and the library itself ends
//! one on which nothing comes any more.
//!
//! Each request under way has a connection of its own, with a handshake and with buffers that stay. So a request waits for
//! its turn where many are under way; not for long, for those may be of sandboxes whose requests hang. The lease waits for
//! none of them: its holder has little time to renew it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use kube::client::Body;
use tokio::sync::Semaphore;
use tower_service::Service;

/// Longer than a pass waits for any request of its own, and than a server takes for a page of a list.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// A page of a list is 500 objects, of which none is larger than etcd takes by far.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Requests under way at the same time, watches aside, unless they take long: more do not make an API server faster.
const AT_ONCE: usize = 16;
/// A request waits no longer for its turn, whatever holds up the others.
const TURN_WITHIN: Duration = Duration::from_millis(100);

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A service whose answers come in time, or fail.
#[derive(Clone, Debug)]
pub struct Deadlined<S> {
    service: S,
    turns: Arc<Semaphore>,
}

impl<S> Deadlined<S> {
    /// The same service with a deadline.
    pub fn new(service: S) -> Self {
        Self { service, turns: Arc::new(Semaphore::new(AT_ONCE)) }
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
        self.service.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let lasts = query.split('&').any(|pair| pair == "watch=true");
        let waits = !lasts && !is_of_a_lease(request.uri().path());
        // It begins once it is awaited.
        let answer = self.service.call(request);
        let turns = Arc::clone(&self.turns);
        let answer = async move {
            let turn = tokio::time::timeout(TURN_WITHIN, turns.acquire());
            let _turn = if waits { turn.await.ok() } else { None };
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

/// Whether a request is for a Lease: the operator asks for nothing else of that group.
fn is_of_a_lease(path: &str) -> bool {
    path.starts_with("/apis/coordination.k8s.io/")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    /// Answers when it is told to, and counts what it was asked.
    #[derive(Clone, Default)]
    struct Slow {
        asked: Arc<AtomicUsize>,
        answers: Arc<tokio::sync::Notify>,
    }

    impl Service<Request<Body>> for Slow {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let Self { asked, answers } = self.clone();
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                answers.notified().await;
                Ok(Response::new(Full::default()))
            }
            .boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_take_turns_and_none_waits_for_long_and_no_watch_and_no_lease_at_all() {
        let slow = Slow::default();
        let mut service = Deadlined::new(slow.clone());
        let mut work = JoinSet::new();
        let mut ask = |count: usize, path: &'static str| {
            for _ in 0..count {
                let request = Request::builder().uri(path).body(Body::empty()).unwrap();
                work.spawn(service.call(request).map(|answer| assert!(answer.is_ok())));
            }
        };
        let asked = || slow.asked.load(Ordering::Relaxed);
        ask(AT_ONCE + 5, "/api/v1/pods");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(asked(), AT_ONCE);
        ask(3, "/api/v1/pods?watch=true");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(asked(), AT_ONCE + 3);
        ask(1, "/apis/coordination.k8s.io/v1/namespaces/agentsandbox-system/leases/agentsandbox-operator");
        ask(1, "/apis/coordination.k8s.io/v1/namespaces/agentsandbox-system/leases?fieldManager=operator");
        ask(1, "/api/v1/namespaces/team/pods/leases");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(asked(), AT_ONCE + 5, "the lease does not wait, and a pod does");
        slow.answers.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(asked(), AT_ONCE + 6, "one is answered, and another has its turn");
        tokio::time::sleep(TURN_WITHIN).await;
        assert_eq!(asked(), AT_ONCE + 11);
    }
}
