//! What the workspace begins with. What is fetched is so behind the fence, under the same rules as the agent's requests: whether they
//! allow it is asked of the very policy that the proxy will judge by, so that a sandbox that could never start is told so here.

use agentsandbox_crds::class::AgentSandboxClass;
use agentsandbox_crds::names::{SUFFIX_POLICY, SUFFIX_WORKSPACE};
use agentsandbox_crds::sandbox::{AgentSandbox, Mode};
use agentsandbox_crds::scratch::Medium;
use agentsandbox_crds::workspace::{
    ArchiveSource, ClaimSource, ConfigMapSource, GitSource, ImageSource, Sanitized, Workspace,
    WorkspaceAccess,
};
use agentsandbox_policy::{Malformed, Method, Policy, Request, Scheme, Target, parse_authority};
use agentsandbox_workspace::git::wire::Wanted;
use agentsandbox_workspace::{Exclusion, RelativePath};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use super::{Rejection, RejectionReason, reject};
use crate::controller::desired::claim;
use crate::controller::life;
use crate::quantity;

const ARCHIVE_URL: &str = "spec.workspace.archive.url";
const GIT_URL: &str = "spec.workspace.git.url";
const CONFIG_MAP: &str = "spec.workspace.configMap.name";
const CLAIM: &str = "spec.workspace.persistentVolumeClaim.claimName";
const CLAIM_PATH: &str = "spec.workspace.persistentVolumeClaim.path";
const IMAGE: &str = "spec.workspace.image.reference";
const IMAGE_PATH: &str = "spec.workspace.image.path";
const ACCESS: &str = "spec.workspace.access";
const SIZE: &str = "spec.workspace.persistent.size";
const STORAGE_CLASS: &str = "spec.workspace.persistent.storageClassName";
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
    /// What is rewritten without its secrets.
    pub sanitize: Vec<Sanitized>,
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
    /// A ConfigMap.
    ConfigMap(ConfigMapSource),
    /// A folder of a claim.
    Claim(ClaimSource),
    /// A folder of an image.
    Image(ImageSource),
    /// Nothing, into a persistent volume, which is said to be filled all the same.
    Empty,
}

/// The claim of a persistent workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistent {
    /// Its size, as it was written.
    pub size: String,
    /// The same in bytes.
    pub bytes: i64,
    /// The largest size that the class allows, in bytes.
    pub bytes_max: i64,
    /// Its StorageClass; none is the cluster's default one.
    pub storage_class: Option<String>,
    /// The StorageClasses that the class allows; none allows each.
    pub storage_classes: Vec<String>,
}

/// The claim that a sandbox asks for, within what its class allows. A class that says nothing allows none.
pub(super) fn persistent(
    sandbox: &AgentSandbox,
    class: &AgentSandboxClass,
    faults: &mut Vec<Rejection>,
) -> Option<Persistent> {
    let asked = sandbox.spec.workspace.as_ref()?.persistent.as_ref()?;
    let Some(bytes) = quantity::bytes(&asked.size) else {
        let message = format!("{} is no quantity; write a positive number such as 10Gi", asked.size);
        reject(faults, RejectionReason::InvalidField, SIZE, message);
        return None;
    };
    let name = class.name_any();
    let Some(bounds) = &class.spec.persistent_workspace else {
        let message = format!(
            "class {name} allows no persistent workspace; use another class, or ask its administrator for persistentWorkspace in it"
        );
        reject(faults, RejectionReason::OutsideClass, "spec.workspace.access", message);
        return None;
    };
    let bytes_max = quantity::bytes(&bounds.max_size);
    match bytes_max {
        Some(max) if bytes > max => {
            let message =
                format!("{} is more than class {name} allows; write at most {}", asked.size, bounds.max_size);
            reject(faults, RejectionReason::OutsideClass, SIZE, message);
        }
        Some(_) => {}
        None => {
            let message = format!(
                "class {name} has persistentWorkspace.maxSize {}, which is no quantity; its administrator must correct it",
                bounds.max_size
            );
            reject(faults, RejectionReason::ClassUnsupported, "spec.className", message);
        }
    }
    let allowed = &bounds.storage_class_names;
    let is_allowed = asked.storage_class_name.as_ref().is_some_and(|own| allowed.contains(own));
    if !allowed.is_empty() && !is_allowed {
        let own = asked.storage_class_name.as_deref().unwrap_or("the cluster's default storage class");
        let message = format!(
            "class {name} does not allow {own}; write storageClassName with one of {}",
            allowed.join(", ")
        );
        reject(faults, RejectionReason::OutsideClass, STORAGE_CLASS, message);
    }
    Some(Persistent {
        size: asked.size.clone(),
        bytes,
        bytes_max: bytes_max.unwrap_or_default(),
        storage_class: asked.storage_class_name.clone(),
        storage_classes: allowed.clone(),
    })
}

/// What speaks against the claim that a sandbox has already. A claim keeps its storage class and never shrinks, so one that was made for
/// another spec or under another class, or that somebody enlarged, is judged by what it is.
pub(super) fn standing(
    persistent: &Persistent,
    class: &str,
    live: &PersistentVolumeClaim,
    faults: &mut Vec<Rejection>,
) {
    let name = live.name_any();
    let anew = format!(
        "save the work in it and delete the claim (kubectl delete pvc {name}), so that a new one is made"
    );
    let own = live.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    let told =
        if own.is_empty() { "no storage class".to_owned() } else { format!("the storage class {own}") };
    if persistent.storage_class.as_ref().is_some_and(|wanted| wanted != own) {
        let message = format!(
            "PersistentVolumeClaim {name} has {told}, and a claim keeps what it has; write that, or {anew}"
        );
        reject(faults, RejectionReason::InvalidField, STORAGE_CLASS, message);
    } else if !persistent.storage_classes.is_empty()
        && !persistent.storage_classes.iter().any(|one| one == own)
    {
        let message = format!(
            "PersistentVolumeClaim {name} has {told}, which class {class} does not allow; use another class, or {anew}"
        );
        reject(faults, RejectionReason::OutsideClass, STORAGE_CLASS, message);
    }
    if let Some(bytes) = claim::asked_bytes(live).filter(|bytes| *bytes > persistent.bytes_max) {
        let message = format!(
            "PersistentVolumeClaim {name} asks for {bytes} bytes, and class {class} allows {}; use another class, or {anew}",
            persistent.bytes_max
        );
        reject(faults, RejectionReason::OutsideClass, SIZE, message);
    }
}

/// What the workspace is made of.
pub(super) fn medium(sandbox: &AgentSandbox) -> Medium {
    let asked = sandbox.spec.workspace.as_ref().and_then(|workspace| workspace.medium);
    asked.unwrap_or(Medium::Disk)
}

/// Bytes that it may take of the pod's memory. Where the original stays, that lies beside it.
pub(super) fn in_memory(sandbox: &AgentSandbox, bytes: i64) -> i64 {
    let overlay = sandbox.spec.workspace.as_ref().is_some_and(|w| w.access == Some(WorkspaceAccess::Overlay));
    match medium(sandbox) {
        Medium::Memory if overlay => bytes.saturating_mul(2),
        Medium::Memory => bytes,
        Medium::Disk => 0,
    }
}

/// The source that a sandbox names. Without a policy, which has faults of its own, nothing is known of what it allows.
pub(super) fn source(
    sandbox: &AgentSandbox,
    class: &AgentSandboxClass,
    policy: Option<&Policy>,
    faults: &mut Vec<Rejection>,
) -> Option<Source> {
    let workspace = sandbox.spec.workspace.as_ref()?;
    volume(workspace, faults);
    let access = workspace.access.unwrap_or(WorkspaceAccess::ReadWrite);
    outlasting(access, life::mode(sandbox), faults);
    let mut origins = named(workspace);
    let origin = match (origins.pop(), origins.is_empty()) {
        (Some(origin), true) => origin,
        (None, _) if workspace.persistent.is_some() => Origin::Empty,
        (None, _) => {
            without_source(workspace, faults);
            return None;
        }
        (Some(_), false) => {
            let message = "a workspace begins with one source; remove all but one of archive, git, configMap, persistentVolumeClaim and image";
            reject(faults, RejectionReason::InvalidField, "spec.workspace", message);
            return None;
        }
    };
    match &origin {
        Origin::Archive(archive) => {
            fetched(policy, ARCHIVE_URL, &[request(&archive.url, "GET", "")], faults);
        }
        Origin::Git(git) => repository(policy, git, faults),
        Origin::ConfigMap(ConfigMapSource { name }) => {
            foreign(CONFIG_MAP, "ConfigMaps", (name, SUFFIX_POLICY), faults);
        }
        Origin::Claim(ClaimSource { claim_name, path }) => {
            foreign(CLAIM, "claims", (claim_name, SUFFIX_WORKSPACE), faults);
            within(CLAIM_PATH, path.as_deref(), faults);
        }
        Origin::Image(ImageSource { reference, path, .. }) => {
            super::image(IMAGE, reference, class, faults);
            within(IMAGE_PATH, path.as_deref(), faults);
        }
        Origin::Empty => {}
    }
    if matches!(origin, Origin::ConfigMap(_) | Origin::Claim(_)) && workspace.persistent.is_some() {
        // What it names later is judged by the API server, and what it named once is in the volume for good.
        let message = "a persistent workspace keeps what it was filled with, whoever writes the sandbox later; name an archive, a git repository or an image, or remove persistent";
        reject(faults, RejectionReason::InvalidField, "spec.workspace.persistent", message);
    }
    patterns(workspace, faults);
    if matches!(origin, Origin::Git(_)) && !workspace.sanitize.is_empty() {
        let message = "to git a file that is rewritten is changed; remove sanitize";
        reject(faults, RejectionReason::InvalidField, "spec.workspace.sanitize", message);
    }
    let Workspace { exclude, include, sanitize, .. } = workspace.clone();
    Some(Source { origin, exclude, include, sanitize, access })
}

/// Every source that is named.
fn named(workspace: &Workspace) -> Vec<Origin> {
    let Workspace { archive, git, config_map, persistent_volume_claim, image, .. } = workspace;
    [
        archive.clone().map(Origin::Archive),
        git.clone().map(Origin::Git),
        config_map.clone().map(Origin::ConfigMap),
        persistent_volume_claim.clone().map(Origin::Claim),
        image.clone().map(Origin::Image),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the operator makes for sandboxes is no source of any: the document that a proxy obeys, and the work of another agent. Their names
/// are refused and not their labels, for one that is not there yet has none, and a pod that waits for a name takes whatever comes to bear it.
fn foreign(field: &str, what: &str, (name, suffix): (&str, &str), faults: &mut Vec<Rejection>) {
    if name.ends_with(suffix) {
        let message =
            format!("{what} whose names end in {suffix} are those of sandboxes' own; give it another name");
        reject(faults, RejectionReason::InvalidField, field, message);
    }
}

/// The schema refuses these too, but for what is read otherwise than it is written.
fn within(field: &str, path: Option<&str>, faults: &mut Vec<Rejection>) {
    let Some(path) = path else { return };
    let message = match RelativePath::parse(path.as_bytes()) {
        Ok(parsed) if parsed.as_str() == path => return,
        Ok(_) => "it has a / or a . that names nothing; write the folder's way from the source's root, such as src/shop".to_owned(),
        Err(refusal) => format!("{refusal}; write the folder's way from the source's root, such as src/shop"),
    };
    reject(faults, RejectionReason::InvalidField, field, message);
}

/// The schema refuses these too; an object that was stored under an older schema is judged here.
fn volume(workspace: &Workspace, faults: &mut Vec<Rejection>) {
    if workspace.persistent.is_some() != (workspace.access == Some(WorkspaceAccess::Persistent)) {
        reject(
            faults,
            RejectionReason::InvalidField,
            "spec.workspace.persistent",
            "persistent describes the volume of access: Persistent and of no other; write both, or neither",
        );
    }
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
        // One without its volume is told of above.
        None | Some(WorkspaceAccess::ReadWrite | WorkspaceAccess::Persistent) => return,
        Some(WorkspaceAccess::ReadOnly) => {
            "a folder that is empty and cannot be written serves nobody; name an archive, a git repository or another source, or remove access: ReadOnly"
        }
        Some(WorkspaceAccess::Overlay) => {
            "there is no original to compare with; name an archive, a git repository or another source, or remove access: Overlay"
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
        if let Err(bad) = Exclusion::check(exclude, include) {
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
