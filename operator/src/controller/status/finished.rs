//! What is told of a sandbox that is over. Nothing of what was proven of it holds any more, and nothing is proven anew.
//!
//! To deployment tools a program that ended well is done and one that did not has failed, as a Job is, so the first is Ready
//! and the second Stalled. The program's last words are in `status.program` alone: what a hostile program says is no message of ours.

use agentsandbox_crds::sandbox::ProgramStatus;

use crate::controller::life::{self, Cut};
use crate::controller::outcome::Left;

use super::{ConditionType, Holds, Reason, Verdict, flag, unknown};

const ONCE: &str = "It is not started again, whatever is changed in the sandbox: delete the sandbox and create it anew for that.";

/// All conditions.
pub(super) fn finished(program: &ProgramStatus, left: &Left) -> Vec<Verdict> {
    let (holds, reason, message) = result(program);
    let (facts, message) = match left {
        Left::Nothing => {
            ("The program has ended, and nothing of the sandbox runs any more.".to_owned(), message)
        }
        left => {
            let rest = rest(left);
            (format!("The program has ended. {rest}"), format!("{message} {rest}"))
        }
    };
    let stalled = reason.needs_a_person();
    let goes_on = !stalled && *left != Left::Nothing;
    let mut all = vec![Verdict::new(ConditionType::Accepted, Holds::Unknown, Reason::Finished, &facts)];
    all.extend(unknown(Reason::Finished, &facts));
    all.push(Verdict::new(ConditionType::Ready, holds, reason, message.as_str()));
    all.push(flag(ConditionType::Reconciling, goes_on.then_some((Reason::Finished, facts.as_str()))));
    all.push(flag(ConditionType::Stalled, stalled.then_some((reason, message.as_str()))));
    all
}

/// What is left of it, as a sentence.
fn rest(left: &Left) -> String {
    match left {
        Left::Nothing => String::new(),
        Left::Ending(pods) => format!(
            "These pods of it are stopped and not gone yet: {}. If one stays, see why: kubectl describe pod.",
            pods.join(", ")
        ),
        Left::Unstopped(why) => {
            format!("What is left of it could not be stopped ({why}); that is tried again.")
        }
    }
}

fn result(program: &ProgramStatus) -> (Holds, Reason, String) {
    if let Some(cut) = life::cut(program) {
        let why = match cut {
            Cut::Lifetime => "it has lived as long as lifecycle.maxLifetime says",
            Cut::Deadline => "this run of its program has taken as long as lifecycle.activeDeadline says",
            Cut::Idle => "nothing has passed through its proxy for as long as lifecycle.idleTimeout says",
        };
        return (Holds::False, cut.reason(), format!("The sandbox is stopped, for {why}. {ONCE}"));
    }
    match program.exit_code {
        // The result was taken out of the status, and how it was called is left.
        None if program.reason == Reason::Succeeded.as_str() => {
            (Holds::True, Reason::Succeeded, format!("The program ended well. {ONCE}"))
        }
        Some(0) => (Holds::True, Reason::Succeeded, format!("The program ended with exit code 0. {ONCE}")),
        code => {
            let code = code
                .map_or_else(|| "without an exit code".to_owned(), |code| format!("with exit code {code}"));
            let message = format!(
                "The program ended {code} ({}). status.program has its last words, and kubectl logs of the agent's pod its log. {ONCE}",
                program.reason
            );
            (Holds::False, Reason::Failed, message)
        }
    }
}
