//! Heads that come before the head of an answer (1xx; RFC 9110, 15.2). The HTTP library drops them, without end and, over HTTP/2, without a
//! word. Here it is bounded how fast they come, so that a flood of them ends the exchange. Nothing is held back or changed.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use agentsandbox_policy::DenialReason;
use http::Request;
use hyper::ext::on_informational;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ExchangeError;
use crate::limits::{H2_COUNTED_STREAMS_MAX, INFORMATIONAL_ANSWER_INTERVAL, INFORMATIONAL_ANSWERS_MAX};
use crate::writes_through::writes_through;

/// RFC 9113, 4.1.
const HEAD_BYTES: usize = 9;
/// RFC 9113, 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
/// Of a number of a stream; the bit before it is to be ignored.
const STREAM: u32 = u32::MAX >> 1;
/// Of a stream: the head of its answer. Trailers end it.
const OTHER_HEADS: u32 = 1;

/// How fast heads have come.
#[derive(Default)]
struct Pace {
    /// When the last of them would have come, had each waited for its interval.
    last: Option<Instant>,
}

impl Pace {
    /// One more has come; whether so many may come at once.
    fn takes(&mut self, most: u32, now: Instant) -> Result<(), Flood> {
        let last = self.last.map_or(now, |last| last.max(now)) + INFORMATIONAL_ANSWER_INTERVAL;
        self.last = Some(last);
        if last > now + INFORMATIONAL_ANSWER_INTERVAL * most { Err(Flood) } else { Ok(()) }
    }
}

/// Those before one answer over HTTP/1.1.
pub(super) struct Early {
    has_too_many: Arc<Notify>,
}

impl Early {
    pub(super) fn before_the_answer_to<B>(request: &mut Request<B>) -> Self {
        let has_too_many = Arc::new(Notify::new());
        let (told, pace) = (Arc::clone(&has_too_many), Mutex::new(Pace::default()));
        on_informational(request, move |_| {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            if pace.takes(INFORMATIONAL_ANSWERS_MAX, Instant::now()).is_err() {
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

/// The bytes of an upstream that speaks HTTP/2. They end in an error where heads of one of its streams come faster than they may.
pub(super) struct Counted<S> {
    io: S,
    frames: Frames,
}

impl<S> Counted<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, frames: Frames::default() }
    }
}

/// Too many heads at once.
#[derive(Debug, thiserror::Error)]
#[error("the upstream sends heads without end")]
struct Flood;

/// Where in a frame the bytes so far end, and how fast the heads of each stream have come.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    left: usize,
    streams: BTreeMap<u32, Pace>,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let in_head = self.left == 0;
            let wanted = if in_head { HEAD_BYTES - self.head.len() } else { self.left };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if in_head {
                self.head.extend_from_slice(part);
                if self.head.len() == HEAD_BYTES {
                    self.begin(now)?;
                    self.head.clear();
                }
            } else {
                self.left -= part.len();
            }
        }
        Ok(())
    }

    /// A frame begins.
    fn begin(&mut self, now: Instant) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.head.as_slice() else { return Ok(()) };
        self.left = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Ok(stream) = <[u8; 4]>::try_from(stream).map(u32::from_be_bytes) else { return Ok(()) };
        let stream = stream & STREAM;
        let ends = flags & END_STREAM != 0;
        match *kind {
            DATA | HEADERS if ends => drop(self.streams.remove(&stream)),
            RST_STREAM => drop(self.streams.remove(&stream)),
            HEADERS => {
                self.streams
                    .entry(stream)
                    .or_default()
                    .takes(INFORMATIONAL_ANSWERS_MAX + OTHER_HEADS, now)?;
                if self.streams.len() > H2_COUNTED_STREAMS_MAX {
                    // The oldest other: of it no more is known than that it has not ended. Of streams that end here nothing is seen, so that
                    // one that lasts may well be the oldest of all.
                    let oldest = self.streams.keys().find(|other| **other != stream).copied();
                    oldest.and_then(|oldest| self.streams.remove(&oldest));
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
        let passed = self.frames.pass(came, Instant::now());
        Poll::Ready(passed.map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood)))
    }
}

writes_through!(Counted);

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::AsyncWrite;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), &vec![b'x'; payload]].concat()
    }

    const MOST: usize = (INFORMATIONAL_ANSWERS_MAX + OTHER_HEADS) as usize;

    fn heads(stream: u32, count: usize) -> Vec<u8> {
        frame(HEADERS, 4, stream, 11).repeat(count)
    }

    #[test]
    fn p_d9_each_stream_has_its_own_heads_however_its_bytes_are_cut() {
        let now = Instant::now();
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
            // A length has three bytes.
            ([heads(1, MOST), frame(9, 4, 1, 70_000), heads(1, 1)].concat(), false),
            // The same stream, as the library has it.
            ([heads(1, MOST), heads(0x8000_0001, 1)].concat(), false),
        ] {
            for piece in [1, 7, 9, usize::MAX] {
                let mut frames = Frames::default();
                let mut pieces = bytes.chunks(piece.min(bytes.len()));
                let passed = pieces.try_for_each(|piece| frames.pass(piece, now));
                assert_eq!(passed.is_ok(), fits, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn p_d9_heads_that_tell_of_progress_may_come_for_as_long_as_an_upload_takes() {
        let (mut frames, mut pace, begin) = (Frames::default(), Pace::default(), Instant::now());
        for second in 0..24 * 3600 {
            let now = begin + std::time::Duration::from_secs(second);
            frames.pass(&heads(1, 2), now).unwrap();
            pace.takes(INFORMATIONAL_ANSWERS_MAX, now).unwrap();
        }
        // Those that did not come meanwhile do not add up.
        let later = begin + std::time::Duration::from_secs(25 * 3600);
        frames.pass(&heads(1, MOST), later).unwrap();
        assert!(frames.pass(&heads(1, 1), later + INFORMATIONAL_ANSWER_INTERVAL / 2).is_err());
        for _ in 0..INFORMATIONAL_ANSWERS_MAX {
            pace.takes(INFORMATIONAL_ANSWERS_MAX, later).unwrap();
        }
        assert!(pace.takes(INFORMATIONAL_ANSWERS_MAX, later).is_err());
    }

    #[test]
    fn p_i4_streams_that_are_counted_are_bounded_and_the_one_that_sends_stays_among_them() {
        let (mut frames, now) = (Frames::default(), Instant::now());
        for stream in 1..=H2_COUNTED_STREAMS_MAX * 2 {
            frames.pass(&heads(u32::try_from(stream).unwrap() * 2 + 1, 1), now).unwrap();
        }
        assert_eq!(frames.streams.len(), H2_COUNTED_STREAMS_MAX);
        // The lowest number of all.
        frames.pass(&heads(1, MOST), now).unwrap();
        assert!(frames.pass(&heads(1, 1), now).is_err());
        assert_eq!(frames.streams.len(), H2_COUNTED_STREAMS_MAX);
    }

    /// Remembers what it is asked for.
    #[derive(Default)]
    struct Asked {
        takes_pieces: bool,
        written: Vec<u8>,
        is_flushed: bool,
        is_shut: bool,
    }

    impl AsyncWrite for Asked {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            pieces.iter().for_each(|piece| self.written.extend_from_slice(piece));
            Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
        }

        fn is_write_vectored(&self) -> bool {
            self.takes_pieces
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_flushed = true;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_goes_up_is_neither_counted_nor_held() {
        use tokio::io::AsyncWriteExt;

        for takes_pieces in [true, false] {
            let mut counted = Counted::new(Asked { takes_pieces, ..Asked::default() });
            assert_eq!(counted.is_write_vectored(), takes_pieces);
            counted.write_all(b"one ").await.unwrap();
            let pieces = [IoSlice::new(b"two "), IoSlice::new(b"three")];
            assert_eq!(counted.write_vectored(&pieces).await.unwrap(), 9);
            assert_eq!(counted.io.written, b"one two three");
            assert!(!counted.io.is_flushed && !counted.io.is_shut);
            counted.flush().await.unwrap();
            assert!(counted.io.is_flushed && !counted.io.is_shut);
            counted.shutdown().await.unwrap();
            assert!(counted.io.is_shut);
        }
    }
}
