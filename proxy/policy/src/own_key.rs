//! Keys of the agent's own in the query of a request that a rule allows: what the policy and the request line alone can tell.
//! What stands in fields is judged by whoever reads them, and what stands in forms by `form`.

use std::collections::BTreeMap;

use crate::parameter::{folded, is_folded};
use crate::pinned::{auth_parameters, is_auth_parameter, names_in_query};
use crate::{CredentialUse, Denial, DenialReason, Injection, Permit, PinnedHeader, Policy};

/// What the agent may not fill in a form of a permitted request: names by what is read of them.
#[derive(Debug)]
pub(crate) struct OwnNames(BTreeMap<Vec<u8>, String>);

impl OwnNames {
    /// What authenticates at the permit's host, what a secret is put into there, and what the permit's credential pins.
    pub(crate) fn at(policy: &Policy, permit: &Permit) -> Self {
        let host = permit.host();
        let known = |name: &str| (folded(name).collect(), name.to_owned());
        let places = policy.injections_at(host).filter_map(|place| match place {
            Injection::Query { name } => Some(known(name)),
            _ => None,
        });
        let pinned = permit.credential().map(CredentialUse::pinned).unwrap_or_default();
        let pinned = pinned.iter().flat_map(|pinned| names_in_query(pinned.name())).map(known);
        Self(auth_parameters(host).map(known).chain(places).chain(pinned).collect())
    }

    /// The one of them that is read so.
    pub(crate) fn named(&self, read: &[u8]) -> Option<&str> {
        self.0.get(read).map(String::as_str)
    }
}

impl Policy {
    /// Whether the query holds a key of the agent's own where a secret is expected: a parameter in the place of a credential of
    /// this host, or one that some provider takes for a key, other than the one that the secret of the permit replaces; each in any
    /// spelling that some server reads as its name.
    #[must_use]
    pub fn has_own_key_in_query(&self, permit: &Permit) -> bool {
        let own = permit.credential().map(|credential| credential.injection());
        let is = |place: &Injection, read: &[u8]| matches!(place, Injection::Query { name } if is_folded(name, read));
        let host = permit.host();
        self.has_credential_at(host)
            && permit.target().has_query_parameter(|read| {
                let is_replaced = own.is_some_and(|own| is(own, read));
                let is_place = || self.injections_at(host).any(|place| is(place, read));
                !is_replaced && (is_auth_parameter(host, read) || is_place())
            })
    }

    /// A pinned field whose name the query has for a parameter. Some hosts read one for the other (`sudo` at GitLab), and the agent
    /// would choose there what its credential pins.
    #[must_use]
    pub fn pinned_in_query<'a>(&self, permit: &'a Permit) -> Option<&'a str> {
        permit.target().query()?;
        let mut pinned = permit.credential()?.pinned().iter().map(PinnedHeader::name);
        pinned.find(|name| {
            permit.target().has_query_parameter(|read| names_in_query(name).any(|name| is_folded(name, read)))
        })
    }

    /// The denial of a request that chooses in its query what its credential pins.
    #[must_use]
    pub fn own_account(&self, permit: &Permit, pinned: &str) -> Denial {
        Denial::of(permit, DenialReason::ForeignCredential).with_how_to_allow(format!(
            "Send no {pinned} in the query: the credential says for whom its requests speak; its owner may pin another value."
        ))
    }

    /// The denial of a request with a key of the agent's own.
    #[must_use]
    pub fn own_key(&self, permit: &Permit) -> Denial {
        let denial = Denial::of(permit, DenialReason::ForeignCredential);
        if self.injections_at(permit.host()).next().is_some() {
            return denial;
        }
        denial.with_how_to_allow(
            "Send no key of your own: this host knows the sandbox by a client certificate. A key that it asks for beside it belongs into an AgentCredential, which the rule names in credential.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, Method, Request, Scheme, Target};

    const POLICY: &str =
        "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, rules: [
        {name: query, host: query.test, ports: [443], scheme: https, credential: query},
        {name: bare, host: bare.test, ports: [443], scheme: https},
        {name: free, host: free.test, ports: [443], scheme: https}], credentials: [
        {name: query, pinnedHeaders: [{name: sudo}, {name: for-team, value: a}, {name: x-goog-user-project}], inject: {type: Query, name: k}, scopes: [{host: query.test, ports: [443]}]},
        {name: other, inject: {type: Query, name: own}, scopes: [
            {host: bare.test, ports: [443]}, {host: query.test, ports: [443]}]}]}";

    fn get(host: &str, target: &str) -> Request {
        Request {
            scheme: Scheme::Https,
            host: Host::parse(host).unwrap(),
            port: 443,
            method: Method::parse("GET").unwrap(),
            target: Target::parse(target).unwrap(),
            websocket: false,
        }
    }

    /// Whether a GET of this is permitted with a key of the agent's own in it.
    fn found(host: &str, target: &str) -> bool {
        let policy = Policy::from_yaml(POLICY).unwrap();
        let permit = policy.decide(get(host, target)).unwrap();
        assert_eq!(policy.own_key(&permit).reason, DenialReason::ForeignCredential);
        policy.has_own_key_in_query(&permit)
    }

    #[test]
    fn a_key_in_the_query_is_found_where_a_credential_covers_the_host_and_its_own_place_is_replaced() {
        for (host, target, expected) in [
            ("query.test", "/x", false),
            ("query.test", "/x?k=1", false),
            ("query.test", "/x?%4b=1", false),
            ("query.test", "/x?own=1", true),
            ("query.test", "/x?a=1;OWN=1", true),
            ("query.test", "/x?api_key=1", true),
            ("query.test", "/x?[k]=1&k%00x=1&+k[]=1", false),
            ("query.test", "/x?[own]=1", true),
            ("query.test", "/x?a=1&own%00x=1", true),
            ("query.test", "/x?api.key=1", true),
            ("query.test", "/x?a[api_key]=1", false),
            ("bare.test", "/x?own=1", true),
            ("bare.test", "/x?api_key=1", true),
            ("bare.test", "/x?k=1", false),
            ("bare.test", "/x?page=1", false),
            ("free.test", "/x?api_key=1&own=1", false),
        ] {
            assert_eq!(found(host, target), expected, "{host}{target}");
        }
    }

    #[test]
    fn p_g2_what_a_credential_pins_is_not_the_agents_to_choose_in_the_query_either() {
        let policy = Policy::from_yaml(POLICY).unwrap();
        for (host, target, pinned) in [
            ("query.test", "/x?sudo=root", Some("sudo")),
            ("query.test", "/x?a=1;S%75DO=root", Some("sudo")),
            ("query.test", "/x?For_Team=b", Some("for-team")),
            ("query.test", "/x?for-team=b", Some("for-team")),
            ("query.test", "/x?[sudo]=root", Some("sudo")),
            ("query.test", "/x?a=1&sudo%00x=root", Some("sudo")),
            ("query.test", "/x?for.team[]=b", Some("for-team")),
            ("query.test", "/x?%24userProject=b", Some("x-goog-user-project")),
            ("query.test", "/x?userProject=b", Some("x-goog-user-project")),
            ("query.test", "/x?x-goog-user-project=b", Some("x-goog-user-project")),
            ("query.test", "/x?project=b", None),
            ("query.test", "/x?a[sudo]=root", None),
            ("query.test", "/x?sudoku=1&team=b", None),
            ("query.test", "/sudo", None),
            // No key goes there, so nobody is spoken for.
            ("bare.test", "/x?sudo=root", None),
        ] {
            let permit = policy.decide(get(host, target)).unwrap();
            let found = policy.pinned_in_query(&permit);
            assert_eq!(found, pinned, "{host}{target}");
            if let Some(pinned) = found {
                let denial = policy.own_account(&permit, pinned);
                assert_eq!(denial.reason, DenialReason::ForeignCredential);
                assert!(denial.how_to_allow.contains(pinned), "{denial}");
            }
        }
    }
}
