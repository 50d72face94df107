//! The cluster that the tests share.

use std::net::IpAddr;
use std::path::PathBuf;

use agentsandbox_world::client::Client as World;
use agentsandbox_world::journal::PacketFilter;
use k8s_openapi::api::core::v1::Namespace as CoreNamespace;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::sys::signal::Signal;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use xtask::cluster::{Cluster, process};

/// Variable with the kubeconfig of an API server other than the rig's.
const KUBECONFIG: &str = "AGENTSANDBOX_TEST_KUBECONFIG";

/// Tests that need every component running hold it shared; a test that stops one holds it alone.
static WHOLE: RwLock<()> = RwLock::const_new(());

/// Keeps others from stopping components, or from running beside a test that does.
#[derive(Debug)]
pub enum Turn {
    /// Others may run too.
    Beside(RwLockReadGuard<'static, ()>),
    /// Nobody else runs.
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Access to the cluster under test.
pub struct Rig {
    /// A client with the administrator's rights.
    pub client: Client,
    /// The cluster's processes, files and namespaces.
    pub cluster: Cluster,
    /// What the internet saw.
    pub world: World,
    _turn: Turn,
}

impl Rig {
    /// The cluster, shared with other tests.
    pub async fn beside() -> Self {
        let turn = Turn::Beside(WHOLE.read().await);
        Self::attach(turn).await
    }

    /// The cluster, for a test that stops a component of it.
    pub async fn alone() -> Self {
        let turn = Turn::Alone(WHOLE.write().await);
        Self::attach(turn).await
    }

    async fn attach(turn: Turn) -> Self {
        let cluster = Cluster::chosen().expect("the cluster has a name");
        let client = Client::try_from(config(&cluster).await).expect("the kubeconfig is usable");
        Api::<CoreNamespace>::all(client.clone())
            .get("default")
            .await
            .expect("the cluster answers: run `cargo xtask cluster up`");
        let world = World::new(&cluster.world_state());
        Self { client, cluster, world, _turn: turn }
    }

    /// The cluster as this user sees it, by impersonation. A ServiceAccount has its groups by its name.
    ///
    /// # Panics
    /// When the cluster has no kubeconfig.
    pub async fn client_of(&self, user: &str) -> Client {
        let mut config = config(&self.cluster).await;
        config.auth_info.impersonate = Some(user.to_owned());
        Client::try_from(config).expect("the kubeconfig is usable")
    }

    /// The cluster as whoever shows this token sees it.
    ///
    /// # Panics
    /// When the cluster has no kubeconfig.
    pub async fn client_with(&self, token: &str) -> Client {
        let mut config = config(&self.cluster).await;
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Client::try_from(config).expect("the kubeconfig is usable")
    }

    /// How many packets the world has seen from an address since the world's journal began.
    ///
    /// # Panics
    /// When the world does not answer.
    pub async fn packets_from(&self, source: IpAddr) -> u64 {
        let filter = PacketFilter { source: Some(source), ..PacketFilter::default() };
        let seen = self.world.packets(filter).await.expect("the world answers");
        seen.counters.iter().map(|c| c.packets).sum()
    }
}

/// The administrator's way to the cluster. Tests of the API server alone, which start no pod, may be sent to any other one that has
/// the chart's objects.
async fn config(cluster: &Cluster) -> Config {
    let file = std::env::var_os(KUBECONFIG).map_or_else(|| cluster.kubeconfig(), PathBuf::from);
    let kubeconfig =
        Kubeconfig::read_from(file).expect("the cluster has a kubeconfig: run `cargo xtask test cluster`");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is whole")
}

/// A component whose clock stands still until this is dropped, also when the test fails.
pub struct Paused<'rig> {
    rig: &'rig Rig,
    component: &'static str,
}

impl Rig {
    /// Stops a component's clock.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self, component: &'static str) -> Paused<'_> {
        let paused = process::signal(&self.cluster, component, Signal::SIGSTOP).expect("it can be signalled");
        assert!(paused, "{component} does not run");
        Paused { rig: self, component }
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let _ended = process::signal(&self.rig.cluster, self.component, Signal::SIGCONT);
    }
}
