//! Awaiting a condition: asked again whenever the last answer is in, until it holds or time is up.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Pause between two questions to the API server, so that a waiting test leaves the cores to what it waits for.
const PAUSE: Duration = Duration::from_millis(50);

/// Time is not up before this many answers: on a machine that stood still, time has passed in which nobody could do anything.
const QUESTIONS_MIN: u32 = 20;

/// Asks until the answer is `Ok`, and returns it.
///
/// # Panics
/// When `within` has passed; the message ends with the last `Err`.
pub async fn eventually<T, F, Fut>(what: &str, within: Duration, ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    match asked(within, ask).await {
        Ok(answer) => answer,
        Err(last) => panic!("not within {within:?}: {what}; last seen: {last}"),
    }
}

/// Asks until the answer is `Ok`, and returns it. The question whose answer ends the wait was asked when `within` had passed, and
/// was not among the first.
///
/// # Errors
/// The last `Err`, when `within` has passed.
pub async fn asked<T, F, Fut>(within: Duration, mut ask: F) -> Result<T, String>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    let mut questions = 0;
    loop {
        // Before it is asked: an answer from before a stall is no answer about the time after it.
        let is_last = Instant::now() >= deadline && questions >= QUESTIONS_MIN;
        match ask().await {
            Err(last) if is_last => return Err(last),
            Err(_) => sleep(PAUSE).await,
            answer => return answer,
        }
        questions += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn what_holds_after_a_stall_in_which_nobody_ran_has_come_in_time() {
        for (stall, holds) in [(2, 4), (QUESTIONS_MIN + 9, QUESTIONS_MIN + 10)] {
            let mut asks = 0;
            let answer = asked(WITHIN, || {
                asks += 1;
                let number = asks;
                async move {
                    if number == stall {
                        tokio::time::advance(WITHIN * 10).await;
                    }
                    if number == holds { Ok(number) } else { Err(number.to_string()) }
                }
            });
            assert_eq!(answer.await, Ok(holds));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_holds_is_told_with_its_last_answer_soon_after_time_is_up() {
        let (mut asks, started) = (0, Instant::now());
        let answer = asked::<(), _, _>(WITHIN, || {
            asks += 1;
            let number = asks;
            async move { Err(number.to_string()) }
        });
        assert_eq!(answer.await, Err("101".to_owned()));
        assert_eq!(started.elapsed(), WITHIN);
    }
}
