use serde_json::{Value, json};

use super::*;
use crate::controller::desired::Child;
use crate::fixtures::{self, agent_pod, foreign_policy, identity, observed, proxy_pod};

fn walls() -> Vec<NetworkPolicy> {
    let children = fixtures::boundary().into_iter();
    children
        .filter_map(|child| if let Child::NetworkPolicy(policy) = child { Some(policy) } else { None })
        .collect()
}

/// What a foreign policy with this spec widens, beside both walls and both pods.
fn widened_by(spec: Value) -> Option<(Component, Direction)> {
    judged(vec![foreign_policy("other", spec)], |_| ()).err().map(|w| {
        assert_eq!(w.policy, "other");
        (w.component, w.direction)
    })
}

fn judged(others: Vec<NetworkPolicy>, change: impl FnOnce(&mut Pod)) -> Result<Unwidened, Widening> {
    let mut agent = agent_pod();
    change(&mut agent);
    let mut children = fixtures::boundary();
    children.extend([agent, proxy_pod("10.244.0.8")].map(|pod| Child::Pod(Box::new(pod))));
    unwidened(&identity(), &walls(), &walls(), &observed(children, others))
}

#[test]
fn a_policy_widens_what_it_selects_and_allows() {
    use Component::{Agent, Proxy};
    use Direction::{Egress, Ingress};
    let component = |name: &str| json!({"matchLabels": {"agentsandbox.dev/component": name}});
    let apart = json!({"matchLabels": {"app": "shop"}});
    for (spec, wanted) in [
        (json!({"podSelector": {}, "egress": [{}]}), Some((Agent, Egress))),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53}]}]}),
            Some((Agent, Egress)),
        ),
        (json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}), Some((Agent, Ingress))),
        (json!({"podSelector": component("proxy"), "egress": [{}]}), Some((Proxy, Egress))),
        (json!({"podSelector": component("proxy"), "ingress": [{}]}), Some((Proxy, Ingress))),
        (json!({"ingress": [{}]}), Some((Agent, Ingress))),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["shop"]}]}, "egress": [{}]}),
            Some((Agent, Egress)),
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, "egress": [{}]}),
            Some((Agent, Egress)),
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Unheard"}]}, "egress": [{}]}),
            Some((Agent, Egress)),
        ),
        (json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), None),
        (json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}), None),
        (json!({"podSelector": apart, "egress": [{}], "ingress": [{}]}), None),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}, "egress": [{}]}),
            None,
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["shop"]}]}, "egress": [{}]}),
            None,
        ),
    ] {
        assert_eq!(widened_by(spec.clone()), wanted, "{spec}");
    }
}

#[test]
fn the_two_walls_widen_nothing() {
    assert!(judged(Vec::new(), |_| ()).is_ok());
}

#[test]
fn a_stand_in_widens_nothing_while_it_is_as_its_wall_whether_held_or_not() {
    let stand_in = |change: fn(&mut Value)| {
        let wall = network_policy::stand_in(&walls()[0]);
        let mut value = serde_json::to_value(wall).unwrap();
        change(&mut value);
        judged(vec![fixtures::from(value)], |_| ())
    };
    assert!(stand_in(|_| ()).is_ok());
    assert!(stand_in(|value| value["metadata"]["finalizers"] = Value::Null).is_ok());
    for change in [
        (|value| value["spec"]["egress"] = json!([{}])) as fn(&mut Value),
        |value| value["metadata"]["ownerReferences"] = Value::Null,
        |value| value["metadata"]["name"] = json!("fix-login-agent-other"),
    ] {
        assert!(stand_in(change).is_err());
    }
}

#[test]
fn o_t9_a_forged_owner_reference_hides_no_policy() {
    let mut forged = foreign_policy("forged", json!({"podSelector": {}, "egress": [{}]}));
    forged.metadata.owner_references = Some(vec![identity().owner]);
    assert!(is_owned(&forged.metadata, &identity()), "it looks like ours");
    assert_eq!(judged(vec![forged], |_| ()).unwrap_err().policy, "forged");
}

#[test]
fn a_wall_that_was_answered_otherwise_than_asked_is_no_wall() {
    let mut standing = walls();
    standing[0].spec.as_mut().unwrap().egress.as_mut().unwrap().push(Default::default());
    let result = unwidened(&identity(), &walls(), &standing, &observed_policies(standing.clone()));
    assert_eq!(result.unwrap_err().policy, "fix-login-agent");
}

#[test]
fn what_a_late_watch_shows_of_the_walls_themselves_does_not_count() {
    let mut late = walls();
    late[0].spec.as_mut().unwrap().egress.as_mut().unwrap().push(Default::default());
    assert!(unwidened(&identity(), &walls(), &walls(), &observed_policies(late)).is_ok());
}

fn observed_policies(policies: Vec<NetworkPolicy>) -> Observed {
    Observed { policies: policies.into_iter().map(std::sync::Arc::new).collect(), ..Observed::default() }
}

#[test]
fn a_label_that_the_live_pod_was_given_is_selected_too() {
    let by_label = || {
        vec![foreign_policy("shop", json!({"podSelector": {"matchLabels": {"app": "shop"}}, "egress": [{}]}))]
    };
    assert!(judged(by_label(), |_| ()).is_ok());
    let labelled = judged(by_label(), |pod| {
        pod.metadata.labels.as_mut().unwrap().insert("app".to_owned(), "shop".to_owned());
    });
    assert_eq!(labelled.unwrap_err().policy, "shop");
}

#[test]
fn a_pod_that_is_not_there_yet_is_selected_by_the_labels_it_will_have() {
    let by_uid = json!({"podSelector": {"matchLabels": {"agentsandbox.dev/sandbox-uid": fixtures::UID}}, "egress": [{}]});
    let nothing_yet = observed_policies(vec![foreign_policy("early", by_uid)]);
    assert_eq!(unwidened(&identity(), &walls(), &walls(), &nothing_yet).unwrap_err().policy, "early");
}

#[test]
fn the_first_by_name_is_told_and_the_agents_egress_before_all_else() {
    let all = vec![
        foreign_policy("a-ingress", json!({"podSelector": {}, "ingress": [{}]})),
        foreign_policy("c-egress", json!({"podSelector": {}, "egress": [{}]})),
        foreign_policy("b-egress", json!({"podSelector": {}, "egress": [{}]})),
    ];
    assert_eq!(judged(all, |_| ()).unwrap_err().policy, "b-egress");
}

/// Policies add up: what one leaves out by `except`, another may allow, and no exception takes anything away from the other.
#[test]
fn o_n14_an_exception_of_one_policy_denies_nothing_that_another_allows() {
    let to = |block: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}]}]});
    let public = || foreign_policy("public", to(json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]})));
    let private = || foreign_policy("private", to(json!({"cidr": "10.0.0.0/8"})));
    let told = |policies| judged(policies, |_| ()).err().map(|widening| widening.policy);
    assert_eq!(told(vec![public(), private()]).as_deref(), Some("private"));
    assert_eq!(told(vec![private()]).as_deref(), Some("private"), "what the other left out is allowed here");
    assert_eq!(told(vec![public()]).as_deref(), Some("public"));
    // Exceptions that leave nothing of the range are no wall either: the next edit widens them.
    let nothing = json!({"cidr": "0.0.0.0/0", "except": ["0.0.0.0/1", "128.0.0.0/1"]});
    assert_eq!(widened_by(to(nothing)), Some((Component::Agent, Direction::Egress)));
    assert_eq!(told(Vec::new()), None);
}

#[test]
fn a_policy_that_asks_for_the_uid_of_a_sandbox_selects_no_pod_without_it_whatever_else_it_asks_for() {
    let labels = |uid: &str| BTreeMap::from([(LABEL_SANDBOX_UID.to_owned(), uid.to_owned())]);
    for more in ["Exists", "DoesNotExist", "In", "NotIn", "Unheard"] {
        let policy = foreign_policy(
            "other",
            json!({"podSelector": {
                "matchLabels": {LABEL_SANDBOX_UID: "one"},
                "matchExpressions": [{"key": LABEL_SANDBOX_UID, "operator": more, "values": ["two"]}],
            }}),
        );
        assert_eq!(selects_only(&policy), Some("one"));
        assert!(!selects_spec(policy.spec.as_ref().unwrap(), &labels("two")), "{more}");
    }
    let one = foreign_policy("other", json!({"podSelector": {"matchLabels": {LABEL_SANDBOX_UID: "one"}}}));
    assert!(selects_spec(one.spec.as_ref().unwrap(), &labels("one")), "the control");
    for any in [
        json!({}),
        json!({"podSelector": {}}),
        json!({"podSelector": {"matchExpressions": [{"key": LABEL_SANDBOX_UID, "operator": "In", "values": ["one"]}]}}),
    ] {
        assert_eq!(selects_only(&foreign_policy("other", any)), None);
    }
}

#[test]
fn a_selector_selects_by_each_operator_as_kubernetes_does() {
    let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
    for (operator, values, wanted) in [
        ("In", json!(["other", "shop"]), true),
        ("In", json!(["other"]), false),
        ("NotIn", json!(["other", "shop"]), false),
        ("NotIn", json!(["other"]), true),
        ("Exists", Value::Null, true),
        ("DoesNotExist", Value::Null, false),
        ("Unheard", Value::Null, true),
    ] {
        let expression = json!({"key": "app", "operator": operator, "values": values});
        let selector = fixtures::from(json!({"matchExpressions": [expression]}));
        assert_eq!(selects(&selector, &labels), wanted, "{operator} {values}");
    }
}
