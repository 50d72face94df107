//! Awaiting a condition: asked again whenever the last answer is in, until it holds or time is up.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Pause between two questions to the API server, so that a waiting test leaves the cores to what it waits for.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until the answer is `Ok`, and returns it.
///
/// # Panics
/// When `within` has passed; the message ends with the last `Err`.
pub async fn eventually<T, F, Fut>(what: &str, within: Duration, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if Instant::now() >= deadline => {
                panic!("not within {within:?}: {what}; last seen: {last}")
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
