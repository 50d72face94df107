//! Each CEL rule on the API server that evaluates it for real, with the cases of `crds/tests/cel`.

use agentsandbox_tests::{Rig, with_namespace};

#[allow(dead_code, reason = "the local test reads more of a case than this one")]
#[path = "../../../crds/tests/cel/cases.rs"]
mod cases;

#[tokio::test]
async fn every_rule_passes_its_accepted_and_refuses_its_rejected_case_on_the_api_server() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "cel", async |ns| {
        let mut wrong = Vec::new();
        for kind in cases::all() {
            // What was there before is the operator's to write; the scenes of `life` ask for such a change.
            for case in kind.cases.iter().filter(|case| case.before(&kind.base).is_none()) {
                if let Err(refusal) = ns.try_create(case.accepted(&kind.base)).await {
                    wrong.push(format!("{} {}: refused: {refusal}", kind.kind, case.at));
                }
                match ns.try_create(case.rejected(&kind.base)).await {
                    Err(refusal) if refusal.to_string().contains(&case.message) => {}
                    other => wrong.push(format!("{} {}: {:?}: {other:?}", kind.kind, case.at, case.message)),
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}
