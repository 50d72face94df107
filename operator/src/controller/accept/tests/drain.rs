//! How long bodies may take to their end whose rule goes.

use super::*;

/// What the proxy is told for a sandbox whose egress says this, under a class whose egress says that.
fn told(own: serde_json::Value, of_class: serde_json::Value) -> serde_json::Value {
    let sandbox = sandbox(|sandbox| {
        let allow = sandbox.spec.egress.clone().unwrap().allow;
        let own: agentsandbox_crds::sandbox::Egress = from(own);
        sandbox.spec.egress = Some(agentsandbox_crds::sandbox::Egress { allow, ..own });
    });
    let references = with_class(|class| class.spec.egress = Some(from(of_class)));
    let accepted = accept(&identity(), &sandbox, &references, &platform()).unwrap();
    let map = crate::controller::desired::policy_document::config_map(&accepted, &platform());
    let text = map.data.unwrap().into_values().next().unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["drainSeconds"].clone()
}

#[test]
fn p_c5_bodies_drain_where_the_sandbox_says_so_and_its_class_does_not_say_kill() {
    let none = || serde_json::Value::Null;
    for (own, of_class, seconds) in [
        (json!({}), json!({}), none()),
        (json!({"onRevoke": "Kill"}), json!({}), none()),
        (json!({"onRevoke": "Kill"}), json!({"onRevoke": "Drain"}), none()),
        (json!({}), json!({"onRevoke": "Drain"}), none()),
        (json!({"onRevoke": "Drain"}), json!({}), 30.into()),
        (json!({"onRevoke": "Drain", "drainSeconds": 300}), json!({}), 300.into()),
        (json!({"onRevoke": "Drain", "drainSeconds": 1}), json!({"onRevoke": "Drain"}), 1.into()),
        (json!({"onRevoke": "Drain", "drainSeconds": 60}), json!({"onRevoke": "Kill"}), none()),
    ] {
        assert_eq!(told(own.clone(), of_class.clone()), seconds, "{own} under {of_class}");
    }
}

#[test]
fn p_c5_a_number_of_seconds_that_no_schema_bounded_is_refused() {
    for seconds in [0, -1, 301, 65_536] {
        let sandbox = sandbox(|sandbox| {
            let egress = sandbox.spec.egress.as_mut().unwrap();
            (egress.on_revoke, egress.drain_seconds) =
                (Some(agentsandbox_crds::common::OnRevoke::Drain), Some(seconds));
        });
        only(rejected(&sandbox, &ordinary()), RejectionReason::InvalidField, "spec.egress.drainSeconds");
    }
}
