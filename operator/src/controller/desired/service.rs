//! The stable address of one sandbox's proxy, and the gate before it. The same numbers on the Service and on the pod:
//! policy engines judge before or after address translation, and both must see the same port.
//!
//! The agent and its fence know their proxy by this address only. So the agent's pod may start beside the proxy's: while
//! the Service is [`shut`] its fence cannot enrol, and no agent starts. It can be described [`open`] only with the proof
//! that the proxy is closed to others.

use std::collections::BTreeMap;

use agentsandbox_crds::names::{
    LABEL_COMPONENT, LABEL_SANDBOX_UID, PORT_BASE_URL, PORT_DNS, PORT_ENROLMENT, PORT_HTTP, PORT_HTTP_PROXY,
    PORT_SOCKS, PORT_TLS,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Component;
use crate::controller::accept::Identity;
use crate::controller::observe::ProxyClosed;

/// A component that no pod of ours is of.
const NOBODY: &str = "none";

/// A port that the agent may use.
#[derive(Clone, Copy, Debug)]
pub struct DataPort {
    /// Its name on the Service and the pod.
    pub name: &'static str,
    /// Its number on the Service and the pod.
    pub number: u16,
    /// TCP or UDP.
    pub protocol: &'static str,
}

/// Every port that the agent may use, and its fence. The admin port is not among them.
pub const DATA_PORTS: [DataPort; 8] = [
    DataPort { name: "http-proxy", number: PORT_HTTP_PROXY, protocol: "TCP" },
    DataPort { name: "socks", number: PORT_SOCKS, protocol: "TCP" },
    DataPort { name: "base-url", number: PORT_BASE_URL, protocol: "TCP" },
    DataPort { name: "tls", number: PORT_TLS, protocol: "TCP" },
    DataPort { name: "http", number: PORT_HTTP, protocol: "TCP" },
    DataPort { name: "dns-tcp", number: PORT_DNS, protocol: "TCP" },
    DataPort { name: "dns-udp", number: PORT_DNS, protocol: "UDP" },
    DataPort { name: "enrolment", number: PORT_ENROLMENT, protocol: "TCP" },
];

/// The Service with no way through it. It selects a pod that does not exist: a Service without any selector would keep the
/// endpoints that it had (`syncService` in Kubernetes' endpointslice_controller.go leaves such a Service alone).
#[must_use]
pub fn shut(identity: &Identity) -> Service {
    let nobody = [(LABEL_SANDBOX_UID, identity.uid.as_str()), (LABEL_COMPONENT, NOBODY)];
    service(identity, nobody.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
}

/// The Service with its way open to the proxy, which was seen closed to others.
#[must_use]
pub fn open(identity: &Identity, _closed: &ProxyClosed) -> Service {
    service(identity, way(identity))
}

/// A Service that stands, as it would be if its way were shut; one whose selector is none of ours is left as it is.
#[must_use]
pub fn narrowed(identity: &Identity, standing: &Service) -> Service {
    let mut narrowed = standing.clone();
    if let Some(spec) = narrowed.spec.as_mut().filter(|spec| spec.selector == Some(way(identity))) {
        spec.selector = shut(identity).spec.and_then(|spec| spec.selector);
    }
    narrowed
}

fn way(identity: &Identity) -> BTreeMap<String, String> {
    Component::Proxy.match_labels(identity)
}

fn service(identity: &Identity, selector: BTreeMap<String, String>) -> Service {
    let ports = DATA_PORTS.iter().map(|port| ServicePort {
        name: Some(port.name.to_owned()),
        port: i32::from(port.number),
        protocol: Some(port.protocol.to_owned()),
        target_port: Some(IntOrString::Int(i32::from(port.number))),
        ..ServicePort::default()
    });
    Service {
        metadata: Component::Proxy.metadata(identity, Component::Proxy.name(identity)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector),
            // What is seen closed serves: waiting for the readiness probe's next tick would prove no more.
            publish_not_ready_addresses: Some(true),
            ports: Some(ports.collect()),
            // Everything here is IPv4: the policy DNS answers with this address, and the walls name IPv4 ranges.
            ip_families: Some(vec!["IPv4".to_owned()]),
            ip_family_policy: Some("SingleStack".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
