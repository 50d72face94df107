//! The cluster's own promises: what it says when something is missing, and that it leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use xtask::cluster::{Cluster, component, process};
use xtask::{paths, shell};

/// The context in the first cluster's kubeconfig.
const CONTEXT: &str = "agentsandbox";
/// The name of a second cluster beside the one that other tests use.
const SECOND: &str = "second";

/// There is one second cluster, and each test has it to itself.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn xtask() -> PathBuf {
    paths::target().join("debug/xtask")
}

/// Runs `cargo xtask cluster --name second <verb>` after a preparation in a mount namespace of its own.
fn prepared(preparation: &str, verb: &str) -> Command {
    let line = format!("{preparation}\nexec '{}' cluster --name {SECOND} {verb}", xtask().display());
    shell::command("unshare", &["--mount", "sh", "-e", "-c", &line])
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A refusal: one sentence that holds all of `words`, an exit code that is not 0, and nothing half started.
fn refuses(command: &mut Command, words: &[&str]) {
    let output = command.output().expect("the command starts");
    let said = said(&output);
    let sentence =
        said.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error: {said}"));
    assert!(!output.status.success(), "{said}");
    assert!(words.iter().all(|word| sentence.contains(word)), "{words:?} are not in: {sentence}");
    assert_eq!(traces(), Vec::<String>::new(), "something was half started");
}

/// What a cluster of this name has in the kernel: processes, namespaces, mounts, control groups, links.
fn traces() -> Vec<String> {
    let mark = format!("asbx-{SECOND}");
    let folder = format!("/var/lib/agentsandbox/{SECOND}");
    let mut found = Vec::new();
    for (what, command) in [
        ("namespace", "ip netns list"),
        ("mount", "cat /proc/mounts"),
        ("link", "ip -o link"),
        ("rule", "iptables-save"),
    ] {
        let text = shell::run("sh", &["-c", command]).expect("it can be listed");
        let ours = text.lines().filter(|line| line.contains(&mark) || line.contains(&folder));
        found.extend(ours.map(|line| format!("{what} {line}")));
    }
    let mut groups = vec!["/sys/fs/cgroup".to_owned()];
    for _ in 0..3 {
        // Others come and go meanwhile, which find would take for a failure.
        let below = groups.iter().filter_map(|group| fs::read_dir(group).ok()).flatten().flatten();
        let folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups = folders.map(|entry| entry.path().display().to_string()).collect();
        let ours = groups.iter().filter(|group| group.contains(&mark) || group.contains(&folder));
        found.extend(ours.map(|group| format!("group {group}")));
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        // The prepared shell of this test names the cluster too, and is gone once its output is read.
        if line.contains(&folder) {
            found.push(format!("process {line}"));
        }
    }
    found
}

#[test]
fn what_is_missing_is_said_in_a_sentence_and_nothing_is_half_started() {
    let _turn = turn();
    assert_eq!(traces(), Vec::<String>::new(), "a second cluster is there already");
    let cache = paths::cache();
    let cache = cache.parent().unwrap().display();

    let copy = tempfile::tempdir().unwrap();
    fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = copy.path().join("xtask");
    fs::copy(xtask(), &program).unwrap();
    let nobody = [
        "--reuid=65534",
        "--clear-groups",
        &program.display().to_string(),
        "cluster",
        "--name",
        SECOND,
        "up",
    ];
    refuses(&mut shell::command("setpriv", &nobody), &["root", "sudo"]);

    let small = "d=$(mktemp -d); mount -t tmpfs -o size=1G small $d; export XDG_CACHE_HOME=$d";
    refuses(&mut prepared(small, "up"), &["GiB are free", "XDG_CACHE_HOME"]);

    let no_go = "d=$(mktemp -d); mount -t tmpfs -o size=20G large $d; export XDG_CACHE_HOME=$d; export PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    if !["/usr/sbin/go", "/usr/bin/go", "/sbin/go", "/bin/go"].iter().any(|go| Path::new(go).exists()) {
        refuses(&mut prepared(no_go, "up"), &["Go 1.26", "PATH"]);
    }

    let old_kernel = format!("export XDG_CACHE_HOME={cache}; mount -t tmpfs none /proc/sys/net/ipv4");
    refuses(&mut prepared(&old_kernel, "up"), &["this kernel lacks", "--context"]);

    let no_packages = "mount -t tmpfs none /usr/lib/cni; export PATH=/nowhere";
    refuses(&mut prepared(no_packages, "up"), &["containernetworking-plugins", "package manager"]);
}

#[test]
fn a_host_without_a_free_port_is_told_so() {
    let _turn = turn();
    let held: Vec<_> =
        (16_443..16_543).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
    refuses(&mut prepared("true", "up"), &["no port from 16443 to 16542 is free"]);
    drop(held);
}

fn run(verb: &[&str]) -> String {
    let mut command = shell::command(xtask(), &["cluster", "--name", SECOND]);
    let output = command.args(verb).stdin(Stdio::null()).output().expect("the task runner starts");
    let said = said(&output);
    assert!(output.status.success(), "{verb:?}: {said}");
    said
}

fn ready(cluster: &Cluster) -> bool {
    let args = ["get", "node", "node", "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}"];
    shell::output(&mut cluster.kubectl(&args).unwrap()).is_ok_and(|status| status == "True")
}

/// Pods of the image that every cluster has.
const TWO_PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: runc}
spec: {automountServiceAccountToken: false, containers: [{name: c, image: agentsandbox.test/pause:1, imagePullPolicy: Never}]}
---
apiVersion: v1
kind: Pod
metadata: {name: runsc}
spec: {runtimeClassName: gvisor, automountServiceAccountToken: false, containers: [{name: c, image: agentsandbox.test/pause:1, imagePullPolicy: Never}]}
";

/// The kernel of a pod under gVisor is a process of the host, in the groups of its cluster.
fn sentries(cluster: &Cluster) -> usize {
    let lines = xtask::cluster::cgroup::processes(cluster).into_iter().map(|process| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    });
    lines.filter(|line| line.starts_with("runsc-sandbox")).count()
}

fn o_c2_a_pod_of_each_runtime_runs_and_the_one_under_gvisor_has_a_kernel_of_its_own(cluster: &Cluster) {
    assert_eq!(sentries(cluster), 0);
    xtask::cluster::up::wait_for("the default account", || {
        let account = ["get", "serviceaccount", "default", "-o", "name"];
        shell::output(&mut cluster.kubectl(&account).unwrap()).is_ok()
    })
    .unwrap();
    xtask::cluster::bootstrap::apply(cluster, TWO_PODS).unwrap();
    let ready = ["wait", "--for=condition=Ready", "pod/runc", "pod/runsc", "--timeout=60s"];
    shell::output(&mut cluster.kubectl(&ready).unwrap()).unwrap();
    assert_eq!(sentries(cluster), 1, "of two pods one runs under gVisor");
    let gone = ["delete", "pod", "runc", "runsc", "--grace-period=1", "--timeout=60s"];
    shell::output(&mut cluster.kubectl(&gone).unwrap()).unwrap();
}

/// What a power cut leaves: the files, with records of processes of another boot, and nothing in the kernel.
fn lose_power(cluster: &Cluster) {
    let records = cluster.state().join("processes");
    let names: Vec<_> = fs::read_dir(&records).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!names.is_empty(), "no process is recorded");
    xtask::cluster::down::stop(cluster).unwrap();
    for record in names {
        // The number is taken by another process now: this one.
        fs::write(record, format!("{} 1 another-boot", std::process::id())).unwrap();
    }
}

#[test]
fn o_c5_a_second_cluster_lives_beside_the_first_survives_kills_and_a_reboot_and_leaves_nothing() {
    let _turn = turn();
    let (first, second) = (Cluster::chosen().unwrap(), Cluster::named(SECOND).unwrap());
    run(&["up"]);
    assert!(ready(&first) && ready(&second), "both clusters run");
    assert!(run(&["status"]).contains("kubelet"), "status names the components");
    let nodes = run(&["kubectl", "get", "nodes", "-o", "name"]);
    assert!(nodes.contains("node/node"), "{nodes}");
    o_c2_a_pod_of_each_runtime_runs_and_the_one_under_gvisor_has_a_kernel_of_its_own(&second);
    for name in ["etcd", "apiserver", "kubelet", "containerd"] {
        run(&["restart", name]);
    }
    assert!(!traces().is_empty(), "the search finds nothing of a cluster that runs");

    for name in component::ALL {
        process::signal(&second, name, Signal::SIGKILL).unwrap();
    }
    run(&["up"]);
    assert!(ready(&second), "the cluster is back after every process of it was killed");

    lose_power(&second);
    run(&["up"]);
    assert!(ready(&second), "the cluster is back after a power cut");
    run(&["down"]);
    assert_eq!(traces(), Vec::<String>::new(), "something of the cluster stayed");
    assert!(!second.state().exists(), "its folder stayed");
    assert!(ready(&first), "the first cluster does not care");
}

#[test]
fn o_c7_the_cluster_runs_the_versions_that_it_is_pinned_to() {
    let cluster = Cluster::chosen().unwrap();
    let version = shell::output(&mut cluster.kubectl(&["version", "-o", "json"]).unwrap()).unwrap();
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    for side in ["clientVersion", "serverVersion"] {
        assert_eq!(version[side]["gitVersion"], xtask::parts::KUBERNETES_VERSION, "{side}");
    }
    let asked = ["get", "node", "node", "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"];
    let runtime = shell::output(&mut cluster.kubectl(&asked).unwrap()).unwrap();
    let numbers: Vec<u32> = runtime
        .trim_start_matches("containerd://v")
        .trim_start_matches("containerd://")
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect();
    assert!(numbers >= CONTAINERD_MIN.to_vec(), "{runtime}");
    let guide = fs::read_to_string(paths::repository().join("docs/install.md")).unwrap();
    assert!(guide.contains("containerd must be 2.3.2"), "docs/install.md does not name containerd's version");
}

/// Before it, the LABEL of an image could run a program on the host.
const CONTAINERD_MIN: [u32; 3] = [2, 3, 2];

/// The chart's values for the first cluster, written as docs/install.md asks its reader to.
const VALUES: &str = "
clusterRanges:
  podCIDRs: [10.244.0.0/16]
  serviceCIDRs: [10.96.0.0/16]
  nodeCIDRs: [10.200.0.0/24]
  clusterDNS: 10.96.0.10
apiServer:
  cidrs: [10.200.0.2/32, 10.96.0.1/32]
";

#[test]
fn a_readers_own_cluster_is_used_by_the_name_of_its_context() {
    let _turn = turn();
    let first = Cluster::chosen().unwrap();
    let on_context = |args: &[&str]| {
        let mut command = shell::command(xtask(), args);
        command.env("KUBECONFIG", first.kubeconfig()).output().expect("the task runner starts")
    };
    let status = on_context(&["cluster", "--context", CONTEXT, "status"]);
    assert!(status.status.success() && said(&status).contains("gvisor"), "{}", said(&status));
    let refused = on_context(&["cluster", "--context", CONTEXT, "down"]);
    assert!(!refused.status.success() && said(&refused).contains("is yours"), "{}", said(&refused));

    let values = tempfile::NamedTempFile::new().unwrap();
    fs::write(values.path(), VALUES).unwrap();
    let file = values.path().display().to_string();
    let installed = on_context(&["install", "--context", CONTEXT, "--values", &file]);
    assert!(installed.status.success(), "{}", said(&installed));
    let unknown = on_context(&["install", "--context", "nowhere", "--values", &file]);
    assert!(!unknown.status.success() && said(&unknown).contains("nowhere"), "{}", said(&unknown));
}
