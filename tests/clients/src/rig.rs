//! The proxy and the internet, running in their namespaces, and what both have seen.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use agentsandbox_world::authority::Authority;
use agentsandbox_world::client::Client as World;
use agentsandbox_world::journal::{PacketFilter, Request};
use agentsandbox_world::names;
use agentsandbox_world::servers::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::catalogue::{self, Catalogue, Stand};
use crate::failure::{During, Failure, Result};
use crate::front::Way;
use crate::held::{Held, START_TIMEOUT, said_ready, until};
use crate::install::Folders;
use crate::netns::{AGENT, Namespaces, PROXY};
use crate::wire::has;

/// The internet's name server.
const WORLD_DNS: &str = "9.9.9.9";
/// The secrets by their file's name. Each is the key that the stand-in behind it accepts, and nobody else may see it.
const SECRETS: [(&str, &str); 7] = [
    ("echo", "real-key-of-echo-5f1d"),
    ("anthropic", "sk-ant-real-key-8c2e"),
    ("openai", "sk-real-key-of-openai-77aa"),
    ("github", "ghp_real-key-of-github-19b4"),
    ("index", "real-key-of-indexes-3e90"),
    ("litellm", "sk-litellm-real-key-2b6f"),
    ("models", "real-key-of-models-4d17"),
];
/// The name of the login at an upstream proxy.
pub const LOGIN: &str = "corporate";

/// Everything but the clients.
pub struct Rig {
    // Before the folder that it writes into.
    proxy: Option<Held>,
    children: Vec<Held>,
    /// The variables of an agent that hold placeholders.
    pub placeholders: BTreeMap<String, String>,
    policy: serde_json::Value,
    /// Where clients, proxy and stand-ins are.
    pub spaces: Namespaces,
    world: World,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

/// Builds the proxy and the internet, and puts the programs of its real servers into the cache.
///
/// # Errors
/// When either does not build, or a server's programs cannot be had.
pub fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--bin", "agentsandbox-proxy", "--bin", "agentsandbox-world"]);
    shown(build.current_dir(catalogue::repository()))?;
    shown(Command::new(program("agentsandbox-world")).arg("prepare"))
}

impl Rig {
    /// Starts everything, and the stand-ins whose parts are installed.
    ///
    /// # Errors
    /// When a part does not start, or does not answer in time.
    pub fn start(catalogue: &Catalogue, folders: &Folders) -> Result<Self> {
        let folder = tempfile::tempdir().during("there is no place for the run's files")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.during("there is no runtime")?;
        let spaces = Namespaces::create(folder.path(), WORLD_DNS)?;
        let world = World::new(&folder.path().join("world"));
        let (placeholders, policy) = (catalogue.placeholder_variables()?, policy(catalogue)?);
        let mut rig =
            Self { placeholders, policy, proxy: None, children: Vec::new(), spaces, world, runtime, folder };
        if let Some(indexes) = folders.get("part_indexes") {
            fs::create_dir_all(rig.folder.path().join("world")).during("the internet's folder")?;
            std::os::unix::fs::symlink(
                Path::new(indexes).join("sites"),
                rig.folder.path().join("world/sites"),
            )
            .during("the static indexes cannot be put in place")?;
        }
        rig.start_world()?;
        for stand in &catalogue.stands {
            if stand.needs.iter().all(|part| folders.contains_key(&format!("part_{part}"))) {
                rig.start_stand(stand, folders)?;
            }
        }
        rig.furnish_proxy()?;
        rig.serve(None)?;
        rig.write_trust()?;
        Ok(rig)
    }

    /// The folder with the files of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder with the agent's trust files.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.folder.path().join("trust")
    }

    /// Whether bytes hold any key, in plain or as Basic has it.
    #[must_use]
    pub fn key_in(bytes: &[u8]) -> Option<&'static str> {
        // The base64 of `x-access-token:` and the whole key; its first half is the user's name, which is no secret.
        let basic = b"Z2hwX3JlYWwta2V5";
        let plain = SECRETS.iter().find(|(_, secret)| has(bytes, secret.as_bytes())).map(|(name, _)| *name);
        plain.or_else(|| has(bytes, basic).then_some("github"))
    }

    /// Whether a text holds any secret: a key, or the login at the organisation's own proxy.
    #[must_use]
    pub fn secret_in(text: &str) -> Option<&'static str> {
        let basic = BASE64.encode(format!("{}:{}", names::PROXY_USER, names::PROXY_PASSWORD));
        let login = [names::PROXY_PASSWORD, &basic].iter().any(|secret| text.contains(secret));
        Self::key_in(text.as_bytes()).or_else(|| login.then_some(LOGIN))
    }

    /// Forgets what the internet has seen.
    ///
    /// # Errors
    /// When it does not answer; so do the others.
    pub fn forget(&self) -> Result<()> {
        for seen in self.seen_files() {
            fs::write(seen, "").during("a stand-in's journal cannot be emptied")?;
        }
        self.runtime.block_on(self.world.reset()).during("the internet forgets nothing")
    }

    /// The requests that arrived.
    ///
    /// # Errors
    /// As [`Rig::forget`].
    pub fn requests(&self) -> Result<Vec<Request>> {
        let seen = self.runtime.block_on(self.world.requests()).during("the internet does not tell")?;
        let mut all = seen.entries;
        for file in self.seen_files() {
            let text = fs::read_to_string(&file).during(format!("{} cannot be read", file.display()))?;
            for line in text.lines() {
                all.push(serde_json::from_str(line).during("a stand-in's journal")?);
            }
        }
        Ok(all)
    }

    /// The names that were asked for.
    ///
    /// # Errors
    /// As [`Rig::forget`].
    pub fn names_asked_for(&self) -> Result<Vec<String>> {
        let asked = self.runtime.block_on(self.world.dns()).during("the internet does not tell")?;
        Ok(asked.entries.into_iter().map(|question| question.name).collect())
    }

    /// How many packets arrived, of the agent's and of the proxy's.
    ///
    /// # Errors
    /// As [`Rig::forget`].
    pub fn packets(&self) -> Result<(usize, usize)> {
        let agent: IpAddr = AGENT.parse().during("the agent's address")?;
        let seen = self.runtime.block_on(self.world.packets(PacketFilter::default()));
        let seen = seen.during("the internet does not tell")?.entries;
        let own = seen.iter().filter(|packet| packet.source == agent).count();
        Ok((own, seen.len() - own))
    }

    /// Where the audit trail ends now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit_end(&self) -> Result<u64> {
        fs::metadata(self.audit_file()).map(|file| file.len()).during("the audit trail cannot be read")
    }

    /// What the audit trail says from there on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit_since(&self, begin: u64) -> Result<Vec<Value>> {
        let mut text = String::new();
        let mut file = fs::File::open(self.audit_file()).during("the audit trail cannot be read")?;
        file.seek(SeekFrom::Start(begin)).during("the audit trail cannot be read")?;
        file.read_to_string(&mut text).during("the audit trail cannot be read")?;
        text.lines().map(|line| serde_json::from_str(line).during("the audit trail has a line")).collect()
    }

    fn audit_file(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    fn seen_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).into_iter().flatten().filter_map(|entry| entry.ok());
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "seen")).collect()
    }

    fn start_world(&mut self) -> Result<()> {
        let state = self.folder.path().join("world");
        let mut command = self.spaces.world.command(program("agentsandbox-world"));
        command.arg("--state").arg(&state);
        let world = self.started(command, "world.log")?;
        self.children.push(world);
        let client = self.world.clone();
        let ready = || async {
            let states = client.status().await.ok()?;
            (!states.is_empty() && !states.values().any(|state| *state == State::Starting)).then_some(states)
        };
        let states = until("the internet", || self.runtime.block_on(ready()))?;
        if let Some((kind, state)) = states.iter().find(|(_, state)| **state != State::Ready) {
            return Err(Failure::new(format!("the {kind} server of the test internet: {state}")));
        }
        let keys = SECRETS.map(|(name, secret)| (if name == "github" { "git" } else { name }, secret));
        self.runtime.block_on(self.world.set_keys(keys)).during("the internet takes no keys")
    }

    fn start_stand(&mut self, stand: &Stand, folders: &Folders) -> Result<()> {
        let path = |ending: &str| self.folder.path().join(format!("{}.{ending}", stand.host));
        let names: Vec<&str> = std::iter::once(&stand.host).chain(&stand.also).map(String::as_str).collect();
        let authority = Authority::load_or_create(&self.folder.path().join("world"));
        let pem = authority.during("there is no CA")?.pem(&names).during("no certificate")?;
        fs::write(path("crt"), pem.certificate).during("a certificate cannot be written")?;
        fs::write(path("key"), pem.key).during("a key cannot be written")?;
        fs::write(path("seen"), "").during("a journal cannot be written")?;
        let log = fs::File::create(path("log")).during("a log cannot be written")?;
        let home = path("home");
        fs::create_dir(&home).during("a home cannot be made")?;
        let mut command = self.spaces.world.contained("sh");
        // What whoever runs this has in the environment, keys among it, is no server's to know, and changes nothing of what is tested.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &home).env("TMPDIR", &home).env("LANG", "C.UTF-8");
        command.args(["-euc", &stand.run]).envs(folders);
        command.env("AUTHORITY", self.folder.path().join("world/ca.crt"));
        command.env("PROXY_PASSWORD", names::PROXY_PASSWORD);
        command.env("CERTIFICATE", path("crt")).env("KEY", path("key")).env("SEEN", path("seen"));
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().during(&stand.host)?;
        let mut child = Held::of(child);
        let within = stand.seconds.map_or(START_TIMEOUT, Duration::from_secs);
        let ready = said_ready(&mut child, within);
        self.children.push(child);
        if ready {
            return Ok(());
        }
        let (log, within) = (fs::read_to_string(path("log")).unwrap_or_default(), within.as_secs());
        Err(Failure::new(format!("the stand-in {} does not start within {within} s: {log}", stand.host)))
    }

    /// The proxy's keys and secrets, before it starts.
    fn furnish_proxy(&self) -> Result<()> {
        let folder = self.folder.path();
        for name in ["secrets", "keys", "state"] {
            fs::create_dir(folder.join(name)).during("a folder of the proxy cannot be made")?;
        }
        for (name, secret) in SECRETS {
            self.put_secret(name, secret)?;
        }
        Authority::load_or_create(&folder.join("keys")).during("the sandbox's CA cannot be made")?;
        fs::write(folder.join("keys/enrolment-token"), "no-fence-is-here-to-show-it").during("the token")
    }

    fn put_secret(&self, name: &str, secret: &str) -> Result<()> {
        let file = self.folder.path().join("secrets").join(name);
        fs::write(file, secret).during("a secret cannot be written")
    }

    /// Starts the proxy, and ends the one that ran: one without connections that are still open. It reaches the internet by this way,
    /// or straight.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn serve(&mut self, way: Option<&Way<'_>>) -> Result<()> {
        self.proxy = None;
        let folder = self.folder.path().to_owned();
        let roots = self.world.ca_certificate().during("the internet has no CA")?;
        let mut policy = self.policy.clone();
        policy["upstream"] = serde_json::json!({"additionalRoots": roots});
        if let Some(way) = way {
            self.put_secret(LOGIN, way.password)?;
            policy["upstream"]["proxy"] = serde_json::json!({"url": way.front.url, "credential": LOGIN});
            let credentials = policy["credentials"].as_array_mut().during("the policy has credentials")?;
            credentials.push(way.credential()?);
        }
        fs::write(folder.join("policy.yaml"), policy.to_string()).during("the policy cannot be written")?;
        let proxy = program("agentsandbox-proxy");
        let mut command = self.spaces.proxy.command(&proxy);
        command.arg("serve").arg("--policy").arg(folder.join("policy.yaml"));
        for name in ["secrets", "keys", "state"] {
            command.arg(format!("--{name}")).arg(folder.join(name));
        }
        command.args(["--enrolled", AGENT, "--advertise", PROXY]);
        let audit = fs::File::create(self.audit_file()).during("the audit trail cannot be written")?;
        command.stdout(audit);
        self.proxy = Some(self.started(command, "proxy.log")?);
        let mut wait = self.spaces.proxy.command(&proxy);
        let waited = wait.args(["await-serving"]).output().during("the proxy cannot be asked")?;
        if waited.status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(folder.join("proxy.log")).unwrap_or_default();
        Err(Failure::new(format!("the proxy does not serve: {log}")))
    }

    /// Takes a rule out of the document that the proxy obeys, which reads it anew by itself. It is there again with [`Rig::serve`].
    ///
    /// # Errors
    /// When the document cannot be read or written.
    pub fn lose(&self, rule: &str) -> Result<()> {
        let file = self.folder.path().join("policy.yaml");
        let text = fs::read_to_string(&file).during("the policy cannot be read")?;
        let mut policy: Value = serde_json::from_str(&text).during("the policy cannot be read")?;
        policy["rules"].as_array_mut().during("the policy has rules")?.retain(|one| one["name"] != rule);
        fs::write(file, policy.to_string()).during("the policy cannot be written")
    }

    fn write_trust(&self) -> Result<()> {
        let trust = self.trust();
        fs::create_dir(&trust).during("the trust folder cannot be made")?;
        let authority = self.folder.path().join("keys/ca.crt");
        // The sandbox's own CA and no other: a client that got past the proxy would trust nobody there.
        for name in ["ca.crt", "ca-bundle.crt"] {
            fs::copy(&authority, trust.join(name)).during("the bundle cannot be written")?;
        }
        let mut keytool = Command::new("keytool");
        keytool.args(["-importcert", "-noprompt", "-alias", "sandbox", "-storetype", "PKCS12", "-storepass"]);
        keytool
            .arg("changeit")
            .arg("-file")
            .arg(&authority)
            .arg("-keystore")
            .arg(trust.join("truststore.p12"));
        match keytool.output() {
            Ok(out) if !out.status.success() => {
                Err(Failure::new(format!("keytool: {}", String::from_utf8_lossy(&out.stdout))))
            }
            // Without Java there is no client that reads it.
            _ => Ok(()),
        }
    }

    /// Starts a program; what it prints goes to a log in the folder, unless it has a place already.
    fn started(&self, mut command: Command, log: &str) -> Result<Held> {
        let log = fs::File::create(self.folder.path().join(log)).during("a log cannot be written")?;
        command.stderr(log).spawn().map(Held::of).during("a program of the rig cannot be started")
    }
}

/// The policy document, with what the agent is given in the place of keys.
fn policy(catalogue: &Catalogue) -> Result<Value> {
    let text = fs::read_to_string(catalogue::folder().join("policy.yaml")).during("policy.yaml")?;
    let mut policy: Value = serde_yaml::from_str(&text).during("policy.yaml")?;
    let credentials = policy["credentials"].as_array_mut().during("the policy has credentials")?;
    for placeholder in &catalogue.placeholders {
        let credential = credentials.iter_mut().find(|one| one["name"] == *placeholder.credential);
        let credential = credential.during(format!("no credential {}", placeholder.credential))?;
        match credential["placeholders"].as_array_mut() {
            Some(others) => others.push(placeholder.value.as_str().into()),
            None => credential["placeholders"] = serde_json::json!([placeholder.value]),
        }
    }
    Ok(policy)
}

/// Where cargo puts a program of this workspace.
fn program(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| catalogue::repository().join("target")).join(Path::new("debug")).join(name)
}

fn shown(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).status().during(format!("{program} cannot be run"))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{program} ended with {status}"))) }
}
