//! The npm registry: verdaccio without uplinks, one package published, open to publishing.
//!
//! Publishing needs no password on purpose: whether it gets here is the proxy's doing, so nothing else may refuse it.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Error, Started, bound_command, copy_tree, free_port, fresh_folder, spawn, write};
use crate::names;
use crate::prepare::{Cache, NpmPrograms};

pub(super) fn start(cache: &Cache, folder: &Path) -> Result<Started, Error> {
    let programs = cache.npm().ok_or(Error::Missing)?;
    fresh_folder(folder)?;
    copy_tree(&programs.storage, &folder.join("storage"))?;
    serve(&programs, folder, &format!("https://{}", names::NPM))
}

/// Serves the storage in the folder; the links it writes begin with the public address.
fn serve(programs: &NpmPrograms, folder: &Path, public: &str) -> Result<Started, Error> {
    let configuration = folder.join("config.yaml");
    write(
        &configuration,
        &include_str!("../../data/verdaccio.yaml").replace("@FOLDER@", &folder.display().to_string()),
    )?;
    let port = free_port()?;
    let mut command = bound_command(Path::new("node"));
    command
        .arg(&programs.server)
        .arg("--config")
        .arg(&configuration)
        .arg("--listen")
        .arg(format!("127.0.0.1:{port}"));
    command.env("VERDACCIO_PUBLIC_URL", public);
    let log = folder.join("server.log");
    let children = vec![spawn(command, &log)?];
    Ok(Started { address: ([127, 0, 0, 1], port).into(), children, log })
}

/// Starts the registry on a storage of its own and gives the command that publishes a package folder to it. The
/// registry lives as long as the first value does.
pub(crate) async fn publish_command(
    programs: &NpmPrograms,
    folder: &Path,
    package: &Path,
) -> Result<(impl Drop + use<>, Command), Error> {
    fresh_folder(folder)?;
    let mut started = serve(programs, folder, &format!("https://{}", names::NPM))?;
    let answers = tokio::time::timeout(super::START_TIMEOUT, async {
        while tokio::net::TcpStream::connect(started.address).await.is_err() {
            tokio::time::sleep(super::START_POLL).await;
        }
    });
    answers.await.map_err(|_| Error::Silent(started.log.clone()))?;
    let mut command = Command::new("npm");
    command.arg("publish").arg(package).arg("--registry").arg(format!("http://{}", started.address));
    // The client insists on a token, whatever the server wants.
    command.arg(format!("--//{}/:_authToken=none", started.address)).stdin(Stdio::null());
    Ok((Registry(started.children.remove(0)), command))
}

/// A registry that ends when this is dropped.
struct Registry(tokio::process::Child);

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.start_kill();
    }
}
