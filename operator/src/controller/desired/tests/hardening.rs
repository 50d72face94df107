//! What both pods never have, whatever a sandbox, its class or their metadata say.

use std::collections::BTreeMap;

use super::*;

/// Everything a tenant can write that reaches a pod, and metadata that must not.
fn talkative() -> (Pod, Pod) {
    let keys = LOOSENING.map(|key| (format!("{key}x"), "all".to_owned()));
    let annotations = BTreeMap::from(keys);
    let wide = references(
        vec![class(|c| c.metadata.annotations.get_or_insert_default().extend(annotations.clone()))],
        vec![credential(|c| c.metadata.annotations = Some(annotations.clone()))],
    );
    let loud = sandbox(|s| {
        s.metadata.annotations = Some(annotations.clone());
        s.metadata.labels =
            Some(annotations.keys().map(|key| (key.replace('/', "-"), "all".to_owned())).collect());
    });
    let accepted = accept(&identity(), &loud, &wide, &platform()).unwrap();
    let pods = (
        agent_pod::pod(&accepted, &platform(), &sealed()),
        proxy_pod::pod(&accepted, &platform(), &sealed(), None),
    );
    assert_eq!(loud.metadata.annotations.unwrap().len(), LOOSENING.len());
    pods
}

const LOOSENING: [&str; 9] = [
    "dev.gvisor.flag.",
    "io.katacontainers.",
    "io.kubernetes.cri.",
    "io.containerd.",
    "cdi.k8s.io/",
    "container.apparmor.security.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "k8s.v1.cni.cncf.io/",
    "cni.projectcalico.org/",
];

#[test]
fn o_g5_no_metadata_of_sandbox_class_or_credential_reaches_a_pod() {
    let (agent_pod, proxy_pod) = talkative();
    for (loud, quiet) in [(agent_pod, agent()), (proxy_pod, proxy())] {
        assert_eq!(loud.metadata, quiet.metadata);
        assert!(loud.metadata.annotations.unwrap().keys().all(|key| key.starts_with("agentsandbox.dev/")));
    }
}

#[test]
fn o_g9_no_volume_has_a_name_that_a_runtime_knows() {
    // gVisor opens host sockets in a volume of this name: gke-gcsfuse-tmp.
    let names = |pod: Pod| -> Vec<String> {
        pod.spec.unwrap().volumes.unwrap().into_iter().map(|volume| volume.name).collect()
    };
    assert_eq!(names(agent()), ["enrolment", "trust", "workspace", "tmp", "home"]);
    assert_eq!(names(proxy()), ["policy", "credentials", "keys", "state"]);
    let (agent_pod, proxy_pod) = talkative();
    assert_eq!(
        (names(agent_pod), names(proxy_pod)),
        (names(agent()), names(proxy())),
        "a tenant names no volume"
    );
}

#[test]
fn o_g19_seccomp_is_the_runtimes_and_nothing_selinux_proc_or_sysctl_is_touched_but_one_safe_one() {
    for pod in [agent(), proxy()] {
        let spec = pod.spec.as_ref().unwrap();
        let security = spec.security_context.as_ref().unwrap();
        assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
        assert!(security.se_linux_options.is_none() && security.windows_options.is_none());
        for container in containers(&pod) {
            let own = container.security_context.as_ref().unwrap();
            assert!(
                own.se_linux_options.is_none() && own.proc_mount.is_none() && own.seccomp_profile.is_none()
            );
        }
    }
    let sysctls = |pod: Pod| pod.spec.unwrap().security_context.unwrap().sysctls.unwrap_or_default();
    assert!(sysctls(agent()).is_empty());
    let names: Vec<_> = sysctls(proxy()).into_iter().map(|sysctl| sysctl.name).collect();
    assert_eq!(names, ["net.ipv4.ip_unprivileged_port_start"]);
    let document = include_str!("../../../../../docs/isolation.md");
    assert!(
        document.contains("seccomp of the pod is not applied inside gVisor"),
        "docs/isolation.md promises more"
    );
}

#[test]
fn o_g22_no_pod_asks_for_a_user_namespace_so_none_fails_for_want_of_one() {
    let (agent_pod, proxy_pod) = talkative();
    for pod in [agent(), proxy(), agent_pod, proxy_pod] {
        // Where a node's runtime has none, a pod that asks for one stays without a sandbox for good.
        assert_eq!(pod.spec.unwrap().host_users, None);
    }
}

#[test]
fn o_g26_no_device_is_asked_for_and_none_can_be() {
    for pod in [agent(), proxy()] {
        let spec = pod.spec.as_ref().unwrap();
        assert!(spec.resource_claims.is_none());
        let own = containers(&pod).filter_map(|container| container.resources.as_ref());
        for resources in own.chain(spec.resources.as_ref()) {
            assert!(resources.claims.is_none());
            let asked = resources.limits.iter().chain(&resources.requests).flat_map(BTreeMap::keys);
            for name in asked {
                assert!(["cpu", "memory", "ephemeral-storage"].contains(&name.as_str()), "{name}");
            }
        }
    }
    // The schema knows three resources, and refuses or drops any other name.
    let limits = json!({"cpu": "1", "nvidia.com/gpu": "1"});
    let read: agentsandbox_crds::common::ResourceLimits = from(limits);
    assert!(!serde_json::to_string(&read).unwrap().contains("nvidia"));
}

#[test]
fn o_h5_no_probe_or_hook_names_a_host() {
    for pod in [agent(), proxy()] {
        for container in containers(&pod) {
            let value = serde_json::to_value(container).unwrap();
            for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                let text = value[field].to_string();
                assert!(!text.contains("\"host\""), "{} {text}", container.name);
            }
        }
    }
    assert!(
        containers(&proxy()).any(|container| container.readiness_probe.is_some()),
        "nothing would be checked"
    );
}

#[test]
fn o_h7_no_service_is_in_the_environment() {
    for pod in [agent(), proxy()] {
        assert_eq!(pod.spec.unwrap().enable_service_links, Some(false));
    }
}

#[test]
fn o_h8_no_root_filesystem_can_be_written_and_the_workspace_has_a_size() {
    for pod in [agent(), proxy()] {
        for container in containers(&pod) {
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.read_only_root_filesystem, Some(true), "{}", container.name);
        }
    }
    let volumes = agent().spec.unwrap().volumes.unwrap();
    let workspace = volumes.into_iter().find(|volume| volume.name == "workspace").unwrap();
    assert_eq!(workspace.empty_dir.unwrap().size_limit.unwrap().0, (2_u64 << 30).to_string());
}

#[test]
fn o_h13_how_long_a_pod_may_take_to_end_is_ours_to_say() {
    // The highest that either pod may take; the agent has no field for it.
    const GRACE_SECS_MAX: i64 = 60;
    let (agent_pod, proxy_pod) = talkative();
    for (pod, own) in [(agent_pod, agent()), (proxy_pod, proxy())] {
        let (spec, own) = (pod.spec.unwrap(), own.spec.unwrap());
        let grace = spec.termination_grace_period_seconds.unwrap();
        assert!((0..=GRACE_SECS_MAX).contains(&grace), "{grace} s");
        assert_eq!(Some(grace), own.termination_grace_period_seconds);
        assert!(spec.active_deadline_seconds.is_none());
    }
}
