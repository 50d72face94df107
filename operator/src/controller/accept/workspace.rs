//! What the workspace begins with. Its archive is fetched behind the fence, under the same rules as the agent's requests: whether one of
//! them allows it is asked of the very policy that the proxy will judge by, so that a sandbox that could never start is told so here.

use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_crds::workspace::{ArchiveSource, Workspace, WorkspaceAccess};
use agentsandbox_policy::{Malformed, Method, Policy, Request, Scheme, Target, parse_authority};
use agentsandbox_workspace::Exclusion;

use super::{Rejection, RejectionReason, reject};

const URL: &str = "spec.workspace.archive.url";
const HTTPS_PORT: u16 = 443;

/// What the workspace begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The archive.
    pub archive: ArchiveSource,
    /// What is left out beside the project's list.
    pub exclude: Vec<String>,
    /// What is taken though that list leaves it out.
    pub include: Vec<String>,
    /// Whether the agent may only read it.
    pub is_read_only: bool,
}

/// The source that a sandbox names. Without a policy, which has faults of its own, nothing is known of what it allows.
pub(super) fn source(
    sandbox: &AgentSandbox,
    policy: Option<&Policy>,
    faults: &mut Vec<Rejection>,
) -> Option<Source> {
    let workspace = sandbox.spec.workspace.as_ref()?;
    let is_read_only = workspace.access == Some(WorkspaceAccess::ReadOnly);
    let Some(archive) = &workspace.archive else {
        without_archive(workspace, faults);
        return None;
    };
    patterns(workspace, faults);
    match request(&archive.url) {
        Ok(request) => allowed(policy, request, faults),
        Err(malformed) => {
            let message = format!(
                "the address cannot be read in exactly one way: {malformed}; write https://, a host name and a path"
            );
            reject(faults, RejectionReason::InvalidField, URL, message);
        }
    }
    Some(Source {
        archive: archive.clone(),
        exclude: workspace.exclude.clone(),
        include: workspace.include.clone(),
        is_read_only,
    })
}

/// The schema refuses these too; an object that was stored under an older schema is judged here.
fn without_archive(workspace: &Workspace, faults: &mut Vec<Rejection>) {
    if workspace.access == Some(WorkspaceAccess::ReadOnly) {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.workspace.access",
            "a folder that is empty and cannot be written serves nobody; name an archive, or remove access: ReadOnly",
        );
    }
}

fn patterns(workspace: &Workspace, faults: &mut Vec<Rejection>) {
    let none: &[String] = &[];
    for (field, exclude, include) in [
        ("spec.workspace.exclude", workspace.exclude.as_slice(), none),
        ("spec.workspace.include", none, workspace.include.as_slice()),
    ] {
        if let Err(bad) = Exclusion::new(exclude, include) {
            let message = format!("{bad}; write patterns as .gitignore has them, such as **/*.secret");
            reject(faults, RejectionReason::InvalidField, field, message);
        }
    }
}

fn allowed(policy: Option<&Policy>, request: Request, faults: &mut Vec<Rejection>) {
    let Some(policy) = policy else { return };
    let (host, port) = (request.host.clone(), request.port);
    let Err(denial) = policy.decide(request) else { return };
    // What passes unopened is allowed whatever its path.
    if policy.pass(&host, port).is_some() {
        return;
    }
    let message = format!(
        "no rule of spec.egress allows the workspace to fetch it ({}): {}",
        denial.reason,
        denial.how_to_allow.trim_end_matches('.')
    );
    reject(faults, RejectionReason::InvalidField, URL, message);
}

/// The request that fetches an address, as the proxy reads it.
fn request(url: &str) -> Result<Request, Malformed> {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = parse_authority(authority, Some(HTTPS_PORT))?;
    Ok(Request {
        scheme: Scheme::Https,
        host,
        port,
        method: Method::parse("GET")?,
        target: Target::parse(path)?,
        websocket: false,
    })
}
