//! The watcher of invariants beside the cluster's tests: a program of its own that reads every revision of etcd
//! (`tests/invariants`).

use std::process::{Child, Command, Stdio};

use crate::cluster::Cluster;
use crate::failure::{During, Failure, Result};
use crate::{paths, test};

/// A watcher that runs. It ends with its standard input, so also when this process dies.
#[derive(Debug)]
pub struct Watching(Child);

/// Builds it and starts it on the node, where etcd listens.
///
/// # Errors
/// When it does not build or start.
pub fn watch(cluster: &Cluster) -> Result<Watching> {
    test::cargo(&["build", "--locked", "--bin", "invariants"])?;
    let program = paths::target().join("debug/invariants");
    let mut command: Command = cluster.on_node(&program.to_string_lossy(), &[])?;
    let child = command.stdin(Stdio::piped()).spawn().during("the watcher of invariants does not start")?;
    Ok(Watching(child))
}

impl Watching {
    /// Lets it read up to now, and print its verdict.
    ///
    /// # Errors
    /// When an invariant was broken, was never judged, or not every revision was read.
    pub fn verdict(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait().during("the watcher of invariants is lost")?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::new("the revisions of etcd break an invariant, as told above"))
        }
    }
}
