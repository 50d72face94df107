//! `agentsandbox-init enter`, on the kernel that is here: what somebody finds who comes later to where an agent without a network is, at a pipe and at a
//! terminal. Where this machine gives a thread no network of its own nothing is seen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

mod pod;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use agentsandbox_init::args::{Args, Command as Asked};
use agentsandbox_init::confine::EXIT_NOT_CONFINED;
use agentsandbox_init::confine::files::{self, Landlock, VERSION_MIN};
use agentsandbox_init::confine::network::STREAMS;
use agentsandbox_init::program::{self, ProgramError};
use clap::Parser;
use nix::pty::openpty;
use pod::{PROXY, in_a_pods_network, shell};
use tempfile::TempDir;

const INIT: &str = env!("CARGO_BIN_EXE_agentsandbox-init");
/// What is awaited comes within this, on a machine that does much else.
const WITHIN: Duration = Duration::from_secs(60);

/// The folder that the fence makes for an agent that starts so.
struct Place(TempDir);

impl Place {
    fn bare() -> Self {
        // This build's own: whoever tidies the machine's folder for temporary files would take it away.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // A copy would be open for writing where another test starts a process just then.
        fs::hard_link(INIT, folder.path().join(program::FILE)).unwrap();
        Self(folder)
    }

    fn of(run: &[&str]) -> Self {
        let place = Self::bare();
        let run: Vec<_> = run.iter().map(|flag| (*flag).to_owned()).collect();
        program::tell(place.0.path(), &run).unwrap();
        place
    }

    fn without_network() -> Self {
        Self::of(&["--no-network", &format!("--proxy={PROXY}")])
    }

    fn program(&self) -> PathBuf {
        self.0.path().join(program::FILE)
    }

    fn enter(&self, command: &[&str]) -> Command {
        let mut enter = Command::new(self.program());
        enter.args(["enter", "--"]).args(command);
        enter
    }

    fn line(&self, line: &str) -> Output {
        self.enter(&["bash", "-c", line]).output().unwrap()
    }

    /// The processes that run this very program, in `/proc`.
    fn carriers(&self) -> Vec<PathBuf> {
        let program = fs::canonicalize(self.program()).unwrap();
        let all = fs::read_dir("/proc").unwrap().filter_map(|process| Some(process.ok()?.path()));
        all.filter(|process| fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program)).collect()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn who_enters_finds_the_entrances_of_the_proxy_on_a_loopback_and_nothing_else() {
    let beyond =
        "exec 3<>/dev/udp/192.0.2.1/9 && echo sent; exec 3<>/dev/tcp/127.0.0.7/3128 && echo dialled; exit 5";
    let ports = STREAMS.map(|port| port.to_string()).join(" ");
    let asks = format!(
        "for port in {ports}; do exec 3<>/dev/tcp/127.0.0.1/$port && echo -n ping >&3 && cat <&3; exec 3>&-; done"
    );
    let Some((asked, tried, control)) = in_a_pods_network(|| {
        let place = Place::without_network();
        let (asked, tried) = (place.line(&asks), place.line(beyond));
        // Last, for it takes a connection without a word.
        (asked, tried, Command::new("bash").args(["-c", beyond]).output().unwrap())
    }) else {
        return;
    };
    let answers = STREAMS.map(|port| format!("ping to {port}\n")).concat();
    assert_eq!(text(&asked), answers);
    let told = text(&tried);
    assert_eq!(tried.status.code(), Some(5), "{told}");
    assert!(told.contains("Network is unreachable") && told.contains("Connection refused"), "{told}");
    assert!(!told.contains("sent") && !told.contains("dialled"), "{told}");
    assert!(text(&control).contains("sent") && text(&control).contains("dialled"), "{}", text(&control));
}

#[test]
fn who_enters_has_given_up_what_an_agent_gives_up_and_does_not_come_back_by_what_carries() {
    let ways = "other=$(grep -lsxz '[c]arry' /proc/[0-9]*/cmdline | cut -d/ -f3); echo found $other; \
                for one in $other; do \
                nsenter -t $one -n true && echo back; nsenter -t $one -U true && echo back; readlink /proc/$one/ns/net && echo back; \
                (exec 3</proc/$one/mem) && echo back; ls -l /proc/$one/fd/ 2>&1 | grep socket && echo back; done; \
                unshare -Urn true && echo back; ip link add type dummy 2>/dev/null && echo back; ls -l /proc/self/fd | grep socket && echo back; \
                ls -d /proc/self/fd/9 2>/dev/null && echo back; \
                grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let Some(output) = in_a_pods_network(|| {
        let place = Place::without_network();
        // Something is open that a runtime has forgotten.
        let mut open = Command::new("bash");
        open.args(["-c", "exec 9</; exec \"$@\"", "bash"]).arg(place.program());
        open.args(["enter", "--", "bash", "-c", ways]).output().unwrap()
    }) else {
        return;
    };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = told.lines().next().and_then(|line| line.strip_prefix("found "));
    assert!(found.is_some_and(|numbers| !numbers.is_empty()), "{}", text(&output));
    assert!(!told.contains("back"), "{}", text(&output));
    for kind in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(told.lines().any(|line| line == format!("{kind}:\t0000000000000000")), "{kind}: {told}");
    }
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(told.lines().any(|seen| seen == line), "no {line} in {told}");
    }
}

/// A process that says that it waits, and what it is told.
fn waiting(place: &Place, line: &str) -> (std::process::Child, String) {
    let mut waiting =
        place.enter(&["bash", "-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(waiting.stdout.take().unwrap()).read_line(&mut said).unwrap();
    (waiting, said)
}

#[test]
fn what_is_started_is_the_command_itself_with_its_input_its_signals_and_its_end() {
    let Some((codes, killed, told, given)) = in_a_pods_network(|| {
        let place = Place::without_network();
        let absent = place.enter(&["nobody-has-made-this"]).output().unwrap();
        let codes = [place.line("exit 13").status.code(), absent.status.code()];
        let trap = "trap 'exit 9' TERM; echo $$; while :; do sleep 0.05; done";
        let (mut trapping, number) = waiting(&place, trap);
        assert_eq!(number.trim(), trapping.id().to_string());
        assert!(shell(&format!("kill -TERM {}", trapping.id())).status.success());
        let mut reading = place.enter(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        reading.stdin.take().unwrap().write_all(b"given").unwrap();
        let killed = place.line("kill -KILL $$").status;
        (codes, killed, trapping.wait().unwrap(), reading.wait_with_output().unwrap())
    }) else {
        return;
    };
    assert_eq!(codes, [Some(13), Some(127)]);
    assert_eq!(killed.signal(), Some(9));
    assert_eq!(told.code(), Some(9));
    assert_eq!(text(&given), "given");
}

#[test]
fn what_carries_is_there_as_long_as_the_command_and_is_no_child_of_it() {
    let Some((before, by_end, by_force, children)) = in_a_pods_network(|| {
        let (ending, killed) = (Place::without_network(), Place::without_network());
        let (mut first, _) = waiting(&ending, "echo ready; read line");
        let (mut second, _) = waiting(&killed, "echo ready; exec sleep 1000");
        let before = [ending.carriers().len(), killed.carriers().len()];
        drop(first.stdin.take());
        second.kill().unwrap();
        let _ended = (first.wait().unwrap(), second.wait().unwrap());
        let gone = |place: &Place| {
            let begun = Instant::now();
            loop {
                if place.carriers().is_empty() {
                    return true;
                }
                if begun.elapsed() > WITHIN {
                    return false;
                }
                shell("true");
            }
        };
        let listed = r#"exec grep -ls "^PPid:[[:space:]]$$\$" /proc/[0-9]*/status"#;
        let own = ending.line(&format!("sleep 5 >/dev/null 2>&1 & {listed}"));
        (before, gone(&ending), gone(&killed), [ending.line(listed), own])
    }) else {
        return;
    };
    assert_eq!(before, [1, 1]);
    assert!(by_end && by_force, "it is still there: {by_end} {by_force}");
    let [children, own] = children.map(|output| text(&output).lines().count());
    assert_eq!((children, own), (0, 1), "the command has a child that it has not started");
}

#[test]
fn what_carries_is_sealed_before_the_command_begins_also_from_who_is_in_the_pods_network() {
    // Who could trace everybody would see everybody.
    let as_in_a_pod = |program: &str| -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set=-sys_ptrace", "--", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    };
    let waits = "echo ready; read line";
    let said = |child: &mut std::process::Child| {
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
    };
    let looks = |process: &Path| as_in_a_pod("readlink").arg(process.join("exe")).status().unwrap().success();
    let Some((sealed, open, status, limits)) = in_a_pods_network(|| {
        let place = Place::without_network();
        let program = place.program();
        let enter = ["enter", "--", "bash", "-c", waits];
        let mut command = as_in_a_pod(program.to_str().unwrap()).args(enter).spawn().unwrap();
        said(&mut command);
        let carrier = place.carriers().remove(0);
        let read = |name: &str| fs::read_to_string(carrier.join(name)).unwrap();
        let mut other = as_in_a_pod("bash").args(["-c", waits]).spawn().unwrap();
        said(&mut other);
        let seen = (
            !looks(&carrier),
            looks(&Path::new("/proc").join(other.id().to_string())),
            read("status"),
            read("limits"),
        );
        for mut child in [command, other] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        seen
    }) else {
        return;
    };
    assert!(sealed && open, "sealed: {sealed}; another of the same user is open: {open}");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|seen| seen == line), "no {line} in {status}");
    }
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
}

#[test]
fn where_nobody_has_told_how_the_agent_starts_or_that_cannot_be_had_nothing_is_started() {
    let nothing = |place: &Place, word: &str| {
        let output = place.enter(&["echo", "started"]).output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)), "{}", text(&output));
        assert!(output.stdout.is_empty() && text(&output).contains(word), "{}", text(&output));
    };
    nothing(&Place::bare(), "an older operator");
    let write = |told: &str| {
        let place = Place::bare();
        fs::write(place.0.path().join(program::HOW), told).unwrap();
        place
    };
    for told in [
        "",
        "{}",
        "[\"--check\"]",
        "[\"--unknown\"]",
        "[\"--no-network\",\"--proxy=127.0.0.7\",\"--inside\"]",
    ] {
        nothing(&write(told), "it is not told");
    }
    let absent = ["--no-network", &format!("--proxy={PROXY}"), "--no-execute=/nobody-has-made-this"];
    in_a_pods_network(|| nothing(&Place::of(&absent), "/nobody-has-made-this"));
}

#[test]
fn the_fence_tells_what_is_understood_alone_and_tells_it_anew() {
    let place = Place::of(&["--write=/dev"]);
    let wrong: [&[&str]; 6] = [
        &["--check"],
        &["--unknown"],
        &["--", "sh"],
        &["sh"],
        &["--no-network"],
        &["--no-network", "--proxy=127.0.0.7", "--inside"],
    ];
    let owned = |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
    for flags in wrong {
        let refused = program::tell(place.0.path(), &owned(flags));
        assert!(matches!(refused, Err(ProgramError::Arguments(_))), "{flags:?}: {refused:?}");
    }
    program::tell(place.0.path(), &owned(&["--write=/tmp"])).unwrap();
    let told = fs::read_to_string(place.0.path().join(program::HOW)).unwrap();
    assert_eq!(told, "[\"--write=/tmp\"]");
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 2);
}

#[test]
fn the_fence_takes_arguments_that_look_like_its_own_for_the_agents() {
    let required = "x fence --proxy 10.0.0.9 --api 10.96.0.1:443 --node 192.0.2.1 --expect-kernel gvisor --token-file t --ca-file c \
                    --trust-dir d --expect-memory-bytes 1 --expect-cpu-millis 1 --program-dir p";
    let run = ["--no-network", "--proxy=10.0.0.9", "--no-execute=/a folder"];
    let told = run.map(|flag| format!("--program-run={flag}"));
    let words = required.split_whitespace().chain(told.iter().map(String::as_str));
    let Asked::Fence(args) = Args::try_parse_from(words).unwrap().command else { unreachable!() };
    assert_eq!(args.program_run, run);
}

#[test]
fn who_enters_an_agent_in_a_process_sandbox_writes_where_that_may() {
    let (granted, other) = (Place::bare(), Place::bare());
    let place = Place::of(&["--write=/dev", &format!("--write={}", granted.0.path().display())]);
    let writes = |place: &Place| format!("echo x > {}/new", place.0.path().display());
    let output = place.line(&writes(&granted));
    if !matches!(files::offered().unwrap(), Landlock::Version(version) if version >= VERSION_MIN) {
        assert_eq!(output.status.code(), Some(i32::from(EXIT_NOT_CONFINED)), "{}", text(&output));
        return;
    }
    assert!(output.status.success(), "{}", text(&output));
    let refused = place.line(&writes(&other));
    assert!(text(&refused).contains("Permission denied"), "{}", text(&refused));
    assert!(shell(&writes(&other)).status.success(), "who is not confined writes there");
}

/// A terminal that somebody sits at, and what it shows.
struct Terminal {
    near: File,
    shown: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open() -> (Self, OwnedFd) {
        let pair = openpty(None, None).unwrap();
        // As copies, which nothing inherits that is started here: the other side would stay open.
        let (near, far) = (pair.master.try_clone().unwrap(), pair.slave.try_clone().unwrap());
        let near = File::from(near);
        let (send, shown) = channel();
        let mut reading = near.try_clone().unwrap();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // It ends with an error where nobody has the other side open any more.
            while let Ok(count @ 1..) = reading.read(&mut chunk) {
                let _ = send.send(chunk[..count].to_vec());
            }
        });
        (Self { near, shown, seen: String::new() }, far)
    }

    fn types(&mut self, text: &str) {
        self.near.write_all(text.as_bytes()).unwrap();
    }

    /// Awaits that nobody has its other side open any more.
    fn ends(&mut self) {
        loop {
            match self.shown.recv_timeout(WITHIN) {
                Ok(chunk) => self.seen.push_str(&String::from_utf8_lossy(&chunk)),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {}", self.seen),
            }
        }
    }

    /// Awaits what was not typed: a terminal shows that, too.
    fn shows(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.shown.recv_timeout(WITHIN) {
                Ok(chunk) => self.seen.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("{text} is not shown: {error}: {}", self.seen),
            }
        }
    }
}

fn at_a_terminal(place: &Place) -> (ExitStatus, String) {
    let (mut terminal, far) = Terminal::open();
    let end = || Stdio::from(far.try_clone().unwrap());
    let size = |rows, columns| {
        let size = Command::new("stty").args(["rows", rows, "columns", columns]).stdin(end()).status();
        assert!(size.unwrap().success());
    };
    size("31", "99");
    // Whoever runs tests in the background has what they start ignore interruptions, and a shell traps none that it was told to ignore.
    let mut shell = Command::new("setsid")
        .args(["--ctty", "--wait", "env", "--default-signal"])
        .arg(place.program())
        .args(["enter", "bash", "--norc", "--noprofile", "-i"])
        // What is typed here is not this user's own history.
        .env("HISTFILE", "")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    terminal.types("stty size; echo $((40 + 1)) first\n");
    terminal.shows("31 99");
    terminal.shows("41 first");
    // Nothing is started while it waits: a shell forgets an interruption that comes just when its child has ended by itself.
    let waits = |signal: &str, number: u8| {
        format!(
            "bash -c 'trap \"echo \\$(({number} * 2)) told; exit\" {signal}; echo $(({number} * 3)) runs; while :; do :; done'\n"
        )
    };
    terminal.types(&waits("WINCH", 21));
    terminal.shows("63 runs");
    size("33", "77");
    terminal.shows("42 told");
    terminal.types("stty size\n");
    terminal.shows("33 77");
    terminal.types(&waits("INT", 50));
    terminal.shows("150 runs");
    terminal.types("\u{3}");
    terminal.shows("100 told");
    terminal.types("bash -c 'echo $((50 * 4)) runs; exec sleep 1000'\n");
    terminal.shows("200 runs");
    terminal.types("\u{1a}");
    terminal.shows("Stopped");
    // A shell does not end while it knows of a job that is stopped; `wait` awaits none that is, and `fg` does.
    terminal.types("kill -KILL %1; fg; exec 3<>/dev/tcp/127.0.0.1/3128; echo -n ping >&3; cat <&3\n");
    terminal.shows("ping to 3128");
    terminal.types("exit 5\n");
    drop(far);
    terminal.ends();
    (shell.wait().unwrap(), terminal.seen)
}

#[test]
fn who_enters_at_a_terminal_has_it_with_its_size_its_keys_and_its_jobs() {
    let Some((ended, seen)) = in_a_pods_network(|| at_a_terminal(&Place::without_network())) else { return };
    assert_eq!(ended.code(), Some(5), "{seen}");
    assert!(!seen.contains("no job control"), "{seen}");
}
