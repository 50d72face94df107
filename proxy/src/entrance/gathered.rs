//! One write for all that an HTTP/2 connection sends in one turn. The library writes each DATA frame by itself, and flushes behind
//! it: with many streams that is a TLS record and a system call for each answer. Here frames wait until the connection has had
//! its turn, and never longer. What waits is bounded, and a peer that does not read is waited for as before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::H2_GATHERED_BYTES_MAX;

/// Longer writes gain nothing by waiting, and are not copied.
const DIRECT_BYTES_MIN: usize = H2_GATHERED_BYTES_MAX / 4;

/// A stream of bytes to an agent that speaks HTTP/2. A clone is the same stream.
pub struct Gathered<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    io: S,
    /// What waits, and how much of it is out already.
    waits: Vec<u8>,
    out: usize,
    /// Why it could not be written. Whoever reads or writes next is told.
    failed: Option<io::Error>,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Gathered<S> {
    /// Gathers what goes to `io`.
    pub fn new(io: S) -> Self {
        Self(Arc::new(Mutex::new(State { io, waits: Vec::new(), out: 0, failed: None })))
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Runs the connection over this stream, and writes after each of its turns.
    pub async fn each_turn_of<F: Future + Unpin>(&self, mut connection: F) -> F::Output {
        std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            self.state().writes(cx);
            polled
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Writes what waits, as far as the peer takes it.
    fn writes(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            self.failed = Some(error);
            // It would not be asked again.
            cx.waker().wake_by_ref();
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waits.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self.waits.get(self.out..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.out += written,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.waits.clear();
        self.out = 0;
        Poll::Ready(Ok(()))
    }

    fn fails(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state();
        state.fails()?;
        Pin::new(&mut state.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        state.fails()?;
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let is_direct = bytes >= DIRECT_BYTES_MIN;
        if is_direct || state.waits.len() + bytes > H2_GATHERED_BYTES_MAX {
            ready!(state.poll_out(cx))?;
        }
        if is_direct {
            return Pin::new(&mut state.io).poll_write_vectored(cx, pieces);
        }
        pieces.iter().for_each(|piece| state.waits.extend_from_slice(piece));
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is gathered goes out after the connection's turn.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        state.fails()?;
        if state.waits.is_empty() { Pin::new(&mut state.io).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        state.fails()?;
        ready!(state.poll_out(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What was written, write by write; how much more is taken; and whether it is broken.
    type Taken = (Vec<Vec<u8>>, usize, bool);

    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<Taken>>);

    impl Wire {
        fn with_room(bytes: usize) -> Self {
            Self(Arc::new(Mutex::new((Vec::new(), bytes, false))))
        }

        fn writes(&self) -> Vec<usize> {
            self.0.lock().unwrap().0.iter().map(Vec::len).collect()
        }

        fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap().0.concat()
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let (writes, room, is_broken) = &mut *self.0.lock().unwrap();
            if *is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let fits = bytes.len().min(*room);
            if fits == 0 {
                return Poll::Pending;
            }
            *room -= fits;
            writes.push(bytes[..fits].to_vec());
            Poll::Ready(Ok(fits))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.lock().unwrap().0.push(Vec::new());
            Poll::Ready(Ok(()))
        }
    }

    /// One turn of a connection that sends these frames, flushes behind each, and has more to do; whether it takes them all.
    fn turn(gathered: &Gathered<Wire>, frames: &[Vec<u8>]) -> bool {
        let mut io = gathered.clone();
        let sending = async {
            for frame in frames {
                io.write_all(frame).await.unwrap();
                io.flush().await.unwrap();
            }
        };
        let mut all = Box::pin(sending.then(|()| std::future::pending::<()>()));
        let mut connection = Box::pin(gathered.each_turn_of(&mut all));
        assert!(connection.as_mut().now_or_never().is_none());
        drop(connection);
        drop(all);
        let state = gathered.state();
        state.out == 0 && state.waits.is_empty()
    }

    #[test]
    fn what_is_sent_in_one_turn_is_one_write_at_its_end() {
        let wire = Wire::with_room(usize::MAX);
        let gathered = Gathered::new(wire.clone());
        assert!(turn(&gathered, &[vec![1; 9], vec![2; 1024], vec![3; 9]]));
        assert_eq!(wire.writes(), [1042]);
        assert!(turn(&gathered, &[vec![4; 7]]));
        assert_eq!(wire.writes(), [1042, 7], "nothing waits for the next turn");
    }

    #[test]
    fn all_that_is_sent_comes_out_in_its_order_however_long_its_pieces_are() {
        let wire = Wire::with_room(usize::MAX);
        let gathered = Gathered::new(wire.clone());
        let sizes = [5, DIRECT_BYTES_MIN, 1, DIRECT_BYTES_MIN - 1, 3 * H2_GATHERED_BYTES_MAX, 2];
        let frames: Vec<Vec<u8>> = sizes.iter().zip(1..).map(|(size, byte)| vec![byte; *size]).collect();
        assert!(turn(&gathered, &frames));
        assert_eq!(wire.bytes(), frames.concat());
        let many = vec![vec![9; 1000]; 100];
        assert!(turn(&gathered, &many));
        assert_eq!(wire.bytes().len(), frames.concat().len() + 100_000);
        assert!(wire.writes().iter().all(|bytes| *bytes <= 3 * H2_GATHERED_BYTES_MAX));
    }

    #[test]
    fn p_i4_a_peer_that_reads_nothing_is_waited_for_and_what_waits_is_bounded() {
        let wire = Wire::with_room(10);
        let gathered = Gathered::new(wire.clone());
        assert!(!turn(&gathered, &vec![vec![7; 1000]; 1000]));
        assert!((1..=H2_GATHERED_BYTES_MAX).contains(&gathered.state().waits.len()));
        assert_eq!(wire.bytes(), [7; 10]);
        wire.0.lock().unwrap().1 = usize::MAX;
        assert!(turn(&gathered, &[]), "it goes on when the peer reads");
    }

    #[tokio::test]
    async fn what_waits_goes_out_before_the_end_and_a_failure_is_told() {
        let wire = Wire::with_room(usize::MAX);
        let mut gathered = Gathered::new(wire.clone());
        gathered.write_all(b"last").await.unwrap();
        gathered.shutdown().await.unwrap();
        assert_eq!(wire.writes(), [4, 0]);
        wire.0.lock().unwrap().2 = true;
        gathered.write_all(b"lost").await.unwrap();
        poll_fn(|cx| {
            gathered.state().writes(cx);
            Poll::Ready(())
        })
        .await;
        let error = gathered.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
