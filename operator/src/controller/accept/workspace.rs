//! What the workspace begins with. It is fetched behind the fence, under the same rules as the agent's requests: whether they
//! allow it is asked of the very policy that the proxy will judge by, so that a sandbox that could never start is told so here.

use agentsandbox_crds::sandbox::{AgentSandbox, Mode};
use agentsandbox_crds::workspace::{ArchiveSource, GitSource, Workspace, WorkspaceAccess};
use agentsandbox_policy::{Malformed, Method, Policy, Request, Scheme, Target, parse_authority};
use agentsandbox_workspace::Exclusion;
use agentsandbox_workspace::git::wire::Wanted;

use super::{Rejection, RejectionReason, reject};
use crate::controller::life;

const ARCHIVE_URL: &str = "spec.workspace.archive.url";
const GIT_URL: &str = "spec.workspace.git.url";
const ACCESS: &str = "spec.workspace.access";
const HTTPS_PORT: u16 = 443;

/// What the workspace begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What is fetched.
    pub origin: Origin,
    /// What is left out beside the project's list.
    pub exclude: Vec<String>,
    /// What is taken though that list leaves it out.
    pub include: Vec<String>,
    /// What the agent may do with it.
    pub access: WorkspaceAccess,
}

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An archive.
    Archive(ArchiveSource),
    /// A git repository.
    Git(GitSource),
}

/// The source that a sandbox names. Without a policy, which has faults of its own, nothing is known of what it allows.
pub(super) fn source(
    sandbox: &AgentSandbox,
    policy: Option<&Policy>,
    faults: &mut Vec<Rejection>,
) -> Option<Source> {
    let workspace = sandbox.spec.workspace.as_ref()?;
    let access = workspace.access.unwrap_or(WorkspaceAccess::ReadWrite);
    outlasting(access, life::mode(sandbox), faults);
    let origin = match (&workspace.archive, &workspace.git) {
        (None, None) => {
            without_source(workspace, faults);
            return None;
        }
        (Some(_), Some(_)) => {
            let message =
                "a workspace begins with an archive or with a git repository; remove archive or git";
            reject(faults, RejectionReason::InvalidField, "spec.workspace.git", message);
            return None;
        }
        (Some(archive), None) => {
            fetched(policy, ARCHIVE_URL, &[request(&archive.url, "GET", "")], faults);
            Origin::Archive(archive.clone())
        }
        (None, Some(git)) => {
            repository(policy, git, faults);
            Origin::Git(git.clone())
        }
    };
    patterns(workspace, faults);
    Some(Source { origin, exclude: workspace.exclude.clone(), include: workspace.include.clone(), access })
}

/// What a git client asks a server for, in two requests.
fn repository(policy: Option<&Policy>, git: &GitSource, faults: &mut Vec<Rejection>) {
    if Wanted::parse(git.reference.as_deref()).is_none() {
        let message = "this is no name of a branch or tag that is taken; write it without refs/heads/, of letters, digits and . _ / + -";
        reject(faults, RejectionReason::InvalidField, "spec.workspace.git.ref", message);
    }
    let url = git.url.trim_end_matches('/');
    let both = [request(url, "GET", "/info/refs"), request(url, "POST", "/git-upload-pack")];
    fetched(policy, GIT_URL, &both, faults);
}

/// What is asked for must be read in one way, and each request be allowed: the first that is not is told.
fn fetched(
    policy: Option<&Policy>,
    field: &str,
    requests: &[Result<Request, Malformed>],
    faults: &mut Vec<Rejection>,
) {
    for request in requests {
        let message = match request {
            Ok(request) => denied(policy, request.clone()),
            Err(malformed) => Some(format!(
                "the address cannot be read in exactly one way: {malformed}; write https://, a host name and a path"
            )),
        };
        if let Some(message) = message {
            reject(faults, RejectionReason::InvalidField, field, message);
            return;
        }
    }
}

/// The schema refuses these too; an object that was stored under an older schema is judged here.
fn without_source(workspace: &Workspace, faults: &mut Vec<Rejection>) {
    let message = match workspace.access {
        None | Some(WorkspaceAccess::ReadWrite) => return,
        Some(WorkspaceAccess::ReadOnly) => {
            "a folder that is empty and cannot be written serves nobody; name an archive or a git repository, or remove access: ReadOnly"
        }
        Some(WorkspaceAccess::Overlay) => {
            "there is no original to compare with; name an archive or a git repository, or remove access: Overlay"
        }
    };
    reject(faults, RejectionReason::InvalidField, ACCESS, message);
}

/// What differs is looked at in the agent's pod, of which nothing runs any more once the program of a Task has ended.
fn outlasting(access: WorkspaceAccess, mode: Mode, faults: &mut Vec<Rejection>) {
    if access == WorkspaceAccess::Overlay && mode == Mode::Task {
        let message = "what differs from the original can be looked at while the pod runs, and that of a Task ends with its program; write lifecycle.mode: Service, with a program that goes on";
        reject(faults, RejectionReason::InvalidField, ACCESS, message);
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

/// Why the proxy would deny a request, if it would.
fn denied(policy: Option<&Policy>, request: Request) -> Option<String> {
    let policy = policy?;
    let (host, port) = (request.host.clone(), request.port);
    let denial = policy.decide(request).err()?;
    // What passes unopened is allowed whatever its path.
    if policy.pass(&host, port).is_some() {
        return None;
    }
    Some(format!(
        "no rule of spec.egress allows the workspace to fetch it ({}): {}",
        denial.reason,
        denial.how_to_allow.trim_end_matches('.')
    ))
}

/// The request for an address with something behind its path, as the proxy reads it.
fn request(url: &str, method: &str, behind: &str) -> Result<Request, Malformed> {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = parse_authority(authority, Some(HTTPS_PORT))?;
    Ok(Request {
        scheme: Scheme::Https,
        host,
        port,
        method: Method::parse(method)?,
        target: Target::parse(&format!("{path}{behind}"))?,
        websocket: false,
    })
}
