//! The results, as a person reads them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::catalogue::{Client, Table};
use crate::cell::Outcome;
use crate::entrance::Entrance;
use crate::judge::Verdict;
use crate::run::Found;

/// One client through one entrance.
#[derive(Debug)]
pub struct Row {
    /// The client.
    pub client: String,
    /// Its version.
    pub version: String,
    /// The entrance.
    pub entrance: Entrance,
    /// The request that is allowed.
    pub allowed: Outcome,
    /// A path that is denied.
    pub denied_path: Outcome,
    /// A host that is denied, where the client names it to a proxy.
    pub denied_host: Option<Outcome>,
    /// Its placeholder at a host that it is not for, where the client holds one.
    pub elsewhere: Option<Outcome>,
    /// What somebody who uses the client must know.
    pub notes: Vec<String>,
    /// Where it stands.
    pub table: Table,
}

impl Row {
    /// A row for a client.
    #[must_use]
    pub fn new(
        client: &Client,
        version: &str,
        entrance: Entrance,
        outcomes: (Outcome, Outcome, Option<Outcome>, Option<Outcome>),
    ) -> Self {
        let (allowed, denied_path, denied_host, elsewhere) = outcomes;
        Self {
            client: client.name.clone(),
            version: version.to_owned(),
            entrance,
            allowed,
            denied_path,
            denied_host,
            elsewhere,
            table: client.table,
            notes: [&client.hides, &client.note]
                .into_iter()
                .filter(|note| !note.is_empty())
                .cloned()
                .collect(),
        }
    }

    /// Everything that is wrong, each in a sentence.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let asked = [("allowed", Some(&self.allowed)), ("denied path", Some(&self.denied_path))];
        let asked = asked.into_iter().chain([
            ("denied host", self.denied_host.as_ref()),
            ("placeholder elsewhere", self.elsewhere.as_ref()),
        ]);
        let faults = asked.filter_map(|(ask, outcome)| Some((ask, outcome?.fault.as_ref()?)));
        faults
            .map(|(ask, fault)| format!("{} through {}, {ask}: {fault}", self.client, self.entrance))
            .collect()
    }

    /// The row of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let well = |outcome: &Outcome, word: &str| {
            if outcome.fault.is_none() { word.to_owned() } else { "**failed**".to_owned() }
        };
        let key = if self.entrance.carries_a_key() { "with the key" } else { "without a key" };
        let host = self.denied_host.as_ref();
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.client,
            self.version,
            self.entrance,
            well(&self.allowed, key),
            well(&self.denied_path, "refused"),
            self.denied_path.denials,
            host.map_or_else(
                || "–".to_owned(),
                |outcome| {
                    // It was still asking when its time was up.
                    format!("{}{}", outcome.denials, if outcome.stopped { "+" } else { "" })
                }
            ),
            self.elsewhere.as_ref().map_or_else(
                || "–".to_owned(),
                |outcome| format!("{}, {}", well(outcome, "refused"), outcome.denials)
            ),
        )
    }
}

const HEAD: &str = "# Clients

Written by `cargo xtask clients`, which runs each client through each entrance that it can use, with nothing but the sandbox's CA in the variables
that an agent has. An agent's network namespace leads to the proxy and nowhere else; the hosts are stand-ins that journal what arrives.

- **allowed**: the client was answered, and the stand-in saw the key, which is nowhere in what the client was sent. Plain HTTP never carries a key.
- **denied path**: a path of the same host that no rule allows. The client failed and shows the denial, and the stand-in saw nothing.
- **requests per denial**: how often the client asked for the same thing, by the proxy's audit trail. More than two is a failure (P-I14).
- **per denied host**: how often it asked for a host that no rule names, where it tells a proxy the host. Nothing arrived, and the name was not
  resolved. Such a client gets no tunnel, and so no answer that could tell it to stop: many take that for a broken network and ask again, which is
  told here and not judged. A plus: it was still asking after a minute. Through the other entrances the name does not exist.
- **placeholder elsewhere**: clients that authenticate hold placeholders of the form that the operator issues, in the variables of the presets. In its
  own place each is replaced by the key (**allowed**). Here the client is told to ask a host that it is not for, at a path that is allowed. It is
  refused (`PlaceholderMisuse`), and nothing arrives; the number is how often it asked, of which more than two is a failure.

| client | version | entrance | allowed | denied path | requests per denial | per denied host | placeholder elsewhere |
|---|---|---|---|---|---|---|---|
";

const FRONTS: &str = "
## Through an organisation's own proxy

Our proxy reaches the internet through another that asks for a login ([proxy.md](proxy.md)). Each client asks by CONNECT, once in each of
these ways, and each byte between the proxies is looked at: no key can be read there, and the login is sent to the organisation's proxy and found
neither at the destination nor at the agent.

- **allowed**: as above, with the key, which only the destination sees.
- **denied path**: refused by our proxy; the organisation's hears nothing of it, not even a connection.
- **wrong password** and **no way there**: the organisation's proxy knows no such login, or opens no way for it. The client is told which proxy
  refuses, what, and who can change it (`UpstreamProxyRefused`), which curl and git show; nothing arrives.
- **requests per refusal**: the most that the client asked for the same thing. More than two is a failure (P-I14).

| proxy | protocol | client | allowed | denied path | wrong password | no way there | requests per refusal |
|---|---|---|---|---|---|---|---|
";

const GATEWAYS: &str = "
## To other gateways

Gateways of other people's as the destination, which hand on to a stand-in behind them. The columns are those of the first table. Envoy passes the key on, and
tells the stand-in by which protocol it was asked. LiteLLM has a key of its own for the provider: that it arrived there shows that LiteLLM took the one that
our proxy added, which the agent does not have.

| client | version | entrance | allowed | denied path | requests per denial | per denied host | placeholder elsewhere |
|---|---|---|---|---|---|---|---|
";

/// The whole document.
#[must_use]
pub fn document(found: &Found) -> String {
    let Found { rows, verdicts, fronts } = found;
    let mut text = HEAD.to_owned();
    text += &lines(rows, Table::Clients);
    text += &notes(rows);
    text += FRONTS;
    for row in fronts {
        text += &(row.line() + "\n");
    }
    text += GATEWAYS;
    text += &lines(rows, Table::Gateways);
    text += "\n## Conformance\n\nSuites that others wrote, and what official SDKs make of a stream that its policy stops, through the proxy's interception:\n\n| suite | version | passed | failed |\n|---|---|---|---|\n";
    for verdict in verdicts {
        let Verdict { name, version, passed, failed, .. } = verdict;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {version} | {passed} | {} |", failed.len());
    }
    for (verdict, failed) in verdicts.iter().flat_map(|v| v.failed.iter().map(move |f| (v, f))) {
        let _ = writeln!(text, "\n- {}: {failed}", verdict.name);
    }
    text
}

fn lines(rows: &[Row], table: Table) -> String {
    rows.iter().filter(|row| row.table == table).map(|row| row.line() + "\n").collect()
}

fn notes(rows: &[Row]) -> String {
    let told: BTreeSet<_> =
        rows.iter().flat_map(|row| row.notes.iter().map(move |note| (&row.client, note))).collect();
    let elsewhere: BTreeSet<_> = rows
        .iter()
        .flat_map(|row| row.allowed.elsewhere.iter().map(move |host| (&row.client, host)))
        .collect();
    let mut text = String::new();
    if !told.is_empty() {
        text.push('\n');
    }
    for (client, note) in told {
        let _ = writeln!(text, "- {client}: {}", note.trim());
    }
    if !elsewhere.is_empty() {
        text += "\nHosts that clients asked for beside the one they were sent to, and were denied without harm to their work:\n\n";
    }
    for (client, host) in elsewhere {
        let _ = writeln!(text, "- {client}: {host}");
    }
    text
}
