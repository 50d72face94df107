//! What an agent finds around itself: a kernel that gives it nothing of the host, and what the host sees of that kernel.

use std::time::Duration;

use agentsandbox_tests::exec::{Output, exec};
use agentsandbox_tests::node::{command_line, status_line};
use agentsandbox_tests::{Namespace, Rig, Sandbox, with_namespace};
use serde_json::{Value, json};

use crate::fixtures;

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// Runs Python in a plain pod's container.
async fn python(ns: &Namespace, pod: &str, program: &str) -> Output {
    exec(&ns.pods(), pod, "agent", &["python3", "-c", program]).await.ok()
}

/// A pod with a socket of the host mounted and every raw socket allowed, and again under gVisor.
pub(crate) fn trusted(name: &str, runtime: Option<&str>) -> Value {
    let mut pod = fixtures::plain(name, fixtures::WAIT);
    pod["spec"]["runtimeClassName"] = json!(runtime);
    pod["spec"]["securityContext"] = json!({"runAsUser": 0, "runAsGroup": 0});
    pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/run/containerd"}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["securityContext"] = json!({"capabilities": {"add": ["NET_RAW"]}});
    container["volumeMounts"] = json!([{"name": "host", "mountPath": "/host"}]);
    pod
}

/// A pod in which a setuid program gains what it is for.
pub(crate) fn loose() -> Value {
    let mut pod = fixtures::plain("loose", fixtures::WAIT);
    pod["spec"]["containers"][0]["securityContext"] = json!({"allowPrivilegeEscalation": true});
    pod
}

pub(crate) async fn started(ns: &Namespace, pod: &Value) {
    ns.apply(&pod.to_string()).await.unwrap();
    ns.pod_ready(pod["metadata"]["name"].as_str().unwrap(), STARTS_WITHIN).await;
}

/// Prints the error of each kind of socket that could send what no protocol was asked about, or "open".
const RAW_SOCKETS: &str = "
import errno, socket
for name, family, protocol in [('packet', 17, 0x0300), ('raw', socket.AF_INET, 255), ('raw-icmp', socket.AF_INET, 1),
                               ('raw-udp', socket.AF_INET, 17), ('raw6', socket.AF_INET6, 58)]:
    try:
        socket.socket(family, socket.SOCK_RAW, protocol)
        print(name, 'open')
    except OSError as refusal:
        print(name, errno.errorcode[refusal.errno])
";

async fn o_g14_no_raw_and_no_packet_socket_opens(agent: &Sandbox, ns: &Namespace) {
    no_raw_socket_opens(agent, ns).await;
}

pub(crate) async fn no_raw_socket_opens(agent: &Sandbox, ns: &Namespace) {
    let seen = agent.exec(&["python3", "-c", RAW_SOCKETS]).await.ok().stdout;
    let refused = |line: &str| ["EPERM", "EACCES"].iter().any(|error| line.ends_with(error));
    assert!(seen.lines().count() == 5 && seen.lines().all(refused), "{seen}");
    let control = python(ns, "trusted", RAW_SOCKETS).await.stdout;
    assert!(control.contains("packet open") && control.contains("raw open"), "{control}");
}

/// Says to everybody on the link that another pod's address is at a hardware address of its own making.
const SPOOF: &str = "
import socket, struct
s = socket.socket(17, socket.SOCK_RAW, 0x0806)
s.bind(('eth0', 0x0806))
mine = bytes.fromhex('02aabbccddee')
told = socket.inet_aton('10.244.250.250')
s.send(b'\\xff' * 6 + mine + b'\\x08\\x06' + struct.pack('!HHBBH', 1, 0x0800, 6, 4, 2) + mine + told + b'\\xff' * 6 + told)
print('sent')
";

async fn o_n11_an_agent_cannot_spoof_arp_and_bridged_packets_pass_the_hosts_chain(
    rig: &Rig,
    agent: &Sandbox,
    ns: &Namespace,
) {
    let filtered = rig.cluster.on_node("cat", &["/proc/sys/net/bridge/bridge-nf-call-iptables"]).unwrap();
    assert_eq!(
        xtask::shell::output(&mut { filtered }).unwrap().trim(),
        "1",
        "bridged packets pass no policy"
    );
    let refused = agent.exec(&["python3", "-c", SPOOF]).await.failed();
    assert!(refused.stderr.contains("not permitted"), "{refused:?}");
    assert_eq!(python(ns, "trusted", SPOOF).await.stdout.trim(), "sent");
}

/// Prints whether a socket of the host can be connected to.
const CONNECT: &str = "
import os, socket
path = '/host/containerd.sock'
assert os.path.exists(path), os.listdir('/host')
try:
    socket.socket(socket.AF_UNIX).connect(path)
    print('connected')
except OSError as refusal:
    print('refused', refusal.errno)
";

async fn o_g15_a_socket_of_the_host_is_of_no_use_under_gvisor(ns: &Namespace) {
    let seen = python(ns, "mounted", CONNECT).await.stdout;
    assert!(seen.starts_with("refused"), "{seen}");
    assert_eq!(python(ns, "trusted", CONNECT).await.stdout.trim(), "connected");
}

/// Starts a program that belongs to root and has the setuid bit, and prints its real, effective, saved and file-system UID.
const SETUID: &str = "
import subprocess
program = subprocess.Popen(['su', '-c', 'true'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
program.stdout.read(1) # It has begun, so its identity is the one that it will have.
print([line.split()[1:] for line in open(f'/proc/{program.pid}/status') if line.startswith('Uid')][0])
program.kill()
";

async fn o_g20_a_setuid_root_program_does_not_make_root(agent: &Sandbox, ns: &Namespace) {
    a_setuid_program_gains_nothing(agent, ns).await;
}

pub(crate) async fn a_setuid_program_gains_nothing(agent: &Sandbox, ns: &Namespace) {
    let bits = agent.sh("stat -c '%A %U' $(readlink -f $(command -v su))").await.ok().stdout;
    assert_eq!(bits.trim(), "-rwsr-xr-x root", "the image has no setuid program, so this proves nothing");
    let seen = agent.exec(&["python3", "-c", SETUID]).await.ok().stdout;
    let uids: Vec<_> = seen.split('\'').skip(1).step_by(2).collect();
    assert_eq!(uids, ["1000"; 4], "{seen}");
    let control = python(ns, "loose", SETUID).await.stdout;
    assert!(control.contains("['1000', '0'"), "{control}");
}

async fn o_h7_the_environment_names_no_service_but_the_kubernetes_one(agent: &Sandbox, ns: &Namespace) {
    let of = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.split('=').next());
        names.filter(|name| name.ends_with("_SERVICE_HOST")).map(str::to_owned).collect()
    };
    let seen = agent.sh("env").await.ok().stdout;
    assert!(seen.contains("HTTPS_PROXY="), "no environment is seen: {seen}");
    let foreign: Vec<_> = of(&seen).into_iter().filter(|name| name != "KUBERNETES_SERVICE_HOST").collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let control = of(&exec(&ns.pods(), "loose", "agent", &["env"]).await.ok().stdout);
    assert!(control.contains(&"I_PROXY_SERVICE_HOST".to_owned()), "{control:?}");
}

/// What a Sentry may hold, in the user namespace of its own: over files (bits 0 to 4), and to trace the processes that stand for the
/// agent's (bit 19). Nothing over networks, mounts, modules or the machine.
const MAY_HOLD: u64 = 0x8_001f;

async fn o_g25_the_sentry_is_confined_on_the_host(rig: &Rig, agent: &Sandbox) {
    let pod = agent.pods().get(&agent.agent_pod()).await.unwrap();
    let processes = rig.group(&pod).processes();
    let sentries: Vec<u32> =
        processes.iter().copied().filter(|p| command_line(*p).contains("runsc-sandbox")).collect();
    let [sentry] = sentries.as_slice() else { panic!("one Sentry, of {processes:?}: {sentries:?}") };
    assert_eq!(status_line(*sentry, "Seccomp"), "2", "the Sentry has no seccomp filter");
    assert_eq!(status_line(*sentry, "NoNewPrivs"), "1");
    let effective = u64::from_str_radix(&status_line(*sentry, "CapEff"), 16).unwrap();
    assert_eq!(effective & !MAY_HOLD, 0, "the Sentry may {effective:x}");
    for kind in ["mnt", "net", "pid", "user"] {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        // This test runs beside the cluster, in the host's own.
        assert_ne!(of(&sentry.to_string()), of("self"), "the Sentry is in the host's {kind} namespace");
    }
    let root: Vec<_> = std::fs::read_dir(format!("/proc/{sentry}/root")).unwrap().flatten().collect();
    let names: Vec<_> = root.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    eprintln!("the Sentry's root holds {names:?}; it may {effective:x}");
    assert!(names.iter().all(|name| ["proc", "etc", "dev"].contains(&name.as_str())), "{names:?}");
}

/// Annotations by which a runtime or a runtime's shim would be loosened.
const LOOSE: [&str; 22] = [
    "dev.gvisor.flag.host-uds",
    "dev.gvisor.flag.overlay2",
    "dev.gvisor.flag.debug",
    "dev.gvisor.flag.debug-command",
    "dev.gvisor.flag.debug-to-user-log",
    "dev.gvisor.flag.strace",
    "dev.gvisor.flag.net-disconnect-ok",
    "dev.gvisor.flag.pause-external-networking",
    "dev.gvisor.flag.oci-seccomp",
    "dev.gvisor.flag.mount-cgroup-v2",
    "dev.gvisor.flag.qdisc",
    "dev.gvisor.spec.rootfs.source",
    "dev.gvisor.spec.rootfs.type",
    "dev.gvisor.spec.rootfs.overlay",
    "dev.gvisor.spec.rootfs.options",
    "dev.gvisor.spec.mount.host.source",
    "dev.gvisor.internal.checkpoint.path",
    "dev.gvisor.internal.nvproxy",
    "dev.gvisor.tar.rootfs.upper",
    "dev.gvisor.spec.cgroup-parent",
    "dev.gvisor.bundle.x",
    "dev.gvisor.container-name-remap.1",
];

async fn o_g6_annotations_that_loosen_gvisor_are_inert(rig: &Rig, ns: &Namespace) {
    let pod = ns.pods().get("mounted").await.unwrap();
    let put: Vec<_> =
        pod.metadata.annotations.iter().flatten().filter(|(k, _)| LOOSE.contains(&k.as_str())).collect();
    assert_eq!(put.len(), LOOSE.len(), "the API server took only {put:?}");
    let specs = rig.runtime_specs(&pod);
    assert_eq!(specs.len(), 2, "a sandbox and a container");
    for spec in &specs {
        let annotations = spec["annotations"].as_object().expect("a spec has annotations");
        assert!(annotations.contains_key("io.kubernetes.cri.sandbox-id"), "{annotations:?}");
        let arrived: Vec<_> = annotations.keys().filter(|key| LOOSE.contains(&key.as_str())).collect();
        assert!(arrived.is_empty(), "the runtime was told {arrived:?}");
    }
}

/// The socket that [`o_g15_a_socket_of_the_host_is_of_no_use_under_gvisor`] could not reach was to be reached by this.
async fn o_g8_host_uds_asked_for_by_annotation_changes_nothing(rig: &Rig, ns: &Namespace) {
    let pod = ns.pods().get("mounted").await.unwrap();
    let asked = pod.metadata.annotations.as_ref().and_then(|all| all.get("dev.gvisor.flag.host-uds"));
    assert_eq!(asked.map(String::as_str), Some("all"));
    let told = rig.runtime_specs(&pod).iter().map(Value::to_string).collect::<String>();
    assert!(!told.contains("host-uds"), "{told}");
    assert!(python(ns, "mounted", CONNECT).await.stdout.starts_with("refused"));
}

#[tokio::test]
async fn an_agent_finds_a_kernel_that_gives_it_nothing_of_the_host() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "inside", async |ns| {
        let agent = ns
            .sandbox("i", &fixtures::sleeper("i", fixtures::AGENT_IMAGE, "Set", &["{host: echo.world.test}"]))
            .await;
        agent.ready().await;
        ns.unrestricted().await;
        started(&ns, &trusted("trusted", None)).await;
        let mut mounted = trusted("mounted", Some("gvisor"));
        let value = |key: &str| if key.ends_with("host-uds") { "all" } else { "true" };
        mounted["metadata"]["annotations"] = LOOSE.iter().map(|key| (*key, value(key))).collect();
        started(&ns, &mounted).await;
        started(&ns, &loose()).await;

        o_g14_no_raw_and_no_packet_socket_opens(&agent, &ns).await;
        o_n11_an_agent_cannot_spoof_arp_and_bridged_packets_pass_the_hosts_chain(&rig, &agent, &ns).await;
        o_g15_a_socket_of_the_host_is_of_no_use_under_gvisor(&ns).await;
        o_g20_a_setuid_root_program_does_not_make_root(&agent, &ns).await;
        o_h7_the_environment_names_no_service_but_the_kubernetes_one(&agent, &ns).await;
        o_g25_the_sentry_is_confined_on_the_host(&rig, &agent).await;
        o_g6_annotations_that_loosen_gvisor_are_inert(&rig, &ns).await;
        o_g8_host_uds_asked_for_by_annotation_changes_nothing(&rig, &ns).await;
    })
    .await;
}
