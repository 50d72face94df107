//! TLS of both ends: the servers that a proxy calls, and the client that calls the proxy.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::failure::{During, Result};
use crate::pki::{Authority, Identity, self_signed};
use crate::world;

/// Names that a server proves with a certificate of its own.
#[derive(Debug)]
struct Certificates {
    good: Arc<CertifiedKey>,
    evil: Arc<CertifiedKey>,
    expired: Arc<CertifiedKey>,
    unsigned: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(match hello.server_name() {
            // It shows another name than it was asked for.
            Some("wrong.good.test") => &self.evil,
            Some("expired.good.test") => &self.expired,
            Some("self.good.test") => &self.unsigned,
            Some(name) if name.ends_with("evil.test") => &self.evil,
            _ => &self.good,
        }))
    }
}

/// The servers' side, which chooses the first of these protocols that the other side offers too.
///
/// # Errors
/// When keys cannot be made.
pub fn acceptor(authority: &Authority, protocols: &[&str]) -> Result<TlsAcceptor> {
    let now = OffsetDateTime::now_utc() - Duration::hours(1);
    let long_ago = now - Duration::days(30);
    let certificates = Certificates {
        good: usable(authority.identity(&world::GOOD_NAMES, now)?)?,
        evil: usable(authority.identity(&["evil.test", "*.evil.test"], now)?)?,
        expired: usable(authority.identity(&["expired.good.test"], long_ago)?)?,
        unsigned: usable(self_signed(&["self.good.test"], now)?)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .during("TLS has no versions")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn usable(identity: Identity) -> Result<Arc<CertifiedKey>> {
    let key = any_supported_type(&identity.key).during("a key cannot be used")?;
    Ok(Arc::new(CertifiedKey::new(vec![identity.certificate], key)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// How the client opens TLS.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The name whose certificate it wants to see.
    pub name: String,
    /// Whether it says that name.
    pub says_name: bool,
    /// Protocols it offers.
    pub protocols: Vec<String>,
}

/// The client's side: opens TLS, trusting the proxy's CA only.
///
/// # Errors
/// When the proxy refuses, or shows a certificate that its CA does not vouch for.
pub async fn connect<S>(io: S, roots_pem: &str, hello: &Hello) -> std::io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(root.map_err(std::io::Error::other)?).map_err(std::io::Error::other)?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = hello.protocols.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    config.enable_sni = hello.says_name;
    let name = ServerName::try_from(hello.name.clone()).map_err(std::io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, io).await
}
