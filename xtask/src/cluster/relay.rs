//! The API server's way to the host: a listener on the host's loopback whose connections are made on the node.
//!
//! Nothing in the cluster can use it: it is reached from the host only, and it leads to one address only.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{Cluster, network};
use crate::failure::{During, Result};
use crate::paths;

/// Name of the component.
pub const NAME: &str = "relay";

/// The first port that is tried on the host.
const PORT_FIRST: u16 = 16_443;

/// The port of a cluster on the host: recorded once, the first free one of those no other cluster has.
///
/// # Errors
/// When the record cannot be written.
pub fn port(cluster: &Cluster) -> Result<u16> {
    let record = cluster.state().join("relay-port");
    if let Some(port) = recorded(&record) {
        return Ok(port);
    }
    let others: Vec<u16> = std::fs::read_dir(paths::clusters())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| recorded(&e.path().join("relay-port")))
        .collect();
    let free = |p: &u16| !others.contains(p) && TcpListener::bind(("127.0.0.1", *p)).is_ok();
    let port = (PORT_FIRST..PORT_FIRST + 100)
        .find(free)
        .during("no port from 16443 to 16542 is free on 127.0.0.1: end what uses them")?;
    std::fs::write(&record, port.to_string()).during(format!("{} cannot be written", record.display()))?;
    Ok(port)
}

fn recorded(path: &Path) -> Option<u16> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

pub(super) fn command(cluster: &Cluster) -> Result<Command> {
    let program = std::env::current_exe().during("this program cannot find itself")?;
    // Tests call this as a library: the relay is always the task runner's own program.
    let program = if program.ends_with("xtask") { program } else { paths::target().join("debug/xtask") };
    let mut command = Command::new(program);
    command.args(["relay", "--port", &port(cluster)?.to_string(), "--netns", &cluster.node_netns()]);
    Ok(command)
}

/// Serves until the process ends.
///
/// # Errors
/// When the port is taken or the namespace is gone.
pub fn serve(port: u16, netns: &str) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .during(format!("127.0.0.1:{port} is in use: end what uses it"))?;
    let namespace = Path::new("/run/netns").join(netns);
    for client in listener.incoming().flatten() {
        let namespace = namespace.clone();
        thread::spawn(move || {
            if let Err(error) = relay(client, &namespace) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

fn relay(client: TcpStream, namespace: &Path) -> io::Result<()> {
    let here = File::open(namespace)?;
    // A thread's network namespace is its own; the connection it makes stays on the node.
    setns(here, CloneFlags::CLONE_NEWNET)?;
    let server = TcpStream::connect((network::NODE, 6443))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ended = io::copy(&mut from_client, &mut to_server);
        let _closed = to_server.shutdown(std::net::Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ended = io::copy(&mut from_server, &mut to_client);
    let _closed = to_client.shutdown(std::net::Shutdown::Write);
    Ok(())
}
