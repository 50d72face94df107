//! `agentsandbox-init run`, on the kernel that is here: what a confined program can no longer do, and that the same program does it
//! where it is not confined. On a kernel without Landlock each of these tests sees that nothing is started.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use agentsandbox_init::confine::files::{self, Landlock, VERSION_MIN};
use agentsandbox_init::confine::{EXIT_NOT_CONFINED, EXIT_NOT_DENIED};
use tempfile::TempDir;

const INIT: &str = env!("CARGO_BIN_EXE_agentsandbox-init");

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn shell(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

/// What became of a command line of `run`; none where this kernel cannot confine, which was then seen to start nothing.
fn run(args: &[&str]) -> Option<Output> {
    let output = Command::new(INIT).arg("run").args(args).output().unwrap();
    if matches!(files::offered().unwrap(), Landlock::Version(version) if version >= VERSION_MIN) {
        return Some(output);
    }
    assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)), "{}", text(&output));
    assert!(output.stdout.is_empty() && text(&output).contains("Landlock"), "{}", text(&output));
    None
}

/// A line of shell that may write in a folder and to devices, and execute nothing in it.
fn confined(folder: &Path, line: &str) -> Option<Output> {
    let folder = folder.to_str().unwrap();
    run(&["--write", folder, "--write", "/dev", "--no-execute", folder, "--", "sh", "-c", line])
}

/// A folder of this build's own: whoever tidies the machine's folder for temporary files would take a test's away under it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Also where the tests run as another user than the files of this machine.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

#[test]
fn the_command_becomes_the_process_with_its_arguments_and_its_exit_code() {
    let Some(output) = run(&["--", "sh", "-c", "echo \"$1\"; exit 7", "sh", "--check it"]) else { return };
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(7), "--check it\n"));
    let absent = run(&["--", "nobody-has-made-this"]).unwrap();
    assert_eq!(absent.status.code(), Some(127), "{}", text(&absent));
    let not_a_program = run(&["--", "/etc"]).unwrap();
    assert_eq!(not_a_program.status.code(), Some(126), "{}", text(&not_a_program));
}

#[test]
fn files_are_written_where_that_was_granted_and_nowhere_else() {
    let (granted, other) = (folder(), folder());
    let line = |folder: &TempDir| {
        let path = folder.path().display();
        format!(
            "cd {path} && echo x > new && mkdir sub && mv new sub/moved && ln -s moved sub/link && cat sub/link >/dev/null && : > old"
        )
    };
    let truncated = other.path().join("kept");
    fs::write(&truncated, "content").unwrap();
    fs::set_permissions(&truncated, fs::Permissions::from_mode(0o666)).unwrap();
    let Some(output) = confined(granted.path(), &line(&granted)) else { return };
    assert!(output.status.success(), "{}", text(&output));
    let refused = confined(granted.path(), &line(&other)).unwrap();
    assert!(!refused.status.success(), "{}", text(&refused));
    let cut = format!(
        "truncate -s 0 {0}; printf x > {0}; rm {0}; ln {0} {1}/there; cat {0}",
        truncated.display(),
        granted.path().display()
    );
    let kept = confined(granted.path(), &cut).unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "content", "{}", text(&kept));
    assert_eq!(fs::read_to_string(&truncated).unwrap(), "content");
    // Who is not confined writes there.
    let control = shell(&line(&other));
    assert!(control.status.success(), "{}", text(&control));
}

#[test]
fn o_g18_a_copied_program_does_not_run_where_execution_is_withheld() {
    let (withheld, other) = (folder(), folder());
    let copy =
        |folder: &TempDir| format!("cp /bin/true {0}/copy && {0}/copy && echo ran", folder.path().display());
    let Some(output) = confined(withheld.path(), &copy(&withheld)) else { return };
    assert_eq!(output.status.code(), Some(126), "{}", text(&output));
    // By another name, behind a link, and moved to where execution is granted.
    let (from, to) = (withheld.path().display(), other.path().display());
    let both = ["--write", withheld.path().to_str().unwrap(), "--write", other.path().to_str().unwrap()];
    let ways = format!(
        "ln -s {from}/copy {to}/link; {to}/link && echo ran; ln {from}/copy {to}/hard && {to}/hard && echo ran; cd {from} && ./copy && echo ran; /proc/self/root{from}/copy && echo ran; true"
    );
    let mut args = both.to_vec();
    args.extend(["--no-execute", withheld.path().to_str().unwrap(), "--", "sh", "-c", &ways]);
    let tried = run(&args).unwrap();
    assert!(!text(&tried).contains("ran"), "{}", text(&tried));
    // The same copy runs where that is not withheld, and the same place runs it for who is not confined.
    let granted = run(&["--write", other.path().to_str().unwrap(), "--", "sh", "-c", &copy(&other)]).unwrap();
    assert!(text(&granted).contains("ran"), "{}", text(&granted));
    assert!(text(&shell(&copy(&withheld))).contains("ran"));
}

#[test]
fn execution_is_withheld_where_nothing_can_be_written_either() {
    let withheld = folder();
    let path = withheld.path().to_str().unwrap();
    assert!(shell(&format!("cp /bin/true {path}/copy && {path}/copy")).status.success());
    let line = format!("{path}/copy && echo ran; echo started");
    let Some(output) = run(&["--no-execute", path, "--", "sh", "-c", &line]) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n", "{}", text(&output));
}

#[test]
fn what_was_open_is_closed_before_the_command_begins() {
    let listing = "ls /proc/self/fd";
    let inherited = |rest: &str| shell(&format!("exec 9</etc/passwd; exec {rest}"));
    let control = inherited(&format!("sh -c '{listing}'"));
    assert!(text(&control).lines().any(|line| line == "9"), "{}", text(&control));
    if run(&["--", "true"]).is_none() {
        return;
    }
    let output = inherited(&format!("{INIT} run -- sh -c '{listing}'"));
    // Three, and the folder that is listed.
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn a_path_that_is_not_there_starts_nothing() {
    for flag in ["--write", "--no-execute"] {
        let Some(output) = run(&[flag, "/nobody-has-made-this", "--", "echo", "started"]) else { return };
        assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)));
        assert!(
            output.stdout.is_empty() && text(&output).contains("/nobody-has-made-this"),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn the_process_says_of_itself_that_it_is_filtered_and_gains_no_privilege_and_so_do_its_children() {
    let Some(output) = run(&["--", "sh", "-c", "sh -c 'cat /proc/self/status'"]) else { return };
    let status = text(&output);
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|seen| seen == line), "no {line} in {status}");
    }
}

#[test]
fn the_check_finds_every_attempt_denied_from_inside() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    let Some(output) = run(&["--write", path, "--no-execute", path, "--check"]) else { return };
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    let (first, rest) = told.split_once('\n').unwrap();
    let Landlock::Version(version) = files::offered().unwrap() else { panic!("{told}") };
    assert_eq!(first, format!("landlock version {version}"));
    assert!(rest.lines().count() > 12 && rest.lines().all(|line| line.starts_with("denied: ")), "{told}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{told}");
}

#[test]
fn where_an_attempt_is_not_denied_nothing_is_started() {
    for last in [&["--check"][..], &["--", "echo", "started"]] {
        let args = [&["--write", "/proc"], last].concat();
        let Some(open) = run(&args) else { return };
        assert_eq!(open.status.code(), Some(i32::from(EXIT_NOT_DENIED)), "{}", text(&open));
        assert!(open.stdout.is_empty(), "{}", text(&open));
        assert!(text(&open).contains("NOT DENIED: writing /proc/self/mem"), "{}", text(&open));
    }
}

#[test]
fn files_are_read_where_that_was_granted_and_nowhere_else() {
    let (granted, other) = (folder(), folder());
    for folder in [&granted, &other] {
        let file = folder.path().join("file");
        fs::write(&file, "content").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let folder = granted.path().to_str().unwrap();
    let programs =
        ["/bin", "/lib", "/lib64", "/usr", "/etc"].into_iter().filter(|path| Path::new(path).exists());
    let mut args: Vec<_> = programs.flat_map(|path| ["--read", path]).collect();
    let line =
        format!("cat {folder}/file; cat {0}/file || ls {0} || ls / || echo nothing", other.path().display());
    args.extend(["--read", folder, "--", "sh", "-c", &line]);
    let Some(output) = run(&args) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "contentnothing\n", "{}", text(&output));
    let control = shell(&line);
    assert_eq!(String::from_utf8_lossy(&control.stdout), "contentcontent", "{}", text(&control));
}

#[test]
fn a_link_in_place_of_a_path_that_may_be_written_starts_nothing() {
    let (granted, other) = (folder(), folder());
    let link = granted.path().join("out");
    std::os::unix::fs::symlink(other.path(), &link).unwrap();
    for flag in ["--write", "--no-execute"] {
        let Some(output) = run(&[flag, link.to_str().unwrap(), "--", "echo", "started"]) else { return };
        assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)));
        assert!(output.stdout.is_empty() && text(&output).contains("symbolic link"), "{}", text(&output));
    }
}

#[test]
fn a_command_line_without_a_command_is_none() {
    for args in [&["run"][..], &["run", "--write", "/tmp"], &["run", "true"]] {
        let output = Command::new(INIT).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    }
}

/// What became of a line of shell that has execution withheld by mounts in a folder that is one, as uid 0 of users of the test's own, who may
/// mount it; none where this machine gives a process no such users, and so starts nothing.
fn by_mounts(folder: &Path, line: &str) -> Option<Output> {
    let path = folder.to_str().unwrap();
    let confined = format!(
        "mount -t tmpfs tmpfs {path} && exec {INIT} run --by-mounts --no-execute={path} -- sh -c '{line}'"
    );
    if Command::new("unshare").args(["-Urm", "true"]).status().unwrap().success() {
        return Some(Command::new("unshare").args(["-Urm", "sh", "-c", &confined]).output().unwrap());
    }
    let output = Command::new(INIT)
        .args(["run", "--by-mounts", "--no-execute", path, "--", "echo", "started"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)), "{}", text(&output));
    assert!(output.stdout.is_empty(), "{}", text(&output));
    None
}

#[test]
fn o_g18_a_copied_program_does_not_run_where_mounts_withhold_execution() {
    let (withheld, other) = (folder(), folder());
    let (path, beside) = (withheld.path().display(), other.path().display());
    let ways = format!(
        "cp /bin/true {path}/copy && cp /bin/true {beside}/copy; {path}/copy && echo ran; cd {path}; ./copy && echo ran; \
         /proc/self/root{path}/copy && echo ran; ln -s {path}/copy {beside}/link; {beside}/link && echo ran; {beside}/copy && echo beside"
    );
    let Some(output) = by_mounts(withheld.path(), &ways) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "beside\n", "{}", text(&output));
    assert_eq!(text(&output).matches("Permission denied").count(), 4, "{}", text(&output));
    // The same mount runs it for who is not confined.
    let control =
        format!("mount -t tmpfs tmpfs {path} && cp /bin/true {path}/copy && {path}/copy && echo ran");
    let control = Command::new("unshare").args(["-Urm", "sh", "-c", &control]).output().unwrap();
    assert_eq!(text(&control), "ran\n");
}

#[test]
fn what_mounts_withhold_cannot_be_had_again_and_brings_no_capability() {
    let withheld = folder();
    let path = withheld.path().display();
    let ways = format!(
        "mount -o remount,bind,exec {path} && echo undone; umount -l {path} && echo undone; mount -t tmpfs tmpfs /mnt && echo undone; \
         unshare -Ur true && echo undone; unshare -m true && echo undone; grep -E \"^(Cap|NoNewPrivs|Seccomp:)\" /proc/self/status"
    );
    let Some(output) = by_mounts(withheld.path(), &ways) else { return };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!told.contains("undone"), "{}", text(&output));
    for kind in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(told.lines().any(|line| line == format!("{kind}:\t0000000000000000")), "{kind}: {told}");
    }
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(told.lines().any(|seen| seen == line), "no {line} in {told}");
    }
}

#[test]
fn a_folder_that_is_no_mount_starts_nothing_by_mounts() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    let output = Command::new(INIT)
        .args(["run", "--by-mounts", "--no-execute", path, "--", "echo", "started"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)), "{}", text(&output));
    assert!(output.stdout.is_empty(), "{}", text(&output));
    let nothing = Command::new(INIT).args(["run", "--by-mounts", "--", "echo", "started"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(64), "{}", text(&nothing));
}
