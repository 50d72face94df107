//! Who is served: one agent, known by its address, which nothing but the fence's token can set.
//!
//! Until an agent is enrolled nobody is served. A new enrolment replaces the address and ends the connections of the
//! old one. The address survives a restart of the container in the state folder; the token is never written anywhere.

use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::audit::Unrecorded;

const FILE: &str = "enrolled";

/// The rule by which peers are told apart.
pub enum Enrolment {
    /// Only the enrolled address. In a pod.
    Token(TokenEnrolment),
    /// Only loopback peers. Outside Kubernetes.
    Loopback,
}

/// Enrolment by token.
pub struct TokenEnrolment {
    token: Zeroizing<Vec<u8>>,
    file: PathBuf,
    agent: watch::Sender<Option<IpAddr>>,
}

/// Why an enrolment was refused.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The token is not ours.
    #[error("the token is not this proxy's")]
    WrongToken,
    /// There is no token in this mode.
    #[error("this proxy serves loopback peers and enrols nobody")]
    NotUsed,
    /// The enrolment could not be written down.
    #[error("the audit line cannot be written")]
    Unrecorded(#[from] Unrecorded),
    /// The address could not be kept.
    #[error("the enrolled address cannot be written")]
    Unwritable(#[from] std::io::Error),
}

impl Enrolment {
    /// Enrolment by `token`; the address kept in `state`, or else the one given, is enrolled from the start. What was kept
    /// was shown a token, and later than the flag was written.
    #[must_use]
    pub fn with_token(token: Zeroizing<Vec<u8>>, state: &std::path::Path, enrolled: Option<IpAddr>) -> Self {
        let file = state.join(FILE);
        let kept = || std::fs::read_to_string(&file).ok()?.trim().parse().ok();
        let agent = watch::Sender::new(kept().or(enrolled).map(|ip: IpAddr| ip.to_canonical()));
        Self::Token(TokenEnrolment { token, file, agent })
    }

    /// Whether this peer is the agent.
    #[must_use]
    pub fn admits(&self, peer: IpAddr) -> bool {
        match self {
            Self::Token(enrolment) => *enrolment.agent.borrow() == Some(peer.to_canonical()),
            Self::Loopback => peer.to_canonical().is_loopback(),
        }
    }

    /// Whether this peer may read health and metrics: whoever the network lets come here, but for the agent, and outside Kubernetes
    /// nobody from elsewhere. Peers on loopback cannot be told apart.
    #[must_use]
    pub fn admits_to_admin(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() || (matches!(self, Self::Token(_)) && !self.admits(peer))
    }

    /// Whether there is an agent to serve.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Token(enrolment) => enrolment.agent.borrow().is_some(),
            Self::Loopback => true,
        }
    }

    /// Completes when this peer is no longer the agent.
    pub async fn replaced(&self, peer: IpAddr) {
        match self {
            Self::Token(enrolment) => {
                let mut agent = enrolment.agent.subscribe();
                // The sender lives as long as this borrow, so the wait cannot fail.
                let _ = agent.wait_for(|agent| *agent != Some(peer.to_canonical())).await;
            }
            Self::Loopback => std::future::pending().await,
        }
    }

    /// Makes `peer` the agent if `token` is right, and once that is written down.
    pub fn enrol(
        &self,
        peer: IpAddr,
        token: &[u8],
        record: impl FnOnce() -> Result<(), Unrecorded>,
    ) -> Result<(), EnrolmentError> {
        let Self::Token(enrolment) = self else { return Err(EnrolmentError::NotUsed) };
        // An empty token would be shown by anybody.
        if enrolment.token.is_empty() {
            return Err(EnrolmentError::WrongToken);
        }
        verify_slices_are_equal(&enrolment.token, token).map_err(|_| EnrolmentError::WrongToken)?;
        record()?;
        let peer = peer.to_canonical();
        let fresh = enrolment.file.with_extension("new");
        std::fs::write(&fresh, peer.to_string())?;
        std::fs::rename(&fresh, &enrolment.file)?;
        enrolment.agent.send_replace(Some(peer));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(state: &std::path::Path) -> Enrolment {
        Enrolment::with_token(Zeroizing::new(b"right".to_vec()), state, None)
    }

    #[test]
    fn nobody_is_served_before_the_token_was_shown_and_only_its_bearer_after() {
        let state = tempfile::tempdir().unwrap();
        let (agent, stranger) = ("10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap());
        let enrolment = fresh(state.path());
        assert!(!enrolment.admits(agent));
        assert!(matches!(enrolment.enrol(stranger, b"wrong", || Ok(())), Err(EnrolmentError::WrongToken)));
        assert!(!enrolment.admits(stranger));
        enrolment.enrol(agent, b"right", || Ok(())).unwrap();
        assert!(enrolment.admits(agent) && !enrolment.admits(stranger));
        assert!(
            enrolment.admits("::ffff:10.0.0.7".parse().unwrap()),
            "the same address in its other spelling"
        );
    }

    #[test]
    fn p_i3_health_and_metrics_are_not_the_agents_and_outside_kubernetes_nobodys_from_elsewhere() {
        let state = tempfile::tempdir().unwrap();
        let [agent, kubelet, loopback] =
            ["10.0.0.7", "10.0.0.1", "127.0.0.1"].map(|text| text.parse().unwrap());
        let enrolment = fresh(state.path());
        assert!(enrolment.admits_to_admin(agent), "nobody is the agent yet");
        enrolment.enrol(agent, b"right", || Ok(())).unwrap();
        assert!(!enrolment.admits_to_admin(agent));
        assert!(!enrolment.admits_to_admin("::ffff:10.0.0.7".parse().unwrap()), "in its other spelling");
        assert!(enrolment.admits_to_admin(kubelet) && enrolment.admits_to_admin(loopback));
        assert!(!Enrolment::Loopback.admits_to_admin(kubelet));
        assert!(Enrolment::Loopback.admits_to_admin(loopback));
    }

    #[test]
    fn an_empty_token_enrols_nobody() {
        let state = tempfile::tempdir().unwrap();
        let enrolment = Enrolment::with_token(Zeroizing::new(Vec::new()), state.path(), None);
        let peer = "10.0.0.7".parse().unwrap();
        assert!(matches!(enrolment.enrol(peer, b"", || Ok(())), Err(EnrolmentError::WrongToken)));
        assert!(!enrolment.admits(peer));
    }

    #[test]
    fn what_a_token_enrolled_later_beats_the_flag_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let (old, new) = ("10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap());
        let start = || Enrolment::with_token(Zeroizing::new(b"right".to_vec()), state.path(), Some(old));
        start().enrol(new, b"right", || Ok(())).unwrap();
        assert!(start().admits(new) && !start().admits(old));
    }

    #[test]
    fn the_enrolled_address_survives_a_restart() {
        let state = tempfile::tempdir().unwrap();
        fresh(state.path()).enrol("10.0.0.7".parse().unwrap(), b"right", || Ok(())).unwrap();
        assert!(fresh(state.path()).admits("10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn p_i5_nobody_is_enrolled_where_that_cannot_be_written_down() {
        let state = tempfile::tempdir().unwrap();
        let (enrolment, agent) = (fresh(state.path()), "10.0.0.7".parse().unwrap());
        let refused = enrolment.enrol(agent, b"right", || Err(Unrecorded));
        assert!(matches!(refused, Err(EnrolmentError::Unrecorded(_))) && !enrolment.admits(agent));
        assert!(!fresh(state.path()).admits(agent), "nor after a restart");
        enrolment.enrol(agent, b"right", || Ok(())).unwrap();
        assert!(enrolment.admits(agent));
    }
}
