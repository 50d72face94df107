//! What is told to whoever asks what would become of a request: the proxy's own `explain` and the command line tell the same, as this
//! module has it. It decides nothing.

use serde::Serialize;

use crate::{Denial, PassPermit, Permit};

/// A decision, told. As JSON it is one object, whose `decision` is `allow` or `deny`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all_fields = "camelCase")]
pub enum Explanation<'a> {
    /// It would be sent.
    #[serde(rename = "allow")]
    Allowed {
        /// Name of the rule that allows it.
        rule: &'a str,
        /// The host that is dialled.
        host: &'a str,
        /// The port there.
        port: u16,
        /// Its method.
        method: &'a str,
        /// Its path in its one spelling, without the query.
        path: &'a str,
        /// Name of the credential that is added.
        credential: Option<&'a str>,
        /// Name of the client certificate that is shown.
        client_certificate: Option<&'a str>,
        /// Where the secret is put.
        place: Option<String>,
        /// Names of the fields that are not the agent's to choose.
        pinned_headers: Option<Vec<&'a str>>,
    },
    /// TLS would be handed on unopened: no request is seen there, so none is judged.
    #[serde(rename = "allow")]
    Passed {
        /// Always `Passthrough`.
        tls: &'static str,
        /// Name of the rule that allows it.
        rule: &'a str,
        /// The host that is dialled.
        host: &'a str,
        /// The port there.
        port: u16,
    },
    /// It would not be sent.
    #[serde(rename = "deny")]
    Denied {
        /// Why, and what to write.
        denial: &'a Denial,
    },
}

impl Explanation<'_> {
    /// Whether it would be sent.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        match self {
            Self::Allowed { .. } | Self::Passed { .. } => true,
            Self::Denied { .. } => false,
        }
    }
}

impl<'a> From<&'a Permit> for Explanation<'a> {
    fn from(permit: &'a Permit) -> Self {
        let credential = permit.credential();
        Self::Allowed {
            rule: permit.rule(),
            host: permit.host().as_str(),
            port: permit.port(),
            method: permit.method().as_str(),
            path: permit.target().path(),
            credential: credential.map(|credential| credential.name()),
            client_certificate: permit.certificate().map(|certificate| certificate.name()),
            place: credential.map(|credential| credential.injection().place()),
            pinned_headers: credential
                .map(|credential| credential.pinned().iter().map(|each| each.name()).collect()),
        }
    }
}

impl<'a> From<&'a PassPermit> for Explanation<'a> {
    fn from(permit: &'a PassPermit) -> Self {
        let (rule, host, port) = (permit.rule(), permit.host().as_str(), permit.port());
        Self::Passed { tls: "Passthrough", rule, host, port }
    }
}

impl<'a> From<&'a Denial> for Explanation<'a> {
    fn from(denial: &'a Denial) -> Self {
        Self::Denied { denial }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Host, Method, Policy, Request, Scheme, Target};

    const POLICY: &str =
        "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, rules: [
        {name: api, host: api.test, ports: [443], scheme: https, methods: [GET], credential: key},
        {name: bare, host: bare.test, ports: [443], scheme: https},
        {name: pinned, host: pinned.test, ports: [443], scheme: https, tls: Passthrough}], credentials: [
        {name: key, inject: {type: Header, name: x-api-key}, scopes: [{host: api.test, ports: [443]}]}]}";

    fn told(explanation: &Explanation<'_>) -> (bool, Value) {
        (explanation.is_allowed(), serde_json::to_value(explanation).unwrap())
    }

    #[test]
    fn each_decision_is_told_with_the_fields_that_programs_read() {
        let policy = Policy::from_yaml(POLICY).unwrap();
        let request = |host: &str, method: &str| Request {
            scheme: Scheme::Https,
            host: Host::parse(host).unwrap(),
            port: 443,
            method: Method::parse(method).unwrap(),
            target: Target::parse("/v1/x?a=1").unwrap(),
            websocket: false,
        };
        let permit = policy.decide(request("api.test", "GET")).unwrap();
        let expected = json!({"decision": "allow", "rule": "api", "host": "api.test", "port": 443, "method": "GET",
            "path": "/v1/x", "credential": "key", "clientCertificate": null, "place": "header x-api-key",
            "pinnedHeaders": []});
        assert_eq!(told(&Explanation::from(&permit)), (true, expected));

        let permit = policy.decide(request("bare.test", "PUT")).unwrap();
        let (_, bare) = told(&Explanation::from(&permit));
        assert_eq!(
            (&bare["credential"], &bare["place"], &bare["pinnedHeaders"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );

        let pass = policy.pass(&Host::parse("pinned.test").unwrap(), 443).unwrap();
        let expected = json!({"decision": "allow", "tls": "Passthrough", "rule": "pinned", "host": "pinned.test", "port": 443});
        assert_eq!(told(&Explanation::from(&pass)), (true, expected));

        let denial = policy.decide(request("api.test", "POST")).unwrap_err();
        let expected = json!({"decision": "deny", "denial": serde_json::to_value(&denial).unwrap()});
        assert_eq!(told(&Explanation::from(&*denial)), (false, expected));
    }
}
