//! What holds while there is no policy engine, and while runtime, kubelet and engine are killed and started again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentsandbox_crds::names;
use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use agentsandbox_world::journal::PacketFilter;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use serde_json::json;
use xtask::cluster::{component, process};

use crate::race::{agent_pod, agent_started};
use crate::walls::{ANSWER_WITHIN, control, open_places, unfenced};
use crate::{fixtures, routes};

pub const ENGINE: &str = "kube-router";

/// What runs so long does not end for want of another: an API server waits ten seconds for etcd, and whoever needs the API server as long.
const STAYS: Duration = Duration::from_secs(15);
/// How often it is looked whether components run.
const LOOK: Duration = Duration::from_millis(250);

/// Components that were killed; however a test ends, they run again when this is dropped.
pub struct Killed<'rig> {
    rig: &'rig Rig,
    components: Vec<&'static str>,
}

impl<'rig> Killed<'rig> {
    /// Kills them, in this order.
    pub fn now(rig: &'rig Rig, components: Vec<&'static str>) -> Self {
        let killed = Self { rig, components };
        for component in &killed.components {
            assert!(killed.runs(component), "{component} does not run");
            process::stop(&rig.cluster, component, Duration::ZERO).expect("it can be killed");
        }
        killed
    }

    fn runs(&self, component: &str) -> bool {
        process::running(&self.rig.cluster, component).is_ok_and(|process| process.is_some())
    }

    /// Whether all of them run now.
    ///
    /// # Errors
    /// Says which do not.
    pub fn all_run(&self) -> Result<(), String> {
        let ended: Vec<_> = self.components.iter().filter(|component| !self.runs(component)).collect();
        if ended.is_empty() { Ok(()) } else { Err(format!("{ended:?} do not run")) }
    }

    /// Starts those that do not run, in this order, as whoever supervises them would: the kubelet ends by itself while there is no
    /// containerd.
    pub fn start(&self, order: &[&'static str]) {
        for component in order.iter().filter(|component| !self.runs(component)) {
            component::start(&self.rig.cluster, component).expect("it can be started");
        }
    }
}

impl Drop for Killed<'_> {
    /// Starts what does not run in the order of the cluster's own start, again and again until all of it runs and stays: a component
    /// that is started before the one that it needs ends by itself. This thread waits; who stops components has the cluster alone.
    fn drop(&mut self) {
        let usual = component::ALL.into_iter().filter(|one| self.components.contains(one));
        let usual: Vec<&str> = usual.collect();
        let (begin, mut started) = (Instant::now(), None::<Instant>);
        loop {
            for component in usual.iter().filter(|component| !self.runs(component)) {
                let _started = component::start(&self.rig.cluster, component);
                started = Some(Instant::now());
            }
            if started.is_none_or(|last| last.elapsed() > STAYS) {
                return;
            }
            if begin.elapsed() > BACK_WITHIN {
                eprintln!("not everything of {usual:?} runs again");
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// A pod within the walls of a sandbox's agent, in the same runtime and without a fence: what it reaches, the walls let through.
async fn within_the_walls_of(ns: &Namespace, sandbox: &Sandbox) {
    let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
    let wall = eventually("the sandbox has its wall", READY_WITHIN, || async {
        policies.get(&sandbox.agent_pod()).await.map_err(|error| error.to_string())
    })
    .await;
    let selected = wall.spec.and_then(|spec| spec.pod_selector).and_then(|selector| selector.match_labels);
    let mut pod = fixtures::plain("walled", fixtures::WAIT);
    pod["metadata"]["labels"] = json!(selected.expect("a wall selects by labels"));
    pod["spec"]["runtimeClassName"] = json!("gvisor");
    routes::started(ns, &pod).await;
}

/// Fewer open cells than this would be within what a slow answer spoils.
const OPEN_CELLS_MIN: usize = 10;

/// What tests of walls see as nothing is seen by the same probes as open when nobody enforces the same policies.
async fn o_n23_with_the_policy_engine_stopped_before_pods_start_the_matrix_fails(
    rig: &Rig,
    ns: &Namespace,
    more: &[(IpAddr, u16)],
) {
    // Each sink is reachable where no policy selects.
    control(rig, ns, more).await;
    eventually("the matrix fails", READY_WITHIN, || async {
        let open = open_places(ns, "walled", more, ANSWER_WITHIN).await;
        let cells = open.lines().count();
        eprintln!("without an engine {cells} cells are open");
        if cells >= OPEN_CELLS_MIN { Ok(()) } else { Err(open) }
    })
    .await;
}

/// The fence tries for a minute before it gives up.
async fn o_n16_without_a_policy_engine_the_fence_says_so_and_no_agent_starts(sandbox: &Sandbox) {
    let told = sandbox.await_reason("NetworkIsolated", "EgressOpen", READY_WITHIN).await;
    assert_eq!(told.status, "False");
    assert!(told.message.contains("10.96.0.1:443"), "{}", told.message);
    let pod = agent_pod(sandbox).await.expect("the fence is in the agent's pod");
    assert!(!agent_started(&pod), "the agent started without walls");
}

#[tokio::test]
async fn walls_that_nobody_enforces_are_seen_by_the_matrix_and_by_the_fence() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "no-engine", async |ns| {
        let engine = Killed::now(&rig, vec![ENGINE]);
        let sandbox = ns.sandbox("bare", &fixtures::closed("bare")).await;
        within_the_walls_of(&ns, &sandbox).await;
        let more = [(routes::address(&ns, "bare-proxy").await, names::PORT_ADMIN)];
        o_n23_with_the_policy_engine_stopped_before_pods_start_the_matrix_fails(&rig, &ns, &more).await;
        o_n16_without_a_policy_engine_the_fence_says_so_and_no_agent_starts(&sandbox).await;
        drop(engine);
        // The same pod, the same policies, the same probes: now there is an engine.
        eventually("the matrix holds", READY_WITHIN, || async {
            let open = open_places(&ns, "walled", &more, ANSWER_WITHIN).await;
            if open.is_empty() { Ok(()) } else { Err(open) }
        })
        .await;
        sandbox.ready().await;
        assert!(agent_started(&agent_pod(&sandbox).await.expect("a ready sandbox has an agent")));
    })
    .await;
}

/// Where agents send to, and nobody else: no fence tries it and no other test.
pub const SINK: &str = "203.0.113.19";

/// Who has sent how many packets to [`SINK`].
pub async fn sent(rig: &Rig) -> BTreeMap<IpAddr, u64> {
    let filter =
        PacketFilter { destination: Some(SINK.parse().expect("an address")), ..PacketFilter::default() };
    let mut by = BTreeMap::new();
    for counter in rig.world.packets(filter).await.expect("the world answers").counters {
        *by.entry(counter.source).or_default() += counter.packets;
    }
    by
}

/// The control: what a pod without walls sends to [`SINK`] is counted. Returns what has been sent so far.
pub async fn without_walls_packets_arrive(rig: &Rig, ns: &Namespace) -> BTreeMap<IpAddr, u64> {
    let before = sent(rig).await;
    let free = unfenced(ns).await;
    let send = format!("echo x > /dev/udp/{SINK}/9999");
    agentsandbox_tests::exec::exec(&ns.pods(), "unfenced", "agent", &["bash", "-c", &send]).await.ok();
    eventually("a packet of a pod without walls arrives", ANSWER_WITHIN, || async {
        if sent(rig).await.get(&free) > before.get(&free) { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    sent(rig).await
}

/// A line of shell that sends from its first moment on, for ever.
pub fn sending() -> String {
    format!("while :; do {{ echo x > /dev/udp/{SINK}/9999; }} 2>/dev/null; sleep 0.01; done")
}

/// Numbers that look random and are the same for the same seed (xorshift64).
pub struct Order(pub u64);

impl Order {
    /// These, in an order of their own.
    pub fn shuffled<T: Copy>(&mut self, of: &[T]) -> Vec<T> {
        let mut rest = of.to_vec();
        let mut order = Vec::new();
        while !rest.is_empty() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let length = u64::try_from(rest.len()).expect("a length is a number");
            order.push(rest.remove(usize::try_from(self.0 % length).expect("it is below the length")));
        }
        order
    }
}

/// Variable with the seed of an order that is to be had again.
pub const SEED: &str = "AGENTSANDBOX_TEST_SEED";
const ROUNDS: usize = 3;
/// A kubelet that comes back looks at all of its pods first. Bounds a hang.
pub const BACK_WITHIN: Duration = Duration::from_secs(240);

/// The seed of this run.
pub fn seed() -> u64 {
    let written = std::env::var(SEED).ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    written.unwrap_or_else(seconds).max(1)
}

#[tokio::test]
async fn o_n19_no_packet_leaves_an_agent_while_runtime_kubelet_and_engine_are_killed_in_random_order() {
    let rig = Rig::alone().await;
    let seed = seed();
    eprintln!("{SEED}={seed}");
    let mut random = Order(seed);
    with_namespace(&rig, "disorder", async |ns| {
        let before = without_walls_packets_arrive(&rig, &ns).await;
        let mut sandboxes = Vec::new();
        for round in 0..ROUNDS {
            let ends = random.shuffled(&["containerd", "kubelet", ENGINE]);
            let begins = random.shuffled(&ends);
            eprintln!("round {round}: killed {ends:?}, started {begins:?}");
            let name = format!("d{round}");
            let manifest = fixtures::closed(&name)
                .replace("[sleep, infinity]", &json!(["bash", "-c", sending()]).to_string());
            let killed = Killed::now(&rig, ends);
            sandboxes.push(ns.sandbox(&name, &manifest).await);
            eventually("each agent sends behind its walls", BACK_WITHIN, || async {
                killed.start(&begins);
                for sandbox in &sandboxes {
                    match sandbox.condition("Ready").await? {
                        Some(ready) if ready.status == "True" => {}
                        other => return Err(format!("{}: {other:?}", sandbox.name)),
                    }
                    // Through the kubelet and the runtime, so both are back.
                    let sends = sandbox.try_sh("grep -q dev/udp /proc/1/cmdline").await?;
                    if sends.code != 0 {
                        return Err(format!("{sends:?}"));
                    }
                }
                Ok(())
            })
            .await;
            assert_eq!(sent(&rig).await, before, "a packet left an agent; seed {seed}");
        }
    })
    .await;
}
