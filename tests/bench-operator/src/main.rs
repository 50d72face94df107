//! The operator beside another one: so many sandboxes on a real API server where no pod is ever scheduled, and what that costs. Run by
//! `cargo xtask bench operator`, which brings up the API server, and nothing but it and etcd, anew for each run.
//!
//! Nobody runs pods here, so an agent never becomes ready and nothing waits for a kubelet: what is measured is what an operator
//! does by itself. One has settled when every sandbox has its pods and a status about its present generation, and no write and no pass
//! has come for some seconds.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

mod audit;
mod contender;
mod measure;
mod process;
mod report;

use contender::{Contender, Start};
use measure::Asked;

/// Why a measurement could not be made, in a sentence.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// In a sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self(format!("the API server refuses: {error}"))
    }
}

#[derive(Parser)]
#[command(about = "The operator beside another one")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measures one contender, and prints what was measured as JSON.
    Run(Box<RunArgs>),
    /// Prints tables of what was measured.
    Report {
        /// A file with all runs.
        results: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    #[arg(long)]
    contender: Contender,
    /// What it says its version is.
    #[arg(long)]
    version: String,
    #[arg(long)]
    program: PathBuf,
    /// The contender's kubeconfig.
    #[arg(long)]
    own_kubeconfig: PathBuf,
    /// The administrator's.
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    audit_log: PathBuf,
    /// Process of the API server.
    #[arg(long)]
    api_server: u32,
    #[arg(long)]
    log: PathBuf,
    #[arg(long)]
    sandboxes: usize,
    #[arg(long, value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Seconds without a write that count as settled.
    #[arg(long)]
    quiet: u64,
    /// Seconds of standing still.
    #[arg(long)]
    steady: u64,
    /// Seconds that each wait may take.
    #[arg(long)]
    limit: u64,
    /// Arguments of the contender.
    #[arg(last = true)]
    args: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Run(args) => run(*args).await,
        Task::Report { results } => report::of(&results),
    };
    print(outcome)
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "what is measured is the output")]
fn print(outcome: Result<String, Failure>) -> ExitCode {
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: RunArgs) -> Result<String, Failure> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err(Failure::new("a TLS provider was installed before ours"));
    }
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)
        .map_err(|error| Failure::new(format!("{} cannot be read: {error}", args.kubeconfig.display())))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| Failure::new(format!("{} cannot be used: {error}", args.kubeconfig.display())))?;
    let client = Client::try_from(config)?;
    let asked = Asked {
        start: Start {
            contender: args.contender,
            program: args.program,
            args: args.args,
            kubeconfig: args.own_kubeconfig,
            log: args.log,
        },
        version: args.version,
        sandboxes: args.sandboxes,
        namespaces: args.namespaces,
        quiet: Duration::from_secs(args.quiet),
        steady: Duration::from_secs(args.steady),
        limit: Duration::from_secs(args.limit),
        audit_log: args.audit_log,
        api_server: args.api_server,
    };
    let run = measure::run(client, &asked).await?;
    serde_json::to_string(&run).map_err(|error| Failure::new(format!("a run cannot be written: {error}")))
}
