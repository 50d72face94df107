//! What a load does on its connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::connect::{Client, Failed, Sender};
use super::{Job, Load, Outcome, pace};
use crate::MINT;
use crate::upstream::{Body, drain, now_nanos};

/// Events are not counted before all streams have settled.
const SETTLE: Duration = Duration::from_millis(500);
/// How long after its end a run waits for answers that are still due; what has not come then has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one task saw.
#[derive(Default)]
pub struct Seen {
    /// Delays in nanoseconds.
    pub nanos: Vec<u64>,
    /// Failures.
    pub failed: u64,
}

/// Runs the job.
pub async fn run(load: Load) -> Outcome {
    let end = Duration::from_millis(load.millis);
    let job = load.job.clone();
    let client = Arc::new(Client::new(load));
    match job {
        Job::Closed { connections, streams } => closed(client, connections, streams, end).await,
        Job::Fresh { concurrency } => {
            repeat(concurrency, end, move |_| {
                let client = Arc::clone(&client);
                async move { client.exchange(&mut client.open().await?).await }
            })
            .await
        }
        Job::Handshakes { concurrency, distinct } => handshakes(client, concurrency, distinct, end).await,
        Job::Rate { connections, per_second } => pace::rate(client, connections, per_second, end).await,
        Job::Events { connections, streams } => events(client, connections, streams, end).await,
        Job::Download { .. } | Job::Upload { .. } => transfer(&client, &job).await,
        Job::Idle { pairs } => idle(&client, pairs).await,
    }
}

fn nothing() -> Body {
    Full::new(Bytes::new()).boxed_unsync()
}

/// Opens the connections, each for so many tasks.
pub async fn senders(client: &Client, connections: usize, streams: usize) -> Vec<Sender> {
    let mut senders = Vec::new();
    for _ in 0..connections {
        match client.open().await.expect("the contender accepts a connection") {
            Sender::Http1(sender) => senders.push(Sender::Http1(sender)),
            Sender::Http2(sender) => {
                senders.extend((0..streams).map(|_| Sender::Http2(sender.clone())));
            }
        }
    }
    senders
}

async fn closed(client: Arc<Client>, connections: usize, streams: usize, length: Duration) -> Outcome {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut sender in senders(&client, connections, streams).await {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let mut seen = Seen::default();
            while begin.elapsed() < length {
                let sent = Instant::now();
                if client.exchange(&mut sender).await.is_err() {
                    seen.failed += 1;
                    break;
                }
                seen.nanos.push(nanos(sent.elapsed()));
            }
            seen
        });
    }
    summed(tasks, begin, length).await
}

async fn repeat<F>(concurrency: usize, length: Duration, once: impl Fn(u64) -> F) -> Outcome
where
    F: Future<Output = Result<(), Failed>> + Send + 'static,
{
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    let (mut number, mut all) = (0, Seen::default());
    while begin.elapsed() < length {
        while tasks.len() < concurrency {
            let work = once(number);
            number += 1;
            tasks.spawn(async move {
                let sent = Instant::now();
                work.await.map(|()| nanos(sent.elapsed()))
            });
        }
        if let Some(done) = tasks.join_next().await {
            all.add(done.unwrap());
        }
    }
    while let Ok(Some(done)) = tokio::time::timeout(PATIENCE, tasks.join_next()).await {
        all.add(done.unwrap());
    }
    all.failed += tasks.len() as u64;
    all.outcome(begin)
}

async fn handshakes(client: Arc<Client>, concurrency: usize, distinct: bool, length: Duration) -> Outcome {
    // No two runs may ask for the same name.
    let run = now_nanos();
    repeat(concurrency, length, move |number| {
        let client = Arc::clone(&client);
        async move {
            let authority = &client.load().authority;
            if !distinct {
                return client.secure(authority).await.map(drop);
            }
            let port = authority.rsplit(':').next().unwrap_or_default();
            client.secure(&format!("n{run}x{number}.{MINT}:{port}")).await.map(drop)
        }
    })
    .await
}

async fn events(client: Arc<Client>, connections: usize, streams: usize, length: Duration) -> Outcome {
    let mut opening = JoinSet::new();
    for mut sender in senders(&client, connections, streams).await {
        let client = Arc::clone(&client);
        opening.spawn(async move { Ok::<_, Failed>((client.ask(&mut sender, nothing()).await?, sender)) });
    }
    // Nothing is measured before all have begun.
    let begun = tokio::time::timeout(PATIENCE, opening.join_all()).await.expect("all streams begin");
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in begun {
        tasks.spawn(async move {
            let Ok((answer, _sender)) = stream else { return Seen { failed: 1, ..Seen::default() } };
            listen(answer.into_body(), begin, length).await
        });
    }
    let outcome = summed(tasks, begin, length).await;
    Outcome { seconds: outcome.seconds - SETTLE.as_secs_f64(), ..outcome }
}

/// Reads events until the time is over.
async fn listen(mut body: hyper::body::Incoming, begin: Instant, length: Duration) -> Seen {
    let mut seen = Seen::default();
    while let Some(left) = (SETTLE + length).checked_sub(begin.elapsed()) {
        match tokio::time::timeout(left, body.frame()).await {
            Ok(Some(Ok(frame))) if begin.elapsed() > SETTLE => {
                seen.nanos.extend(frame.data_ref().and_then(delay));
            }
            Ok(Some(Ok(_))) => {}
            Ok(_) => {
                seen.failed += 1;
                break;
            }
            Err(_) => break,
        }
    }
    seen
}

/// How old an event is.
fn delay(frame: &Bytes) -> Option<u64> {
    let now = now_nanos();
    let text = std::str::from_utf8(frame).ok()?.strip_prefix("data: ")?;
    Some(now.saturating_sub(text.split('\n').next()?.parse().ok()?))
}

async fn transfer(client: &Client, job: &Job) -> Outcome {
    let mut sender = client.open().await.expect("the contender accepts a connection");
    let begin = Instant::now();
    let (wanted, moved) = match *job {
        Job::Upload { bytes } => {
            let answer = client.upload(&mut sender, bytes).await.unwrap_or_default();
            (bytes, std::str::from_utf8(&answer).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
        }
        Job::Download { bytes } => match client.ask(&mut sender, nothing()).await {
            Ok(answer) => (bytes, drain(answer.into_body()).await),
            Err(Failed) => (bytes, 0),
        },
        _ => (0, 0),
    };
    let done = u64::from(wanted == moved);
    Outcome {
        done,
        failed: 1 - done,
        seconds: begin.elapsed().as_secs_f64(),
        bytes: moved,
        ..Outcome::default()
    }
}

/// Holds connections on which an answer has begun.
async fn idle(client: &Client, pairs: usize) -> Outcome {
    let begin = Instant::now();
    let (mut held, mut failed) = (Vec::new(), 0);
    for _ in 0..pairs {
        let opened = async {
            let mut sender = client.open().await?;
            let answer = client.ask(&mut sender, nothing()).await?;
            Ok::<_, Failed>((sender, answer))
        };
        match opened.await {
            Ok(pair) => held.push(pair),
            Err(Failed) => failed += 1,
        }
    }
    println_ready();
    let mut rest = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    Outcome { done: held.len() as u64, failed, seconds: begin.elapsed().as_secs_f64(), ..Outcome::default() }
}

#[allow(clippy::print_stdout, reason = "the one who started the load waits for this line")]
fn println_ready() {
    println!("ready");
}

/// A duration in nanoseconds.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits for the tasks and puts together what they saw. Those that do not end are failures.
pub async fn summed(mut tasks: JoinSet<Seen>, begin: Instant, length: Duration) -> Outcome {
    let mut all = Seen::default();
    let deadline = tokio::time::Instant::from_std(begin + SETTLE + length + PATIENCE);
    while let Ok(Some(seen)) = tokio::time::timeout_at(deadline, tasks.join_next()).await {
        let seen = seen.unwrap();
        all.nanos.extend(seen.nanos);
        all.failed += seen.failed;
    }
    all.failed += tasks.len() as u64;
    all.outcome(begin)
}

impl Seen {
    fn add(&mut self, done: Result<u64, Failed>) {
        match done {
            Ok(nanos) => self.nanos.push(nanos),
            Err(Failed) => self.failed += 1,
        }
    }

    fn outcome(mut self, begin: Instant) -> Outcome {
        let seconds = begin.elapsed().as_secs_f64();
        self.nanos.sort_unstable();
        let micros = |percent: usize| {
            let index = (self.nanos.len() * percent / 100).min(self.nanos.len().saturating_sub(1));
            self.nanos.get(index).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
        };
        Outcome {
            done: self.nanos.len() as u64,
            failed: self.failed,
            seconds,
            bytes: 0,
            micros_p50: micros(50),
            micros_p99: micros(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_delays() {
        let seen = Seen { nanos: (1..=100).rev().map(|n| n * 1000).collect(), failed: 3 };
        let outcome = seen.outcome(Instant::now());
        assert_eq!((outcome.done, outcome.failed), (100, 3));
        assert!((outcome.micros_p50 - 51.0).abs() < 0.1 && (outcome.micros_p99 - 100.0).abs() < 0.1);
    }

    #[test]
    fn an_event_tells_its_age_and_what_is_no_event_tells_none() {
        let made = now_nanos() - 5_000_000;
        let age = delay(&Bytes::from(format!("data: {made}\n\n"))).unwrap();
        assert!((5_000_000..=now_nanos() - made).contains(&age), "{age}");
        assert_eq!(delay(&Bytes::from_static(b": comment\n\n")), None);
    }
}
