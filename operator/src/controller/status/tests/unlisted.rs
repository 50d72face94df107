//! What is told of a sandbox whose template nobody knows.

use super::*;
use crate::controller::outcome::{Bounds, Halted, Unlisted};

const GOES_ON: &str = "goes on behind its walls";

fn of(bounds: Bounds) -> Stage {
    let template = "jobs".to_owned();
    Stage::Unlisted(Box::new(Unlisted { template, silent_for: None, is_unheld: false, bounds }))
}

fn breach(why: Blocked, agent: Halted) -> Bounds {
    Bounds::Breached(Breach { lost: Lost::Wall, why, agent })
}

#[test]
fn what_fails_of_its_bounds_is_why_it_is_not_ready_and_nothing_is_said_to_go_on_within_them() {
    let away = || Blocked::Transient("POST of NetworkPolicy x was answered with 500".to_owned());
    let quota = || Blocked::Refused("POST of NetworkPolicy x was refused: exceeded quota: walls".to_owned());
    let widened = || Bounds::Kept(widening(Component::Agent, Direction::Egress));
    let cases: [(&dyn Fn() -> Bounds, &str, &str); 7] = [
        (&|| Bounds::Open, "False", "ProxyOpen"),
        (&widened, "False", "EgressWidened"),
        (&|| Bounds::Blocked(away()), "Unknown", "Retrying"),
        (&|| Bounds::Blocked(quota()), "False", "Refused"),
        (&|| breach(away(), Halted::Spared), "Unknown", "Retrying"),
        (&|| breach(quota(), Halted::Stopped), "False", "Refused"),
        (&|| breach(away(), Halted::Unstopped("etcd".to_owned())), "False", "WallsMissing"),
    ];
    for (bounds, holds, reason) in cases {
        let all = told(of(bounds()));
        says(&all, "Ready", holds, reason);
        says(&all, "Accepted", "Unknown", "TemplatesUnknown");
        let status = status(&sandbox(|_| ()), &outcome(of(bounds())), None, now()).unwrap();
        assert_eq!(status.conditions[0].type_, "Accepted", "{reason}: it is written in its place");
        let text: String = status.conditions.into_iter().map(|one| one.message).collect();
        assert!(!text.contains(GOES_ON), "{reason}: {text}");
        assert!(text.contains("AgentSandboxTemplate jobs says. Have"), "{reason}: {text}");
    }
}

#[test]
fn what_is_within_its_bounds_is_said_to_go_on_and_nothing_new_to_be_made() {
    for bounds in [|| Bounds::Kept(None), || Bounds::Probed] {
        let all = told(of(bounds()));
        for type_ in ["Accepted", "NetworkIsolated", "RuntimeVerified", "Ready"] {
            says(&all, type_, "Unknown", "TemplatesUnknown");
        }
        says(&all, "Stalled", "True", "TemplatesUnknown");
        for type_ in ["Accepted", "Ready"] {
            let text = message(of(bounds()), type_);
            assert!(text.contains(GOES_ON) && text.contains("nothing new is made"), "{text}");
        }
    }
}
