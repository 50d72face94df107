//! Counters, in the text format that Prometheus reads. Labels are kind, verb, reason and result; never names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use crate::admission::{Verdict, Wrong};

/// Verbs of requests to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// A read of one object.
    Get,
    /// A read of many.
    List,
    /// A creation.
    Create,
    /// A change.
    Patch,
    /// A deletion.
    Delete,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// All counters of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(Verb, &'static str, bool), u64>>,
    reconciles: Mutex<BTreeMap<&'static str, u64>>,
    admission: Mutex<Option<Verdict>>,
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, verb: Verb, kind: &'static str, succeeded: bool) {
        *self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((verb, kind, succeeded))
            .or_default() += 1;
    }

    /// Counts a reconcile by the reason it ended with.
    pub fn reconcile(&self, reason: &'static str) {
        *self.reconciles.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Keeps what is known of the admission policies.
    pub fn admission(&self, verdict: &Verdict) {
        *self.admission.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict.clone());
    }

    /// What is wrong with the admission policies, in a sentence; empty while nothing is known to be.
    #[must_use]
    pub fn admission_faults(&self) -> String {
        let verdict = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        verdict.as_ref().map(Verdict::sentence).unwrap_or_default()
    }

    fn render_admission(&self, text: &mut String) {
        let verdict = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(verdict) = verdict.as_ref() else { return };
        text.push_str(
            "# HELP agentsandbox_operator_admission_objects Admission policies and bindings of the chart by what became of them.\n\
             # TYPE agentsandbox_operator_admission_objects gauge\n",
        );
        let wrong = [Wrong::Missing, Wrong::Changed, Wrong::Unknown];
        let faults = wrong.map(|wrong| (wrong.as_str(), verdict.faults_of(wrong)));
        for (state, count) in [("in_force", verdict.in_force)].into_iter().chain(faults) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "agentsandbox_operator_admission_objects{{state=\"{state}\"}} {count}");
        }
    }

    /// Everything, as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP agentsandbox_operator_requests_total Requests to the API server.\n\
             # TYPE agentsandbox_operator_requests_total counter\n",
        );
        for ((verb, kind, succeeded), count) in
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let result = if *succeeded { "ok" } else { "error" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "agentsandbox_operator_requests_total{{verb=\"{verb}\",kind=\"{kind}\",result=\"{result}\"}} {count}"
            );
        }
        text.push_str(
            "# HELP agentsandbox_operator_reconciles_total Reconciles by the reason they ended with.\n\
             # TYPE agentsandbox_operator_reconciles_total counter\n",
        );
        for (reason, count) in self.reconciles.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "agentsandbox_operator_reconciles_total{{reason=\"{reason}\"}} {count}");
        }
        self.render_admission(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_rendered_with_their_labels() {
        let metrics = Metrics::default();
        metrics.request(Verb::Create, "Pod", true);
        metrics.request(Verb::Create, "Pod", true);
        metrics.reconcile("Running");
        let text = metrics.render();
        assert!(text.contains("requests_total{verb=\"create\",kind=\"Pod\",result=\"ok\"} 2\n"), "{text}");
        assert!(text.contains("reconciles_total{reason=\"Running\"} 1\n"), "{text}");
    }
}
