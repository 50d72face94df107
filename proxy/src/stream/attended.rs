//! Bodies on their way down, each looked after while nothing passes: an upstream may be silent for long, and of a body whose agent takes nothing
//! no more is asked for. What may not go on lets its upstream go, with the place that it holds, and its line is written; the agent learns of
//! it as it reads.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use agentsandbox_policy::Denial;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use super::Stopped;
use crate::respond::{Body, BoxError};

/// A body that ends with what allowed it.
pub trait Revocable: HttpBody<Data = Bytes, Error = BoxError> + Unpin + Send + 'static {
    /// Whether anything can end it but its own end.
    fn is_watched(&self) -> bool;

    /// Looks whether it may go on.
    fn look(&mut self) -> Seen;
}

/// What came of a look at a body.
pub enum Seen {
    /// It may go on, or has ended.
    GoesOn,
    /// It may not: it has let its upstream go, and tells its agent so itself.
    Tells,
    /// It may not, and breaks off: whoever keeps it drops it.
    Stopped(Box<Denial>),
}

/// All bodies on their way.
#[derive(Default)]
pub struct Bodies {
    all: Arc<All>,
    next: AtomicU64,
}

type All = Mutex<HashMap<u64, Weak<dyn Looked>>>;

/// One of them, whatever it is.
trait Looked: Send + Sync {
    fn look(&self);
}

struct Kept<B>(Mutex<Left<B>>);

/// What is left of a body.
struct Left<B> {
    body: Open<B>,
    /// Who waits for more of it.
    waits: Option<Waker>,
}

enum Open<B> {
    Yes(B),
    /// It was stopped between two frames; none once that was told.
    Stopped(Option<Box<Denial>>),
}

impl<B> Kept<B> {
    fn left(&self) -> MutexGuard<'_, Left<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Revocable> Looked for Kept<B> {
    fn look(&self) {
        let mut left = self.left();
        let Open::Yes(body) = &mut left.body else { return };
        match body.look() {
            Seen::GoesOn => return,
            Seen::Tells => {}
            Seen::Stopped(denial) => left.body = Open::Stopped(Some(denial)),
        }
        let waits = left.waits.take();
        drop(left);
        if let Some(waits) = waits {
            waits.wake();
        }
    }
}

/// Bodies that are looked at in one turn.
const LOOKED_AT_AT_ONCE: usize = 32;

/// A body that is looked after until it is dropped.
struct Attended<B> {
    kept: Arc<Kept<B>>,
    number: u64,
    all: Arc<All>,
}

impl Bodies {
    /// Looks after a body from now on, if there is anything to look for.
    pub fn attend<B: Revocable>(&self, body: B) -> Body {
        if !body.is_watched() {
            return body.boxed_unsync();
        }
        let kept = Arc::new(Kept(Mutex::new(Left { body: Open::Yes(body), waits: None })));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let looked: Weak<dyn Looked> = Arc::<Kept<B>>::downgrade(&kept);
        locked(&self.all).insert(number, looked);
        Attended { kept, number, all: Arc::clone(&self.all) }.boxed_unsync()
    }

    /// Looks at each of them once, and lets others go on in between: there may be thousands, and one thread serves all.
    pub async fn look(&self) {
        // Whatever comes of it, nobody who begins or ends a body waits for it.
        let all: Vec<_> = locked(&self.all).values().cloned().collect();
        for some in all.chunks(LOOKED_AT_AT_ONCE) {
            some.iter().filter_map(Weak::upgrade).for_each(|body| body.look());
            tokio::task::yield_now().await;
        }
    }
}

fn locked(all: &All) -> MutexGuard<'_, HashMap<u64, Weak<dyn Looked>>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Revocable> HttpBody for Attended<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut left = self.kept.left();
        let polled = match &mut left.body {
            Open::Yes(body) => Pin::new(body).poll_frame(cx),
            Open::Stopped(denial) => Poll::Ready(denial.take().map(|denial| Err(Stopped(denial).into()))),
        };
        if polled.is_pending() && !left.waits.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            left.waits = Some(cx.waker().clone());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kept.left().body {
            Open::Yes(body) => body.is_end_stream(),
            // It breaks off, so that it does not look whole.
            Open::Stopped(denial) => denial.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kept.left().body {
            Open::Yes(body) => body.size_hint(),
            Open::Stopped(_) => SizeHint::default(),
        }
    }
}

impl<B> Drop for Attended<B> {
    fn drop(&mut self) {
        locked(&self.all).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use agentsandbox_policy::DenialReason;

    use super::*;

    const BYTES: u64 = 7;

    /// A body of which nothing comes, or that is over.
    struct Silent {
        is_watched: bool,
        is_over: bool,
        may_go_on: bool,
    }

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            if self.is_over { Poll::Ready(None) } else { Poll::Pending }
        }

        fn is_end_stream(&self) -> bool {
            self.is_over
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(BYTES)
        }
    }

    impl Revocable for Silent {
        fn is_watched(&self) -> bool {
            self.is_watched
        }

        fn look(&mut self) -> Seen {
            match self.may_go_on {
                true => Seen::GoesOn,
                false => Seen::Stopped(Denial::new(DenialReason::HostNotAllowed).into()),
            }
        }
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Reader(AtomicUsize);

    impl Wake for Reader {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Reader {
        /// Whether it is told of a stop, if it is told anything.
        fn polls(self: &Arc<Self>, body: &mut Body) -> Poll<Option<bool>> {
            let waker = Waker::from(Arc::clone(self));
            let polled = Pin::new(body).poll_frame(&mut Context::from_waker(&waker));
            polled.map(|frame| Some(frame?.is_err_and(|error| error.is::<Stopped>())))
        }

        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn p_c5_whoever_waits_for_a_body_that_is_stopped_is_woken_and_told_and_then_it_is_over() {
        for may_go_on in [true, false] {
            let (bodies, reader) = (Bodies::default(), Arc::new(Reader::default()));
            let mut body = bodies.attend(Silent { is_watched: true, is_over: false, may_go_on });
            assert!(reader.polls(&mut body).is_pending());
            assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(BYTES)));
            bodies.look().await;
            assert_eq!(reader.woken(), usize::from(!may_go_on));
            if may_go_on {
                assert!(reader.polls(&mut body).is_pending());
                continue;
            }
            assert_eq!(
                (body.is_end_stream(), body.size_hint().exact()),
                (false, None),
                "it does not look whole"
            );
            assert_eq!(reader.polls(&mut body), Poll::Ready(Some(true)));
            assert!(body.is_end_stream());
            assert_eq!(reader.polls(&mut body), Poll::Ready(None));
        }
    }

    #[test]
    fn a_body_is_looked_after_until_it_is_dropped_and_only_if_something_can_end_it() {
        for is_watched in [true, false] {
            let bodies = Bodies::default();
            let body = bodies.attend(Silent { is_watched, is_over: true, may_go_on: true });
            assert!(body.is_end_stream());
            assert_eq!(locked(&bodies.all).len(), usize::from(is_watched));
            drop(body);
            assert!(locked(&bodies.all).is_empty());
        }
    }
}
