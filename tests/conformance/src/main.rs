//! Runs the suite against one proxy, or writes the scoreboard of several runs.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a task talks to the person who runs it")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentsandbox_conformance::adapter::{Kind, Program};
use agentsandbox_conformance::failure::During;
use agentsandbox_conformance::run::{Run, Verdict};
use agentsandbox_conformance::{Failure, Result, namespace, report, run, vector};
use clap::{Args, Parser, Subcommand};

/// A vector without an answer of the name server takes so long.
const DNS_SECS: u32 = 1;

#[derive(Parser)]
#[command(about = "The attack catalogue as data, run against a proxy")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the vectors against one proxy, in network namespaces of its own.
    Run(RunArgs),
    /// Writes the scoreboard of these runs.
    Report {
        /// Results of `run`.
        results: Vec<PathBuf>,
        /// The document.
        #[arg(long)]
        to: Option<PathBuf>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// Which proxy.
    #[arg(long)]
    proxy: Kind,
    /// Its program.
    #[arg(long)]
    program: PathBuf,
    /// The folder of its other files.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Its shared libraries.
    #[arg(long, default_value = "/usr/lib")]
    libraries: PathBuf,
    /// What it says its version is.
    #[arg(long, default_value = "of this repository")]
    version_line: String,
    /// Only this entry.
    #[arg(long)]
    vector: Option<String>,
    /// Where the results are written.
    #[arg(long)]
    to: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Run(args) if namespace::is_inside() => inside(&args),
        Task::Run(_) => outside(),
        Task::Report { results, to } => write_report(&results, to.as_deref()),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::FAILURE
    })
}

/// Where this package's data is.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn outside() -> Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match namespace::run_inside(&arguments)? {}
}

fn inside(args: &RunArgs) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("conformance").tempdir().during("no folder can be made")?;
    namespace::furnish(folder.path(), DNS_SECS)?;
    let cases = vector::read(&data("vectors"))?;
    let cases: Vec<_> =
        cases.into_iter().filter(|case| args.vector.as_ref().is_none_or(|only| case.id == *only)).collect();
    if cases.is_empty() {
        return Err(Failure::new("no vector has that id"));
    }
    let program = Program {
        kind: args.proxy,
        path: args.program.clone(),
        root: args.root.clone(),
        libraries: args.libraries.clone(),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().during("there is no runtime")?;
    let done = runtime.block_on(run::all(&cases, &program, &args.version_line, folder.path()))?;
    let text = serde_json::to_string_pretty(&done).during("the results cannot be written")?;
    std::fs::write(&args.to, text).during(format!("{} cannot be written", args.to.display()))?;
    let failed = say_failures(&done);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say_failures(run: &Run) -> usize {
    let mut failed = 0;
    for outcome in &run.outcomes {
        if let Verdict::Failed(why) = &outcome.verdict {
            failed += 1;
            let each = outcome.each.as_deref().unwrap_or_default();
            println!("{} {} {each:.80?}: {why:.400}", outcome.id, outcome.entrance);
        }
    }
    failed
}

fn write_report(results: &[PathBuf], to: Option<&Path>) -> Result<ExitCode> {
    let mut runs = Vec::new();
    for file in results {
        let text = std::fs::read_to_string(file).during(format!("{} cannot be read", file.display()))?;
        runs.push(serde_json::from_str::<Run>(&text).during(format!("{} is no result", file.display()))?);
    }
    runs.sort_by_key(|run| run.proxy);
    print!("{}", report::scoreboard(&runs));
    if let Some(to) = to {
        let text = report::document(&runs, &report::no_traffic(&data("no-traffic.yaml"))?);
        std::fs::write(to, text).during(format!("{} cannot be written", to.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
