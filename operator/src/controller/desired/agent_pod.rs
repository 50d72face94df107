//! The agent's pod: the fence first, then the step that fetches the workspace's code, then the program, with nothing of value in it.
//!
//! It can only be described once the walls stand, for it needs [`Sealed`]. There is no credential here, no token, no
//! resolver but the proxy, and no field that a user's text reaches but image, command, arguments, folder and variables.
//! Under gVisor only the pod's cgroup limits memory and processor time, so limits are the pod's, and each container's are the same;
//! disk space is the container's alone, for Kubernetes knows no other.

use agentsandbox_crds::class::{ClassToleration, Isolation, TaintEffect};
use agentsandbox_crds::names::{FENCE_PROGRAM_DIR, FENCE_PROGRAM_RUN, PROGRAM_FINALIZER};
use agentsandbox_crds::sandbox::Mode;
use agentsandbox_crds::scratch::Medium;
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, HostAlias, ObjectFieldSelector, Pod, PodDNSConfig, PodDNSConfigOption,
    PodSpec, ResourceRequirements, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::environment::{TRUST_DIR, variables};
use super::pods::{
    annotations, container_security, empty_dir, empty_dir_of, mount, pod_security, pull_policy, read_only,
    secret_items,
};
use super::workspace::{self, VOLUME, WORKSPACE, WORKSPACE_DIR};
use super::{Component, claim, confinement, keys, review};
use crate::controller::accept::{Accepted, Limits};
use crate::controller::apply::Sealed;
use crate::platform::{METADATA_ADDRESSES, Platform};

/// Name of the fence's container, whose report status reads.
pub const FENCE: &str = "fence";
/// Name of the agent's container.
pub const AGENT: &str = "agent";
/// The restart policy of a pod of which nothing is started a second time.
const ONCE: &str = "Never";
/// The agent's user.
const USER: i64 = 1000;
const ENROLMENT_DIR: &str = "/var/run/agentsandbox/enrolment";
/// Where most distributions keep their bundle; ours lies over it.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const TRUST_BYTES: i64 = 4 << 20;
/// Disk space of the fence: its trust files and its log.
const FENCE_DISK_BYTES: i64 = 16 << 20;
/// Disk space of the workspace's step beside its volume: its log.
const WORKSPACE_DISK_BYTES: i64 = 16 << 20;
/// The fence waits for its proxy too, which may have to pull its image: one that gives up sooner is only started again,
/// and the kubelet pauses longer each time.
const FENCE_DEADLINE_SECS: u32 = 60;
/// Seconds in which a program may end before it is killed.
const GRACE_SECS: i64 = 10;
/// Agents mostly wait for a model: a small share of a limit is reserved, so that many fit on a node.
const CPU_REQUEST_DIVISOR: i64 = 20;
const MEMORY_REQUEST_DIVISOR: i64 = 8;

/// The pod.
#[must_use]
pub fn pod(accepted: &Accepted, platform: &Platform, sealed: &Sealed) -> Pod {
    let identity = &accepted.identity;
    let resources = container_resources(&accepted.limits, WORKSPACE_DISK_BYTES);
    let workspace = workspace::container(accepted, platform, sealed, resources);
    let spec = PodSpec {
        init_containers: Some(
            [fence(accepted, platform, sealed)]
                .into_iter()
                .chain(workspace)
                .chain(review::container(accepted, platform))
                .collect(),
        ),
        containers: vec![agent(accepted, sealed)],
        volumes: Some(volumes(accepted)),
        runtime_class_name: accepted.class.runtime_class.clone(),
        service_account_name: Some(Component::Agent.name(identity)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security(USER)),
        resources: Some(pod_resources(&accepted.limits)),
        restart_policy: Some(restart_policy(accepted.mode).to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECS),
        dns_policy: Some("None".to_owned()),
        dns_config: Some(PodDNSConfig {
            nameservers: Some(vec![confinement::proxy_address(accepted, sealed).to_string()]),
            searches: None,
            options: Some(vec![PodDNSConfigOption {
                name: Some("ndots".to_owned()),
                value: Some("1".to_owned()),
            }]),
        }),
        // The name under which the base-URL entrance is documented.
        host_aliases: Some(vec![HostAlias {
            ip: confinement::proxy_address(accepted, sealed).to_string(),
            hostnames: Some(vec!["proxy".to_owned()]),
        }]),
        node_selector: Some(accepted.class.scheduling.node_selector.clone())
            .filter(|labels| !labels.is_empty()),
        tolerations: Some(accepted.class.scheduling.tolerations.iter().map(toleration).collect())
            .filter(|all: &Vec<_>| !all.is_empty()),
        ..PodSpec::default()
    };
    let mut metadata = Component::Agent.metadata(identity, Component::Agent.name(identity));
    metadata.annotations = Some(annotations(&what_counts(&spec)));
    metadata.finalizers = held(accepted.mode);
    Pod { metadata, spec: Some(spec), status: None }
}

/// The spec by whose hash a changed pod is recognised. What the fence is and is told belongs to the cluster and to this version of
/// the operator, and counts until it has proven the walls: an upgrade, or another endpoint of the API server, ends no agent. Of the
/// workspace's step what it is told counts, which is the sandbox's.
fn what_counts(spec: &PodSpec) -> PodSpec {
    let mut spec = spec.clone();
    for container in spec.init_containers.iter_mut().flatten() {
        let args = container.args.take().filter(|_| container.name == WORKSPACE);
        *container = Container { name: container.name.clone(), args, ..Container::default() };
    }
    spec
}

fn agent(accepted: &Accepted, sealed: &Sealed) -> Container {
    let agent = &accepted.agent;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.iter().map(|arg| literal(arg)).collect());
    let before =
        accepted.confinement.as_ref().map(|asked| confinement::command(asked, &accepted.scratch, sealed));
    let before = before.unwrap_or_default();
    let program = accepted.confinement.is_some().then(confinement::agents_mount);
    let disk_bytes = [
        accepted.limits.ephemeral_bytes,
        folder_bytes(accepted),
        review::original_bytes(accepted),
        program_bytes(accepted),
    ];
    Container {
        name: AGENT.to_owned(),
        image: Some(agent.image.clone()),
        image_pull_policy: Some(pull_policy(agent.image_pull_policy).to_owned()),
        command: some(&[&before[..], &agent.command].concat()),
        args: some(&agent.args),
        working_dir: Some(agent.working_dir.clone().unwrap_or_else(|| WORKSPACE_DIR.to_owned())),
        env: Some(variables(accepted, sealed)),
        resources: Some(container_resources(
            &accepted.limits,
            disk_bytes.into_iter().fold(0, i64::saturating_add),
        )),
        security_context: Some(container_security()),
        termination_message_policy: last_words(accepted.mode).map(str::to_owned),
        volume_mounts: Some(
            // Of mounts with as many names in their paths the later one lies on top: no folder of the sandbox's lies over trust and program.
            [workspace::agents_mount(accepted.source.as_ref())]
                .into_iter()
                .chain(accepted.scratch.iter().map(|folder| mount(&folder.volume, &folder.path)))
                .chain([
                    read_only("trust", TRUST_DIR),
                    VolumeMount {
                        sub_path: Some("ca-bundle.crt".to_owned()),
                        ..read_only("trust", SYSTEM_BUNDLE)
                    },
                ])
                .chain(program)
                .collect(),
        ),
        ..Container::default()
    }
}

/// What a Task's program ended with is known from its pod alone, which anybody may delete, also while no operator looks.
fn held(mode: Mode) -> Option<Vec<String>> {
    match mode {
        Mode::Service => None,
        Mode::Task => Some(vec![PROGRAM_FINALIZER.to_owned()]),
    }
}

const fn restart_policy(mode: Mode) -> &'static str {
    match mode {
        Mode::Service => "Always",
        // It holds for the fence as well: where that fails, another pod follows.
        Mode::Task => ONCE,
    }
}

/// A program that failed without a word has its last words taken from its log, where its end is told.
const fn last_words(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Service => None,
        Mode::Task => Some("FallbackToLogsOnError"),
    }
}

/// Whether the kubelet starts nothing of this pod a second time.
#[must_use]
pub fn runs_once(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some(ONCE)
}

/// Disk space of the program that the agent starts by.
const fn program_bytes(accepted: &Accepted) -> i64 {
    if accepted.confinement.is_some() { confinement::PROGRAM_BYTES } else { 0 }
}

/// Disk space of the workspace on the node; a claim and memory have none of it.
const fn folder_bytes(accepted: &Accepted) -> i64 {
    match (&accepted.persistent, accepted.workspace_medium) {
        (None, Medium::Disk) => accepted.limits.workspace_bytes,
        (Some(_), _) | (_, Medium::Memory) => 0,
    }
}

/// Kubernetes expands `$(NAME)` in commands and arguments; `$$` stands for a plain `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn fence(accepted: &Accepted, platform: &Platform, sealed: &Sealed) -> Container {
    Container {
        name: FENCE.to_owned(),
        image: Some(platform.init_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(fence_args(accepted, platform, sealed)),
        env: Some(vec![EnvVar {
            name: "NODE_IP".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "status.hostIP".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
        }]),
        resources: Some(container_resources(&accepted.limits, FENCE_DISK_BYTES + program_bytes(accepted))),
        security_context: Some(container_security()),
        volume_mounts: Some(
            [read_only("enrolment", ENROLMENT_DIR), mount("trust", TRUST_DIR)]
                .into_iter()
                .chain(accepted.confinement.is_some().then(confinement::fences_mount))
                .collect(),
        ),
        ..Container::default()
    }
}

fn fence_args(accepted: &Accepted, platform: &Platform, sealed: &Sealed) -> Vec<String> {
    let kernel = match accepted.class.isolation {
        Isolation::GVisor => "gvisor",
        Isolation::Kata => "vm",
        Isolation::Container => "linux",
    };
    let limits = &accepted.limits;
    let mut args = vec!["fence".to_owned()];
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("proxy", sealed.proxy_address().to_string());
    flag("api", platform.api_service.to_string());
    for endpoint in &platform.api_endpoints {
        flag("api-endpoint", endpoint.to_string());
    }
    flag("node", "$(NODE_IP)".to_owned());
    flag("cluster-dns", platform.cluster_dns.to_string());
    for address in METADATA_ADDRESSES {
        flag("metadata", address.to_string());
    }
    flag("expect-kernel", kernel.to_owned());
    flag("token-file", format!("{ENROLMENT_DIR}/{}", keys::ENROLMENT_TOKEN));
    flag("ca-file", format!("{ENROLMENT_DIR}/{}", keys::CA_CERTIFICATE));
    flag("trust-dir", TRUST_DIR.to_owned());
    flag("expect-memory-bytes", limits.memory_bytes.to_string());
    flag("expect-cpu-millis", limits.cpu_millis.to_string());
    if let Some(pids) = limits.pids_max {
        flag("expect-pids", pids.to_string());
    }
    flag("deadline-secs", FENCE_DEADLINE_SECS.to_string());
    flag("termination-log", "/dev/termination-log".to_owned());
    if let Some(asked) = &accepted.confinement {
        args.extend([FENCE_PROGRAM_DIR.to_owned(), confinement::PROGRAM_DIR.to_owned()]);
        args.extend(confinement::by_mounts(asked).then(|| "--program-by-mounts".to_owned()));
        args.extend(asked.without_network.then(|| "--program-no-network".to_owned()));
        let flags = confinement::flags(asked, &accepted.scratch, sealed);
        args.extend(flags.iter().map(|flag| literal(&format!("{FENCE_PROGRAM_RUN}{flag}"))));
    }
    args
}

fn pod_resources(limits: &Limits) -> ResourceRequirements {
    let cpu = |millis: i64| ("cpu".to_owned(), Quantity(format!("{millis}m")));
    let memory = |bytes: i64| ("memory".to_owned(), Quantity(bytes.to_string()));
    ResourceRequirements {
        limits: Some([cpu(limits.cpu_millis), memory(limits.memory_bytes)].into()),
        requests: Some(
            [
                cpu((limits.cpu_millis / CPU_REQUEST_DIVISOR).max(1)),
                memory(limits.memory_bytes / MEMORY_REQUEST_DIVISOR),
            ]
            .into(),
        ),
        ..ResourceRequirements::default()
    }
}

/// A container's share, which is all of the pod's, and its disk space. It says nothing that the pod does not say; but where it
/// said nothing, a LimitRange of the namespace would fill in defaults that may not fit into the pod's.
fn container_resources(limits: &Limits, disk_bytes: i64) -> ResourceRequirements {
    let disk = |bytes: i64| ("ephemeral-storage".to_owned(), Quantity(bytes.to_string()));
    let mut resources = pod_resources(limits);
    resources.limits.get_or_insert_default().extend([disk(disk_bytes)]);
    resources.requests.get_or_insert_default().extend([disk((disk_bytes / MEMORY_REQUEST_DIVISOR).max(1))]);
    resources
}

fn volumes(accepted: &Accepted) -> Vec<Volume> {
    let limits = &accepted.limits;
    let own = [
        secret_items(
            "enrolment",
            &keys::name(&accepted.identity),
            &[keys::ENROLMENT_TOKEN, keys::CA_CERTIFICATE],
        ),
        empty_dir("trust", TRUST_BYTES),
        match accepted.persistent {
            Some(_) => claim::volume(VOLUME, &accepted.identity),
            None => empty_dir_of(accepted.workspace_medium, VOLUME, limits.workspace_bytes),
        },
    ];
    let scratch = accepted.scratch.iter();
    own.into_iter()
        .chain(scratch.map(|folder| empty_dir_of(folder.medium, &folder.volume, folder.bytes)))
        .chain(accepted.confinement.is_some().then(confinement::volume))
        .chain(review::volume(accepted))
        .chain(workspace::volume(accepted))
        .collect()
}

fn toleration(own: &ClassToleration) -> Toleration {
    Toleration {
        key: Some(own.key.clone()),
        operator: Some(if own.value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        value: own.value.clone(),
        effect: own.effect.map(|effect| {
            match effect {
                TaintEffect::NoSchedule => "NoSchedule",
                TaintEffect::PreferNoSchedule => "PreferNoSchedule",
                TaintEffect::NoExecute => "NoExecute",
            }
            .to_owned()
        }),
        toleration_seconds: None,
    }
}
