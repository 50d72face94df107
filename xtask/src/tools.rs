//! Other people's cargo programs, each of one version, built once into the cache. Nothing that a machine has installed
//! plays a part, so that two machines judge alike.

use std::path::PathBuf;

use crate::failure::Result;
use crate::{paths, shell};

/// A program of this name and version; its build takes minutes, once.
///
/// # Errors
/// When it cannot be built; the sentence names the log.
pub fn built(name: &str, version: &str) -> Result<PathBuf> {
    let root = paths::cache().join(format!("rig/{name}-{version}"));
    let program = root.join("bin").join(name);
    let _held = paths::cache_locked(name)?;
    if !program.is_file() {
        println!("building {name} {version}; this is done once");
        let mut install = shell::command("cargo", &["install", "--locked", "--debug", "--version", version]);
        // Its own output folder goes with the build; the workspace's flags are not its flags.
        install.arg("--root").arg(&root).arg(name).current_dir(paths::cache());
        shell::logged(&mut install, &root.join("install.log"))?;
    }
    Ok(program)
}
