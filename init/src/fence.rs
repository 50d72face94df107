//! The order of the proof, from top to bottom:
//!
//! | step | proves | fails as |
//! |---|---|---|
//! | kernel | the pod runs on the kernel that its class promises | `WrongKernel`, at once |
//! | walls | a whole round of direct routes is closed, and the proxy answers in that same round | `EgressOpen`, `ProxyUnreachable` |
//! | enrolment | the proxy takes this pod as its agent, and its DNS denies | `ProxyUnreachable` |
//! | trust | the bundle is in place | `Failed` |
//! | program | where a process sandbox is asked for, execution is withheld, or the agent has no network, it can be had on this kernel | `ProcessSandboxMissing` |
//! | limits | memory, CPU and processes are bounded as promised, as far as this kernel shows it | `LimitsMissing` |
//!
//! Each step takes the evidence of the one before it. Trust, program and limits need no network, so their files are written and
//! read on a thread of their own beside the walls, and judged after them. The token waits for the walls: until they are
//! proven it is shown to nobody. Whatever happens there is a report, with the time of each step; only `Proven` ends with
//! exit code 0, and then the agent starts.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agentsandbox_report::{
    FenceReport, KernelKind, KernelReport, PhasesReport, VERSION, Verdict, WallsReport,
};
use tokio::time::timeout_at;

use crate::args::FenceArgs;
use crate::enrolment::{self, EnrolmentError, Token};
use crate::limits::{self, Expected, Held, Readings};
use crate::link::{self, Links};
use crate::probe;
use crate::program::{self, Means, ProgramError};
use crate::route;
use crate::termination::{millis, sentence};
use crate::trust::{self, TrustError};
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
    let kind = crate::kernel::judge(&signs);
    let kernel = KernelReport {
        kind,
        expected: args.expect_kernel.into(),
        root: crate::kernel::root(kind, &signs.uid_map),
        version: signs.version,
    };
    let mut report = FenceReport {
        version: VERSION,
        verdict: Verdict::Failed,
        message: String::new(),
        kernel,
        walls: WallsReport::default(),
        limits: None,
        landlock_version: None,
        loopback_only: false,
        phases: PhasesReport { kernel_millis: Some(millis(started)), ..PhasesReport::default() },
        duration_millis: 0,
    };
    let outcome = prove(args, started, &mut report);
    (report.verdict, report.message) = match outcome {
        Ok(held) => (Verdict::Proven, proven(&report.walls, &held)),
        Err(failure) => (failure.verdict, failure.message),
    };
    report.duration_millis = millis(started);
    report
}

/// What the thread beside the walls came to.
struct Beside {
    trust: Result<(), TrustError>,
    trust_millis: u64,
    program: Option<Result<program::Seen, ProgramError>>,
    readings: Readings,
    limits_millis: u64,
}

fn beside(args: &FenceArgs, kernel: KernelKind) -> Beside {
    let started = Instant::now();
    let trust = trust::build(&args.ca_file, &args.trust_dir, SystemTime::now());
    let trust_millis = millis(started);
    let means = match (args.program_no_network, args.program_by_mounts) {
        (true, mounts) => Means::NoNetwork { proxy: args.proxy, mounts },
        (false, true) => Means::Mounts,
        (false, false) => Means::Landlock,
    };
    let program = args.program_dir.as_deref().map(|folder| {
        let seen = program::install(Path::new(program::SELF), folder, means)?;
        program::tell(folder, &args.program_run)?;
        Ok(seen)
    });
    let started = Instant::now();
    let readings = limits::read(Path::new("/"), kernel);
    Beside { trust, trust_millis, program, readings, limits_millis: millis(started) }
}

fn prove(args: &FenceArgs, started: Instant, report: &mut FenceReport) -> Result<Held, Failure> {
    check_kernel(&report.kernel)?;
    let thread = {
        let (args, kernel) = (args.clone(), report.kernel.kind);
        thread::spawn(move || beside(&args, kernel))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(own("start"))?;
    runtime.block_on(prove_network(args, started, report))?;
    let Ok(beside) = thread.join() else {
        return Err(failed(&io::Error::other("what is done beside the walls panicked")));
    };
    report.phases.trust_millis = Some(beside.trust_millis);
    report.phases.limits_millis = Some(beside.limits_millis);
    report.limits = Some(limits::report(&beside.readings));
    beside.trust.map_err(|error| failed(&error))?;
    let program = beside.program.transpose().map_err(|error| without_program(&error))?.unwrap_or_default();
    report.landlock_version = program.landlock_version;
    report.loopback_only = program.loopback_only;
    check_limits(args, &beside.readings)
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

async fn prove_network(args: &FenceArgs, started: Instant, report: &mut FenceReport) -> Result<(), Failure> {
    let deadline = started + Duration::from_secs(args.deadline_secs);
    let token = Token::read(&args.token_file).map_err(|error| failed(&error))?;
    let proxy = SocketAddr::new(args.proxy, args.enrolment_port);
    let began = Instant::now();
    let links = look_around(proxy, deadline).await.map_err(own("read the addresses of its links"))?;
    let mut routes = route::all(args);
    routes.extend(route::on_links(&links));
    let walls = walls::prove(&routes, proxy, args.icmp, started, deadline).await;
    report.phases.walls_millis = Some(millis(began));
    describe(&walls, &mut report.walls);
    check_walls(&walls)?;
    let phases = &mut report.phases;
    let enrolment = async {
        let began = Instant::now();
        enrolment::enrol(proxy, &token).await?;
        phases.enrolment_millis = Some(millis(began));
        let began = Instant::now();
        enrolment::check_dns(SocketAddr::new(args.proxy, args.dns_port)).await?;
        phases.dns_millis = Some(millis(began));
        Ok(())
    };
    let enrolled = timeout_at(deadline.into(), enrolment).await.unwrap_or(Err(EnrolmentError::Timeout));
    report.walls.enrolled = enrolled.is_ok();
    enrolled.map_err(|error| Failure { verdict: Verdict::ProxyUnreachable, message: sentence(&error) })
}

/// Finds out which links there are, and who is on them.
async fn look_around(proxy: SocketAddr, deadline: Instant) -> io::Result<Links> {
    let links = link::read(deadline).await?;
    if links.scopes.is_empty() {
        return Ok(links);
    }
    // Whatever comes of it: the kernel now knows the hardware of the neighbour over whom packets leave.
    probe::control(proxy, probe::WINDOW).await;
    link::read(deadline).await
}

fn describe(walls: &Walls, report: &mut WallsReport) {
    let whole = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    report.rounds = walls.rounds;
    report.closed_after_millis = walls.closed_after.map(whole);
    report.proxy_answered_millis = walls.last.proxy.map(whole);
    report.closed = walls.last.closed.iter().map(ToString::to_string).collect();
    report.open = walls.last.open.iter().map(ToString::to_string).collect();
}

fn check_walls(walls: &Walls) -> Result<(), Failure> {
    let failure = |verdict, message: String| Err(Failure { verdict, message });
    let untried: Vec<String> =
        walls.last.untried.iter().map(|(route, reason)| format!("{route} ({reason})")).collect();
    match walls.judgement {
        Judgement::Closed => Ok(()),
        Judgement::Open => failure(
            Verdict::EgressOpen,
            "A direct route stayed open: check that the cluster's network plugin enforces NetworkPolicy."
                .to_owned(),
        ),
        Judgement::Unknown if !untried.is_empty() => failure(
            Verdict::Failed,
            format!("Not every direct route could be tried: {}.", untried.join(", ")),
        ),
        Judgement::Unknown if walls.last.proxy.is_none() => failure(
            Verdict::ProxyUnreachable,
            "No direct route was found open, but the sandbox's own proxy did not answer beside them, so nothing shows \
             that a wall closes them and not a network that is down."
                .to_owned(),
        ),
        Judgement::Unknown => failure(
            Verdict::Failed,
            "Not every direct route could be tried: time ran out.".to_owned(),
        ),
    }
}

fn without_program(error: &ProgramError) -> Failure {
    match error {
        ProgramError::NotConfined(_) => {
            Failure { verdict: Verdict::ProcessSandboxMissing, message: sentence(error) }
        }
        ProgramError::Copy(_)
        | ProgramError::Start(_)
        | ProgramError::Broken(_)
        | ProgramError::Arguments(_) => failed(error),
    }
}

fn check_limits(args: &FenceArgs, readings: &Readings) -> Result<Held, Failure> {
    let expected = Expected {
        memory_bytes: args.expect_memory_bytes,
        cpu_millis: args.expect_cpu_millis,
        pids: args.expect_pids,
    };
    limits::judge(readings, &expected)
        .map_err(|breach| Failure { verdict: Verdict::LimitsMissing, message: sentence(&breach) })
}

/// Says what was proven, and of the limits only those that were seen.
fn proven(walls: &WallsReport, held: &Held) -> String {
    // Only ICMP can be open here, and only where the command line said to report it.
    let routes = if walls.open.is_empty() {
        "Every direct route is closed"
    } else {
        "ICMP echo requests leave this pod and are answered; every other direct route is closed"
    };
    let seen = held.seen.join(" and ");
    let noun = if held.seen.len() == 1 { "limit is" } else { "limits are" };
    let mut message = format!(
        "{routes}, the proxy has enrolled this pod, the kernel is as promised, and the {seen} {noun} at most as promised."
    );
    if !walls.closed.iter().any(|route| route.starts_with(route::Protocol::Link.name())) {
        message.push_str(" No interface has an IPv6 address for its link, so there was no link to try.");
    }
    if !held.unseen.is_empty() {
        message.push_str(&format!(
            " Not proven, because this kernel does not show it: the {} limit.",
            held.unseen.join(" and the ")
        ));
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

const fn name(kind: KernelKind) -> &'static str {
    match kind {
        KernelKind::GVisor => "gVisor",
        KernelKind::Linux => "the node's Linux kernel",
        KernelKind::VirtualMachine => "a virtual machine's kernel",
        KernelKind::Unknown => "a kernel of unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walls::Round;

    #[test]
    fn the_message_claims_only_limits_that_were_seen() {
        let held = |seen: &[&'static str], unseen: &[&'static str]| Held {
            seen: seen.to_vec(),
            unseen: unseen.to_vec(),
        };
        let walls = WallsReport::default();
        let all = proven(&walls, &held(&["memory", "CPU", "process"], &[]));
        assert!(
            all.contains("the memory and CPU and process limits are at most") && !all.contains("Not proven")
        );
        let some = proven(&walls, &held(&["memory"], &["CPU", "process"]));
        let (claim, rest) = some.split_once("Not proven").unwrap();
        assert!(claim.contains("the memory limit is at most as promised"), "{some}");
        assert!(!claim.contains("CPU") && !claim.contains("process"), "{some}");
        assert!(rest.contains("the CPU and the process limit"), "{some}");
    }

    #[test]
    fn the_message_says_where_there_was_no_link_to_try() {
        let link = route::Route { protocol: route::Protocol::Link, target: "[ff02::1%2]:0".parse().unwrap() };
        let held = Held { seen: vec!["memory"], unseen: vec![] };
        let tried = WallsReport { closed: vec![link.to_string()], ..WallsReport::default() };
        assert!(proven(&WallsReport::default(), &held).contains("no link to try"));
        assert!(!proven(&tried, &held).contains("no link to try"));
    }

    #[test]
    fn a_process_sandbox_that_cannot_be_had_is_told_apart_from_a_fence_that_does_not_work() {
        let missing = without_program(&ProgramError::NotConfined("there is none".to_owned()));
        assert_eq!(missing.verdict, Verdict::ProcessSandboxMissing);
        assert!(missing.message.contains("there is none"), "{}", missing.message);
        let io = || io::Error::other("x");
        for own in [ProgramError::Copy(io()), ProgramError::Start(io()), ProgramError::Broken(String::new())]
        {
            assert_eq!(without_program(&own).verdict, Verdict::Failed);
        }
    }

    #[test]
    fn each_failure_of_the_walls_has_its_verdict() {
        let route = route::Route { protocol: route::Protocol::Tcp, target: "192.0.2.1:443".parse().unwrap() };
        let answered = Some(Duration::from_millis(1));
        let round = |proxy, untried: bool| Round {
            proxy,
            untried: if untried { vec![(route, "no descriptors".to_owned())] } else { vec![] },
            ..Round::default()
        };
        let cases = [
            (Judgement::Open, round(answered, false), Verdict::EgressOpen),
            (Judgement::Open, round(None, true), Verdict::EgressOpen),
            (Judgement::Unknown, round(None, false), Verdict::ProxyUnreachable),
            (Judgement::Unknown, round(None, true), Verdict::Failed),
            (Judgement::Unknown, round(answered, true), Verdict::Failed),
            (Judgement::Unknown, round(answered, false), Verdict::Failed),
        ];
        for (judgement, last, expected) in cases {
            let walls = Walls { judgement, last, ..Walls::none() };
            assert_eq!(check_walls(&walls).err().map(|failure| failure.verdict), Some(expected), "{walls:?}");
        }
        let closed = Walls { judgement: Judgement::Closed, last: round(answered, false), ..Walls::none() };
        assert!(check_walls(&closed).is_ok());
        assert!(check_walls(&Walls::none()).is_err(), "no round is no proof");
    }
}
