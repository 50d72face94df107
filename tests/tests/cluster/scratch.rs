//! What the agent may write beside its workspace, read back from inside: what it is made of, and where it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use agentsandbox_tests::{Rig, Sandbox, eventually, with_namespace};
use serde::Deserialize;
use serde_json::{Value, json};
use xtask::shell;

use crate::fixtures;

/// Writes into each folder until it is refused, or until 24 MiB are written, and prints what it found. What is written stays.
const FILL: &str = r#"
import errno, json, os, sys
mounts = {}
for line in open('/proc/self/mountinfo'):
    before, _, after = line.partition(' - ')
    mounts[before.split()[4]] = (before.split()[5], after.split()[0])
def fill(folder):
    written, chunk = 0, b'x' * (1 << 20)
    try:
        with open(folder + '/fill', 'wb', buffering=0) as file:
            while written < 24 << 20: written += file.write(chunk)
    except OSError as refusal: return {'written': written, 'refused': errno.errorcode[refusal.errno]}
    return {'written': written, 'refused': ''}
def look(folder):
    room = os.statvfs(folder)
    options, kind = mounts[folder]
    return {'options': options, 'kind': kind, 'bytes': room.f_blocks * room.f_frsize, **fill(folder)}
print(json.dumps({folder: look(folder) for folder in sys.argv[1:]}))
"#;
const SIZE_BYTES: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
struct Seen {
    options: String,
    kind: String,
    bytes: u64,
    written: u64,
    refused: String,
}

/// The example, with sizes that are quickly full and a folder more.
fn asking(name: &str, class: &str) -> String {
    let mut sandbox: Value =
        serde_yaml::from_str(include_str!("../../../examples/scratch/sandbox.yaml")).unwrap();
    sandbox["metadata"]["name"] = json!(name);
    sandbox["spec"]["className"] = json!(class);
    sandbox["spec"]["agent"]["image"] = json!(fixtures::AGENT_IMAGE);
    sandbox["spec"]["resources"]["limits"] = json!({"cpu": "1", "memory": "256Mi"});
    sandbox["spec"]["scratch"]["tmp"] = json!("16Mi");
    sandbox["spec"]["scratch"]["home"] = json!("16Mi");
    sandbox["spec"]["workspace"] = json!({"medium": "Memory", "sizeLimit": "16Mi"});
    sandbox.to_string()
}

/// The volumes of the agent's pod that the node has in memory.
async fn in_memory(rig: &Rig, agent: &Sandbox) -> Vec<String> {
    let pod = agent.pods().get(&agent.agent_pod()).await.unwrap();
    let of_pod = format!("/pods/{}/volumes/kubernetes.io~empty-dir/", pod.metadata.uid.unwrap());
    let mounts = shell::output(&mut rig.cluster.on_node("cat", &["/proc/self/mounts"]).unwrap()).unwrap();
    let mut names: Vec<_> = mounts
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some("tmpfs"))
        .filter_map(|line| line.split(' ').nth(1)?.split_once(&of_pod).map(|(_, name)| name.to_owned()))
        .collect();
    names.sort();
    names
}

async fn o_g17_a_folder_in_memory_ends_at_its_size_and_counts_towards_the_limit(
    rig: &Rig,
    agent: &Sandbox,
    class: &str,
) {
    let group = rig.group(&agent.pods().get(&agent.agent_pod()).await.unwrap());
    let memory = || group.number(&["memory.usage_in_bytes", "memory.current"]);
    let before = memory();
    let printed =
        agent.exec(&["python3", "-c", FILL, "/tmp", "/home/agent", "/workspace", "/cache"]).await.ok().stdout;
    let after = memory();
    let seen: BTreeMap<String, Seen> = serde_json::from_str(&printed).expect("the program prints JSON");
    eprintln!("{class}: {seen:?}, and the pod went from {before} to {after}");
    for folder in ["/tmp", "/home/agent", "/workspace"] {
        let seen = &seen[folder];
        assert_eq!((seen.refused.as_str(), seen.bytes), ("ENOSPC", SIZE_BYTES), "{folder}: {seen:?}");
        assert!(seen.written <= SIZE_BYTES && seen.written > SIZE_BYTES - (2 << 20), "{folder}: {seen:?}");
        // Under gVisor a folder of the node is one, whatever it is made of there.
        assert_eq!(seen.kind, if class == "container" { "tmpfs" } else { "9p" }, "{folder}: {seen:?}");
        assert!(seen.options.split(',').any(|option| option == "rw"), "{folder}: {seen:?}");
    }
    // Of what is on disk the kubelet says later that it is too much.
    assert_eq!((seen["/cache"].refused.as_str(), seen["/cache"].written), ("", 24 << 20), "{seen:?}");
    assert!(after > before + 2 * SIZE_BYTES, "the pod's memory went from {before} to {after}");
    agent
        .sh("rm /tmp/fill /home/agent/fill /workspace/fill /cache/fill && echo again > /tmp/again")
        .await
        .ok();
}

#[tokio::test]
async fn scratch_in_memory_is_read_back_under_gvisor_and_under_runc() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "scratch", async |ns| {
        let agents = [("g", "world"), ("c", "container")];
        for (name, class) in agents {
            ns.sandbox(name, &asking(name, class)).await;
        }
        let plain = ns.sandbox("plain", &fixtures::closed("plain")).await;
        for (name, class) in agents {
            let agent = ns.handle(name);
            agent.ready().await;
            assert_eq!(in_memory(&rig, &agent).await, ["home", "tmp", "workspace"], "{class}");
            o_g17_a_folder_in_memory_ends_at_its_size_and_counts_towards_the_limit(&rig, &agent, class).await;
        }
        plain.ready().await;
        assert!(in_memory(&rig, &plain).await.is_empty(), "scratch is on disk where nobody asks");
    })
    .await;
}

/// Tries once to run what it copies, and to be rid of what keeps it from that, prints what came of it as one line of JSON, and stays. It runs
/// as the agent itself: what `exec` starts has nothing withheld.
const TRY: &str = r#"
import ctypes, errno, json, os, shutil, subprocess, time, urllib.request
libc = ctypes.CDLL(None, use_errno=True)
def attempt(f):
    try: f()
    except OSError as refusal: return errno.errorcode[refusal.errno]
    return 'done'
def copied(folder):
    shutil.copy('/usr/bin/true', folder + '/copy')
    subprocess.run([folder + '/copy'])
def moved(folder):
    shutil.copy('/usr/bin/true', folder + '/moved')
    os.chdir(folder)
    subprocess.run(['./moved'])
def call(name, *arguments):
    if getattr(libc, name)(*arguments): raise OSError(ctypes.get_errno(), name)
status = dict(line.rstrip('\n').split(':\t', 1) for line in open('/proc/self/status') if ':\t' in line)
print(json.dumps({
    'run in /tmp': attempt(lambda: copied('/tmp')),
    'run in /home/agent': attempt(lambda: copied('/home/agent')),
    'run in /cache': attempt(lambda: copied('/cache')),
    'run in /dev/shm': attempt(lambda: copied('/dev/shm')),
    'run from within /tmp': attempt(lambda: moved('/tmp')),
    'run in /workspace': attempt(lambda: copied('/workspace')),
    'run the image': attempt(lambda: subprocess.run(['true'])),
    'ask': urllib.request.urlopen('http://echo.world.test/scratch').status,
    'uid': os.getuid(),
    'capabilities': ' '.join(sorted({status[kind] for kind in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')})),
    'NoNewPrivs': status['NoNewPrivs'].strip(),
    'mount': attempt(lambda: call('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)),
    'mount anew': attempt(lambda: call('mount', None, b'/tmp', None, 0x1020, None)),
    'unmount': attempt(lambda: call('umount2', b'/tmp', 2)),
    'users of its own': attempt(lambda: call('unshare', 0x10000000)),
}), flush=True)
while True: time.sleep(1000)
"#;
const TOLD_WITHIN: Duration = Duration::from_secs(60);

fn trying(name: &str, class: &str, execution: &str) -> String {
    let mut sandbox: Value = serde_yaml::from_str(&asking(name, class)).unwrap();
    sandbox["spec"]["agent"]["command"] = json!(["python3", "-c", TRY]);
    sandbox["spec"]["scratch"]["execution"] = json!(execution);
    sandbox["spec"]["workspace"]["execution"] = json!(execution);
    sandbox["spec"]["egress"] =
        json!({"allow": [{"host": "echo.world.test", "scheme": "Http", "ports": [80]}]});
    sandbox.to_string()
}

async fn tried(agent: &Sandbox) -> BTreeMap<String, Value> {
    agent.ready().await;
    let seen = eventually("the agent has tried", TOLD_WITHIN, || async {
        serde_json::from_str(agent.agent_log().await.trim()).map_err(|error| error.to_string())
    })
    .await;
    eprintln!("{}: {seen:#?}", agent.name);
    seen
}

#[tokio::test]
async fn o_g18_a_copied_program_runs_nowhere_in_scratch_under_gvisor_and_under_runc() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "no-execution", async |ns| {
        let classes = [("g", "world"), ("c", "container")];
        for (name, class) in classes {
            ns.sandbox(name, &trying(name, class, "Deny")).await;
            ns.sandbox(&format!("{name}-control"), &trying(&format!("{name}-control"), class, "Allow")).await;
        }
        for (name, class) in classes {
            let denied = tried(&ns.handle(name)).await;
            let control = tried(&ns.handle(&format!("{name}-control"))).await;
            assert_eq!(denied["run in /dev/shm"], "EACCES", "{class}");
            for place in [
                "run in /tmp",
                "run in /home/agent",
                "run in /cache",
                "run in /workspace",
                "run from within /tmp",
            ] {
                assert_eq!(
                    (&denied[place], &control[place]),
                    (&json!("EACCES"), &json!("done")),
                    "{class}: {place}"
                );
            }
            for way in ["mount", "mount anew", "unmount", "users of its own"] {
                assert_eq!(denied[way], "EPERM", "{class}: {way}");
            }
            assert_eq!(denied["run the image"], "done", "{class}");
            assert_eq!((&denied["ask"], &denied["uid"]), (&json!(200), &json!(1000)), "{class}");
            assert_eq!(denied["capabilities"], "0000000000000000", "{class}");
            assert_eq!(denied["NoNewPrivs"], "1", "{class}");
        }
        // A runtime may mount it so that nothing runs there in any case; gVisor's does not.
        let control = tried(&ns.handle("g-control")).await;
        for way in ["run in /dev/shm", "users of its own"] {
            assert_eq!(control[way], "done", "under gVisor an agent may otherwise: {way}");
        }
    })
    .await;
}
