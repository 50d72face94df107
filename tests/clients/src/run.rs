//! A whole run: programs, rig, every selected client, every selected suite.

use std::collections::BTreeSet;

use crate::catalogue::{Catalogue, Client, Front, Judge};
use crate::cell::{self, Ask, CLIENT_TIMEOUT_SECS, Script};
use crate::entrance::Entrance;
use crate::failure::{Failure, Result};
use crate::front::{self, FrontRow};
use crate::install::{self, Folders};
use crate::judge::{self, Verdict};
use crate::rig::{self, Rig};
use crate::table::Row;
use crate::wire::Wire;

/// The target that no placeholder is for.
const ELSEWHERE: &str = "echo";

/// What a run found.
#[derive(Debug, Default)]
pub struct Found {
    /// A row for each client and entrance.
    pub rows: Vec<Row>,
    /// A verdict for each suite.
    pub verdicts: Vec<Verdict>,
    /// A row for each front and client of it.
    pub fronts: Vec<FrontRow>,
}

impl Found {
    /// Everything that is wrong, each in a sentence.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut all: Vec<_> = self.rows.iter().flat_map(Row::faults).collect();
        all.extend(self.fronts.iter().flat_map(FrontRow::faults));
        for verdict in &self.verdicts {
            all.extend(verdict.fault.iter().map(|fault| format!("{}: {fault}", verdict.name)));
            all.extend(verdict.failed.iter().map(|case| format!("{}: {case}", verdict.name)));
        }
        all
    }
}

/// What is run.
#[derive(Debug, Default)]
pub struct Selection<'a> {
    /// These clients, through each of their entrances.
    pub clients: Vec<&'a Client>,
    /// These suites.
    pub judges: Vec<&'a Judge>,
    /// These clients through each of these fronts.
    pub fronts: Vec<(&'a Front, Vec<&'a Client>)>,
}

impl<'a> Selection<'a> {
    /// What has such a name; an empty list of names is everything.
    ///
    /// # Errors
    /// When nothing has one of the names.
    pub fn of(catalogue: &'a Catalogue, only: &[String]) -> Result<Self> {
        let selected = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
        let clients: Vec<_> = catalogue.clients.iter().filter(|client| selected(&client.name)).collect();
        let judges: Vec<_> = catalogue.judges.iter().filter(|judge| selected(&judge.name)).collect();
        let fronts: Vec<_> = catalogue.fronts.iter().filter(|front| selected(&front.name)).collect();
        let names = clients.iter().map(|c| &c.name).chain(judges.iter().map(|j| &j.name));
        let known: BTreeSet<_> = names.chain(fronts.iter().map(|f| &f.name)).collect();
        if let Some(unknown) = only.iter().find(|name| !known.contains(name)) {
            return Err(Failure::new(format!(
                "there is no client {unknown:?}; they are in tests/clients/clients.yaml"
            )));
        }
        let through = |front: &'a Front| (front, catalogue.clients_of(front).collect());
        Ok(Self { clients, judges, fronts: fronts.into_iter().map(through).collect() })
    }

    /// The parts of everything.
    fn parts(&self, catalogue: &'a Catalogue) -> Vec<&'a str> {
        let through = self.fronts.iter().flat_map(|(_, clients)| clients);
        let clients = self.clients.iter().chain(through).flat_map(|client| &client.needs);
        let needed = clients.chain(self.judges.iter().flat_map(|judge| &judge.needs)).map(String::as_str);
        let fronts = self.fronts.iter().flat_map(|(front, _)| catalogue.parts_of(&front.host));
        let gateways = self.clients.iter().flat_map(|client| catalogue.parts_behind(client));
        needed.chain(fronts).chain(gateways).collect()
    }
}

/// Builds, installs, starts and runs what is selected.
///
/// # Errors
/// When the rig fails. What clients do wrong is in the result.
pub fn run(catalogue: &Catalogue, selection: &Selection<'_>) -> Result<Found> {
    rig::build()?;
    let folders = install::install(catalogue, &selection.parts(catalogue))?;
    let mut rig = Rig::start(catalogue, &folders)?;
    let mut found = Found::default();
    for client in &selection.clients {
        let version = version(&rig, &folders, &client.name, &client.version)?;
        for entrance in &client.entrances {
            let row = row(&rig, catalogue, &folders, client, &version, *entrance)?;
            println!("{}", row.line());
            row.faults().iter().for_each(|fault| println!("{fault}"));
            found.rows.push(row);
        }
    }
    for judge in &selection.judges {
        let verdict = judge::run(&mut rig, catalogue, &folders, judge)?;
        println!(
            "{} {}: {} passed, {} failed",
            verdict.name,
            verdict.version,
            verdict.passed,
            verdict.failed.len()
        );
        found.verdicts.push(verdict);
    }
    found.fronts = fronts(&mut rig, catalogue, &folders, selection)?;
    Ok(found)
}

fn fronts(
    rig: &mut Rig,
    catalogue: &Catalogue,
    folders: &Folders,
    selection: &Selection<'_>,
) -> Result<Vec<FrontRow>> {
    if selection.fronts.is_empty() {
        return Ok(Vec::new());
    }
    let wire = Wire::tap(&rig.spaces, rig.folder())?;
    let mut rows = Vec::new();
    for (front, clients) in &selection.fronts {
        let version = version(rig, folders, &front.name, &front.version)?;
        for client in clients {
            let row = front::row((rig, &wire), catalogue, folders, client, (front, &version))?;
            println!("{}", row.line());
            row.faults().iter().for_each(|fault| println!("{fault}"));
            rows.push(row);
        }
    }
    Ok(rows)
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
    let other = catalogue.target(ELSEWHERE)?;
    let elsewhere = || cell::run(rig, folders, client, other, entrance, Ask::PlaceholderElsewhere);
    let elsewhere = client.holds.then(elsewhere).transpose()?;
    let denied_host = if entrance.names_a_host_to_a_proxy() { Some(cell(Ask::DeniedHost)?) } else { None };
    Ok(Row::new(client, version, entrance, (allowed, denied_path, denied_host, elsewhere)))
}

/// The client's version. A client that cannot say it is not there, and that ends the run: it would otherwise pass for one
/// that was refused.
fn version(rig: &Rig, folders: &Folders, name: &str, script: &str) -> Result<String> {
    let (entrance, seconds) = (Entrance::TransparentTls, CLIENT_TIMEOUT_SECS);
    let asked = Script { run: script, entrance, base: String::new(), folders, seconds };
    let (code, said) = cell::script(rig, &asked)?;
    // Java tells of its options on every start.
    let version =
        said.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with("Picked up"));
    match (code, version) {
        (Some(0), Some(version)) => Ok(version.to_owned()),
        _ => Err(Failure::new(format!("{name} is not here, or does not tell its version: {said}"))),
    }
}
