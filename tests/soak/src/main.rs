//! Runs the proxy under load, prints a table, and fails with the first wrong thing and its seed.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a task talks to the person who runs it")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentsandbox_conformance::failure::During;
use agentsandbox_conformance::{Result, namespace};
use agentsandbox_soak::run::{fails, run};
use clap::Parser;

/// As long as the proxy waits for a name. The name server has no faults, and may be slow where much else runs.
const DNS_SECS: u32 = 8;

#[derive(Parser)]
#[command(about = "The proxy under mixed load, in network namespaces of its own")]
struct Cli {
    /// The proxy's program.
    #[arg(long)]
    program: PathBuf,
    /// How long.
    #[arg(long)]
    seconds: u64,
    /// What the load, the policies and the faults are made from; absent means another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = if namespace::is_inside() { inside(&cli) } else { outside() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn outside() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match namespace::run_inside(&arguments)? {}
}

fn inside(cli: &Cli) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("soak").tempdir().during("no folder can be made")?;
    namespace::furnish(folder.path(), DNS_SECS)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = cli.seed.unwrap_or(u64::from(now.subsec_nanos()));
    println!("seed {seed}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().during("there is no runtime")?;
    let length = Duration::from_secs(cli.seconds);
    let outcome = runtime.block_on(run(&cli.program, folder.path(), seed, length))?;
    print!("{}", outcome.report);
    outcome.wrong.map_or(Ok(()), |wrong| fails(&wrong, seed))
}
