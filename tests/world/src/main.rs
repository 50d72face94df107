//! The world as a program. It parses, starts the parts and waits; the parts say what they are in the library's header.

use std::error::Error as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agentsandbox_world::authority::{self, Authority};
use agentsandbox_world::prepare::{self, Cache};
use agentsandbox_world::servers::{Addresses, Servers};
use agentsandbox_world::world::World;
use agentsandbox_world::{client, control, dns, front, names, packets};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// The internet of the cluster tests.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Subcommand)]
enum Command {
    /// Put the programs of the real servers into the cache; quick when they are there.
    Prepare,
    /// Say how each real server of a running world is.
    Status {
        /// The running world's state folder.
        #[arg(long)]
        state: PathBuf,
    },
}

#[derive(Args)]
struct Serve {
    /// Where the CA, the control socket and the servers' files lie.
    #[arg(long)]
    state: PathBuf,
    /// The address that the name server answers on.
    #[arg(long, default_value_t = Ipv4Addr::new(9, 9, 9, 9))]
    dns_address: Ipv4Addr,
    /// The name server's port.
    #[arg(long, default_value_t = 53)]
    dns_port: u16,
    /// The address on which every other service listens.
    #[arg(long, default_value_t = Ipv4Addr::UNSPECIFIED)]
    bind: Ipv4Addr,
    /// The port of HTTPS.
    #[arg(long, default_value_t = 443)]
    https_port: u16,
    /// The port of HTTP.
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// Where the git server ends TLS.
    #[arg(long, default_value_t = SocketAddr::from((names::GIT_ADDRESS, 443)))]
    git_address: SocketAddr,
    /// Where the organisation's own proxy listens.
    #[arg(long, default_value_t = SocketAddr::from((names::PROXY_ADDRESS, names::PROXY_PORT)))]
    proxy_address: SocketAddr,
}

/// Why the program ends with a failure.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the state folder {0} cannot be made")]
    State(PathBuf, #[source] io::Error),
    #[error("there is no CA")]
    Authority(#[source] authority::Error),
    #[error("there is no cache")]
    Cache(#[source] prepare::Error),
    #[error("packets cannot be captured; run as root")]
    Packets(#[source] io::Error),
    #[error("{0} cannot be served; is another world here?")]
    Bind(&'static str, #[source] io::Error),
    #[error("there is no running world")]
    Status(#[source] client::Error),
    #[error("signals cannot be awaited")]
    Signals(#[source] io::Error),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(tracing::Level::INFO).init();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error.message = %error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(causes = %causes(&failure), "{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match (cli.command, cli.serve) {
        (Some(Command::Prepare), _) => {
            Cache::of_user().map_err(Failure::Cache)?.prepare().await.map_err(Failure::Cache)
        }
        (Some(Command::Status { state }), _) => status(&state).await,
        (None, Some(arguments)) => serve(arguments).await,
        // Clap asks for `--state` before it comes to this.
        (None, None) => Ok(()),
    }
}

async fn status(state: &Path) -> Result<(), Failure> {
    for (kind, state) in client::Client::new(state).status().await.map_err(Failure::Status)? {
        tracing::info!(server.kind = %kind, server.state = %state, "server");
    }
    Ok(())
}

async fn serve(arguments: Serve) -> Result<(), Failure> {
    let state = arguments.state;
    fs::create_dir_all(&state).map_err(|error| Failure::State(state.clone(), error))?;
    let authority = Arc::new(Authority::load_or_create(&state).map_err(Failure::Authority)?);
    let servers = Servers::new(state.clone());
    let world = World::new(Arc::clone(&authority), servers.clone());
    // The journal listens first, so that nothing arrives unseen.
    packets::capture(world.journal()).map_err(Failure::Packets)?;
    let dns_address = SocketAddr::from((arguments.dns_address, arguments.dns_port));
    dns::serve(dns_address, world.journal().clone()).await.map_err(|error| Failure::Bind("DNS", error))?;
    let ports = front::Ports { https: arguments.https_port, http: arguments.http_port };
    front::serve(&world, arguments.bind, ports).map_err(|error| Failure::Bind("HTTP", error))?;
    front::serve_sinks(arguments.bind);
    let addresses = Addresses {
        git: arguments.git_address,
        proxy: arguments.proxy_address,
        names: arguments.dns_address,
    };
    servers.start(&Cache::of_user().map_err(Failure::Cache)?, &authority, addresses);
    control::serve(&state, world).map_err(|error| Failure::Bind("the control socket", error))?;
    tracing::info!(state = %state.display(), "the world is there");
    until_told_to_end().await
}

async fn until_told_to_end() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Children are killed by the kernel with this process.
    Ok(())
}

fn causes(failure: &Failure) -> String {
    let mut text = String::new();
    let mut source = failure.source();
    while let Some(cause) = source {
        text = if text.is_empty() { cause.to_string() } else { format!("{text}: {cause}") };
        source = cause.source();
    }
    text
}
