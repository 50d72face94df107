//! The proxy under test: its process, what it writes down, what it logs, and the memory it has.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentsandbox_conformance::failure::{During, Failure, Result};
use agentsandbox_conformance::vector::Entrance;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::door;
use crate::keys::Slot;
use crate::ledger::{Ledger, Written};

/// It bounds a start or an end that hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of the log that are shown with a wrong thing.
const LOG_LINES_KEPT: usize = 30;

/// Its files.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// In this folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        for name in ["secrets", "state"] {
            fs::create_dir_all(folder.join(name)).during("the proxy's folders cannot be made")?;
        }
        Ok(Self(folder.to_owned()))
    }

    /// The policy document, replaced at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn policy(&self, text: &str) -> Result<()> {
        self.replace("policy.yaml", text)
    }

    /// A secret, replaced at once, or deleted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn secret(&self, slot: Slot, value: Option<&str>) -> Result<()> {
        let name = format!("secrets/{}", slot.name());
        match value {
            Some(value) => self.replace(&name, value),
            None => fs::remove_file(self.0.join(name)).during("a secret cannot be deleted"),
        }
    }

    fn replace(&self, name: &str, text: &str) -> Result<()> {
        // Several are written at a time.
        let (file, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &file))
            .during(format!("{name} cannot be written"))
    }

    /// The certificate of its CA.
    ///
    /// # Errors
    /// When there is none.
    pub fn roots(&self) -> Result<String> {
        fs::read_to_string(self.0.join("state/ca.crt")).during("the proxy's CA cannot be read")
    }
}

/// The process, with those who read what it says.
pub struct Proxy {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _already = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts it and waits until its entrances are open.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path, files: &Files, ledger: &Arc<Ledger>) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--policy").arg(files.0.join("policy.yaml"));
        command.arg("--secrets").arg(files.0.join("secrets")).arg("--state").arg(files.0.join("state"));
        command.args(["--tls-port=10443", "--plain-port=10080", "--dns-port=10053", "--advertise=10.96.0.9"]);
        // As in its pod.
        command.arg("--memory-mib=320");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().during(format!("{} cannot be started", program.display()))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let ledger = Arc::clone(ledger);
            readers.push(std::thread::spawn(move || read_audit(BufReader::new(stdout), &ledger)));
        }
        if let Some(stderr) = child.stderr.take() {
            let (ledger, log) = (Arc::clone(ledger), Arc::clone(&log));
            readers.push(std::thread::spawn(move || read_log(BufReader::new(stderr), &ledger, &log)));
        }
        let mut proxy = Self { child, log, readers };
        let begin = Instant::now();
        for entrance in Entrance::ALL.into_iter().filter(|entrance| *entrance != Entrance::Dns) {
            while TcpStream::connect(door(entrance)).is_err() {
                if proxy.has_ended() || begin.elapsed() > PATIENCE {
                    return Err(Failure::new(format!("{entrance:?} is not open: {}", proxy.log())));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // TLS that says nothing is refused, and that is written down.
        ledger.refused(Entrance::TransparentTls);
        Ok(proxy)
    }

    /// Whether it runs no more.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Its resident memory, in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Asks it to end, and waits until all that it had to say is read.
    ///
    /// # Errors
    /// When it does not end of itself.
    pub fn end(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).during("a process has no such number")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).during("the proxy cannot be asked to end")?;
        let begin = Instant::now();
        while !self.has_ended() {
            if begin.elapsed() > PATIENCE {
                return Err(Failure::new("the proxy does not end when it is asked to"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for reader in self.readers.drain(..) {
            reader.join().map_err(|_| Failure::new("a reader of the proxy's output panicked"))?;
        }
        self.child.wait().during("the proxy has no status")
    }
}

fn read_log(lines: impl BufRead, ledger: &Ledger, kept: &Mutex<Vec<String>>) {
    for line in lines.lines().map_while(std::result::Result::ok) {
        ledger.search(line.as_bytes(), "the proxy's log");
        if line.contains("panic") {
            ledger.accuse(format_args!("the proxy's log has: {line}"));
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= LOG_LINES_KEPT {
            kept.remove(0);
        }
        kept.push(line);
    }
}

fn read_audit(lines: impl BufRead, ledger: &Ledger) {
    let mut next = 0;
    for line in lines.lines().map_while(std::result::Result::ok) {
        ledger.search(line.as_bytes(), "the audit trail");
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            ledger.accuse(format_args!("the audit trail has: {line}"));
            continue;
        };
        let seq = value.get("seq").and_then(Value::as_u64);
        if seq != Some(next) {
            ledger.accuse(format_args!("the audit trail goes on from {next} with {line}"));
        }
        next = seq.map_or(next, |seq| seq + 1);
        judge(ledger, &value);
    }
}

/// Hands on a line that is about one request.
fn judge(ledger: &Ledger, line: &Value) {
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let folded = line.get("folded").and_then(Value::as_u64);
    if text("event") == Some("deny") {
        ledger.writes_refusals(text("entrance").unwrap_or_default(), folded.unwrap_or(1));
    }
    let number = text("path").and_then(|path| path.rsplit('/').next()).and_then(|last| last.parse().ok());
    let Some(number) = number.filter(|_| folded.is_none()) else { return };
    let generation = line.get("generation").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let written = Written {
        event: text("event").unwrap_or_default(),
        request_id: text("requestId").unwrap_or_default(),
        entrance: text("entrance").unwrap_or_default(),
        host: text("host").unwrap_or_default(),
        credential: text("credential"),
        reason: text("reason"),
        generation: generation.unwrap_or(u32::MAX),
    };
    ledger.writes(number, &written);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ledger::{NO_SECRET, Told};
    use crate::plan::{Ask, Place};

    #[test]
    fn a_gap_in_the_audit_trail_is_wrong_and_none_is_not() {
        let read = |text: &str| {
            let ledger = Ledger::new(1);
            read_audit(text.as_bytes(), &ledger);
            ledger.first_wrong()
        };
        assert_eq!(read("{\"seq\":0}\n{\"seq\":1}\n"), None);
        assert!(read("{\"seq\":0}\n{\"seq\":2}\n").is_some());
        assert!(read("{\"seq\":0}\n{\"se~torn\n").is_some());
    }

    /// A secret may vanish once its request has begun, and before it is sent.
    #[test]
    fn what_has_begun_has_its_refusal_in_its_end_and_what_has_not_in_a_line_of_its_own() {
        let refused = |events: &[&str]| {
            let ledger = Ledger::new(1);
            ledger.timeline.policy.announce(1);
            ledger.timeline.policy.confirm(1);
            let absent = (0..).find(|version| Slot::Bearer.value(*version).is_none()).unwrap_or_default();
            ledger.timeline.secret(Slot::Bearer).announce(absent);
            let ask = Ask { place: Place::V1, method: "GET", own_key: false, socket: false };
            let number = ledger.asks(Entrance::BaseUrl, ask);
            for event in events {
                let reason = if *event == "begin" { Value::Null } else { NO_SECRET.into() };
                let line = json!({"event": event, "requestId": "r", "entrance": "base-url", "generation": 1,
                    "host": "api.good.test", "credential": "bearer", "path": format!("/v1/{number}"), "reason": reason});
                judge(&ledger, &line);
            }
            ledger.told(number, "request", &Told::Denied(NO_SECRET.to_owned()));
            ledger.close();
            ledger.first_wrong()
        };
        assert_eq!(refused(&["begin", "end"]), None);
        assert_eq!(refused(&["deny"]), None);
        for wrong in [&[][..], &["begin", "end", "deny"], &["deny", "deny"]] {
            assert!(refused(wrong).is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn a_panic_or_a_secret_in_the_log_is_wrong() {
        let read = |text: &str| {
            let (ledger, kept) = (Ledger::new(1), Mutex::default());
            read_log(text.as_bytes(), &ledger, &kept);
            ledger.first_wrong()
        };
        let secret = Slot::Bearer.value(1).unwrap_or_default();
        assert_eq!(read("a line\n"), None);
        assert!(read("thread 'x' panicked at y\n").is_some());
        assert!(read(&format!("key {secret}\n")).is_some());
    }
}
