//! Where things are kept: caches under `$XDG_CACHE_HOME`, clusters under `/var/lib/agentsandbox`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::{During, Result};

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cache for what takes long to build and depends only on committed inputs. It survives `cargo clean`.
#[must_use]
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    base.unwrap_or_else(home).join("agentsandbox")
}

/// Waits until no other process fills this part of the cache, and keeps others waiting until the file is closed: what is half made
/// looks like what broke off. Two of one process wait for each other too.
///
/// # Errors
/// When the cache cannot be written.
pub fn cache_locked(part: &str) -> Result<File> {
    let folder = cache();
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    let path = folder.join(format!("{part}.lock"));
    let file = File::create(&path).during(format!("{} cannot be written", path.display()))?;
    file.lock().during(format!("{} cannot be locked", path.display()))?;
    Ok(file)
}

/// State of the cluster of this name.
#[must_use]
pub fn cluster_state(name: &str) -> PathBuf {
    clusters().join(name)
}

/// The folder of all clusters' states.
#[must_use]
pub fn clusters() -> PathBuf {
    PathBuf::from("/var/lib/agentsandbox")
}

/// Cargo's output folder.
#[must_use]
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Where images are written.
#[must_use]
pub fn images() -> PathBuf {
    target().join("images")
}

/// The program that plays the internet; `images` builds it with the same flags as everything else.
#[must_use]
pub fn world_program() -> PathBuf {
    released("agentsandbox-world")
}

/// The program that tries what a hostile agent would; `images` builds it too.
#[must_use]
pub fn prober_program() -> PathBuf {
    released("agentsandbox-prober")
}

fn released(name: &str) -> PathBuf {
    target().join(format!("{}-unknown-linux-gnu/release", env::consts::ARCH)).join(name)
}
