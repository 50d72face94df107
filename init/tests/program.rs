//! `agentsandbox_init::program`, on the kernel that is here: what an agent starts by is in its place once it was seen to hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

mod pod;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentsandbox_init::confine::files::{self, Landlock, VERSION_MIN};
use agentsandbox_init::program::{self, Means, ProgramError, Seen};
use pod::{PROXY, in_a_pods_network};
use tempfile::TempDir;

const INIT: &str = env!("CARGO_BIN_EXE_agentsandbox-init");

/// One test of this file at a time: a child that another thread starts while a program is written holds that file open until it
/// executes its own, and the kernel executes no file that somebody may write (ETXTBSY; <https://github.com/golang/go/issues/22315>).
/// The fence itself starts no other child.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder of this build's own: whoever tidies the machine's folder for temporary files would take a test's away under it.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn the_program_that_an_agent_starts_by_is_in_its_place_only_once_it_has_confined_itself() {
    let _turn = turn();
    let folder = folder();
    let placed = folder.path().join(program::FILE);
    let installed = program::install(Path::new(INIT), folder.path(), Means::Landlock);
    match files::offered().unwrap() {
        Landlock::Version(version) if version >= VERSION_MIN => {
            let seen = Seen { landlock_version: Some(u32::try_from(version).unwrap()), loopback_only: false };
            assert_eq!(installed.unwrap(), seen);
            assert_eq!(fs::metadata(&placed).unwrap().permissions().mode() & 0o777, 0o555);
            // A fence that is started again does it again.
            program::install(Path::new(INIT), folder.path(), Means::Landlock).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            let output = Command::new(&placed).args(["run", "--", "echo", "started"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n");
        }
        _ => assert!(matches!(installed, Err(ProgramError::NotConfined(_))) && !placed.exists()),
    }
}

#[test]
fn a_program_that_does_not_say_what_holds_is_not_put_in_its_place() {
    let _turn = turn();
    let folder = folder();
    for (other, means) in ["/bin/true", "/bin/false"]
        .iter()
        .flat_map(|other| [(other, Means::Landlock), (other, Means::Mounts)])
    {
        let refused = program::install(Path::new(other), folder.path(), means);
        assert!(matches!(refused, Err(ProgramError::Broken(_))), "{refused:?}");
        assert!(!folder.path().join(program::FILE).exists());
    }
    assert!(matches!(
        program::install(Path::new("/nothing"), folder.path(), Means::Landlock),
        Err(ProgramError::Copy(_))
    ));
}

#[test]
fn the_program_without_a_network_is_in_its_place_once_it_has_found_each_attempt_denied() {
    let _turn = turn();
    let folder = folder();
    let placed = folder.path().join(program::FILE);
    let means = Means::NoNetwork { proxy: PROXY.parse().unwrap(), mounts: false };
    let Some(installed) = in_a_pods_network(|| program::install(Path::new(INIT), folder.path(), means))
    else {
        return;
    };
    assert_eq!(installed.unwrap(), Seen { landlock_version: None, loopback_only: true });
    assert!(placed.exists());
}
