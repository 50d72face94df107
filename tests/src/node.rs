//! What the node's kernel and runtime say of a pod: its control groups, its processes as the host sees them, and what the
//! runtime was told. Both versions of control groups are read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use xtask::cluster::cgroup;
use xtask::shell;

use crate::rig::Rig;

const ROOT: &str = "/sys/fs/cgroup";
/// Where the kubelet puts pods, by their quality of service.
const CLASSES: [&str; 3] = ["kubepods", "kubepods/burstable", "kubepods/besteffort"];

/// The control groups of one pod, with those of its containers.
#[derive(Clone, Debug)]
pub struct Group {
    /// One folder for each hierarchy.
    folders: Vec<PathBuf>,
}

impl Rig {
    /// The control groups of a pod that runs.
    ///
    /// # Panics
    /// When it has none.
    pub fn group(&self, pod: &Pod) -> Group {
        let uid = pod.metadata.uid.as_deref().expect("a pod that exists has a UID");
        let hierarchies = fs::read_dir(ROOT).expect("the host has control groups").flatten();
        let hierarchies = hierarchies.map(|entry| entry.path()).filter(|path| !path.is_symlink());
        let node = cgroup::root_name(&self.cluster);
        let folders: Vec<PathBuf> = hierarchies
            .chain([PathBuf::from(ROOT)])
            .flat_map(|h| CLASSES.map(|class| h.join(&node).join(class).join(format!("pod{uid}"))))
            .filter(|folder| folder.is_dir())
            .collect();
        assert!(!folders.is_empty(), "pod {uid} has no control group");
        Group { folders }
    }

    /// What the runtime was told of each container of a pod, its sandbox among them.
    ///
    /// # Panics
    /// When the node's containerd does not answer.
    pub fn runtime_specs(&self, pod: &Pod) -> Vec<Value> {
        let uid = pod.metadata.uid.as_deref().expect("a pod that exists has a UID");
        let ctr = |args: &[&str]| {
            let mut ctr = self.cluster.ctr(args).expect("the cluster is up");
            shell::output(&mut ctr).expect("containerd answers")
        };
        let of_pod = format!("labels.\"io.kubernetes.pod.uid\"=={uid}");
        let containers = ctr(&["containers", "list", "--quiet", &of_pod]);
        let specs = containers.split_whitespace().map(|id| {
            let told: Value =
                serde_json::from_str(&ctr(&["containers", "info", id])).expect("ctr speaks JSON");
            told["Spec"].clone()
        });
        specs.collect()
    }
}

impl Group {
    /// A number of the pod's own group, from the first of these files that a hierarchy has; "max" is the greatest.
    ///
    /// # Panics
    /// When no hierarchy has one of them.
    #[track_caller]
    pub fn number(&self, files: &[&str]) -> u64 {
        let text = self.text(files);
        let first = text.split_whitespace().next().unwrap_or_default();
        if first == "max" { u64::MAX } else { first.parse().expect("the file holds a number") }
    }

    /// One line of the pod's own `cpu.stat`.
    ///
    /// # Panics
    /// When there is none of this name.
    #[track_caller]
    pub fn cpu_stat(&self, name: &str) -> u64 {
        // A host with both versions has this file twice, and one of them does not count periods.
        let texts = self.folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cpu.stat")).ok());
        let text: String = texts.collect();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Processor time that the pod has used, in nanoseconds.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn cpu_nanos(&self) -> u64 {
        match self.folders.iter().find_map(|folder| fs::read_to_string(folder.join("cpuacct.usage")).ok()) {
            Some(nanos) => nanos.trim().parse().expect("the usage is a number"),
            None => self.cpu_stat("usage_usec") * 1000,
        }
    }

    /// Quota and period of the pod's processor time, in microseconds.
    ///
    /// # Panics
    /// When the pod has no quota.
    pub fn cpu_quota(&self) -> (u64, u64) {
        let text = match self.folders.iter().find(|folder| folder.join("cpu.cfs_quota_us").exists()) {
            Some(_) => {
                format!("{} {}", self.number(&["cpu.cfs_quota_us"]), self.number(&["cpu.cfs_period_us"]))
            }
            None => self.text(&["cpu.max"]),
        };
        let mut numbers = text.split_whitespace().map(|n| n.parse().expect("the pod has a quota"));
        (numbers.next().expect("a quota"), numbers.next().expect("a period"))
    }

    /// Memory that the pod may use, and the most that it has used, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        (
            self.number(&["memory.limit_in_bytes", "memory.max"]),
            self.number(&["memory.max_usage_in_bytes", "memory.peak"]),
        )
    }

    /// Memory that the pod holds and cannot give back, in bytes: its processes' own, and files that lie in memory. None is left of a pod
    /// that is gone.
    pub fn held_bytes(&self) -> u64 {
        let stats =
            self.folders.iter().filter_map(|folder| fs::read_to_string(folder.join("memory.stat")).ok());
        let stats: String = stats.collect();
        // Of the first version with the groups below, of the second.
        let number = |name: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|bytes| bytes.trim().parse::<u64>().ok())
        };
        let of = |first: &str, second: &str| number(first).or_else(|| number(second)).unwrap_or_default();
        of("total_rss", "anon") + of("total_shmem", "shmem")
    }

    /// Every process of the pod, by its number on the host.
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut open = self.folders.clone();
        while let Some(folder) = open.pop() {
            let below = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            open.extend(below.filter(|path| path.is_dir()));
            let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        found
    }

    fn text(&self, files: &[&str]) -> String {
        let paths = files.iter().flat_map(|file| self.folders.iter().map(move |folder| folder.join(file)));
        let text = paths.into_iter().find_map(|path| fs::read_to_string(path).ok());
        text.unwrap_or_else(|| panic!("{:?} has none of {files:?}", self.folders))
    }
}

/// The command line of a process of the host; empty for one that is gone.
pub fn command_line(process: u32) -> String {
    let bytes = fs::read(Path::new("/proc").join(process.to_string()).join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A line of `/proc/<process>/status`.
///
/// # Panics
/// When there is none of this name.
#[track_caller]
pub fn status_line(process: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

/// How many threads and processes the host has.
pub fn tasks_of_the_host() -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    processes.filter_map(|process| fs::read_dir(process.path().join("task")).ok()).map(Iterator::count).sum()
}
