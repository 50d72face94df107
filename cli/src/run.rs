//! A sandbox from a command line: made, followed until its agent runs, and its agent's output shown to the end.
//!
//! What is written is an ordinary AgentSandbox whose program runs once; whatever a command line cannot say is for a manifest. Progress
//! goes to stderr, the agent's output to stdout. How the program ended is the operator's to say: a pod that was evicted shows an end that
//! is none, and another follows it.

use std::future::Future;
use std::io::Write;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::SUFFIX_AGENT;
use agentsandbox_crds::sandbox::{Mode, ProgramStatus};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncWrite;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::RunArgs;
use crate::cluster::Cluster;
use crate::command::EXIT_UNKNOWN;
use crate::error::{Error, chain};
use crate::find::FindError;
use crate::logs::Shown;
use crate::status::condition;
use crate::text::harmless_line;

use output::{First, Log, Next};

mod output;

/// How often it is looked whether the agent's container has started, once its walls are proven.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Field manager of what this program writes.
pub(crate) const FIELD_MANAGER: &str = "kubectl-agentsandbox";

/// Why a run came to no end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was not written as a rule.
    #[error("\"{0}\" is no rule: write --allow HOST, or --credential NAME=HOST")]
    Rule(String),
    /// The agent does not start.
    #[error("the agent of AgentSandbox {name} does not start, and somebody has to do something: {message}")]
    Stalled {
        /// The sandbox.
        name: String,
        /// What its status says.
        message: String,
    },
    /// The CRD is older than this program.
    #[error(
        "this cluster's CRD of AgentSandboxes knows no templates, so the sandbox was deleted again: apply the CRDs of the chart"
    )]
    NoTemplates,
    /// It was deleted meanwhile.
    #[error("AgentSandbox {0} was deleted")]
    Gone(String),
    /// It takes too long.
    #[error(
        "the agent of AgentSandbox {name} does not run after {seconds} s; `kubectl agentsandbox status {name}` says how far it is"
    )]
    TooLong {
        /// The sandbox.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The watch broke off.
    #[error("AgentSandbox {0} cannot be followed")]
    Watch(String, #[source] Box<watcher::Error>),
    /// It is over, and its program has not ended by itself.
    #[error("AgentSandbox {name} is over, and its program has no exit code ({reason})")]
    Over {
        /// The sandbox.
        name: String,
        /// Why.
        reason: String,
    },
    /// Nobody says how the agent ended.
    #[error("the output of AgentSandbox {0} ended, and nobody says how its agent did")]
    NoEnd(String),
    /// The output of its first run is not there any more.
    #[error("the agent of AgentSandbox {0} was started several times before its output could be read")]
    NoFirst(String),
    /// A second signal came.
    #[error("the deletion of AgentSandbox {0} was not waited for")]
    Interrupted(String),
}

/// The sandbox that was made, and no other of its name.
#[derive(Clone, Debug)]
struct Own {
    name: String,
    uid: String,
}

impl Own {
    fn pod(&self) -> String {
        format!("{}{SUFFIX_AGENT}", self.name)
    }
}

/// How far a sandbox was followed.
enum Begun {
    /// Its agent runs, or ran, and this is its output.
    Runs(First, Log),
    /// It is over, and there is no output any more.
    Over(ProgramStatus),
}

/// The manifest that the command line says.
///
/// # Errors
/// [`RunError::Rule`].
pub fn manifest(args: &RunArgs) -> Result<Value, RunError> {
    let mut rules: Vec<Value> = args.allow.iter().map(|host| json!({"host": host})).collect();
    for text in &args.credential {
        let (name, host) = text.split_once('=').ok_or_else(|| RunError::Rule(text.clone()))?;
        rules.push(json!({"host": host, "credential": name}));
    }
    let mut agent = json!({});
    if let Some(image) = &args.image {
        agent["image"] = json!(image);
    }
    if !args.args.is_empty() {
        agent[if args.command { "command" } else { "args" }] = json!(args.args);
    }
    let mut spec = json!({"agent": agent, "lifecycle": {"mode": "Task"}});
    if let Some(template) = &args.template {
        spec["templateRef"] = json!({"name": template});
    }
    if let Some(class) = &args.class {
        spec["className"] = json!(class);
    }
    if !rules.is_empty() {
        spec["egress"] = json!({"allow": rules});
    }
    let metadata = match &args.name {
        Some(name) => json!({"name": name}),
        None => json!({"generateName": "run-"}),
    };
    Ok(
        json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": metadata, "spec": spec}),
    )
}

/// Makes the sandbox, follows it to its program's end, and tells the exit code. A signal ends the following; what is to be deleted
/// in the end is deleted then, too.
///
/// # Errors
/// Where it is refused, does not start, or nobody says how it ended.
pub async fn run(
    cluster: &Cluster,
    args: &RunArgs,
    shown: Shown,
    out: &mut (impl AsyncWrite + Unpin),
    progress: &mut impl Write,
) -> Result<u8, Error> {
    let sandbox: AgentSandbox = serde_json::from_value(manifest(args)?)?;
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.client.clone(), &cluster.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    // Heard before anything is made, so that none ends the program between.
    let mut signals = Signals::new()?;
    let made = sandboxes.create(&params, &sandbox).await;
    let made = made.map_err(FindError::not_given("the sandbox that is asked for"))?;
    let own = Own { name: made.name_any(), uid: made.uid().unwrap_or_default() };
    if made.spec.template_ref != sandbox.spec.template_ref {
        // It would run without what bounds it.
        deleted(&sandboxes, &own).await?;
        return Err(RunError::NoTemplates.into());
    }
    // From here to the deletion nothing ends the program but what `finish` waits for.
    let place = format!("AgentSandbox {}/{}", cluster.namespace, own.name);
    tell(progress, &format!("{place} is made"));
    if args.detach {
        return Ok(0);
    }
    let delete = args.rm.then(|| deleted(&sandboxes, &own));
    let followed = followed(cluster, &own, (args.timeout, runs_once(&made)), shown, out, progress);
    let (outcome, deletion) = finish(&own.name, followed, async || signals.next().await, delete).await;
    settled(&place, outcome, deletion, progress)
}

/// Where nobody reads any more there is nobody to tell.
pub(crate) fn tell(progress: &mut dyn Write, line: &str) {
    let _told = writeln!(progress, "{}", harmless_line(line));
}

/// What ends a program that runs in the foreground.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The exit code by which shells tell of it.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hang_up.recv() => 129,
            _ = self.quit.recv() => 131,
        }
    }
}

/// Waits for the end or a signal, and then deletes, whichever came. A signal meanwhile ends at once.
async fn finish(
    name: &str,
    followed: impl Future<Output = Result<u8, Error>>,
    mut signal: impl AsyncFnMut() -> u8,
    delete: Option<impl Future<Output = Result<(), Error>>>,
) -> (Result<u8, Error>, Option<Result<(), Error>>) {
    let outcome = tokio::select! {
        outcome = followed => outcome,
        code = signal() => Ok(code),
    };
    let Some(delete) = delete else { return (outcome, None) };
    let deletion = tokio::select! {
        deletion = delete => deletion,
        _ = signal() => Err(RunError::Interrupted(name.to_owned()).into()),
    };
    (outcome, Some(deletion))
}

/// What the program ends with. A deletion that failed is told, and hides neither an exit code nor an error.
fn settled(
    place: &str,
    outcome: Result<u8, Error>,
    deletion: Option<Result<(), Error>>,
    progress: &mut dyn Write,
) -> Result<u8, Error> {
    match deletion {
        None => tell(
            progress,
            &format!("{place} stays until it is deleted, and an agent that has not ended runs on"),
        ),
        Some(Ok(())) => tell(progress, &format!("{place} is being deleted")),
        Some(Err(error)) => {
            tell(progress, &format!("error: {}", chain(&error)));
            tell(
                progress,
                &format!("{place} stays until it is deleted, and an agent that has not ended runs on"),
            );
            // Success is all that was asked for.
            return outcome.map(|code| if code == 0 { EXIT_UNKNOWN } else { code });
        }
    }
    outcome
}

/// Deletes this sandbox and no other of its name; one that is gone already is deleted.
async fn deleted(sandboxes: &Api<AgentSandbox>, own: &Own) -> Result<(), Error> {
    match sandboxes.delete(&own.name, &only(own)).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => {
            Err(FindError::not_given(format!("the deletion of AgentSandbox {}", own.name))(error).into())
        }
    }
}

fn only(own: &Own) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(own.uid.clone()), ..Preconditions::default() };
    DeleteParams::default().preconditions(preconditions)
}

/// It is not there, or what is there is another.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

/// Whether asking again would be answered so again. Whatever else an API server answers passes.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

pub(crate) fn is_final_for_watch(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_final(error),
        watcher::Error::WatchError(status) => matches!(status.code, 401 | 403),
        watcher::Error::NoResourceVersion => true,
    }
}

/// Whether the program is not started again when it ends. A CRD that is older than this program keeps no mode.
fn runs_once(sandbox: &AgentSandbox) -> bool {
    sandbox.spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.mode == Some(Mode::Task))
}

async fn followed(
    cluster: &Cluster,
    own: &Own,
    (seconds, once): (u64, bool),
    shown: Shown,
    out: &mut (impl AsyncWrite + Unpin),
    progress: &mut dyn Write,
) -> Result<u8, Error> {
    let pods = Api::<Pod>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let mut seen = None;
    loop {
        let begun = begun(cluster, own, seen.as_ref(), progress);
        let begun = tokio::time::timeout(Duration::from_secs(seconds), begun).await;
        let (first, log) =
            match begun.map_err(|_| RunError::TooLong { name: own.name.clone(), seconds })?? {
                Begun::Runs(first, log) => (first, log),
                Begun::Over(program) => return exit_code(own, &program),
            };
        let output = output::shown_to_the_end(&pods, own, (&first, log), (shown, out), progress).await;
        // What the pod shows is no end of a Task before the operator says so.
        if !once || !matches!(output, Ok(_) | Err(Error::Run(RunError::NoEnd(_)))) {
            return output;
        }
        match output::next(&sandboxes, &pods, own, &first).await? {
            Next::Over(program) => return exit_code(own, &program),
            Next::Restarted => {
                tell(
                    progress,
                    "the operator is older than this program and starts the agent again; this is of its first run",
                );
                return output;
            }
            Next::Again => {}
        }
        tell(
            progress,
            "something else ended the agent's pod, and the agent is started again, from the beginning",
        );
        seen = Some(first);
    }
}

/// The exit code of a program, as this one can end with it.
fn exit_code(own: &Own, program: &ProgramStatus) -> Result<u8, Error> {
    let code = program.exit_code.and_then(|code| u8::try_from(code).ok());
    let over = || RunError::Over { name: own.name.clone(), reason: program.reason.clone() };
    Ok(code.ok_or_else(over)?)
}

/// Waits until the agent's container has started, in another run than the one that was seen, and opens the log of that. Each step is
/// told once.
async fn begun(
    cluster: &Cluster,
    own: &Own,
    seen: Option<&First>,
    progress: &mut dyn Write,
) -> Result<Begun, Error> {
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let pods = Api::<Pod>::namespaced(cluster.streams.clone(), &cluster.namespace);
    // Who asks again too soon is answered worse.
    let mut watch = std::pin::pin!(watch_object(sandboxes, &own.name).default_backoff());
    let (mut told, mut is_proven) = (Vec::new(), false);
    let gone = || RunError::Gone(own.name.clone());
    loop {
        let shown = tokio::select! {
            shown = watch.next() => shown.ok_or_else(gone)?,
            () = tokio::time::sleep(LOOK_AGAIN), if is_proven => {
                if let Some((first, log)) = output::opened(&pods, own, seen).await? {
                    return Ok(Begun::Runs(first, log));
                }
                continue;
            }
        };
        let sandbox = match shown {
            Ok(seen) => seen.filter(|sandbox| is_own(sandbox, own)).ok_or_else(gone)?,
            Err(error) if is_final_for_watch(&error) => {
                return Err(RunError::Watch(own.name.clone(), Box::new(error)).into());
            }
            Err(_) => continue,
        };
        for line in news(&sandbox, &mut told) {
            tell(progress, &line);
        }
        let is = |type_: &str| condition(&sandbox, type_).is_some_and(|one| one.status == "True");
        let program = sandbox.status.as_ref().and_then(|status| status.program.clone());
        is_proven = is("NetworkIsolated") && is("RuntimeVerified");
        if (is_proven || program.is_some())
            && let Some((first, log)) = output::opened(&pods, own, seen).await?
        {
            return Ok(Begun::Runs(first, log));
        }
        if let Some(program) = program {
            return Ok(Begun::Over(program));
        }
        if is("Stalled") {
            let message = condition(&sandbox, "Ready").map(|ready| ready.message.clone()).unwrap_or_default();
            return Err(RunError::Stalled { name: own.name.clone(), message }.into());
        }
    }
}

/// Whether it is the one that was made, and is to stay.
fn is_own(sandbox: &AgentSandbox, own: &Own) -> bool {
    sandbox.metadata.uid.as_ref() == Some(&own.uid) && sandbox.metadata.deletion_timestamp.is_none()
}

/// What a sandbox says that was not told yet, in its own order.
pub(crate) fn news(sandbox: &AgentSandbox, told: &mut Vec<(String, String, String)>) -> Vec<String> {
    let mut lines = Vec::new();
    for one in sandbox.status.iter().flat_map(|status| &status.conditions) {
        let now = (one.type_.clone(), one.status.clone(), one.reason.clone());
        let before = told.iter_mut().find(|(type_, ..)| *type_ == one.type_);
        if before.as_deref() == Some(&now) {
            continue;
        }
        lines.push(format!("{}={} {}: {}", one.type_, one.status, one.reason, one.message));
        match before {
            Some(before) => *before = now,
            None => told.push(now),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(line: &[&str]) -> RunArgs {
        let line = [&["kubectl-agentsandbox", "run", "--image", "a:1"], line].concat();
        match Cli::try_parse_from(line).unwrap().command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_line_becomes_the_manifest_that_it_says() {
        let manifest = |line: &[&str]| manifest(&args(line));
        let written = manifest(&[
            "fix",
            "--class",
            "gvisor",
            "--allow",
            "pypi.org",
            "--credential",
            "key=api.test",
            "--",
            "-p",
            "do it",
        ]);
        assert_eq!(
            written.unwrap(),
            json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "fix"},
                "spec": {"className": "gvisor", "lifecycle": {"mode": "Task"}, "agent": {"image": "a:1", "args": ["-p", "do it"]},
                    "egress": {"allow": [{"host": "pypi.org"}, {"host": "api.test", "credential": "key"}]}}})
        );
        let bare = manifest(&["--command", "--", "sh"]).unwrap();
        assert_eq!(bare["metadata"], json!({"generateName": "run-"}));
        assert_eq!(
            bare["spec"],
            json!({"lifecycle": {"mode": "Task"}, "agent": {"image": "a:1", "command": ["sh"]}}),
            "nothing is allowed unasked"
        );
        assert!(matches!(manifest(&["--credential", "key"]), Err(RunError::Rule(_))));
    }

    #[test]
    fn with_a_template_only_what_is_written_is_the_sandboxs_own() {
        let parsed = |line: &[&str]| Cli::try_parse_from([&["kubectl-agentsandbox"], line].concat());
        let Command::Run(args) = parsed(&["run", "--template", "jobs", "--", "-p"]).unwrap().command else {
            panic!("it is a run");
        };
        assert_eq!(
            manifest(&args).unwrap()["spec"],
            json!({"templateRef": {"name": "jobs"}, "lifecycle": {"mode": "Task"}, "agent": {"args": ["-p"]}})
        );
        assert!(parsed(&["run", "fix"]).is_err(), "neither an image nor a template");
    }

    #[test]
    fn each_step_is_told_once_and_again_when_it_changes() {
        let sandbox = |conditions: Value| -> AgentSandbox {
            serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
                "metadata": {"name": "x"}, "spec": {"agent": {"image": "a:1"}}, "status": {"conditions": conditions}}))
            .unwrap()
        };
        let one = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-06-01T00:00:00Z"});
        let mut told = Vec::new();
        let first = sandbox(json!([one("Accepted", "True"), one("Ready", "Unknown")]));
        assert_eq!(news(&first, &mut told), ["Accepted=True R: m", "Ready=Unknown R: m"]);
        assert!(news(&first, &mut told).is_empty());
        let second = sandbox(json!([one("Accepted", "True"), one("Ready", "True")]));
        assert_eq!(news(&second, &mut told), ["Ready=True R: m"]);
    }

    fn own() -> Own {
        Own { name: "fix".to_owned(), uid: "u-1".to_owned() }
    }

    fn refused(code: u16) -> kube::Error {
        let mut status = kube::core::Status::failure("no", "No");
        status.code = code;
        kube::Error::Api(Box::new(status))
    }

    async fn never<T>() -> T {
        std::future::pending().await
    }

    #[tokio::test]
    async fn what_is_to_be_deleted_in_the_end_is_deleted_whatever_the_end_is() {
        let failed = || Error::from(RunError::NoEnd("fix".to_owned()));
        let ended = async |followed: Option<Result<u8, Error>>, signal: Option<u8>| {
            let mut is_deleted = false;
            let followed = async {
                match followed {
                    Some(outcome) => outcome,
                    None => never().await,
                }
            };
            let mut signals = signal.into_iter();
            let signal = async || match signals.next() {
                Some(code) => code,
                None => never().await,
            };
            let delete = async {
                is_deleted = true;
                Ok(())
            };
            let (outcome, deletion) = finish("fix", followed, signal, Some(delete)).await;
            assert!(matches!(deletion, Some(Ok(()))));
            (outcome.ok(), is_deleted)
        };
        assert_eq!(ended(Some(Ok(7)), None).await, (Some(7), true));
        assert_eq!(ended(Some(Err(failed())), None).await, (None, true));
        assert_eq!(ended(None, Some(130)).await, (Some(130), true));
    }

    #[tokio::test]
    async fn a_second_signal_does_not_wait_for_the_deletion_and_without_rm_nothing_is_deleted() {
        let (outcome, deletion) = finish("fix", never(), async || 143, Some(never())).await;
        assert_eq!(outcome.unwrap(), 143);
        assert!(deletion.unwrap().unwrap_err().to_string().contains("not waited for"));
        let none: Option<std::future::Ready<Result<(), Error>>> = None;
        let (outcome, deletion) = finish("fix", async { Ok(3) }, async || never().await, none).await;
        assert_eq!((outcome.unwrap(), deletion.is_none()), (3, true));
    }

    #[test]
    fn a_deletion_that_fails_is_told_and_hides_no_result() {
        let ends = |outcome: Result<u8, Error>, deletion: Option<Result<(), Error>>| {
            let mut told = Vec::new();
            let outcome = settled("AgentSandbox team/fix", outcome, deletion, &mut told);
            (outcome.map_err(|error| error.to_string()), String::from_utf8(told).unwrap())
        };
        let failed = || Some(Err(FindError::not_given("the deletion")(refused(500)).into()));
        let stalled = RunError::Stalled { name: "fix".to_owned(), message: "pull it".to_owned() };
        assert_eq!(ends(Ok(7), Some(Ok(()))).0, Ok(7));
        let (outcome, told) = ends(Ok(0), failed());
        assert!(outcome == Ok(2) && told.contains("the deletion") && told.contains("stays"), "{told}");
        assert_eq!(ends(Ok(7), failed()).0, Ok(7));
        assert!(ends(Err(stalled.into()), failed()).0.unwrap_err().contains("pull it"));
        assert!(ends(Ok(0), None).1.contains("stays"));
    }

    #[test]
    fn only_the_sandbox_that_was_made_is_followed_and_deleted() {
        let sandbox = |metadata: Value| -> AgentSandbox {
            serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
                "metadata": metadata, "spec": {"agent": {"image": "a:1"}}}))
            .unwrap()
        };
        assert!(is_own(&sandbox(json!({"name": "fix", "uid": "u-1"})), &own()));
        assert!(!is_own(&sandbox(json!({"name": "fix", "uid": "u-2"})), &own()));
        let ending = json!({"name": "fix", "uid": "u-1", "deletionTimestamp": "2026-06-01T00:00:00Z"});
        assert!(!is_own(&sandbox(ending), &own()));
        assert_eq!(only(&own()).preconditions.unwrap().uid.as_deref(), Some("u-1"));
        assert!(is_gone(&refused(404)) && is_gone(&refused(409)) && !is_gone(&refused(500)));
    }

    #[test]
    fn the_exit_code_is_the_one_that_the_operator_tells_and_without_one_there_is_an_error() {
        let program = |value: Value| -> ProgramStatus { serde_json::from_value(value).unwrap() };
        for (code, expected) in [(0, Some(0)), (3, Some(3)), (255, Some(255)), (-1, None), (256, None)] {
            let program = program(json!({"exitCode": code, "reason": "Error"}));
            assert_eq!(exit_code(&own(), &program).ok(), expected, "{code}");
        }
        let late = exit_code(&own(), &program(json!({"reason": "LifetimeExceeded"}))).unwrap_err();
        assert!(late.to_string().contains("LifetimeExceeded"), "{late}");
    }

    #[test]
    fn a_program_that_an_older_crd_starts_again_is_not_awaited_for_ever() {
        let made = |lifecycle: Value| -> AgentSandbox {
            serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
                "metadata": {"name": "x"}, "spec": {"agent": {"image": "a:1"}, "lifecycle": lifecycle}}))
            .unwrap()
        };
        assert!(runs_once(&made(json!({"mode": "Task"}))));
        assert!(!runs_once(&made(json!(null))) && !runs_once(&made(json!({"mode": "Service"}))));
    }

    #[test]
    fn only_a_refusal_ends_what_follows() {
        for (code, expected) in [(401, true), (403, true), (410, false), (429, false), (500, false)] {
            assert_eq!(is_final(&refused(code)), expected, "{code}");
            assert_eq!(is_final_for_watch(&watcher::Error::WatchFailed(refused(code))), expected, "{code}");
        }
    }
}
