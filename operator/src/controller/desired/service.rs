//! The stable address of one sandbox's proxy. The same numbers on the Service and on the pod: policy engines judge
//! before or after address translation, and both must see the same port.

use agentsandbox_crds::names::{
    PORT_BASE_URL, PORT_DNS, PORT_ENROLMENT, PORT_HTTP, PORT_HTTP_PROXY, PORT_SOCKS, PORT_TLS,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Component;
use crate::controller::accept::Identity;

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

/// The Service.
#[must_use]
pub fn service(identity: &Identity) -> Service {
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
            selector: Some(Component::Proxy.match_labels(identity)),
            ports: Some(ports.collect()),
            // Everything here is IPv4: the policy DNS answers with this address, and the walls name IPv4 ranges.
            ip_families: Some(vec!["IPv4".to_owned()]),
            ip_family_policy: Some("SingleStack".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
