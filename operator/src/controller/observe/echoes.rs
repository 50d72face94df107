//! What a watch brings of the operator's own creations and patches is no news: the pass that wrote it has gone on with the
//! answer, and another one would find nothing new. So an echo does not wake the
//! sandbox that was written for. Others are woken as ever: nobody has judged for them what was answered.
//!
//! An event is an echo if it shows exactly the version that was answered. It often comes before the answer, so as long as a
//! write is under way, what its object's watch brings waits for the answer; anything but the answered version then wakes
//! whom it concerns, and so does everything that came while a write failed. Each echo is expected once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

/// For how long a sandbox looks again and again for a child that no watch has shown. A watch is opened anew every half minute and
/// tells then what it has not told, so one that still has not shown the child never will: it goes by a label, which somebody takes
/// off.
const AWAITED_MAX: Duration = Duration::from_secs(90);

/// Kind of a sandbox.
pub(super) const SANDBOX_KIND: &str = "AgentSandbox";

/// Kind, namespace and name of an object.
type Key = (&'static str, String, String);

/// Own writes that are under way, or whose echo has not come.
#[derive(Debug)]
pub(super) struct Echoes {
    writes: Mutex<HashMap<Key, Write>>,
    wake: UnboundedSender<ObjectRef<AgentSandbox>>,
}

#[derive(Debug)]
enum Write {
    /// It is not answered. What a watch brought last meanwhile, and whether that wakes the sandbox that it is for.
    Sent { sandbox: String, held: Option<(Version, bool)> },
    /// It is answered since then, for the sandbox with this name and this UID.
    Answered { sandbox: String, version: Version, uid: String, since: Instant },
}

/// One version of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    uid: Option<String>,
    version: Option<String>,
}

/// A write under way. Dropped without an answer, it has failed, or nobody knows.
#[must_use]
pub struct Sent<'a> {
    echoes: &'a Echoes,
    key: Option<Key>,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Self { uid: meta.uid.clone(), version: meta.resource_version.clone() }
    }

    /// Whether it is certain that the other one is of the same object and later.
    fn precedes(&self, other: &Self) -> bool {
        let number = |one: &Self| one.version.as_ref().and_then(|text| text.parse::<u64>().ok());
        self.uid == other.uid && number(self).zip(number(other)).is_some_and(|(one, other)| one < other)
    }
}

impl Default for Echoes {
    /// Of nobody who could be woken.
    fn default() -> Self {
        Self::waking(unbounded().0)
    }
}

impl Echoes {
    pub(super) fn waking(wake: UnboundedSender<ObjectRef<AgentSandbox>>) -> Self {
        Self { writes: Mutex::default(), wake }
    }

    /// A write of this object begins, for this sandbox of its namespace.
    pub(super) fn sent(&self, kind: &'static str, namespace: &str, name: &str, sandbox: &str) -> Sent<'_> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut writes = self.writes();
        // What came during a write that is overtaken is judged with this one's answer.
        let held = match writes.remove(&key) {
            Some(Write::Sent { held, .. }) => held,
            _ => None,
        };
        writes.insert(key.clone(), Write::Sent { sandbox: sandbox.to_owned(), held });
        Sent { echoes: self, key: Some(key) }
    }

    /// A watch shows this object, which would wake these. Answers whether that is an echo, or may be one; then the sandbox
    /// that the write is for is taken out of these.
    pub(super) fn is_echo(
        &self,
        kind: &'static str,
        meta: &ObjectMeta,
        woken: &mut Vec<ObjectRef<AgentSandbox>>,
    ) -> bool {
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        let key = (kind, namespace.unwrap_or_default(), name.unwrap_or_default());
        let mut writes = self.writes();
        let shown = Version::of(meta);
        match writes.get_mut(&key) {
            None => false,
            Some(Write::Sent { sandbox, held }) => {
                let count = woken.len();
                woken.retain(|one| one.name != *sandbox);
                let wakes = woken.len() < count || held.as_ref().is_some_and(|(_, wakes)| *wakes);
                *held = Some((shown, wakes));
                true
            }
            Some(Write::Answered { sandbox, version: answered, .. }) => {
                let (same, earlier) = (*answered == shown, shown.precedes(answered));
                if same {
                    woken.retain(|one| one.name != *sandbox);
                }
                if !earlier {
                    writes.remove(&key);
                }
                same
            }
        }
    }

    /// Whether a child was created for this sandbox not long ago and no watch has shown it yet.
    pub(super) fn is_awaited(&self, sandbox_uid: &str) -> bool {
        let writes = self.writes();
        let is_awaited = |write: &Write| match write {
            Write::Answered { uid, since, .. } => uid == sandbox_uid && since.elapsed() < AWAITED_MAX,
            Write::Sent { .. } => false,
        };
        writes.iter().any(|((kind, ..), write)| *kind != SANDBOX_KIND && is_awaited(write))
    }

    /// Forgets what was written for a sandbox that is gone.
    pub(super) fn forget(&self, sandbox_uid: &str) {
        self.writes().retain(|_, write| !matches!(write, Write::Answered { uid, .. } if uid == sandbox_uid));
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a write with what was answered, and answers whether a watch has shown that already.
    fn end(&self, key: Key, answered: Option<(Version, &str)>) -> bool {
        let mut writes = self.writes();
        // Another write of the same object may have been begun meanwhile, or answered.
        let Some(Write::Sent { sandbox, held }) = writes.remove(&key) else { return false };
        let is_shown = match (&held, &answered) {
            (Some((shown, _)), Some((answered, _))) => shown.uid == answered.uid && !shown.precedes(answered),
            _ => false,
        };
        let is_echo =
            matches!((&held, &answered), (Some((shown, _)), Some((answered, _))) if shown == answered);
        let woken = ObjectRef::new(&sandbox).within(&key.1);
        if let Some((version, uid)) = answered.filter(|_| !is_shown) {
            let since = Instant::now();
            writes.insert(key, Write::Answered { sandbox, version, uid: uid.to_owned(), since });
        }
        drop(writes);
        if !is_echo && held.is_some_and(|(_, wakes)| wakes) {
            // An error means that nobody reconciles any more.
            let _told = self.wake.unbounded_send(woken);
        }
        is_shown
    }
}

impl Sent<'_> {
    /// The write was answered with this, for the sandbox with this UID. Answers whether a watch has shown it already.
    pub fn answered(mut self, meta: &ObjectMeta, sandbox_uid: &str) -> bool {
        let answer = Some((Version::of(meta), sandbox_uid));
        self.key.take().is_some_and(|key| self.echoes.end(key, answer))
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.echoes.end(key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::UnboundedReceiver;

    use super::*;

    const KIND: &str = "Service";
    const UID: &str = "uid-1";

    fn shown(version: &str) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("team".to_owned()),
            name: Some("fix-login-proxy".to_owned()),
            uid: Some("of-the-service".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    fn echoes() -> (Echoes, UnboundedReceiver<ObjectRef<AgentSandbox>>) {
        let (wake, woken) = unbounded();
        (Echoes::waking(wake), woken)
    }

    fn sandboxes() -> Vec<ObjectRef<AgentSandbox>> {
        vec![ObjectRef::new("fix-login").within("team")]
    }

    fn is_echo(echoes: &Echoes, version: &str) -> bool {
        echoes.is_echo(KIND, &shown(version), &mut sandboxes())
    }

    fn sent(echoes: &Echoes) -> Sent<'_> {
        echoes.sent(KIND, "team", "fix-login-proxy", "fix-login")
    }

    fn is_woken(woken: &mut UnboundedReceiver<ObjectRef<AgentSandbox>>) -> bool {
        woken.try_recv().is_ok()
    }

    #[test]
    fn what_was_answered_wakes_nobody_once_and_anything_else_does() {
        let (echoes, _woken) = echoes();
        assert!(!is_echo(&echoes, "7"), "nothing was written");
        assert!(!sent(&echoes).answered(&shown("7"), UID));
        assert!(!is_echo(&echoes, "6"), "another wrote that before");
        assert!(echoes.is_awaited(UID) && !echoes.is_awaited("uid-2"));
        echoes.sent(SANDBOX_KIND, "team", "other", "other").answered(&shown("1"), "uid-2");
        assert!(!echoes.is_awaited("uid-2"), "a sandbox is no child");
        assert!(is_echo(&echoes, "7"));
        assert!(!echoes.is_awaited(UID));
        assert!(!is_echo(&echoes, "7"), "such as the end of an object that no change came before");
        assert!(!sent(&echoes).answered(&shown("8"), UID));
        assert!(!is_echo(&echoes, "9"), "another wrote that since");
        assert!(!is_echo(&echoes, "8"));
    }

    #[test]
    fn the_same_name_with_another_uid_is_no_echo() {
        let (echoes, _woken) = echoes();
        sent(&echoes).answered(&shown("7"), UID);
        let other = ObjectMeta { uid: Some("another".to_owned()), ..shown("7") };
        assert!(!echoes.is_echo(KIND, &other, &mut sandboxes()));
    }

    #[test]
    fn what_comes_before_the_answer_waits_for_it_and_wakes_unless_it_is_what_was_answered() {
        for (held, answered, wakes, is_shown) in
            [("7", "7", false, true), ("8", "7", true, true), ("6", "7", true, false)]
        {
            let (echoes, mut woken) = echoes();
            let write = sent(&echoes);
            assert!(is_echo(&echoes, held));
            assert!(!is_woken(&mut woken));
            assert_eq!(write.answered(&shown(answered), UID), is_shown, "{held} {answered}");
            assert_eq!(is_woken(&mut woken), wakes, "{held} {answered}");
            assert_eq!(is_echo(&echoes, "7"), !is_shown, "what was shown is awaited no more");
        }
    }

    #[test]
    fn the_end_of_an_earlier_object_of_the_name_is_not_taken_for_the_one_that_was_created() {
        let (echoes, mut woken) = echoes();
        let write = sent(&echoes);
        let earlier = ObjectMeta { uid: Some("another".to_owned()), ..shown("6") };
        assert!(echoes.is_echo(KIND, &earlier, &mut sandboxes()));
        assert!(!write.answered(&shown("7"), UID), "no watch has shown it");
        assert!(is_woken(&mut woken) && echoes.is_awaited(UID));
    }

    #[test]
    fn what_came_during_a_write_that_is_overtaken_is_not_lost() {
        let (echoes, mut woken) = echoes();
        let overtaken = sent(&echoes);
        assert!(is_echo(&echoes, "9"));
        let write = sent(&echoes);
        write.answered(&shown("7"), UID);
        assert!(is_woken(&mut woken));
        drop(overtaken);
        assert!(!is_woken(&mut woken));
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_watch_ever_shows_is_looked_for_no_longer_than_a_watch_can_be_late() {
        let (echoes, _woken) = echoes();
        sent(&echoes).answered(&shown("7"), UID);
        tokio::time::advance(AWAITED_MAX - Duration::from_millis(1)).await;
        assert!(echoes.is_awaited(UID));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!echoes.is_awaited(UID));
        assert!(is_echo(&echoes, "7"), "it is no news, however late");
    }

    #[test]
    fn what_was_written_for_one_sandbox_wakes_the_others_that_it_concerns() {
        let (echoes, mut woken) = echoes();
        let rest_of = |version: &str| {
            let mut all = sandboxes();
            all.push(ObjectRef::new("other").within("team"));
            let is_echo = echoes.is_echo(KIND, &shown(version), &mut all);
            (is_echo, all.into_iter().map(|one| one.name).collect::<Vec<_>>())
        };
        let write = sent(&echoes);
        assert_eq!(rest_of("7"), (true, vec!["other".to_owned()]), "before the answer");
        write.answered(&shown("7"), UID);
        assert!(!is_woken(&mut woken));
        sent(&echoes).answered(&shown("8"), UID);
        assert_eq!(rest_of("8"), (true, vec!["other".to_owned()]), "after the answer");
        assert_eq!(rest_of("9"), (false, vec!["fix-login".to_owned(), "other".to_owned()]));
        let write = sent(&echoes);
        assert!(echoes.is_echo(KIND, &shown("10"), &mut vec![ObjectRef::new("other").within("team")]));
        drop(write);
        assert!(!is_woken(&mut woken), "it did not concern the one that was written for");
    }

    #[test]
    fn what_comes_while_a_write_fails_wakes() {
        let (echoes, mut woken) = echoes();
        drop(sent(&echoes));
        assert!(!is_woken(&mut woken), "nothing came");
        let write = sent(&echoes);
        assert!(is_echo(&echoes, "7"));
        drop(write);
        assert!(is_woken(&mut woken));
        assert!(!is_echo(&echoes, "7"));
    }

    #[test]
    fn nothing_is_kept_of_a_sandbox_that_is_gone() {
        let (echoes, _woken) = echoes();
        sent(&echoes).answered(&shown("7"), UID);
        echoes.forget("uid-2");
        assert!(echoes.is_awaited(UID));
        echoes.forget(UID);
        assert!(!is_echo(&echoes, "7"));
    }
}
