//! Entry point: arguments to configuration, configuration to a serving proxy, faults to exit codes and, in a pod, to
//! the termination message. 64 means that the call must be corrected, 1 that something it names is not there.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use agentsandbox_policy::Policy;
use agentsandbox_proxy::cli::{Cli, Command, ServeArgs};
use agentsandbox_proxy::config::{Config, StartError, chain};
use agentsandbox_proxy::explain::{self, Explained, Question};
use agentsandbox_proxy::{descriptors, health, reload, serve};
use clap::Parser;
use clap::error::ErrorKind;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    match cli.command {
        Command::Serve(args) => run(&args),
        Command::AwaitServing { admin } => match health::await_serving(admin, Instant::now()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&chain(&error), 1),
        },
        Command::Check { policy } => check(&policy),
        Command::Explain { policy, request, headers, body } => {
            explain(&policy, &request, &headers, body.as_deref())
        }
        Command::Schema { of } => say(of.schema().trim_end()),
    }
}

fn run(args: &ServeArgs) -> ExitCode {
    log_to_stderr();
    seal_memory();
    let mut config = match Config::parse(args) {
        Ok(config) => config,
        Err(error) => return not_started(args, &error),
    };
    config.connections_max = match descriptors::connections_max(config.connections_max) {
        Ok(connections) => connections,
        Err(error) => return not_started(args, &StartError::Faults(vec![error.to_string()])),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime cannot start: {error}"), 1),
    };
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let audit = match unbuffered_stdout() {
            Ok(audit) => audit,
            Err(error) => return fail(&format!("stdout, the audit trail, cannot be written: {error}"), 1),
        };
        // Whoever is served is drained: before a signal is waited for it ends the process.
        let signals = match signal(SignalKind::terminate())
            .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)))
        {
            Ok(signals) => signals,
            Err(error) => return fail(&format!("signals cannot be waited for: {error}"), 1),
        };
        match serve::bind(config, Box::new(audit), shutdown.clone()).await {
            Ok(bound) => {
                for (port, address) in bound.addresses() {
                    tracing::info!(port = ?port, address = %address, "listening");
                }
                tokio::spawn(wait_for(signals, shutdown));
                bound.run().await;
                ExitCode::SUCCESS
            }
            Err(error) => fail(&chain(&error), 1),
        }
    })
}

/// A pod has one core. There one thread does it all: what is ready runs in turn, so that an HTTP/2 connection gets its turn to write
/// once all its streams have had theirs, and writes for all of them at once. A worker of several runs the connection right
/// after each stream, and nobody could take that over from it.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let is_alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let mut builder = match is_alone {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

async fn wait_for((mut terminate, mut interrupt): (Signal, Signal), shutdown: CancellationToken) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    shutdown.cancel();
}

fn not_started(args: &ServeArgs, error: &StartError) -> ExitCode {
    match error {
        StartError::Faults(faults) => {
            let text = faults.join("\n");
            terminate(args, &json!({"reason": "ConfigurationInvalid", "message": text}));
            fail(&text, EXIT_USAGE)
        }
        StartError::Credential { name, error } => {
            let message = format!("The secret of AgentCredential {name} cannot be used: {error}.");
            let words =
                json!({"reason": error.reason(), "error": error, "credential": name, "message": message});
            terminate(args, &words);
            fail(&message, 1)
        }
    }
}

fn terminate(args: &ServeArgs, message: &serde_json::Value) {
    if let Some(file) = &args.termination_log
        && let Err(error) = std::fs::write(file, message.to_string())
    {
        tracing::warn!(error = %error, "the termination message cannot be written");
    }
}

fn check(file: &Path) -> ExitCode {
    match reload::read(file).map_err(|error| chain(&error)).and_then(|text| parse(&text)) {
        Ok(policy) => {
            let credentials: Vec<&str> = policy.credentials().map(|(name, _)| name).collect();
            let certificates: Vec<&str> = policy.certificate_files().map(|(name, _)| name).collect();
            let certificates = match certificates.as_slice() {
                [] => String::new(),
                _ => format!(", client certificates: {}", certificates.join(", ")),
            };
            let (rules, credentials) = (policy.rule_count(), credentials.join(", "));
            say(&format!("valid: {rules} rules, credentials: {credentials}{certificates}"))
        }
        Err(faults) => fail(&faults, EXIT_USAGE),
    }
}

fn explain(file: &Path, request: &str, fields: &[String], body: Option<&Path>) -> ExitCode {
    let explained = || {
        let policy = reload::read(file).map_err(|error| chain(&error)).and_then(|text| parse(&text))?;
        let body = body.map_or_else(|| Ok(Vec::new()), std::fs::read);
        let body = body.map_err(|error| format!("the body cannot be read: {error}"))?;
        explain::explain(&policy, Question { request, fields, body: &body })
            .map_err(|error| error.to_string())
    };
    match explained() {
        Ok(Explained { allowed, text }) => {
            let said = say(&format!("{text:#}"));
            if allowed { said } else { ExitCode::from(1) }
        }
        Err(fault) => fail(&fault, EXIT_USAGE),
    }
}

fn parse(text: &str) -> Result<Policy, String> {
    Policy::from_yaml(text)
        .map_err(|error| error.faults().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// The audit trail without the standard library's buffer: a line that failed must not appear later, and each is one
/// write.
fn unbuffered_stdout() -> std::io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Logs go to stderr: stdout is the audit trail.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
}

/// No core file may hold a secret, no process of the same user may read our memory, and none of it is swapped out where the
/// limit lets us say so.
fn seal_memory() {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    let sealed = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .and_then(|()| setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }));
    if let Err(error) = sealed {
        tracing::warn!(error = %error, "core files are not switched off");
    }
    // Under a limit the lock would be refused now, or worse, any later growth would be.
    let may_lock_all = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !may_lock_all && getrlimit(Resource::Memlock).current.is_some() {
        return tracing::debug!("memory is not locked: there is a limit on locked memory");
    }
    // On fault: only what is really used is kept in memory.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(all) {
        tracing::debug!(error = %error, "memory is not locked");
    }
}

fn say(text: &str) -> ExitCode {
    let written = writeln!(std::io::stdout(), "{text}");
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn fail(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(code)
}
