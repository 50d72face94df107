//! What stays open for long, a body, a WebSocket or TLS that is passed on unopened, and whether the policy still lets it: it ends with
//! its rule. A body alone is given time for that where the document says so that has no rule for it any more; what is in a WebSocket or in
//! TLS is not seen, so that something new could begin there. The credential of a request and its client certificate spoke when it was sent, so that they are to be the same as
//! well. Another reading of their files ends nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentsandbox_policy::{
    CertificateUse, CredentialUse, Denial, DenialReason, PassPermit, Permit, Policy, Request,
};
use tokio::time::{self, sleep};

use crate::audit::Traffic;
use crate::limits::POLICY_POLL_INTERVAL;
use crate::reload::{ActivePolicy, Loaded};

/// What is told of a request whose key is another one now, or none.
const OTHER_KEY: &str = "The rule does not give this request the credential or client certificate any more that it was sent with; send it again, and it is decided by what is in force then.";

/// What a request was allowed as.
pub struct Allowed {
    under: Arc<Loaded>,
    asked: Request,
    credential: Option<CredentialUse>,
    certificate: Option<CertificateUse>,
}

/// It is not allowed any more.
struct Ended {
    denial: Box<Denial>,
    /// How long it may take to its end, since it was seen first.
    grace: Duration,
}

impl Ended {
    fn at_once(denial: Denial) -> Self {
        Self { denial: Box::new(denial), grace: Duration::ZERO }
    }
}

impl Allowed {
    /// What this permit of that document allows.
    #[must_use]
    pub fn by(under: &Arc<Loaded>, permit: &Permit) -> Self {
        let asked = Request {
            scheme: permit.scheme(),
            host: permit.host().clone(),
            port: permit.port(),
            method: permit.method().clone(),
            target: permit.target().clone(),
            websocket: permit.websocket(),
        };
        let (credential, certificate) = (permit.credential().cloned(), permit.certificate().cloned());
        Self { under: Arc::clone(under), asked, credential, certificate }
    }

    /// Waits until it would not be allowed any more; why.
    pub async fn ends(mut self, policy: &ActivePolicy) -> DenialReason {
        loop {
            sleep(POLICY_POLL_INTERVAL).await;
            if let Err(ended) = self.holds(policy) {
                return ended.denial.reason;
            }
        }
    }

    /// Whether the policy in force still allows it.
    fn holds(&mut self, policy: &ActivePolicy) -> Result<(), Ended> {
        let current = policy.current(Instant::now()).map_err(|reason| Ended::at_once(Denial::new(reason)))?;
        if Arc::ptr_eq(&current, &self.under) {
            return Ok(());
        }
        let permit = current.policy.decide(self.asked.clone()).map_err(|denial| {
            let (credential, certificate) = (self.credential.as_ref(), self.certificate.as_ref());
            Ended { denial, grace: current.policy.grace(&self.asked, credential, certificate) }
        })?;
        let is_same = permit.credential() == self.credential.as_ref()
            && permit.certificate() == self.certificate.as_ref();
        if !is_same {
            let denial = Denial::of(&permit, DenialReason::CredentialScope);
            return Err(Ended::at_once(denial.with_how_to_allow(OTHER_KEY)));
        }
        self.under = current;
        Ok(())
    }
}

/// Looks after a body that is passed on piece by piece: with each, which costs a look at the clock, and no more but every half second; and
/// where nothing passes, whenever it is asked to.
pub struct Watch {
    policy: Arc<ActivePolicy>,
    allowed: Allowed,
    traffic: Arc<Traffic>,
    /// When the policy is looked at next.
    due: time::Instant,
}

impl Watch {
    /// Looks after what is allowed as this, and tells `traffic` where it is given time to its end.
    #[must_use]
    pub fn new(policy: &Arc<ActivePolicy>, allowed: Allowed, traffic: &Arc<Traffic>) -> Self {
        let due = time::Instant::now() + POLICY_POLL_INTERVAL;
        let (policy, traffic) = (Arc::clone(policy), Arc::clone(traffic));
        Self { policy, allowed, traffic, due }
    }

    /// Whether a piece may still be passed on.
    ///
    /// # Errors
    /// Why the policy would not allow the request any more.
    pub fn passes(&mut self) -> Result<(), Box<Denial>> {
        let now = time::Instant::now();
        if now < self.due {
            return Ok(());
        }
        self.due = now + POLICY_POLL_INTERVAL;
        let Err(Ended { denial, grace }) = self.allowed.holds(&self.policy) else {
            self.traffic.goes_on();
            return Ok(());
        };
        let until = self.traffic.drains(now, grace);
        self.due = self.due.min(until);
        if now < until { Ok(()) } else { Err(denial) }
    }

    /// The same, by the policy of now.
    ///
    /// # Errors
    /// As [`Watch::passes`].
    pub fn passes_now(&mut self) -> Result<(), Box<Denial>> {
        self.due = time::Instant::now();
        self.passes()
    }
}

/// The same for TLS that is passed on.
pub async fn passing_ends(policy: &ActivePolicy, under: Arc<Loaded>, permit: &PassPermit) -> DenialReason {
    let passes = |policy: &Policy| policy.pass(permit.host(), permit.port()).map(drop);
    ends(policy, under, |policy| passes(policy).ok_or(DenialReason::HostNotAllowed)).await
}

/// Looks at each new document, as often as there may be one.
async fn ends(
    policy: &ActivePolicy,
    mut under: Arc<Loaded>,
    is_allowed: impl Fn(&Policy) -> Result<(), DenialReason>,
) -> DenialReason {
    loop {
        sleep(POLICY_POLL_INTERVAL).await;
        let judged = policy.current(Instant::now()).and_then(|current| {
            if !Arc::ptr_eq(&current, &under) {
                is_allowed(&current.policy)?;
            }
            Ok(current)
        });
        match judged {
            Ok(current) => under = current,
            Err(reason) => return reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use agentsandbox_policy::{Host, Method, Scheme, Target};

    use super::*;
    use crate::reload::{load, read};

    const RULE: &str = "{name: a, host: a.test, ports: [443], scheme: https}";
    const A_MOMENT: Duration = Duration::from_millis(1);

    /// A document, the file that it is in, and an upload or download that it allows.
    struct Passing {
        _folder: tempfile::TempDir,
        policy: Arc<ActivePolicy>,
        watch: Watch,
        written: u32,
        file: std::path::PathBuf,
    }

    fn document(rule: &str, drain: &str, generation: u32) -> String {
        format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: {generation}, rules: [{rule}]{drain}}}"
        )
    }

    impl Passing {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("policy.yaml");
            std::fs::write(&file, document(RULE, "", 0)).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let (text, metrics) = (read(&file).unwrap(), Arc::default());
            let loaded = load(&text, &provider, &metrics, &Arc::default()).unwrap();
            let policy = Arc::new(ActivePolicy::new(file.clone(), text, loaded, provider, metrics));
            let under = policy.current(Instant::now()).unwrap();
            let request = Request {
                scheme: Scheme::Https,
                host: Host::parse("a.test").unwrap(),
                port: 443,
                method: Method::parse("GET").unwrap(),
                target: Target::parse("/x").unwrap(),
                websocket: false,
            };
            let permit = under.policy.decide(request).unwrap();
            let watch = Watch::new(&policy, Allowed::by(&under, &permit), &Arc::default());
            Self { _folder: folder, policy, watch, written: 0, file }
        }

        /// Another document is in force.
        fn writes(&mut self, rule: &str, drain: &str) {
            self.written += 1;
            std::fs::write(&self.file, document(rule, drain, self.written)).unwrap();
            self.policy.refresh(Instant::now());
        }

        fn passes(&mut self) -> bool {
            self.watch.passes().is_ok()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p_c5_the_policy_is_looked_at_every_half_second_and_what_may_drain_ends_at_its_moment() {
        let mut passing = Passing::new();
        let due = passing.watch.due;
        passing.writes("", "");
        time::sleep(POLICY_POLL_INTERVAL - A_MOMENT).await;
        assert!(passing.passes(), "nobody has looked");
        assert_eq!(passing.watch.due, due, "a piece before that costs no look");
        time::sleep(A_MOMENT).await;
        assert!(!passing.passes());
        passing.writes(RULE, "");
        time::sleep(POLICY_POLL_INTERVAL).await;
        assert!(passing.passes());
        let since = time::Instant::now();
        assert_eq!(passing.watch.due, since + POLICY_POLL_INTERVAL);
        passing.writes("", ", drainSeconds: 2");
        time::sleep(POLICY_POLL_INTERVAL).await;
        let until = time::Instant::now() + Duration::from_secs(2);
        while time::Instant::now() < until {
            assert!(passing.passes(), "{:?}", since.elapsed());
            time::sleep(A_MOMENT).await;
        }
        assert!(!passing.passes(), "at that moment, and not at the look behind it");
    }

    #[tokio::test(start_paused = true)]
    async fn p_c5_an_answer_that_begins_is_judged_by_the_policy_of_now_and_not_of_the_last_look() {
        let mut passing = Passing::new();
        assert!(passing.watch.passes_now().is_ok());
        passing.writes("", "");
        assert!(passing.passes(), "nobody has looked");
        let denial = passing.watch.passes_now().unwrap_err();
        assert_eq!(denial.reason, DenialReason::HostNotAllowed);
    }
}
