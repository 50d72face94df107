//! One command: from arguments to what is written and an exit code.

use std::io::Write;

use clap::CommandFactory;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::{Cli, ClusterArgs, Command, ExplainArgs, Output};
use crate::doctor::{self, Verdict};
use crate::error::Error;
use crate::explain::{Document, DocumentError, Question};
use crate::text::harmless_json;
use crate::{cluster, explain};

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
            runtime.block_on(online(&cli.cluster, command, &mut out))
        }
    }
}

async fn online(cluster: &ClusterArgs, command: Command, out: &mut impl Write) -> Result<u8, Error> {
    match command {
        Command::Explain(args) => explained(cluster, &args, out).await,
        Command::Doctor(args) => examined(cluster, args.output, out).await,
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
    let question = Question { method: &args.method, url: &args.url, websocket: args.websocket };
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

/// Writes a value for programs.
fn json_to(out: &mut impl Write, value: &Value) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", harmless_json(&text))?;
    Ok(())
}
