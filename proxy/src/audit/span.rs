//! What a trace is told of a record.

use std::time::{Duration, SystemTime};

use super::record::Record;
use crate::traces::Span;

impl Record {
    /// The span of what this tells, which is over now and took so long.
    pub(super) fn span(&self, took: Duration) -> Span {
        Span {
            ended: SystemTime::now(),
            took,
            entrance: self.entrance,
            decision: self.decision,
            reason: self.reason,
            request_id: self.request_id,
            host: self.host.clone(),
            port: self.port,
            method: self.method.clone(),
            rule: self.rule.clone(),
            address: self.address,
            status: self.status,
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            generation: self.generation,
        }
    }
}
