//! `clients.yaml`: clients, their targets and where their programs come from, as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentsandbox_crds::preset::Preset;
use serde::Deserialize;

use crate::entrance::Entrance;
use crate::failure::{During, Failure, Result};

/// Everything that is run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Programs that are installed into the cache.
    pub parts: Vec<Part>,
    /// Stand-ins beside those of the test internet.
    pub stands: Vec<Stand>,
    /// Proxies between ours and the internet.
    pub fronts: Vec<Front>,
    /// What an agent is given in the place of keys.
    pub placeholders: Vec<Placeholder>,
    /// What clients ask for.
    pub targets: BTreeMap<String, Target>,
    /// The clients.
    pub clients: Vec<Client>,
    /// Conformance suites that others wrote.
    pub judges: Vec<Judge>,
}

/// Programs from one package registry, or another proxy that the conformance suite installs as well.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name; scripts find its folder in `$part_<name>`.
    pub name: String,
    /// Parts that must be there before.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The script that fills the current folder. Versions are pinned here.
    #[serde(default)]
    pub run: String,
    /// The proxy's name among the peers of `cargo xtask conformance`, in place of a script.
    #[serde(default)]
    pub peer: String,
}

/// An organisation's own proxy, which is one of the stand-ins: it takes [`names::PROXY_USER`](agentsandbox_world::names::PROXY_USER) with the
/// password of the test internet, and opens no way for `visitors` with the same.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// Its name.
    pub name: String,
    /// The stand-in that it is.
    pub host: String,
    /// Where it listens, as a class names it.
    pub url: String,
    /// The script that prints its version.
    pub version: String,
    /// The clients that are sent through it.
    pub clients: Vec<String>,
}

impl Front {
    /// The port that it listens at.
    ///
    /// # Errors
    /// When its URL does not end with one.
    pub fn port(&self) -> Result<u16> {
        let port = self.url.rsplit(':').next().and_then(|port| port.parse().ok());
        port.during("a front's URL ends with a port")
    }
}

/// A server in the internet's namespace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stand {
    /// The name that it has a certificate for, in `$CERTIFICATE` and `$KEY`.
    pub host: String,
    /// Other names of its certificate.
    #[serde(default)]
    pub also: Vec<String>,
    /// Where its program comes from.
    pub needs: Vec<String>,
    /// How many seconds it may take until it is ready, where that is longer than others may.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// The script that starts it. It prints `ready`, and appends a line of JSON to `$SEEN` for each request. `$PROXY_PASSWORD` is what an
    /// organisation's own proxy takes; `$HOME` is a folder of its own, and nothing else is in its environment but `$PATH`.
    pub run: String,
}

/// A placeholder, as the operator issues it to one sandbox for one credential.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placeholder {
    /// The credential of `policy.yaml`.
    pub credential: String,
    /// The preset that names its variables, and what it begins with.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// Its variable, where there is no preset.
    #[serde(default)]
    pub variable: Option<String>,
    /// What the agent holds.
    pub value: String,
}

/// A host, what the policy allows there and what it denies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The host.
    pub host: String,
    /// Its port, where it is not the scheme's own.
    #[serde(default)]
    pub port: Option<u16>,
    /// The host that it hands requests on to, where it is a gateway with a key of its own: what arrives is looked for there.
    #[serde(default)]
    pub behind: Option<String>,
    /// The name of its rule.
    pub rule: String,
    /// What the path of an allowed request begins with.
    pub allowed: String,
    /// What the path of a denied request begins with; no rule allows it.
    pub denied: String,
    /// The field that the key is added in, and what it then holds.
    pub key: (String, String),
}

/// A client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// Parts that hold its programs; none means that the machine has them.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Whether it is run by `cargo test`: it needs no part, and little time.
    #[serde(default)]
    pub quick: Quick,
    /// The script that prints its version.
    pub version: String,
    /// What it asks for.
    pub target: String,
    /// The entrances that it can use.
    pub entrances: Vec<Entrance>,
    /// The script that makes one request to `$BASE`, ends with 0 only if it was answered, and prints what the client says.
    pub run: String,
    /// What it says when it was answered.
    #[serde(default)]
    pub says: String,
    /// A field, and its value, that its request arrives with.
    #[serde(default)]
    pub arrives: Option<(String, String)>,
    /// The table that its rows stand in.
    #[serde(default)]
    pub table: Table,
    /// Whether it sends the placeholder that it holds to whichever host it is told to ask.
    #[serde(default)]
    pub holds: bool,
    /// Why it does not show the denial itself, where it does not.
    #[serde(default)]
    pub hides: String,
    /// What somebody who uses it must know.
    #[serde(default)]
    pub note: String,
}

/// A table of `docs/clients.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    /// Clients.
    #[default]
    Clients,
    /// Gateways of other people's, as destinations.
    Gateways,
}

/// Whether a client belongs to the quick runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quick {
    /// Only in whole runs.
    #[default]
    No,
    /// In all runs.
    Yes,
}

/// A conformance suite.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// Its name.
    pub name: String,
    /// Parts that hold its program.
    pub needs: Vec<String>,
    /// The entrance that it is sent through.
    pub entrance: Entrance,
    /// What it asks for.
    pub target: String,
    /// The script that prints its version.
    pub version: String,
    /// The script that prints a line `PASS case` or `FAIL case: why` for each case.
    pub run: String,
    /// The rule that is taken away once as many requests have arrived as there are cases; each of them rests until then.
    #[serde(default)]
    pub loses: Option<String>,
    /// How many cases it has: fewer would be a suite that broke off.
    pub cases: usize,
}

impl Catalogue {
    /// Reads the catalogue of this package.
    ///
    /// # Errors
    /// When it is not there, or names what is not in it.
    pub fn read() -> Result<Self> {
        let file = folder().join("clients.yaml");
        let text = std::fs::read_to_string(&file).during(format!("{} cannot be read", file.display()))?;
        let catalogue: Self = serde_yaml::from_str(&text).during(file.display())?;
        for (name, target) in catalogue.wanted() {
            if !catalogue.targets.contains_key(target) {
                return Err(Failure::new(format!("{name} asks for {target:?}, which is no target")));
            }
        }
        for front in &catalogue.fronts {
            let known = |name: &String| catalogue.clients.iter().any(|client| client.name == *name);
            if let Some(unknown) = front.clients.iter().find(|name| !known(name)) {
                return Err(Failure::new(format!("{} names {unknown:?}, which is no client", front.name)));
            }
        }
        Ok(catalogue)
    }

    /// The variables of an agent that hold placeholders.
    ///
    /// # Errors
    /// When a preset cannot be read.
    pub fn placeholder_variables(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for placeholder in &self.placeholders {
            let mut set = |name: String| all.insert(name, placeholder.value.clone());
            if let Some(preset) = placeholder.preset {
                let preset = preset.definition().during(preset.as_str())?;
                preset.placeholder_env.into_iter().for_each(|one| drop(set(one.name)));
            }
            placeholder.variable.clone().map(set);
        }
        Ok(all)
    }

    /// The clients that are sent through a front.
    pub fn clients_of<'a>(&'a self, front: &'a Front) -> impl Iterator<Item = &'a Client> {
        self.clients.iter().filter(|client| front.clients.contains(&client.name))
    }

    /// The parts that a stand-in needs.
    pub fn parts_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a str> {
        let stands = self.stands.iter().filter(move |stand| stand.host == host);
        stands.flat_map(|stand| &stand.needs).map(String::as_str)
    }

    /// The parts that the stand-in of a client's target needs, if it is none of the test internet's.
    pub fn parts_behind<'a>(&'a self, client: &Client) -> impl Iterator<Item = &'a str> {
        let host = self.targets.get(&client.target).map(|target| &*target.host);
        let stands = self.stands.iter().filter(move |stand| {
            host.is_some_and(|host| stand.host == host || stand.also.iter().any(|name| name == host))
        });
        stands.flat_map(|stand| &stand.needs).map(String::as_str)
    }

    /// A target by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn target(&self, name: &str) -> Result<&Target> {
        self.targets.get(name).ok_or_else(|| Failure::new(format!("there is no target {name:?}")))
    }

    fn wanted(&self) -> impl Iterator<Item = (&str, &str)> {
        let clients = self.clients.iter().map(|client| (&*client.name, &*client.target));
        clients.chain(self.judges.iter().map(|judge| (&*judge.name, &*judge.target)))
    }
}

/// The folder of this package, with its data.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    let folder = folder();
    folder.ancestors().nth(2).unwrap_or(&folder).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell goes on after a command that fails on the left of `&&`, and what is below a mount that failed is the machine's own.
    #[test]
    fn a_stand_ends_where_a_mount_or_a_copy_fails_and_writes_into_no_file_of_the_machine() {
        let stands = Catalogue::read().unwrap().stands;
        for stand in &stands {
            for line in stand.run.lines() {
                let prepares = line.contains("mount ") || line.contains("cp ");
                assert!(!prepares || !(line.contains("&&") || line.contains("||")), "{}: {line}", stand.host);
                assert!(!line.contains("> /etc") && !line.contains(">/etc"), "{}: {line}", stand.host);
            }
            let below = stand.run.find("/mnt/").unwrap_or(usize::MAX);
            assert!(below == usize::MAX || stand.run.find("mount -t tmpfs").is_some_and(|at| at < below));
        }
        assert!(stands.iter().any(|stand| stand.run.contains("/mnt/shadow")), "Dante's was looked at");
    }

    #[test]
    fn placeholders_have_the_shape_that_the_operator_issues() {
        for placeholder in Catalogue::read().unwrap().placeholders {
            let preset = placeholder.preset.map(|preset| preset.definition().unwrap().placeholder_env);
            for variable in preset.unwrap_or_default() {
                let digits = placeholder.value.strip_prefix(&variable.prefix.unwrap()).unwrap();
                assert_eq!(digits.len(), 32, "{}", variable.name);
                assert!(digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')), "{digits}");
            }
        }
    }
}
