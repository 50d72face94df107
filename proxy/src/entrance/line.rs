//! An agent's connection that may have been shut on one side.
//!
//! A client that shuts its writing side has said all it has to say, and waits for the answer (RFC 9112, 9.6 allows it, and TLS has
//! `close_notify` for it). A client that is gone looks the same over TCP: its kernel sends the same FIN. So the answer is waited for, and the
//! client is given up as soon as it is known to be gone: its kernel resets the connection, which it does when it is written to, or
//! when it is asked whether it lives after it has forgotten the connection (a minute on Linux). The same holds for one that has sent
//! more than is read yet, behind which nothing is heard. What else breaks off, as TLS without its goodbye does, is given up at once.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_quickack,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ceiling::Ceiling;
use crate::limits::{
    ACKNOWLEDGED_BYTES_MIN, HALF_CLOSED_CHECK_INTERVAL, HALF_CLOSED_PROBE_INTERVAL, HALF_CLOSED_PROBES_MAX,
};

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket of an agent, under whatever it is wrapped in.
pub struct Line {
    io: Arc<Mutex<TcpStream>>,
    ceiling: Arc<Ceiling>,
    /// Bytes that were read since something was written, or since they were acknowledged.
    unanswered: usize,
}

impl Line {
    /// Takes over an accepted connection, of which each byte counts below this ceiling.
    #[must_use]
    pub fn new(io: TcpStream, ceiling: Arc<Ceiling>) -> Self {
        Self { io: Arc::new(Mutex::new(io)), ceiling, unanswered: 0 }
    }

    /// Has the kernel acknowledge what was read now, not some 40 ms later. A client that uploads and did not turn Nagle's algorithm off holds the
    /// head of its next frame back until then (RFC 9293, 3.7.4), and nothing that is written here would tell it sooner.
    fn acknowledge(&mut self) {
        self.unanswered = 0;
        // It goes on without: later.
        let _ = set_tcp_quickack(&*lock(&self.io), true);
    }

    /// What tells whether the client is still there. It does not keep the socket open.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse(Arc::downgrade(&self.io))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *lock(&self.io)).poll_read(cx, buffer);
        let bytes = buffer.filled().len().saturating_sub(before);
        self.ceiling.reads(bytes);
        self.unanswered = self.unanswered.saturating_add(bytes);
        let is_drained = bytes > 0 && buffer.remaining() > 0;
        if is_drained && self.unanswered >= ACKNOWLEDGED_BYTES_MIN {
            self.acknowledge();
        }
        polled
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.unanswered = 0;
        Pin::new(&mut *lock(&self.io)).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unanswered = 0;
        Pin::new(&mut *lock(&self.io)).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.io).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.io)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.io)).poll_shutdown(cx)
    }
}

/// Tells whether a client that has shut its writing side is still there.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Weak<Mutex<TcpStream>>);

impl Pulse {
    /// Completes when the client is gone. Its kernel is asked from now on.
    pub async fn stops(&self) {
        if let Some(io) = self.0.upgrade()
            && let Err(error) = ask(&lock(&io))
        {
            tracing::debug!(error = %error, "a client that is gone will be found out only when it is written to");
        }
        while !self.has_stopped() {
            sleep(HALF_CLOSED_CHECK_INTERVAL).await;
        }
    }

    fn has_stopped(&self) -> bool {
        // Reading says nothing of it any more once the end was read.
        self.0.upgrade().is_none_or(|io| !matches!(lock(&io).take_error(), Ok(None)))
    }
}

fn ask(io: &TcpStream) -> io::Result<()> {
    set_tcp_keepidle(io, HALF_CLOSED_PROBE_INTERVAL)?;
    set_tcp_keepintvl(io, HALF_CLOSED_PROBE_INTERVAL)?;
    set_tcp_keepcnt(io, HALF_CLOSED_PROBES_MAX)?;
    Ok(set_socket_keepalive(io, true)?)
}

/// A client's stream that is listened to also while its request is answered, when nobody reads it: so one that breaks off is
/// given up at once, and one that only has no more to say is not. Nothing is sent before a first request was read: what would be is the
/// library's own answer to a head that it does not read.
pub struct Listened<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    io: S,
    /// What was heard before anybody asked.
    ahead: Option<u8>,
    /// How it broke off behind what was read, which is told but once.
    broken: Option<io::Error>,
    has_ended: bool,
    /// Whether the reader will be woken by what comes, so that nobody else has to listen.
    is_awaited: bool,
    /// Whether a request was read.
    asked: Arc<AtomicBool>,
    /// Whether an answer was withheld.
    withholds: bool,
    /// Bytes up to the end of the first line, and how far it was read. Empty ones before it count with it: hyper bounds both together.
    first_line: (usize, FirstLine),
}

/// How far the first line was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstLine {
    Ahead,
    Begun,
    Over,
}

impl<S> Clone for Listened<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncRead + Unpin> Listened<S> {
    /// Listens to `io`. Whoever reads a first request says so in `asked`.
    pub fn new(io: S, asked: Arc<AtomicBool>) -> Self {
        Self(Arc::new(Mutex::new(State {
            io,
            ahead: None,
            broken: None,
            has_ended: false,
            is_awaited: false,
            asked,
            withholds: false,
            first_line: (0, FirstLine::Ahead),
        })))
    }

    /// Whether an answer was withheld.
    pub fn withholds(&self) -> bool {
        lock(&self.0).withholds
    }

    /// Withholds nothing any more.
    pub fn releases(&self) {
        lock(&self.0).asked.store(true, Ordering::Relaxed);
    }

    /// Bytes of the first line, as far as it was read.
    pub fn first_line_bytes(&self) -> usize {
        lock(&self.0).first_line.0
    }

    /// Runs the connection over this stream to its end; none where the client is gone before.
    pub async fn until_gone<F: Future + Unpin>(&self, mut connection: F, pulse: &Pulse) -> Option<F::Output> {
        let mut stops = std::pin::pin!(pulse.stops());
        std::future::poll_fn(|cx| {
            lock(&self.0).is_awaited = false;
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if ready!(lock(&self.0).poll_end(cx)).is_ok() {
                ready!(stops.as_mut().poll(cx));
            }
            Poll::Ready(None)
        })
        .await
    }
}

impl<S: AsyncRead + Unpin> State<S> {
    /// That nobody listens any more, for the client has no more to say or has said more than is read yet; or why it broke off.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        if self.is_awaited {
            return Poll::Pending;
        }
        if !self.has_ended && self.ahead.is_none() {
            let mut next = [0];
            let mut buffer = ReadBuf::new(&mut next);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.ahead = buffer.filled().first().copied();
            self.has_ended = self.ahead.is_none();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on behind what was heard ahead. Given out alone, each byte of a body would be heard ahead, and passed on alone.
    fn poll_more(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ahead = self.ahead.take();
        buffer.put_slice(ahead.as_slice());
        if self.has_ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.is_awaited = polled.is_pending();
        self.has_ended = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
        match polled {
            Poll::Ready(Err(error)) if ahead.is_some() => {
                self.broken = Some(error);
                Poll::Ready(Ok(()))
            }
            Poll::Pending if ahead.is_some() => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = state.poll_more(cx, buffer);
        let read = buffer.filled().get(before..).unwrap_or_default();
        let (bytes, reached) = state.first_line;
        if reached != FirstLine::Over {
            // Empty lines before it are passed over, as a server should (RFC 9112, 2.2).
            let is_of_it = |byte: &u8| reached == FirstLine::Begun || !matches!(byte, b'\r' | b'\n');
            let from = read.iter().position(is_of_it);
            let end = from.and_then(|from| Some(from + memchr::memchr(b'\n', read.get(from..)?)?));
            let reached = match (from, end) {
                (_, Some(_)) => FirstLine::Over,
                (Some(_), None) => FirstLine::Begun,
                (None, None) => reached,
            };
            state.first_line = (bytes + end.unwrap_or(read.len()), reached);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// What is written to, unless an answer is withheld.
    fn open(&mut self) -> Option<Pin<&mut S>> {
        self.withholds = !self.asked.load(Ordering::Relaxed);
        (!self.withholds).then(|| Pin::new(&mut self.io))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match lock(&self.0).open() {
            Some(io) => io.poll_write(cx, bytes),
            None => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match lock(&self.0).open() {
            Some(io) => io.poll_write_vectored(cx, pieces),
            None => Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.withholds && !state.asked.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::tcp_quickack;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_upload_is_acknowledged_at_once_and_what_is_answered_by_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (io, _) = listener.accept().await.unwrap();
        let mut line = Line::new(io, Arc::default());
        let is_at_once = |line: &Line| tcp_quickack(&*lock(&line.io)).unwrap();
        let mut buffer = vec![0; 2 * ACKNOWLEDGED_BYTES_MIN];
        // Question and answer, until the kernel takes them for that.
        for _ in 0..4 {
            client.write_all(&vec![b'x'; ACKNOWLEDGED_BYTES_MIN - 1]).await.unwrap();
            line.read_exact(&mut buffer[..ACKNOWLEDGED_BYTES_MIN - 1]).await.unwrap();
            line.write_all(b"y").await.unwrap();
            client.read_u8().await.unwrap();
        }
        assert!(!is_at_once(&line));
        client.write_all(&vec![b'x'; ACKNOWLEDGED_BYTES_MIN]).await.unwrap();
        let mut read = 0;
        while read < ACKNOWLEDGED_BYTES_MIN {
            read += line.read(&mut buffer).await.unwrap();
        }
        assert!(is_at_once(&line));
    }
}
