//! What stays open for long, a WebSocket or TLS that is passed on unopened, and whether the policy still lets it: it ends with
//! its rule. The credential of a socket and its client certificate spoke when it was opened, so that they are to be the same as
//! well. Another reading of their files ends nothing.

use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{CertificateUse, CredentialUse, DenialReason, PassPermit, Permit, Policy, Request};
use tokio::time::sleep;

use crate::limits::POLICY_POLL_INTERVAL;
use crate::reload::{ActivePolicy, Loaded};

/// What a request that opened a WebSocket was allowed as.
pub struct Allowed {
    under: Arc<Loaded>,
    asked: Request,
    credential: Option<CredentialUse>,
    certificate: Option<CertificateUse>,
}

impl Allowed {
    /// What this permit of that document allows.
    #[must_use]
    pub fn by(under: &Arc<Loaded>, permit: &Permit) -> Self {
        let asked = Request {
            scheme: permit.scheme(),
            host: permit.host().clone(),
            port: permit.port(),
            method: permit.method().clone(),
            target: permit.target().clone(),
            websocket: permit.websocket(),
        };
        let (credential, certificate) = (permit.credential().cloned(), permit.certificate().cloned());
        Self { under: Arc::clone(under), asked, credential, certificate }
    }

    /// Waits until it would not be allowed any more; why.
    pub async fn ends(self, policy: &ActivePolicy) -> DenialReason {
        let Self { under, asked, credential, certificate } = self;
        ends(policy, under, |policy| {
            let permit = policy.decide(asked.clone()).map_err(|denial| denial.reason)?;
            let is_same =
                permit.credential() == credential.as_ref() && permit.certificate() == certificate.as_ref();
            if is_same { Ok(()) } else { Err(DenialReason::CredentialScope) }
        })
        .await
    }
}

/// The same for TLS that is passed on.
pub async fn passing_ends(policy: &ActivePolicy, under: Arc<Loaded>, permit: &PassPermit) -> DenialReason {
    let passes = |policy: &Policy| policy.pass(permit.host(), permit.port()).map(drop);
    ends(policy, under, |policy| passes(policy).ok_or(DenialReason::HostNotAllowed)).await
}

/// Looks at each new document, as often as there may be one.
async fn ends(
    policy: &ActivePolicy,
    mut under: Arc<Loaded>,
    is_allowed: impl Fn(&Policy) -> Result<(), DenialReason>,
) -> DenialReason {
    loop {
        sleep(POLICY_POLL_INTERVAL).await;
        let judged = policy.current(Instant::now()).and_then(|current| {
            if !Arc::ptr_eq(&current, &under) {
                is_allowed(&current.policy)?;
            }
            Ok(current)
        });
        match judged {
            Ok(current) => under = current,
            Err(reason) => return reason,
        }
    }
}
