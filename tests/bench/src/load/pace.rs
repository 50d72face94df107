//! A fixed rate. The runtime's timers count in milliseconds, so a thread keeps the time and sends a token for each request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::Outcome;
use super::connect::Client;
use super::jobs::{Seen, nanos, senders, summed};

/// Sends at this rate; a delay counts from the moment the request was due.
pub async fn rate(client: Arc<Client>, connections: usize, per_second: f64, length: Duration) -> Outcome {
    let senders = senders(&client, connections, 1).await;
    let (due, tokens) = mpsc::unbounded_channel();
    let begin = Instant::now();
    let clock = std::thread::spawn(move || tick(&due, per_second, begin, length));
    let tokens = Arc::new(Mutex::new(tokens));
    let mut tasks = JoinSet::new();
    for mut sender in senders {
        let (client, tokens) = (Arc::clone(&client), Arc::clone(&tokens));
        tasks.spawn(async move {
            let mut seen = Seen::default();
            loop {
                let token = tokens.lock().await.recv().await;
                let Some(due) = token else { return seen };
                match client.exchange(&mut sender).await {
                    Ok(()) => seen.nanos.push(nanos(due.elapsed())),
                    Err(_) => {
                        seen.failed += 1;
                        return seen;
                    }
                }
            }
        });
    }
    let outcome = summed(tasks, begin, length).await;
    clock.join().unwrap();
    outcome
}

fn tick(due: &mpsc::UnboundedSender<Instant>, per_second: f64, begin: Instant, length: Duration) {
    let count = (length.as_secs_f64() * per_second) as u64;
    for number in 0..count {
        let at = Duration::from_secs_f64(number as f64 / per_second);
        if let Some(wait) = at.checked_sub(begin.elapsed()) {
            std::thread::sleep(wait);
        }
        // The kernel wakes a sleeper a little late; that is the clock's delay, not the contender's.
        if due.send(Instant::now()).is_err() {
            return;
        }
    }
}
