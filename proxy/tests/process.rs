//! The binary as a process: what is on its standard output when it dies, and what it does when it cannot write there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states its claims by them, and so do its helpers"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use agentsandbox_proxy::schema::Described;
use serde_json::Value;

/// It bounds a hang; it is no promise.
const PATIENCE: Duration = Duration::from_secs(20);

struct Proxy {
    child: Child,
    address: SocketAddr,
    upstream: TcpListener,
    folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// A proxy whose one rule leads, in plain text, to an upstream of the test.
    fn serving(stdout: Stdio) -> Self {
        Self::serving_by(|_| Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy")), stdout)
    }

    /// The same, started by the command that is made of the folder with its files.
    fn serving_by(prepared: impl FnOnce(&Path) -> Command, stdout: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = upstream.local_addr().unwrap().port();
        let policy = format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1, addresses: {{allow: [127.0.0.0/8]}},
              rules: [{{name: plain, host: plain.test, ports: [{port}], scheme: http}}]}}"
        );
        std::fs::write(at("policy.yaml"), policy).unwrap();
        static NEXT: AtomicU8 = AtomicU8::new(100);
        let bind = Ipv4Addr::new(127, 0, 91, NEXT.fetch_add(1, Ordering::Relaxed));
        let command = prepared(folder.path());
        let (child, address) = Self::start_with(command, folder.path(), (bind, 0).into(), stdout);
        Self { child, address, upstream, folder }
    }

    /// The process, and its base-URL entrance. Each process of a test has the same address and no other test has it, so that a port
    /// which is given up is nobody's.
    fn start(folder: &Path, entrance: SocketAddr, stdout: Stdio) -> (Child, SocketAddr) {
        let command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
        Self::start_with(command, folder, entrance, stdout)
    }

    fn start_with(
        mut command: Command,
        folder: &Path,
        entrance: SocketAddr,
        stdout: Stdio,
    ) -> (Child, SocketAddr) {
        command.arg("serve").arg("--policy").arg(folder.join("policy.yaml"));
        command.arg("--secrets").arg(folder).arg("--state").arg(folder);
        command.arg(format!("--bind={}", entrance.ip())).arg(format!("--base-url-port={}", entrance.port()));
        command.args([
            "--resolve",
            "plain.test=127.0.0.1",
            "--http-port=0",
            "--socks-port=0",
            "--admin-port=0",
        ]);
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let listens = log.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let address = listens
            .filter(|line| line["fields"]["port"] == "Entrance(BaseUrl)")
            .map(|line| line["fields"]["address"].as_str().unwrap().parse().unwrap())
            .next()
            .unwrap();
        // Its log must not fill the pipe.
        std::thread::spawn(move || log.for_each(drop));
        (child, address)
    }

    fn ask(&self) -> TcpStream {
        let mut io = TcpStream::connect(self.address).unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        io.write_all(b"GET /plain/v1 HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n").unwrap();
        io
    }

    /// The upstream's end of the connection, once the head of a request is in.
    fn arrived(&self) -> TcpStream {
        let (mut io, _) = self.upstream.accept().unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            io.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        io
    }

    /// How it ended, which it does of itself.
    fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            let is_late = begin.elapsed() > PATIENCE;
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(!is_late, "it still runs after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is on its standard output once it has ended.
    fn record(&mut self) -> Vec<Value> {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let schema = serde_json::from_str(&Described::Audit.schema()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().for_each(|line| assert!(jsonschema::is_valid(&schema, line), "{line}"));
        lines
    }
}

fn events(record: &[Value]) -> Vec<&str> {
    record.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[test]
fn what_was_sent_is_on_record_when_the_process_is_killed() {
    let mut proxy = Proxy::serving(Stdio::piped());
    let _agent = proxy.ask();
    let _upstream = proxy.arrived();
    proxy.child.kill().unwrap();
    let record = proxy.record();
    assert_eq!(events(&record), ["begin"]);
    assert_eq!((&record[0]["host"], &record[0]["path"]), (&"plain.test".into(), &"/v1".into()));
}

#[test]
fn p_i5_a_full_disk_or_a_closed_pipe_denies_and_sends_nothing() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for stdout in [Stdio::from(File::options().write(true).open("/dev/full").unwrap()), closed()] {
        let proxy = Proxy::serving(stdout);
        let mut told = String::new();
        proxy.ask().read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("AuditUnavailable"), "{told}");
        proxy.upstream.set_nonblocking(true).unwrap();
        assert!(proxy.upstream.accept().is_err(), "nothing was dialled");
    }
    let proxy = Proxy::serving(Stdio::null());
    let agent = proxy.ask();
    let mut upstream = proxy.arrived();
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut told = String::new();
    BufReader::new(agent).read_line(&mut told).unwrap();
    assert_eq!(told, "HTTP/1.1 200 OK\r\n");
}

#[test]
fn the_record_is_whole_before_a_pod_is_killed_though_a_stream_is_open() {
    let mut proxy = Proxy::serving(Stdio::piped());
    let _agent = proxy.ask();
    let mut upstream = proxy.arrived();
    upstream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
    let pid = rustix::process::Pid::from_child(&proxy.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // That it drains for less time than its pod is given is claimed where both numbers are seen, in tests/house.
    assert!(proxy.ended().success());
    let record = proxy.record();
    assert_eq!(events(&record), ["begin", "end"]);
    assert_eq!((&record[1]["status"], &record[1]["requestId"]), (&200.into(), &record[0]["requestId"]));
}

#[test]
fn a_proxy_that_is_to_end_ends_by_itself_from_the_moment_on_at_which_it_listens() {
    for _ in 0..5 {
        let mut proxy = Proxy::serving(Stdio::null());
        let pid = rustix::process::Pid::from_child(&proxy.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(proxy.ended().success());
    }
}

#[test]
fn p_c14_a_killed_proxy_serves_nobody_and_goes_on_with_its_ca_when_it_is_back() {
    let mut proxy = Proxy::serving(Stdio::null());
    let ca = std::fs::read(proxy.folder.path().join("ca.crt")).unwrap();
    for kills in 0..3 {
        let agent = proxy.ask();
        let mut upstream = proxy.arrived();
        upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        let mut told = String::new();
        BufReader::new(agent).read_line(&mut told).unwrap();
        assert_eq!(told, "HTTP/1.1 200 OK\r\n", "after {kills} kills");
        proxy.child.kill().unwrap();
        proxy.child.wait().unwrap();
        assert!(TcpStream::connect(proxy.address).is_err(), "nothing answers in its place");
        let (child, address) = Proxy::start(proxy.folder.path(), proxy.address, Stdio::null());
        assert_eq!(address, proxy.address);
        proxy.child = child;
        assert_eq!(std::fs::read(proxy.folder.path().join("ca.crt")).unwrap(), ca);
    }
}

#[test]
fn p_f11_memory_is_locked_where_no_limit_forbids_it() {
    use rustix::process::{Resource, getrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    let privileged = capabilities(None).unwrap().effective.contains(CapabilitySet::IPC_LOCK);
    let may_lock = privileged || getrlimit(Resource::Memlock).current.is_none();
    let proxy = Proxy::serving(Stdio::null());
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert_eq!(kilobytes > 1024, may_lock, "{kilobytes} kB");
}

#[test]
fn p_f11_a_proxy_that_crashes_leaves_no_core() {
    use std::os::unix::process::ExitStatusExt;

    use rustix::process::{Resource, getrlimit};
    let crash = |child: &mut Child| {
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
        child.wait().unwrap()
    };
    let mut proxy = Proxy::serving(Stdio::null());
    let status = std::fs::read_to_string(format!("/proc/{}/limits", proxy.child.id())).unwrap();
    let core = status.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let ended = crash(&mut proxy.child);
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(6), false));
    // The control: of another process that crashes there is one, where the machine lets files of them be made.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if getrlimit(Resource::Core).maximum == Some(0) || pattern.starts_with(['|', '/']) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut other = Command::new("sh");
    other.args(["-c", "ulimit -c unlimited; echo; exec sleep 60"]).current_dir(folder.path());
    let mut other = other.stdout(Stdio::piped()).spawn().unwrap();
    other.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let ended = crash(&mut other);
    assert!(ended.core_dumped(), "{ended:?}");
}

#[test]
fn p_f11_nobody_but_root_looks_into_the_process_that_holds_keys() {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::os::unix::process::CommandExt;

    // A process of root's belongs to root in any case, so that one of somebody else's has to be looked at.
    let is_root = rustix::process::geteuid().is_root();
    let as_user = |command: &mut Command| {
        if is_root {
            command.uid(65532).gid(65532);
        }
    };
    let proxy = Proxy::serving_by(
        |folder| {
            // Whoever it runs as need not be able to reach the folder that it was built into.
            let copy = folder.join("agentsandbox-proxy");
            // Not by this process: what another test forks meanwhile would hold it open for writing, and nobody could execute it.
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_agentsandbox-proxy")).arg(&copy).status();
            assert!(copied.unwrap().success());
            let mut command = Command::new(copy);
            if is_root {
                chown(folder, Some(65532), Some(65532)).unwrap();
            }
            as_user(&mut command);
            command
        },
        Stdio::null(),
    );
    let mut other = Command::new("sleep");
    as_user(other.arg("600"));
    let mut other = other.spawn().unwrap();
    let file = |pid: u32, name: &str| format!("/proc/{pid}/{name}");
    let opens = |pid: u32, name: &str| {
        let mut asked = Command::new("sh");
        asked.args(["-c", ": < \"$0\"", &file(pid, name)]).stderr(Stdio::null());
        as_user(&mut asked);
        asked.status().unwrap().success()
    };
    let status = std::fs::read_to_string(file(proxy.child.id(), "status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(!uid.split_whitespace().any(|uid| uid == "0"), "{uid}");
    for name in ["environ", "maps", "mem"] {
        let owner = std::fs::metadata(file(proxy.child.id(), name)).unwrap().uid();
        let readable = opens(proxy.child.id(), name);
        // The control: what does not hide itself can be looked into, but that Yama, where it is, keeps memory to its parents.
        let control = opens(other.id(), name);
        let has_yama = Path::new("/proc/sys/kernel/yama").exists();
        assert_eq!((owner, readable), (0, false), "{name}");
        assert!(control || (name == "mem" && has_yama), "{name} of another process cannot be read either");
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn p_i10_nothing_is_fetched_at_start_up() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1,
        rules: [{name: a, host: api.good.test, ports: [443], scheme: https}]}";
    std::fs::write(&policy, text).unwrap();
    // A network of its own, in which nothing can be reached but itself. Whatever runs in it ends with its first process.
    let script = "ip link set lo up && ! ip route get 192.0.2.1 2>/dev/null || exit 9
        \"$0\" \"$@\" &
        \"$0\" await-serving && exec 3<>/dev/tcp/127.0.0.1/9090 || exit 8
        printf 'GET /readyz HTTP/1.1\\r\\nhost: proxy\\r\\nconnection: close\\r\\n\\r\\n' >&3 && cat <&3";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "bash",
        "-c",
        script,
    ]);
    command.arg(env!("CARGO_BIN_EXE_agentsandbox-proxy")).arg("serve").arg("--policy").arg(&policy);
    command.arg("--secrets").arg(folder.path()).arg("--state").arg(folder.path());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.starts_with("HTTP/1.1 200 "), "{}: {told}{log}", output.status);
}

/// The proxy, run by a shell with this limit on open files (`ulimit`).
fn with_files(limit: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        &format!("ulimit {limit} && exec \"$0\" \"$@\""),
        env!("CARGO_BIN_EXE_agentsandbox-proxy"),
    ]);
    shell
}

#[test]
fn p_i4_a_low_limit_on_open_files_is_raised_and_where_it_cannot_be_fewer_connections_are_served() {
    // Too low to start with, unless it is raised; and enough for one connection that cannot be raised.
    for (limit, served) in [("-S -n 64", 8), ("-n 643", 1)] {
        let mut proxy = Proxy::serving(Stdio::null());
        let _ = proxy.child.kill();
        let _ = proxy.child.wait();
        let folder = proxy.folder.path().to_owned();
        let entrance = SocketAddr::new(proxy.address.ip(), 0);
        (proxy.child, proxy.address) = Proxy::start_with(with_files(limit), &folder, entrance, Stdio::null());
        let held: Vec<_> = (0..served).map(|_| (proxy.ask(), proxy.arrived())).collect();
        let mut more = proxy.ask();
        if served == 1 {
            let read = more.read(&mut [0]);
            assert!(!matches!(read, Ok(1..)), "{limit}: {read:?}");
        } else {
            proxy.arrived();
        }
        drop(held);
    }
}

#[test]
fn p_i4_without_files_for_one_connection_the_proxy_does_not_start_and_says_what_it_needs() {
    let proxy = Proxy::serving(Stdio::null());
    let mut command = with_files("-n 100");
    command.arg("serve").arg("--policy").arg(proxy.folder.path().join("policy.yaml"));
    command.arg("--secrets").arg(proxy.folder.path()).arg("--state").arg(proxy.folder.path());
    let ended = command.output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(64), "{told}");
    assert!(told.contains("the limit on open files is 100; raise it to 2688 or more"), "{told}");
}
