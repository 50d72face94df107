//! The organisation's own proxy: Tinyproxy, which asks for a name and a password, and passes tunnels on to port 443.
//!
//! It asks for names as any program does, so it sees an `/etc/resolv.conf` of its own, in a mount namespace of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{Error, Started, bound_command, fresh_folder, spawn, write};
use crate::names;
use crate::prepare::Cache;

/// Becomes the proxy, once the name server is its own.
const SCRIPT: &str = "mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" -d -c \"$3\"";

pub(super) fn start(
    cache: &Cache,
    address: SocketAddr,
    name_server: Ipv4Addr,
    folder: &Path,
) -> Result<Started, Error> {
    let program = cache.proxy().ok_or(Error::Missing)?;
    fresh_folder(folder)?;
    let (resolver, configuration) = (folder.join("resolv.conf"), folder.join("tinyproxy.conf"));
    write(&resolver, &format!("nameserver {name_server}\n"))?;
    let text = format!(
        "Port {}\nListen {}\nTimeout 600\nMaxClients 100\nLogLevel Connect\nConnectPort 443\nBasicAuth {} {}\n",
        address.port(),
        address.ip(),
        names::PROXY_USER,
        names::PROXY_PASSWORD
    );
    write(&configuration, &text)?;
    let mut command = bound_command(Path::new("unshare"));
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
    command.arg(&resolver).arg(&program).arg(&configuration);
    let log = folder.join("server.log");
    let children = vec![spawn(command, &log)?];
    Ok(Started { address, children, log })
}
