//! `cargo xtask`: the project's tasks.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a task talks to the person who runs it")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::sys::signal::Signal;
use xtask::cluster::{self, Cluster, component, down, process, relay, up};
use xtask::{Failure, Result};

#[derive(Parser)]
#[command(about = "The project's tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// A real Kubernetes with real gVisor on this machine.
    Cluster(ClusterArgs),
    /// Serves the API server's way to the host; started by `cluster up`.
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        netns: String,
    },
}

#[derive(Args)]
struct ClusterArgs {
    /// Name of the cluster; clusters of different names live side by side.
    #[arg(long, default_value = cluster::DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    verb: ClusterVerb,
}

#[derive(Subcommand)]
enum ClusterVerb {
    /// Builds what is missing, mends what an earlier run left, and starts the cluster.
    Up,
    /// Ends the cluster and removes everything of it.
    Down,
    /// Says which components run.
    Status,
    /// Prints a component's log, or the folder of all logs.
    Logs { component: Option<String> },
    /// Runs kubectl against the cluster.
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs a program on the node.
    Exec {
        program: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Gives image archives to the node.
    Images { archives: Vec<PathBuf> },
    /// Kills a component.
    Kill { component: String },
    /// Kills a component and starts it again.
    Restart { component: String },
    /// Stops a component's clock.
    Pause { component: String },
    /// Lets a paused component go on.
    Resume { component: String },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Cluster(args) => on_cluster(&Cluster::named(&args.name)?, args.verb),
        Task::Relay { port, netns } => relay::serve(port, &netns).map(|()| ExitCode::SUCCESS),
    }
}

fn on_cluster(cluster: &Cluster, verb: ClusterVerb) -> Result<ExitCode> {
    match verb {
        ClusterVerb::Up => up::up(cluster)?,
        ClusterVerb::Down => down::down(cluster)?,
        ClusterVerb::Status => return status(cluster),
        ClusterVerb::Logs { component } => logs(cluster, component.as_deref())?,
        ClusterVerb::Kubectl { args } => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            return pass_on(&mut cluster.kubectl(&args)?);
        }
        ClusterVerb::Exec { program, args } => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            return pass_on(&mut cluster.on_node(&program, &args)?);
        }
        ClusterVerb::Images { archives } => cluster.load(&archives)?,
        ClusterVerb::Kill { component } => process::stop(cluster, &component, Duration::ZERO)?,
        ClusterVerb::Restart { component } => {
            process::stop(cluster, &component, Duration::ZERO)?;
            component::start(cluster, &component)?;
        }
        ClusterVerb::Pause { component } => signal(cluster, &component, Signal::SIGSTOP)?,
        ClusterVerb::Resume { component } => signal(cluster, &component, Signal::SIGCONT)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn signal(cluster: &Cluster, component: &str, signal: Signal) -> Result<()> {
    if process::signal(cluster, component, signal)? {
        return Ok(());
    }
    Err(Failure::new(format!("{component} does not run: see `cargo xtask cluster status`")))
}

fn status(cluster: &Cluster) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in component::ALL {
        let pid = process::running(cluster, name)?;
        println!("{name:20} {}", pid.map_or_else(|| "not running".to_owned(), |p| format!("running, {p}")));
        if pid.is_none() {
            code = ExitCode::FAILURE;
        }
    }
    println!("{:20} {}", "kubeconfig", cluster.kubeconfig().display());
    Ok(code)
}

fn logs(cluster: &Cluster, component: Option<&str>) -> Result<()> {
    match component {
        Some(name) => print!(
            "{}",
            std::fs::read_to_string(cluster.log(name))
                .map_err(|e| Failure::new(format!("{name} has no log: {e}")))?
        ),
        None => println!("{}", cluster.state().join("logs").display()),
    }
    Ok(())
}

/// Runs a program in this one's place, as far as its user can tell.
fn pass_on(command: &mut std::process::Command) -> Result<ExitCode> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(std::process::Stdio::inherit())
        .status()
        .map_err(|e| Failure::new(format!("{program} cannot be started: {e}")))?;
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
