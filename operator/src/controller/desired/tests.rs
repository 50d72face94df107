//! A YAML snapshot of each child, and the claims that must hold for all of them.

use agentsandbox_crds::names::{ANNOTATION_POLICY_HASH, ANNOTATION_SPEC_HASH};
use k8s_openapi::api::core::v1::Container;
use serde::Serialize;
use serde_json::json;

use super::*;
use crate::controller::apply::Sealed;
use crate::controller::evaluate::selects;
use crate::controller::observe::ProxyClosed;
use crate::fixtures::{accept, accepted, class, credential, from, identity, platform, references, sandbox};

mod confinement;
mod edges;
mod hardening;
mod review;
mod scratch;
mod task;
mod workspace;

fn sealed() -> Sealed {
    Sealed::for_tests()
}

fn yaml(name: &str, value: &impl Serialize) {
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_yaml_snapshot!(name, value);
    });
}

fn agent() -> Pod {
    agent_pod::pod(&accepted(|_| ()), &platform(), &sealed())
}

fn proxy() -> Pod {
    proxy_pod::pod(&accepted(|_| ()), &platform(), &sealed(), None)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref().unwrap();
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

#[test]
fn each_child_is_as_reviewed() {
    let accepted = accepted(|_| ());
    yaml("service_account_agent", &service_account::service_account(&identity(), Component::Agent));
    yaml("network_policy_agent", &network_policy::agent(&identity()));
    yaml("network_policy_proxy", &network_policy::proxy(&accepted, &platform()));
    yaml("policy_config_map", &policy_document::config_map(&accepted, &platform()));
    yaml("service_shut", &service::shut(&identity()));
    yaml("service_open", &service::open(&identity(), &ProxyClosed::for_tests()));
    yaml("proxy_pod", &proxy());
    yaml("agent_pod", &agent());
}

#[test]
fn o_n1_the_agents_policy_closes_both_directions() {
    let spec = network_policy::agent(&identity()).spec.unwrap();
    assert_eq!(spec.policy_types.unwrap(), ["Ingress", "Egress"]);
    assert_eq!(spec.ingress.unwrap(), []);
}

#[test]
fn o_n2_the_agents_egress_is_one_peer_and_the_proxys_ports() {
    let spec = network_policy::agent(&identity()).spec.unwrap();
    let [rule] = <[_; 1]>::try_from(spec.egress.unwrap()).unwrap();
    let [peer] = <[_; 1]>::try_from(rule.to.unwrap()).unwrap();
    assert!(peer.pod_selector.is_some() && peer.namespace_selector.is_some() && peer.ip_block.is_none());
    assert_eq!(rule.ports.unwrap().len(), service::DATA_PORTS.len());
}

#[test]
fn o_n3_each_policy_selects_the_pod_it_guards() {
    let policies =
        [network_policy::agent(&identity()), network_policy::proxy(&accepted(|_| ()), &platform())];
    for (policy, pod) in policies.into_iter().zip([agent(), proxy()]) {
        let selector = policy.spec.unwrap().pod_selector.unwrap();
        assert!(selects(&selector, &pod.metadata.labels.unwrap()));
    }
}

#[test]
fn a_service_that_is_shut_selects_no_pod_of_ours_and_an_open_one_the_proxys_alone() {
    let selects = |service: Service, pod: Pod| {
        let (selector, labels) = (service.spec.unwrap().selector.unwrap(), pod.metadata.labels.unwrap());
        assert!(!selector.is_empty(), "without a selector its old endpoints would stay");
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let (shut, open) = (service::shut(&identity()), service::open(&identity(), &ProxyClosed::for_tests()));
    assert!(selects(open.clone(), proxy()) && !selects(open.clone(), agent()));
    assert!(!selects(shut.clone(), proxy()) && !selects(shut.clone(), agent()));
    assert_eq!(service::narrowed(&identity(), &open), shut);
    assert_eq!(service::narrowed(&identity(), &shut), shut);
}

#[test]
fn o_n13_every_policy_port_is_a_number() {
    for policy in [network_policy::agent(&identity()), network_policy::proxy(&accepted(|_| ()), &platform())]
    {
        let spec = policy.spec.unwrap();
        let ingress = spec.ingress.into_iter().flatten().map(|rule| rule.ports);
        for ports in ingress.chain(spec.egress.into_iter().flatten().map(|rule| rule.ports)) {
            for port in ports.expect("ports absent would mean all ports") {
                assert!(matches!(
                    port.port,
                    Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(_))
                ));
                assert!(port.protocol.is_some() && port.end_port.is_none());
            }
        }
    }
}

#[test]
fn o_n17_a_proxy_without_rules_reaches_cluster_dns_only() {
    let silent = accepted(|s| s.spec.egress = None);
    let egress = network_policy::proxy(&silent, &platform()).spec.unwrap().egress.unwrap();
    assert_eq!(egress.len(), 1);
}

#[test]
fn o_n17_allowed_private_ranges_leave_out_metadata_and_the_cluster() {
    let ranges =
        json!({"allowedPrivateRanges": ["10.96.8.0/24", "10.0.0.0/8", "100.64.0.0/10", "192.168.7.0/24"]});
    let wide = references(vec![class(|c| c.spec.egress = Some(from(ranges)))], vec![credential(|_| ())]);
    let accepted = accept(&identity(), &sandbox(|_| ()), &wide, &platform()).unwrap();
    let egress = network_policy::proxy(&accepted, &platform()).spec.unwrap().egress.unwrap();
    yaml("network_policy_private_ranges", &egress[1].to);
}

#[test]
fn behind_an_upstream_proxy_the_wall_opens_that_proxys_port_and_no_other() {
    let behind = |url: &str| {
        let egress = json!({"upstreamProxy": {"url": url}, "allowedPrivateRanges": ["192.168.7.0/24"]});
        references(vec![class(|c| c.spec.egress = Some(from(egress)))], vec![credential(|_| ())])
    };
    let known = behind("socks5://proxy.example.com:1080");
    let accepted = accept(&identity(), &sandbox(|_| ()), &known, &platform()).unwrap();
    let egress = network_policy::proxy(&accepted, &platform()).spec.unwrap().egress.unwrap();
    let ports = serde_json::to_value(&egress[1].ports).unwrap();
    assert_eq!((egress.len(), ports), (2, json!([{"port": 1080, "protocol": "TCP"}])));
    let to = serde_json::to_string(&egress[1].to).unwrap();
    assert!(to.contains("192.168.7.0/24"), "{to}");
    let silent = accept(&identity(), &sandbox(|s| s.spec.egress = None), &known, &platform()).unwrap();
    assert_eq!(network_policy::proxy(&silent, &platform()).spec.unwrap().egress.unwrap().len(), 1);
}

/// What the wall of a proxy lets out to the collector of this class, beside all else, and where the proxy is told that it is.
fn traced(tracing: serde_json::Value) -> (serde_json::Value, Option<String>) {
    let of = |tracing: Option<serde_json::Value>| {
        let egress = json!({"allowedPrivateRanges": ["192.168.7.0/24"]});
        let class = class(|c| {
            c.spec.egress = Some(from(egress));
            c.spec.tracing = tracing.map(from);
        });
        let known = references(vec![class], vec![credential(|_| ())]);
        let accepted = accept(&identity(), &sandbox(|_| ()), &known, &platform()).unwrap();
        let egress = network_policy::proxy(&accepted, &platform()).spec.unwrap().egress.unwrap();
        let document = policy_document::config_map(&accepted, &platform()).data.unwrap();
        let document: serde_json::Value = serde_json::from_str(&document[policy_document::KEY]).unwrap();
        (egress, document["tracing"]["endpoint"].as_str().map(str::to_owned))
    };
    let (without, nowhere) = of(None);
    assert_eq!(nowhere, None);
    let (mut with, endpoint) = of(Some(tracing));
    let opened = with.pop().unwrap();
    assert_eq!(with, without, "nothing else is opened");
    (serde_json::to_value(opened).unwrap(), endpoint)
}

#[test]
fn the_wall_of_a_proxy_opens_the_port_of_its_collector_on_that_collectors_pods_or_address_alone() {
    let ports = json!([{"port": 4318, "protocol": "TCP"}]);
    let named = "http://otel-collector.observability.svc.cluster.local:4318";
    let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
    let peer = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}},
        "podSelector": {"matchLabels": {"app": "otel-collector"}},
    });
    let (opened, endpoint) = traced(json!({"endpoint": named, "pods": pods}));
    assert_eq!(opened, json!({"ports": ports, "to": [peer]}));
    assert_eq!(endpoint.as_deref(), Some(named));
    let block = json!({"ipBlock": {"cidr": "10.96.0.50/32"}});
    let (opened, _) = traced(json!({"endpoint": "http://10.96.0.50:4318", "pods": pods}));
    assert_eq!(opened, json!({"ports": ports, "to": [peer, block]}), "the Service, and what is behind it");
    let block = json!({"ipBlock": {"cidr": "192.168.7.50/32"}});
    for spelled in ["192.168.7.50", "192.168.1842", "0xc0.168.7.50"] {
        let (opened, _) = traced(json!({"endpoint": format!("http://{spelled}:4318")}));
        assert_eq!(opened, json!({"ports": ports, "to": [block]}), "{spelled}");
    }
}

#[test]
fn o_n17_a_proxy_without_rules_reaches_no_collector_that_could_be_anywhere() {
    let opened = |tracing: serde_json::Value, has_rules: bool| {
        let known =
            references(vec![class(|c| c.spec.tracing = Some(from(tracing)))], vec![credential(|_| ())]);
        let sandbox = sandbox(|s| {
            if !has_rules {
                s.spec.egress = None
            }
        });
        let accepted = accept(&identity(), &sandbox, &known, &platform()).unwrap();
        let document = policy_document::config_map(&accepted, &platform()).data.unwrap();
        let is_told = document[policy_document::KEY].contains("otel.example.com");
        (network_policy::proxy(&accepted, &platform()).spec.unwrap().egress.unwrap().len(), is_told)
    };
    let named = json!({"endpoint": "https://otel.example.com:443"});
    assert_eq!(
        opened(named.clone(), false),
        (1, false),
        "cluster DNS alone, and the proxy knows of no collector"
    );
    assert_eq!(opened(named, true), (3, true));
    let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
    assert_eq!(opened(json!({"endpoint": "https://otel.example.com:443", "pods": pods}), false), (2, true));
    assert_eq!(opened(json!({"endpoint": "http://1.1.1.1:4318"}), false).0, 2, "to that address");
}

#[test]
fn a_proxy_is_told_that_its_collector_is_inside_the_cluster_where_the_class_names_its_pods() {
    let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
    for (tracing, inside) in [
        (json!({"endpoint": "http://otel.example.com:4318"}), serde_json::Value::Null),
        (json!({"endpoint": "http://otel.example.com:4318", "pods": pods}), json!(true)),
    ] {
        let known =
            references(vec![class(|c| c.spec.tracing = Some(from(tracing)))], vec![credential(|_| ())]);
        let accepted = accept(&identity(), &sandbox(|_| ()), &known, &platform()).unwrap();
        let document = policy_document::config_map(&accepted, &platform()).data.unwrap();
        let document: serde_json::Value = serde_json::from_str(&document[policy_document::KEY]).unwrap();
        assert_eq!(document["tracing"]["inside"], inside);
    }
}

#[test]
fn a_collector_outside_the_cluster_is_where_upstreams_may_be() {
    let (opened, _) = traced(json!({"endpoint": "https://otel.example.com:443"}));
    assert_eq!(opened["ports"], json!([{"port": 443, "protocol": "TCP"}]));
    let accepted = accepted(|_| ());
    let wall = network_policy::proxy(&accepted, &platform()).spec.unwrap().egress.unwrap();
    let public = serde_json::to_value(&wall[1].to).unwrap();
    assert_eq!(opened["to"][0], public[0], "the cluster and private ranges are left out");
    assert_eq!(opened["to"][1]["ipBlock"]["cidr"], "192.168.7.0/24");
    assert_eq!(opened["to"].as_array().unwrap().len(), 2);
}

#[test]
fn o_n25_the_agent_is_never_allowed_to_cluster_dns() {
    let text = serde_json::to_string(&network_policy::agent(&identity())).unwrap();
    assert!(!text.contains("kube-dns") && !text.contains("ipBlock"), "{text}");
}

#[test]
fn o_g10_the_agents_pod_has_no_proxy_and_no_credential() {
    let pod = agent();
    assert!(containers(&pod).all(|c| c.image.as_deref() != Some("ghcr.io/agentsandbox/proxy:test")));
    let text = serde_json::to_string(&pod).unwrap();
    for absent in ["anthropic-key", "ca.key", "serviceAccountToken", "hostPath"] {
        assert!(!text.contains(absent), "{absent}");
    }
    let program = pod.spec.as_ref().unwrap().containers[0].volume_mounts.as_ref().unwrap();
    assert!(program.iter().all(|mount| mount.name != "enrolment"), "the token is the fence's alone");
}

#[test]
fn p_c11_the_agents_pod_holds_no_volume_device_or_port_that_leads_out() {
    let pod = serde_json::to_value(agent()).unwrap();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let kinds: Vec<_> = volumes
        .iter()
        .flat_map(|volume| volume.as_object().unwrap().keys().filter(|key| *key != "name").cloned())
        .collect();
    // A closed list: a socket of the node or of a driver could only come through another kind.
    assert_eq!(kinds, ["secret", "emptyDir", "emptyDir", "emptyDir", "emptyDir"]);
    for container in
        ["initContainers", "containers"].iter().flat_map(|list| pod["spec"][*list].as_array().unwrap())
    {
        for door in ["ports", "volumeDevices", "envFrom", "lifecycle", "stdin", "tty"] {
            assert!(container.get(door).is_none(), "{door}");
        }
        let limits = container["resources"]["limits"].as_object().unwrap();
        let known = ["cpu", "ephemeral-storage", "memory"];
        assert!(limits.keys().all(|resource| known.contains(&resource.as_str())), "a device: {limits:?}");
    }
    for door in [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "shareProcessNamespace",
        "resourceClaims",
        "ephemeralContainers",
    ] {
        assert!(pod["spec"].get(door).is_none(), "{door}");
    }
}

#[test]
fn p_g7_every_pod_that_a_sandbox_has_is_behind_a_wall_for_what_it_sends() {
    let walls = [network_policy::agent(&identity()), network_policy::proxy(&accepted(|_| ()), &platform())];
    let pods = [proxy(), agent()];
    let all =
        names("fix-login").into_iter().filter(|(kind, _)| *kind == ChildKind::Pod).map(|(_, name)| name);
    let described: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(described, Vec::from_iter(all), "a pod that this test does not know");
    for pod in pods {
        let labels = pod.metadata.labels.unwrap();
        let behind = walls.iter().filter_map(|wall| wall.spec.as_ref()).any(|wall| {
            selects(wall.pod_selector.as_ref().unwrap(), &labels)
                && wall.policy_types.as_ref().unwrap().contains(&"Egress".to_owned())
        });
        assert!(behind, "{labels:?}");
    }
}

#[test]
fn p_i12_what_the_proxy_trusts_comes_from_the_api_server_and_into_no_hand_of_the_agent() {
    let proxy = serde_json::to_value(proxy()).unwrap();
    let mounts = proxy["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    let writable: Vec<_> =
        mounts.iter().filter(|mount| mount["readOnly"] != true).map(|mount| &mount["name"]).collect();
    assert_eq!(writable, ["state"], "policy, credentials and keys are read only");
    for volume in
        proxy["spec"]["volumes"].as_array().unwrap().iter().filter(|volume| volume["name"] != "state")
    {
        let from_api = ["configMap", "projected", "secret"].iter().any(|kind| volume.get(*kind).is_some());
        assert!(from_api, "{volume}");
    }
    // The two share no volume but the Secret of keys, of which each has its own items, and which no container can write.
    let agent = agent().spec.unwrap();
    let program = agent.containers[0].volume_mounts.clone().unwrap();
    assert!(program.iter().filter(|mount| mount.name == "trust").all(|mount| mount.read_only == Some(true)));
    assert!(program.iter().any(|mount| mount.name == "trust"));
    let claims = agent.volumes.iter().flatten().filter(|volume| volume.empty_dir.is_none());
    assert!(claims.map(|volume| volume.name.as_str()).eq(["enrolment"]));
}

#[test]
fn o_h6_no_pod_and_no_account_gets_a_token() {
    for component in [Component::Agent, Component::Proxy] {
        let account = service_account::service_account(&identity(), component);
        assert_eq!(account.automount_service_account_token, Some(false));
    }
    for pod in [agent(), proxy()] {
        assert_eq!(pod.spec.unwrap().automount_service_account_token, Some(false));
    }
}

#[test]
fn o_h2_every_container_is_restricted() {
    for pod in [agent(), proxy()] {
        let spec = pod.spec.as_ref().unwrap();
        let security = spec.security_context.as_ref().unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
        assert!(spec.host_network.is_none() && spec.host_pid.is_none() && spec.host_ipc.is_none());
        for container in containers(&pod) {
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.read_only_root_filesystem, Some(true));
            assert_eq!(
                security.capabilities.as_ref().unwrap().drop.as_deref(),
                Some(["ALL".to_owned()].as_slice())
            );
            assert!(security.capabilities.as_ref().unwrap().add.is_none());
        }
    }
}

#[test]
fn o_h9_every_limit_is_set_and_every_volume_is_bounded() {
    for pod in [agent(), proxy()] {
        let spec = pod.spec.as_ref().unwrap();
        for volume in spec.volumes.iter().flatten() {
            assert!(volume.empty_dir.as_ref().is_none_or(|dir| dir.size_limit.is_some()), "{}", volume.name);
        }
        let pod_level = spec.resources.as_ref().and_then(|r| r.limits.clone()).unwrap_or_default();
        for container in containers(&pod) {
            let own = container.resources.as_ref().and_then(|r| r.limits.clone()).unwrap_or_default();
            for resource in ["cpu", "memory", "ephemeral-storage"] {
                assert!(
                    own.contains_key(resource) || pod_level.contains_key(resource),
                    "{} {resource}",
                    container.name
                );
            }
        }
    }
}

#[test]
fn o_r36_pods_carry_our_labels_and_our_annotations_only() {
    let ours =
        ["agentsandbox.dev/policy-hash", "agentsandbox.dev/runtime-class", "agentsandbox.dev/spec-hash"];
    for (pod, wanted) in [(agent(), &ours[1..]), (proxy(), &ours[..])] {
        let annotations: Vec<_> = pod.metadata.annotations.unwrap().into_keys().collect();
        assert_eq!(annotations, wanted);
        assert_eq!(pod.metadata.labels.unwrap().len(), 4);
    }
}

#[test]
fn o_r26_a_policy_change_restarts_nothing() {
    let other = accepted(|s| s.spec.egress.as_mut().unwrap().allow[1].host = "crates.io".to_owned());
    let edited = proxy_pod::pod(&other, &platform(), &sealed(), None);
    assert_eq!(edited.spec, proxy().spec);
    let annotation = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().unwrap()[key].clone();
    assert_eq!(annotation(&edited, ANNOTATION_SPEC_HASH), annotation(&proxy(), ANNOTATION_SPEC_HASH));
    assert_ne!(annotation(&edited, ANNOTATION_POLICY_HASH), annotation(&proxy(), ANNOTATION_POLICY_HASH));
    assert_eq!(agent_pod::pod(&other, &platform(), &sealed()), agent());
}

#[test]
fn a_recreated_proxy_knows_its_agent_and_keeps_its_hash() {
    let beside =
        proxy_pod::pod(&accepted(|_| ()), &platform(), &sealed(), Some("10.244.0.9".parse().unwrap()));
    assert_eq!(beside.metadata, proxy().metadata);
    let args = beside.spec.unwrap().containers[0].args.clone().unwrap();
    assert_eq!(args[args.len() - 2..], ["--enrolled", "10.244.0.9"]);
}

#[test]
fn unset_leaves_the_proxy_variables_out() {
    let bare = accepted(|s| {
        s.spec.agent.proxy_environment = Some(agentsandbox_crds::sandbox::ProxyEnvironment::Unset)
    });
    let variables = environment::variables(&bare, &sealed());
    assert!(variables.iter().all(|v| !v.name.to_lowercase().ends_with("_proxy")));
    assert!(variables.iter().any(|v| v.name == "SSL_CERT_FILE"));
}

#[test]
fn names_of_children_match_what_is_described() {
    let lasting = json!({"access": "Persistent", "persistent": {"size": "1Gi"}});
    let accepted = accepted(|s| s.spec.workspace = Some(from(lasting)));
    let boundary = boundary(&accepted, &platform());
    let stand_ins = boundary.policies().into_iter().map(|wall| {
        let stand_in = Child::NetworkPolicy(network_policy::stand_in(&wall));
        assert!(
            !crate::controller::plan::differs(&Child::NetworkPolicy(wall), &stand_in),
            "all but the name"
        );
        stand_in
    });
    let all = boundary.walls.iter().cloned().chain(stand_ins).chain(boundary.supplies.iter().cloned());
    let mut described: Vec<_> = all.map(|c| (c.kind(), c.name().to_owned())).collect();
    described.extend([proxy(), agent()].map(|pod| (ChildKind::Pod, pod.metadata.name.unwrap())));
    let mut names = names("fix-login");
    names.sort_by_key(|(kind, _)| *kind);
    described.sort_by_key(|(kind, _)| *kind);
    assert_eq!(described, names);
}

#[test]
fn a_credential_of_another_secret_is_another_file_in_document_and_pod() {
    let pointed = |secret: &str, key: &str| {
        let reference = json!({"name": secret, "key": key});
        let credentials = vec![credential(|c| c.spec.secret_ref = from(reference))];
        let known = references(vec![class(|_| ())], credentials);
        let accepted = accept(&identity(), &sandbox(|_| ()), &known, &platform()).unwrap();
        let file = accepted.credentials[0].0.file.clone().unwrap();
        let mounted = serde_json::to_value(proxy_pod::pod(&accepted, &platform(), &sealed(), None)).unwrap();
        let volumes = mounted["spec"]["volumes"].as_array().unwrap();
        let projected = volumes.iter().find(|volume| volume["name"] == "credentials").unwrap();
        assert_eq!(projected["projected"]["sources"][0]["secret"]["items"][0]["path"], json!(file));
        file
    };
    let own = pointed("anthropic-key", "api-key");
    assert_eq!(own, pointed("anthropic-key", "api-key"));
    for (secret, key) in [("another", "api-key"), ("anthropic-key", "another"), ("anthropic-keya", "pi-key")]
    {
        assert_ne!(own, pointed(secret, key), "{secret} {key}");
    }
    // sha256sum of the two names with a NUL between them.
    assert_eq!(own, "anthropic-cc130715802c1c15");
}
