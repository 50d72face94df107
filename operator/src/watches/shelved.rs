//! The watch of a kind that is held as text.

use futures::channel::mpsc::UnboundedSender;
use futures::stream::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;

use super::trim::trim;
use super::{Touched, tell_of_lists};
use crate::backoff::{Jitter, WatchBackoff};
use crate::shelf::{Shelf, Shelved, shelf};

/// Watches a kind of a sandbox's children.
pub fn shelve<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    jitter: Jitter,
    listed: &UnboundedSender<()>,
) -> (Shelf<K>, Touched<K>)
where
    K: Shelved + 'static,
{
    shelve_with(events, jitter, listed, |_| (), |_, _| ())
}

/// Watches a kind, of which `trimmed` takes off what nobody reads; `before` is shown each event while the shelf does not hold it
/// yet.
pub fn shelve_with<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    jitter: Jitter,
    listed: &UnboundedSender<()>,
    trimmed: fn(&mut K),
    mut before: impl FnMut(&Shelf<K>, &watcher::Event<K>) + Send + 'static,
) -> (Shelf<K>, Touched<K>)
where
    K: Shelved + 'static,
{
    let (reader, mut filler) = shelf();
    let held = reader.clone();
    let stream = events
        .backoff(WatchBackoff::new(jitter, std::any::type_name::<K>()))
        .modify(move |object| {
            trim(object);
            trimmed(object);
        })
        .inspect(move |event| {
            event.iter().for_each(|event| {
                before(&held, event);
                filler.apply(event);
            });
        })
        .inspect(tell_of_lists(listed))
        .touched_objects()
        .boxed();
    (reader, stream)
}
