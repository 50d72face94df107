//! Heads that come before the head of an answer (1xx; RFC 9110, 15.2). The HTTP library drops them, without end and, over HTTP/2, without a
//! word. Here they are counted, so that a flood of them ends the exchange. Nothing is held back or changed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use agentsandbox_policy::DenialReason;
use http::Request;
use hyper::ext::on_informational;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::ExchangeError;
use crate::limits::{H2_COUNTED_STREAMS_MAX, INFORMATIONAL_ANSWERS_MAX};

/// RFC 9113, 4.1.
const HEAD_BYTES: usize = 9;
/// RFC 9113, 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
/// Of a stream: the head of its answer, and trailers.
const OTHER_HEADS: usize = 2;

/// Those before one answer over HTTP/1.1.
pub(super) struct Early {
    has_too_many: Arc<Notify>,
}

impl Early {
    pub(super) fn before_the_answer_to<B>(request: &mut Request<B>) -> Self {
        let has_too_many = Arc::new(Notify::new());
        let (told, seen) = (Arc::clone(&has_too_many), AtomicUsize::new(0));
        on_informational(request, move |_| {
            if seen.fetch_add(1, Ordering::Relaxed) >= INFORMATIONAL_ANSWERS_MAX {
                told.notify_one();
            }
        });
        Self { has_too_many }
    }

    /// Waits for the answer. Where too many come before it, it is given up, and its connection with it.
    pub(super) async fn bound<T>(
        self,
        answered: impl Future<Output = Result<T, ExchangeError>>,
    ) -> Result<T, ExchangeError> {
        tokio::select! {
            biased;
            () = self.has_too_many.notified() => {
                tracing::info!(error = %Flood, "the upstream broke the protocol");
                Err(ExchangeError::Failed(DenialReason::UpstreamUnreachable))
            }
            answered = answered => answered,
        }
    }
}

/// The bytes of an upstream that speaks HTTP/2. They end in an error where one of its streams has more heads than it may.
pub(super) struct Counted<S> {
    io: S,
    frames: Frames,
}

impl<S> Counted<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, frames: Frames::default() }
    }
}

/// Too many heads.
#[derive(Debug, thiserror::Error)]
#[error("the upstream sends heads without end")]
struct Flood;

/// Where in a frame the bytes so far end, and how many heads each stream has had.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    left: usize,
    streams: BTreeMap<u32, usize>,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let in_head = self.left == 0;
            let wanted = if in_head { HEAD_BYTES - self.head.len() } else { self.left };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if in_head {
                self.head.extend_from_slice(now);
                if self.head.len() == HEAD_BYTES {
                    self.begin()?;
                    self.head.clear();
                }
            } else {
                self.left -= now.len();
            }
        }
        Ok(())
    }

    /// A frame begins.
    fn begin(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.head.as_slice() else { return Ok(()) };
        self.left = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Ok(stream) = <[u8; 4]>::try_from(stream).map(u32::from_be_bytes) else { return Ok(()) };
        let ends = flags & END_STREAM != 0;
        match *kind {
            DATA | HEADERS if ends => drop(self.streams.remove(&stream)),
            RST_STREAM => drop(self.streams.remove(&stream)),
            HEADERS => {
                let heads = self.streams.entry(stream).or_default();
                *heads += 1;
                if *heads > INFORMATIONAL_ANSWERS_MAX + OTHER_HEADS {
                    return Err(Flood);
                }
                if self.streams.len() > H2_COUNTED_STREAMS_MAX {
                    // The oldest: of it no more is known than that it has not ended.
                    self.streams.pop_first();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.frames.pass(came).map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), &vec![b'x'; payload]].concat()
    }

    #[test]
    fn p_d9_each_stream_has_its_own_heads_however_its_bytes_are_cut() {
        const MOST: usize = INFORMATIONAL_ANSWERS_MAX + OTHER_HEADS;
        let heads = |stream, count| frame(HEADERS, 4, stream, 11).repeat(count);
        for (bytes, fits) in [
            (heads(1, MOST), true),
            (heads(1, MOST + 1), false),
            ([heads(1, MOST), heads(3, MOST)].concat(), true),
            // What has ended has no heads any more, and a number is not used again.
            ([heads(1, MOST), frame(HEADERS, 5, 1, 3), heads(1, MOST)].concat(), true),
            ([heads(1, MOST), frame(DATA, 1, 1, 0), heads(1, MOST)].concat(), true),
            ([heads(1, MOST), frame(RST_STREAM, 0, 1, 4), heads(1, MOST)].concat(), true),
            ([heads(1, MOST), frame(DATA, 0, 1, 300), heads(1, 1)].concat(), false),
            // What is in a frame is none.
            ([heads(1, MOST), frame(9, 4, 1, 70_000), frame(8, 0, 0, 4)].concat(), true),
        ] {
            for piece in [1, 7, 9, usize::MAX] {
                let mut frames = Frames::default();
                let passed = bytes.chunks(piece.min(bytes.len())).try_for_each(|piece| frames.pass(piece));
                assert_eq!(passed.is_ok(), fits, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn p_i4_streams_that_are_counted_are_bounded() {
        let mut frames = Frames::default();
        for stream in 0..H2_COUNTED_STREAMS_MAX * 2 {
            frames.pass(&frame(HEADERS, 4, u32::try_from(stream).unwrap() * 2 + 1, 0)).unwrap();
        }
        assert_eq!(frames.streams.len(), H2_COUNTED_STREAMS_MAX);
    }
}
