//! What the API server's audit log says of a request: who asked, by which right, and whether it was forbidden.
//!
//! An API server that has just started serves before it has read the roles, and forbids what is granted. Such an answer is told
//! apart by two things: the right is granted, and an API server began to read the roles about then.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Who the API server is in its own log.
const API_SERVER: &str = "system:apiserver";
/// So long after it began to read the roles an API server has read them.
const READS_ROLES_IN: SignedDuration = SignedDuration::from_secs(30);
/// So long before it begins to read the roles an API server may serve.
const SERVES_BEFORE: SignedDuration = SignedDuration::from_secs(5);

/// A right in words, such as `/pods delete in all namespaces`.
#[must_use]
pub fn right(group: &str, resource: &str, verb: &str, place: &str) -> String {
    format!("{group}/{resource} {verb} in {place}")
}

/// Who asked.
#[must_use]
pub fn account(request: &Value) -> &str {
    request["user"]["username"].as_str().unwrap_or_default()
}

/// When it was asked.
///
/// # Panics
/// Where that is not written.
#[must_use]
pub fn time(request: &Value) -> Timestamp {
    let time = request["requestReceivedTimestamp"].as_str().unwrap_or_default();
    time.parse().expect("each event has a time")
}

/// Whether authorization decided so: `allow` or `forbid`.
#[must_use]
pub fn decided(request: &Value, how: &str) -> bool {
    request["annotations"]["authorization.k8s.io/decision"] == how
}

/// The right that a request used: the narrowest granted one that covers it.
#[must_use]
pub fn used(request: &Value, granted: &BTreeSet<String>) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reference = &request["objectRef"];
    let resource = match text(&reference["subresource"]).as_str() {
        "" => text(&reference["resource"]),
        subresource => format!("{}/{subresource}", text(&reference["resource"])),
    };
    let (group, verb) = (text(&reference["apiGroup"]), text(&request["verb"]));
    let narrow = right(&group, &resource, &verb, &text(&reference["namespace"]));
    if granted.contains(&narrow) { narrow } else { right(&group, &resource, &verb, "all namespaces") }
}

/// Whether this is an API server that begins to read the roles: each does once after its start, and asks for what there is already.
#[must_use]
pub fn reads_the_roles(event: &Value) -> bool {
    account(event) == API_SERVER
        && event["objectRef"]["resource"] == "clusterroles"
        && event["verb"] == "watch"
        && event["requestURI"].as_str().is_some_and(|uri| uri.contains("sendInitialEvents=true"))
}

/// Whether a request that was forbidden was so because its API server had not read the roles yet: `starts` is when API servers
/// began to. What is not granted never is.
#[must_use]
pub fn is_of_a_start(request: &Value, granted: &BTreeSet<String>, starts: &[Timestamp]) -> bool {
    let at = time(request);
    let about = |start: &Timestamp| (-SERVES_BEFORE..=READS_ROLES_IN).contains(&at.duration_since(*start));
    granted.contains(&used(request, granted)) && starts.iter().any(about)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + seconds).unwrap()
    }

    fn asks(seconds: i64, verb: &str, namespace: &str) -> Value {
        json!({
            "user": {"username": "system:serviceaccount:s:operator"}, "verb": verb,
            "requestReceivedTimestamp": at(seconds).to_string(),
            "objectRef": {"resource": "pods", "namespace": namespace},
            "annotations": {"authorization.k8s.io/decision": "forbid"},
        })
    }

    #[test]
    fn o_r41_what_is_forbidden_is_an_api_servers_start_only_if_it_is_granted_and_about_then() {
        let granted =
            BTreeSet::from([right("", "pods", "delete", "all namespaces"), right("", "pods", "get", "own")]);
        let starts = [at(0), at(1_000)];
        for (request, wanted) in [
            (asks(1, "delete", "team"), true),
            (asks(-5, "delete", "team"), true),
            (asks(1_030, "delete", "team"), true),
            (asks(2, "get", "own"), true),
            (asks(31, "delete", "team"), false),
            (asks(-6, "delete", "team"), false),
            (asks(500, "delete", "team"), false),
            (asks(1, "create", "team"), false),
            (asks(1, "get", "team"), false),
        ] {
            assert_eq!(is_of_a_start(&request, &granted, &starts), wanted, "{request}");
        }
        assert!(!is_of_a_start(&asks(1, "delete", "team"), &granted, &[]), "nothing started");
    }

    #[test]
    fn an_api_server_starts_where_it_reads_the_roles_that_there_are() {
        let watch = |who: &str, resource: &str, query: &str| {
            json!({
                "user": {"username": who}, "verb": "watch", "requestReceivedTimestamp": at(0).to_string(),
                "objectRef": {"resource": resource, "apiGroup": "rbac.authorization.k8s.io"},
                "requestURI": format!("/apis/rbac.authorization.k8s.io/v1/{resource}?{query}"),
            })
        };
        let first = "allowWatchBookmarks=true&sendInitialEvents=true&watch=true";
        assert!(reads_the_roles(&watch(API_SERVER, "clusterroles", first)));
        for other in [
            watch("system:serviceaccount:s:operator", "clusterroles", first),
            watch(API_SERVER, "pods", first),
            watch(API_SERVER, "clusterroles", "resourceVersion=7&watch=true"),
        ] {
            assert!(!reads_the_roles(&other), "{other}");
        }
    }
}
