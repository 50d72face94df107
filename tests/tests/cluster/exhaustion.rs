//! An agent that takes all it can get takes it from itself: its own limits end it, and nobody else notices.

use std::cell::Cell;
use std::time::Duration;

use agentsandbox_crds::names;
use agentsandbox_tests::exec::exec;
use agentsandbox_tests::node::{self, Group};
use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use xtask::shell;

use crate::{fixtures, routes};

/// A kernel that cannot wait takes pages beyond a limit, and so does what it is about to kill: a tenth at most counts as the limit
/// (catalogue, O-G17).
const KERNELS_SHARE: u64 = 10;

const ECHO_RULE: &str = "{host: echo.world.test, scheme: Http, ports: [80]}";
const ASK: &str = "curl -sS -m 20 -o /dev/null -w '%{http_code}' http://echo.world.test/still-here";
/// Bounds a hang; it is no promise.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
/// What the kubelet of the test cluster gives every pod.
const PIDS_MAX: u64 = 4096;

/// A sandbox with these limits that may ask echo.world.test.
async fn limited(ns: &Namespace, name: &str, limits: &str) -> Sandbox {
    let manifest = fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", &[ECHO_RULE]);
    ns.sandbox(name, &fixtures::limited(&manifest, limits)).await
}

async fn pod(ns: &Namespace, name: &str) -> Pod {
    ns.pods().get(name).await.expect("the pod exists")
}

/// Starts a line of shell in the agent that goes on when this returns.
async fn in_background(sandbox: &Sandbox, line: &str) {
    sandbox.sh(&format!("({line}) </dev/null >/tmp/said 2>&1 & echo started")).await.ok();
}

/// How a container of a pod ended last.
fn ended(pod: &Pod, container: &str) -> Option<ContainerStateTerminated> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let status = statuses.into_iter().find(|status| status.name == container)?;
    [&status.state, &status.last_state].into_iter().flatten().find_map(|state| state.terminated.clone())
}

/// The proxy answers now, and is the one that it was.
fn proxy_serves(rig: &Rig, ns: &Namespace, sandbox: &str) {
    let raw =
        format!("/api/v1/namespaces/{}/pods/{sandbox}-proxy:{}/proxy/healthz", ns.name, names::PORT_ADMIN);
    let ask = || shell::output(&mut rig.cluster.kubectl(&["get", "--raw", &raw]).unwrap());
    ask().or_else(|_| ask()).expect("the proxy answers all the while");
}

async fn is_served(sandbox: &Sandbox) {
    eventually("the agent is served", READY_WITHIN, || async {
        // Its container may be between two starts, where nothing can be run.
        sandbox.condition("Ready").await?.filter(|c| c.status == "True").ok_or("not ready")?;
        let answer = sandbox.try_sh(ASK).await?;
        if answer.stdout == "200" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// Waits until the agent's container has ended once more, while its proxy is asked again and again.
async fn ends_alone(rig: &Rig, ns: &Namespace, name: &str, before: &Pod) -> ContainerStateTerminated {
    let asked = Cell::new(0);
    let agent = format!("{name}-agent");
    let container = |end: Option<ContainerStateTerminated>| end.and_then(|end| end.container_id);
    let earlier = container(ended(before, "agent"));
    let end = eventually(&format!("{agent} is killed"), ENDS_WITHIN, || async {
        proxy_serves(rig, ns, name);
        asked.set(asked.get() + 1);
        let now = ns.pods().get(&agent).await.map_err(|error| error.to_string())?;
        let end = ended(&now, "agent").filter(|end| end.container_id != earlier);
        end.ok_or_else(|| format!("{:?}", now.status))
    })
    .await;
    eprintln!(
        "{agent} ended with {} {:?}; its proxy answered {} times",
        end.exit_code,
        end.reason,
        asked.get()
    );
    end
}

async fn o_g17_shared_memory_is_the_pods_own(ns: &Namespace, group: &Group) {
    let hungry = ns.handle("hungry");
    in_background(&hungry, "head -c 700M /dev/zero > /dev/shm/fill; echo over").await;
    let full = eventually("shared memory is full, or the pod is killed", ENDS_WITHIN, || async {
        let now = ns.pods().get("hungry-agent").await.map_err(|error| error.to_string())?;
        if ended(&now, "agent").is_some() {
            return Ok("killed".to_owned());
        }
        let said = hungry.try_sh("cat /tmp/said").await?.stdout;
        if said.contains("over") { Ok(said) } else { Err(format!("{said}{:?}", group.memory())) }
    })
    .await;
    eprintln!("shared memory: {}", full.trim());
    assert!(full.contains("No space left") || full == "killed", "700 MiB fit into 256 MiB: {full}");
    let (limit, most) = group.memory();
    assert_eq!(limit, 256 << 20);
    assert!(most <= limit + limit / KERNELS_SHARE, "the pod used {most} of {limit}");
}

fn o_c4_a_container_over_its_memory_is_seen_to_be_killed(end: &ContainerStateTerminated) {
    assert_eq!(end.reason.as_deref(), Some("OOMKilled"), "{end:?}");
}

async fn o_c4_logs_and_exec_work_through_the_api_server(ns: &Namespace) {
    let hungry = ns.handle("hungry");
    let ended = hungry.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (3, "out\n", "err\n"));
    is_served(&hungry).await;
    eventually("the proxy's log tells of the request", ENDS_WITHIN, || async {
        let told = hungry.audit().await;
        if told.iter().any(|line| line["path"] == "/still-here") { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

async fn o_g11_an_agent_over_its_memory_is_killed_and_its_proxy_serves_on(rig: &Rig, ns: &Namespace) {
    let hungry = ns.handle("hungry");
    is_served(&hungry).await;
    let proxy = pod(ns, "hungry-proxy").await;
    let before = pod(ns, "hungry-agent").await;
    let group = rig.group(&before);
    in_background(&hungry, "python3 -c 'b = b\"x\" * (900 << 20)'; echo survived").await;
    let end = ends_alone(rig, ns, "hungry", &before).await;
    o_c4_a_container_over_its_memory_is_seen_to_be_killed(&end);
    let (limit, most) = group.memory();
    assert!(most <= limit + limit / KERNELS_SHARE, "the pod used {most} of {limit}");
    assert!(most > limit / 2, "the pod used {most} of {limit}, so it was not memory that ended it");
    is_served(&hungry).await;
    let after = pod(ns, "hungry-proxy").await;
    assert_eq!(after.metadata.uid, proxy.metadata.uid, "the proxy was replaced");
    let restarts = after.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    assert_eq!(restarts.map(|c| c.restart_count).sum::<i32>(), 0, "the proxy was restarted");
}

/// Always over its memory, from the first moment on.
async fn o_r16_an_agent_that_is_killed_again_and_again_is_told_with_its_reason(ns: &Namespace) {
    let looping = ns.handle("looping");
    let told = looping.await_reason("Ready", "AgentFailing", ENDS_WITHIN).await;
    assert!(told.message.contains("OOMKilled"), "{told:?}");
}

#[tokio::test]
async fn memory_that_an_agent_takes_is_its_own() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "memory", async |ns| {
        let hungry = limited(&ns, "hungry", "cpu: \"1\", memory: 256Mi").await;
        let greedy = fixtures::limited(&fixtures::closed("looping"), "cpu: \"1\", memory: 128Mi")
            .replace("[sleep, infinity]", "[python3, -c, \"b = b'x' * (900 << 20)\"]");
        ns.sandbox("looping", &greedy).await;
        hungry.ready().await;
        let group = rig.group(&pod(&ns, "hungry-agent").await);
        o_c4_logs_and_exec_work_through_the_api_server(&ns).await;
        o_g17_shared_memory_is_the_pods_own(&ns, &group).await;
        o_g11_an_agent_over_its_memory_is_killed_and_its_proxy_serves_on(&rig, &ns).await;
        o_r16_an_agent_that_is_killed_again_and_again_is_told_with_its_reason(&ns).await;
    })
    .await;
}

/// Periods of the kernel's own accounting, of a tenth of a second each: half a minute of processor time, whatever a clock says.
const PERIODS: u64 = 300;

#[tokio::test]
async fn o_g12_four_threads_that_spin_get_no_more_than_the_limit() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "spin", async |ns| {
        let spinner = limited(&ns, "spinner", "cpu: 500m, memory: 512Mi").await;
        spinner.ready().await;
        let group = rig.group(&pod(&ns, "spinner-agent").await);
        let (quota, period) = group.cpu_quota();
        assert_eq!(
            (quota * 2, period),
            (period, 100_000),
            "the kubelet set another quota than the sandbox's"
        );
        let sentry =
            group.processes().into_iter().filter(|p| node::command_line(*p).contains("runsc-sandbox"));
        assert_eq!(sentry.count(), 1, "the Sentry is not in its pod's group");

        in_background(&spinner, "for t in 1 2 3 4; do (while :; do :; done) & done; wait").await;
        let look = || (group.cpu_stat("nr_periods"), group.cpu_stat("nr_throttled"), group.cpu_nanos());
        let (periods, throttled, nanos) = look();
        let end = eventually("300 periods are over", ENDS_WITHIN, || async {
            let now = look();
            if now.0 >= periods + PERIODS { Ok(now) } else { Err(format!("{now:?}")) }
        })
        .await;
        let (periods, throttled, nanos) = (end.0 - periods, end.1 - throttled, end.2 - nanos);
        let cores = nanos as f64 / (periods as f64 * period as f64 * 1000.0);
        eprintln!("four threads used {cores:.3} cores over {periods} periods, held back in {throttled}");
        assert!(throttled > 0, "nothing was held back, so the limit was not met");
        assert!(cores <= 0.6, "{cores} cores under a limit of half of one");
    })
    .await;
}

/// Forks until it must not, then says why; its children stay.
const FORKS: &str = "
import os, time
n = 0
try:
    while n < 20000:
        if os.fork() == 0:
            time.sleep(10000)
        n += 1
    print('all', n, flush=True)
except OSError as refusal:
    print('refused', refusal.errno, n, flush=True)
time.sleep(10000)
";

async fn o_h10_the_kubelets_limit_on_processes_is_the_pods(rig: &Rig, ns: &Namespace) {
    for name in ["forks-agent", "forks-proxy"] {
        assert_eq!(rig.group(&pod(ns, name).await).number(&["pids.max"]), PIDS_MAX, "{name}");
    }
}

/// Starts threads, which the node's kernel counts as processes, until it may not, and says how many there were.
const THREADS: &str = "
import os, threading
threading.stack_size(65536)
wait, n = threading.Event(), 0
try:
    while n < 20000:
        threading.Thread(target=wait.wait, daemon=True).start()
        n += 1
except RuntimeError:
    pass
print(n, flush=True)
os._exit(0)
";

/// In the node's own runtime, where no second kernel stands before the node's.
async fn o_c4_the_limit_on_processes_of_a_pod_is_seen_to_hold(ns: &Namespace) {
    routes::started(ns, &fixtures::plain("plain", fixtures::WAIT)).await;
    let started = exec(&ns.pods(), "plain", "agent", &["python3", "-c", THREADS]).await.ok().stdout;
    let started: u64 = started.trim().parse().expect("it says a number");
    assert!(started < PIDS_MAX, "{started} threads ran where {PIDS_MAX} processes are allowed");
    assert!(started > PIDS_MAX / 2, "something else ended it after {started} threads");
}

#[tokio::test]
async fn o_g24_a_fork_bomb_ends_itself_and_others_go_on() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "forks", async |ns| {
        let (forks, calm) = (
            limited(&ns, "forks", "cpu: \"1\", memory: 1Gi").await,
            limited(&ns, "calm", "memory: 256Mi").await,
        );
        forks.ready().await;
        calm.ready().await;
        o_h10_the_kubelets_limit_on_processes_is_the_pods(&rig, &ns).await;
        o_c4_the_limit_on_processes_of_a_pod_is_seen_to_hold(&ns).await;
        let group = rig.group(&pod(&ns, "forks-agent").await);
        let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
        let half: usize = pid_max.trim().parse::<usize>().unwrap() / 2;
        in_background(&forks, &format!("python3 -c \"{FORKS}\"")).await;
        let (most, tasks) = (Cell::new(0), Cell::new(0));
        let outcome = eventually("the fork bomb is over", ENDS_WITHIN, || async {
            most.set(most.get().max(group.number(&["pids.current"])));
            tasks.set(tasks.get().max(node::tasks_of_the_host()));
            let mut answer = calm.sh(ASK).await;
            if answer.stdout != "200" {
                // Once more: two cores serve everybody.
                answer = calm.sh(ASK).await;
            }
            assert_eq!(answer.stdout, "200", "another agent is not served: {answer:?}");
            let now = ns.pods().get("forks-agent").await.map_err(|error| error.to_string())?;
            if let Some(end) = ended(&now, "agent") {
                return Ok(format!("killed {} {:?}", end.exit_code, end.reason));
            }
            let said = forks.try_sh("cat /tmp/said").await?.stdout;
            if said.contains("refused") || said.contains("all") { Ok(said) } else { Err(said) }
        })
        .await;
        eprintln!(
            "fork bomb: {}; {} tasks in the pod, {} on the host",
            outcome.trim(),
            most.get(),
            tasks.get()
        );
        assert!(!outcome.contains("all"), "20000 processes were made");
        assert!(most.get() <= PIDS_MAX, "{} tasks in one pod", most.get());
        assert!(tasks.get() < half, "{} tasks on the host, where {half} would be half of all", tasks.get());
    })
    .await;
}

fn o_c4_a_pod_over_its_disk_is_seen_to_be_evicted(told: &str) {
    assert!(told.contains("Evicted"), "{told}");
}

#[tokio::test]
async fn o_g16_an_agent_over_its_disk_is_evicted_alone_and_told_so() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "disk", async |ns| {
        let filler = limited(&ns, "filler", "cpu: \"1\", memory: 512Mi, ephemeralStorage: 64Mi").await;
        filler.ready().await;
        let (agent, proxy) = (pod(&ns, "filler-agent").await, pod(&ns, "filler-proxy").await);
        in_background(&filler, "head -c 300M /dev/zero > /tmp/fill").await;
        // The status tells of what is now, so the Event stays when the next pod has come.
        let events: Api<Event> = Api::namespaced(ns.client.clone(), &ns.name);
        let told = eventually("an Event tells the end", ENDS_WITHIN, || async {
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let told = all.into_iter().find(|event| event.reason.as_deref() == Some("Ended"));
            told.and_then(|event| event.note).ok_or_else(|| "no Event Ended".to_owned())
        })
        .await;
        o_c4_a_pod_over_its_disk_is_seen_to_be_evicted(&told);
        filler.ready().await;
        assert_ne!(pod(&ns, "filler-agent").await.metadata.uid, agent.metadata.uid, "no pod was evicted");
        assert_eq!(pod(&ns, "filler-proxy").await.metadata.uid, proxy.metadata.uid, "the proxy went too");
    })
    .await;
}
