//! A connection of an upstream's that can be made to break.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// No head of HTTP/1.1 and no frame of HTTP/2.
const GARBAGE: &[u8] = b"\x00\xffthis is no protocol\r\n\r\n\x00\x01";

/// What is to become of a connection.
#[derive(Debug, Default)]
pub struct Fate {
    reset: AtomicBool,
    garbage: AtomicBool,
}

impl Fate {
    /// Once it is dropped, its peer gets a reset.
    pub fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// From now on it says nothing that has a meaning.
    pub fn babble(&self) {
        self.garbage.store(true, Ordering::Relaxed);
    }
}

/// The connection itself.
#[derive(Debug)]
pub enum Wire {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connection with its fate.
#[derive(Debug)]
pub struct Link {
    wire: Wire,
    fate: Arc<Fate>,
}

impl Link {
    /// A connection, and its fate for those who decide it.
    #[must_use]
    pub fn new(wire: Wire) -> (Self, Arc<Fate>) {
        let fate = Arc::new(Fate::default());
        (Self { wire, fate: Arc::clone(&fate) }, fate)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.fate.reset.load(Ordering::Relaxed) {
            let tcp = match &self.wire {
                Wire::Plain(tcp) => tcp,
                Wire::Tls(tls) => tls.get_ref().0,
            };
            // One that has ended already cannot be reset.
            let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Wire::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        }
    }
}

impl Link {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Wire::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if !self.fate.garbage.load(Ordering::Relaxed) {
            return self.poll_send(cx, bytes);
        }
        ready!(self.poll_send(cx, GARBAGE))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(io) => Pin::new(io).poll_flush(cx),
            Wire::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Wire::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}
