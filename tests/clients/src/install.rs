//! Puts the programs of the clients into the cache, once.
//!
//! A part is a folder, named by its script's digest: another version is another folder. It is finished when its marker is there; one that
//! broke off is begun anew. Of several processes one installs and the others wait for it. Only here is the network needed, and it is reached by the ordinary clients of the registries as the machine has
//! set them up.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use xtask::peers::{self, Peer};

use crate::catalogue::{self, Catalogue, Part};
use crate::failure::{During, Failure, Result};

const DONE: &str = ".done";
/// The file that is locked by the process that installs.
const LOCK: &str = ".lock";
/// Lines of a failed installation that are shown.
const TAIL_LINES: usize = 12;

/// The folders of the parts, as variables for scripts.
pub type Folders = BTreeMap<String, String>;

/// Installs what is needed and not there, and says where everything is.
///
/// # Errors
/// When a part is not known, or cannot be installed.
pub fn install(catalogue: &Catalogue, needed: &[&str]) -> Result<Folders> {
    let root = cache()?;
    // A part that another process is making looks like one that broke off.
    let _held = locked(&root)?;
    let mut folders =
        Folders::from([("DRIVERS".to_owned(), catalogue::folder().join("drivers").display().to_string())]);
    for name in needed {
        add(catalogue, name, &root, &mut folders)?;
    }
    Ok(folders)
}

fn add(catalogue: &Catalogue, name: &str, root: &Path, folders: &mut Folders) -> Result<()> {
    let variable = format!("part_{name}");
    if folders.contains_key(&variable) {
        return Ok(());
    }
    let part = catalogue.parts.iter().find(|part| part.name == name);
    let part = part.ok_or_else(|| Failure::new(format!("there is no part {name:?} in clients.yaml")))?;
    for before in &part.needs {
        add(catalogue, before, root, folders)?;
    }
    let folder = if part.peer.is_empty() { made(part, root, folders)? } else { peer(&part.peer)? };
    folders.insert(variable, folder.display().to_string());
    Ok(())
}

/// Another proxy, from where the conformance suite has it.
fn peer(name: &str) -> Result<PathBuf> {
    let known = Peer::ALL.into_iter().find(|peer| peer.as_str() == name);
    let known = known.ok_or_else(|| Failure::new(format!("there is no peer {name:?}")))?;
    peers::installed(known).map(|paths| paths.root)
}

fn made(part: &Part, root: &Path, folders: &Folders) -> Result<PathBuf> {
    let folder = root.join(format!("{}-{}", part.name, digest(part)));
    if !folder.join(DONE).exists() {
        println!("installing {}; this is done once", part.name);
        make(part, &folder, folders)?;
    }
    Ok(folder)
}

fn make(part: &Part, folder: &Path, folders: &Folders) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).during(format!("{} cannot be removed", folder.display()))?;
    }
    std::fs::create_dir_all(folder).during(format!("{} cannot be made", folder.display()))?;
    let out = Command::new("sh")
        .args(["-euc", &part.run])
        .current_dir(folder)
        .envs(folders)
        .stdin(Stdio::null())
        .output()
        .during("sh cannot be run")?;
    if !out.status.success() {
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<_> = said.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
        return Err(Failure::new(format!("part {} cannot be installed:\n{tail}", part.name)));
    }
    std::fs::write(folder.join(DONE), "").during("the cache cannot be written")
}

/// The folder is this process's own until the file is closed, by the kernel if need be.
fn locked(root: &Path) -> Result<File> {
    std::fs::create_dir_all(root).during(format!("{} cannot be made", root.display()))?;
    let file = File::create(root.join(LOCK)).during("the cache cannot be written")?;
    file.lock().during("the cache cannot be locked")?;
    Ok(file)
}

fn digest(part: &Part) -> String {
    let digest = Sha256::digest(part.run.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn cache() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let base =
        base.ok_or_else(|| Failure::new("set HOME, so that there is a place for the clients' programs"))?;
    Ok(base.join("agentsandbox/clients"))
}
