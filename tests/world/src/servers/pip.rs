//! The Python index: pypiserver with one package, open to uploads.
//!
//! Uploads need no password on purpose: whether one gets here is the proxy's doing, so nothing else may refuse it.

use std::path::Path;

use super::{Error, Started, bound_command, copy_tree, free_port, fresh_folder, spawn};
use crate::prepare::Cache;

pub(super) fn start(cache: &Cache, folder: &Path) -> Result<Started, Error> {
    let programs = cache.pip().ok_or(Error::Missing)?;
    fresh_folder(folder)?;
    let packages = folder.join("packages");
    copy_tree(&programs.wheels, &packages)?;
    let port = free_port()?;
    let mut command = bound_command(&programs.server);
    command
        .args(["run", "-i", "127.0.0.1", "-a", ".", "-P", ".", "--disable-fallback", "-p"])
        .arg(port.to_string());
    command.arg(packages).env("PYTHONDONTWRITEBYTECODE", "1");
    let log = folder.join("server.log");
    let children = vec![spawn(command, &log)?];
    Ok(Started { address: ([127, 0, 0, 1], port).into(), children, log })
}
