//! Who may reach whom: our reading of the policies, cyclonus' reading of them, and packets that are really sent.
//!
//! A Service is known to no reading of policies; the engine sees the pod behind it, and so do the packets here. Of the node itself
//! policies say nothing: it reaches every pod, and is used for that, to see who listens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use agentsandbox_crds::names;
use agentsandbox_tests::exec::exec;
use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::union::{self, InPod, Place, Verdict};
use agentsandbox_tests::{Namespace, Rig, cyclonus, eventually, with_namespace};
use k8s_openapi::api::core::v1::{Namespace as CoreNamespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use xtask::cluster::network::{API_SERVICE, CLUSTER_DNS, NODE};
use xtask::{install, paths, shell};

use crate::{fixtures, routes};

const PROBER: &str = "/agentsandbox-prober";
const PROBER_IMAGE: &str = "agentsandbox.test/prober:1";

/// What every pod of the test listens on, and every pod is asked for: each port of a proxy, and neighbours of theirs that no policy has.
const PORTS: [u16; 11] = [
    names::PORT_DNS,
    names::PORT_HTTP,
    names::PORT_TLS,
    names::PORT_SOCKS,
    names::PORT_HTTP_PROXY,
    names::PORT_ENROLMENT,
    names::PORT_BASE_URL,
    names::PORT_ADMIN,
    22,
    444,
    3130,
];
/// The first two are tried with packets; nobody here speaks the third, of which the readings alone are compared.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const PUBLIC: &str = "93.184.215.14";
const METADATA: &str = "169.254.169.254";

/// How long silence is waited for.
const ANSWER_MILLIS: &str = "1500";
/// Attempts that are made at once.
const AT_ONCE: usize = 80;
/// An answer that is late on a busy machine is asked for again.
const AGREED_WITHIN: Duration = Duration::from_secs(60);

/// From where packets can be sent.
#[derive(Clone, Debug)]
enum Vantage {
    /// Inside a container: what is tested is the runtime's own network stack.
    Container(Box<Api<Pod>>, String),
    /// The network namespace of a process of the node's own runtime.
    Process(u32),
    /// The node.
    Node,
}

#[derive(Clone, Debug)]
struct Party {
    name: String,
    place: Place,
    from: Vantage,
}

/// Where packets are sent: to an address and port, which lead to a port of a place.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    address: IpAddr,
    ports: Vec<(u16, u16)>,
    place: Place,
}

#[derive(Clone, Debug)]
struct Cell {
    source: usize,
    target: usize,
    /// As sent, and as it arrives.
    port: (u16, u16),
    protocol: &'static str,
}

#[derive(Clone, Debug, Default)]
struct Ground {
    parties: Vec<Party>,
    targets: Vec<Target>,
}

/// The three verdicts of a cell; none where nobody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    ours: Verdict,
    theirs: Verdict,
    live: Option<bool>,
}

struct Name<'a>(&'a Ground, &'a Cell);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ground, cell) = self;
        let (source, target) = (&ground.parties[cell.source].name, &ground.targets[cell.target].name);
        write!(f, "{source} -> {target} {}/{}", cell.port.0, cell.protocol)
    }
}

#[derive(Deserialize)]
struct Attempt {
    target: String,
    answered: bool,
}

impl Vantage {
    /// Those of `ip:port/protocol` that answered.
    async fn reaches(&self, rig: &Rig, targets: &[String]) -> BTreeSet<String> {
        let mut answered = BTreeSet::new();
        for some in targets.chunks(AT_ONCE) {
            let targets = some.join(",");
            let args = ["direct", "--wait-millis", ANSWER_MILLIS, "--targets", &targets];
            let said = match self {
                Self::Container(pods, pod) => {
                    let command: Vec<&str> = std::iter::once(PROBER).chain(args).collect();
                    exec(pods, pod, "agent", &command).await.ok().stdout
                }
                Self::Process(process) => on_host(&format!("/proc/{process}/ns/net"), &args).await,
                Self::Node => on_host(&format!("/run/netns/{}", rig.cluster.node_netns()), &args).await,
            };
            let attempts: Vec<Attempt> = serde_json::from_str(&said).expect("the prober prints JSON");
            assert_eq!(attempts.len(), some.len(), "the prober has not tried everything");
            answered.extend(attempts.into_iter().filter(|one| one.answered).map(|one| one.target));
        }
        answered
    }
}

async fn on_host(netns: &str, args: &[&str]) -> String {
    let mut command = shell::command("nsenter", &[format!("--net={netns}")]);
    command.arg(paths::prober_program()).args(args);
    let sent = tokio::task::spawn_blocking(move || shell::output(&mut command));
    sent.await.expect("a thread").expect("the prober runs")
}

impl Ground {
    /// Every packet from each party to each target but itself.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (source, party) in
            self.parties.iter().enumerate().filter(|(_, p)| !matches!(p.from, Vantage::Node))
        {
            for (target, to) in self.targets.iter().enumerate().filter(|(_, t)| t.place != party.place) {
                for protocol in PROTOCOLS {
                    cells.extend(to.ports.iter().map(|port| Cell { source, target, port: *port, protocol }));
                }
            }
        }
        cells
    }

    fn written(&self, cell: &Cell) -> String {
        let address = self.targets[cell.target].address;
        format!("{address}:{}/{}", cell.port.0, cell.protocol.to_lowercase())
    }

    /// The cells that packets can try, as the prober wants them, each once.
    fn sent<'a>(&self, cells: impl Iterator<Item = &'a Cell>) -> Vec<String> {
        let all: BTreeSet<String> =
            cells.filter(|cell| cell.protocol != "SCTP").map(|cell| self.written(cell)).collect();
        all.into_iter().collect()
    }

    /// What each party reaches of these cells, and what the node reaches of all: who listens.
    async fn live(&self, rig: &Rig, cells: &[Cell]) -> (Vec<BTreeSet<String>>, BTreeSet<String>) {
        let everything = self.sent(cells.iter());
        let each = self.parties.iter().enumerate().map(|(source, party)| {
            let own = match party.from {
                Vantage::Node => everything.clone(),
                _ => self.sent(cells.iter().filter(|cell| cell.source == source)),
            };
            async move { party.from.reaches(rig, &own).await }
        });
        let reached = futures::future::join_all(each).await;
        let listening = reached.iter().flatten().cloned().collect();
        (reached, listening)
    }

    /// All three verdicts of each cell.
    async fn look(&self, rig: &Rig, cells: &[Cell], policies: &[NetworkPolicy]) -> Vec<Seen> {
        let packets: Vec<cyclonus::Packet<'_>> = cells
            .iter()
            .map(|cell| {
                let (source, target) = (&self.parties[cell.source].place, &self.targets[cell.target].place);
                (source, target, cell.port.1, cell.protocol)
            })
            .collect();
        let theirs = cyclonus::verdicts(policies, &packets);
        let (reached, listening) = self.live(rig, cells).await;
        let seen = cells.iter().zip(packets).zip(theirs).map(|((cell, packet), theirs)| {
            let (source, destination, port, protocol) = packet;
            let written = self.written(cell);
            let live = (cell.protocol != "SCTP" && listening.contains(&written))
                .then(|| reached[cell.source].contains(&written));
            let ours = union::verdict(policies, source, destination, port, protocol);
            Seen { ours, theirs, live }
        });
        seen.collect()
    }

    fn name(&self, cell: &Cell) -> String {
        Name(self, cell).to_string()
    }
}

/// Cells on which not all three agree, each with what they say.
fn disagreements(ground: &Ground, cells: &[Cell], seen: &[Seen]) -> Vec<String> {
    let differ = cells.iter().zip(seen).filter(|(_, seen)| {
        seen.ours != seen.theirs || seen.live.is_some_and(|live| live != seen.ours.passes())
    });
    differ.map(|(cell, seen)| format!("{}: {seen:?}", ground.name(cell))).collect()
}

async fn all_policies(ns: &Namespace) -> Vec<NetworkPolicy> {
    let all: Api<NetworkPolicy> = Api::all(ns.client.clone());
    all.list(&ListParams::default()).await.expect("policies can be listed").items
}

/// A pod as a party: its address and labels, and a way to send from it.
async fn party(rig: &Rig, ns: &Namespace, name: &str, namespace: &str, pod: &Pod) -> Party {
    let namespaces: Api<CoreNamespace> = Api::all(ns.client.clone());
    let labels = namespaces.get(namespace).await.expect("the namespace exists").labels().clone();
    let address = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).expect("the pod has an address");
    let under_gvisor = pod.spec.as_ref().is_some_and(|spec| spec.runtime_class_name.is_some());
    let from = if under_gvisor {
        Vantage::Container(Box::new(Api::namespaced(ns.client.clone(), namespace)), pod.name_any())
    } else {
        Vantage::Process(*rig.group(pod).processes().first().expect("the pod has a process"))
    };
    let in_pod =
        InPod { namespace: namespace.to_owned(), namespace_labels: labels, labels: pod.labels().clone() };
    let address = address.parse().expect("an address is one");
    Party { name: name.to_owned(), place: Place { address, pod: Some(in_pod) }, from }
}

/// The pod of another namespace that carries this label.
async fn labelled(ns: &Namespace, namespace: &str, label: &str) -> Pod {
    let pods: Api<Pod> = Api::namespaced(ns.client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels(label)).await.expect("pods can be listed");
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let is_new = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    found.items.into_iter().find(|pod| runs(pod) && is_new(pod)).expect("one runs")
}

/// A pod that answers on every port and has these labels.
async fn listener(ns: &Namespace, name: &str, labels: &BTreeMap<String, String>) -> Pod {
    let mut pod = fixtures::plain(name, "");
    pod["metadata"]["labels"] = json!(labels);
    pod["spec"]["containers"][0]["image"] = json!(PROBER_IMAGE);
    pod["spec"]["containers"][0]["command"] = serve();
    ns.apply(&pod.to_string()).await.unwrap();
    ns.pod_ready(name, READY_WITHIN).await
}

fn serve() -> Value {
    let ports = PORTS.iter().map(u16::to_string);
    json!([PROBER, "serve"].map(str::to_owned).into_iter().chain(ports).collect::<Vec<_>>())
}

fn of_pod(party: &Party) -> Target {
    Target {
        name: party.name.clone(),
        address: party.place.address,
        ports: PORTS.map(|port| (port, port)).to_vec(),
        place: party.place.clone(),
    }
}

fn outside(name: &str, address: &str, ports: &[(u16, u16)], behind: Option<&Party>) -> Target {
    let address = address.parse().expect("an address");
    let place = behind.map_or(Place { address, pod: None }, |party| party.place.clone());
    Target { name: name.to_owned(), address, ports: ports.to_vec(), place }
}

/// Labels as copies of the walls ask for them, so that no operator takes a copy for its own.
fn twin(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.replace(names::GROUP, "twin.test"), value.clone())).collect()
}

/// The sandbox's two walls, for twins of its pods in another namespace.
async fn copy_walls(ns: &Namespace, to: &Namespace) {
    let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
    for name in ["t-agent", "t-proxy"] {
        let spec = json!(policies.get(name).await.expect("the wall stands").spec).to_string();
        let spec = spec.replace(names::GROUP, "twin.test").replace(&ns.name, &to.name);
        let spec: Value = serde_json::from_str(&spec).expect("it stays JSON");
        let copy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name}, "spec": spec});
        to.apply(&copy.to_string()).await.unwrap();
    }
}

/// Everybody who takes part: the sandbox, its neighbours, look-alikes in another namespace, twins under the other runtime behind
/// copies of its walls, the operator, the cluster's name server; and what is no pod.
async fn ground(rig: &Rig, ns: &Namespace, there: &Namespace) -> Ground {
    let agent = ns.pods().get("t-agent").await.unwrap();
    let proxy = ns.pods().get("t-proxy").await.unwrap();
    let own = BTreeMap::from([("app".to_owned(), "plain".to_owned())]);
    let mut parties = Vec::new();
    for (name, home, pod) in [
        ("agent", ns, agent.clone()),
        ("proxy", ns, proxy.clone()),
        ("plain", ns, listener(ns, "plain", &own).await),
        ("agent-elsewhere", there, listener(there, "agent-elsewhere", agent.labels()).await),
        ("proxy-elsewhere", there, listener(there, "proxy-elsewhere", proxy.labels()).await),
        ("twin-agent", there, listener(there, "twin-agent", &twin(agent.labels())).await),
        ("twin-proxy", there, listener(there, "twin-proxy", &twin(proxy.labels())).await),
    ] {
        parties.push(party(rig, ns, name, &home.name, &pod).await);
    }
    for (name, namespace, label) in [
        ("operator", install::NAMESPACE, "app.kubernetes.io/component=operator"),
        ("kube-dns", "kube-system", "k8s-app=kube-dns"),
    ] {
        let pod = labelled(ns, namespace, label).await;
        parties.push(party(rig, ns, name, namespace, &pod).await);
    }
    let mut targets: Vec<Target> = parties.iter().map(of_pod).collect();
    let find = |name: &str| parties.iter().find(|party| party.name == name);
    let data: Vec<(u16, u16)> =
        PORTS.iter().filter(|port| **port != names::PORT_ADMIN).map(|port| (*port, *port)).collect();
    let service = routes::service_address(ns, "t-proxy").await;
    targets.push(outside("service of the proxy", &service, &data[..7], find("proxy")));
    targets.push(outside("service of kube-dns", CLUSTER_DNS, &[(53, 53)], find("kube-dns")));
    let mut api = outside("service of the API server", API_SERVICE, &[(443, 6443)], None);
    api.place.address = NODE.parse().expect("an address");
    targets.push(api);
    targets.push(outside("node", NODE, &[(6443, 6443), (10250, 10250), (53, 53)], None));
    for (name, address) in [("metadata", METADATA), ("public", PUBLIC)] {
        targets.push(outside(name, address, &[(53, 53), (80, 80), (443, 443), (853, 853)], None));
    }
    let node = Place { address: NODE.parse().expect("an address"), pod: None };
    parties.push(Party { name: "node".to_owned(), place: node, from: Vantage::Node });
    Ground { parties, targets }
}

/// Fewer cells that packets have tried than this would be a matrix with holes.
const LIVE_MIN: usize = 600;
/// The ports of a data plane, the name server's twice; by the pod's address and by the Service's.
const AGENT_OPEN: usize = 16;

/// Every cell that is open for the agent, as [`Name`] writes it.
fn open_for(ground: &Ground, cells: &[Cell], seen: &[Seen], source: &str) -> BTreeSet<String> {
    let all = cells.iter().zip(seen).filter(|(cell, _)| ground.parties[cell.source].name == source);
    all.filter(|(_, seen)| seen.ours.passes()).map(|(cell, _)| ground.name(cell)).collect()
}

async fn all_agree(rig: &Rig, ns: &Namespace, ground: &Ground, cells: &[Cell]) -> Vec<Seen> {
    let policies = all_policies(ns).await;
    let seen = eventually("all three agree on each cell", AGREED_WITHIN, || async {
        let seen = ground.look(rig, cells, &policies).await;
        // A packet that arrives where it must not has arrived, whatever the next one does. The walls of the twins are new to the engine.
        let guarded = |cell: &Cell| {
            [&ground.parties[cell.source].name, &ground.targets[cell.target].name]
                .into_iter()
                .any(|name| ["agent", "proxy"].contains(&name.as_str()))
        };
        let leaks: Vec<String> = cells
            .iter()
            .zip(&seen)
            .filter(|(cell, seen)| guarded(cell) && seen.live == Some(true) && !seen.ours.passes())
            .map(|(cell, _)| ground.name(cell))
            .collect();
        assert!(leaks.is_empty(), "denied by the policies and reached all the same: {leaks:#?}");
        let differ = disagreements(ground, cells, &seen);
        if differ.is_empty() { Ok(seen) } else { Err(format!("{differ:#?}")) }
    })
    .await;
    let live = seen.iter().filter(|seen| seen.live.is_some()).count();
    let open = seen.iter().filter(|seen| seen.live == Some(true)).count();
    eprintln!(
        "{} policies, {} cells, of which {live} were tried with packets: {open} open, {} closed",
        policies.len(),
        cells.len(),
        live - open
    );
    assert!(live >= LIVE_MIN, "only {live} cells could be tried");
    seen
}

/// With a wall taken away all three leave what was expected, in the same cells.
async fn a_wall_that_is_gone_is_seen_by_all_three(
    rig: &Rig,
    there: &Namespace,
    ground: &Ground,
    cells: &[Cell],
    before: &[Seen],
) {
    let of_twin = |cell: &Cell| ground.parties[cell.source].name == "twin-agent";
    let (cells, expected): (Vec<Cell>, Vec<Seen>) =
        cells.iter().zip(before).filter(|(cell, _)| of_twin(cell)).map(|(c, s)| (c.clone(), *s)).unzip();
    let policies: Api<NetworkPolicy> = Api::namespaced(there.client.clone(), &there.name);
    policies.delete("t-agent", &DeleteParams::default()).await.unwrap();
    let left = all_policies(there).await;
    let changed = eventually("all three change alike", AGREED_WITHIN, || async {
        let now = ground.look(rig, &cells, &left).await;
        let differ = disagreements(ground, &cells, &now);
        if !differ.is_empty() {
            return Err(format!("{differ:#?}"));
        }
        let all = now.iter().zip(&expected);
        let count =
            |differs: &dyn Fn(&Seen, &Seen) -> bool| all.clone().filter(|(n, e)| differs(n, e)).count();
        Ok([
            count(&|now, expected| now.ours.passes() != expected.ours.passes()),
            count(&|now, expected| now.theirs.passes() != expected.theirs.passes()),
            count(&|now, expected| expected.live.is_some() && now.live != expected.live),
        ])
    })
    .await;
    eprintln!("without the wall {changed:?} cells differ: by our reading, by cyclonus', by packets");
    assert_eq!(changed[0], changed[1]);
    assert!(changed.iter().all(|count| *count >= 20), "{changed:?}");
}

#[tokio::test]
async fn o_n22_our_reading_of_the_policies_cyclonus_and_packets_agree_on_every_cell() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "truth", async |ns| {
        with_namespace(&rig, "truth-there", async |there| {
            let rule = "{host: a.ok.world.test, ports: [443]}";
            let manifest = fixtures::sleeper("t", PROBER_IMAGE, "Set", &[rule])
                .replace("[sleep, infinity]", &serve().to_string());
            ns.sandbox("t", &manifest).await.ready().await;
            copy_walls(&ns, &there).await;
            let ground = ground(&rig, &ns, &there).await;
            let cells = ground.cells();
            let seen = all_agree(&rig, &ns, &ground, &cells).await;
            let open = open_for(&ground, &cells, &seen, "agent");
            assert_eq!(open.len(), AGENT_OPEN, "{open:#?}");
            assert!(open.iter().all(|cell| cell.contains("proxy ") && !cell.contains("9090")), "{open:#?}");
            a_wall_that_is_gone_is_seen_by_all_three(&rig, &there, &ground, &cells, &seen).await;
        })
        .await;
    })
    .await;
}
