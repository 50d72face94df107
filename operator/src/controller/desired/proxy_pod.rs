//! The proxy's pod: the node's ordinary runtime, restricted, and the only pod that mounts a credential.
//!
//! It can only be described once the walls stand, for it needs [`Sealed`]. It listens on ports below 1024 without a
//! capability: `net.ipv4.ip_unprivileged_port_start` is a sysctl that Pod Security "restricted" counts as safe.

use std::net::Ipv4Addr;

use agentsandbox_crds::credential::{SecretKeyRef, TLS_CERTIFICATE, TLS_PRIVATE_KEY};
use agentsandbox_crds::names::{ANNOTATION_POLICY_HASH, PORT_ADMIN};
use agentsandbox_policy::document::ClientCertificateDocument;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ContainerPort, ExecAction, HTTPGetAction, KeyToPath, Lifecycle,
    LifecycleHandler, Pod, PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SecretProjection, Sysctl, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods::{
    SECRET_FILE_MODE, annotations, container_security, empty_dir, mount, pod_security, read_only,
    secret_items,
};
use super::service::DATA_PORTS;
use super::{Component, confinement, keys, policy_document};
use crate::controller::accept::{Accepted, credential_file};
use crate::controller::apply::Sealed;
use crate::platform::Platform;

/// Name of the container, which status looks for.
pub const CONTAINER: &str = "proxy";
/// Where its image holds the program, for what the kubelet runs in the container beside it.
const PROGRAM: &str = "/agentsandbox-proxy";
/// The proxy's user.
const USER: i64 = 65_532;
const POLICY_DIR: &str = "/etc/agentsandbox/policy";
const CREDENTIALS_DIR: &str = "/var/run/agentsandbox/credentials";
const KEYS_DIR: &str = "/var/run/agentsandbox/keys";
const STATE_DIR: &str = "/var/run/agentsandbox/state";
const STATE_BYTES: i64 = 1 << 20;
/// Seconds in which open streams may end.
const GRACE_SECS: i64 = 5;
/// A proxy that buffers nothing needs little. The limit is well above what an agent has it hold that reads what it is answered, and the
/// proxy is told of it: it stays below, and ends what the agent has open before the kernel ends the proxy (docs/proxy.md). Nothing of it is
/// reserved beyond the request.
const MEMORY_MIB: u32 = 320;
const LIMITS: [(&str, &str); 2] = [("cpu", "1"), ("ephemeral-storage", "64Mi")];
const REQUESTS: [(&str, &str); 3] = [("cpu", "10m"), ("memory", "32Mi"), ("ephemeral-storage", "8Mi")];

/// The pod. `enrolled` is the address of an agent that already runs behind a proven fence: a proxy that is recreated
/// beside it knows it without a second enrolment, and the hash leaves it out, for it is no change of the pod.
#[must_use]
pub fn pod(accepted: &Accepted, platform: &Platform, sealed: &Sealed, enrolled: Option<Ipv4Addr>) -> Pod {
    let identity = &accepted.identity;
    let mut spec = PodSpec {
        containers: vec![container(accepted, platform, sealed)],
        volumes: Some(volumes(accepted)),
        service_account_name: Some(Component::Proxy.name(identity)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            sysctls: Some(vec![Sysctl {
                name: "net.ipv4.ip_unprivileged_port_start".to_owned(),
                value: "0".to_owned(),
            }]),
            ..pod_security(USER)
        }),
        restart_policy: Some("Always".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECS),
        dns_policy: Some("ClusterFirst".to_owned()),
        ..PodSpec::default()
    };
    let mut metadata = Component::Proxy.metadata(identity, Component::Proxy.name(identity));
    let mut annotations = annotations(&spec);
    // No part of the spec: another policy changes this pod, and the kubelet looks at once, but never replaces it.
    annotations.insert(ANNOTATION_POLICY_HASH.to_owned(), policy_document::hash(accepted, platform));
    metadata.annotations = Some(annotations);
    if let (Some(address), Some(args)) = (enrolled, spec.containers.iter_mut().find_map(|c| c.args.as_mut()))
    {
        args.extend(["--enrolled".to_owned(), address.to_string()]);
    }
    Pod { metadata, spec: Some(spec), status: None }
}

fn container(accepted: &Accepted, platform: &Platform, sealed: &Sealed) -> Container {
    let args = [
        "serve".to_owned(),
        "--policy".to_owned(),
        format!("{POLICY_DIR}/{}", policy_document::KEY),
        "--secrets".to_owned(),
        CREDENTIALS_DIR.to_owned(),
        "--keys".to_owned(),
        KEYS_DIR.to_owned(),
        "--state".to_owned(),
        STATE_DIR.to_owned(),
        "--advertise".to_owned(),
        confinement::proxy_address(accepted, sealed).to_string(),
        "--termination-log".to_owned(),
        "/dev/termination-log".to_owned(),
        "--memory-mib".to_owned(),
        MEMORY_MIB.to_string(),
    ];
    let memory = ("memory".to_owned(), Quantity(format!("{MEMORY_MIB}Mi")));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(platform.proxy_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(args.to_vec()),
        ports: Some(container_ports()),
        lifecycle: Some(await_serving()),
        readiness_probe: Some(readiness()),
        resources: Some(ResourceRequirements {
            limits: Some(LIMITS.map(quantity).into_iter().chain([memory]).collect()),
            requests: Some(REQUESTS.map(quantity).into()),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![
            read_only("policy", POLICY_DIR),
            read_only("credentials", CREDENTIALS_DIR),
            read_only("keys", KEYS_DIR),
            mount("state", STATE_DIR),
        ]),
        ..Container::default()
    }
}

fn quantity((name, value): (&str, &str)) -> (String, Quantity) {
    (name.to_owned(), Quantity(value.to_owned()))
}

fn container_ports() -> Vec<ContainerPort> {
    let port = |name: &str, number: u16, protocol: &str| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    };
    let mut ports: Vec<_> =
        DATA_PORTS.iter().map(|data| port(data.name, data.number, data.protocol)).collect();
    ports.push(port("admin", PORT_ADMIN, "TCP"));
    ports
}

/// The kubelet calls a container started only when this has ended well, so that "started" means "it listens"; the
/// readiness probe, which ticks once a second, says so later.
fn await_serving() -> Lifecycle {
    let command = vec![PROGRAM.to_owned(), "await-serving".to_owned()];
    let exec = ExecAction { command: Some(command) };
    Lifecycle {
        post_start: Some(LifecycleHandler { exec: Some(exec), ..LifecycleHandler::default() }),
        ..Lifecycle::default()
    }
}

/// Without the agent, which comes only once the proxy is ready, and without single secrets, which hinder no request that
/// does not need them. (The login at an upstream proxy is a kind of its own, for every request needs it.)
const READY: &str = "/readyz?exclude=enrolment&exclude=secret";

fn readiness() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(READY.to_owned()),
            port: IntOrString::Int(i32::from(PORT_ADMIN)),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        // The shortest period there is: ProxyReady, and the proof, wait for this.
        period_seconds: Some(1),
        failure_threshold: Some(3),
        timeout_seconds: Some(1),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

fn volumes(accepted: &Accepted) -> Vec<Volume> {
    let identity = &accepted.identity;
    let keys = accepted.credentials.iter().map(|(document, key)| credential(&document.name, key));
    let certificates = accepted.certificates.iter().map(|(document, secret)| certificate(document, secret));
    vec![
        Volume {
            name: "policy".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: policy_document::name(identity),
                default_mode: Some(SECRET_FILE_MODE),
                optional: Some(false),
                items: None,
            }),
            ..Volume::default()
        },
        Volume {
            name: "credentials".to_owned(),
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(SECRET_FILE_MODE),
                sources: Some(keys.chain(certificates).collect()),
            }),
            ..Volume::default()
        },
        secret_items(
            "keys",
            &keys::name(identity),
            &[keys::CA_CERTIFICATE, keys::CA_KEY, keys::ENROLMENT_TOKEN],
        ),
        empty_dir("state", STATE_BYTES),
    ]
}

fn credential(name: &str, key: &SecretKeyRef) -> VolumeProjection {
    entries(&key.name, vec![entry(&key.key, credential_file(name, key))])
}

/// Both entries are of one volume, so the kubelet swaps them together.
fn certificate(document: &ClientCertificateDocument, secret: &str) -> VolumeProjection {
    let certificate = entry(TLS_CERTIFICATE, document.certificate_file.clone());
    entries(secret, vec![certificate, entry(TLS_PRIVATE_KEY, document.key_file.clone())])
}

fn entry(key: &str, path: String) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path, mode: None }
}

/// Optional, so that the proxy starts without it and says which credential is missing; a pod that hangs says nothing.
fn entries(secret: &str, items: Vec<KeyToPath>) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection { name: secret.to_owned(), items: Some(items), optional: Some(true) }),
        ..VolumeProjection::default()
    }
}
