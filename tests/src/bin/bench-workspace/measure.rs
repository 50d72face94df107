//! One sandbox, from its application until its agent runs, and its end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentsandbox_report::WorkspaceReport;
use agentsandbox_tests::node::Group;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use serde::Serialize;
use serde_json::json;

use crate::case::{Access, Case, Source};
use crate::served::{Served, patch, volume};

/// How long one start may take. It bounds a hang.
const WITHIN_SECS: u32 = 280;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What one start came to. Times are from the application of the object, or from the resumption.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub case: String,
    pub round: usize,
    pub is_resumed: bool,
    /// Until the fence is seen to have ended.
    pub fence_millis: f64,
    /// Until the step is seen to have ended; absent without one.
    pub step_millis: Option<f64>,
    /// Until the agent's container is seen to run.
    pub agent_millis: f64,
    /// Until the sandbox is `Ready`.
    pub ready_millis: f64,
    /// What the step itself says that it took.
    pub own_millis: Option<u64>,
    /// Files that it wrote.
    pub files: Option<u64>,
    /// Processor time of the pod until then.
    pub cpu_millis: u64,
    /// The most memory that the pod held and could not give back.
    pub held_bytes: u64,
    /// The most that it had with what the kernel kept of files.
    pub peak_bytes: u64,
    /// Bytes that came through the proxy.
    pub down_bytes: u64,
    /// What the volumes take of the disk.
    pub disk_bytes: u64,
}

/// What a watch of the pod has shown.
struct Seen {
    begin: Instant,
    pod: Pod,
    group: Group,
    fence: Duration,
    step: Option<Duration>,
    agent: Duration,
    held_bytes: u64,
}

/// Starts one sandbox, suspends and resumes it where that keeps its work, and takes it away.
///
/// # Errors
/// What the product says of a start that came to nothing.
pub async fn run(
    rig: &Rig,
    ns: &Namespace,
    (case, round): (Case, usize),
    image: &str,
    served: &Served,
) -> Result<Vec<Sample>, String> {
    let name = format!("{}-{round}", case.name());
    let handle = ns.handle(&name);
    let object = case.sandbox(&name, image, served).to_string();
    let mut samples = Vec::new();
    let mut folders = Vec::new();
    let mut started = begun(rig, ns, &handle, case, async || ns.apply(&object).await.unwrap()).await;
    if let Ok((sample, folder)) = &mut started {
        folders.push(folder.clone());
        samples.push(Sample { round, ..sample.clone() });
    }
    if started.is_ok() && case.access == Access::Persistent {
        folders.push(volume(ns, &format!("{name}-workspace")).await);
        patch(ns, &name, json!({"lifecycle": {"state": "Suspended"}})).await;
        no_agent(&handle).await;
        let running = json!({"lifecycle": {"state": "Running"}});
        started = begun(rig, ns, &handle, case, async || patch(ns, &name, running).await).await;
        if let Ok((sample, folder)) = &started {
            folders.push(folder.clone());
            samples.push(Sample { round, is_resumed: true, ..sample.clone() });
        }
    }
    handle.delete().await;
    handle.gone(Duration::from_secs(120)).await;
    // What is taken away meanwhile would cost the next one its time.
    for folder in &folders {
        eventually(&format!("{} is gone", folder.display()), Duration::from_secs(120), || async {
            if folder.exists() { Err("it is there".to_owned()) } else { Ok(()) }
        })
        .await;
    }
    started.map(|_| samples)
}

async fn no_agent(handle: &Sandbox) {
    eventually("no agent", Duration::from_secs(120), || async {
        match handle.pods().get_opt(&handle.agent_pod()).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|pod| pod.map(|pod| pod.metadata.name)))),
        }
    })
    .await;
}

/// One start, and the folder in which the node keeps what is the pod's.
async fn begun(
    rig: &Rig,
    ns: &Namespace,
    handle: &Sandbox,
    case: Case,
    act: impl AsyncFnOnce(),
) -> Result<(Sample, PathBuf), String> {
    let seen = followed(rig, ns, handle, act).await?;
    handle.ready().await;
    let ready = seen.begin.elapsed();
    let uid = seen.pod.metadata.uid.clone().unwrap_or_default();
    let folder = rig.cluster.state().join("kubelet/pods").join(&uid);
    let mut disk_bytes = taken(&folder.join("volumes/kubernetes.io~empty-dir"));
    if case.access == Access::Persistent {
        disk_bytes += taken(&volume(ns, &format!("{}-workspace", handle.name)).await);
    }
    let report = report(&seen.pod);
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let sample = Sample {
        case: case.name(),
        round: 0,
        is_resumed: false,
        fence_millis: millis(seen.fence),
        step_millis: seen.step.map(millis),
        agent_millis: millis(seen.agent),
        ready_millis: millis(ready),
        own_millis: report.as_ref().map(|report| report.duration_millis),
        files: report.as_ref().map(|report| report.files),
        cpu_millis: seen.group.cpu_nanos() / 1_000_000,
        held_bytes: seen.held_bytes,
        peak_bytes: seen.group.memory().1,
        down_bytes: if case.source == Source::Empty { 0 } else { came(handle).await },
        disk_bytes,
    };
    Ok((sample, folder))
}

/// Acts, and follows the agent's pod until its container runs.
async fn followed(
    rig: &Rig,
    ns: &Namespace,
    handle: &Sandbox,
    act: impl AsyncFnOnce(),
) -> Result<Seen, String> {
    let (pods, name) = (ns.pods(), handle.agent_pod());
    let since = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let only = WatchParams::default().timeout(WITHIN_SECS).fields(&format!("metadata.name={name}"));
    let mut events = pods.watch(&only, &since).await.unwrap().boxed();
    let begin = Instant::now();
    act().await;
    let (mut fence, mut step, mut memory): (Option<Duration>, Option<Duration>, Option<Memory>) =
        Default::default();
    while let Some(event) = events.try_next().await.map_err(|error| error.to_string())? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        if let Some(why) = failed(&pod) {
            return Err(why);
        }
        if memory.is_none() && state(&pod, "fence").is_some_and(|state| state.waiting.is_none()) {
            memory = Some(Memory::of(rig.group(&pod)));
        }
        let has_ended = |name: &str| state(&pod, name).is_some_and(|state| state.terminated.is_some());
        if fence.is_none() && has_ended("fence") {
            fence = Some(begin.elapsed());
        }
        if step.is_none() && has_ended("workspace") {
            step = Some(begin.elapsed());
        }
        if state(&pod, "agent").is_some_and(|state| state.running.is_some()) {
            let agent = begin.elapsed();
            let memory = memory.ok_or("the agent runs before its fence was seen")?;
            let (group, held_bytes) = memory.end();
            let fence = fence.ok_or("the agent runs, and the end of its fence was not seen")?;
            return Ok(Seen { begin, pod, group, fence, step, agent, held_bytes });
        }
    }
    let told = handle.condition("WorkspaceReady").await?;
    Err(format!("no agent in {WITHIN_SECS} s: {:?}", told.map(|told| (told.reason, told.message))))
}

fn state<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerState> {
    let status = pod.status.as_ref()?;
    let mut all =
        [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    all.find(|container| container.name == name)?.state.as_ref()
}

/// What a pod says that will never run its agent, or not in this try.
fn failed(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() == Some("Failed") {
        return Some(format!("{:?}: {:?}", status.reason, status.message));
    }
    let ended = state(pod, "workspace")?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    Some(ended.message.clone().unwrap_or_default())
}

fn report(pod: &Pod) -> Option<WorkspaceReport> {
    let said = state(pod, "workspace")?.terminated.as_ref()?.message.as_ref()?;
    serde_json::from_str(said).ok()
}

/// Bytes that the sandbox's proxy has passed on to the pod.
async fn came(handle: &Sandbox) -> u64 {
    let audit = handle.audit().await;
    audit.iter().filter(|line| line["event"] == "end").filter_map(|line| line["bytesDown"].as_u64()).sum()
}

/// What everything in a folder takes of the disk; what goes meanwhile takes nothing.
fn taken(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let each = entries.flatten().map(|entry| {
        let Ok(metadata) = entry.metadata() else { return 0 };
        let below = if metadata.is_dir() { taken(&entry.path()) } else { 0 };
        metadata.blocks() * 512 + below
    });
    each.sum()
}

/// Looks at a pod's memory until it is told to end.
struct Memory {
    group: Group,
    is_over: Arc<AtomicBool>,
    looking: Option<JoinHandle<u64>>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Memory {
    fn of(group: Group) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (looked_at, told) = (group.clone(), is_over.clone());
        let looking = std::thread::spawn(move || {
            let mut most = 0;
            while !told.load(Ordering::Relaxed) {
                most = most.max(looked_at.held_bytes());
                std::thread::sleep(LOOK);
            }
            most
        });
        Self { group, is_over, looking: Some(looking) }
    }

    fn end(mut self) -> (Group, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        let most = self.looking.take().map_or(0, |looking| looking.join().unwrap());
        (self.group.clone(), most)
    }
}
