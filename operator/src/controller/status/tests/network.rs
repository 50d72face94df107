//! What is told of an agent without a network.

use super::*;

#[test]
fn that_an_agent_has_no_network_is_told_where_it_was_seen_and_an_agent_that_was_to_have_none_is_not_verified_without()
 {
    let seen = |promised: bool, seen: bool| {
        with(|w| {
            w.without_network = promised;
            if seen {
                w.agent = fenced(|r| r["loopbackOnly"] = json!(true));
            }
        })
    };
    says(&told(seen(true, false)), "RuntimeVerified", "Unknown", "ReportInvalid");
    for promised in [true, false] {
        says(&told(seen(promised, promised)), "RuntimeVerified", "True", "KernelVerified");
    }
    let status = status(&sandbox(|_| ()), &outcome(seen(true, true)), None, now()).unwrap();
    let message = &status.conditions.iter().find(|c| c.type_ == "RuntimeVerified").unwrap().message;
    assert!(message.contains("leave the pod's network"), "{message}");
}
