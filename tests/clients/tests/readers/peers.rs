//! Other readers of URLs, as they are installed: programs that answer line by line, and nginx. A reader that is missing fails the test,
//! for what it would have found is not known then.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use agentsandbox_clients::catalogue;
use serde::Deserialize;
use serde_json::Value;
use xtask::peers::{Peer, installed};

/// How long a program may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// What a reader read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Why it read nothing.
    pub refused: Option<String>,
    pub host: String,
    pub port: u32,
    /// Decoded, and its bytes in hexadecimal.
    pub path: String,
    /// The same without dot segments and without a slash at the end.
    pub cleaned: String,
    /// The same without parameters of its last segment.
    pub bare: String,
    pub query: String,
    /// Values of the query's parameters that are named `key`, in any letter case.
    pub keys: Option<Vec<String>>,
}

/// A program that answers each line of JSON with one.
pub struct Lines {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Lines {
    fn start(command: &mut Command, missing: &str) -> Self {
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{missing}: {error}"));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    /// Python and libcurl.
    pub fn python() -> Self {
        let script = catalogue::folder().join("drivers/read_url.py");
        Self::start(Command::new("python3").arg(script), "install python3, which this test reads URLs with")
    }

    /// Go, built into this folder.
    pub fn go(folder: &Path) -> Self {
        let program = folder.join("read_url");
        let source = catalogue::folder().join("drivers/read_url.go");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(source).env("CGO_ENABLED", "0").current_dir(folder);
        let built = build.status();
        let built =
            built.unwrap_or_else(|error| panic!("install Go, which this test reads URLs with: {error}"));
        assert!(built.success(), "the program of Go cannot be built");
        Self::start(&mut Command::new(&program), "the program of Go cannot be started")
    }

    /// What it read in each of them, by the names of its readers.
    pub fn ask(self, asked: &[Value]) -> Vec<BTreeMap<String, Seen>> {
        let Self { mut child, input, output } = self;
        let lines: String = asked.iter().map(|one| format!("{one}\n")).collect();
        // Both pipes would fill up if all were written first.
        let writing = std::thread::spawn(move || {
            let mut input = input;
            input.write_all(lines.as_bytes())
        });
        let answers: Vec<_> =
            output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        writing.join().unwrap().expect("a reader ended too early; what it said stands above");
        assert!(child.wait().unwrap().success(), "a reader failed; what it said stands above");
        assert_eq!(answers.len(), asked.len());
        answers
    }
}

/// nginx, which tells what it read in a request.
pub struct Nginx {
    child: Child,
    socket: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Nginx {
    /// Starts it with everything of its own in this folder.
    pub fn start(folder: &Path) -> Self {
        let peer = installed(Peer::Nginx).unwrap();
        let (socket, at) = (folder.join("nginx.sock"), folder.display());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/error.log crit;\n\
             events {{}}\n\
             http {{ access_log off; {temporary} default_type text/plain; server {{\n\
             listen unix:{}; return 200 \"$host\\n$arg_key\\n$args\\n$uri\"; }} }}\n",
            socket.display()
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(peer.program);
        command.env("LD_LIBRARY_PATH", peer.libraries).arg("-p").arg(folder).arg("-c").arg(&file);
        let mut child = command.arg("-e").arg(folder.join("start.log")).spawn().unwrap();
        let begin = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(
                child.try_wait().unwrap().is_none(),
                "nginx ended: {}",
                fs::read_to_string(folder.join("start.log")).unwrap()
            );
            assert!(begin.elapsed() < READY_TIMEOUT, "nginx does not listen");
            std::thread::yield_now();
        }
        Self { child, socket }
    }

    /// What it reads in a request with this authority and target.
    pub fn ask(&self, authority: &str, target: &str) -> Seen {
        let mut io = UnixStream::connect(&self.socket).unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        io.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).unwrap();
        let refused = |why: &str| Seen { refused: Some(why.to_owned()), ..Seen::default() };
        let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
            return refused("no head");
        };
        let (head, body) = answer.split_at(end + 4);
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return refused("not 200");
        }
        let mut lines = body.splitn(4, |byte| *byte == b'\n');
        let mut next = || lines.next().unwrap_or_default();
        let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        let (host, key, query, path) = (text(next()), text(next()), text(next()), next());
        let (path, cleaned) = (hexadecimal(path), hexadecimal(without_last_slash(path)));
        Seen { host, path, cleaned, query, keys: Some(vec![key]), ..Seen::default() }
    }
}

pub fn without_last_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").filter(|path| !path.is_empty()).unwrap_or(path)
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
