//! What becomes of a request that is on its way when its rule goes: it ends at once, or the document that has no rule for it any more
//! says how long it may take. That is for what was begun alone, and opens nothing: whoever asks again is denied.

use std::time::Duration;

use super::push;
use crate::{CertificateUse, CredentialUse, Policy, Request};

impl Policy {
    /// How long a request may take to its end that an older document permitted, with this credential and this client certificate, and that
    /// this one denies. Zero ends it at once: where the document says nothing; where a rule speaks for it, so that it is denied for what it
    /// was sent with; and where its credential or certificate is not what it was any more, or may not go there. Nobody drains what an owner
    /// withdraws.
    #[must_use]
    pub fn grace(
        &self,
        request: &Request,
        credential: Option<&CredentialUse>,
        certificate: Option<&CertificateUse>,
    ) -> Duration {
        let lacks_a_rule =
            self.barred(&request.host, request.port).is_none() && self.speaker(request).is_none();
        let keeps_its_key = credential.is_none_or(|used| {
            let known = self.credential(used.name()).filter(|known| known.used == *used);
            known.is_some_and(|known| push::goes(&known.scopes, request))
        });
        let keeps_its_certificate = certificate.is_none_or(|used| {
            let known = self.client_certificate(used.name()).filter(|known| known.used == *used);
            known.is_some_and(|known| push::goes(&known.scopes, request))
        });
        match lacks_a_rule && keeps_its_key && keeps_its_certificate {
            true => self.drain,
            false => Duration::ZERO,
        }
    }
}
