//! How much may be sent under a rule: what it writes itself, within what its class allows; where it writes nothing, what its class
//! allows. And what it says of answers.

use agentsandbox_crds::class::AgentSandboxClass;
use agentsandbox_crds::common::EgressLimits;
use agentsandbox_crds::sandbox::EgressRule;
use agentsandbox_policy::document::{AnswerDocument, LimitsDocument};
use kube::ResourceExt;

use super::{Rejection, RejectionReason, reject};
use crate::quantity;

/// One limit: how it is named, and where it is written.
struct Axis {
    field: &'static str,
    get: fn(&EgressLimits) -> Option<&String>,
}

const IN_ALL: Axis = Axis { field: "uploadBytes", get: |limits| limits.upload_bytes.as_ref() };
const PER_MINUTE: Axis =
    Axis { field: "uploadBytesPerMinute", get: |limits| limits.upload_bytes_per_minute.as_ref() };

/// The limits that hold for a rule; none where neither it nor its class sets one.
pub(super) fn limits(
    index: usize,
    rule: &EgressRule,
    class: &AgentSandboxClass,
    faults: &mut Vec<Rejection>,
) -> Option<LimitsDocument> {
    let told = faults.len();
    let mut of = |axis: &Axis| limit(index, rule, class, axis, faults);
    let (upload_bytes, upload_bytes_per_minute) = (of(&IN_ALL), of(&PER_MINUTE));
    // What is wrong is told; what says nothing goes on if a rule says it, so that the document refuses it.
    let is_unset = upload_bytes.is_none() && upload_bytes_per_minute.is_none() && rule.limits.is_none();
    let is_read = faults.len() == told;
    (is_read && !is_unset).then_some(LimitsDocument { upload_bytes, upload_bytes_per_minute })
}

fn limit(
    index: usize,
    rule: &EgressRule,
    class: &AgentSandboxClass,
    axis: &Axis,
    faults: &mut Vec<Rejection>,
) -> Option<u64> {
    let own = rule.limits.as_ref().and_then(axis.get);
    let most = class.spec.egress.as_ref().and_then(|egress| egress.limits.as_ref()).and_then(axis.get);
    let field = format!("spec.egress.allow[{index}].limits.{}", axis.field);
    let name = class.name_any();
    let ceiling = most.map(|text| (text, bytes(text)));
    if let Some((text, None)) = ceiling {
        let message = format!(
            "class {name} has the limit {text}, which is no quantity; its administrator must correct egress.limits"
        );
        reject(faults, RejectionReason::ClassUnsupported, "spec.className", message);
        return None;
    }
    let Some(own) = own else { return ceiling.and_then(|(_, most)| most) };
    let Some(asked) = bytes(own) else {
        let message = format!("{own} is no quantity; write a positive number of bytes such as 100Mi");
        reject(faults, RejectionReason::InvalidField, field, message);
        return None;
    };
    if let Some((text, Some(most))) = ceiling
        && asked > most
    {
        let message = format!("{own} is more than class {name} allows; write at most {text}");
        reject(faults, RejectionReason::OutsideClass, field, message);
    }
    Some(asked)
}

/// What a rule says of answers.
pub(super) fn answer(index: usize, rule: &EgressRule, faults: &mut Vec<Rejection>) -> Option<AnswerDocument> {
    let answer = rule.answer.as_ref()?;
    let max_bytes = answer.max_bytes.as_ref().map(|text| (text, bytes(text)));
    if let Some((text, None)) = max_bytes {
        let field = format!("spec.egress.allow[{index}].answer.maxBytes");
        let message = format!("{text} is no quantity; write a positive number of bytes such as 10Mi");
        reject(faults, RejectionReason::InvalidField, field, message);
        return None;
    }
    let max_bytes = max_bytes.and_then(|(_, max)| max);
    Some(AnswerDocument { max_bytes, content_types: answer.content_types.clone() })
}

fn bytes(text: &str) -> Option<u64> {
    quantity::bytes(text).and_then(|bytes| u64::try_from(bytes).ok())
}
