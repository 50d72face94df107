//! How long a large repository takes until the agent runs, from each source and with each access that the product takes, beside an empty
//! workspace and beside plain programs in the same run. Started by `cargo xtask bench workspace`, which puts what this prints into
//! `docs/benchmarks.md`.
//!
//! Its arguments are a file, into which every sample goes, what the machine is, how many rounds there are, and names of cases, of which
//! none means all. The first round is not counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be made ends the run")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report is the output, and what is done meanwhile is told"
)]

mod case;
mod measure;
mod plain;
mod report;
mod repository;
mod served;

use agentsandbox_tests::{Namespace, Rig, with_namespace};
use serde_json::json;

use crate::case::Case;
use crate::report::Measured;
use crate::repository::{Entry, Plan};
use crate::served::Served;

/// 200 MB in 20,000 files.
const PLAN: Plan = Plan { files: 20_000, bytes: 200_000_000, seed: 20_000 };

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (file, machine) = (arguments.next().unwrap(), arguments.next().unwrap());
    let rounds: usize = arguments.next().unwrap().parse().unwrap();
    let cases = Case::all(&arguments.collect::<Vec<_>>());
    let rig = Rig::alone().await;
    eprintln!("the repository is made and served");
    let entries = PLAN.entries();
    let served = Served::new(&rig, &entries).await;
    with_namespace(&rig, "bench-workspace", async |ns| {
        served.offer(&rig, &ns, xtask::borrowed_image::REFERENCE, &entries).await;
        let measured = rounds_of(&rig, &ns, (cases, rounds), &served).await;
        served.withdraw(&ns).await;
        let raw = json!({
            "machine": machine, "files": PLAN.files, "bytes": PLAN.bytes, "seed": PLAN.seed, "rounds": rounds,
            "pack_bytes": served.pack_bytes, "archive_bytes": served.archive_bytes,
            "samples": measured.samples, "plain": measured.plain, "failures": measured.failures,
        });
        std::fs::write(file, serde_json::to_string(&raw).unwrap() + "\n").unwrap();
        println!("{}\n\n{}", about(&entries, &served, rounds), measured.text());
    })
    .await;
}

/// Every case in turn, round by round, so that all of them meet the same machine.
async fn rounds_of(
    rig: &Rig,
    ns: &Namespace,
    (cases, rounds): (Vec<Case>, usize),
    served: &Served,
) -> Measured {
    let mut measured = Measured { cases, samples: Vec::new(), plain: Vec::new(), failures: Vec::new() };
    for round in 0..rounds {
        for case in measured.cases.clone() {
            match measure::run(rig, ns, (case, round), xtask::borrowed_image::REFERENCE, served).await {
                Ok(samples) => {
                    for sample in &samples {
                        eprintln!("{}", serde_json::to_string(sample).unwrap());
                    }
                    measured.samples.extend(samples);
                }
                Err(why) => {
                    eprintln!("{} came to nothing: {why}", case.name());
                    measured.failures.push(format!("{}, round {round}: {why}", case.name()));
                }
            }
        }
        for plain in plain::all(rig, served, round) {
            eprintln!("{}", serde_json::to_string(&plain).unwrap());
            measured.plain.push(plain);
        }
    }
    measured
}

/// What was measured with.
fn about(entries: &[Entry], served: &Served, rounds: usize) -> String {
    let mut sizes: Vec<u64> = entries.iter().map(|entry| entry.bytes).collect();
    sizes.sort_unstable();
    let at = |percent: usize| sizes[(sizes.len() - 1) * percent / 100];
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "{} files of {:.0} MB together: half of them have at most {} bytes, 99 of 100 at most {}, the largest {:.1} MB. As a pack of git's they are {:.1} MB, as a tar.gz {:.1} MB. {rounds} rounds, of which the first is not counted.",
        entries.len(),
        megabytes(sizes.iter().sum()),
        at(50),
        at(99),
        megabytes(at(100)),
        megabytes(served.pack_bytes),
        megabytes(served.archive_bytes),
    )
}
