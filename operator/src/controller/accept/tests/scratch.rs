//! Scratch: sizes, mediums, and what a memory limit has room for.

use agentsandbox_crds::class::Isolation;
use agentsandbox_crds::scratch::Medium;

use super::*;

fn asking(scratch: serde_json::Value) -> AgentSandbox {
    sandbox(|s| s.spec.scratch = Some(from(scratch)))
}

fn with_memory(memory: &str, scratch: serde_json::Value) -> AgentSandbox {
    let mut asking = asking(scratch);
    asking.spec.resources = Some(from(json!({"limits": {"memory": memory}})));
    asking
}

/// Each folder's path, bytes and medium.
fn folders(sandbox: &AgentSandbox) -> Vec<(String, i64, Medium)> {
    let accepted = accept(&identity(), sandbox, &ordinary(), &platform()).unwrap();
    accepted.scratch.into_iter().map(|folder| (folder.path, folder.bytes, folder.medium)).collect()
}

fn both(tmp: i64, home: i64, medium: Medium) -> Vec<(String, i64, Medium)> {
    vec![("/tmp".to_owned(), tmp, medium), ("/home/agent".to_owned(), home, medium)]
}

#[test]
fn without_a_word_scratch_is_on_disk_and_with_one_it_is_in_memory() {
    assert_eq!(folders(&sandbox(|_| ())), both(1 << 30, 1 << 30, Medium::Disk));
    assert_eq!(folders(&asking(json!({}))), both(100 << 20, 500 << 20, Medium::Memory));
    assert_eq!(
        folders(&asking(json!({"tmp": "8Mi", "home": "16Mi"}))),
        both(8 << 20, 16 << 20, Medium::Memory)
    );
    let on_disk = asking(json!({"medium": "Disk", "tmp": "8Mi"}));
    assert_eq!(folders(&on_disk), both(8 << 20, 1 << 30, Medium::Disk));
}

#[test]
fn a_further_folder_has_the_medium_of_the_others_unless_it_says_otherwise() {
    let asked = json!({"tmp": "8Mi", "home": "8Mi", "additional": [
        {"path": "/cache", "sizeLimit": "16Mi"}, {"path": "/var/cache", "sizeLimit": "512Mi", "medium": "Disk"},
    ]});
    let found = folders(&asking(asked));
    assert_eq!(
        found[2..],
        [("/cache".to_owned(), 16 << 20, Medium::Memory), ("/var/cache".to_owned(), 512 << 20, Medium::Disk)]
    );
}

#[test]
fn o_h9_folders_in_memory_leave_the_program_what_none_can_do_without() {
    let sizes = || json!({"tmp": "64Mi", "home": "64Mi"});
    let enough = with_memory("192Mi", sizes());
    assert_eq!(folders(&enough), both(64 << 20, 64 << 20, Medium::Memory));
    let short = with_memory("191Mi", sizes());
    only(rejected(&short, &ordinary()), RejectionReason::InvalidField, "spec.scratch");
    let faults = accept(&identity(), &short, &ordinary(), &platform()).unwrap_err();
    for told in ["128Mi", "64Mi", "191Mi", "at least 192Mi in spec.resources.limits.memory", "medium: Disk"] {
        assert!(faults[0].message.contains(told), "no {told} in {}", faults[0].message);
    }
    // Each counts: what is added, and what nobody wrote.
    for asked in [
        json!({}),
        json!({"tmp": "64Mi"}),
        json!({"medium": "Disk", "additional": [{"path": "/cache", "sizeLimit": "256Mi", "medium": "Memory"}]}),
    ] {
        only(
            rejected(&with_memory("192Mi", asked), &ordinary()),
            RejectionReason::InvalidField,
            "spec.scratch",
        );
    }
    // What is on disk does not.
    folders(&with_memory("64Mi", json!({"medium": "Disk"})));
}

#[test]
fn a_classs_ceiling_of_memory_bounds_what_lies_in_memory() {
    let low = with_class(|c| c.spec.resources = Some(from(json!({"max": {"memory": "256Mi"}}))));
    only(rejected(&asking(json!({})), &low), RejectionReason::InvalidField, "spec.scratch");
    let more = with_memory("1Gi", json!({}));
    only(rejected(&more, &low), RejectionReason::OutsideClass, "spec.resources.limits.memory");
}

#[test]
fn a_folder_on_disk_is_no_larger_than_the_disk_space_and_none_is_too_small() {
    for (asked, field) in [
        (json!({"medium": "Disk", "tmp": "1025Mi"}), "spec.scratch.tmp"),
        (json!({"home": "512Ki"}), "spec.scratch.home"),
        (json!({"tmp": "99999999999999Ti"}), "spec.scratch.tmp"),
        (
            json!({"additional": [{"path": "/a", "sizeLimit": "1Mi"}, {"path": "/b", "sizeLimit": "2Gi", "medium": "Disk"}]}),
            "spec.scratch.additional[1].sizeLimit",
        ),
    ] {
        only(rejected(&asking(asked), &ordinary()), RejectionReason::InvalidField, field);
    }
    folders(&asking(json!({"medium": "Disk", "tmp": "1Gi"})));
}

#[test]
fn a_path_of_the_process_sandbox_is_no_part_of_a_folder_that_the_agent_lays_out() {
    let container = with_class(|c| c.spec.isolation = Isolation::Container);
    let confined = |paths: serde_json::Value| {
        let mut own = asking(json!({"additional": [{"path": "/cache", "sizeLimit": "16Mi"}]}));
        own.spec.agent.command = vec!["agent".to_owned()];
        own.spec.agent.process_sandbox = Some(from(paths));
        own
    };
    for (list, below) in [("readPaths", "/cache/data"), ("noExecutePaths", "/cache/bin")] {
        let found = rejected(&confined(json!({list: [below]})), &container);
        only(found, RejectionReason::InvalidField, &format!("spec.agent.processSandbox.{list}"));
        let whole = confined(json!({list: ["/cache", "/caches/x"]}));
        accept(&identity(), &whole, &container, &platform()).unwrap();
    }
}

#[test]
fn o_h9_a_workspace_in_memory_counts_beside_scratch_and_twice_where_its_original_stays() {
    let of = |memory: &str, scratch: Option<serde_json::Value>, workspace: serde_json::Value| {
        let mut own = with_memory(memory, json!({}));
        own.spec.scratch = scratch.map(from);
        own.spec.workspace = Some(from(workspace));
        own.spec.egress.as_mut().unwrap().allow[1].methods = None;
        own
    };
    let git = json!({"url": "https://pypi.org/shop.git"});
    let plain = || json!({"medium": "Memory", "sizeLimit": "64Mi"});
    let kept = |access: &str| json!({"medium": "Memory", "sizeLimit": "64Mi", "access": access, "git": git});
    let both = || Some(json!({"tmp": "64Mi", "home": "64Mi"}));
    for (enough, short, scratch, workspace, field) in [
        ("128Mi", "127Mi", None, plain(), "spec.workspace.sizeLimit"),
        ("256Mi", "255Mi", both(), plain(), "spec.scratch"),
        ("192Mi", "191Mi", None, kept("Overlay"), "spec.workspace.sizeLimit"),
        ("128Mi", "127Mi", None, kept("ReadWrite"), "spec.workspace.sizeLimit"),
        ("564Mi", "563Mi", None, json!({"medium": "Memory"}), "spec.workspace.sizeLimit"),
    ] {
        let judged = |memory: &str| {
            accept(&identity(), &of(memory, scratch.clone(), workspace.clone()), &ordinary(), &platform())
        };
        assert_eq!(judged(enough).unwrap().workspace_medium, Medium::Memory);
        let faults = judged(short).unwrap_err();
        assert_eq!(
            faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(),
            [field],
            "{workspace}"
        );
        assert!(faults[0].message.contains(&format!("at least {enough}")), "{}", faults[0].message);
    }
    let on_disk = accept(&identity(), &sandbox(|_| ()), &ordinary(), &platform()).unwrap();
    assert_eq!(on_disk.workspace_medium, Medium::Disk);
}
