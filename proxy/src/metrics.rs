//! Counters and gauges for the admin port, in Prometheus' text format. Labels are closed sets: entrances, decisions, reasons, and the
//! names that the policy gives its rules, up to a bound; never a host or path that was asked for, or an error's text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use agentsandbox_policy::DenialReason;

use crate::audit::Decision;
use crate::entrance::Entrance;
use crate::limits::METRIC_RULES_MAX;
use crate::traces::Dropped;
use crate::upstream::Load;

/// What all rules beyond the bound are counted under; no rule can have this name.
const OTHER_RULES: &str = "";

type Labels = (Entrance, &'static str, &'static str);

/// All counters of one proxy.
#[derive(Debug, Default)]
pub struct Metrics {
    decisions: Mutex<BTreeMap<Labels, u64>>,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    unknown_peers: AtomicU64,
    connections_refused: AtomicU64,
    admin_connections_refused: AtomicU64,
    audit_lost: AtomicU64,
    upstream_connections: AtomicU64,
    policy_rejected: AtomicU64,
    leaves_minted: AtomicU64,
    short_secrets: AtomicU64,
    scrubbers_made: AtomicU64,
    memory_full: AtomicU64,
    sent: Mutex<BTreeMap<String, u64>>,
    spans_sent: AtomicU64,
    spans_dropped: [AtomicU64; Dropped::ALL.len()],
}

impl Metrics {
    /// A decision was made; it is written down, or counted to be written down.
    pub fn decided(&self, entrance: Entrance, decision: Decision, reason: Option<DenialReason>) {
        let decision = match decision {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
        };
        let labels = (entrance, decision, reason.map_or("", DenialReason::as_str));
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        *decisions.entry(labels).or_default() += 1;
    }

    /// Bytes of a finished exchange.
    pub fn carried(&self, up: u64, down: u64) {
        self.bytes_up.fetch_add(up, Ordering::Relaxed);
        self.bytes_down.fetch_add(down, Ordering::Relaxed);
    }

    /// Bytes were sent under a rule, with those of heads.
    pub fn sent(&self, rule: &str, bytes: u64) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = sent.get_mut(rule) {
            *sum = sum.saturating_add(bytes);
            return;
        }
        let has_room = sent.len() < METRIC_RULES_MAX;
        let sum = sent.entry(if has_room { rule } else { OTHER_RULES }.to_owned()).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// A connection or datagram of someone who is not the agent.
    pub fn unknown_peer(&self) {
        self.unknown_peers.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection beyond the limit.
    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The same at the admin port, which no agent reaches and no audit line tells of.
    pub fn admin_connection_refused(&self) {
        self.admin_connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Audit lines that could not be written.
    pub fn audit_lost(&self, lines: usize) {
        self.audit_lost.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A connection to an upstream was opened.
    pub fn upstream_connected(&self) {
        self.upstream_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A policy document was refused.
    pub fn policy_rejected(&self) {
        self.policy_rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// A leaf certificate was minted.
    pub fn leaf_minted(&self) {
        self.leaves_minted.fetch_add(1, Ordering::Relaxed);
    }

    /// A secret was read that is shorter than is advised.
    pub fn short_secret(&self) {
        self.short_secrets.fetch_add(1, Ordering::Relaxed);
    }

    /// What finds the secrets of a host was worked out; that is costly, and not done for each request.
    pub fn scrubber_made(&self) {
        self.scrubbers_made.fetch_add(1, Ordering::Relaxed);
    }

    /// All that the agent had open has ended, as it took too much memory together.
    pub fn memory_was_full(&self) {
        self.memory_full.fetch_add(1, Ordering::Relaxed);
    }

    /// The collector took spans.
    pub fn spans_sent(&self, spans: usize) {
        self.spans_sent.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Spans are gone that the collector did not take.
    pub fn spans_dropped(&self, why: Dropped, spans: usize) {
        let reasons = Dropped::ALL.iter().zip(&self.spans_dropped);
        for (_, counter) in reasons.filter(|(reason, _)| **reason == why) {
            counter.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// How often that was.
    #[must_use]
    pub fn scrubbers_made(&self) -> u64 {
        self.scrubbers_made.load(Ordering::Relaxed)
    }

    /// The exposition.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP agentsandbox_proxy_decisions_total Decisions, by entrance, outcome and reason.\n\
             # TYPE agentsandbox_proxy_decisions_total counter\n",
        );
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        for ((entrance, decision, reason), count) in decisions.iter() {
            let entrance = entrance.as_str();
            let _ = writeln!(
                text,
                "agentsandbox_proxy_decisions_total{{entrance=\"{entrance}\",decision=\"{decision}\",reason=\"{reason}\"}} {count}"
            );
        }
        drop(decisions);
        text.push_str(
            "# HELP agentsandbox_proxy_rule_sent_bytes_total Bytes sent under a rule: paths, fields, bodies, tunnels.\n\
             # TYPE agentsandbox_proxy_rule_sent_bytes_total counter\n",
        );
        for (rule, bytes) in self.sent.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "agentsandbox_proxy_rule_sent_bytes_total{{rule=\"{rule}\"}} {bytes}");
        }
        text.push_str(
            "# HELP agentsandbox_proxy_spans_dropped_total Spans that the collector did not take, by reason.\n\
             # TYPE agentsandbox_proxy_spans_dropped_total counter\n",
        );
        for (why, counter) in Dropped::ALL.iter().zip(&self.spans_dropped) {
            let (why, count) = (why.as_str(), counter.load(Ordering::Relaxed));
            let _ = writeln!(text, "agentsandbox_proxy_spans_dropped_total{{reason=\"{why}\"}} {count}");
        }
        for (name, help, counter) in self.plain() {
            let value = counter.load(Ordering::Relaxed);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        text
    }

    fn plain(&self) -> [(&'static str, &'static str, &AtomicU64); 13] {
        [
            ("agentsandbox_proxy_bytes_up_total", "Body bytes from the agent.", &self.bytes_up),
            ("agentsandbox_proxy_bytes_down_total", "Body bytes to the agent.", &self.bytes_down),
            (
                "agentsandbox_proxy_unknown_peers_total",
                "Connections and datagrams of strangers.",
                &self.unknown_peers,
            ),
            (
                "agentsandbox_proxy_connections_refused_total",
                "Connections over the limit.",
                &self.connections_refused,
            ),
            (
                "agentsandbox_proxy_admin_connections_refused_total",
                "Connections to the admin port over its limit.",
                &self.admin_connections_refused,
            ),
            (
                "agentsandbox_proxy_audit_lost_total",
                "Audit lines that could not be written.",
                &self.audit_lost,
            ),
            (
                "agentsandbox_proxy_upstream_connections_total",
                "Upstream connections.",
                &self.upstream_connections,
            ),
            ("agentsandbox_proxy_policy_rejected_total", "Policy documents refused.", &self.policy_rejected),
            ("agentsandbox_proxy_leaves_minted_total", "Leaf certificates minted.", &self.leaves_minted),
            (
                "agentsandbox_proxy_short_secrets_total",
                "Secrets read that are shorter than advised.",
                &self.short_secrets,
            ),
            ("agentsandbox_proxy_scrubbers_made_total", "Scrubbers made.", &self.scrubbers_made),
            (
                "agentsandbox_proxy_memory_full_total",
                "Times that all of the agent's connections ended, as they took the memory that there is.",
                &self.memory_full,
            ),
            ("agentsandbox_proxy_spans_sent_total", "Spans that the collector took.", &self.spans_sent),
        ]
    }
}

/// The exposition of what is in use now: places for connections to upstreams; bytes of bodies on their way over HTTP/2, down and up; and the
/// memory of the process and the most that it may take, in bytes, where that is bounded.
pub(crate) fn gauges(
    places: Load,
    (unread, unsent): (usize, usize),
    memory: Option<(usize, usize)>,
) -> String {
    let mut all = vec![
        ("agentsandbox_proxy_upstream_places", "Connections to upstreams that may be open.", places.count),
        (
            "agentsandbox_proxy_upstream_places_in_use",
            "Of them those that are, also idle ones.",
            places.taken,
        ),
        ("agentsandbox_proxy_upstream_places_waiting", "Requests that wait for one of them.", places.waiting),
        ("agentsandbox_proxy_unread_bytes", "Bodies on their way to the agent over HTTP/2.", unread),
        ("agentsandbox_proxy_unsent_bytes", "Bodies on their way to upstreams over HTTP/2.", unsent),
    ];
    if let Some((taken, most)) = memory {
        all.push(("agentsandbox_proxy_memory_bytes", "Memory that the proxy takes.", taken));
        all.push(("agentsandbox_proxy_memory_max_bytes", "The most that it may.", most));
    }
    let mut text = String::new();
    for (name, help, value) in all {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_g3_what_is_sent_is_counted_by_rule_and_the_rules_with_a_line_of_their_own_are_bounded() {
        let metrics = Metrics::default();
        for rule in 0..METRIC_RULES_MAX + 10 {
            metrics.sent(&format!("rule-{rule}"), 2);
            metrics.sent(&format!("rule-{rule}"), 1);
        }
        let text = metrics.render();
        let line = |rule: &str| format!("agentsandbox_proxy_rule_sent_bytes_total{{rule=\"{rule}\"}} ");
        assert!(text.contains(&format!("{}3\n", line("rule-0"))), "{text}");
        assert!(text.contains(&format!("{}30\n", line(""))), "{text}");
        assert_eq!(text.matches("rule_sent_bytes_total{").count(), METRIC_RULES_MAX + 1);
    }
}
