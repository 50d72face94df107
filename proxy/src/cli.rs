//! The command line, and nothing more: flags become typed arguments here, and meaning in [`crate::config`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use agentsandbox_policy::Host;
use clap::{Args, Parser, Subcommand};

use crate::schema::Described;

/// The egress proxy beside an agent.
#[derive(Debug, Parser)]
#[command(name = "agentsandbox-proxy", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one agent.
    Serve(Box<ServeArgs>),
    /// Wait until a proxy on this machine listens on all its ports; fails after ten seconds.
    AwaitServing {
        /// Where its health is asked for.
        #[arg(long, default_value = "127.0.0.1:9090")]
        admin: SocketAddr,
    },
    /// Check a policy document and say what is wrong with it.
    Check {
        /// The document.
        #[arg(long)]
        policy: PathBuf,
    },
    /// Say how a policy would decide one request, and why.
    Explain {
        /// The document.
        #[arg(long)]
        policy: PathBuf,
        /// Method and URL, such as "GET https://api.example.com/v1/models".
        #[arg(long)]
        request: String,
        /// A field of the request, as "name: value"; may be given again. Placeholders and keys in it are judged.
        #[arg(long = "header")]
        headers: Vec<String>,
        /// A file with the request's body.
        #[arg(long)]
        body: Option<PathBuf>,
    },
    /// Print the JSON Schema (2020-12) of the policy document or of an audit line.
    Schema {
        /// Which.
        of: Described,
    },
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The policy document; it is followed while serving.
    #[arg(long)]
    pub policy: PathBuf,
    /// Folder with one file for each credential, named after it or as the policy says.
    #[arg(long)]
    pub secrets: PathBuf,
    /// Folder with ca.crt, ca.key and enrolment-token. Without it, a CA is made in the state folder and only loopback
    /// peers are served.
    #[arg(long)]
    pub keys: Option<PathBuf>,
    /// Folder for what must outlive a restart.
    #[arg(long)]
    pub state: PathBuf,
    /// The address that the policy DNS answers with.
    #[arg(long)]
    pub advertise: Option<IpAddr>,
    /// Address of an agent that is enrolled already.
    #[arg(long)]
    pub enrolled: Option<IpAddr>,
    /// Where to write why the proxy did not start.
    #[arg(long)]
    pub termination_log: Option<PathBuf>,
    /// Memory that the proxy may take, in MiB: before it is taken all that the agent has open ends. Without it there is no bound.
    #[arg(long)]
    pub memory_mib: Option<usize>,
    /// Address to listen on: all with --keys, 127.0.0.1 without.
    #[arg(long)]
    pub bind: Option<IpAddr>,
    /// An address for a host, as host=ip, in place of DNS. May be given again.
    #[arg(long, value_parser = fixed_address)]
    pub resolve: Vec<(Host, IpAddr)>,
    /// Ports.
    #[command(flatten)]
    pub ports: Ports,
}

/// Ports to listen on; 0 lets the system choose, none leaves the entrance closed.
#[derive(Clone, Debug, Default, Args)]
pub struct Ports {
    /// HTTP proxy [default: 3128].
    #[arg(long = "http-port")]
    pub http: Option<u16>,
    /// SOCKS5 [default: 1080].
    #[arg(long = "socks-port")]
    pub socks: Option<u16>,
    /// Base URL [default: 8080].
    #[arg(long = "base-url-port")]
    pub base_url: Option<u16>,
    /// Transparent TLS [default: 443 with --keys, else closed].
    #[arg(long = "tls-port")]
    pub tls: Option<u16>,
    /// Transparent HTTP [default: 80 with --keys, else closed].
    #[arg(long = "plain-port")]
    pub plain: Option<u16>,
    /// Policy DNS over UDP and TCP [default: 53 with --keys, else closed].
    #[arg(long = "dns-port")]
    pub dns: Option<u16>,
    /// Enrolment [default: 3129 with --keys, else closed].
    #[arg(long = "enrolment-port")]
    pub enrolment: Option<u16>,
    /// Health and metrics [default: 9090].
    #[arg(long = "admin-port")]
    pub admin: Option<u16>,
}

impl Ports {
    /// What was not given gets its usual port. Outside a pod, only ports that need no privilege are opened unasked.
    #[must_use]
    pub fn or_defaults(&self, in_pod: bool) -> Self {
        let pod = |port| in_pod.then_some(port);
        Self {
            http: self.http.or(Some(3128)),
            socks: self.socks.or(Some(1080)),
            base_url: self.base_url.or(Some(8080)),
            tls: self.tls.or(pod(443)),
            plain: self.plain.or(pod(80)),
            dns: self.dns.or(pod(53)),
            enrolment: self.enrolment.or(pod(3129)),
            admin: self.admin.or(Some(9090)),
        }
    }
}

fn fixed_address(text: &str) -> Result<(Host, IpAddr), String> {
    let (host, address) = text.split_once('=').ok_or("write host=ip")?;
    let host = Host::parse(host).map_err(|error| error.to_string())?;
    Ok((host, address.parse().map_err(|_| "the part after = is not an IP address")?))
}
