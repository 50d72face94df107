//! The same repository in each place that a workspace can begin with: behind a real git server, as an archive behind a web server, in an
//! image on the node, and in a claim. All of it goes when the value goes, but for what is in the namespace.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, eventually};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use xtask::cluster::Cluster;
use xtask::oci::{self, File, Image};
use xtask::shell;

use crate::repository::Entry;

/// Whose archive it is.
pub const HOST: &str = "bench-workspace.world.test";
/// The image.
pub const IMAGE: &str = "agentsandbox.test/bench-workspace:1";
/// The folder in it.
pub const IMAGE_FOLDER: &str = "code";
/// The claim.
pub const CLAIM: &str = "bench-source";
/// A class of the node's own kernel whose proxies trust the world.
pub const RUNC_CLASS: &str = "bench-workspace-runc";
/// What the git server asks for.
pub const KEY: &str = "ghp-bench-2f6a8c1d94e07b35";
/// The repository's name on the git server, and that of the folder around everything in the archive.
const NAME: &str = "bench-workspace";
/// When the commit was made, and by whom: the same repository has the same ids.
const COMMITTER: &str = "Bench <bench@world.test> 1700000000 +0000";
const WITHIN: Duration = Duration::from_secs(120);

/// Where it is.
pub struct Served {
    /// Its address on the git server.
    pub git_url: String,
    /// That of the archive.
    pub archive_url: String,
    /// The archive's SHA-256.
    pub archive_sha256: String,
    /// The archive's length.
    pub archive_bytes: u64,
    /// What the repository takes on the server.
    pub pack_bytes: u64,
    /// The files as a folder of this machine.
    pub folder: PathBuf,
    bare: PathBuf,
    site: PathBuf,
    cluster: Cluster,
}

impl Served {
    /// Puts it everywhere but into the claim.
    pub async fn new(rig: &Rig, entries: &[Entry]) -> Self {
        let world = rig.cluster.world_state();
        let bare = world.join("git/repositories/acme").join(format!("{NAME}.git"));
        let site = world.join("sites").join(HOST);
        let folder = rig.cluster.state().join(NAME);
        for old in [&bare, &site, &folder] {
            let _gone = fs::remove_dir_all(old);
            fs::create_dir_all(old).unwrap();
        }
        rig.world.set_keys([("git", KEY)]).await.unwrap();
        commit(&bare, entries);
        let archive = site.join("repository.tar.gz");
        let to = archive.display().to_string();
        git(&bare, &["archive", "--format=tar.gz", &format!("--prefix={NAME}/"), "-o", &to, "main"]);
        let sum = shell::run("sha256sum", &[&to]).unwrap();
        load(&rig.cluster, entries);
        lay(&folder, entries);
        Self {
            git_url: format!("https://github.com/acme/{NAME}.git"),
            archive_url: format!("https://{HOST}/repository.tar.gz"),
            archive_sha256: sum.split_whitespace().next().unwrap().to_owned(),
            archive_bytes: fs::metadata(&archive).unwrap().len(),
            pack_bytes: packed(&bare),
            folder,
            bare,
            site,
            cluster: rig.cluster.clone(),
        }
    }

    /// What sandboxes need in the namespace, and the claim, filled.
    pub async fn offer(&self, rig: &Rig, ns: &Namespace, image: &str, entries: &[Entry]) {
        ns.secret("git", "token", KEY).await;
        let credential = json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentCredential", "metadata": {"name": "git"},
            "spec": {
                "secretRef": {"name": "git", "key": "token"},
                "inject": {"type": "Basic", "basic": {"username": "x-access-token"}},
                "hosts": [{"host": "github.com"}],
            },
        });
        let class = json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": RUNC_CLASS},
            "spec": {"isolation": "Container", "egress": {"additionalRoots": rig.world.ca_certificate().unwrap()}},
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        for object in [credential, class, claim] {
            ns.apply(&object.to_string()).await.unwrap();
        }
        self.fill(ns, image, entries).await;
    }

    /// A claim has its volume once a pod asks for it; the folder of this machine that the volume is, is then filled from here.
    async fn fill(&self, ns: &Namespace, image: &str, entries: &[Entry]) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "binder"},
            "spec": {
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}],
                "containers": [{
                    "name": "agent", "image": image,
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        ns.apply(&pod.to_string()).await.unwrap();
        ns.pod_ready("binder", WITHIN).await;
        ns.pods().delete("binder", &DeleteParams::default()).await.unwrap();
        let folder = volume(ns, CLAIM).await;
        lay(&folder, entries);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        eventually("the binder is gone", WITHIN, || async {
            match ns.pods().get_opt("binder").await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Takes the class away, which is no namespace's.
    pub async fn withdraw(&self, ns: &Namespace) {
        let class = json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass"});
        let _gone = ns.api_of(&class).delete(RUNC_CLASS, &DeleteParams::default()).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for folder in [&self.bare, &self.site, &self.folder] {
            let _gone = fs::remove_dir_all(folder);
        }
        if let Ok(mut remove) = self.cluster.ctr(&["images", "rm", IMAGE]) {
            let _gone = shell::output(&mut remove);
        }
    }
}

/// The folder of this machine that a claim's volume is.
pub async fn volume(ns: &Namespace, claim: &str) -> PathBuf {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ns.client.clone(), &ns.name);
    let bound = claims.get(claim).await.unwrap().spec.and_then(|spec| spec.volume_name).unwrap();
    let volumes: Api<PersistentVolume> = Api::all(ns.client.clone());
    let local = volumes.get(&bound).await.unwrap().spec.and_then(|spec| spec.local).unwrap();
    PathBuf::from(local.path)
}

/// Merges this into a sandbox.
pub async fn patch(ns: &Namespace, name: &str, spec: serde_json::Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    ns.handle(name).api().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

fn git(folder: &Path, args: &[&str]) {
    let mut git = shell::command("git", args);
    shell::output(git.current_dir(folder)).unwrap();
}

/// One commit with every file.
fn commit(bare: &Path, entries: &[Entry]) {
    git(bare, &["init", "--quiet", "--bare", "--initial-branch=main", "."]);
    let mut import = Command::new("git");
    import.args(["fast-import", "--quiet"]).current_dir(bare).stdin(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut into = std::io::BufWriter::new(import.stdin.take().unwrap());
    write!(into, "commit refs/heads/main\ncommitter {COMMITTER}\ndata 7\nmeasure").unwrap();
    for entry in entries {
        let mode = if entry.is_executable { "100755" } else { "100644" };
        write!(into, "\nM {mode} inline {}\ndata {}\n", entry.path, entry.bytes).unwrap();
        into.write_all(&entry.content()).unwrap();
    }
    into.write_all(b"\n").unwrap();
    drop(into.into_inner().unwrap());
    assert!(import.wait().unwrap().success(), "git fast-import failed");
}

/// Bytes of the packs of a repository.
fn packed(bare: &Path) -> u64 {
    let packs = fs::read_dir(bare.join("objects/pack")).unwrap().flatten();
    let packs = packs.filter(|file| file.path().extension().is_some_and(|ending| ending == "pack"));
    packs.map(|file| file.metadata().unwrap().len()).sum()
}

/// Gives the node an image with every file, and nothing to run.
fn load(cluster: &Cluster, entries: &[Entry]) {
    let mode = |entry: &Entry| if entry.is_executable { 0o755 } else { 0o644 };
    let files = entries.iter().map(|entry| {
        let file = File { content: entry.content(), mode: mode(entry) };
        (format!("/{IMAGE_FOLDER}/{}", entry.path), file)
    });
    let image = Image { reference: IMAGE.to_owned(), files: files.collect(), ..Image::default() };
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    oci::write(&image, &archive).unwrap();
    drop(image);
    cluster.load(&[archive]).unwrap();
}

/// Writes every file into a folder.
fn lay(folder: &Path, entries: &[Entry]) {
    for entry in entries {
        let path = folder.join(&entry.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, entry.content()).unwrap();
        let mode = if entry.is_executable { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}
