//! What cyclonus, which is other people's, says of the packets that [`union`](crate::union) judges.

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Deserialize;
use serde_json::{Value, json};
use xtask::{parts, shell};

use crate::union::{Place, Verdict};

#[derive(Deserialize)]
struct Head {
    policies: usize,
}

#[derive(Deserialize)]
struct Line {
    egress: bool,
    ingress: bool,
}

/// One packet: where it comes from, where it goes, to which port, and the protocol as in policies.
pub type Packet<'a> = (&'a Place, &'a Place, u16, &'static str);

/// A verdict for each packet, in their order.
///
/// # Panics
/// When cyclonus cannot be built or run, or has not read each policy and each packet.
#[must_use]
pub fn verdicts(policies: &[NetworkPolicy], packets: &[Packet<'_>]) -> Vec<Verdict> {
    let folder = tempfile::tempdir().expect("a folder for policies");
    let program = parts::judge("cyclonus-cells").expect("cyclonus can be built");
    let mut cyclonus = shell::command(program, &[] as &[&str]);
    for (number, policy) in policies.iter().enumerate() {
        // Of a file with several it would read the first and say nothing of the others.
        let file = folder.path().join(format!("{number}.yaml"));
        fs::write(&file, written(policy)).expect("a policy can be written");
        cyclonus.arg(file);
    }
    cyclonus.stdin(questions(folder.path(), packets));
    let said = shell::output(&mut cyclonus).expect("cyclonus answers");
    let mut lines = said.lines();
    let head: Head = serde_json::from_str(lines.next().expect("a first line")).expect("it counts policies");
    assert_eq!(head.policies, policies.len(), "cyclonus has not read every policy");
    let verdicts: Vec<Verdict> = lines
        .map(|line| serde_json::from_str(line).expect("a verdict"))
        .map(|Line { egress, ingress }| Verdict { egress, ingress })
        .collect();
    assert_eq!(verdicts.len(), packets.len(), "cyclonus has not judged every packet");
    verdicts
}

fn written(policy: &NetworkPolicy) -> String {
    let metadata = json!({"name": policy.metadata.name, "namespace": policy.metadata.namespace});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": policy.spec})
        .to_string()
}

fn questions(folder: &Path, packets: &[Packet<'_>]) -> fs::File {
    let path = folder.join("packets");
    let mut file =
        fs::File::options().read(true).write(true).create(true).truncate(true).open(path).expect("a file");
    for (source, destination, port, protocol) in packets {
        let packet = json!({"Source": peer(source), "Destination": peer(destination), "ResolvedPort": port,
            "ResolvedPortName": "", "Protocol": protocol});
        writeln!(file, "{packet}").expect("a packet can be written");
    }
    file.rewind().expect("a file can be read from its beginning");
    file
}

fn peer(place: &Place) -> Value {
    let pod = place.pod.as_ref().map(|pod| {
        json!({"Namespace": pod.namespace, "NamespaceLabels": pod.namespace_labels, "PodLabels": pod.labels})
    });
    json!({"IP": place.address, "Internal": pod})
}
