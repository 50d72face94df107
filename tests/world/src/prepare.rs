//! Puts the programs of the real servers into a cache, once: `agentsandbox-world prepare`.
//!
//! The cache is a folder named by a version, below the user's cache folder; each part in it is finished when its marker file exists, and a part
//! that broke off is begun anew. Of several processes one fills it and the others wait for it. Programs are unpacked there and never installed into the system, so that no service of the distribution starts. Only here does
//! the world need the network, and it reaches it through the machine's own apt, pip and npm, configured as they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::servers::{self, publish_command};

/// The cache's layout and the versions in it; change it when either changes.
const VERSION: &str = "1";
/// The Python index server.
const PYPISERVER: &str = "pypiserver==2.4.2";
/// The packages that hold nginx and fcgiwrap.
const GIT_PACKAGES: [&str; 3] = ["nginx", "fcgiwrap", "libfcgi0ldbl"];
/// The package that holds Tinyproxy.
const PROXY_PACKAGES: [&str; 1] = ["tinyproxy-bin"];
/// The file that says that a part is finished.
const DONE: &str = ".done";
/// The file that is locked by the process that fills the cache.
const LOCK: &str = ".lock";

/// Why a part is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the cache folder's variable nor a home is set.
    #[error("set XDG_CACHE_HOME or HOME, so that there is a place for the servers' programs")]
    NoCacheFolder,
    /// The cache cannot be written.
    #[error("the cache cannot be written at {0}")]
    Files(PathBuf, #[source] io::Error),
    /// A program that does the work is not on this machine.
    #[error("{0} cannot be run; install it and try again")]
    Program(String, #[source] io::Error),
    /// A program did not do its work.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which, with its arguments.
        program: String,
        /// The end of what it said.
        output: String,
    },
    /// The registry that receives the package does not start.
    #[error("the npm registry does not start")]
    Registry(#[source] servers::Error),
}

/// A folder with the programs of the servers.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What the git server is made of.
pub(crate) struct GitPrograms {
    pub(crate) nginx: PathBuf,
    pub(crate) fcgiwrap: PathBuf,
    pub(crate) libraries: PathBuf,
    pub(crate) backend: PathBuf,
    pub(crate) repositories: PathBuf,
}

/// What the Python index is made of.
pub(crate) struct PipPrograms {
    pub(crate) server: PathBuf,
    pub(crate) wheels: PathBuf,
}

/// What the npm registry is made of.
pub(crate) struct NpmPrograms {
    pub(crate) server: PathBuf,
    pub(crate) storage: PathBuf,
}

impl Cache {
    /// The user's cache.
    ///
    /// # Errors
    /// Fails where the environment names no place for it.
    pub fn of_user() -> Result<Self, Error> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let caches = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        let caches = caches.ok_or(Error::NoCacheFolder)?;
        Ok(Self::at(caches.join("agentsandbox").join("world").join(VERSION)))
    }

    /// A cache at this folder.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Fills what is missing; quick when nothing is. While another process fills it, this waits.
    ///
    /// # Errors
    /// The first part that cannot be made. The parts made before it stay.
    pub async fn prepare(&self) -> Result<(), Error> {
        // A part that another process is making looks like one that broke off.
        let _held = self.lock().await?;
        self.part("debian", |folder| async move { debian(&folder, &GIT_PACKAGES).await }).await?;
        self.part("proxy", |folder| async move { debian(&folder, &PROXY_PACKAGES).await }).await?;
        self.part("repositories", |folder| async move { repositories(&folder).await }).await?;
        self.part("pip", |folder| async move { pip(&folder).await }).await?;
        self.part("npm", |folder| async move { npm(&folder).await }).await
    }

    pub(crate) fn git(&self) -> Option<GitPrograms> {
        let debian = self.done("debian")?;
        let backend = PathBuf::from("/usr/lib/git-core/git-http-backend");
        Some(GitPrograms {
            nginx: debian.join("root/usr/sbin/nginx"),
            fcgiwrap: debian.join("root/usr/sbin/fcgiwrap"),
            libraries: library_folder(&debian.join("root/usr/lib"))?,
            backend: backend.exists().then_some(backend)?,
            repositories: self.done("repositories")?.join("bare"),
        })
    }

    /// The organisation's proxy.
    pub(crate) fn proxy(&self) -> Option<PathBuf> {
        Some(self.done("proxy")?.join("root/usr/bin/tinyproxy"))
    }

    pub(crate) fn pip(&self) -> Option<PipPrograms> {
        let folder = self.done("pip")?;
        Some(PipPrograms { server: folder.join("venv/bin/pypi-server"), wheels: folder.join("wheels") })
    }

    pub(crate) fn npm(&self) -> Option<NpmPrograms> {
        Some(npm_programs(&self.done("npm")?))
    }

    fn done(&self, part: &str) -> Option<PathBuf> {
        let folder = self.root.join(part);
        folder.join(DONE).exists().then_some(folder)
    }

    /// The cache is this process's own until the file is closed, by the kernel if need be.
    async fn lock(&self) -> Result<fs::File, Error> {
        create_folder(&self.root)?;
        let path = self.root.join(LOCK);
        let file = fs::File::create(&path).map_err(|error| Error::Files(path.clone(), error))?;
        let waited = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        waited.map_err(io::Error::other).flatten().map_err(|error| Error::Files(path, error))
    }

    async fn part<F, R>(&self, part: &str, make: F) -> Result<(), Error>
    where
        F: FnOnce(PathBuf) -> R,
        R: Future<Output = Result<(), Error>>,
    {
        if self.done(part).is_some() {
            return Ok(());
        }
        tracing::info!(part, "preparing");
        let folder = self.root.join(part);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| Error::Files(folder.clone(), error))?;
        }
        create_folder(&folder)?;
        make(folder.clone()).await?;
        write(&folder.join(DONE), "")
    }
}

async fn debian(folder: &Path, packages: &[&str]) -> Result<(), Error> {
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq"]).args(packages).current_dir(folder);
    if run(download).await.is_err() {
        // A fresh machine has no package lists.
        let mut update = Command::new("apt-get");
        update.args(["update", "-qq"]);
        run(update).await?;
        let mut again = Command::new("apt-get");
        again.args(["download", "-qq"]).args(packages).current_dir(folder);
        run(again).await?;
    }
    let entries = fs::read_dir(folder).map_err(|error| Error::Files(folder.to_owned(), error))?;
    for file in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(file).arg(folder.join("root"));
            run(unpack).await?;
        }
    }
    Ok(())
}

/// The folder below `lib` that is named by the machine's architecture.
fn library_folder(lib: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(lib).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    folders.filter(|folder| folder.is_dir()).find(|folder| folder.join("libfcgi.so.0").exists())
}

async fn repositories(folder: &Path) -> Result<(), Error> {
    for repository in ["shop", "other"] {
        let bare = folder.join("bare/acme").join(format!("{repository}.git"));
        let tree = folder.join("trees").join(repository);
        create_folder(&tree)?;
        git(&tree, &["init", "--quiet", "--initial-branch=main", "."]).await?;
        write(
            &tree.join("README.md"),
            &format!("# {repository}\n\nA private repository for an agent to work on.\n"),
        )?;
        git(&tree, &["add", "README.md"]).await?;
        let author = ["-c", "user.name=Acme", "-c", "user.email=acme@world.test"];
        git(&tree, &[&author[..], &["commit", "--quiet", "-m", "First version"]].concat()).await?;
        create_folder(&bare)?;
        git(&bare, &["init", "--quiet", "--bare", "--initial-branch=main", "."]).await?;
        git(&bare, &["config", "http.receivepack", "true"]).await?;
        git(&tree, &["push", "--quiet", &bare.display().to_string(), "main"]).await?;
    }
    Ok(())
}

async fn git(folder: &Path, arguments: &[&str]) -> Result<(), Error> {
    let mut command = Command::new("git");
    // The user's own configuration may sign commits or run hooks.
    command
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    run(command).await.map(drop)
}

async fn pip(folder: &Path) -> Result<(), Error> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(folder.join("venv"));
    run(venv).await?;
    let pip = folder.join("venv/bin/pip");
    let mut install = Command::new(&pip);
    install.args(["install", "--quiet", PYPISERVER, "setuptools", "wheel"]);
    run(install).await?;
    let source = folder.join("source");
    create_folder(&source.join("shopkit"))?;
    write(&source.join("pyproject.toml"), include_str!("../data/shopkit-py/pyproject.toml"))?;
    write(&source.join("shopkit/__init__.py"), include_str!("../data/shopkit-py/shopkit/__init__.py"))?;
    let mut wheel = Command::new(&pip);
    wheel
        .args(["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"])
        .arg(folder.join("wheels"))
        .arg(source);
    run(wheel).await.map(drop)
}

async fn npm(folder: &Path) -> Result<(), Error> {
    write(&folder.join("package.json"), include_str!("../data/npm/package.json"))?;
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder);
    run(install).await?;
    let package = folder.join("shopkit");
    create_folder(&package)?;
    write(&package.join("package.json"), include_str!("../data/shopkit-js/package.json"))?;
    write(&package.join("index.js"), include_str!("../data/shopkit-js/index.js"))?;
    let registry = folder.join("seed");
    let (running, publish) =
        publish_command(&npm_programs(folder), &registry, &package).await.map_err(Error::Registry)?;
    run(publish).await?;
    drop(running);
    Ok(())
}

fn npm_programs(folder: &Path) -> NpmPrograms {
    NpmPrograms {
        server: folder.join("node_modules/verdaccio/bin/verdaccio"),
        storage: folder.join("seed/storage"),
    }
}

async fn run(mut command: Command) -> Result<Output, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = ran.map_err(|error| Error::Program(program.clone(), error))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let tail: Vec<&str> = said.lines().rev().take(8).collect();
    Err(Error::Failed { program, output: tail.into_iter().rev().collect::<Vec<_>>().join("\n") })
}

fn create_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|error| Error::Files(folder.to_owned(), error))
}

fn write(file: &Path, content: &str) -> Result<(), Error> {
    fs::write(file, content).map_err(|error| Error::Files(file.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_broke_off_is_begun_anew_and_a_finished_one_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let broken = cache.part("a", |folder| async move {
            write(&folder.join("half"), "")?;
            Err(Error::NoCacheFolder)
        });
        assert!(broken.await.is_err());
        assert!(cache.done("a").is_none());
        cache.part("a", |folder| async move { write(&folder.join("whole"), "") }).await.unwrap();
        assert!(!folder.path().join("a/half").exists());
        cache.part("a", |_| async { Err(Error::NoCacheFolder) }).await.unwrap();
    }

    #[tokio::test]
    async fn a_cache_that_another_fills_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let held = cache.lock().await.unwrap();
        let other = fs::File::open(folder.path().join(LOCK)).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        let parts = ["debian", "repositories", "pip", "npm"].map(|part| folder.path().join(part));
        for part in &parts {
            create_folder(part).unwrap();
            write(&part.join("half"), "").unwrap();
        }
        let mut second = std::pin::pin!(cache.prepare());
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert!(
            parts.iter().all(|part| part.join("half").exists()),
            "what is half made is not what broke off"
        );
        for part in &parts {
            write(&part.join(DONE), "").unwrap();
        }
        drop(held);
        second.await.unwrap();
        assert!(
            parts.iter().all(|part| part.join("half").exists()),
            "and what was finished meanwhile is left"
        );
    }
}
