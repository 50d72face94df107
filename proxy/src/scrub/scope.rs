//! Which secrets are looked for in which host's answers.
//!
//! A host that was sent a secret remembers it, and may write it into an answer to any other request: a log, a list of
//! keys, an error page. So every answer of a host is searched for every secret that may go there, whichever rule let the
//! request pass and whether it carries a credential. A secret that was replaced is looked for a while longer, and so are
//! the secrets of a policy that was replaced. A host that no credential may go to is not searched at all.
//!
//! Scrubbers are costly to make. Each is made once for a set of credentials and a generation of the secrets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agentsandbox_policy::{Host, Injection, Policy};
use foldhash::fast::RandomState;

use super::Scrubber;
use crate::limits::{POLICIES_REMEMBERED_MAX, SCRUBBERS_MAX, SECRET_REMEMBERED};
use crate::metrics::Metrics;
use crate::secrets::Secrets;

/// The scrubbers of one policy.
#[derive(Default)]
pub struct Scrubbers {
    before: Vec<Replaced>,
    made: Mutex<HashMap<Key, Made, RandomState>>,
    /// What was found for a host, until something may have changed.
    recent: Mutex<HashMap<Host, Recent, RandomState>>,
    /// For answers to requests of policies that are forgotten; the one that was made last stands last.
    late: Mutex<Vec<Arc<Scrubbers>>>,
}

/// A policy that is no longer in force, and how long its secrets are looked for.
#[derive(Clone)]
struct Replaced {
    policy: Arc<Policy>,
    until: Instant,
}

/// The credentials of a host: which policy, counted back from the one in force, and which of its credentials.
type Key = Vec<(usize, usize)>;

struct Made {
    generation: u64,
    scrubber: Arc<Scrubber>,
}

struct Recent {
    generation: u64,
    /// When a file has to be looked at again, or a replaced policy is forgotten; none where neither will be.
    due: Option<Instant>,
    scrubber: Option<Arc<Scrubber>>,
}

/// How one credential is written, and where its secret is.
struct Use<'p> {
    key: (usize, usize),
    file: &'p str,
    injection: &'p Injection,
}

impl Scrubbers {
    /// The scrubbers of a policy that replaces another one now.
    #[must_use]
    pub fn after(replaced: &Arc<Policy>, before: &Self, now: Instant) -> Self {
        let mut before = before.and(replaced, now);
        before.truncate(POLICIES_REMEMBERED_MAX);
        Self { before, ..Self::default() }
    }

    /// Finds as well what a host may have been given under the policy that a request began with, which may have been replaced so
    /// long ago, or so often, that it is forgotten; none if it is not. All answers to requests of that policy share it.
    #[must_use]
    pub fn late(&self, began: &Arc<Policy>, now: Instant) -> Option<Arc<Self>> {
        if self.remembers(began, now) {
            return None;
        }
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = late.iter().find(|known| known.remembers(began, now)) {
            return Some(Arc::clone(known));
        }
        if late.len() >= POLICIES_REMEMBERED_MAX {
            late.remove(0);
        }
        // One more than are remembered: none of those is to be forgotten for it.
        let made = Arc::new(Self { before: self.and(began, now), ..Self::default() });
        late.push(Arc::clone(&made));
        Some(made)
    }

    fn remembers(&self, policy: &Arc<Policy>, now: Instant) -> bool {
        self.before.iter().any(|replaced| replaced.until > now && Arc::ptr_eq(&replaced.policy, policy))
    }

    /// The policies that are remembered now, and this one before them.
    fn and(&self, policy: &Arc<Policy>, now: Instant) -> Vec<Replaced> {
        let added = Replaced { policy: Arc::clone(policy), until: now + SECRET_REMEMBERED };
        let older = self.before.iter().filter(|older| older.until > now).cloned();
        std::iter::once(added).chain(older).collect()
    }

    /// What finds the secrets in answers of this host; none where no credential may go there. A secret that cannot be read
    /// is not looked for: it was not sent either.
    pub fn at(
        &self,
        policy: &Policy,
        host: &Host,
        (secrets, metrics): (&Secrets, &Metrics),
        now: Instant,
    ) -> Option<Arc<Scrubber>> {
        let generation = secrets.generation();
        if let Some(recent) = self.recent().get(host)
            && recent.generation == generation
            && recent.due.is_none_or(|due| now < due)
        {
            return recent.scrubber.clone();
        }
        let uses = self.uses(policy, host, now);
        let (generation, looked) = secrets.look(uses.iter().map(|each| each.file), now);
        let scrubber = (!uses.is_empty()).then(|| self.made_for(&uses, (secrets, metrics), generation));
        let forgotten = self.before.iter().map(|replaced| replaced.until).filter(|until| *until > now);
        let due = forgotten.chain(looked).min();
        let mut recent = self.recent();
        if recent.len() >= SCRUBBERS_MAX {
            recent.clear();
        }
        recent.insert(host.clone(), Recent { generation, due, scrubber: scrubber.clone() });
        scrubber
    }

    fn recent(&self) -> MutexGuard<'_, HashMap<Host, Recent, RandomState>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made_for(
        &self,
        uses: &[Use<'_>],
        (secrets, metrics): (&Secrets, &Metrics),
        generation: u64,
    ) -> Arc<Scrubber> {
        let key: Key = uses.iter().map(|each| each.key).collect();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&key).filter(|known| known.generation == generation) {
            return Arc::clone(&known.scrubber);
        }
        metrics.scrubber_made();
        let scrubber = Arc::new(scrubber(uses, secrets));
        if made.len() >= SCRUBBERS_MAX {
            made.clear();
        }
        made.insert(key, Made { generation, scrubber: Arc::clone(&scrubber) });
        scrubber
    }

    fn uses<'p>(&'p self, policy: &'p Policy, host: &Host, now: Instant) -> Vec<Use<'p>> {
        let before =
            self.before.iter().filter(|replaced| replaced.until > now).map(|replaced| &*replaced.policy);
        let mut uses = Vec::new();
        for (number, policy) in std::iter::once(policy).chain(before).enumerate() {
            let credentials = policy.credentials_of_host(host);
            uses.extend(credentials.map(|(index, file, injection)| Use {
                key: (number, index),
                file,
                injection,
            }));
        }
        uses
    }
}

fn scrubber(uses: &[Use<'_>], secrets: &Secrets) -> Scrubber {
    let all = uses.iter().map(|each| (each.injection, secrets.known(each.file)));
    let all: Vec<_> = all.collect();
    Scrubber::new(all.iter().flat_map(|(injection, known)| known.iter().map(|secret| (*injection, secret))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::limits::SECRET_STAT_INTERVAL;

    const KEYS: [&str; 2] = ["sk-live-0123456789", "ghp_abcdefghijklmnop"];

    fn policy(credentials: &str) -> Arc<Policy> {
        let text = format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1, rules: [],
              credentials: [{credentials}]}}"
        );
        Arc::new(Policy::from_yaml(&text).unwrap())
    }

    fn credential(name: &str, host: &str) -> String {
        format!("{{name: {name}, inject: {{type: Bearer}}, scopes: [{{host: {host}, ports: [443]}}]}}")
    }

    struct Rig {
        folder: tempfile::TempDir,
        secrets: Secrets,
        metrics: Metrics,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, key) in ["one", "two"].iter().zip(KEYS) {
                std::fs::write(folder.path().join(name), key).unwrap();
            }
            let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
            Self { folder, secrets, metrics: Metrics::default() }
        }

        fn write(&self, name: &str, key: &str) {
            std::fs::write(self.folder.path().join(name), key).unwrap();
        }

        /// What becomes of this value in an answer of the host.
        fn clean(
            &self,
            scrubbers: &Scrubbers,
            policy: &Policy,
            host: &str,
            text: &str,
            now: Instant,
        ) -> Option<String> {
            let host = Host::parse(host).unwrap();
            let scrubber = scrubbers.at(policy, &host, (&self.secrets, &self.metrics), now)?;
            let mut headers = HeaderMap::new();
            headers.insert("x", HeaderValue::from_str(text).unwrap());
            scrubber.scrub(&mut headers);
            Some(headers["x"].to_str().unwrap().to_owned())
        }

        fn made(&self) -> u64 {
            self.metrics.scrubbers_made()
        }
    }

    #[test]
    fn p_f6_a_host_is_searched_for_every_secret_that_may_go_there_and_no_other() {
        let (rig, scrubbers, now) = (Rig::new(), Scrubbers::default(), Instant::now());
        let both = [credential("one", "api.good.test"), credential("two", "'*.good.test'")].join(", ");
        let policy = policy(&both);
        let text = KEYS.join(" ");
        let clean = |host: &str| rig.clean(&scrubbers, &policy, host, &text, now);
        assert_eq!(clean("api.good.test").unwrap(), "[redacted] [redacted]");
        assert_eq!(clean("git.good.test").unwrap(), format!("{} [redacted]", KEYS[0]));
        assert_eq!(clean("good.test"), None, "no credential may go there");
    }

    #[test]
    fn p_f6_a_scrubber_is_made_once_and_not_for_each_request() {
        let (rig, scrubbers, now) = (Rig::new(), Scrubbers::default(), Instant::now());
        let policy =
            policy(&[credential("one", "'*.good.test'"), credential("two", "git.good.test")].join(", "));
        let clean = |host: &str, now| rig.clean(&scrubbers, &policy, host, KEYS[0], now);
        for request in 0..100 {
            clean(&format!("x{request}.good.test"), now + SECRET_STAT_INTERVAL * request).unwrap();
            clean("other.test", now);
        }
        assert_eq!(rig.made(), 1, "whatever the name under the wildcard, and whenever");
        clean("git.good.test", now + SECRET_STAT_INTERVAL * 100).unwrap();
        assert_eq!(rig.made(), 2, "another set of credentials");
        rig.write("one", "sk-live-9876543210");
        clean("x.good.test", now + SECRET_STAT_INTERVAL * 102).unwrap();
        clean("y.good.test", now + SECRET_STAT_INTERVAL * 102).unwrap();
        assert_eq!(rig.made(), 3, "another secret");
    }

    #[test]
    fn p_f17_a_replaced_or_deleted_secret_is_looked_for_ten_minutes_longer() {
        let (rig, scrubbers, start) = (Rig::new(), Scrubbers::default(), Instant::now());
        let policy = policy(&credential("one", "api.good.test"));
        let text = format!("{} sk-live-9876543210", KEYS[0]);
        let clean = |now| rig.clean(&scrubbers, &policy, "api.good.test", &text, now).unwrap();
        assert_eq!(clean(start), "[redacted] sk-live-9876543210");
        rig.write("one", "sk-live-9876543210");
        let seen = start + SECRET_STAT_INTERVAL;
        assert_eq!(clean(seen), "[redacted] [redacted]");
        std::fs::remove_file(rig.folder.path().join("one")).unwrap();
        assert_eq!(clean(seen + SECRET_REMEMBERED - SECRET_STAT_INTERVAL), "[redacted] [redacted]");
        assert_eq!(clean(seen + SECRET_REMEMBERED + SECRET_STAT_INTERVAL), format!("{} [redacted]", KEYS[0]));
        assert_eq!(clean(seen + SECRET_REMEMBERED * 3), text);
    }

    #[test]
    fn p_f17_the_secrets_of_a_replaced_policy_are_looked_for_ten_minutes_longer() {
        let (rig, start) = (Rig::new(), Instant::now());
        let (old, new) =
            (policy(&credential("one", "api.good.test")), policy(&credential("two", "api.good.test")));
        let scrubbers = Scrubbers::after(&old, &Scrubbers::default(), start);
        let text = KEYS.join(" ");
        let clean = |now| rig.clean(&scrubbers, &new, "api.good.test", &text, now).unwrap();
        assert_eq!(clean(start), "[redacted] [redacted]");
        assert_eq!(
            clean(start + SECRET_REMEMBERED + Duration::from_secs(1)),
            format!("{} [redacted]", KEYS[0])
        );
        let none = policy("");
        let scrubbers = Scrubbers::after(&new, &scrubbers, start);
        assert_eq!(
            rig.clean(&scrubbers, &none, "api.good.test", &text, start).unwrap(),
            "[redacted] [redacted]",
            "also when no credential goes there any more, and over two changes"
        );
    }

    #[test]
    fn p_f17_replaced_policies_are_remembered_up_to_a_bound_and_the_oldest_goes() {
        let (old, now) = (policy(&credential("one", "api.good.test")), Instant::now());
        let mut scrubbers = Scrubbers::after(&old, &Scrubbers::default(), now);
        let none = policy("");
        let host = Host::parse("api.good.test").unwrap();
        for _ in 1..POLICIES_REMEMBERED_MAX {
            scrubbers = Scrubbers::after(&none, &scrubbers, now);
            assert_eq!(scrubbers.uses(&none, &host, now).len(), 1);
        }
        scrubbers = Scrubbers::after(&none, &scrubbers, now);
        assert_eq!(
            (scrubbers.before.len(), scrubbers.uses(&none, &host, now).len()),
            (POLICIES_REMEMBERED_MAX, 0)
        );
    }

    #[test]
    fn p_f17_an_answer_to_a_request_of_a_forgotten_policy_is_searched_for_its_secrets_and_all_that_are_remembered()
     {
        let (rig, start) = (Rig::new(), Instant::now());
        let began = policy(&credential("one", "api.good.test"));
        let oldest = policy(&credential("two", "api.good.test"));
        let mut scrubbers = Scrubbers::after(&oldest, &Scrubbers::default(), start);
        let none = policy("");
        for _ in 1..POLICIES_REMEMBERED_MAX {
            scrubbers = Scrubbers::after(&none, &scrubbers, start);
        }
        let text = KEYS.join(" ");
        assert_eq!(
            rig.clean(&scrubbers, &none, "api.good.test", &text, start).unwrap(),
            format!("{} [redacted]", KEYS[0])
        );
        for now in [start, start + SECRET_REMEMBERED / 2] {
            for _ in 0..10 {
                let late = scrubbers.late(&began, now).unwrap();
                let cleaned = rig.clean(&late, &none, "api.good.test", &text, now);
                assert_eq!(cleaned.unwrap(), "[redacted] [redacted]");
            }
        }
        assert_eq!(rig.made(), 2, "one for all answers to its requests");
        let (now, made) = (start + SECRET_REMEMBERED * 2, rig.made());
        let late = scrubbers.late(&began, now).unwrap();
        let cleaned = rig.clean(&late, &none, "api.good.test", &text, now);
        assert_eq!(cleaned.unwrap(), format!("[redacted] {}", KEYS[1]), "its own are looked for at any time");
        assert_eq!(rig.made(), made + 1);
    }

    #[test]
    fn p_f17_an_answer_that_is_late_by_one_policy_shares_the_scrubber_of_the_one_in_force() {
        let (rig, start) = (Rig::new(), Instant::now());
        let (old, new) = (policy(&credential("one", "api.good.test")), policy(""));
        let scrubbers = Scrubbers::after(&old, &Scrubbers::default(), start);
        assert!(scrubbers.late(&old, start).is_none());
        assert!(rig.clean(&scrubbers, &new, "api.good.test", KEYS[0], start).is_some());
        let later = start + SECRET_REMEMBERED + Duration::from_secs(1);
        assert!(scrubbers.late(&old, later).is_some(), "until it is forgotten");
    }

    #[test]
    fn p_i4_scrubbers_for_forgotten_policies_are_bounded_and_the_oldest_goes() {
        let (scrubbers, now) = (Scrubbers::default(), Instant::now());
        let policies: Vec<_> = (0..POLICIES_REMEMBERED_MAX + 3).map(|_| policy("")).collect();
        let late: Vec<_> = policies.iter().filter_map(|began| scrubbers.late(began, now)).collect();
        assert_eq!(
            (late.len(), scrubbers.late.lock().unwrap().len()),
            (policies.len(), POLICIES_REMEMBERED_MAX)
        );
        let again =
            |number: usize| Arc::ptr_eq(&scrubbers.late(&policies[number], now).unwrap(), &late[number]);
        assert!(again(policies.len() - 1) && !again(0));
    }

    #[test]
    fn p_i4_scrubbers_are_kept_up_to_a_bound_beyond_which_all_are_made_anew() {
        let (rig, scrubbers, now) = (Rig::new(), Scrubbers::default(), Instant::now());
        // Each credential has a host alone, and another one together with the one for the wildcard: two sets.
        let each = |number: usize| {
            format!(
                "{{name: c{number}, inject: {{type: Bearer}}, scopes: [{{host: h{number}.a.test, ports: [443]}}, \
                 {{host: h{number}.b.test, ports: [443]}}]}}"
            )
        };
        let credentials =
            (0..SCRUBBERS_MAX / 2).map(each).chain(std::iter::once(credential("all", "'*.b.test'")));
        let policy = policy(&credentials.collect::<Vec<_>>().join(", "));
        // A file that is looked at for the first time begins a generation.
        rig.secrets.look(policy.secret_files().map(|(_, file)| file), now);
        let kept_after = |host: &str| {
            rig.clean(&scrubbers, &policy, host, "x", now).unwrap();
            (scrubbers.made.lock().unwrap().len(), scrubbers.recent.lock().unwrap().len())
        };
        for number in 0..SCRUBBERS_MAX {
            let zone = if number < SCRUBBERS_MAX / 2 { "a" } else { "b" };
            let host = format!("h{}.{zone}.test", number % (SCRUBBERS_MAX / 2));
            assert_eq!(kept_after(&host), (number + 1, number + 1), "{host}");
        }
        assert_eq!(kept_after("other.b.test"), (1, 1));
    }

    #[test]
    fn p_f16_a_secret_that_is_missing_hinders_no_request_that_does_not_need_it() {
        let (rig, scrubbers, now) = (Rig::new(), Scrubbers::default(), Instant::now());
        let policy =
            policy(&[credential("one", "api.good.test"), credential("none", "api.good.test")].join(", "));
        assert_eq!(rig.clean(&scrubbers, &policy, "api.good.test", KEYS[0], now).unwrap(), "[redacted]");
    }
}
