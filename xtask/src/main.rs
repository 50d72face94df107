//! `cargo xtask`: the project's tasks.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a task talks to the person who runs it")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::sys::signal::Signal;
use xtask::cluster::{self, Cluster, component, down, process, relay, up};
use xtask::failure::During;
use xtask::images::{self, Selection};
use xtask::{
    Failure, Result, agent_images, bench, clients, conformance, fuzz, install, mutate, nightly, paths,
    quickstart, soak, test,
};

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
    /// Builds the project's images, byte for byte reproducible.
    Images {
        /// Also gives them to the cluster.
        #[arg(long)]
        load: bool,
        /// Also builds everything a second time and compares the digests.
        #[arg(long)]
        verify: bool,
    },
    /// Runs everything that must hold, or one part of it.
    Test {
        /// The part; absent means all.
        part: Option<test::Part>,
        /// Only tests whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// Runs what takes too long for each change, or one part of it.
    Nightly {
        /// The part; absent means all.
        part: Option<nightly::Part>,
    },
    /// Measures, and prints tables.
    Bench {
        /// What is measured.
        #[command(subcommand)]
        what: bench::Subject,
    },
    /// Runs the attack catalogue against our proxy and other people's, and writes docs/conformance.md.
    Conformance {
        /// Only these proxies; the document is written when all have run.
        #[arg(long, value_delimiter = ',')]
        only: Vec<conformance::Contender>,
        /// Only this entry, such as P-A1.
        #[arg(long)]
        vector: Option<String>,
    },
    /// Runs real clients through each entrance of the proxy, allowed and denied, and writes docs/clients.md.
    Clients {
        /// Only these, by name, with commas between; the document is then left as it is.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Runs fuzz targets for a while and prints what each one did; docs/fuzzing.md lists them.
    Fuzz {
        /// The target; absent means each of them.
        target: Option<String>,
        /// How long each one runs.
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u32,
    },
    /// Changes the code in one place after the other and says which changes no test notices; docs/mutants.md has the results.
    Mutate {
        /// One part of the changes, such as 2/8.
        #[arg(long)]
        shard: Option<String>,
        /// Only what differs from this commit.
        #[arg(long, value_name = "COMMIT")]
        since: Option<String>,
        /// The modules; absent means each of them.
        modules: Vec<String>,
    },
    /// Runs the proxy under mixed load while its policy, its secrets and its upstreams change each second.
    Soak {
        /// How long.
        #[arg(long, default_value_t = soak::MINUTES, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// What a run before began with, to have the same load again.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// From a fresh machine to a fenced agent, with the evidence on the screen.
    Quickstart,
    /// Builds the image of the test agent and gives it to the cluster.
    AgentImages,
    /// Installs the chart into the cluster, or into your own.
    Install {
        /// The context of your own cluster in your kubeconfig.
        #[arg(long, requires = "values")]
        context: Option<String>,
        /// The chart's values for your own cluster; docs/install.md says what must be in it.
        #[arg(long, requires = "context")]
        values: Option<PathBuf>,
    },
    /// Builds what the cluster's tests need, for whoever runs something else meanwhile; started by `test`.
    #[command(hide = true)]
    Ahead,
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
    /// Uses the cluster of this context in your own kubeconfig instead: `status` and `kubectl` work with it.
    #[arg(long, conflicts_with = "name")]
    context: Option<String>,
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
    /// Runs containerd's ctr on the node, in the namespace of Kubernetes.
    #[command(disable_help_flag = true)]
    Ctr {
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
        Task::Cluster(ClusterArgs { context: Some(context), verb, .. }) => on_foreign(&context, verb),
        Task::Cluster(args) => on_cluster(&Cluster::named(&args.name)?, args.verb),
        Task::Images { load, verify } => make_images(load, verify).map(|()| ExitCode::SUCCESS),
        Task::Ahead => test::build_ahead().map(|()| ExitCode::SUCCESS),
        Task::Bench { what } => bench::run(&what).map(|()| ExitCode::SUCCESS),
        Task::Test { part, only } => test::test(part, only.as_deref()).map(|()| ExitCode::SUCCESS),
        Task::Nightly { part } => nightly::run(part).map(|()| ExitCode::SUCCESS),
        Task::Conformance { only, vector } => {
            conformance::run(&only, vector.as_deref()).map(|()| ExitCode::SUCCESS)
        }
        Task::Clients { only } => clients::run(&only, clients::Document::Written).map(|()| ExitCode::SUCCESS),
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds).map(|()| ExitCode::SUCCESS),
        Task::Mutate { shard, since, modules } => {
            let part = mutate::Part { shard: shard.as_deref(), since: since.as_deref() };
            mutate::run(&modules, part).map(|()| ExitCode::SUCCESS)
        }
        Task::Soak { minutes, seed } => soak::run(minutes, seed).map(|()| ExitCode::SUCCESS),
        Task::Quickstart => quickstart::quickstart(&Cluster::chosen()?).map(|()| ExitCode::SUCCESS),
        Task::AgentImages => agent_images::load(&Cluster::chosen()?).map(|()| ExitCode::SUCCESS),
        Task::Install { context: Some(context), values: Some(values) } => {
            install::install_in_context(&context, &values).map(|()| ExitCode::SUCCESS)
        }
        Task::Install { .. } => install::install(&Cluster::chosen()?).map(|()| ExitCode::SUCCESS),
        Task::Relay { port, netns } => relay::serve(port, &netns).map(|()| ExitCode::SUCCESS),
    }
}

fn make_images(load: bool, verify: bool) -> Result<()> {
    let workspace = paths::repository();
    let archives = images::build(&workspace, Selection::WithTests).during("the images are not made")?;
    for archive in &archives {
        println!("{} {}", archive.reference, archive.digest);
    }
    if verify {
        images::verify(&workspace, &archives, Selection::WithTests)
            .during("the images are not reproducible")?;
    }
    if load {
        let files: Vec<PathBuf> = archives.into_iter().map(|a| a.path).collect();
        Cluster::chosen()?.load(&files)?;
    }
    Ok(())
}

/// A cluster that is not ours is talked to and never changed from below.
fn on_foreign(context: &str, verb: ClusterVerb) -> Result<ExitCode> {
    let args = match verb {
        ClusterVerb::Kubectl { args } => args,
        ClusterVerb::Status => {
            ["get", "nodes,runtimeclasses,agentsandboxclasses"].map(str::to_owned).to_vec()
        }
        _ => {
            return Err(Failure::new(format!(
                "the cluster of context {context:?} is yours: start, stop and inspect it with your own tools. `cluster --context {context} status` and `… kubectl …` work here, and `cargo xtask install --context {context} --values FILE` installs the chart"
            )));
        }
    };
    let built = paths::cache().join("rig/bin/kubectl");
    let kubectl = if built.exists() { built } else { PathBuf::from("kubectl") };
    pass_on(std::process::Command::new(kubectl).args(["--context", context]).args(args))
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
        ClusterVerb::Ctr { args } => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            return pass_on(&mut cluster.ctr(&args)?);
        }
        ClusterVerb::Images { archives } => cluster.load(&archives)?,
        ClusterVerb::Kill { component } => kill(cluster, &component)?,
        ClusterVerb::Restart { component } => {
            kill(cluster, &component)?;
            component::start(cluster, &component)?;
        }
        ClusterVerb::Pause { component } => signal(cluster, &component, Signal::SIGSTOP)?,
        ClusterVerb::Resume { component } => signal(cluster, &component, Signal::SIGCONT)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn kill(cluster: &Cluster, component: &str) -> Result<()> {
    component::check(component)?;
    process::stop(cluster, component, Duration::ZERO)
}

fn signal(cluster: &Cluster, component: &str, signal: Signal) -> Result<()> {
    component::check(component)?;
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
