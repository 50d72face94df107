//! A small agent image of this machine's own programs and the libraries they need, for the quickstart.
//!
//! No registry is at hand and a whole distribution takes minutes to unpack. A shell and curl are enough to see a fence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{During, Result};
use crate::oci::{self, File, Image};
use crate::shell;

/// Reference of the image.
pub const REFERENCE: &str = "agentsandbox.test/quickstart:1";

/// Programs that a reader looks around with.
const PROGRAMS: [&str; 12] =
    ["sh", "curl", "sleep", "cat", "ls", "env", "id", "grep", "uname", "head", "dmesg", "find"];

/// Makes the image.
///
/// # Errors
/// When a program is missing on this machine.
pub fn write(archive: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let path = found(program).during(format!("{program} is missing on this machine: install it"))?;
        libraries.extend(libraries_of(&path)?);
        files.insert(format!("/bin/{program}"), content(&path, 0o755)?);
    }
    for library in libraries {
        files.insert(library.display().to_string(), content(&library, 0o755)?);
    }
    // A shadow of the folder that the trust bundle is mounted into.
    files.insert("/etc/ssl/certs/ca-certificates.crt".to_owned(), File { content: Vec::new(), mode: 0o644 });
    let account = b"agent:x:1000:1000::/home/agent:/bin/sh\n".to_vec();
    files.insert("/etc/passwd".to_owned(), File { content: account, mode: 0o644 });
    let image = Image {
        reference: REFERENCE.to_owned(),
        files,
        entrypoint: vec!["/bin/sleep".to_owned()],
        command: vec!["infinity".to_owned()],
        user: "1000:1000".to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        ..Image::default()
    };
    oci::write(&image, archive).during("the quickstart's image cannot be made").map(drop)
}

fn found(program: &str) -> Option<PathBuf> {
    ["/bin", "/usr/bin"].iter().map(|d| Path::new(d).join(program)).find(|p| p.is_file())
}

fn content(path: &Path, mode: u32) -> Result<File> {
    let content = fs::read(path).during(format!("{} cannot be read", path.display()))?;
    Ok(File { content, mode })
}

/// Every absolute path that `ldd` prints, the loader among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let said = shell::run("ldd", &[&program.display().to_string()])?;
    Ok(said.split_whitespace().filter(|w| w.starts_with('/')).map(PathBuf::from).collect())
}
