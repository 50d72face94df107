//! Sessions of TLS that the agent may resume. A session is kept under the leaf that it was opened with, and a leaf is of one name: shown
//! under another name, or after its leaf was replaced, a ticket opens nothing, and the handshake is a whole one. What is resumed is judged
//! like any connection, for its name is admitted before.
//!
//! All of it lives in memory and ends with the process. A ticket is taken once, and a resumed session agrees on a new key (RFC 8446, 2.2:
//! `psk_dhe_ke`, the only mode that rustls has). TLS 1.2 has neither, so none of its sessions is resumed. There is no early data.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

use crate::limits::SESSIONS_MAX;

/// The sessions of all leaves.
pub(super) struct Sessions {
    all: Arc<ServerSessionMemoryCache>,
    leaves: AtomicU64,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { all: ServerSessionMemoryCache::new(SESSIONS_MAX), leaves: AtomicU64::default() }
    }

    /// Those of one more leaf: none so far.
    pub(super) fn of_one_more_leaf(&self) -> Arc<dyn StoresServerSessions> {
        let leaf = self.leaves.fetch_add(1, Ordering::Relaxed);
        Arc::new(OfLeaf { all: Arc::clone(&self.all), leaf })
    }
}

#[derive(Debug)]
struct OfLeaf {
    all: Arc<ServerSessionMemoryCache>,
    leaf: u64,
}

impl OfLeaf {
    fn key(&self, ticket: &[u8]) -> Vec<u8> {
        [&self.leaf.to_be_bytes(), ticket].concat()
    }
}

impl StoresServerSessions for OfLeaf {
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        self.all.put(self.key(&ticket), session)
    }

    /// TLS 1.2 alone asks for a session that stays.
    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.all.take(&self.key(ticket))
    }

    /// Asked by TLS 1.2 alone.
    fn can_cache(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustls::client::Resumption;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConfig};

    use super::super::tests::{authority, permit, tell};
    use super::super::{Authority, LEAF_AGE_MAX};
    use super::*;

    const NAME: &str = "api.good.test";

    #[test]
    fn a_session_is_taken_once_and_what_tls_1_2_asks_for_is_never_there() {
        let leaf = Sessions::new().of_one_more_leaf();
        assert!(leaf.put(b"ticket".to_vec(), b"session".to_vec()));
        assert_eq!(leaf.get(b"ticket"), None);
        assert!(!leaf.can_cache());
        assert_eq!(leaf.take(b"ticket"), Some(b"session".to_vec()));
        assert_eq!(leaf.take(b"ticket"), None);
    }

    /// A client that trusts this CA, resumes what it can, and sends early data where it may.
    fn client(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_early_data = true;
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }

    /// One handshake, with the tickets behind it.
    fn shake(config: &ClientConfig, served: Arc<ServerConfig>) -> (HandshakeKind, ClientConnection) {
        let mut client = ClientConnection::new(Arc::new(config.clone()), NAME.try_into().unwrap()).unwrap();
        assert!(client.early_data().is_none(), "no ticket lets a client send before it is answered");
        let mut server = rustls::ServerConnection::new(served).unwrap();
        for _ in 0..4 {
            tell(&mut client, &mut server);
        }
        let kind = server.handshake_kind().unwrap();
        assert_eq!(client.handshake_kind(), Some(kind));
        (kind, client)
    }

    #[test]
    fn p_a23_a_session_ends_with_its_leaf() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let (config, now) = (client(&authority, &rustls::version::TLS13), Instant::now());
        let at = |when| authority.impersonate(&permit(NAME), when).unwrap();
        let renewed = now + LEAF_AGE_MAX;
        for (when, kind) in [
            (now, HandshakeKind::Full),
            (now, HandshakeKind::Resumed),
            (renewed - Duration::from_secs(1), HandshakeKind::Resumed),
            (renewed, HandshakeKind::Full),
            (renewed, HandshakeKind::Resumed),
        ] {
            assert_eq!(shake(&config, at(when)).0, kind, "{:?}", when - now);
        }
        // Of another process nothing is resumed, be its CA the same.
        let again = super::super::tests::authority(folder.path());
        let served = again.impersonate(&permit(NAME), now).unwrap();
        assert_eq!(shake(&config, served).0, HandshakeKind::Full);
    }

    #[test]
    fn p_a23_a_resumed_session_agrees_on_its_protocol_anew() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let mut config = client(&authority, &rustls::version::TLS13);
        let served = authority.impersonate(&permit(NAME), Instant::now()).unwrap();
        for (served, protocol, kind) in [
            (Arc::clone(&served), "h2", HandshakeKind::Full),
            (Arc::clone(&served), "http/1.1", HandshakeKind::Resumed),
            (Authority::in_http1(&served), "http/1.1", HandshakeKind::Resumed),
            (served, "h2", HandshakeKind::Resumed),
        ] {
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            let (shaken, client) = shake(&config, served);
            assert_eq!((shaken, client.alpn_protocol()), (kind, Some(protocol.as_bytes())));
        }
    }

    #[test]
    fn p_a23_no_session_of_tls_1_2_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let config = client(&authority, &rustls::version::TLS12);
        for _ in 0..2 {
            let served = authority.impersonate(&permit(NAME), Instant::now()).unwrap();
            let (kind, client) = shake(&config, served);
            assert_eq!(
                (kind, client.protocol_version()),
                (HandshakeKind::Full, Some(ProtocolVersion::TLSv1_2))
            );
        }
    }

    #[test]
    fn p_a23_a_ticket_opens_under_its_own_leaf_alone_and_once() {
        let sessions = Sessions::new();
        let (one, other) = (sessions.of_one_more_leaf(), sessions.of_one_more_leaf());
        assert!(one.put(vec![7; 32], vec![1]));
        assert_eq!(other.take(&[7; 32]), None);
        assert_eq!(one.take(&[7; 32]), Some(vec![1]));
        assert_eq!(one.take(&[7; 32]), None);
    }

    #[test]
    fn p_i4_the_sessions_of_all_leaves_together_are_bounded() {
        let sessions = Sessions::new();
        let leaves: Vec<_> = (0..SESSIONS_MAX * 2).map(|_| sessions.of_one_more_leaf()).collect();
        leaves.iter().for_each(|leaf| assert!(leaf.put(vec![7; 32], vec![1])));
        let kept = leaves.iter().filter(|leaf| leaf.take(&[7; 32]).is_some()).count();
        assert!((1..=SESSIONS_MAX).contains(&kept), "{kept}");
    }
}
