//! The same by plain programs, outside the cluster: what the machine takes for it. What they write is put on the disk, as the step does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use agentsandbox_tests::Rig;
use serde::Serialize;
use xtask::shell;

use crate::served::{HOST, KEY, Served};

/// What each is called in the table.
pub const PROGRAMS: [&str; 3] = ["git clone --depth 1", "curl and tar -xz", "cp -r"];

/// What one took.
#[derive(Clone, Debug, Serialize)]
pub struct Plain {
    pub program: &'static str,
    pub round: usize,
    /// Until it ended.
    pub millis: f64,
    /// With what puts the file system's data on the disk.
    pub synced_millis: f64,
}

/// Each of them once, into a folder on the disk of the node's volumes.
pub fn all(rig: &Rig, served: &Served, round: usize) -> Vec<Plain> {
    let ca = rig.cluster.world_state().join("ca.crt").display().to_string();
    let address = agentsandbox_world::names::GIT_ADDRESS;
    let web = agentsandbox_world::names::OTHERS_ADDRESS;
    let commands: [Vec<String>; 3] = [
        [
            "git",
            "-c",
            &format!("http.sslCAInfo={ca}"),
            "-c",
            &format!("http.curloptResolve=github.com:443:{address}"),
            "clone",
            "--quiet",
            "--depth",
            "1",
            &served.git_url.replace("https://", &format!("https://x-access-token:{KEY}@")),
            "INTO",
        ]
        .map(str::to_owned)
        .to_vec(),
        [
            "sh",
            "-c",
            &format!(
                "curl -sSf --cacert {ca} --resolve {HOST}:443:{web} {} -o INTO.tar.gz && mkdir INTO && tar -xzf INTO.tar.gz -C INTO --strip-components 1 && rm INTO.tar.gz",
                served.archive_url
            ),
        ]
        .map(str::to_owned)
        .to_vec(),
        ["cp", "-r", &served.folder.display().to_string(), "INTO"].map(str::to_owned).to_vec(),
    ];
    let into = rig.cluster.state().join("bench-workspace-plain");
    let net = format!("--net=/run/netns/{}", rig.cluster.world_netns());
    let measured = PROGRAMS.into_iter().zip(commands).map(|(program, words)| {
        let words = words.iter().map(|word| word.replace("INTO", &into.display().to_string()));
        let mut command = shell::command("nsenter", &[net.as_str(), "--"]);
        timed(command.args(words), &into, (program, round))
    });
    measured.collect()
}

fn timed(command: &mut Command, into: &Path, (program, round): (&'static str, usize)) -> Plain {
    let _gone = fs::remove_dir_all(into);
    let begin = Instant::now();
    shell::output(command.env("GIT_TERMINAL_PROMPT", "0")).unwrap();
    let millis = begin.elapsed().as_secs_f64() * 1000.0;
    shell::run("sync", &["--file-system", &into.display().to_string()]).unwrap();
    let synced_millis = begin.elapsed().as_secs_f64() * 1000.0;
    fs::remove_dir_all(into).unwrap();
    Plain { program, round, millis, synced_millis }
}
