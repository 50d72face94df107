//! Starts one proxy with the suite's policy, in that proxy's own language, and says where its entrances are.
//!
//! The policy is the same for all: `peers/ours.yaml` is its plainest form. What a proxy has no words for is left out of
//! its configuration, and vectors that need it do not apply.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::client::Door;
use crate::failure::{During, Failure, Result};
use crate::namespace::NAME_SERVER;
use crate::pki::Authority;
use crate::secret::REAL;
use crate::vector::{Entrance, Need, Send};
use crate::world::{GOOD_NAMES, World};

/// How long a proxy may take until its entrances are open.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A proxy that the suite knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Ours.
    Ours,
    /// Envoy.
    Envoy,
    /// mitmproxy.
    Mitmproxy,
    /// Squid.
    Squid,
    /// Tinyproxy.
    Tinyproxy,
}

impl Kind {
    /// All of them, in the order of the scoreboard.
    pub const ALL: [Self; 5] = [Self::Ours, Self::Envoy, Self::Mitmproxy, Self::Squid, Self::Tinyproxy];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Envoy => "envoy",
            Self::Mitmproxy => "mitmproxy",
            Self::Squid => "squid",
            Self::Tinyproxy => "tinyproxy",
        }
    }

    fn doors(self) -> &'static [(Entrance, u16)] {
        use Entrance::{Absolute, BaseUrl, Connect, ConnectH2, Dns, Socks5, TransparentHttp, TransparentTls};
        match self {
            Self::Ours => &[
                (Absolute, 3128),
                (Connect, 3128),
                (ConnectH2, 3128),
                (Socks5, 1080),
                (BaseUrl, 8080),
                (TransparentTls, 10443),
                (TransparentHttp, 10080),
                (Dns, 10053),
            ],
            Self::Envoy => &[
                (Absolute, 3128),
                (Connect, 3128),
                (ConnectH2, 3128),
                (BaseUrl, 8080),
                (TransparentTls, 10443),
                (TransparentHttp, 10080),
            ],
            Self::Mitmproxy => {
                &[(Absolute, 3128), (Connect, 3128), (ConnectH2, 3128), (Socks5, 1080), (BaseUrl, 8080)]
            }
            Self::Squid => &[(Absolute, 3128), (Connect, 3128)],
            Self::Tinyproxy => &[(Absolute, 3128), (Connect, 3128)],
        }
    }

    /// Makes of what is sent in absolute form something that this proxy takes; false where there is nothing of the kind.
    pub(crate) fn in_absolute_form(self, send: &mut Send) -> bool {
        let is_plain = match (&send.scheme, &send.to) {
            (Some(scheme), _) => scheme != "https",
            (None, to) => to.as_ref().is_some_and(|to| to.ends_with(":80")),
        };
        match self {
            Self::Ours | Self::Mitmproxy | Self::Squid => true,
            _ if is_plain => true,
            // "https in the clear" is an error to it, and http to a server of https is upgraded, to port 443.
            Self::Envoy if send.to.as_ref().is_some_and(|to| to.ends_with(":80")) => false,
            Self::Envoy => {
                send.scheme = Some("http".to_owned());
                true
            }
            Self::Tinyproxy if send.to.is_none() && send.scheme.is_none() => {
                send.to = Some("plain.good.test:80".to_owned());
                true
            }
            Self::Tinyproxy => false,
        }
    }

    fn can(self) -> BTreeSet<Need> {
        let all = [Need::Intercept, Need::Inject, Need::Wildcard, Need::Websocket];
        match self {
            // It tunnels TLS as it is and knows plaintext only.
            Self::Tinyproxy => [Need::Wildcard].into(),
            Self::Envoy => [Need::Intercept, Need::Inject, Need::Websocket].into(),
            _ => all.into(),
        }
    }
}

/// Where a proxy's program is.
#[derive(Clone, Debug)]
pub struct Program {
    /// Which proxy.
    pub kind: Kind,
    /// The program.
    pub path: PathBuf,
    /// The folder of its other files.
    pub root: PathBuf,
    /// For `LD_LIBRARY_PATH`.
    pub libraries: PathBuf,
}

/// A running proxy; it ends with this value.
pub struct Proxy {
    /// Which.
    pub kind: Kind,
    /// Where its entrances are.
    pub doors: BTreeMap<Entrance, Door>,
    /// What it can do.
    pub can: BTreeSet<Need>,
    /// The lines of our audit trail; empty for others.
    pub audit: Audit,
    child: Child,
}

/// Lines of our audit trail.
#[derive(Clone, Debug, Default)]
pub struct Audit(Arc<Mutex<Vec<String>>>);

impl Audit {
    /// The lines behind the first `from`.
    #[must_use]
    pub fn since(&self, from: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(from..).unwrap_or_default().to_vec()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _already = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Writes the configuration into a folder, starts the program and waits until its entrances are open.
    ///
    /// # Errors
    /// When it does not start; the sentence holds the end of its log.
    pub fn start(program: &Program, world: &World, folder: &Path) -> Result<Self> {
        let face = Authority::new("the proxy's CA")?;
        let program = &within_reach(program, folder)?;
        configure(program, world, &face, folder)?;
        let log = folder.join("log");
        let file = File::create(&log).during(format!("{} cannot be written", log.display()))?;
        let mut command = command(program, folder)?;
        command.current_dir(folder).env("LD_LIBRARY_PATH", &program.libraries).stdin(Stdio::null());
        command.stderr(file.try_clone().during("a log cannot be shared")?);
        let is_ours = program.kind == Kind::Ours;
        command.stdout(if is_ours { Stdio::piped() } else { Stdio::from(file) });
        let mut child = command.spawn().during(format!("{} cannot be started", program.path.display()))?;
        let audit = Audit::default();
        if let Some(stdout) = child.stdout.take() {
            let lines = audit.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                    lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            });
        }
        let (kind, can) = (program.kind, program.kind.can());
        let mut proxy = Self { kind, doors: BTreeMap::new(), can, audit, child };
        proxy.await_doors(&log)?;
        let roots_pem = match kind {
            Kind::Ours => {
                let file = folder.join("state/ca.crt");
                fs::read_to_string(&file).during(format!("{} cannot be read", file.display()))?
            }
            // It passes TLS on, so the client meets the server itself.
            Kind::Tinyproxy => world.authority.certificate_pem.clone(),
            _ => face.certificate_pem,
        };
        proxy.doors = kind
            .doors()
            .iter()
            .map(|(entrance, port)| {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                (*entrance, Door { address, roots_pem: roots_pem.clone() })
            })
            .collect();
        Ok(proxy)
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn await_doors(&mut self, log: &Path) -> Result<()> {
        let end = Instant::now() + START_TIMEOUT;
        let tcp = self.kind.doors().iter().filter(|(entrance, _)| *entrance != Entrance::Dns);
        for (_, port) in tcp {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_err() {
                if !self.is_alive() || Instant::now() > end {
                    let text = fs::read_to_string(log).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
                    let name = self.kind.as_str();
                    return Err(Failure::new(format!("{name} does not listen on port {port}:\n{tail}")));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// The configuration files as they are committed in `peers/`, and the names that they get in the folder.
const fn templates(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Ours => &[("ours.yaml", "policy.yaml")],
        Kind::Envoy => &[("envoy.yaml", "envoy.yaml")],
        Kind::Mitmproxy => &[("mitmproxy.py", "addon.py")],
        Kind::Squid => &[("squid.conf", "squid.conf")],
        Kind::Tinyproxy => &[("tinyproxy.conf", "tinyproxy.conf"), ("tinyproxy.filter", "filter")],
    }
}

fn configure(program: &Program, world: &World, face: &Authority, folder: &Path) -> Result<()> {
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::write(&file, text).during(format!("{} cannot be written", file.display()))
    };
    for name in ["secrets", "state"] {
        fs::create_dir_all(folder.join(name)).during("the proxy's folders cannot be made")?;
    }
    write("secrets/good", REAL)?;
    let shown = face.identity(&GOOD_NAMES, OffsetDateTime::now_utc() - time::Duration::hours(1))?;
    write("upstream-ca.pem", &world.authority.certificate_pem)?;
    write("face.pem", &shown.certificate_pem)?;
    write("face.key", &shown.key_pem)?;
    write("face-ca.pem", &face.certificate_pem)?;
    write("face-ca.key", &face.key_pem)?;
    // mitmproxy looks for key and certificate in one file of this name.
    write("mitmproxy-ca.pem", &format!("{}{}", face.key_pem, face.certificate_pem))?;
    let indented = world.authority.certificate_pem.replace('\n', "\n    ");
    for (template, name) in templates(program.kind) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(template);
        let text = fs::read_to_string(&file)
            .during(format!("{} cannot be read", file.display()))?
            .replace("@FOLDER@", &folder.display().to_string())
            .replace("@ROOT@", &program.root.display().to_string())
            .replace("@NAME_SERVER@", NAME_SERVER)
            .replace("@REAL@", REAL)
            .replace("@UPSTREAM_CA_INDENTED@", indented.trim_end());
        write(name, &text)?;
    }
    Ok(())
}

fn command(program: &Program, folder: &Path) -> Result<Command> {
    let mut command = Command::new(&program.path);
    let file = |name: &str| folder.join(name);
    match program.kind {
        Kind::Ours => {
            command.arg("serve").arg("--policy").arg(file("policy.yaml"));
            command.arg("--secrets").arg(file("secrets")).arg("--state").arg(file("state"));
            command.args([
                "--tls-port=10443",
                "--plain-port=10080",
                "--dns-port=10053",
                "--advertise=10.96.0.9",
            ]);
        }
        Kind::Envoy => {
            command.arg("-c").arg(file("envoy.yaml")).args(["--concurrency", "1", "--log-level", "warn"]);
        }
        Kind::Mitmproxy => {
            command.args(["--quiet", "--mode", "regular@127.0.0.1:3128", "--mode", "socks5@127.0.0.1:1080"]);
            command.args(["--mode", "reverse:https://api.good.test@127.0.0.1:8080"]);
            command.arg("--scripts").arg(file("addon.py"));
            for option in mitmproxy_options(folder) {
                command.args(["--set", &option]);
            }
        }
        Kind::Squid => {
            // Certificates that it mints are kept in a database of its own, which its helper makes.
            let _absent = fs::remove_dir_all(file("certificates"));
            let mut make = Command::new(program.root.join("usr/lib/squid/security_file_certgen"));
            make.env("LD_LIBRARY_PATH", &program.libraries);
            make.arg("-c").arg("-s").arg(file("certificates")).args(["-M", "4MB"]);
            let made = make.output().during("Squid's certificate helper cannot be started")?;
            if !made.status.success() {
                let said = String::from_utf8_lossy(&made.stderr).into_owned();
                return Err(Failure::new(format!("Squid's certificate helper failed: {said}")));
            }
            open_to_all(folder)?;
            command.args(["-N", "-d", "1", "-f"]).arg(file("squid.conf"));
        }
        Kind::Tinyproxy => {
            command.arg("-d").arg("-c").arg(file("tinyproxy.conf"));
        }
    }
    Ok(command)
}

/// What mitmproxy's documentation offers against the catalogue.
fn mitmproxy_options(folder: &Path) -> Vec<String> {
    let text = |key: &str, value: &str| format!("{key}={value}");
    vec![
        text("confdir", &folder.display().to_string()),
        text("ssl_verify_upstream_trusted_ca", &folder.join("upstream-ca.pem").display().to_string()),
        // Nothing is dialled before the addon has judged.
        text("connection_strategy", "lazy"),
        text("validate_inbound_headers", "true"),
        // Without it, whatever is not HTTP would be relayed.
        text("rawtcp", "false"),
        text("modify_body", &format!("|~s|{}|[redacted]", regex_of(REAL))),
        text("modify_headers", "|~s|alt-svc|"),
    ]
}

fn regex_of(text: &str) -> String {
    let escaped = text.chars().map(|c| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '~') {
            c.to_string()
        } else {
            format!("\\{c}")
        }
    });
    escaped.collect()
}

/// Squid's helpers run as a user of its own, who may not enter the cache: it is copied to where he can read.
fn within_reach(program: &Program, folder: &Path) -> Result<Program> {
    if program.kind != Kind::Squid {
        return Ok(program.clone());
    }
    let root = folder.join("root");
    let mut copy = Command::new("cp");
    let copied = copy.arg("-RT").arg(&program.root).arg(&root).status().during("cp cannot be started")?;
    if !copied.success() {
        return Err(Failure::new("Squid's files cannot be copied"));
    }
    let moved = |path: &Path| {
        path.strip_prefix(&program.root).map_or_else(|_| path.to_owned(), |rest| root.join(rest))
    };
    let (path, libraries) = (moved(&program.path), moved(&program.libraries));
    Ok(Program { kind: program.kind, path, libraries, root })
}

/// Squid drops to a user of its own, who must be able to read and write here.
fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        // What a link leads to is not ours to open.
        if path.is_symlink() || path == folder.join("root") {
            continue;
        }
        let own = path.metadata().during("permissions cannot be read")?.permissions().mode();
        let mode = own | if path.is_dir() { 0o777 } else { 0o666 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).during("permissions cannot be set")?;
        if path.is_dir() {
            let entries = fs::read_dir(&path).during(format!("{} cannot be read", path.display()))?;
            pending.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
    }
    Ok(())
}
