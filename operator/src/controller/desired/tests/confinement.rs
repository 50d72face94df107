//! The pod of an agent that starts in a process sandbox, beside the one of an agent that does not.

use agentsandbox_crds::class::{AgentNetwork, Isolation};
use agentsandbox_crds::names::{AGENT_PROGRAM, AGENT_PROGRAM_RUN, FENCE_PROGRAM_DIR, FENCE_PROGRAM_RUN};
use agentsandbox_crds::sandbox::{AgentSandbox, ProcessSandbox};
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::*;
use crate::controller::desired::confinement::PROGRAM_DIR;

fn pod_of(change: impl FnOnce(&mut AgentSandbox)) -> Pod {
    let asking = sandbox(|s| {
        s.spec.agent.command = vec!["agent".to_owned(), "$HOME".to_owned()];
        s.spec.agent.process_sandbox = Some(ProcessSandbox::default());
        change(s);
    });
    let container =
        references(vec![class(|c| c.spec.isolation = Isolation::Container)], vec![credential(|_| ())]);
    agent_pod::pod(&accept(&identity(), &asking, &container, &platform()).unwrap(), &platform(), &sealed())
}

fn named(pod: &Pod, name: &str) -> Container {
    containers(pod).find(|container| container.name == name).unwrap().clone()
}

fn program(container: &Container) -> Option<VolumeMount> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.into_iter().find(|mount| mount.mount_path == PROGRAM_DIR).cloned()
}

#[test]
fn the_program_starts_by_ours_with_what_it_may_write_and_with_its_own_arguments() {
    let agent = named(&pod_of(|_| ()), agent_pod::AGENT);
    let expected = [
        "/etc/agentsandbox/program/agentsandbox-init",
        "run",
        "--write=/dev",
        "--write=/workspace",
        "--write=/tmp",
        "--write=/home/agent",
        "--",
        "agent",
        "$$HOME",
    ];
    assert_eq!(agent.command.unwrap(), expected);
    assert_eq!(agent.args.unwrap(), ["-p", "fix the $$HOME test"]);
}

#[test]
fn paths_of_the_sandbox_are_flags_of_their_own_before_the_program() {
    let asked: ProcessSandbox = from(json!({
        "readPaths": ["/usr"], "writePaths": ["/workspace/$out"], "noExecutePaths": ["/tmp"],
    }));
    let agent = named(&pod_of(|s| s.spec.agent.process_sandbox = Some(asked)), agent_pod::AGENT);
    let own = [
        "--read=/dev",
        "--read=/etc/agentsandbox",
        "--read=/usr",
        "--write=/dev",
        "--write=/workspace/$$out",
        "--no-execute=/tmp",
        "--",
    ];
    assert_eq!(agent.command.unwrap()[2..9], own);
    // What is empty grants nothing, and is not what is absent.
    let nothing: ProcessSandbox = from(json!({"writePaths": []}));
    let agent = named(&pod_of(|s| s.spec.agent.process_sandbox = Some(nothing)), agent_pod::AGENT);
    assert_eq!(agent.command.unwrap()[2..4], ["--write=/dev", "--"]);
}

#[test]
fn the_agent_cannot_write_what_it_starts_by_and_the_fence_puts_it_there() {
    let pod = pod_of(|_| ());
    assert_eq!(program(&named(&pod, agent_pod::AGENT)).unwrap().read_only, Some(true));
    let fence = named(&pod, agent_pod::FENCE);
    assert_eq!(program(&fence).unwrap().read_only, None);
    let args = fence.args.unwrap();
    let at = args.iter().position(|arg| arg == FENCE_PROGRAM_DIR).unwrap();
    assert_eq!(args[at + 1], PROGRAM_DIR);
    let others =
        containers(&pod).filter(|c| ![agent_pod::AGENT, agent_pod::FENCE].contains(&c.name.as_str()));
    assert!(others.into_iter().all(|other| program(other).is_none()));
}

#[test]
fn without_a_process_sandbox_nothing_of_it_is_in_the_pod() {
    let pod = pod_of(|s| s.spec.agent.process_sandbox = None);
    assert_eq!(named(&pod, agent_pod::AGENT).command.unwrap(), ["agent", "$$HOME"]);
    assert!(!serde_json::to_string(&pod).unwrap().contains("program"), "{pod:?}");
}

#[test]
fn another_process_sandbox_is_another_pod() {
    let hash = |pod: Pod| pod.metadata.annotations.unwrap()[ANNOTATION_SPEC_HASH].clone();
    let narrower: ProcessSandbox = from(json!({"noExecutePaths": ["/tmp"]}));
    let all = [
        hash(pod_of(|s| s.spec.agent.process_sandbox = None)),
        hash(pod_of(|_| ())),
        hash(pod_of(|s| s.spec.agent.process_sandbox = Some(narrower))),
    ];
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?}");
}

#[test]
fn o_g18_under_gvisor_execution_is_withheld_by_mounts_that_the_fence_has_tried() {
    let gvisor = |execution: &str| {
        let accepted = accepted(|s| {
            s.spec.agent.command = vec!["agent".to_owned()];
            s.spec.scratch = Some(from(json!({"execution": execution})));
        });
        agent_pod::pod(&accepted, &platform(), &sealed())
    };
    let pod = gvisor("Deny");
    let command = named(&pod, agent_pod::AGENT).command.unwrap();
    assert_eq!(
        command[1..],
        [
            "run",
            "--by-mounts",
            "--no-execute=/tmp",
            "--no-execute=/home/agent",
            "--no-execute=/dev/shm",
            "--",
            "agent"
        ]
    );
    assert!(named(&pod, agent_pod::FENCE).args.unwrap().contains(&"--program-by-mounts".to_owned()));
    assert_eq!(program(&named(&pod, agent_pod::AGENT)).unwrap().read_only, Some(true));
    let allowed = gvisor("Allow");
    assert_eq!(named(&allowed, agent_pod::AGENT).command.unwrap(), ["agent"]);
    assert!(
        !named(&pod_of(|_| ()), agent_pod::FENCE).args.unwrap().contains(&"--program-by-mounts".to_owned())
    );
}

/// The two pods of an agent whose class gives it no network, or which class says nothing of that.
fn pods_of(network: Option<AgentNetwork>, execution: &str) -> [Pod; 2] {
    let asking = sandbox(|s| {
        s.spec.agent.command = vec!["agent".to_owned()];
        s.spec.scratch = Some(from(json!({"execution": execution})));
    });
    let class = class(|c| c.spec.agent_network = network);
    let references = references(vec![class], vec![credential(|_| ())]);
    let accepted = accept(&identity(), &asking, &references, &platform()).unwrap();
    [
        agent_pod::pod(&accepted, &platform(), &sealed()),
        proxy_pod::pod(&accepted, &platform(), &sealed(), None),
    ]
}

#[test]
fn an_agent_without_a_network_starts_by_what_leaves_it_and_finds_its_proxy_on_its_loopback() {
    let service = sealed().proxy_address().to_string();
    let [pod, proxy] = pods_of(Some(AgentNetwork::None), "Allow");
    let agent = named(&pod, agent_pod::AGENT);
    let expected = ["run", "--no-network", &format!("--proxy={service}"), "--", "agent"];
    assert_eq!(agent.command.as_ref().unwrap()[1..], expected);
    assert_eq!(program(&agent).unwrap().read_only, Some(true));
    let fence = named(&pod, agent_pod::FENCE).args.unwrap();
    assert!(fence.contains(&"--program-no-network".to_owned()));
    assert!(!fence.contains(&"--program-by-mounts".to_owned()), "nothing is mounted anew");
    let at = fence.iter().position(|arg| arg == "--proxy").unwrap();
    assert_eq!(fence[at + 1], service, "the fence is in the pod's network");
    let spec = pod.spec.as_ref().unwrap();
    let resolvers = spec.dns_config.as_ref().unwrap().nameservers.clone().unwrap();
    let alias = spec.host_aliases.as_ref().unwrap()[0].ip.clone();
    let of = |name: &str| {
        let all = agent.env.iter().flatten();
        all.into_iter().find(|one| one.name == name).and_then(|one| one.value.clone()).unwrap()
    };
    let advertised = named(&proxy, proxy_pod::CONTAINER).args.unwrap();
    let at = advertised.iter().position(|arg| arg == "--advertise").unwrap();
    let found = [resolvers[0].clone(), alias, advertised[at + 1].clone()];
    assert_eq!(found, ["127.0.0.1"; 3]);
    assert_eq!(of("HTTPS_PROXY"), "http://127.0.0.1:3128");

    let [both, _] = pods_of(Some(AgentNetwork::None), "Deny");
    let command = named(&both, agent_pod::AGENT).command.unwrap();
    assert_eq!(
        command[2..5],
        ["--by-mounts".to_owned(), "--no-network".to_owned(), format!("--proxy={service}")]
    );
    let fence = named(&both, agent_pod::FENCE).args.unwrap();
    assert!(
        ["--program-no-network", "--program-by-mounts"]
            .iter()
            .all(|flag| fence.contains(&(*flag).to_owned()))
    );
}

#[test]
fn the_fence_is_told_how_the_agent_starts_for_whoever_enters_it_later() {
    let asked: ProcessSandbox = from(json!({"writePaths": ["/workspace/$out"], "noExecutePaths": ["/tmp"]}));
    let landlock = pod_of(|s| s.spec.agent.process_sandbox = Some(asked));
    let [mounts, _] = pods_of(None, "Deny");
    let [network, _] = pods_of(Some(AgentNetwork::None), "Allow");
    let [both, _] = pods_of(Some(AgentNetwork::None), "Deny");
    for pod in [landlock, mounts, network, both] {
        let command = named(&pod, agent_pod::AGENT).command.unwrap();
        assert_eq!(command[..2], [AGENT_PROGRAM, AGENT_PROGRAM_RUN]);
        let starts: Vec<_> = command[2..].iter().take_while(|word| *word != "--").collect();
        let fence = named(&pod, agent_pod::FENCE).args.unwrap();
        let told: Vec<_> = fence.iter().filter_map(|arg| arg.strip_prefix(FENCE_PROGRAM_RUN)).collect();
        assert!(!told.is_empty());
        assert_eq!(told, starts);
    }
    let [open, _] = pods_of(None, "Allow");
    let fence = named(&open, agent_pod::FENCE).args.unwrap();
    assert!(!fence.iter().any(|arg| arg.starts_with(FENCE_PROGRAM_RUN)), "{fence:?}");

    let source = include_str!("../../../../../init/src/program.rs");
    let file = source.split_once("pub const FILE: &str = \"").unwrap().1.split_once('"').unwrap().0;
    assert_eq!(AGENT_PROGRAM, format!("{PROGRAM_DIR}/{file}"), "where the fence puts it");
}

#[test]
fn what_is_carried_from_an_agents_loopback_are_the_ports_of_its_proxy_but_that_of_its_fence() {
    let source = include_str!("../../../../../init/src/confine/network.rs");
    let after = |name: &str| source.split_once(name).unwrap().1.split_once(';').unwrap().0;
    let numbers = |text: &str| -> std::collections::BTreeSet<u16> {
        text.split(|sign: char| !sign.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
    };
    let of = |protocol: &str| {
        let ports = service::DATA_PORTS.iter().filter(|port| port.protocol == protocol);
        ports
            .map(|port| port.number)
            .filter(|number| *number != agentsandbox_crds::names::PORT_ENROLMENT)
            .collect()
    };
    assert_eq!(numbers(after("pub const STREAMS: [u16; 6] =")), of("TCP"));
    assert_eq!(numbers(after("pub const DATAGRAMS: u16 =")), of("UDP"));
}

#[test]
fn a_class_that_keeps_the_pods_network_changes_no_byte_of_a_pod() {
    let hashes = |network| pods_of(network, "Allow").map(|pod| serde_json::to_string(&pod).unwrap());
    assert_eq!(hashes(None), hashes(Some(AgentNetwork::Pod)));
    let without = hashes(Some(AgentNetwork::None));
    let with = hashes(None);
    assert!(without[0] != with[0] && without[1] != with[1], "another pod each, by another hash");
    assert!(!with[0].contains("127.0.0.1:") && !with[0].contains("no-network"));
}
