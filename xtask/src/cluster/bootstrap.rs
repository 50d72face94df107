//! What a new cluster is given first: the images it cannot start without, its DNS and its RuntimeClass.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use super::{Cluster, config, network};
use crate::failure::{During, Failure, Result};
use crate::oci::{File, Image};
use crate::{oci, paths, shell};

const DNS_IMAGE: &str = "agentsandbox.test/coredns:1";

/// The program of a pause container: it holds the pod's namespaces, reaps what is reparented to it, and ends when told.
const PAUSE_SOURCE: &str = "#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, reap);
  for (;;) pause();
}
";

/// Gives the node its first images.
///
/// # Errors
/// When one cannot be made or loaded.
pub fn images(cluster: &Cluster) -> Result<()> {
    let folder = paths::cache().join("rig/images");
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    let held = paths::cache_locked("rig-images")?;
    let (pause, dns) = (folder.join("pause.tar"), folder.join("coredns.tar"));
    if !pause.exists() {
        let (source, program) = (folder.join("pause.c"), folder.join("pause"));
        fs::write(&source, PAUSE_SOURCE).during("the pause program cannot be written")?;
        let mut cc = shell::command("cc", &["-O2", "-static", "-s", "-o"]);
        shell::output(cc.arg(&program).arg(&source))?;
        archive(config::PAUSE_IMAGE, "/pause", &program, "65535:65535", &pause)?;
    }
    let program = fs::canonicalize(paths::cache().join("rig/bin/coredns")).during("CoreDNS is not built")?;
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if !dns.exists() || modified(&program) > modified(&dns) {
        archive(DNS_IMAGE, "/coredns", &program, "65532:65532", &dns)?;
    }
    drop(held);
    cluster.load(&[pause, dns])
}

/// An image of one program.
fn archive(reference: &str, path: &str, program: &Path, user: &str, archive: &Path) -> Result<()> {
    let content = fs::read(program).during(format!("{} cannot be read", program.display()))?;
    let image = Image {
        reference: reference.to_owned(),
        files: [(path.to_owned(), File { content, mode: 0o755 })].into(),
        entrypoint: vec![path.to_owned()],
        user: user.to_owned(),
        ..Image::default()
    };
    oci::write(&image, archive).during(format!("{reference} cannot be made")).map(drop)
}

/// Applies the first objects.
///
/// # Errors
/// When the API server refuses one.
pub fn objects(cluster: &Cluster) -> Result<()> {
    apply(cluster, &manifest())
}

/// Applies a manifest with the administrator's rights.
///
/// # Errors
/// When the API server refuses an object.
pub fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    let mut kubectl = cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"])?;
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .during("kubectl cannot be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(manifest.as_bytes()).during("kubectl does not read")?;
    }
    let out = child.wait_with_output().during("kubectl did not end")?;
    if out.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("kubectl apply failed: {}", String::from_utf8_lossy(&out.stderr))))
}

fn manifest() -> String {
    include_str!("../../rig/bootstrap.yaml")
        .replace("DNS_IMAGE", DNS_IMAGE)
        .replace("WORLD_DNS", network::WORLD_DNS)
        .replace("CLUSTER_DNS", network::CLUSTER_DNS)
}
