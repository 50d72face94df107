//! One run, from an empty world to the verdict.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentsandbox_conformance::dns;
use agentsandbox_conformance::failure::{Failure, Result};
use agentsandbox_conformance::pki::Authority;
use agentsandbox_conformance::world::State;
use tokio::task::JoinSet;

use crate::change::{Change, Changes};
use crate::keys::Slot;
use crate::ledger::{Ledger, Row};
use crate::memory::{GROWTH_KIB_MAX, Thirds};
use crate::proxy::{Files, Proxy};
use crate::traffic::{ENTRANCES, Traffic, WORKERS};
use crate::upstream::{self, Upstream};

/// Of a run so much fills caches and pools, and is not compared.
const WARM_UP_SHARE: u32 = 4;
/// From so long on a run has to have seen everything.
const TELLING: Duration = Duration::from_secs(60);
/// Memory is read so often.
const SAMPLE: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The table.
    pub report: String,
    /// The first wrong thing.
    pub wrong: Option<String>,
}

/// Runs the proxy so long under load.
///
/// # Errors
/// When the run cannot be set up.
pub async fn run(program: &Path, folder: &Path, seed: u64, length: Duration) -> Result<Outcome> {
    let ledger = Arc::new(Ledger::new(seed));
    let authority = Authority::new("the harness's CA")?;
    let names = State::default();
    dns::serve(&names).await?;
    let upstream = Upstream::new(Arc::clone(&ledger));
    upstream::serve(&upstream, &authority).await?;
    let change = Arc::new(Change {
        ledger: Arc::clone(&ledger),
        files: Files::create(folder)?,
        upstream_ca_pem: authority.certificate_pem.clone(),
        changes: Changes::default(),
        ends: AtomicBool::new(false),
    });
    change.begin()?;
    let proxy = Proxy::start(program, &change.files, &ledger)?;
    let roots_pem = change.files.roots()?;
    let traffic = Arc::new(Traffic { ledger: Arc::clone(&ledger), roots_pem, ends: AtomicBool::new(false) });
    let (samples, proxy) = load(&traffic, &change, &upstream, proxy, length).await;
    let log = proxy.log();
    match proxy.end() {
        Ok(status) if status.success() => ledger.close(),
        Ok(status) => ledger.accuse(format_args!("the proxy ended with {status}")),
        Err(failure) => ledger.accuse(failure),
    }
    if let Some(name) = names.seen().questions.iter().find(|name| name.ends_with("evil.test")) {
        ledger.accuse(format_args!("the name {name} was asked for, which no policy allows"));
    }
    let thirds = Thirds::of(&samples);
    let is_whole = ledger.first_wrong().is_none();
    if is_whole {
        complete(&ledger, &upstream, thirds, length);
    }
    let report = report(&ledger, &upstream, &change.changes, thirds);
    let wrong = ledger.first_wrong().map(|wrong| format!("{wrong}\nThe proxy's log ends with:\n{log}"));
    Ok(Outcome { report, wrong })
}

/// Load and changes, until the time is over or something is wrong; the samples of memory behind the warm-up.
async fn load(
    traffic: &Arc<Traffic>,
    change: &Arc<Change>,
    upstream: &Arc<Upstream>,
    mut proxy: Proxy,
    length: Duration,
) -> (Vec<u64>, Proxy) {
    let ledger = &traffic.ledger;
    let mut workers = JoinSet::new();
    (0..WORKERS as u64).for_each(|worker| {
        workers.spawn(Arc::clone(traffic).work(worker));
    });
    let mut changing = JoinSet::new();
    changing.spawn(Arc::clone(change).policies());
    changing.spawn(Arc::clone(change).faults(Arc::clone(upstream)));
    Slot::ALL.into_iter().for_each(|slot| {
        changing.spawn(Arc::clone(change).secrets(slot));
    });
    let mut samples = Vec::new();
    let watching = async {
        let begin = tokio::time::Instant::now();
        let mut looks = tokio::time::interval(SAMPLE);
        while begin.elapsed() < length || !shows_something(ledger, &change.changes) {
            looks.tick().await;
            if proxy.has_ended() {
                ledger.accuse("the proxy has ended");
            }
            samples.extend(proxy.resident_kib().filter(|_| begin.elapsed() > length / WARM_UP_SHARE));
        }
    };
    tokio::select! {
        () = watching => {}
        () = ledger.wrong.notified() => {}
    }
    // Nobody is cut off: what has begun comes to its end, and is judged.
    traffic.ends.store(true, Ordering::Relaxed);
    ended(&mut workers, ledger).await;
    change.ends.store(true, Ordering::Relaxed);
    ended(&mut changing, ledger).await;
    (samples, proxy)
}

/// Whether every part has done something: a slow machine gets more time instead of an empty run.
fn shows_something(ledger: &Ledger, changes: &Changes) -> bool {
    let rows = ledger.rows();
    let some = |count: fn(&Row) -> u64| rows.values().any(|row| count(row) > 0);
    let has_changed = changes.policies.count() > 0 && changes.secrets.count() > 0;
    some(|row| row.served) && some(|row| row.denied) && has_changed
}

async fn ended(tasks: &mut JoinSet<()>, ledger: &Ledger) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            ledger.accuse(format_args!("a part of the harness failed: {error}"));
        }
    }
}

/// What a run must have seen, so that nothing wrong means something. A shorter one only shows that its parts work.
fn complete(ledger: &Ledger, upstream: &Upstream, thirds: Option<Thirds>, length: Duration) {
    if length < TELLING {
        return;
    }
    match thirds {
        Some(thirds) if thirds.is_flat() => {}
        _ => ledger.accuse(format_args!(
            "memory is not flat: {thirds:?}, and {GROWTH_KIB_MAX} KiB more are allowed"
        )),
    }
    let rows = ledger.rows();
    for kind in ENTRANCES.map(|entrance| (entrance, "request")) {
        if !rows.contains_key(&kind) {
            ledger.accuse(format_args!("nothing was asked: {kind:?}"));
        }
    }
    for ((entrance, kind), row) in rows {
        if kind != "probe" && (row.served == 0 || (row.denied == 0 && kind != "events")) {
            ledger.accuse(format_args!("{kind} by {entrance:?} shows nothing: {row:?}"));
        }
    }
    for (fault, count) in upstream.faults.suffered() {
        if count == 0 {
            ledger.accuse(format_args!("{fault:?} was never met"));
        }
    }
    if upstream.planted() == 0 {
        ledger.accuse("no secret was ever written into an answer");
    }
}

fn report(ledger: &Ledger, upstream: &Upstream, changes: &Changes, thirds: Option<Thirds>) -> String {
    let mut text = String::from(
        "| entrance | what | served | denied | upstream failed | overtaken |\n|---|---|---|---|---|---|\n",
    );
    let mut all = Row::default();
    for ((entrance, kind), row) in ledger.rows() {
        let Row { served, denied, failed, overtaken } = row;
        let name = entrance.as_str();
        let _ = writeln!(text, "| {name} | {kind} | {served} | {denied} | {failed} | {overtaken} |");
        all.add(row);
    }
    let Row { served, denied, failed, overtaken } = all;
    let _ = writeln!(text, "| all | | {served} | {denied} | {failed} | {overtaken} |\n");
    for (what, delays) in [("Policies", &changes.policies), ("Secrets", &changes.secrets)] {
        let (median, longest) = delays.median_and_longest().unwrap_or_default();
        let count = delays.count();
        let _ = writeln!(
            text,
            "{what} that came in force: {count}, half of them in {median} ms or less, the slowest in {longest} ms."
        );
    }
    let met: Vec<String> =
        upstream.faults.suffered().iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
    let _ = writeln!(text, "Faults met: {}.", met.join(", "));
    let _ = writeln!(text, "Secrets written into answers by upstreams: {}.", upstream.planted());
    if let Some(Thirds { first, last }) = thirds {
        let (first, last) = (first as f64 / 1024.0, last as f64 / 1024.0);
        let _ =
            writeln!(text, "Resident memory: {first:.1} MiB in the first third, {last:.1} MiB in the last.");
    }
    text
}

/// Says how to run it again.
///
/// # Errors
/// Always, with the first wrong thing.
pub fn fails(wrong: &str, seed: u64) -> Result<()> {
    Err(Failure::new(format!("seed {seed}: {wrong}")))
}
