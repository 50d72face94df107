//! How an upstream says that it refuses TLS. In TLS 1.3 the proxy's side of a handshake is over before a server judges the client's
//! certificate, or its lack of one: the refusal comes as an alert after the request was written. HTTP's side sees a
//! connection that broke off; what it broke off with is noted here.

use std::error::Error as _;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use agentsandbox_policy::DenialReason;
use rustls::AlertDescription;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::ConnectError;

/// The alert with which an upstream refused TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As RFC 8446 names it.
    alert: &'static str,
    is_of_client: Option<bool>,
}

impl Refusal {
    /// The alert as RFC 8446 names it.
    #[must_use]
    pub const fn alert(self) -> &'static str {
        self.alert
    }

    /// Whether it is about the client's certificate, or the lack of one. None where that may be or not: servers that speak TLS 1.2
    /// have no alert of their own for a certificate that is missing.
    #[must_use]
    pub const fn is_of_client(self) -> Option<bool> {
        self.is_of_client
    }

    /// What an alert refuses; none where it is for another time to ask again.
    const fn of(alert: AlertDescription) -> Option<Self> {
        let (alert, is_of_client) = match alert {
            AlertDescription::BadCertificate => ("bad_certificate", Some(true)),
            AlertDescription::UnsupportedCertificate => ("unsupported_certificate", Some(true)),
            AlertDescription::CertificateRevoked => ("certificate_revoked", Some(true)),
            AlertDescription::CertificateExpired => ("certificate_expired", Some(true)),
            AlertDescription::CertificateUnknown => ("certificate_unknown", Some(true)),
            AlertDescription::UnknownCA => ("unknown_ca", Some(true)),
            AlertDescription::AccessDenied => ("access_denied", Some(true)),
            AlertDescription::CertificateRequired => ("certificate_required", Some(true)),
            AlertDescription::HandshakeFailure => ("handshake_failure", None),
            AlertDescription::ProtocolVersion => ("protocol_version", Some(false)),
            AlertDescription::InsufficientSecurity => ("insufficient_security", Some(false)),
            AlertDescription::UnrecognisedName => ("unrecognized_name", Some(false)),
            AlertDescription::NoApplicationProtocol => ("no_application_protocol", Some(false)),
            _ => return None,
        };
        Some(Self { alert, is_of_client })
    }
}

/// What TLS says of an error, if it is TLS that says so.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The refusal in an error of TLS.
fn refusal(error: &rustls::Error) -> Option<Refusal> {
    match error {
        rustls::Error::AlertReceived(alert) => Refusal::of(*alert),
        _ => None,
    }
}

/// Why a handshake failed. What the other side says of it is no fault of its certificate.
pub(super) fn of_handshake(error: &io::Error) -> ConnectError {
    match of_tls(error) {
        Some(error @ rustls::Error::AlertReceived(_)) => {
            refusal(error).map_or(DenialReason::UpstreamUnreachable.into(), ConnectError::Refused)
        }
        Some(_) => DenialReason::UpstreamUntrusted.into(),
        None => DenialReason::UpstreamUnreachable.into(),
    }
}

/// What one connection was refused with after its handshake.
#[derive(Debug, Default)]
pub(super) struct Heard(OnceLock<Refusal>);

impl Heard {
    /// The refusal, if there was one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.0.get().copied()
    }

    fn note(&self, error: &io::Error) {
        let of_client =
            of_tls(error).and_then(refusal).filter(|refusal| refusal.is_of_client() == Some(true));
        if let Some(refusal) = of_client {
            self.0.get_or_init(|| refusal);
        }
    }
}

/// A connection whose refusal is noted.
pub(super) struct Listening<S> {
    tls: TlsStream<S>,
    heard: Arc<Heard>,
    /// Why it cannot be written to. What the other side has said before is heard first.
    broken: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Listening<S> {
    pub(super) fn new(tls: TlsStream<S>) -> (Self, Arc<Heard>) {
        let heard = Arc::<Heard>::default();
        (Self { tls, heard: Arc::clone(&heard), broken: None }, heard)
    }

    /// Lets one who writes know of an error, once what came before it is heard.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<S>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.broken.is_none() {
            match write(Pin::new(&mut self.tls), cx) {
                Poll::Ready(Err(error)) => self.broken = Some(error),
                other => return other,
            }
        }
        // What can be read stays in its buffer, where a reader finds it.
        match Pin::new(&mut self.tls).poll_fill_buf(cx) {
            Poll::Ready(Err(error)) => self.heard.note(&error),
            Poll::Pending if self.broken.as_ref().is_some_and(is_gone) => return Poll::Pending,
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        Poll::Ready(Err(self.broken.take().unwrap_or_else(|| ErrorKind::BrokenPipe.into())))
    }
}

/// Whether the connection has ended, politely or not, and nothing else is wrong with it.
pub(super) fn has_ended(error: &hyper::Error) -> bool {
    let io: Option<&io::Error> = error.source().and_then(|cause| cause.downcast_ref());
    error.is_incomplete_message()
        || io.is_some_and(|error| is_gone(error) || error.kind() == ErrorKind::UnexpectedEof)
}

/// Whether there is nobody to write to any more. Then all that was said before can be read, and an end behind it.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.tls).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.heard.note(error);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written(cx, |tls, cx| tls.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written(cx, |tls, cx| tls.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written(cx, |tls, cx| tls.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
