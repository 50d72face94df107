//! The order of the proof, from top to bottom:
//!
//! | step | proves | fails as |
//! |---|---|---|
//! | kernel | the pod runs on the kernel that its class promises | `WrongKernel`, at once |
//! | walls | a whole round of direct routes is closed, on a network over which the proxy answers | `EgressOpen`, `ProxyUnreachable` |
//! | enrolment | the proxy takes this pod as its agent, and its DNS denies | `ProxyUnreachable` |
//! | trust | the bundle is in place (built beside the walls, on a thread of its own) | `Failed` |
//! | limits | memory, CPU and processes are bounded as promised | `LimitsMissing` |
//!
//! Each step takes the evidence of the one before it. Whatever happens there is a report; only `Proven` ends with exit
//! code 0, and then the agent starts.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agentsandbox_report::{FenceReport, KernelKind, KernelReport, VERSION, Verdict, WallsReport};
use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::args::FenceArgs;
use crate::enrolment::{self, EnrolmentError, Token};
use crate::limits::{self, Expected, Unseen};
use crate::route;
use crate::termination;
use crate::trust;
use crate::walls::{self, Judgement, Walls};

/// Why the proof was not finished: verdict and message, born together.
struct Failure {
    verdict: Verdict,
    message: String,
}

/// Runs the whole proof. Never panics on purpose, never returns without a verdict.
#[must_use]
pub fn run(args: &FenceArgs, started: Instant) -> FenceReport {
    let signs = crate::kernel::read();
    let kernel = KernelReport {
        kind: crate::kernel::judge(&signs),
        expected: args.expect_kernel.into(),
        version: signs.version,
    };
    let mut report = FenceReport {
        version: VERSION,
        verdict: Verdict::Failed,
        message: String::new(),
        kernel,
        walls: WallsReport::default(),
        limits: None,
        duration_millis: 0,
    };
    let outcome = prove(args, started, &mut report);
    (report.verdict, report.message) = match outcome {
        Ok(unseen) => (Verdict::Proven, proven(&report, &unseen)),
        Err(failure) => (failure.verdict, failure.message),
    };
    report.duration_millis = termination::millis(started);
    report
}

fn prove(args: &FenceArgs, started: Instant, report: &mut FenceReport) -> Result<Unseen, Failure> {
    check_kernel(&report.kernel)?;
    let trust = {
        let (ca, folder) = (args.ca_file.clone(), args.trust_dir.clone());
        thread::spawn(move || trust::build(&ca, &folder, SystemTime::now()))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(own("start"))?;
    runtime.block_on(prove_network(args, started, &mut report.walls))?;
    match trust.join() {
        Ok(built) => built.map_err(|error| failed(&error))?,
        Err(_panic) => return Err(failed(&io::Error::other("building the trust bundle panicked"))),
    }
    check_limits(args, report)
}

fn check_kernel(kernel: &KernelReport) -> Result<(), Failure> {
    if kernel.kind == kernel.expected {
        return Ok(());
    }
    let message = format!(
        "This pod runs on {}, but its class promises {}: check the RuntimeClass and its handler on the node.",
        name(kernel.kind),
        name(kernel.expected),
    );
    Err(Failure { verdict: Verdict::WrongKernel, message })
}

async fn prove_network(args: &FenceArgs, started: Instant, report: &mut WallsReport) -> Result<(), Failure> {
    let deadline = started + Duration::from_secs(args.deadline_secs);
    let token = Token::read(&args.token_file).map_err(|error| failed(&error))?;
    let proxy = SocketAddr::new(args.proxy, args.enrolment_port);
    let routes = route::all(args);
    let (answered, answers) = watch::channel(false);
    let proof = walls::prove(&routes, args.icmp, answers.clone(), started, deadline);
    let asking = async {
        enrolment::watch_proxy(proxy, &answered).await;
        std::future::pending::<()>().await;
    };
    let walls = tokio::select! {
        walls = proof => walls,
        () = asking => Walls::none(),
    };
    describe(&walls, report);
    check_walls(&walls, *answers.borrow())?;
    let enrolment = async {
        enrolment::enrol(proxy, &token).await?;
        enrolment::check_dns(SocketAddr::new(args.proxy, args.dns_port)).await
    };
    let enrolled = timeout_at(deadline.into(), enrolment).await.unwrap_or(Err(EnrolmentError::Timeout));
    report.enrolled = enrolled.is_ok();
    enrolled.map_err(|error| Failure { verdict: Verdict::ProxyUnreachable, message: sentence(&error) })
}

fn describe(walls: &Walls, report: &mut WallsReport) {
    report.rounds = walls.rounds;
    report.closed_after_millis =
        walls.closed_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    report.closed = walls.last.closed.iter().map(ToString::to_string).collect();
    report.open = walls.last.open.iter().map(ToString::to_string).collect();
}

fn check_walls(walls: &Walls, answered: bool) -> Result<(), Failure> {
    let failure = |verdict, message: String| Err(Failure { verdict, message });
    match (walls.judgement, answered) {
        (Judgement::Closed, true) => Ok(()),
        (Judgement::Closed, false) => failure(
            Verdict::ProxyUnreachable,
            "Every direct route is closed, but the sandbox's own proxy did not answer.".to_owned(),
        ),
        (Judgement::Open, _) => failure(
            Verdict::EgressOpen,
            "A direct route stayed open: check that the cluster's network plugin enforces NetworkPolicy."
                .to_owned(),
        ),
        (Judgement::Unknown, _) => {
            let untried: Vec<String> =
                walls.last.untried.iter().map(|(route, reason)| format!("{route} ({reason})")).collect();
            let untried = if untried.is_empty() { "time ran out".to_owned() } else { untried.join(", ") };
            failure(Verdict::Failed, format!("Not every direct route could be tried: {untried}."))
        }
    }
}

fn check_limits(args: &FenceArgs, report: &mut FenceReport) -> Result<Unseen, Failure> {
    let readings = limits::read(Path::new("/"), report.kernel.kind);
    report.limits = Some(limits::report(&readings));
    let expected = Expected {
        memory_bytes: args.expect_memory_bytes,
        cpu_millis: args.expect_cpu_millis,
        pids: args.expect_pids,
    };
    limits::judge(&readings, &expected)
        .map_err(|breach| Failure { verdict: Verdict::LimitsMissing, message: sentence(&breach) })
}

fn proven(report: &FenceReport, unseen: &[&str]) -> String {
    let mut message =
        "Every direct route is closed, the proxy has enrolled this pod, and the kernel and the limits \
                       are as promised."
            .to_owned();
    // Only ICMP can be open here, and only where the command line said to report it.
    if !report.walls.open.is_empty() {
        message = "ICMP echo requests leave this pod and are answered; every other direct route is closed, the proxy \
                   has enrolled this pod, and the kernel and the limits are as promised."
            .to_owned();
    }
    if !unseen.is_empty() {
        message.push_str(&format!(" This kernel does not show the {} limit.", unseen.join(" and the ")));
    }
    message
}

fn failed(error: &(dyn Error + 'static)) -> Failure {
    Failure { verdict: Verdict::Failed, message: sentence(error) }
}

fn own(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure {
        verdict: Verdict::Failed,
        message: format!("The fence could not {step}: {error}."),
    }
}

/// An error and its causes as one sentence.
fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

const fn name(kind: KernelKind) -> &'static str {
    match kind {
        KernelKind::GVisor => "gVisor",
        KernelKind::Linux => "the node's Linux kernel",
        KernelKind::VirtualMachine => "a virtual machine's kernel",
        KernelKind::Unknown => "a kernel of unknown kind",
    }
}
