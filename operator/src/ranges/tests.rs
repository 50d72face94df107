use serde_json::{Value, json};

use super::*;
use crate::backoff::Jitter;
use crate::fixtures::api::{Api as FakeApi, Says, refusal};
use crate::watches;
use kube::ResourceExt;

fn node(name: &str, pod_cidrs: &Value, addresses: &[(&str, &str)]) -> Value {
    let addresses: Vec<_> =
        addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": "101"},
        "spec": {"podCIDRs": pod_cidrs},
        "status": {"addresses": addresses},
    })
}

fn services(cidrs: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
    })
}

fn shown(ranges: &[Ipv4Net]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

fn listed<V>(objects: Vec<(String, V)>) -> impl Iterator<Item = Event<(String, V)>> {
    let all = objects.into_iter().map(Event::InitApply);
    std::iter::once(Event::Init).chain(all).chain(std::iter::once(Event::InitDone))
}

/// What follows from lists of these.
fn found(nodes: &[Value], services: &[Value]) -> Found {
    let mut found = Found::default();
    let read = |node: &Value| {
        let node: Node = serde_json::from_value(node.clone()).unwrap();
        (node.name_any(), of_node(&node))
    };
    listed(nodes.iter().map(read).collect()).for_each(|event| found.hear(News::Node(event)));
    let read = |one: &Value| {
        let one: ServiceCIDR = serde_json::from_value(one.clone()).unwrap();
        (one.name_any(), of_services(&one))
    };
    listed(services.iter().map(read).collect()).for_each(|event| found.hear(News::Service(event)));
    found
}

#[test]
fn p_c4_pods_services_and_nodes_are_found_also_where_a_nodes_address_is_public() {
    let addresses = [("InternalIP", "10.0.0.1"), ("ExternalIP", "8.8.4.4"), ("Hostname", "n")];
    let nodes = [
        node("a", &json!(["10.244.0.0/24", "fd00:1::/64"]), &addresses),
        node("b", &json!(["10.244.7.0/24"]), &[("InternalIP", "fd00::1")]),
    ];
    let found = found(&nodes, &[services(&json!(["10.96.0.0/16"]))]);
    let wanted = ["8.8.4.4/32", "10.0.0.1/32", "10.96.0.0/16", "10.244.0.0/24", "10.244.7.0/24"];
    assert_eq!(shown(&found.ranges(&Configured::default()).unwrap()), wanted);
}

#[test]
fn p_c4_what_is_written_holds_beside_what_is_found() {
    let written = Configured {
        pods: vec!["10.244.0.0/16".parse().unwrap()],
        nodes: vec!["192.0.2.0/24".parse().unwrap()],
        services: Vec::new(),
    };
    let nodes = [node("a", &json!(["10.244.7.0/24"]), &[("InternalIP", "10.0.0.1")])];
    let found = found(&nodes, &[services(&json!(["10.96.0.0/16"]))]);
    let wanted = ["10.0.0.1/32", "10.96.0.0/16", "10.244.0.0/16", "192.0.2.0/24"];
    assert_eq!(shown(&found.ranges(&written).unwrap()), wanted);
}

#[test]
fn p_c4_what_nothing_says_is_asked_for_by_name() {
    let unknown = |found: &Found| found.ranges(&Configured::default()).unwrap_err();
    let nobody = unknown(&found(&[node("a", &json!([]), &[])], &[]));
    assert_eq!(nobody, Unknown(vec!["pods", "Services", "nodes"]));
    let nodes = [node("a", &json!(null), &[("InternalIP", "10.0.0.1")])];
    // A range of everything, or one that is none, would hide that nothing is known.
    let error = unknown(&found(&nodes, &[services(&json!(["0.0.0.0/0", "x"]))]));
    assert_eq!(
        error.to_string(),
        "nothing says which addresses pods and Services have: write clusterRanges.podCIDRs (--pod-cidr) and clusterRanges.serviceCIDRs (--service-cidr)"
    );
}

#[test]
fn a_node_that_leaves_is_forgotten_and_a_list_counts_only_once_it_is_whole() {
    let all = [
        node("a", &json!(["10.244.0.0/24"]), &[("InternalIP", "10.0.0.1")]),
        node("b", &json!(["10.244.7.0/24"]), &[("InternalIP", "8.8.4.4")]),
    ];
    let mut found = found(&all, &[services(&json!(["10.96.0.0/16"]))]);
    let now = |found: &Found| shown(&found.ranges(&Configured::default()).unwrap());
    let before = now(&found);
    assert!(before.contains(&"8.8.4.4/32".to_owned()));
    found.hear(News::Node(Event::Init));
    let a: Node = serde_json::from_value(all[0].clone()).unwrap();
    found.hear(News::Node(Event::InitApply(("a".to_owned(), of_node(&a)))));
    assert_eq!(now(&found), before, "half a list forgets nobody");
    found.hear(News::Node(Event::InitDone));
    let after = ["10.0.0.1/32", "10.96.0.0/16", "10.244.0.0/24"];
    assert_eq!(now(&found), after);
    found.hear(News::Node(Event::Apply(("b".to_owned(), OfNode::default()))));
    found.hear(News::Node(Event::Delete(("b".to_owned(), OfNode::default()))));
    assert_eq!(now(&found), after);
}

/// An API server with one node and a Service range, on which a second node joins once it is watched.
async fn joined_later() -> FakeApi {
    let list = |items: Value| json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "100"}, "items": items});
    let first = node("a", &json!(["10.244.0.0/24"]), &[("InternalIP", "10.0.0.1")]);
    let second = node("b", &json!(["10.244.7.0/24"]), &[("InternalIP", "8.8.4.4")]);
    let says: Says = Box::new(move |asked| {
        let watches = asked.query.contains("watch=true");
        Some(match (asked.line.rsplit('/').next().unwrap_or_default(), watches) {
            ("nodes", false) => (200, list(json!([first]))),
            ("nodes", true) if asked.query.contains("resourceVersion=100") => {
                (200, json!({"type": "ADDED", "object": second}))
            }
            ("servicecidrs", false) => (200, list(json!([services(&json!(["10.96.0.0/16"]))]))),
            _ => refusal(500, "InternalError", "no more is told"),
        })
    });
    FakeApi::start(Vec::new(), says).await
}

async fn started(api: &FakeApi) -> Result<(Ranges, impl Future<Output = ()> + Send + 'static), Unknown> {
    let nodes = watches::brought(&api.client, Jitter::default(), of_node);
    let services = watches::brought(&api.client, Jitter::default(), of_services);
    follow(nodes, services, Configured::default()).await
}

#[tokio::test]
async fn p_c4_a_node_that_joins_is_in_the_ranges_without_a_restart() {
    let api = joined_later().await;
    let started = started(&api).await;
    let Ok((mut ranges, following)) = started else { panic!("the ranges are known") };
    assert!(!shown(&ranges.borrow()).contains(&"8.8.4.4/32".to_owned()));
    let following = tokio::spawn(following);
    ranges.changed().await.unwrap();
    assert_eq!(
        shown(&ranges.borrow_and_update()),
        ["8.8.4.4/32", "10.0.0.1/32", "10.96.0.0/16", "10.244.0.0/24", "10.244.7.0/24"]
    );
    following.abort();
}

#[tokio::test]
async fn p_c4_a_cluster_that_says_nothing_is_no_reason_to_start() {
    let silent: Says = Box::new(|asked| {
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "100"}, "items": []});
        (!asked.query.contains("watch=true")).then_some((200, list))
    });
    let api = FakeApi::start(Vec::new(), silent).await;
    let unknown = started(&api).await.err();
    assert_eq!(unknown, Some(Unknown(vec!["pods", "Services", "nodes"])));
}
