//! The process: bind, connect, read the cluster's fixed facts, lead, reconcile, and stop under a deadline.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use futures::channel::mpsc::UnboundedSender;
use futures::future::{BoxFuture, Shared, ready};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::Api;
use kube::client::ClientBuilder;
use kube::runtime::controller::{self, Action};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::admission::{self, Teller};
use crate::backoff::Jitter;
use crate::clock::Clock;
use crate::config::{AskDenials, Config, LeaderElection};
use crate::controller::apply::Writer;
use crate::controller::memory::Memory;
use crate::controller::observe::denials::{self, Denials};
use crate::controller::observe::{Recent, Stores};
use crate::controller::orphans;
use crate::controller::{
    Breaches, Ctx, Failures, Patience, Progress, ReconcileError, chain, reconcile, retry,
};
use crate::deadline::Deadlined;
use crate::lease::{self, Attempt, LeaseError, Seen, Tenure};
use crate::metrics::Metrics;
use crate::platform::Platform;
use crate::ranges::{self, Ranges};
use crate::{server, watches};

mod facts;

/// How long passes under way may take to end.
const DRAIN: Duration = Duration::from_secs(10);
/// A request, watches aside, that takes longer is dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Watches are long polls that the API server ends within five minutes.
const READ_TIMEOUT: Duration = Duration::from_secs(310);

/// Why the operator could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No runtime, signal or socket.
    #[error("the process could not be set up")]
    Process(#[from] std::io::Error),
    /// No usable kubeconfig or in-cluster configuration.
    #[error("there is no usable kubeconfig or in-cluster configuration")]
    Configuration(#[from] kube::config::InferConfigError),
    /// The API server did not answer a first question.
    #[error("the API server did not say where it is itself")]
    Cluster(#[from] kube::Error),
    /// Nothing says what the cluster's addresses are.
    #[error("the cluster's own addresses are not known")]
    Ranges(#[from] ranges::Unknown),
    /// The API server's own Service has no usable address.
    #[error("the Service default/kubernetes has no IPv4 address and port")]
    NoApiService,
    /// The controller ended, or panicked, while it was to run.
    #[error("the controller ended by itself")]
    ControllerEnded,
}

/// Why an operator that had started stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was told to.
    Told,
    /// Another replica leads, or may.
    LeaseLost,
    /// The controller ended, or panicked, while it was to run.
    ControllerEnded,
}

/// What an operator takes from outside besides its flags: the time, and chance.
#[derive(Clone, Debug, Default)]
pub struct Ambient {
    /// The wall clock.
    pub clock: Clock,
    /// Draws the pauses between attempts.
    pub jitter: Jitter,
}

/// One replica, connected.
#[derive(Clone)]
struct Replica {
    client: Client,
    config: Config,
    ambient: Ambient,
    metrics: Arc<Metrics>,
    tenure: Arc<Tenure>,
    seen: Arc<Seen>,
}

/// Runs until told to stop.
#[must_use]
pub fn main(config: Config) -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    // One provider, chosen here; ring is not in the dependency tree.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::error!("a TLS provider was installed before ours");
        return ExitCode::FAILURE;
    }
    // One thread: passes wait for the API server, not for one another, and each thread would have a heap of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(StartError::from).and_then(|runtime| runtime.block_on(run(config)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "the operator failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = Arc::new(Metrics::default());
    let (pending, readiness) = watch::channel(Some("the API server"));
    let listener = server::bind(config.admin_address).await?;
    tokio::spawn(server::serve(listener, Arc::clone(&metrics), readiness));
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let client = ClientBuilder::try_from(bounded(kube::Config::infer().await?))?;
    let client = client.with_layer(&tower_layer::layer_fn(Deadlined::new)).build();
    // The watches are not filled before this replica leads, but it is ready to lead.
    let started = || {
        pending.send_replace(None);
    };
    match operate(client, config, Ambient::default(), metrics, started, stop).await? {
        Stopped::Told | Stopped::LeaseLost => Ok(()),
        Stopped::ControllerEnded => Err(StartError::ControllerEnded),
    }
}

/// The operator behind its client, from the first question until it stops. Dropping it ends everything that it began.
///
/// # Errors
/// When the API server does not answer the first questions, or answers them with nothing usable.
pub async fn operate(
    client: Client,
    config: Config,
    ambient: Ambient,
    metrics: Arc<Metrics>,
    started: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<Stopped, StartError> {
    let mut stop = Box::pin(stop);
    let (ranges, following) = tokio::select! {
        followed = watches::ranges(&client, &config, ambient.jitter) => followed?,
        () = &mut stop => return Ok(Stopped::Told),
    };
    let platform = tokio::select! {
        platform = facts::known(&client, &config, &ranges, ambient.jitter) => platform?,
        () = &mut stop => return Ok(Stopped::Told),
    };
    // Replicas that wait follow the cluster, too; it ends with this function.
    let mut beside = JoinSet::new();
    beside.spawn(following);
    started();
    tracing::info!("the operator started");
    let tenure = match config.leader_election {
        LeaderElection::Off => Arc::new(Tenure::unlimited()),
        LeaderElection::Lease => Arc::new(Tenure::default()),
    };
    let replica = Replica { client, config, ambient, metrics, tenure, seen: Arc::default() };
    if replica.config.leader_election == LeaderElection::Lease {
        // In a fixed order here and below: which of two things that are due at once comes first is then no matter of chance.
        tokio::select! {
            biased;
            () = &mut stop => return Ok(Stopped::Told),
            () = replica.wait_for_lease() => {}
        }
    }
    Ok(replica.lead(platform, ranges, stop).await)
}

/// How long the operator's client waits, and that it never repeats a request.
pub(crate) fn bounded(mut config: kube::Config) -> kube::Config {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // The client would try again by itself, for minutes; a pass has to tell what fails, and stop an agent without walls.
    config.default_retry = false;
    config
}

impl Replica {
    /// Reconciles until told to stop, until the lease is lost or until the controller ends; then drains and gives the lease
    /// back.
    async fn lead(self, platform: Platform, ranges: Ranges, stop: impl Future<Output = ()>) -> Stopped {
        let (halt, halted) = watch::channel(false);
        let mut work = JoinSet::new();
        work.spawn(self.clone().work(platform, ranges, halted));
        // The process ends in each case; a fresh one has fresh watches and waits for its turn.
        let stopped = until_stopped(&mut work, stop, self.keep_lease()).await;
        halt.send_replace(true);
        if stopped != Stopped::ControllerEnded && tokio::time::timeout(DRAIN, work.join_next()).await.is_err()
        {
            tracing::warn!("passes under way did not end in time");
        }
        // Whoever leads next must not be written against: what is left ends before the lease is given back.
        self.tenure.end();
        work.shutdown().await;
        if self.config.leader_election == LeaderElection::Lease
            && let Err(error) = lease::release(&self.leases(), &self.config.identity, &self.tenure).await
        {
            tracing::warn!(error = chain(&error), "the lease was not given back and runs out by itself");
        }
        stopped
    }

    async fn work(self, platform: Platform, ranges: Ranges, mut halted: watch::Receiver<bool>) {
        let Self { client, config, ambient, metrics, tenure, seen: _ } = self;
        let deleted = Arc::new(Notify::new());
        let only = config.only.as_deref();
        let (wake, woken) = futures::channel::mpsc::unbounded();
        let (recent, denials) = (Arc::new(Recent::waking(wake.clone())), Arc::new(Denials::default()));
        let (controller, stores) = watches::controller(&client, only, ambient.jitter, &deleted, &recent);
        let moved = watches::moved(ranges.clone(), stores.sandboxes.clone(), wake.clone());
        let memory = Arc::new(Memory::drawing(ambient.jitter));
        let known = (Arc::clone(&denials), Arc::clone(&memory));
        let heard = hear(config.denials, stores.clone(), known, ambient.clock.clone(), wake);
        let reporter = Reporter {
            controller: "agentsandbox-operator".to_owned(),
            instance: Some(config.identity.clone()),
        };
        let recorder = Recorder::new(client.clone(), reporter);
        let told = teller(&config, &metrics, &recorder, &tenure);
        let guarded = guard(client.clone(), &config, ambient.jitter, told);
        let clock = ambient.clock;
        let (hand, copy) = (Arc::clone(&metrics), Arc::clone(&recent));
        let ctx = Arc::new(Ctx {
            stores: stores.clone(),
            recent,
            writer: Writer::new(client, tenure, hand, copy, clock.clone()),
            recorder,
            platform,
            ranges,
            wall_probe: config.wall_probe,
            metrics,
            failures: Failures::drawing(ambient.jitter),
            breaches: Breaches::default(),
            memory,
            progress: Progress::default(),
            denials,
            patience: Patience::default(),
            clock,
        });
        let filled = filled(stores);
        let halt = async move {
            // An error means that the sender is gone, which is a halt as well.
            let _ = halted.wait_for(|halted| *halted).await;
        };
        let orphans = {
            let (ctx, filled) = (Arc::clone(&ctx), filled.clone());
            async move {
                filled.await;
                orphans::watch(ctx, deleted).await;
            }
        };
        let passes = controller
            .reconcile_on(woken)
            .graceful_shutdown_on(halt)
            .run(
                move |sandbox, ctx| pass(filled.clone(), sandbox, ctx),
                |s, error, ctx| retry(&s, error, &ctx),
                ctx,
            )
            .for_each(|result| {
                log(result);
                ready(())
            });
        // Each is polled whenever one is, so none is held up by the order; it keeps what is asked at one moment in order.
        tokio::select! {
            biased;
            () = passes => {}
            () = orphans => {}
            () = heard => {}
            () = moved => {}
            () = guarded => {}
        }
    }
}

async fn pass(
    filled: Shared<BoxFuture<'static, ()>>,
    sandbox: Arc<AgentSandbox>,
    ctx: Arc<Ctx>,
) -> Result<Action, ReconcileError> {
    // An empty watch must not be taken for an empty cluster.
    filled.await;
    reconcile(sandbox, ctx).await
}

/// Waits for the first reason to stop. A lease that is kept by a process that does not reconcile would keep every other
/// replica from doing so.
async fn until_stopped(
    work: &mut JoinSet<()>,
    stop: impl Future<Output = ()>,
    lease: impl Future<Output = ()>,
) -> Stopped {
    // An order to stop comes first: a lease that is lost while the process ends by order is no loss.
    tokio::select! {
        biased;
        () = stop => {
            tracing::info!("the operator was told to stop");
            Stopped::Told
        }
        () = lease => {
            tracing::error!("the lease was lost, so this replica stops");
            Stopped::LeaseLost
        }
        result = work.join_next() => {
            let error = result.and_then(Result::err).map(|error| chain(&error));
            tracing::error!(error, "the controller ended by itself, so this replica stops");
            Stopped::ControllerEnded
        }
    }
}

fn log<E, Q>(result: Result<(ObjectRef<AgentSandbox>, Action), controller::Error<E, Q>>)
where
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    match result {
        Ok((sandbox, _)) => tracing::debug!(sandbox.name = sandbox.name, "a pass ended"),
        Err(error) if is_expected(&error) => {
            tracing::debug!(error = chain(&error), "a pass did not take place or has told why it failed");
        }
        Err(error) => tracing::warn!(error = chain(&error), "a watch failed and is tried again"),
    }
}

/// Compares admission policies, if any are to be in force. Never returns by itself.
async fn guard(client: Client, config: &Config, jitter: Jitter, teller: Teller) {
    let Some(expected) = config.admission.clone() else { return std::future::pending().await };
    let watched = watches::admission(&client, jitter);
    admission::follow(expected, watched, teller, admission::SETTLE).await;
}

/// Tells of admission by Events of the pod that this process runs in.
fn teller(config: &Config, metrics: &Arc<Metrics>, recorder: &Recorder, tenure: &Arc<Tenure>) -> Teller {
    let pod = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(config.identity.clone()),
        namespace: Some(config.namespace.clone()),
        uid: config.pod_uid.clone(),
        ..ObjectReference::default()
    };
    Teller { metrics: Arc::clone(metrics), recorder: recorder.clone(), pod, tenure: Arc::clone(tenure) }
}

/// Asks proxies how much they denied, if they are to be asked. Never returns by itself.
async fn hear(
    ask: AskDenials,
    stores: Stores,
    known: (Arc<Denials>, Arc<Memory>),
    clock: Clock,
    wake: UnboundedSender<ObjectRef<AgentSandbox>>,
) {
    match ask {
        AskDenials::Ask => denials::follow(stores, known, clock, wake).await,
        AskDenials::None => std::future::pending().await,
    }
}

/// Whether an error is no news: failed passes were logged by [`retry`], and the end of its last child wakes a sandbox that
/// has gone before it. What is left are the watches themselves.
fn is_expected<E: std::error::Error, Q: std::error::Error>(error: &controller::Error<E, Q>) -> bool {
    matches!(error, controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_))
}

/// Completes once every watch has brought what there is, but for that of templates: whoever names none does not wait for a kind that the API
/// server may not know yet. A store wakes only the last of those who wait for it, so there is
/// one wait, and everybody shares it.
fn filled(stores: Stores) -> Shared<BoxFuture<'static, ()>> {
    let all = async move {
        // Each of these fails only when its watch is dropped, which is the end of the process.
        let _ = tokio::join!(
            stores.sandboxes.wait_until_ready(),
            stores.credentials.wait_until_ready(),
            stores.classes.wait_until_ready(),
            stores.runtime_classes.wait_until_ready(),
            stores.network_policies.wait_until_ready(),
            stores.service_accounts.wait_until_ready(),
            stores.config_maps.wait_until_ready(),
            stores.claims.wait_until_ready(),
            stores.services.wait_until_ready(),
            stores.pods.wait_until_ready(),
        );
        tracing::info!("the watches are filled");
    };
    all.boxed().shared()
}

impl Replica {
    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.config.namespace)
    }

    async fn attempt(&self) -> Result<Attempt, LeaseError> {
        let now = self.ambient.clock.now();
        lease::attempt(&self.leases(), &self.config.identity, &self.tenure, &self.seen, now).await
    }

    async fn wait_for_lease(&self) {
        loop {
            match self.attempt().await {
                Ok(Attempt::Held) => break,
                Ok(Attempt::TheirTurn) => {}
                Err(error) => tracing::warn!(error = chain(&error), "the lease could not be read"),
            }
            tokio::time::sleep(lease::RETRY).await;
        }
        tracing::info!("this replica leads");
    }

    /// Renews until the tenure is over.
    async fn keep_lease(&self) {
        if self.config.leader_election == LeaderElection::Off {
            std::future::pending::<()>().await;
        }
        while self.tenure.may_write() {
            tokio::time::sleep(lease::RETRY).await;
            match self.attempt().await {
                Ok(Attempt::Held) => {}
                Ok(Attempt::TheirTurn) => return,
                Err(error) => tracing::warn!(error = chain(&error), "the lease could not be renewed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store::Writer;
    use kube::runtime::reflector::{Lookup, store};
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::shelf::{Filler, Shelved, shelf};

    type WorkError = controller::Error<std::io::Error, std::io::Error>;

    #[tokio::test]
    async fn a_controller_that_ends_or_panics_ends_the_process() {
        let (told, lost) = (std::future::pending::<()>, std::future::pending::<()>);
        let mut panicking = JoinSet::new();
        panicking.spawn(async { panic!("as a bug would") });
        assert_eq!(until_stopped(&mut panicking, told(), lost()).await, Stopped::ControllerEnded);
        let mut ending = JoinSet::new();
        ending.spawn(async {});
        assert_eq!(until_stopped(&mut ending, told(), lost()).await, Stopped::ControllerEnded);
        let mut working = JoinSet::new();
        working.spawn(std::future::pending());
        assert_eq!(until_stopped(&mut working, async {}, lost()).await, Stopped::Told);
        assert_eq!(until_stopped(&mut working, told(), async {}).await, Stopped::LeaseLost);
    }

    #[tokio::test]
    async fn everybody_who_waits_for_the_watches_is_woken() {
        fn init<K>(mut writer: Writer<K>)
        where
            K: Lookup + Clone + 'static,
            K::DynamicType: Default + Eq + std::hash::Hash + Clone,
        {
            writer.apply_watcher_event(&Event::Init);
            writer.apply_watcher_event(&Event::InitDone);
        }
        fn fill<K: Shelved>(mut filler: Filler<K>) {
            filler.apply(&Event::Init);
            filler.apply(&Event::InitDone);
        }
        let (sandboxes, a) = store();
        let (credentials, b) = store();
        let (classes, c) = store();
        let (runtime_classes, d) = store();
        let (network_policies, e) = shelf();
        let (service_accounts, f) = shelf();
        let (config_maps, g) = shelf();
        let (services, h) = shelf();
        let (pods, i) = shelf();
        let (claims, j) = shelf();
        let (templates, _) = store();
        let filled = filled(Stores {
            sandboxes,
            credentials,
            classes,
            templates,
            runtime_classes,
            network_policies,
            service_accounts,
            config_maps,
            claims,
            services,
            pods,
        });
        let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(filled.clone())).collect();
        // On this runtime of one thread, each of them has begun to wait once this comes back.
        tokio::task::yield_now().await;
        init(a);
        init(b);
        init(c);
        init(d);
        fill(e);
        fill(f);
        fill(g);
        fill(h);
        fill(i);
        fill(j);
        let all = futures::future::join_all(waiting);
        let woken = tokio::time::timeout(Duration::from_secs(10), all).await;
        assert!(woken.is_ok_and(|waits| waits.iter().all(Result::is_ok)), "somebody still waits");
    }

    #[test]
    fn a_sandbox_that_is_gone_is_no_warning_and_a_failed_watch_is() {
        let gone = ObjectRef::<AgentSandbox>::new("fix-login").within("team").erase();
        assert!(is_expected(&WorkError::ObjectNotFound(Box::new(gone))));
        assert!(!is_expected(&WorkError::QueueError(std::io::Error::other("the watch ended"))));
    }
}
