//! What runs on the node, with which arguments.

use std::process::Command;

use super::{Cluster, network, process, relay};
use crate::failure::{During, Failure, Result};
use crate::{paths, shell};

/// The process that keeps the node's mount namespace while others come and go.
pub const MOUNTS: &str = "mounts";

/// Every component, in the order in which they are started. They are stopped in [`STOP_ORDER`].
pub const ALL: [&str; 12] = [
    "etcd",
    "containerd",
    "apiserver",
    "controller-manager",
    "scheduler",
    "kubelet",
    "kube-proxy",
    "kube-router",
    "provisioner",
    "world",
    relay::NAME,
    MOUNTS,
];

/// The API server does not leave while watches hang or etcd is gone, so its clients go first and etcd goes last.
pub const STOP_ORDER: [&str; 12] = [
    "provisioner",
    "kube-router",
    "kube-proxy",
    "kubelet",
    "scheduler",
    "controller-manager",
    "containerd",
    "world",
    relay::NAME,
    "apiserver",
    "etcd",
    MOUNTS,
];

/// Whether there is a component of this name that can be killed, restarted or paused.
///
/// # Errors
/// When there is none; also for the keeper of the mounts, without which nothing else can go on.
pub fn check(name: &str) -> Result<()> {
    if name != MOUNTS && ALL.contains(&name) {
        return Ok(());
    }
    let names: Vec<&str> = ALL.into_iter().filter(|c| *c != MOUNTS).collect();
    Err(Failure::new(format!("{name:?} is no component: write one of {}", names.join(", "))))
}

/// Starts a component.
///
/// # Errors
/// When there is none of this name or it cannot be started.
pub fn start(cluster: &Cluster, name: &str) -> Result<i32> {
    process::start(cluster, name, &mut command(cluster, name)?)
}

fn command(cluster: &Cluster, name: &str) -> Result<Command> {
    match name {
        MOUNTS => Ok(mounts(cluster)),
        "world" => world(cluster),
        relay::NAME => relay::command(cluster),
        _ => on_node(cluster, name),
    }
}

/// Folders that the node's programs use whatever they are told: each cluster has its own.
const FIXED_FOLDERS: [&str; 4] =
    ["/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/usr/libexec/kubernetes"];

/// A private mount namespace with shared propagation, as the kubelet needs; its /run is its own, so that runtimes'
/// sockets and roots of two clusters do not meet.
fn mounts(cluster: &Cluster) -> Command {
    let own = cluster.state().join("own");
    let mut script = "set -e; mount --make-rshared /; mount -t tmpfs -o mode=755 tmpfs /run; \
                      mkdir -p /run/containerd /run/lock /run/netns"
        .to_owned();
    for fixed in FIXED_FOLDERS {
        let own = format!("{}{fixed}", own.display());
        script += &format!("; mkdir -p {own} {fixed}; mount --bind {own} {fixed}");
    }
    script += &format!("; touch {}; exec sleep infinity", cluster.mounted().display());
    shell::command(
        "nsenter",
        &[
            &format!("--net=/run/netns/{}", cluster.node_netns()),
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
        ],
    )
}

fn world(cluster: &Cluster) -> Result<Command> {
    let program = paths::world_program();
    if !program.exists() {
        return Err(Failure::new(format!("{} is not built", program.display())));
    }
    let mut command = shell::command("nsenter", &[format!("--net=/run/netns/{}", cluster.world_netns())]);
    command
        .arg(program)
        .arg("--state")
        .arg(cluster.world_state())
        .args(["--dns-address", network::WORLD_DNS]);
    Ok(command)
}

fn on_node(cluster: &Cluster, name: &str) -> Result<Command> {
    let state = cluster.state().display().to_string();
    let bin = paths::cache().join("rig/bin");
    let (program, args) = arguments(name, &state)
        .during(format!("{name:?} is no component: write one of {}", ALL.join(", ")))?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = cluster.on_node(&bin.join(program).display().to_string(), &args)?;
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:/usr/local/sbin:/usr/sbin:/sbin:{path}", bin.display()));
    Ok(command)
}

fn arguments(name: &str, state: &str) -> Option<(&'static str, Vec<String>)> {
    let pki = format!("{state}/pki");
    let config = format!("{state}/config");
    let (program, args) = match name {
        "etcd" => ("etcd", etcd(state)),
        "apiserver" => ("kube-apiserver", apiserver(state, &pki, &config)),
        "containerd" => ("containerd", format!("--config {config}/containerd.toml")),
        "controller-manager" => (
            "kube-controller-manager",
            format!(
                "--kubeconfig={pki}/controller-manager.kubeconfig --service-account-private-key-file={pki}/sa.key --root-ca-file={pki}/ca.crt --use-service-account-credentials=true --allocate-node-cidrs=true --cluster-cidr={pods} --node-cidr-mask-size=16 --cluster-signing-cert-file={pki}/ca.crt --cluster-signing-key-file={pki}/ca.key --leader-elect=false --authentication-skip-lookup=true",
                pods = network::PODS
            ),
        ),
        "scheduler" => {
            ("kube-scheduler", format!("--kubeconfig={pki}/scheduler.kubeconfig --leader-elect=false"))
        }
        "kubelet" => (
            "kubelet",
            format!(
                "--config={config}/kubelet.yaml --kubeconfig={pki}/kubelet.kubeconfig --root-dir={state}/kubelet --cert-dir={state}/kubelet-pki --node-ip={node} --hostname-override=node",
                node = network::NODE
            ),
        ),
        "kube-proxy" => ("kube-proxy", format!("--config={config}/kube-proxy.yaml")),
        "kube-router" => (
            "kube-router",
            format!(
                "--kubeconfig={pki}/kube-router.kubeconfig --run-router=false --run-firewall=true --run-service-proxy=false --hostname-override=node --health-port=0 --metrics-port=0"
            ),
        ),
        "provisioner" => (
            "provisioner",
            format!("--kubeconfig={pki}/provisioner.kubeconfig --root={state}/volumes --node=node"),
        ),
        _ => return None,
    };
    Some((program, args.split_whitespace().map(str::to_owned).collect()))
}

fn etcd(state: &str) -> String {
    format!(
        "--data-dir={state}/etcd --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync --log-level=warn"
    )
}

fn apiserver(state: &str, pki: &str, config: &str) -> String {
    format!(
        "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 --advertise-address={node}
         --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key --client-ca-file={pki}/ca.crt
         --kubelet-client-certificate={pki}/admin.crt --kubelet-client-key={pki}/admin.key
         --kubelet-certificate-authority={pki}/ca.crt --kubelet-preferred-address-types=InternalIP
         --service-account-issuer=https://kubernetes.default.svc --service-account-key-file={pki}/sa.pub
         --service-account-signing-key-file={pki}/sa.key --service-cluster-ip-range={services}
         --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement
         --audit-policy-file={config}/audit.yaml --audit-log-path={state}/audit.log --audit-log-format=json --audit-log-maxsize=4096
         --allow-privileged=true --profiling=false --goaway-chance=0",
        node = network::NODE,
        services = network::SERVICES
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_is_also_stopped() {
        let (mut started, mut stopped) = (ALL, STOP_ORDER);
        started.sort_unstable();
        stopped.sort_unstable();
        assert_eq!(started, stopped);
    }

    #[test]
    fn an_unknown_component_is_refused_with_the_names_that_exist() {
        let refusal = check("coredns").unwrap_err().to_string();
        assert!(refusal.contains("etcd") && !refusal.contains(MOUNTS), "{refusal}");
        assert!(check(MOUNTS).is_err());
        assert!(check("kube-router").is_ok());
    }
}
