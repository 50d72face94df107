//! Traces: a span for each request that is over and for each denial with a line of its own, sent to the collector that the policy
//! document names; without one there are none. They are a copy for whoever looks at times and failures. The audit trail is what
//! counts, and knows of nothing here.
//!
//! So no request waits for a span. An entry leaves one in a queue of a fixed length, after its line, and goes on; what finds no room is
//! dropped and counted. One task takes them out in batches and tries each a few times, ever more slowly, on a connection of its own. That
//! is no upstream's: it leads to the [`Collector`](agentsandbox_policy::Collector) of the document in force and nowhere else, and needs no
//! permit because nothing that an agent sends chooses where it goes, or whether it is made.

mod collector;
mod otlp;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use agentsandbox_policy::DenialReason;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::audit::{Decision, RequestId, Text};
use crate::entrance::Entrance;
use crate::limits::{
    TRACES_BATCH_SPANS_MAX, TRACES_DELAY, TRACES_PAUSES, TRACES_QUEUE_DENIALS_RESERVED,
    TRACES_QUEUE_SPANS_MAX, TRACES_TEXT_BYTES_MAX,
};
use crate::metrics::Metrics;
use crate::pipeline::Proxy;
use crate::reload::Loaded;

pub(crate) use self::collector::Way;

/// What is told of one exchange: less than its audit line says, since more people read traces. There is no path in it, for an agent
/// writes that, and with some hosts it is a key; `request_id` leads to the line.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) ended: SystemTime,
    pub(crate) took: Duration,
    pub(crate) entrance: Entrance,
    pub(crate) decision: Decision,
    pub(crate) reason: Option<DenialReason>,
    pub(crate) request_id: RequestId,
    pub(crate) host: Option<Text>,
    pub(crate) port: Option<u16>,
    pub(crate) method: Option<Cow<'static, str>>,
    pub(crate) rule: Option<Text>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) status: Option<u16>,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) generation: i64,
}

impl Span {
    /// Cuts what is longer than anything that a rule could allow, so that a queue full of spans has a size.
    fn bounded(self) -> Self {
        let bounded = |text: Text| match text.len() {
            ..=TRACES_TEXT_BYTES_MAX => text,
            _ => text.get(..text.floor_char_boundary(TRACES_TEXT_BYTES_MAX)).unwrap_or_default().into(),
        };
        let method = self.method.map(|method| Cow::Borrowed(otlp::known(&method)));
        Self { host: self.host.map(bounded), rule: self.rule.map(bounded), method, ..self }
    }
}

/// Why spans are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// There was no room for them.
    QueueFull,
    /// The collector was not reached, or did not answer, however often it was tried.
    Unreachable,
    /// The collector answered that it does not take them, or stands where none may.
    Refused,
    /// No collector is named any more, or no policy is in force.
    NoCollector,
}

impl Dropped {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::QueueFull, Self::Unreachable, Self::Refused, Self::NoCollector];

    /// The stable name, a label of the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::NoCollector => "no-collector",
        }
    }
}

/// Spans that wait to be sent.
#[derive(Default)]
pub(crate) struct Spans {
    queue: Mutex<VecDeque<Span>>,
    grown: Notify,
}

impl Spans {
    /// Leaves a span here if there is room. What is allowed an agent can repeat without end, so it never takes the last places:
    /// they are for what was denied.
    pub(crate) fn add(&self, span: Span, metrics: &Metrics) {
        let room = match span.decision {
            Decision::Deny => TRACES_QUEUE_SPANS_MAX,
            Decision::Allow => TRACES_QUEUE_SPANS_MAX - TRACES_QUEUE_DENIALS_RESERVED,
        };
        let mut queue = self.queue();
        if queue.len() >= room {
            return metrics.spans_dropped(Dropped::QueueFull, 1);
        }
        queue.push_back(span.bounded());
        // The length that is waited for.
        if queue.len() == 1 {
            self.grown.notify_one();
        }
    }

    /// The next spans: those of a second, and never more than go together. A full batch waits as well, which is what bounds how much
    /// an agent can have sent to a collector that others share.
    async fn batch(&self) -> Vec<Span> {
        while self.queue().is_empty() {
            self.grown.notified().await;
        }
        sleep(TRACES_DELAY).await;
        self.take()
    }

    fn take(&self) -> Vec<Span> {
        let mut queue = self.queue();
        let count = queue.len().min(TRACES_BATCH_SPANS_MAX);
        queue.drain(..count).collect()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends spans until the proxy ends, and then once what waits.
pub(crate) async fn export(proxy: Arc<Proxy>, ending: CancellationToken) {
    let mut is_failing = false;
    loop {
        let batch = tokio::select! {
            batch = proxy.audit.spans().batch() => batch,
            () = ending.cancelled() => break,
        };
        let sent = deliver(&proxy, &batch).await;
        // Once: the collector may be away for long.
        if let Err(why) = sent
            && !is_failing
        {
            tracing::warn!(reason = why.as_str(), "traces are not sent; requests go on");
        }
        is_failing = sent.is_err();
    }
    loop {
        let batch = proxy.audit.spans().take();
        if batch.is_empty() || deliver(&proxy, &batch).await.is_err() {
            return;
        }
    }
}

/// Sends a batch, or drops it, and counts what became of it.
async fn deliver(proxy: &Proxy, batch: &[Span]) -> Result<(), Dropped> {
    let sent = attempts(proxy, batch).await;
    match sent {
        Ok(()) => proxy.metrics.spans_sent(batch.len()),
        Err(why) => proxy.metrics.spans_dropped(why, batch.len()),
    }
    sent
}

async fn attempts(proxy: &Proxy, batch: &[Span]) -> Result<(), Dropped> {
    // Ids are drawn once: a collector that took a batch without saying so knows it again.
    let body = otlp::request(&in_force(proxy)?.policy, batch).ok_or(Dropped::Refused)?;
    let mut pauses = TRACES_PAUSES.iter();
    loop {
        match (once(proxy, body.clone()).await, pauses.next()) {
            (Err(Dropped::Unreachable), Some(pause)) => sleep(*pause).await,
            (sent, _) => return sent,
        }
    }
}

/// Sends to the collector that is named now: one that was replaced meanwhile is told nothing more.
async fn once(proxy: &Proxy, body: Bytes) -> Result<(), Dropped> {
    let loaded = in_force(proxy)?;
    let way = loaded.collector.as_ref().ok_or(Dropped::NoCollector)?;
    way.post(&loaded.policy, &proxy.resolver, body).await
}

fn in_force(proxy: &Proxy) -> Result<Arc<Loaded>, Dropped> {
    proxy.policy.current(Instant::now()).map_err(|_| Dropped::NoCollector)
}

#[cfg(test)]
mod tests;
