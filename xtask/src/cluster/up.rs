//! Bringing a cluster up: from nothing, from what an earlier run left, or not at all.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use super::{Cluster, bootstrap, cgroup, component, config, down, network, pki, process, relay};
use crate::failure::{During, Failure, Result};
use crate::{parts, paths, shell};

/// Debian packages of the node, each with a program that shows whether it is there.
const PACKAGES: [(&str, &str); 6] = [
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iptables", "/usr/sbin/iptables"),
    ("ipset", "/usr/sbin/ipset"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("iproute2", "/usr/sbin/ip"),
];

/// Pause between two looks at something that starts.
const LOOK: Duration = Duration::from_millis(50);
/// The longest a part of the cluster may take to start. It bounds a hang; it is no promise.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Brings the cluster up; does nothing to one that is up.
///
/// # Errors
/// When something is missing; the sentence says what to do, and nothing is left half started.
pub fn up(cluster: &Cluster) -> Result<()> {
    check_host()?;
    let _one_at_a_time = lock()?;
    parts::built()?;
    if is_up(cluster) {
        if process::running(cluster, "world")?.is_none() && paths::world_program().exists() {
            component::start(cluster, "world")?;
            let control = cluster.world_state().join("control.sock");
            wait_for("the world", || UnixStream::connect(&control).is_ok())?;
        }
        println!(
            "cluster {} is up already: export KUBECONFIG={}",
            cluster.name(),
            cluster.kubeconfig().display()
        );
        return Ok(());
    }
    let begin = Instant::now();
    down::down(cluster)?;
    let outcome = start(cluster);
    if outcome.is_err() {
        keep_logs(cluster);
        down::stop(cluster)?;
    }
    outcome?;
    println!(
        "cluster {} is up in {:.1} s: export KUBECONFIG={}",
        cluster.name(),
        begin.elapsed().as_secs_f32(),
        cluster.kubeconfig().display()
    );
    Ok(())
}

/// Two at once would build into the same files and choose the same port. The kernel lets go of it with the process.
fn lock() -> Result<Flock<fs::File>> {
    let folder = paths::clusters();
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    let file = fs::File::open(&folder).during(format!("{} cannot be opened", folder.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(held),
        Err((file, _busy)) => {
            println!("waiting for another `cluster up` of this machine");
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, e)| e)
                .during("another run cannot be awaited")
        }
    }
}

/// Whether every component runs and the API server answers.
#[must_use]
pub fn is_up(cluster: &Cluster) -> bool {
    let all = component::ALL.iter().filter(|c| **c != "world");
    network::exists(cluster)
        && all.into_iter().all(|c| matches!(process::running(cluster, c), Ok(Some(_))))
        && api_ready(cluster)
}

fn check_host() -> Result<()> {
    if !Uid::effective().is_root() {
        return Err(Failure::new(
            "the cluster makes network namespaces and mounts, so it needs root: run this with sudo",
        ));
    }
    if !Path::new("/proc/sys/net/bridge").exists() {
        let _absent = shell::run("modprobe", &["br_netfilter"]);
    }
    for needed in ["/proc/sys/net/ipv4/ip_forward", "/proc/self/ns/net", "/sys/fs/cgroup"] {
        if !Path::new(needed).exists() {
            return Err(Failure::new(format!(
                "this kernel lacks {needed}: use one with network namespaces and cgroups, or --context NAME for a cluster elsewhere"
            )));
        }
    }
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(p, _)| *p).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !shell::exists("apt-get") {
        return Err(Failure::new(format!(
            "these programs are missing: install {list} with your distribution's package manager"
        )));
    }
    println!("installing {list}");
    let _stale = shell::run("apt-get", &["update", "-q"]);
    let mut install = shell::command("apt-get", &["install", "-y", "-q", "--no-install-recommends"]);
    shell::output(install.args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))
        .during(format!("install {list} by hand and try again"))
        .map(drop)
}

/// Brings up etcd and the API server alone, anew: no node, no controllers, so that no pod is ever scheduled.
///
/// # Errors
/// As [`up`].
pub fn control_plane(cluster: &Cluster) -> Result<()> {
    check_host()?;
    let _one_at_a_time = lock()?;
    parts::built()?;
    down::down(cluster)?;
    let outcome = prepare(cluster).and_then(|()| {
        for name in ["etcd", "apiserver", relay::NAME] {
            component::start(cluster, name)?;
        }
        wait_for("the API server", || api_ready(cluster))
    });
    if outcome.is_err() {
        keep_logs(cluster);
        down::stop(cluster)?;
    }
    outcome
}

/// Makes everything that processes need: folders, certificates, files, networks and mounts.
fn prepare(cluster: &Cluster) -> Result<()> {
    for folder in ["logs", "processes", "world", "etcd"] {
        let path = cluster.state().join(folder);
        fs::create_dir_all(&path).during(format!("{} cannot be made", path.display()))?;
    }
    // etcd refuses a data folder that others may read.
    std::os::unix::fs::chown(cluster.state().join("etcd"), None, None)
        .during("the etcd folder cannot be owned")?;
    fs::set_permissions(cluster.state().join("etcd"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .during("the etcd folder cannot be made private")?;
    pki::create(cluster, relay::port(cluster)?)?;
    config::write_all(cluster)?;
    cgroup::create(cluster)?;
    network::create(cluster)?;
    component::start(cluster, component::MOUNTS)?;
    wait_for("the node's mounts", || cluster.mounted().exists())
}

fn start(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    for name in ["etcd", "containerd", "apiserver", relay::NAME] {
        component::start(cluster, name)?;
    }
    if let Err(absent) = component::start(cluster, "world") {
        println!("  without a world: {absent}");
    }
    wait_for("the API server", || api_ready(cluster))?;
    for name in ["controller-manager", "scheduler", "kube-proxy"] {
        component::start(cluster, name)?;
    }
    let socket = cluster.containerd_socket();
    wait_for("containerd", || succeeds(cluster.on_node("test", &["-S", &socket])))?;
    component::start(cluster, "kubelet")?;
    bootstrap::images(cluster)?;
    bootstrap::objects(cluster)?;
    // The policy engine ends at once, and for good, when it does not find its node.
    wait_for("the kubelet", || kubectl_says(cluster, &["get", "node", "node", "-o", "name"], "node/node"))?;
    component::start(cluster, "kube-router")?;
    component::start(cluster, "provisioner")?;
    wait_for("the node", || kubectl_says(cluster, &["get", "node", "node", "-o", NODE_READY], "True"))?;
    wait_for("the cluster's DNS", || {
        kubectl_says(
            cluster,
            &["-n", "kube-system", "get", "deployment", "coredns", "-o", "jsonpath={.status.readyReplicas}"],
            "1",
        )
    })?;
    check_all_run(cluster)
}

/// A component that ended while the others started would be missed much later, in a test of something else.
fn check_all_run(cluster: &Cluster) -> Result<()> {
    for name in component::ALL.iter().filter(|c| **c != "world") {
        process::running(cluster, name)?
            .during(format!("{name} ended by itself: see its log {}", cluster.log(name).display()))?;
    }
    Ok(())
}

const NODE_READY: &str = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";

/// Waits until a condition holds.
///
/// # Errors
/// When it does not within a minute.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_WITHIN;
    while !condition() {
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "{what} did not start within {} s: see `cargo xtask cluster logs`",
                START_WITHIN.as_secs()
            )));
        }
        sleep(LOOK);
    }
    Ok(())
}

/// Whether the API server is ready, as it says itself.
#[must_use]
pub fn api_ready(cluster: &Cluster) -> bool {
    kubectl_says(cluster, &["get", "--raw", "/readyz"], "ok")
}

fn kubectl_says(cluster: &Cluster, args: &[&str], expected: &str) -> bool {
    cluster.kubectl(args).and_then(|mut k| shell::output(&mut k)).is_ok_and(|out| out.trim() == expected)
}

fn succeeds(command: Result<std::process::Command>) -> bool {
    command.and_then(|mut c| shell::output(&mut c)).is_ok()
}

/// Where the logs of a start that failed are kept.
fn keep_logs(cluster: &Cluster) -> PathBuf {
    let logs = cluster.state().join("logs");
    eprintln!("the logs are in {}", logs.display());
    logs
}
