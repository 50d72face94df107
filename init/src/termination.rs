//! A report's last step: into the termination log, in at most as many bytes as the kubelet keeps.
//!
//! The kubelet cuts a longer message, and a cut document is no evidence; so lists are shortened here, the closed routes
//! first and the open ones last, and each says how many it left out.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Instant;

use agentsandbox_report::{
    FenceReport, KernelKind, KernelReport, PhasesReport, REPORT_BYTES_MAX, VERSION, Verdict, WallsReport,
    WorkspaceReport,
};

/// Bytes of the message that are kept.
const MESSAGE_BYTES_MAX: usize = 600;
/// Bytes of the message that are kept of the workspace's step, where nothing else of the report is long. JSON escapes some of them.
const WORKSPACE_MESSAGE_BYTES_MAX: usize = 1500;
/// Bytes of the kernel's version that are kept.
pub const KERNEL_VERSION_BYTES_MAX: usize = 200;
/// Bytes of one route's name that are kept; the longest is an IPv6 address with a reason.
const ROUTE_BYTES_MAX: usize = 120;

/// A report of a run that could not do its own work.
#[must_use]
pub fn failed(expected: KernelKind, message: &str, started: Instant) -> FenceReport {
    FenceReport {
        version: VERSION,
        verdict: Verdict::Failed,
        message: message.to_owned(),
        kernel: KernelReport { kind: KernelKind::Unknown, expected, version: String::new(), root: None },
        walls: WallsReport::default(),
        limits: None,
        landlock_version: None,
        loopback_only: false,
        phases: PhasesReport::default(),
        duration_millis: millis(started),
    }
}

/// Milliseconds since `started`.
#[must_use]
pub fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Writes the report.
pub fn write(path: &Path, report: &FenceReport) -> io::Result<()> {
    std::fs::write(path, bounded(report)?)
}

/// Writes the report of the workspace's step, which has one text and nothing else that could be long.
pub fn write_workspace(path: &Path, report: &WorkspaceReport) -> io::Result<()> {
    let message = plain_message(report);
    std::fs::write(path, serde_json::to_vec(&WorkspaceReport { message, ..report.clone() })?)
}

/// What the workspace's step says, in printable ASCII of bounded length.
#[must_use]
pub fn plain_message(report: &WorkspaceReport) -> String {
    text(&report.message, WORKSPACE_MESSAGE_BYTES_MAX)
}

/// The report in at most [`REPORT_BYTES_MAX`] bytes.
pub fn bounded(report: &FenceReport) -> io::Result<Vec<u8>> {
    let mut report = plain(report);
    let (closed, open) = (report.walls.closed.clone(), report.walls.open.clone());
    let (mut closed_kept, mut open_kept) = (closed.len(), open.len());
    loop {
        let bytes = serde_json::to_vec(&report)?;
        if bytes.len() <= REPORT_BYTES_MAX {
            return Ok(bytes);
        }
        if closed_kept > 0 {
            closed_kept /= 2;
            report.walls.closed = shortened(&closed, closed_kept);
        } else if open_kept > 0 {
            open_kept /= 2;
            report.walls.open = shortened(&open, open_kept);
        } else {
            return Err(io::Error::other("the report does not fit, though every list in it is empty"));
        }
    }
}

/// An error and its causes as one sentence.
#[must_use]
pub fn sentence(error: &(dyn Error + 'static)) -> String {
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

fn shortened(list: &[String], kept: usize) -> Vec<String> {
    let left_out = list.len().saturating_sub(kept);
    list.iter().take(kept).cloned().chain([format!("and {left_out} more")]).collect()
}

/// The same report in printable ASCII of bounded length: what a kernel or an error says may be neither.
fn plain(report: &FenceReport) -> FenceReport {
    let mut report = report.clone();
    report.message = text(&report.message, MESSAGE_BYTES_MAX);
    report.kernel.version = text(&report.kernel.version, KERNEL_VERSION_BYTES_MAX);
    for route in report.walls.closed.iter_mut().chain(&mut report.walls.open) {
        *route = text(route, ROUTE_BYTES_MAX);
    }
    report
}

fn text(text: &str, bytes_max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars()
        .map(|char| if char.is_ascii_graphic() || char == ' ' { char } else { '?' })
        .take(bytes_max)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn report(message: &str, version: &str, closed: Vec<String>, open: Vec<String>) -> FenceReport {
        let mut report = failed(KernelKind::GVisor, message, Instant::now());
        report.kernel.version = version.to_owned();
        report.walls = WallsReport { closed, open, ..WallsReport::default() };
        report
    }

    proptest! {
        #[test]
        fn any_report_fits_and_reads_back(
            message in ".{0,2000}",
            version in ".{0,2000}",
            closed in vec(".{0,200}", 0..200),
            open in vec(".{0,200}", 0..200),
        ) {
            let report = report(&message, &version, closed, open.clone());
            let bytes = bounded(&report).unwrap();
            prop_assert!(bytes.len() <= REPORT_BYTES_MAX);
            let read: FenceReport = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(read.walls.open.is_empty(), open.is_empty(), "an open route is never left out in silence");
            prop_assert_eq!(read.verdict, report.verdict);
        }
    }

    #[test]
    fn the_longest_message_of_the_workspaces_step_fits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let report = WorkspaceReport {
            version: agentsandbox_report::WORKSPACE_VERSION,
            verdict: agentsandbox_report::WorkspaceVerdict::ArchiveRefused,
            message: "\"\\\u{1b}\u{e9}".repeat(2000),
            files: u64::MAX,
            bytes: u64::MAX,
            left_out: u64::MAX,
            with_tokens: u64::MAX,
            rewritten: u64::MAX,
            commit: Some("f".repeat(40)),
            duration_millis: u64::MAX,
        };
        write_workspace(&path, &report).unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.len() <= REPORT_BYTES_MAX && bytes.is_ascii(), "{}", bytes.len());
        let read: WorkspaceReport = serde_json::from_slice(&bytes).unwrap();
        assert!(read.message.starts_with("\"\\??") && read.files == u64::MAX, "{}", read.message);
    }

    #[test]
    fn closed_routes_are_left_out_before_open_ones() {
        let routes: Vec<String> =
            (0..90).map(|port| format!("tcp 10.96.0.1:{port} and a long name")).collect();
        let bytes = bounded(&report("m", "v", routes.clone(), routes.clone())).unwrap();
        let read: FenceReport = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read.walls.open, routes);
        assert!(read.walls.closed.last().unwrap().ends_with("more"), "{:?}", read.walls.closed);
    }
}
