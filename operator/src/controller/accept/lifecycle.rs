//! How long a sandbox may live, as its spec writes it. The schema refuses what is no time; an object that was stored under an
//! older schema is judged here, since what cannot be read would otherwise bound nothing.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::Mode;
use k8s_openapi::jiff::SignedDuration;

use super::{Rejection, RejectionReason, reject};
use crate::controller::life::{mode, parse};
use crate::platform::Platform;

/// A shorter life is over before anything could be done in it.
const LIFETIME_MIN: SignedDuration = SignedDuration::from_secs(10);

/// A shorter one would be over as soon as the clocks of a node and of the operator lie as far apart as they may.
const IDLE_MIN: SignedDuration = SignedDuration::from_mins(1);

pub(super) fn lifecycle(sandbox: &AgentSandbox, platform: &Platform, faults: &mut Vec<Rejection>) {
    let Some(lifecycle) = &sandbox.spec.lifecycle else { return };
    let bad = |text: &Option<String>, min| {
        text.as_deref().is_some_and(|text| parse(text).is_none_or(|time| time < min))
    };
    if bad(&lifecycle.max_lifetime, LIFETIME_MIN) {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.lifecycle.maxLifetime",
            "maxLifetime must be a time from 10s to 8760h in hours, minutes and seconds; write for example 30m or 1h30m",
        );
    }
    if bad(&lifecycle.idle_timeout, IDLE_MIN) {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.lifecycle.idleTimeout",
            "idleTimeout must be a time from 1m to 8760h in hours, minutes and seconds; write for example 30m or 1h30m",
        );
    } else if lifecycle.idle_timeout.is_some() && platform.asks_from.is_none() {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.lifecycle.idleTimeout",
            "idleTimeout cannot be kept where the operator asks no proxy (--denials=none), which alone knows what passes; write maxLifetime in place of idleTimeout, or have the operator's administrator set denials to ask",
        );
    }
    if bad(&lifecycle.active_deadline, LIFETIME_MIN) {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.lifecycle.activeDeadline",
            "activeDeadline must be a time from 10s to 8760h in hours, minutes and seconds; write for example 30m or 1h30m",
        );
    } else if lifecycle.active_deadline.is_some() && mode(sandbox) == Mode::Service {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.lifecycle.activeDeadline",
            "activeDeadline is the time that one run of a Task may take; write mode: Task, or maxLifetime in place of activeDeadline",
        );
    }
    if bad(&lifecycle.ttl_after_finished, SignedDuration::ZERO) {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.lifecycle.ttlAfterFinished",
            "ttlAfterFinished must be a time from 0s to 8760h in hours, minutes and seconds; write for example 30m or 1h30m",
        );
    }
}
