//! A whole run: programs, rig, every selected client, every selected suite.

use std::collections::BTreeSet;

use crate::catalogue::{Catalogue, Client, Judge};
use crate::cell::{self, Ask, CLIENT_TIMEOUT_SECS, Script};
use crate::entrance::Entrance;
use crate::failure::{Failure, Result};
use crate::install::{self, Folders};
use crate::judge::{self, Verdict};
use crate::rig::{self, Rig};
use crate::table::Row;

/// What a run found.
#[derive(Debug, Default)]
pub struct Found {
    /// A row for each client and entrance.
    pub rows: Vec<Row>,
    /// A verdict for each suite.
    pub verdicts: Vec<Verdict>,
}

impl Found {
    /// Everything that is wrong, each in a sentence.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut all: Vec<_> = self.rows.iter().flat_map(Row::faults).collect();
        for verdict in &self.verdicts {
            all.extend(verdict.fault.iter().map(|fault| format!("{}: {fault}", verdict.name)));
            all.extend(verdict.failed.iter().map(|case| format!("{}: {case}", verdict.name)));
        }
        all
    }
}

/// Builds, installs, starts and runs what is selected by name; an empty selection is everything.
///
/// # Errors
/// When nothing has such a name, or the rig fails. What clients do wrong is in the result.
pub fn run(catalogue: &Catalogue, only: &[String]) -> Result<Found> {
    let selected = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    let clients: Vec<_> = catalogue.clients.iter().filter(|client| selected(&client.name)).collect();
    let judges: Vec<_> = catalogue.judges.iter().filter(|judge| selected(&judge.name)).collect();
    let known: BTreeSet<_> = clients.iter().map(|c| &c.name).chain(judges.iter().map(|j| &j.name)).collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(name)) {
        return Err(Failure::new(format!(
            "there is no client {unknown:?}; they are in tests/clients/clients.yaml"
        )));
    }
    run_these(catalogue, &clients, &judges)
}

/// As [`run`], for clients and suites that are at hand.
///
/// # Errors
/// As [`run`].
pub fn run_these(catalogue: &Catalogue, clients: &[&Client], judges: &[&Judge]) -> Result<Found> {
    rig::build()?;
    let needed =
        clients.iter().flat_map(|client| &client.needs).chain(judges.iter().flat_map(|judge| &judge.needs));
    let needed: Vec<_> = needed.map(String::as_str).collect();
    let folders = install::install(catalogue, &needed)?;
    let rig = Rig::start(catalogue, &folders)?;
    let mut found = Found::default();
    for client in clients {
        let version = version(&rig, &folders, client)?;
        for entrance in &client.entrances {
            let row = row(&rig, catalogue, &folders, client, &version, *entrance)?;
            println!("{}", row.line());
            row.faults().iter().for_each(|fault| println!("{fault}"));
            found.rows.push(row);
        }
    }
    for judge in judges {
        let verdict = judge::run(&rig, catalogue, &folders, judge)?;
        println!(
            "{} {}: {} passed, {} failed",
            verdict.name,
            verdict.version,
            verdict.passed,
            verdict.failed.len()
        );
        found.verdicts.push(verdict);
    }
    Ok(found)
}

fn row(
    rig: &Rig,
    catalogue: &Catalogue,
    folders: &Folders,
    client: &Client,
    version: &str,
    entrance: Entrance,
) -> Result<Row> {
    let target = catalogue.target(&client.target)?;
    let cell = |ask| cell::run(rig, folders, client, target, entrance, ask);
    let (allowed, denied_path) = (cell(Ask::Allowed)?, cell(Ask::DeniedPath)?);
    let denied_host = if entrance.names_a_host_to_a_proxy() { Some(cell(Ask::DeniedHost)?) } else { None };
    Ok(Row::new(client, version, entrance, (allowed, denied_path, denied_host)))
}

/// The client's version. A client that cannot say it is not there, and that ends the run: it would otherwise pass for one
/// that was refused.
fn version(rig: &Rig, folders: &Folders, client: &Client) -> Result<String> {
    let (entrance, seconds) = (Entrance::TransparentTls, CLIENT_TIMEOUT_SECS);
    let asked = Script { run: &client.version, entrance, base: String::new(), folders, seconds };
    let (code, said) = cell::script(rig, &asked)?;
    // Java tells of its options on every start.
    let version =
        said.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with("Picked up"));
    match (code, version) {
        (Some(0), Some(version)) => Ok(version.to_owned()),
        _ => Err(Failure::new(format!("{} is not here, or does not tell its version: {said}", client.name))),
    }
}
