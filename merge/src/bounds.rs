//! What of a template is a bound, and whether a sandbox keeps it.
//!
//! | field of the sandbox | has to be |
//! |---|---|
//! | `className`, `agent.image` | the template's, or one of its `bounds` |
//! | `agent.processSandbox.readPaths`, `writePaths` | within the template's |
//! | `workspace.sizeLimit`, `persistent.size`, sizes of `scratch` | at most the template's |
//! | `workspace.access` | at most the template's: ReadOnly, Overlay, ReadWrite, Persistent |
//! | `workspace.include`, `workspace.sanitize`, `persistent.storageClassName`, `scratch.additional` | among the template's, where it names some |
//! | `workspace.execution`, `scratch.execution` | Deny, where the template says that |
//! | `resources.limits`, times of `lifecycle` | at most the template's |
//! | `lifecycle.mode` | Task, where the template has an `activeDeadline` |
//! | `egress` | [`egress`](super::egress) |
//!
//! Everything else is the sandbox's to say.

use agentsandbox_crds::AgentSandboxSpec;
use agentsandbox_crds::common::OnRevoke;
use agentsandbox_crds::quantity::{bytes, cpu_millis, seconds};
use agentsandbox_crds::sandbox::{Egress, Lifecycle, Mode, ProcessSandbox, SandboxResources};
use agentsandbox_crds::scratch::{Execution, Scratch};
use agentsandbox_crds::template::AgentSandboxTemplateSpec;
use agentsandbox_crds::workspace::{Workspace, WorkspaceAccess};

use crate::fault::Faults;

/// Seconds of Drain where it is not said.
const DRAIN_SECS: i32 = 30;
/// What a program in a process sandbox may write where it is not said: what its kind promises.
const WRITABLE: [&str; 3] = ["/workspace", "/tmp", "/home/agent"];

/// Compares what a sandbox says with what its template says; `merged` is both.
pub(crate) fn judge(
    own: &AgentSandboxSpec,
    template: &AgentSandboxTemplateSpec,
    merged: &AgentSandboxSpec,
    faults: &mut Faults,
) {
    let of = &template.sandbox;
    lent(of, faults);
    class(own, template, faults);
    image(own, template, faults);
    if let (Some(own), Some(of)) = (&own.agent.process_sandbox, &of.agent.process_sandbox) {
        process_sandbox(own, of, merged, faults);
    }
    if let (Some(own), Some(of)) = (&own.workspace, &of.workspace) {
        workspace(own, of, faults);
    }
    if let (Some(own), Some(of)) = (&own.scratch, &of.scratch) {
        scratch(own, of, faults);
    }
    if let (Some(own), Some(of)) = (&own.egress, &of.egress) {
        revocation(own, of, faults);
    }
    if let (Some(own), Some(of)) = (&own.resources, &of.resources) {
        resources(own, of, faults);
    }
    if let (Some(own), Some(of)) = (&own.lifecycle, &of.lifecycle) {
        lifecycle(own, of, faults);
    }
}

/// Who names a ConfigMap or a claim has to be allowed to read it, and of a template's sandboxes that would be another than who has their
/// agents read.
fn lent(of: &AgentSandboxSpec, faults: &mut Faults) {
    let Some(of) = &of.workspace else { return };
    let write = "write that in the sandbox, and have it taken out of the template";
    if let Some(map) = &of.config_map {
        faults.outside("workspace.configMap", &map.name, write);
    }
    if let Some(claim) = &of.persistent_volume_claim {
        faults.outside("workspace.persistentVolumeClaim", &claim.claim_name, write);
    }
}

fn class(own: &AgentSandboxSpec, template: &AgentSandboxTemplateSpec, faults: &mut Faults) {
    let allowed = template.bounds.iter().flat_map(|bounds| &bounds.class_names).collect::<Vec<_>>();
    let names: Vec<&str> = template.sandbox.class_name.iter().chain(allowed).map(String::as_str).collect();
    if names.is_empty() {
        return;
    }
    let field = if template.sandbox.class_name.is_some() { "sandbox.className" } else { "bounds.classNames" };
    match &own.class_name {
        Some(name) if names.contains(&name.as_str()) => {}
        None if template.sandbox.class_name.is_some() => {}
        _ => faults.outside_of(
            "className",
            field,
            names.join(", "),
            "write className with one of its classes, or ask the template's owner for another in bounds.classNames",
        ),
    }
}

fn image(own: &AgentSandboxSpec, template: &AgentSandboxTemplateSpec, faults: &mut Faults) {
    let (own, of) = (own.agent.image.as_str(), template.sandbox.agent.image.as_str());
    let patterns: Vec<&str> =
        template.bounds.iter().flat_map(|bounds| &bounds.images).map(String::as_str).collect();
    if own.is_empty() {
        if of.is_empty() {
            faults.missing(
                "agent.image",
                "write the image of the agent in agent.image, such as ghcr.io/acme/agent:1.2.3",
            );
        }
        return;
    }
    let is_bounded = !(of.is_empty() && patterns.is_empty());
    if !is_bounded || own == of || patterns.iter().any(|pattern| is_image_of(own, pattern)) {
        return;
    }
    let field = if patterns.is_empty() { "sandbox.agent.image" } else { "bounds.images" };
    let has = if patterns.is_empty() { of.to_owned() } else { patterns.join(", ") };
    faults.outside_of(
        "agent.image",
        field,
        has,
        "leave agent.image out, write one that this allows, or ask the template's owner for another in bounds.images",
    );
}

/// Whether an image is as a pattern of a template says: itself, or with a `*` at the end such as begin so, where `*` is any text without `/`
/// and `@`. A digest names another content than the tag before it says, so no `*` takes one in with a tag.
fn is_image_of(image: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => {
            image.strip_prefix(beginning).is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@']))
        }
        None => image == pattern,
    }
}

fn process_sandbox(
    own: &ProcessSandbox,
    of: &ProcessSandbox,
    merged: &AgentSandboxSpec,
    faults: &mut Faults,
) {
    if let (Some(own), Some(of)) = (&own.read_paths, &of.read_paths) {
        within("agent.processSandbox.readPaths", own, of, faults);
    }
    let Some(own) = &own.write_paths else { return };
    let folders = merged.scratch.iter().flat_map(|scratch| &scratch.additional);
    let usual = WRITABLE.map(str::to_owned).into_iter().chain(folders.map(|folder| folder.path.clone()));
    let of = of.write_paths.clone().unwrap_or_else(|| usual.collect());
    within("agent.processSandbox.writePaths", own, &of, faults);
}

/// Whether each path is one of these, or lies below one.
fn within(field: &str, own: &[String], of: &[String], faults: &mut Faults) {
    let lies_in = |path: &str, folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for path in own.iter().filter(|path| !of.iter().any(|folder| lies_in(path, folder))) {
        let write = format!("remove {path} from {}, or name what lies in these", last(field));
        faults.outside(field, of.join(", "), write);
    }
}

fn workspace(own: &Workspace, of: &Workspace, faults: &mut Faults) {
    let size = of.size_limit.as_ref();
    let of_volume = of.persistent.as_ref().map(|volume| &volume.size);
    at_most("workspace.sizeLimit", own.size_limit.as_ref(), size.or(of_volume), bytes, faults);
    let is_volume = own.access.is_none() && of.persistent.is_some();
    if is_volume && (own.size_limit.is_some() || own.medium.is_some()) {
        let write = "remove sizeLimit and medium, which describe a folder of the node, or write access: ReadWrite beside them";
        faults.outside("workspace.access", "Persistent", write);
    }
    if let (Some(asked), Some(allowed)) = (own.access, of.access)
        && rank(asked) > rank(allowed)
    {
        faults.outside(
            "workspace.access",
            format!("{allowed:?}"),
            "leave access out, or write one that gives less",
        );
    }
    if let (Some(_), Some(size)) = (&own.persistent, size) {
        faults.outside_of(
            "workspace.persistent",
            "sandbox.workspace.sizeLimit",
            size,
            "remove access: Persistent with persistent, which would not be bounded by it",
        );
    }
    if let (Some(own), Some(of)) = (&own.persistent, &of.persistent) {
        let field = "workspace.persistent.size";
        required_at_most((field, field), (&own.size, &of.size), faults);
        if let (Some(asked), Some(allowed)) = (&own.storage_class_name, &of.storage_class_name)
            && asked != allowed
        {
            faults.outside(
                "workspace.persistent.storageClassName",
                allowed,
                "leave storageClassName out, or write the same",
            );
        }
    }
    execution("workspace.execution", own.execution, of.execution, faults);
    taken(own, of, faults);
}

/// What is taken of a source. What the template has rewritten stays so ([`overlay`](super::overlay)): left out of the sandbox's list, a file
/// that is on no list of what is left out would be taken as it is.
fn taken(own: &Workspace, of: &Workspace, faults: &mut Faults) {
    // The last pattern that matches counts, and one with ! takes back.
    for pattern in
        own.exclude.iter().filter(|one| one.trim_start().starts_with('!') && !of.exclude.is_empty())
    {
        let write = format!("remove {pattern} from exclude, which would take that back");
        faults.outside("workspace.exclude", of.exclude.join(", "), write);
    }
    if of.exclude.is_empty() && of.include.is_empty() && of.sanitize.is_empty() {
        return;
    }
    let formats = || of.sanitize.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ");
    for kind in own.sanitize.iter().filter(|kind| !of.sanitize.contains(kind)) {
        let write = format!("remove {kind:?} from sanitize, or ask the template's owner to write it there");
        faults.outside("workspace.sanitize", format!("[{}]", formats()), write);
    }
    let (field, has) = match (of.include.is_empty(), of.exclude.is_empty()) {
        (false, _) => ("include", of.include.join(", ")),
        (true, false) => ("exclude", of.exclude.join(", ")),
        (true, true) => ("sanitize", formats()),
    };
    for pattern in own.include.iter().filter(|pattern| !of.include.contains(pattern)) {
        faults.outside_of(
            "workspace.include",
            &format!("sandbox.workspace.{field}"),
            &has,
            format!("remove {pattern} from include, or ask the template's owner to write it there"),
        );
    }
}

const fn rank(access: WorkspaceAccess) -> u8 {
    match access {
        WorkspaceAccess::ReadOnly => 0,
        WorkspaceAccess::Overlay => 1,
        WorkspaceAccess::ReadWrite => 2,
        WorkspaceAccess::Persistent => 3,
    }
}

fn execution(field: &str, own: Option<Execution>, of: Option<Execution>, faults: &mut Faults) {
    if own == Some(Execution::Allow) && of == Some(Execution::Deny) {
        faults.outside(field, "Deny", "leave execution out, or write Deny");
    }
}

fn scratch(own: &Scratch, of: &Scratch, faults: &mut Faults) {
    at_most("scratch.tmp", own.tmp.as_ref(), of.tmp.as_ref(), bytes, faults);
    at_most("scratch.home", own.home.as_ref(), of.home.as_ref(), bytes, faults);
    execution("scratch.execution", own.execution, of.execution, faults);
    if of.additional.is_empty() {
        return;
    }
    for (index, folder) in own.additional.iter().enumerate() {
        let mut known = of.additional.iter().enumerate();
        match known.find(|(_, known)| known.path == folder.path) {
            Some((at, known)) => {
                let field = |index: usize| format!("scratch.additional[{index}].sizeLimit");
                let (own, of) = (field(index), field(at));
                required_at_most((&own, &of), (&folder.size_limit, &known.size_limit), faults);
            }
            None => faults.outside_of(
                &format!("scratch.additional[{index}].path"),
                "sandbox.scratch.additional",
                of.additional.iter().map(|known| known.path.as_str()).collect::<Vec<_>>().join(", "),
                format!("remove {}, or write one of these", folder.path),
            ),
        }
    }
}

fn revocation(own: &Egress, of: &Egress, faults: &mut Faults) {
    if own.on_revoke == Some(OnRevoke::Drain) && of.on_revoke == Some(OnRevoke::Kill) {
        faults.outside("egress.onRevoke", "Kill", "leave onRevoke out, or write Kill");
    }
    let usual = (of.on_revoke == Some(OnRevoke::Drain)).then_some(DRAIN_SECS);
    if let (Some(asked), Some(most)) = (own.drain_seconds, of.drain_seconds.or(usual))
        && asked > most
    {
        faults.outside("egress.drainSeconds", most, format!("write at most {most} in drainSeconds"));
    }
}

fn resources(own: &SandboxResources, of: &SandboxResources, faults: &mut Faults) {
    let (own, of) = (&own.limits, &of.limits);
    at_most("resources.limits.cpu", own.cpu.as_ref(), of.cpu.as_ref(), cpu_millis, faults);
    at_most("resources.limits.memory", own.memory.as_ref(), of.memory.as_ref(), bytes, faults);
    let (disk, most) = (own.ephemeral_storage.as_ref(), of.ephemeral_storage.as_ref());
    at_most("resources.limits.ephemeralStorage", disk, most, bytes, faults);
}

fn lifecycle(own: &Lifecycle, of: &Lifecycle, faults: &mut Faults) {
    let times: [(&str, &Option<String>, &Option<String>); 4] = [
        ("maxLifetime", &own.max_lifetime, &of.max_lifetime),
        ("activeDeadline", &own.active_deadline, &of.active_deadline),
        ("idleTimeout", &own.idle_timeout, &of.idle_timeout),
        ("ttlAfterFinished", &own.ttl_after_finished, &of.ttl_after_finished),
    ];
    for (name, own, of) in times {
        at_most(&format!("lifecycle.{name}"), own.as_ref(), of.as_ref(), seconds, faults);
    }
    if let (Some(Mode::Service), Some(deadline)) = (own.mode, &of.active_deadline) {
        faults.outside_of(
            "lifecycle.mode",
            "sandbox.lifecycle.activeDeadline",
            deadline,
            "leave mode out: only a Task keeps it",
        );
    }
}

/// Whether a quantity is at most the template's. One of the sandbox's own that is none is told elsewhere.
fn at_most(
    field: &str,
    own: Option<&String>,
    of: Option<&String>,
    read: fn(&str) -> Option<i64>,
    faults: &mut Faults,
) {
    let (Some(own), Some(most)) = (own, of) else { return };
    if is_more(own, most, read) {
        faults.outside(field, most, format!("write at most {most} in {}, or leave it out", last(field)));
    }
}

/// The same of a number of bytes that has to be written where what it is of is: in this field of the sandbox, and in that of the template.
fn required_at_most((field, of_field): (&str, &str), (own, most): (&str, &str), faults: &mut Faults) {
    if is_more(own, most, bytes) {
        let write = format!("write at most {most} in {}", last(field));
        faults.outside_of(field, &format!("sandbox.{of_field}"), most, write);
    }
}

fn is_more(own: &str, most: &str, read: fn(&str) -> Option<i64>) -> bool {
    read(own).is_some_and(|asked| read(most).is_none_or(|most| asked > most))
}

/// The name of a field, without where it is.
fn last(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}
