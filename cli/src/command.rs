//! One command: from arguments to what is written and an exit code.

use std::io::Write;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::PowerState;
use clap::CommandFactory;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::args::{Cli, ClusterArgs, Command, ExplainArgs, ListArgs, Output};
use crate::doctor::{self, Verdict};
use crate::error::Error;
use crate::exec::exec;
use crate::explain::{Document, DocumentError, Question};
use crate::find::{self, FindError};
use crate::logs::{self, Shown};
use crate::text::harmless_json;
use crate::whole::Whole;
use crate::{cluster, copy, explain, power, review, run, status};

/// All is well: allowed, or done.
pub const EXIT_OK: u8 = 0;
/// The answer is no.
pub const EXIT_NO: u8 = 1;
/// There is no answer.
pub const EXIT_UNKNOWN: u8 = 2;

/// Does what the command line says, and tells the exit code.
///
/// # Errors
/// When there is no answer.
pub fn main(cli: Cli) -> Result<u8, Error> {
    let mut out = anstream::stdout();
    match cli.command {
        Command::Completions { shell } => {
            // Shells complete the plugin by the name of its program.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kubectl-agentsandbox", &mut script);
            out.write_all(&script)?;
            Ok(EXIT_OK)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let outcome = runtime.block_on(online(&cli.cluster, command, &mut out));
            // A thread that still waits for what is typed would keep the program.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn online(cluster: &ClusterArgs, command: Command, out: &mut impl Write) -> Result<u8, Error> {
    match command {
        Command::Explain(args) if args.spec => told_whole(cluster, &args, out).await,
        Command::Explain(args) => explained(cluster, &args, out).await,
        Command::Doctor(args) => examined(cluster, args.output, out).await,
        Command::Run(args) => {
            let cluster = cluster::connect(cluster).await?;
            // One that waits for whoever reads does not keep a signal from being heard.
            let mut out = tokio::io::stdout();
            run::run(&cluster, &args, shown(args.raw), &mut out, &mut anstream::stderr()).await
        }
        Command::List(args) => listed(cluster, &args, out).await,
        Command::Status(args) => {
            let sandbox = find::sandbox(&cluster::connect(cluster).await?, &args.name).await?;
            match args.output {
                Output::Table => write!(out, "{}", status::status(&sandbox))?,
                Output::Json => json_to(out, &serde_json::to_value(&sandbox)?)?,
            }
            out.flush()?;
            Ok(if status::is_ready(&sandbox) { EXIT_OK } else { EXIT_NO })
        }
        Command::Suspend(args) => {
            let cluster = cluster::connect(cluster).await?;
            power::turn(&cluster, &args, PowerState::Suspended, &mut anstream::stderr()).await
        }
        Command::Resume(args) => {
            let cluster = cluster::connect(cluster).await?;
            power::turn(&cluster, &args, PowerState::Running, &mut anstream::stderr()).await
        }
        Command::Logs(args) => {
            let cluster = cluster::connect(cluster).await?;
            match args.audit {
                true => logs::print(&cluster, &args, Shown::Harmless, out).await?,
                // Byte by byte where it is raw: what takes colours out for files would change it.
                false => logs::print(&cluster, &args, shown(args.raw), &mut std::io::stdout()).await?,
            }
            Ok(EXIT_OK)
        }
        Command::Exec(args) => {
            let cluster = cluster::connect(cluster).await?;
            exec(&cluster, &args, shown(args.raw)).await
        }
        Command::Cp(args) => copy::copy(&cluster::connect(cluster).await?, &args, out).await,
        Command::Diff(args) => review::diff(&cluster::connect(cluster).await?, &args, out).await,
        Command::Apply(args) => review::apply(&cluster::connect(cluster).await?, &args, out).await,
        Command::Discard(args) => review::discard(&cluster::connect(cluster).await?, &args, out).await,
        // It asks nobody.
        Command::Completions { .. } => Ok(EXIT_OK),
    }
}

async fn explained(cluster: &ClusterArgs, args: &ExplainArgs, out: &mut impl Write) -> Result<u8, Error> {
    let document = match (&args.policy, &args.name) {
        (Some(file), _) => {
            let shown = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|source| DocumentError::File { file: shown.clone(), source })?;
            Document::parse(&shown, &text)?
        }
        (None, name) => {
            let cluster = cluster::connect(cluster).await?;
            explain::in_force(&cluster, name.as_deref().unwrap_or_default()).await?
        }
    };
    let url = args.url.as_deref().unwrap_or_default();
    let question = Question { method: &args.method, url, websocket: args.websocket };
    let answer = explain::explain(&document.policy, question)?;
    match args.output {
        Output::Table => write!(out, "{}", answer.table(document.note.as_deref()))?,
        Output::Json => {
            let mut text = answer.text.clone();
            text["generation"] = json!(document.policy.generation());
            text["note"] = json!(document.note);
            json_to(out, &text)?;
        }
    }
    out.flush()?;
    Ok(if answer.allowed { EXIT_OK } else { EXIT_NO })
}

async fn told_whole(cluster: &ClusterArgs, args: &ExplainArgs, out: &mut impl Write) -> Result<u8, Error> {
    let whole = match (&args.filename, &args.name) {
        (Some(file), _) => Whole::in_file(file)?,
        (None, name) => {
            let cluster = cluster::connect(cluster).await?;
            Whole::in_cluster(&cluster, name.as_deref().unwrap_or_default()).await?
        }
    };
    match args.output {
        Output::Table => write!(out, "{}", whole.table())?,
        Output::Json => json_to(out, &whole.json())?,
    }
    out.flush()?;
    Ok(if whole.is_merged() { EXIT_OK } else { EXIT_NO })
}

async fn examined(cluster: &ClusterArgs, output: Output, out: &mut impl Write) -> Result<u8, Error> {
    let cluster = cluster::connect(cluster).await?;
    let facts = doctor::observe(&cluster, Timestamp::now()).await;
    let lines = doctor::checks::all(&facts);
    let verdict = doctor::verdict(&lines);
    match output {
        Output::Table => write!(out, "{}", doctor::table(&lines))?,
        Output::Json => json_to(out, &json!({"verdict": verdict, "checks": lines}))?,
    }
    out.flush()?;
    Ok(match verdict {
        Verdict::Ok => EXIT_OK,
        Verdict::Failed => EXIT_NO,
        Verdict::Unknown => EXIT_UNKNOWN,
    })
}

async fn listed(cluster: &ClusterArgs, args: &ListArgs, out: &mut impl Write) -> Result<u8, Error> {
    let cluster = cluster::connect(cluster).await?;
    let sandboxes = match args.all_namespaces {
        true => Api::<AgentSandbox>::all(cluster.client.clone()),
        false => Api::namespaced(cluster.client.clone(), &cluster.namespace),
    };
    let all = sandboxes.list(&ListParams::default()).await.map_err(FindError::not_given("the sandboxes"))?;
    match args.output {
        Output::Table => write!(out, "{}", status::list(&all.items, args.all_namespaces, Timestamp::now()))?,
        Output::Json => json_to(out, &serde_json::to_value(&all.items)?)?,
    }
    out.flush()?;
    Ok(EXIT_OK)
}

/// A terminal obeys what it is shown, and a pipe may end at one: so wherever it goes, unless it is asked for raw.
pub(crate) const fn shown(raw: bool) -> Shown {
    if raw { Shown::Raw } else { Shown::Harmless }
}

/// Writes a value for programs.
pub(crate) fn json_to(out: &mut impl Write, value: &Value) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", harmless_json(&text))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_prints_is_made_harmless_unless_it_is_asked_for_raw() {
        assert_eq!((shown(false), shown(true)), (Shown::Harmless, Shown::Raw));
    }
}
