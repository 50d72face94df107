//! The cluster that the tests share.

use k8s_openapi::api::core::v1::Namespace as CoreNamespace;
use kube::{Api, Client, Config};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

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
        let config = Config::infer().await.expect("KUBECONFIG names the cluster: run `cargo xtask test cluster`");
        let client = Client::try_from(config).expect("the kubeconfig is usable");
        Api::<CoreNamespace>::all(client.clone())
            .get("default")
            .await
            .expect("the cluster answers: run `cargo xtask cluster up`");
        Self { client, _turn: turn }
    }
}
