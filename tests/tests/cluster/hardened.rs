//! The hardened container, flag by flag, read back from inside an agent: under gVisor and under the node's own kernel. The table is
//! in docs/isolation.md. Beside them stands a pod that has none of it, in which the same program finds the opposite.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use agentsandbox_tests::exec::exec;
use agentsandbox_tests::node::command_line;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{fixtures, inside, walls};

/// Looks around, and prints what it found as JSON.
const LOOK: &str = r#"
import errno, json, os, stat, sys
def attempt(f):
    try: f()
    except OSError as refusal: return errno.errorcode[refusal.errno]
    return 'done'
def text(path):
    try:
        with open(path, 'rb') as file: return file.read(1 << 20).decode(errors='replace')
    except OSError: return ''
def status(process):
    lines = (line.partition(':') for line in text(f'/proc/{process}/status').splitlines())
    return {name: value.strip() for name, _, value in lines}
def opened(path, flags):
    os.close(os.open(path, flags))
def made(folder):
    path = os.path.join(folder, '.hardened')
    opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.unlink(path)
def tells(path):
    if os.path.isdir(path): return bool(os.listdir(path))
    with open(path, 'rb') as file: return bool(file.read(1))
def told(path):
    try: return tells(path)
    except OSError: return False
def node(path):
    kind = os.lstat(path).st_mode
    return stat.S_ISCHR(kind) or stat.S_ISBLK(kind)
writable, devices = [], []
for folder, folders, names in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ('/proc', '/sys')]
    paths = [os.path.join(folder, name) for name in names]
    devices += [path for path in paths if node(path)]
    if attempt(lambda: made(folder)) == 'done':
        writable.append(folder)
        if folder != '/': folders[:] = []
    elif folder != '/dev/pts':
        plain = [path for path in paths if os.access(path, os.W_OK) and not node(path) and not os.path.islink(path)]
        writable += [path for path in plain if attempt(lambda: opened(path, os.O_WRONLY)) == 'done']
groups = [os.path.join(folder, name) for folder, _, names in os.walk('/sys/fs/cgroup') for name in names + ['.']]
masked = sys.argv[1].split()
print(json.dumps({
    'first': status(1), 'own': status('self'),
    'root_write': attempt(lambda: made('/var/tmp')),
    'writable': sorted(writable), 'devices': sorted(devices),
    'mknod': attempt(lambda: os.mknod('/tmp/node', 0o600 | stat.S_IFCHR, os.makedev(1, 3))),
    'processes': [text(f'/proc/{p}/cmdline').replace('\0', ' ') for p in os.listdir('/proc') if p.isdigit()],
    'told': [path for path in masked if told(path)],
    'sysctl': [path for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger',
                                 '/proc/irq/default_smp_affinity') if attempt(lambda: opened(path, os.O_WRONLY)) == 'done'],
    'groups': [path for path in groups if os.access(path, os.W_OK)],
    'limits': {path: text('/sys/fs/cgroup/' + path).strip() for path in (
        'memory/memory.limit_in_bytes', 'cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us', 'pids/pids.max',
        'memory.max', 'cpu.max', 'pids.max') if os.path.exists('/sys/fs/cgroup/' + path)},
    'memory': text('/proc/meminfo').split()[1],
    'token': os.path.exists('/var/run/secrets') or os.path.exists('/run/secrets'),
    'mounts': {line.split()[4]: line.split()[5] for line in text('/proc/self/mountinfo').splitlines()},
    'namespaces': {name: os.readlink('/proc/self/ns/' + name) for name in os.listdir('/proc/self/ns')},
}))
if os.path.exists('/tmp/node'): os.unlink('/tmp/node')
"#;

/// What the runtime covers, for it tells of the node or steers it.
const MASKED: &str = "/proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug \
    /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap";
/// Everything that an agent can write outside /proc and /sys.
const WRITABLE: [&str; 6] =
    ["/dev/mqueue", "/dev/shm", "/dev/termination-log", "/home/agent", "/tmp", "/workspace"];
/// Devices of every container.
const DEVICES: [&str; 6] = ["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];
const LIMITS: &str = "cpu: 500m, memory: 256Mi";
const MEMORY_BYTES: u64 = 256 << 20;
/// What the kubelet of the test cluster gives every pod.
const PIDS_MAX: u64 = 4096;
const ASK: &str = "curl -sS -m 20 -o /dev/null -w '%{http_code}' http://echo.world.test/hardened";
const STARTS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
struct Seen {
    first: BTreeMap<String, String>,
    own: BTreeMap<String, String>,
    root_write: String,
    writable: BTreeSet<String>,
    devices: BTreeSet<String>,
    mknod: String,
    processes: Vec<String>,
    told: Vec<String>,
    sysctl: Vec<String>,
    groups: Vec<String>,
    limits: BTreeMap<String, String>,
    memory: String,
    token: bool,
    mounts: BTreeMap<String, String>,
    namespaces: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    GVisor,
    Container,
}

async fn look(ns: &Namespace, pod: &str) -> Seen {
    let command = ["python3", "-c", LOOK, MASKED];
    let printed = exec(&ns.pods(), pod, "agent", &command).await.ok().stdout;
    let seen: Seen = serde_json::from_str(&printed).expect("the program prints JSON");
    eprintln!("{pod}: {seen:#?}");
    seen
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn o_h2_no_capability_no_new_privilege_and_a_filter_hold_for_each_process(seen: &Seen, class: Class) {
    for status in [&seen.first, &seen.own] {
        for kind in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[kind], "0000000000000000", "{kind}");
        }
        assert_eq!(status["NoNewPrivs"], "1");
        // The Sentry shows no filter of its own: the one that is asked for holds the Sentry, on the host (O-G25).
        assert_eq!(status["Seccomp"], if class == Class::Container { "2" } else { "0" });
        for ids in ["Uid", "Gid"] {
            assert_eq!(status[ids].split_whitespace().collect::<Vec<_>>(), ["1000"; 4], "{ids}");
        }
        assert!(status["Groups"].split_whitespace().all(|group| group == "1000"), "{}", status["Groups"]);
    }
}

fn the_root_is_read_only_and_what_can_be_written_is_known(seen: &Seen, class: Class) {
    // The image lets everybody write there.
    assert_eq!(seen.root_write, "EROFS");
    assert!(seen.mounts["/"].split(',').any(|option| option == "ro"), "{}", seen.mounts["/"]);
    let known = set(&WRITABLE);
    let unknown: Vec<_> = seen.writable.difference(&known).collect();
    assert!(unknown.is_empty(), "also writable: {unknown:?}");
    for own in ["/tmp", "/home/agent", "/workspace"] {
        assert!(seen.writable.contains(own), "{own} cannot be written");
    }
    let more = if class == Class::GVisor { &["/dev/fuse", "/dev/net/tun"][..] } else { &[] };
    let known: BTreeSet<_> = set(&[&DEVICES[..], more].concat());
    let devices: BTreeSet<_> = seen
        .devices
        .iter()
        .filter(|path| !path.starts_with("/dev/pts") && *path != "/dev/ptmx")
        .cloned()
        .collect();
    assert!(devices.is_subset(&known), "{devices:?}");
    assert_eq!(seen.mknod, "EPERM");
}

fn nothing_of_the_node_is_told_or_steered(seen: &Seen) {
    assert!(seen.told.is_empty(), "{:?}", seen.told);
    assert!(seen.sysctl.is_empty(), "{:?}", seen.sysctl);
    assert!(seen.groups.is_empty(), "{:?}", seen.groups);
    assert!(!seen.token, "there is a token");
    let own = |line: &&String| ["sleep infinity", "python3 -c"].iter().any(|begin| line.starts_with(begin));
    let foreign: Vec<_> = seen.processes.iter().filter(|line| !own(line)).collect();
    assert!(foreign.is_empty() && seen.processes.len() == 2, "{:?}", seen.processes);
}

fn limits_hold_as_the_pod_and_its_node_show_them(
    rig: &Rig,
    pod: &k8s_openapi::api::core::v1::Pod,
    seen: &Seen,
    class: Class,
) {
    let group = rig.group(pod);
    let (quota, period) = group.cpu_quota();
    assert_eq!((group.memory().0, quota * 2, group.number(&["pids.max"])), (MEMORY_BYTES, period, PIDS_MAX));
    let first = |names: &[&str]| names.iter().find_map(|name| seen.limits.get(*name)).cloned();
    if class == Class::GVisor {
        assert_eq!(
            seen.memory,
            (MEMORY_BYTES >> 10).to_string(),
            "the Sentry shows the pod's memory as the machine's"
        );
    } else {
        let memory = first(&["memory/memory.limit_in_bytes", "memory.max"]);
        assert_eq!(memory, Some(MEMORY_BYTES.to_string()));
    }
    let quota = first(&["cpu/cpu.cfs_quota_us", "cpu.max"]).expect("the pod shows its processor time");
    assert!(quota.starts_with("50000"), "{quota}");
    // The limit on processes is the pod's group's, which a container sees of neither kernel.
    assert!(first(&["pids/pids.max", "pids.max"]).is_none_or(|most| most == "max"), "{:?}", seen.limits);
}

/// As the host sees them: what a process says of itself could be anything.
fn o_g21_every_process_of_a_container_is_in_namespaces_of_its_own(
    rig: &Rig,
    pod: &k8s_openapi::api::core::v1::Pod,
) {
    let agents: Vec<u32> =
        rig.group(pod).processes().into_iter().filter(|p| command_line(*p).starts_with("sleep")).collect();
    assert_eq!(agents.len(), 1, "{agents:?}");
    let of = |process: &str, kind: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
    let own = agents[0].to_string();
    for kind in ["mnt", "net", "pid", "ipc", "uts"] {
        assert_ne!(of(&own, kind), of("self", kind), "the agent is in the host's {kind} namespace");
    }
    let inode = |path: String| fs::metadata(path).unwrap().ino();
    let node = inode(format!("/run/netns/{}", rig.cluster.node_netns()));
    assert_ne!(inode(format!("/proc/{own}/ns/net")), node, "the agent is in the node's network");
    // What does not hold (docs/isolation.md): root in the container would be the node's root.
    assert_eq!(of(&own, "user"), of("self", "user"), "docs/isolation.md says that users are the node's");
}

/// A pod that has none of it: every capability, the node's processes, and a root that can be written.
fn bare() -> Value {
    let mut pod = fixtures::plain("bare", fixtures::WAIT);
    pod["spec"]["securityContext"] = json!({"runAsUser": 0, "runAsGroup": 0});
    pod["spec"]["hostPID"] = json!(true);
    pod["spec"]["hostIPC"] = json!(true);
    pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    pod
}

fn without_the_flags_the_same_program_finds_the_opposite(seen: &Seen, agent: &Seen) {
    for kind in ["CapPrm", "CapEff", "CapBnd"] {
        assert_ne!(seen.own[kind], "0000000000000000", "{kind}");
    }
    assert_eq!((seen.own["NoNewPrivs"].as_str(), seen.own["Seccomp"].as_str()), ("0", "0"));
    assert_eq!((seen.root_write.as_str(), seen.mknod.as_str()), ("done", "done"));
    assert!(seen.writable.contains("/etc"), "{:?}", seen.writable);
    assert!(seen.devices.len() > DEVICES.len() + 2, "{:?}", seen.devices);
    assert!(seen.processes.len() > 10, "{:?}", seen.processes);
    assert!(!seen.told.is_empty() && !seen.sysctl.is_empty() && !seen.groups.is_empty(), "{seen:?}");
    for kind in ["ipc", "pid"] {
        assert_ne!(seen.namespaces[kind], agent.namespaces[kind], "{kind}");
    }
}

async fn asks(agent: &Sandbox) {
    eventually("the agent is served", STARTS_WITHIN, || async {
        let answer = agent.try_sh(ASK).await?;
        if answer.stdout == "200" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn each_flag_of_the_hardened_container_is_read_back_under_gvisor_and_under_runc() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "hardened", async |ns| {
        let rule = "{host: echo.world.test, scheme: Http, ports: [80]}";
        let manifest = |name: &str| {
            fixtures::limited(&fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", &[rule]), LIMITS)
        };
        let virtual_kernel = ns.sandbox("g", &manifest("g")).await;
        let container = manifest("c").replace("className: world", "className: container");
        let container = ns.sandbox("c", &container).await;
        virtual_kernel.ready().await;
        container.ready().await;
        ns.unrestricted().await;
        for pod in [inside::trusted("trusted", None), inside::loose(), bare()] {
            inside::started(&ns, &pod).await;
        }

        let control = look(&ns, "bare").await;
        for (agent, class) in [(&virtual_kernel, Class::GVisor), (&container, Class::Container)] {
            let pod = ns.pods().get(&agent.agent_pod()).await.unwrap();
            let seen = look(&ns, &agent.agent_pod()).await;
            o_h2_no_capability_no_new_privilege_and_a_filter_hold_for_each_process(&seen, class);
            the_root_is_read_only_and_what_can_be_written_is_known(&seen, class);
            nothing_of_the_node_is_told_or_steered(&seen);
            limits_hold_as_the_pod_and_its_node_show_them(&rig, &pod, &seen, class);
            without_the_flags_the_same_program_finds_the_opposite(&control, &seen);
            inside::no_raw_socket_opens(agent, &ns).await;
            inside::a_setuid_program_gains_nothing(agent, &ns).await;
            if class == Class::Container {
                o_g21_every_process_of_a_container_is_in_namespaces_of_its_own(&rig, &pod);
            }
            asks(agent).await;
        }
        let open = walls::open_places(&ns, "c-agent", &[], walls::ANSWER_WITHIN).await;
        // Under the node's kernel a host answers itself there.
        assert!(open.lines().all(|line| line == "ping ff02::1%eth0 10250"), "{open}");
    })
    .await;
}
