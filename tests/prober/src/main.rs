//! What a hostile agent would try, as one static binary that serves as the agent's image in the cluster tests.
//!
//! It reports what it saw as JSON and judges nothing: whether an answer is a fault is for the test to say, which also
//! runs the same attempts from a pod without walls, as the control. It shares no code with the fence, on purpose.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its result")]

mod costs;
mod direct;
mod files;
mod serve;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Tries each target once and prints what answered.
    Direct {
        /// `ip:port/tcp`, `ip:port/udp`, `ip:port/sctp`, `ip:port/udplite`, `ip:0/icmp`, `ip:0/icmp-raw`, or `ip:0/<IP protocol number>`.
        #[arg(long, value_delimiter = ',', required = true)]
        targets: Vec<direct::Target>,
        /// Milliseconds that each attempt waits.
        #[arg(long, default_value_t = 1000)]
        wait_millis: u64,
    },
    /// Connects to one target again and again from the first millisecond on, then prints how often that succeeded.
    Sinkburst {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long, default_value_t = 1000)]
        for_millis: u64,
        /// Goes on sleeping afterwards, so that the container stays.
        #[arg(long)]
        stay: bool,
    },
    /// Answers every TCP connection and every datagram on each port that it can have.
    Serve {
        #[arg(required = true)]
        ports: Vec<u16>,
    },
    /// Prints what the kernel charges for files in each folder, for system calls, and for work without any.
    Costs {
        #[arg(long, required = true)]
        folder: Vec<std::path::PathBuf>,
    },
    /// Does nothing.
    Sleep,
    /// Prints the form in which `files` looks for what stands on standard input, so that the secret itself never enters the pod.
    Digest,
    /// Searches every file, environment and command line for secrets given as digests, and prints where they are.
    Files {
        /// A digest printed by `digest`; may be given several times.
        #[arg(long, required = true)]
        needle: Vec<files::Needle>,
        /// Where to start.
        #[arg(long, default_value = "/")]
        root: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> std::io::Result<String> {
    Ok(match verb {
        Verb::Direct { targets, wait_millis } => {
            serde_json::to_string(&direct::all(targets, Duration::from_millis(wait_millis)))?
        }
        Verb::Sinkburst { target, for_millis, stay } => {
            let text = serde_json::to_string(&direct::burst(target, Duration::from_millis(for_millis)))?;
            if stay {
                println!("{text}");
                std::io::stdout().flush()?;
                sleep()
            }
            text
        }
        Verb::Serve { ports } => serve::serve(ports),
        Verb::Costs { folder } => serde_json::to_string(&costs::measure(&folder)?)?,
        Verb::Sleep => sleep(),
        Verb::Digest => {
            let mut secret = Vec::new();
            std::io::stdin().read_to_end(&mut secret)?;
            files::Needle::of(&secret).to_string()
        }
        Verb::Files { needle, root } => serde_json::to_string(&files::search(&root, &needle))?,
    })
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}
