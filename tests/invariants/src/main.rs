//! `invariants`: reads every revision of a cluster's etcd while tests run, until its standard input ends, and says which
//! invariants one of them broke. It shares no code with what it watches.
#![allow(clippy::print_stdout, reason = "its output is its verdict")]

mod etcd;
mod invariants;
mod object;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::io::AsyncReadExt;

use etcd::{Error, Etcd};
use invariants::{ALL, Watcher};

/// An etcd that was killed is back within this time, or the watch has failed.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Time between two attempts to reach one that is away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Where etcd listens, without TLS.
    #[arg(long, default_value = "127.0.0.1:2379")]
    etcd: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let etcd = Etcd::new(Arguments::parse().etcd);
    let mut watcher = Watcher::default();
    let outcome = watch(&etcd, &mut watcher).await;
    let counts: Vec<_> = ALL.iter().map(|one| format!("{one:?} {}", watcher.judged(*one))).collect();
    match &outcome {
        Err(error) => println!("not every revision was read: {error}"),
        Ok(revisions) => println!("{revisions} revisions read; judged: {}", counts.join(", ")),
    }
    // What was never judged is not known to hold.
    let all_judged = ALL.iter().all(|one| watcher.judged(*one) > 0);
    if outcome.is_ok() && all_judged && watcher.violations().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Reads until standard input ends, and then up to the revision of that moment.
async fn watch(etcd: &Etcd, watcher: &mut Watcher) -> Result<u64, Error> {
    let (first, known) = etcd.all().await?;
    known.iter().for_each(|event| watcher.known(event));
    let mut read = first;
    let mut last = u64::MAX;
    let mut stop = Box::pin(ended());
    let mut away_since = None;
    while read < last {
        let outcome = tokio::select! {
            () = &mut stop, if last == u64::MAX => {
                last = etcd.revision().await?;
                Ok(())
            }
            outcome = follow(etcd, watcher, &mut read, last) => outcome,
        };
        match outcome {
            Ok(()) => away_since = None,
            Err(error @ Error::Compacted(_)) => return Err(error),
            Err(error) => {
                let since = *away_since.get_or_insert((etcd.now(), read));
                if since.1 == read && since.0 + AWAY_MAX < etcd.now() {
                    return Err(error);
                }
                if since.1 != read {
                    away_since = None;
                }
                tokio::time::sleep(AWAY_PAUSE).await;
            }
        }
    }
    let told = watcher.violations().len();
    watcher.end(read, etcd.now());
    tell(watcher, told);
    Ok(read - first)
}

/// Tells what was found after the first `told` of it: at once, for the run may not come to its end.
fn tell(watcher: &Watcher, told: usize) {
    for violation in watcher.violations().iter().skip(told) {
        println!("{:?} broken at revision {}: {}", violation.invariant, violation.revision, violation.what);
    }
}

/// Judges what comes, until all up to `last` has come.
async fn follow(etcd: &Etcd, watcher: &mut Watcher, read: &mut u64, last: u64) -> Result<(), Error> {
    let mut watch = etcd.watch(*read + 1).await?;
    while *read < last {
        for event in watch.next().await? {
            let told = watcher.violations().len();
            watcher.see(&event);
            tell(watcher, told);
            *read = event.revision;
        }
    }
    Ok(())
}

/// Whoever started this closes its standard input when the tests are over, also by dying.
async fn ended() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 256];
    while stdin.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}
