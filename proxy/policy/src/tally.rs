//! What one run of a proxy has denied, in numbers: the proxy keeps it, the operator tells it. It has no power, and nothing in
//! it that an audit line has not: no path, no query, no field of a request.

use serde::{Deserialize, Serialize};

use crate::DenialReason;

/// Kinds that a [`Tally`] tells apart; an agent can make up any number of hosts.
pub const TALLY_KINDS_MAX: usize = 8;

/// How many decisions of a proxy's present run were denials, and of which kinds the latest were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// UID of the sandbox, so that nobody takes one proxy's answer for another's; empty outside Kubernetes.
    pub sandbox: String,
    /// Denials of every kind.
    pub denied: u64,
    /// The latest kinds, the last one first, at most [`TALLY_KINDS_MAX`].
    pub latest: Vec<DeniedKind>,
    /// The credentials whose secret cannot be used now, and why; absent where the proxy does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<Vec<UnusableCredential>>,
    /// For how long nothing has passed through the proxy; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
}

/// For how long nothing has passed through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Whole seconds since something last did, or since the proxy began where nothing has; 0 while a request is on its way.
    pub seconds: u64,
    /// Whether anything has passed since the proxy began.
    pub has_passed: bool,
}

/// A credential of the policy document whose secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusableCredential {
    /// Its name in the document.
    pub name: String,
    /// `CredentialMissing` or `CredentialMalformed`; text, so that a reader of another version understands the rest.
    pub reason: String,
    /// Name of a [`SecretError`](crate::SecretError), as text likewise; absent where the proxy says no more than the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Denials that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeniedKind {
    /// The host that was asked for, in its canonical spelling, if the request could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Name of a [`DenialReason`]; text, so that a reader of another version understands the rest.
    pub reason: String,
    /// How many, since the kind was last among the latest.
    pub count: u64,
}

impl Tally {
    /// Counts denials of one kind.
    pub fn note(&mut self, host: Option<&str>, port: Option<u16>, reason: DenialReason, count: u64) {
        self.denied = self.denied.saturating_add(count);
        let same = |kind: &DeniedKind| {
            kind.host.as_deref() == host && kind.port == port && kind.reason == reason.as_str()
        };
        let before = self.latest.iter().position(same).map(|at| self.latest.remove(at).count);
        let kind = DeniedKind {
            host: host.map(str::to_owned),
            port,
            reason: reason.as_str().to_owned(),
            count: before.unwrap_or(0).saturating_add(count),
        };
        self.latest.insert(0, kind);
        self.latest.truncate(TALLY_KINDS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_denials_are_one_kind_and_the_last_one_is_first() {
        let mut tally = Tally::default();
        tally.note(Some("a.test"), Some(443), DenialReason::HostNotAllowed, 1);
        tally.note(Some("b.test"), Some(443), DenialReason::HostNotAllowed, 2);
        tally.note(Some("a.test"), Some(443), DenialReason::HostNotAllowed, 3);
        tally.note(Some("a.test"), Some(443), DenialReason::PathNotAllowed, 1);
        let kinds: Vec<_> = tally
            .latest
            .iter()
            .map(|kind| (kind.host.as_deref().unwrap(), kind.reason.as_str(), kind.count))
            .collect();
        let wanted = [
            ("a.test", "PathNotAllowed", 1),
            ("a.test", "HostNotAllowed", 4),
            ("b.test", "HostNotAllowed", 2),
        ];
        assert_eq!((tally.denied, kinds), (7, wanted.to_vec()));
    }

    #[test]
    fn a_proxy_of_an_earlier_release_says_nothing_of_what_passed_and_one_of_this_does() {
        let read = |text: &str| serde_json::from_str::<Tally>(text).unwrap().idle;
        assert_eq!(read(r#"{"sandbox":"u","denied":0,"latest":[]}"#), None);
        let told = r#"{"sandbox":"u","denied":0,"latest":[],"idle":{"seconds":12,"hasPassed":true}}"#;
        assert_eq!(read(told), Some(Idle { seconds: 12, has_passed: true }));
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Tally>(told).unwrap()).unwrap(), told);
    }

    #[test]
    fn p_i4_any_number_of_hosts_takes_bounded_room_and_all_are_counted() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            tally.note(Some(&format!("h{number}.test")), Some(443), DenialReason::HostNotAllowed, 1);
        }
        assert_eq!((tally.denied, tally.latest.len()), (1000, TALLY_KINDS_MAX));
        assert_eq!(tally.latest[0].host.as_deref(), Some("h999.test"));
    }
}
