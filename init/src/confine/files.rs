//! What a process may do with files, by Landlock. A rule only grants: what no rule names is denied, so "nothing is executed
//! below /tmp" is written as everything beside it.
//!
//! Nothing here is done as well as it goes: where the kernel lacks a right that is asked for, or a path cannot be opened, there is
//! an error and no confinement. What it cannot do: the loader, an interpreter or a file in memory (`memfd_create`) that is made
//! to run what lies below such a path opens no file for execution there.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    PathFdError, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use thiserror::Error;

/// The version whose rights are asked for: the first in which a file that may not be written cannot be truncated either.
pub const VERSION_MIN: i32 = 3;
const ABI_MIN: ABI = ABI::V3;

/// What this kernel has of Landlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// This version of it.
    Version(i32),
    /// It was built in and not turned on when the machine started.
    Off,
    /// Nothing.
    Absent,
}

/// What is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Files below these may be read; where there are none, all files may.
    pub read: Vec<PathBuf>,
    /// Files below these may be written and read; no others may be written.
    pub write: Vec<PathBuf>,
    /// Files below these may not be executed; all others that may be read may.
    pub no_execute: Vec<PathBuf>,
}

/// Why files were not confined.
#[derive(Debug, Error)]
pub enum Fault {
    /// The kernel has no Landlock.
    #[error(
        "this kernel has no Landlock; run the sandbox on nodes with Linux 6.2 or newer that have landlock in their lsm= list, or use a class without a process sandbox"
    )]
    Absent,
    /// It is there and off.
    #[error("Landlock is off in this kernel; add landlock to the lsm= list of the node's command line")]
    Off,
    /// It is too old.
    #[error("this kernel has version {0} of Landlock and {VERSION_MIN} is needed, which Linux 6.2 has")]
    Old(i32),
    /// A path that was asked for cannot be opened.
    #[error("{} cannot be opened: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A path leads over a symbolic link, which may lie where a hostile program could put it.
    #[error("{} is {} by a symbolic link; name the place itself", path.display(), real.display())]
    Link {
        /// The path.
        path: PathBuf,
        /// Where it leads.
        real: PathBuf,
    },
    /// The kernel refuses a rule.
    #[error("the rules for files are refused: {0}")]
    Refused(#[from] RulesetError),
    /// The kernel took less than was asked for.
    #[error("the rules for files hold in part only: {0}")]
    Partly(String),
}

/// Asks the kernel, on a thread of its own, which then may do less than the others; it ends with the question.
///
/// # Errors
/// When the kernel has no thread to give.
pub fn offered() -> io::Result<Landlock> {
    let ask = || {
        let rules = Ruleset::default().handle_access(AccessFs::Execute)?.create()?;
        rules.restrict_self().map(|status| status.landlock)
    };
    let answer = thread::Builder::new().spawn(ask)?.join();
    Ok(match answer {
        Ok(Ok(LandlockStatus::Available { effective_abi, kernel_abi })) => {
            Landlock::Version(kernel_abi.unwrap_or_else(|| number(effective_abi)))
        }
        Ok(Ok(LandlockStatus::NotEnabled)) => Landlock::Off,
        // What cannot be asked is not there.
        Ok(Ok(LandlockStatus::NotImplemented) | Err(_)) | Err(_) => Landlock::Absent,
    })
}

/// The number of a version that the library knows.
fn number(abi: ABI) -> i32 {
    (0..i32::from(u8::MAX)).find(|number| ABI::from(*number) == abi).unwrap_or_default()
}

/// Whether what the kernel has is enough.
fn enough(offered: Landlock) -> Result<i32, Fault> {
    match offered {
        Landlock::Version(version) if version >= VERSION_MIN => Ok(version),
        Landlock::Version(version) => Err(Fault::Old(version)),
        Landlock::Off => Err(Fault::Off),
        Landlock::Absent => Err(Fault::Absent),
    }
}

/// Confines the calling thread, and what it starts, for good. Returns the version of Landlock that holds it.
///
/// # Errors
/// When not everything that was asked for is in force; the thread may then be confined in part, and must end.
pub fn confine(grants: &Grants, offered: Landlock) -> Result<i32, Fault> {
    let version = enough(offered)?;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI_MIN))?
        .create()?;
    let root = [PathBuf::from("/")];
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in if grants.read.is_empty() { &root[..] } else { &grants.read } {
        rules = rules.add_rule(beneath(path, read)?)?;
    }
    for path in executable(grants)? {
        match beneath(&path, AccessFs::Execute.into()) {
            Ok(rule) => rules = rules.add_rule(rule)?,
            // It was found a moment ago, and nobody named it: what is gone needs no grant.
            Err(Fault::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => return Err(fault),
        }
    }
    // No agent makes devices, not even where it may.
    let write = AccessFs::from_write(ABI_MIN) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    for path in &grants.write {
        rules = rules.add_rule(beneath_itself(path, read | write)?)?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(Fault::Partly(format!("{status:?}")));
    }
    Ok(version)
}

fn fault(path: &Path) -> impl FnOnce(io::Error) -> Fault {
    let path = path.to_owned();
    move |source| Fault::Path { path, source }
}

/// A rule for what is at and below a path.
fn beneath(path: &Path, rights: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Fault> {
    granting(path, opened(path)?, rights)
}

/// The same of a path that must have no symbolic link in it. What is compared is what was opened, and that is what is granted: whoever
/// comes later has a living agent beside him, which can put a link into a folder of its own at any time.
fn beneath_itself(path: &Path, rights: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Fault> {
    granting_itself(path, opened(path)?, rights)
}

fn granting_itself(
    path: &Path,
    opened: PathFd,
    rights: BitFlags<AccessFs>,
) -> Result<PathBeneath<PathFd>, Fault> {
    let real = fs::read_link(own_entry(&opened)).map_err(fault(path))?;
    if real == path {
        granting(path, opened, rights)
    } else {
        Err(Fault::Link { path: path.to_owned(), real })
    }
}

fn opened(path: &Path) -> Result<PathFd, Fault> {
    let said = |error| match error {
        PathFdError::OpenCall { source, .. } => source,
        other => io::Error::other(other),
    };
    PathFd::new(path).map_err(|error| fault(path)(said(error)))
}

/// Where this process has what it has opened, whatever its path leads to by now.
fn own_entry(opened: &PathFd) -> String {
    format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd())
}

/// Most rights are those of folders, and a kernel refuses them for a file.
fn granting(path: &Path, opened: PathFd, rights: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Fault> {
    let is_folder = fs::metadata(own_entry(&opened)).map_err(fault(path))?.is_dir();
    let rights = if is_folder { rights } else { rights & AccessFs::from_file(ABI_MIN) };
    Ok(PathBeneath::new(opened, rights))
}

/// The path, which must have no symbolic link in it: the files of a workspace are a stranger's, and an agent that is started again
/// finds what the last one left. A link would give what was asked for to another place, or take it from none.
fn itself(path: &Path) -> Result<PathBuf, Fault> {
    let real = fs::canonicalize(path).map_err(fault(path))?;
    if real == path { Ok(real) } else { Err(Fault::Link { path: path.to_owned(), real }) }
}

/// A folder, for what is withheld there can be tried with a new file.
pub(super) fn folder(path: &Path) -> Result<PathBuf, Fault> {
    let real = itself(path)?;
    if real.is_dir() { Ok(real) } else { Err(fault(path)(io::ErrorKind::NotADirectory.into())) }
}

fn executable(grants: &Grants) -> Result<Vec<PathBuf>, Fault> {
    let left_out = grants.no_execute.iter().map(|path| folder(path)).collect::<Result<Vec<_>, _>>()?;
    all_but(Path::new("/"), &left_out)
}

/// The largest folders and files that together hold what is below `root` and nothing at or below `left_out`. A symbolic link holds
/// nothing: what it leads to has a place of its own. What comes later, beside a path that is left out, is in none of them.
fn all_but(root: &Path, left_out: &[PathBuf]) -> Result<Vec<PathBuf>, Fault> {
    if left_out.iter().all(|path| !path.starts_with(root)) {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    if left_out.iter().any(|path| path == root) {
        return Ok(found);
    }
    for entry in fs::read_dir(root).map_err(fault(root))? {
        let entry = entry.map_err(fault(root))?;
        if !entry.file_type().map_err(fault(root))?.is_symlink() {
            found.extend(all_but(&entry.path(), left_out)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_the_version_that_is_asked_for_is_a_refusal_that_says_what_is_missing() {
        let told = |offered| enough(offered).map_err(|fault| fault.to_string());
        assert_eq!(told(Landlock::Version(VERSION_MIN)), Ok(3));
        assert_eq!(told(Landlock::Version(7)), Ok(7));
        for (offered, word) in [
            (Landlock::Version(2), "version 2"),
            (Landlock::Version(0), "version 0"),
            (Landlock::Off, "lsm="),
            (Landlock::Absent, "no Landlock"),
        ] {
            let refusal = told(offered).unwrap_err();
            assert!(refusal.contains(word), "{refusal}");
            // On any kernel, and before a rule is made: no thread is confined half.
            assert!(confine(&Grants::default(), offered).is_err());
        }
    }

    #[test]
    fn everything_but_what_is_left_out_is_named_by_as_few_paths_as_go() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for folder in ["usr/bin", "home/agent/.cache", "home/other", "tmp/x", "opt"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("run.sh"), "").unwrap();
        std::os::unix::fs::symlink("tmp", root.join("scratch")).unwrap();
        let of = |left_out: &[&str]| {
            let left_out: Vec<_> = left_out.iter().map(|path| root.join(path)).collect();
            let mut all: Vec<String> = all_but(root, &left_out)
                .unwrap()
                .iter()
                .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned())
                .collect();
            all.sort();
            all
        };
        assert_eq!(of(&[]), [""], "the root itself");
        assert_eq!(of(&[""]), [""; 0]);
        assert_eq!(of(&["tmp", "home/agent"]), ["home/other", "opt", "run.sh", "usr"]);
        assert_eq!(
            of(&["tmp/x", "tmp"]),
            ["home", "opt", "run.sh", "usr"],
            "one below another changes nothing"
        );
        assert_eq!(of(&["run.sh"]), ["home", "opt", "tmp", "usr"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_named_and_nothing_is_confined() {
        let absent = PathBuf::from("/nobody-has-made-this");
        for grants in [
            Grants { write: vec![absent.clone()], ..Grants::default() },
            Grants { no_execute: vec![absent.clone()], ..Grants::default() },
        ] {
            let fault = executable(&grants)
                .map(drop)
                .and_then(|()| grants.write.iter().try_for_each(|path| opened(path).map(drop)));
            assert!(matches!(fault, Err(Fault::Path { path, .. }) if path == absent));
        }
        // What is gone by the time that it is granted is told apart from what cannot be opened.
        let fault = beneath(&absent, AccessFs::ReadFile.into()).unwrap_err();
        assert!(matches!(fault, Fault::Path { source, .. } if source.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_path_over_a_symbolic_link_is_refused_with_the_place_that_it_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        fs::create_dir(root.join("out")).unwrap();
        std::os::unix::fs::symlink("out", root.join("link")).unwrap();
        assert_eq!(itself(&root.join("out")).unwrap(), root.join("out"));
        let fault = itself(&root.join("link")).unwrap_err();
        assert!(matches!(&fault, Fault::Link { real, .. } if *real == root.join("out")), "{fault}");
        let granted = |path: &str| beneath_itself(&root.join(path), AccessFs::ReadFile.into());
        assert!(granted("out").is_ok());
        let fault = granted("link").unwrap_err();
        assert!(matches!(&fault, Fault::Link { real, .. } if *real == root.join("out")), "{fault}");
        // A program that lives beside this one is as quick as it may be: what is granted was opened before it is compared.
        let raced = opened(&root.join("out")).unwrap();
        fs::rename(root.join("out"), root.join("aside")).unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        let fault = granting_itself(&root.join("out"), raced, AccessFs::ReadFile.into()).unwrap_err();
        assert!(matches!(&fault, Fault::Link { real, .. } if *real == root.join("aside")), "{fault}");
        assert!(granted("out").is_err());
        fs::remove_file(root.join("out")).unwrap();
        fs::rename(root.join("aside"), root.join("out")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert!(folder(&root.join("out")).is_ok() && folder(&root.join("file")).is_err());
    }
}
