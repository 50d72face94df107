//! What a request is sent with that the agent does not have. Whatever is missing denies the request: nothing goes out bare.

use std::time::Instant;

use agentsandbox_policy::{CertificateUse, Denial, DenialReason, Permit, Policy};
use http::HeaderMap;
use zeroize::Zeroizing;

use super::Proxy;
use crate::respond::denial;
use crate::secrets::{ClientCertificate, Secret, SecretError};
use crate::upstream::{Refusal, Voice};
use crate::{chain, headers};

/// The keys of one request, as their files are now.
pub(super) struct Keys {
    /// Of the credential in it.
    pub(super) secret: Option<Secret>,
    /// Of the connection under it.
    pub(super) certificate: Option<ClientCertificate>,
    /// Of the upstream proxy on its way.
    pub(super) password: Option<Secret>,
}

impl Keys {
    /// Everything that the permit names, and what the policy's upstream proxy asks for.
    pub(super) fn of(
        proxy: &Proxy,
        policy: &Policy,
        permit: &Permit,
        now: Instant,
    ) -> Result<Self, Box<Denial>> {
        let unavailable = || denial(permit, DenialReason::CredentialUnavailable);
        let secret = permit.credential().map(|used| {
            let secret = proxy.secrets.get(used.file(), now);
            secret.map_err(|error| told(unavailable().with_credential(used.name()), used.name(), error))
        });
        let certificate = permit.certificate().map(|used| {
            let certificate = proxy.secrets.certificate(used.files(), now);
            certificate
                .map_err(|error| told(unavailable().with_client_certificate(used.name()), used.name(), error))
        });
        Ok(Self {
            secret: secret.transpose()?,
            certificate: certificate.transpose()?,
            password: password(proxy, policy, now)?,
        })
    }

    /// As whom the request speaks.
    pub(super) fn voice(&self, permit: &Permit) -> Voice {
        Voice::of(permit, self.secret.as_ref(), self.certificate.as_ref(), self.password.as_ref())
    }

    /// Whether the destination knows by them for whom it answers.
    pub(super) const fn authenticate(&self) -> bool {
        self.secret.is_some() || self.certificate.is_some()
    }
}

/// The password of the upstream proxy, if it asks for one.
pub(crate) fn password(proxy: &Proxy, policy: &Policy, now: Instant) -> Result<Option<Secret>, Box<Denial>> {
    let Some(login) = policy.upstream_proxy().and_then(|proxy| proxy.login.as_ref()) else { return Ok(None) };
    let password = proxy.secrets.get(&login.file, now);
    let unavailable = Denial::new(DenialReason::CredentialUnavailable).with_credential(&login.credential);
    password.map(Some).map_err(|error| told(unavailable, &login.credential, error))
}

/// Puts the secret where the permit's credential says. The path and query to send are given back if it stands in them. Whatever stood
/// in its place is gone then, as a secret before this one.
pub(super) fn put(
    permit: &Permit,
    secret: Option<&Secret>,
    fields: &mut HeaderMap,
) -> Result<Option<Zeroizing<String>>, Box<Denial>> {
    let (Some(credential), Some(secret)) = (permit.credential(), secret) else { return Ok(None) };
    headers::inject(fields, permit.target(), credential.injection(), secret).map_err(|_| {
        let denial = denial(permit, DenialReason::CredentialUnavailable);
        Box::new(denial.with_credential(credential.name()))
    })
}

/// The denial of a request whose upstream asks for a client certificate and takes no signature of this one's key.
pub(super) fn withheld(permit: &Permit) -> Box<Denial> {
    let name = permit.certificate().map(CertificateUse::name).unwrap_or_default();
    let advice = format!(
        "The host asks for a client certificate, but takes no signature that the key of AgentCredential {name} can make; ask its owner to store a pair with an ECDSA P-256 or an RSA key."
    );
    let denial = denial(permit, DenialReason::CredentialUnavailable);
    Box::new(denial.with_client_certificate(name).with_how_to_allow(advice))
}

/// The denial of a request whose upstream refuses TLS with the proxy. Which certificate it was shown, or that it was shown none, is
/// what somebody can change.
pub(super) fn refused(permit: &Permit, refusal: Refusal) -> Box<Denial> {
    let (alert, shown) = (refusal.alert(), permit.certificate().map(CertificateUse::name));
    let advice = match (refusal.is_of_client(), shown) {
        (Some(true), Some(name)) => format!(
            "The host refuses the client certificate of AgentCredential {name} (TLS alert {alert}); ask its owner to store a pair that the host takes."
        ),
        (Some(true), None) => format!(
            "The host asks for a client certificate (TLS alert {alert}), and the rule names none; write the AgentCredential that holds it in clientCertificate of the rule."
        ),
        (None, Some(name)) => format!(
            "The host ended the TLS handshake (alert {alert}): it does not take the client certificate of AgentCredential {name}, or none of the proxy's versions and ciphers of TLS."
        ),
        (None, None) => format!(
            "The host ended the TLS handshake (alert {alert}): it asks for a client certificate, which the rule has to name in clientCertificate, or takes none of the proxy's versions and ciphers of TLS."
        ),
        (Some(false), _) => {
            format!("The host refuses TLS with the proxy (alert {alert}); ask who runs it what it asks for.")
        }
    };
    let denial = denial(permit, DenialReason::UpstreamRefused).with_how_to_allow(advice);
    Box::new(match shown.filter(|_| refusal.is_of_client() != Some(false)) {
        Some(name) => denial.with_client_certificate(name),
        None => denial,
    })
}

/// The denial of a request to which the upstream proxy opens no way.
pub(super) fn refused_on_the_way(permit: &Permit, policy: &Policy, refusal: chain::Refusal) -> Box<Denial> {
    let denial = denial(permit, DenialReason::UpstreamProxyRefused);
    let told = policy.upstream_proxy().map(|proxy| refusal.told(proxy, permit.host(), permit.port()));
    Box::new(match told {
        Some(told) => denial.with_how_to_allow(told),
        None => denial,
    })
}

/// A denial that says why a credential has no secret.
fn told(denial: Denial, credential: &str, error: SecretError) -> Box<Denial> {
    let advice = format!("The secret of credential {credential} is not usable: {error}.");
    Box::new(denial.with_how_to_allow(advice))
}
