//! A real Kubernetes with real gVisor on this machine, in network namespaces of its own.
//!
//! The node has no uplink: whatever leaves it arrives in a second namespace, `world`, in which every IPv4 address
//! answers. Two clusters differ by name alone; inside their namespaces they use the same addresses.
//!
//! - [`component`]: what runs, with which arguments. - [`process`]: starting, knowing again and ending processes.
//! - [`network`]: namespaces, links and the world's AnyIP. - [`pki`]: certificates and kubeconfigs.
//! - [`cgroup`]: the node's control groups. - [`config`]: files of containerd, kubelet, CNI and the rest.
//! - [`up`], [`down`]: the cluster's life. - [`bootstrap`]: what is applied to it first. - [`relay`]: the API server's way to the host.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::{During, Failure, Result};
use crate::{paths, shell};

pub mod bootstrap;
pub mod cgroup;
pub mod component;
pub mod config;
pub mod down;
pub mod network;
pub mod pki;
pub mod process;
pub mod relay;
pub mod up;

/// Name of the cluster when none is given.
pub const DEFAULT_NAME: &str = "agentsandbox";

/// Environment variable with the name of the cluster that tests and tasks use when they are told none.
pub(crate) const NAME_VARIABLE: &str = "AGENTSANDBOX_CLUSTER";

/// The longest name: interface names and socket paths are made from it.
const NAME_CHARACTERS_MAX: usize = 20;

/// A cluster of this machine, up or not.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
}

impl Cluster {
    /// The cluster of this name.
    ///
    /// # Errors
    /// When the name cannot be part of the names of namespaces and folders.
    pub fn named(name: &str) -> Result<Self> {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !plain || name.is_empty() || name.len() > NAME_CHARACTERS_MAX || name.starts_with('-') {
            return Err(Failure::new(format!(
                "{name:?} is no name for a cluster: write at most {NAME_CHARACTERS_MAX} lower-case letters, digits and -"
            )));
        }
        Ok(Self { name: name.to_owned() })
    }

    /// The cluster that `AGENTSANDBOX_CLUSTER` names, or the one of the default name.
    ///
    /// # Errors
    /// When that is no name for a cluster.
    pub fn chosen() -> Result<Self> {
        let name = std::env::var(NAME_VARIABLE).ok().filter(|name| !name.is_empty());
        Self::named(name.as_deref().unwrap_or(DEFAULT_NAME))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of everything it keeps.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        paths::cluster_state(&self.name)
    }

    /// The administrator's kubeconfig, usable from the host.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// The API server's audit log, one JSON object a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.state().join("audit.log")
    }

    /// The world's state: its CA and its control socket.
    #[must_use]
    pub fn world_state(&self) -> PathBuf {
        self.state().join("world")
    }

    /// The log of a component.
    #[must_use]
    pub fn log(&self, component: &str) -> PathBuf {
        self.state().join("logs").join(format!("{component}.log"))
    }

    /// Name of the node's network namespace.
    #[must_use]
    pub fn node_netns(&self) -> String {
        format!("asbx-{}-node", self.name)
    }

    /// Name of the world's network namespace.
    #[must_use]
    pub fn world_netns(&self) -> String {
        format!("asbx-{}-world", self.name)
    }

    /// Exists once all mounts of the node are made.
    fn mounted(&self) -> PathBuf {
        self.state().join("mounted")
    }

    /// A command that runs on the node: in its network and its mounts.
    ///
    /// # Errors
    /// When the cluster is not up.
    pub fn on_node(&self, program: &str, args: &[&str]) -> Result<Command> {
        let holder = process::running(self, component::MOUNTS)?
            .during(format!("the cluster {:?} is not up: run `cargo xtask cluster up`", self.name))?;
        let mut command = shell::command(
            "nsenter",
            &[format!("--net=/run/netns/{}", self.node_netns()), format!("--mount=/proc/{holder}/ns/mnt")],
        );
        command.arg("--wd=/").arg("--").arg(program).args(args);
        Ok(command)
    }

    /// A kubectl for this cluster.
    ///
    /// # Errors
    /// When the cluster's programs are not built.
    pub fn kubectl(&self, args: &[&str]) -> Result<Command> {
        let kubectl = paths::cache().join("rig/bin/kubectl");
        if !kubectl.exists() {
            return Err(Failure::new("kubectl is not built yet: run `cargo xtask cluster up`"));
        }
        let mut command = Command::new(kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        Ok(command)
    }

    /// A ctr for the node's containerd, in the namespace of Kubernetes.
    ///
    /// # Errors
    /// When the cluster is not up.
    pub fn ctr(&self, args: &[&str]) -> Result<Command> {
        let ctr = paths::cache().join("rig/bin/ctr").display().to_string();
        let mut command = self.on_node(&ctr, &["--address", &self.containerd_socket(), "-n", "k8s.io"])?;
        command.args(args);
        Ok(command)
    }

    /// Gives images to the node.
    ///
    /// # Errors
    /// When the cluster is not up or an archive is no image.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            let path = fs::canonicalize(archive).during(format!("{} cannot be read", archive.display()))?;
            let ctr = paths::cache().join("rig/bin/ctr").display().to_string();
            let args =
                ["--address", &self.containerd_socket(), "-n", "k8s.io", "images", "import", "--local"];
            let mut import = self.on_node(&ctr, &args)?;
            shell::output(import.arg(path))?;
        }
        Ok(())
    }

    /// Containerd's socket, as seen on the node.
    #[must_use]
    pub fn containerd_socket(&self) -> String {
        "/run/containerd/containerd.sock".to_owned()
    }
}
