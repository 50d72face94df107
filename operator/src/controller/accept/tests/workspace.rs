//! Sources of a workspace: what the proxy would deny is not accepted, and what it would allow is.

use agentsandbox_crds::workspace::{Workspace, WorkspaceAccess};

use super::*;

fn with_workspace(workspace: &serde_json::Value) -> AgentSandbox {
    sandbox(|s| s.spec.workspace = Some(from::<Workspace>(workspace.clone())))
}

fn archive(url: &str) -> serde_json::Value {
    json!({"archive": {"url": url, "sha256": "0".repeat(64), "stripComponents": 1}})
}

#[test]
fn p_g7_an_archive_that_no_rule_allows_to_fetch_is_refused_with_the_rule_to_write() {
    for url in ["https://files.example.com/shop.tar.gz", "https://pypi.org:8443/shop.tar.gz"] {
        let asking = with_workspace(&archive(url));
        let faults = accept(&identity(), &asking, &ordinary(), &platform()).unwrap_err();
        only(rejected(&asking, &ordinary()), RejectionReason::InvalidField, "spec.workspace.archive.url");
        assert!(faults[0].message.contains("spec.egress"), "{}", faults[0]);
    }
    let told = rejected_message(&archive("https://files.example.com/shop.tar.gz"));
    assert!(told.contains("host: files.example.com") && !told.ends_with('.'), "{told}");
    let narrow = |s: &mut AgentSandbox| {
        s.spec.egress.as_mut().unwrap().allow[1].paths = Some(vec!["/simple/**".to_owned()]);
    };
    let mut elsewhere = with_workspace(&archive("https://pypi.org/shop.tar.gz"));
    assert!(accept(&identity(), &elsewhere, &ordinary(), &platform()).is_ok(), "the control");
    narrow(&mut elsewhere);
    only(rejected(&elsewhere, &ordinary()), RejectionReason::InvalidField, "spec.workspace.archive.url");
}

fn rejected_message(workspace: &serde_json::Value) -> String {
    let faults = accept(&identity(), &with_workspace(workspace), &ordinary(), &platform()).unwrap_err();
    faults[0].message.clone()
}

#[test]
fn an_archive_of_a_host_that_passes_unopened_is_accepted_whatever_its_path() {
    let mut asking = with_workspace(&archive("https://pypi.org/shop.tar.gz"));
    let rule = &mut asking.spec.egress.as_mut().unwrap().allow[1];
    (rule.methods, rule.tls) = (None, Some(Tls::Passthrough));
    let passing = with_class(|c| c.spec.egress = Some(from(json!({"tlsPassthrough": "Allow"}))));
    assert!(accept(&identity(), &asking, &passing, &platform()).is_ok());
}

#[test]
fn an_address_that_could_be_read_in_two_ways_is_refused() {
    for url in [
        "http://pypi.org/shop.tar.gz",
        "https://user@pypi.org/shop.tar.gz",
        "https://pypi.org",
        "https://pypi.org/a#b",
        "https://pypi.org/a b",
        "https://pypi.org:0/a",
    ] {
        let found = rejected(&with_workspace(&archive(url)), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.workspace.archive.url");
    }
}

#[test]
fn a_pattern_that_is_none_is_refused_in_its_field() {
    for (field, pattern) in [("exclude", "a/../b"), ("exclude", "[z-a]"), ("include", "!keep")] {
        let mut workspace = archive("https://pypi.org/shop.tar.gz");
        workspace[field] = json!([pattern]);
        let found = rejected(&with_workspace(&workspace), &ordinary());
        only(found, RejectionReason::InvalidField, &format!("spec.workspace.{field}"));
        workspace[field] = json!(["*.secret"]);
        assert!(accept(&identity(), &with_workspace(&workspace), &ordinary(), &platform()).is_ok());
    }
}

#[test]
fn an_empty_workspace_that_cannot_be_written_is_refused() {
    let found = rejected(&with_workspace(&json!({"access": "ReadOnly"})), &ordinary());
    only(found, RejectionReason::InvalidField, "spec.workspace.access");
    let mut read_only = archive("https://pypi.org/shop.tar.gz");
    read_only["access"] = json!("ReadOnly");
    let accepted = accept(&identity(), &with_workspace(&read_only), &ordinary(), &platform()).unwrap();
    assert_eq!(accepted.source.unwrap().access, WorkspaceAccess::ReadOnly);
    let plain = accept(&identity(), &sandbox(|_| ()), &ordinary(), &platform()).unwrap();
    assert_eq!(plain.source, None);
}

fn git(url: &str) -> serde_json::Value {
    json!({"git": {"url": url}})
}

#[test]
fn p_g7_a_repository_whose_two_requests_no_rule_allows_is_refused_with_the_rule_to_write() {
    let with_rule = |rule: serde_json::Value| {
        let mut asking = with_workspace(&git("https://pypi.org/acme/shop.git/"));
        asking.spec.egress.as_mut().unwrap().allow[1] = from(rule);
        accept(&identity(), &asking, &ordinary(), &platform())
    };
    let whole = json!({"host": "pypi.org", "methods": ["GET", "POST"], "paths": ["/acme/shop.git/**"]});
    let accepted = with_rule(whole).unwrap();
    assert!(matches!(accepted.source.unwrap().origin, Origin::Git(_)), "the control");
    for (rule, missing) in [
        (json!({"host": "pypi.org", "methods": ["GET"], "paths": ["/acme/shop.git/**"]}), "POST"),
        (json!({"host": "pypi.org", "methods": ["POST"], "paths": ["/acme/shop.git/**"]}), "GET"),
        (
            json!({"host": "pypi.org", "methods": ["GET", "POST"], "paths": ["/acme/other.git/**"]}),
            "/acme/shop.git",
        ),
        (json!({"host": "files.pythonhosted.org"}), "pypi.org"),
    ] {
        let faults = with_rule(rule).unwrap_err();
        assert_eq!((faults.len(), faults[0].field.as_str()), (1, "spec.workspace.git.url"), "{faults:?}");
        let told = &faults[0].message;
        assert!(told.contains("spec.egress") && told.contains(missing), "{missing}: {told}");
    }
}

#[test]
fn a_repository_and_an_archive_at_once_or_a_name_that_git_reads_otherwise_are_refused() {
    let mut both = archive("https://pypi.org/shop.tar.gz");
    both["git"] = json!({"url": "https://pypi.org/shop.git"});
    let found = rejected(&with_workspace(&both), &ordinary());
    only(found, RejectionReason::InvalidField, "spec.workspace.git");
    for reference in ["a..b", "-x", "HEAD", "a b", ""] {
        let mut asking =
            with_workspace(&json!({"git": {"url": "https://pypi.org/shop.git", "ref": reference}}));
        asking.spec.egress.as_mut().unwrap().allow[1].methods = None;
        let found = rejected(&asking, &ordinary());
        only(found, RejectionReason::InvalidField, "spec.workspace.git.ref");
    }
}

#[test]
fn an_overlay_needs_an_original_and_a_program_that_goes_on() {
    let mut overlay = archive("https://pypi.org/shop.tar.gz");
    overlay["access"] = json!("Overlay");
    let kept = with_workspace(&overlay);
    let accepted = accept(&identity(), &kept, &ordinary(), &platform()).unwrap();
    assert_eq!(accepted.source.unwrap().access, WorkspaceAccess::Overlay);
    let found = rejected(&with_workspace(&json!({"access": "Overlay"})), &ordinary());
    only(found, RejectionReason::InvalidField, "spec.workspace.access");
    let mut task = kept;
    task.spec.lifecycle = Some(from(json!({"mode": "Task"})));
    only(rejected(&task, &ordinary()), RejectionReason::InvalidField, "spec.workspace.access");
    let mut control = with_workspace(&archive("https://pypi.org/shop.tar.gz"));
    control.spec.lifecycle = Some(from(json!({"mode": "Task"})));
    assert!(accept(&identity(), &control, &ordinary(), &platform()).is_ok(), "the control");
}
