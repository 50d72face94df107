//! The door into the world for a [`kube::Client`]: a service in the place where others have a connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::oneshot;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;

use crate::serve::Call;
use crate::watches::Chunk;
use crate::world::{Answer, Shared};

type Frames = StreamBody<BoxStream<'static, Result<http_body::Frame<Bytes>, std::io::Error>>>;

/// The connection of one process to the world.
#[derive(Clone)]
pub struct Transport {
    /// The world.
    pub world: Shared,
    /// Which process it is of.
    pub process: u64,
}

impl tower_service::Service<Request<Body>> for Transport {
    type Response = Response<Frames>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { world, process } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
            let (to, answer) = oneshot::channel();
            world.arrive(process, Call::read(&parts.method, &parts.uri, &parts.headers, &bytes), to);
            match answer.await {
                Ok(Answer::Whole(code, retry_after, bytes)) => {
                    let mut response = respond(code, futures::stream::iter([Ok(bytes)]).boxed());
                    if let Some(seconds) = retry_after {
                        response.headers_mut().insert("retry-after", seconds.into());
                    }
                    Ok(response)
                }
                Ok(Answer::Stream(code, chunks)) => Ok(respond(code, chunks.boxed())),
                Ok(Answer::Endless(code)) => Ok(respond(code, endless().boxed())),
                Ok(Answer::Broken) => Err(std::io::ErrorKind::ConnectionReset.into()),
                // Its process is dead.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

fn respond(code: u16, chunks: BoxStream<'static, Chunk>) -> Response<Frames> {
    let frames = chunks.map(|chunk| chunk.map(http_body::Frame::data)).boxed();
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(StreamBody::new(frames)).unwrap()
}

/// Blanks, one in each second, which no reader of JSON minds.
fn endless() -> impl futures::Stream<Item = Chunk> + Send {
    futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok(Bytes::from_static(b" ")), ()))
    })
}
