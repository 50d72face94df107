//! Sources of a workspace: what the proxy would deny is not accepted, and what it would allow is.

use agentsandbox_crds::workspace::{Sanitized, Workspace, WorkspaceAccess};

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
    only(found, RejectionReason::InvalidField, "spec.workspace");
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

fn lasting(persistent: &serde_json::Value) -> AgentSandbox {
    with_workspace(&json!({"access": "Persistent", "persistent": persistent}))
}

#[test]
fn o_r18_a_claim_is_asked_for_only_within_what_the_class_allows_and_a_class_that_is_silent_allows_none() {
    let asking = lasting(&json!({"size": "10Gi"}));
    let taken = accept(&identity(), &asking, &ordinary(), &platform()).unwrap();
    let persistent = taken.persistent.unwrap();
    assert_eq!((persistent.bytes, persistent.storage_class.as_deref()), (10 << 30, None));
    assert_eq!(taken.source.unwrap().origin, Origin::Empty, "it is filled, with nothing");

    let none = with_class(|c| c.spec.persistent_workspace = None);
    only(rejected(&asking, &none), RejectionReason::OutsideClass, "spec.workspace.access");
    let larger = lasting(&json!({"size": "11Gi"}));
    only(rejected(&larger, &ordinary()), RejectionReason::OutsideClass, "spec.workspace.persistent.size");
    let bad = with_class(|c| c.spec.persistent_workspace.as_mut().unwrap().max_size = "much".to_owned());
    only(rejected(&asking, &bad), RejectionReason::ClassUnsupported, "spec.className");
    only(
        rejected(&lasting(&json!({"size": "much"})), &ordinary()),
        RejectionReason::InvalidField,
        "spec.workspace.persistent.size",
    );

    let fast = with_class(|c| {
        c.spec.persistent_workspace.as_mut().unwrap().storage_class_names = vec!["fast".to_owned()];
    });
    const FIELD: &str = "spec.workspace.persistent.storageClassName";
    only(rejected(&asking, &fast), RejectionReason::OutsideClass, FIELD);
    let slow = lasting(&json!({"size": "1Gi", "storageClassName": "slow"}));
    only(rejected(&slow, &fast), RejectionReason::OutsideClass, FIELD);
    let named = lasting(&json!({"size": "1Gi", "storageClassName": "fast"}));
    assert!(accept(&identity(), &named, &fast, &platform()).is_ok());
}

#[test]
fn the_volume_and_the_access_go_together() {
    for workspace in [json!({"access": "Persistent"}), json!({"persistent": {"size": "1Gi"}})] {
        let found = rejected(&with_workspace(&workspace), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.workspace.persistent");
    }
}

#[test]
fn a_claim_that_stands_is_judged_by_what_it_is_and_not_by_what_is_asked_for_now() {
    let judged = |persistent: &serde_json::Value, references: &References, change: &serde_json::Value| {
        let taken = accept(&identity(), &lasting(persistent), references, &platform()).unwrap();
        let made = crate::controller::desired::claim::claim(&taken).unwrap();
        let mut live = crate::fixtures::live(Child::PersistentVolumeClaim(Box::new(made))).value();
        live["spec"]["storageClassName"] = change["class"].clone();
        live["spec"]["resources"]["requests"]["storage"] = change["size"].clone();
        if !change["uid"].is_null() {
            live["metadata"]["labels"]["agentsandbox.dev/sandbox-uid"] = change["uid"].clone();
        }
        let live = Child::PersistentVolumeClaim(Box::new(from(live)));
        beside(taken, &crate::fixtures::observed(vec![live], Vec::new())).map(|_| ())
    };
    let fast = with_class(|c| {
        c.spec.persistent_workspace.as_mut().unwrap().storage_class_names = vec!["fast".to_owned()];
    });
    let (named, plain) = (json!({"size": "1Gi", "storageClassName": "fast"}), json!({"size": "1Gi"}));
    for (asked, references, change) in [
        (&named, &fast, json!({"class": "fast", "size": "1Gi"})),
        (&named, &ordinary(), json!({"class": "fast", "size": "10Gi"})),
        (&plain, &ordinary(), json!({"class": "standard", "size": "1Gi"})),
        (&plain, &ordinary(), json!({"class": null, "size": "1Gi"})),
        // Another's is told of by its name alone.
        (&named, &fast, json!({"class": "slow", "size": "100Gi", "uid": "another"})),
    ] {
        assert_eq!(judged(asked, references, &change), Ok(()), "the control: {change}");
    }
    for (asked, references, change, reason, field) in [
        (
            &named,
            &fast,
            json!({"class": "slow", "size": "1Gi"}),
            RejectionReason::InvalidField,
            "storageClassName",
        ),
        (
            &named,
            &fast,
            json!({"class": null, "size": "1Gi"}),
            RejectionReason::InvalidField,
            "storageClassName",
        ),
        (
            &plain,
            &ordinary(),
            json!({"class": "slow", "size": "100Gi"}),
            RejectionReason::OutsideClass,
            "size",
        ),
    ] {
        let found = judged(asked, references, &change).unwrap_err();
        assert!(found[0].message.contains("kubectl delete pvc fix-login-workspace"), "{}", found[0].message);
        let found = found.into_iter().map(|one| (one.reason, one.field)).collect();
        only(found, reason, &format!("spec.workspace.persistent.{field}"));
    }
}

#[test]
fn o_t1_what_the_operator_makes_for_sandboxes_is_no_source_whether_it_is_there_or_not() {
    for (source, field) in [
        (json!({"configMap": {"name": "other-policy"}}), "spec.workspace.configMap.name"),
        (json!({"configMap": {"name": "fix-login-policy"}}), "spec.workspace.configMap.name"),
        (
            json!({"persistentVolumeClaim": {"claimName": "other-workspace"}}),
            "spec.workspace.persistentVolumeClaim.claimName",
        ),
    ] {
        only(rejected(&with_workspace(&source), &ordinary()), RejectionReason::InvalidField, field);
    }
    let taken = |source: serde_json::Value| {
        accept(&identity(), &with_workspace(&source), &ordinary(), &platform())
            .unwrap()
            .source
            .unwrap()
            .origin
    };
    assert!(matches!(taken(json!({"configMap": {"name": "policy"}})), Origin::ConfigMap(_)));
    let claim = json!({"persistentVolumeClaim": {"claimName": "workspace", "path": "src/shop"}});
    assert!(matches!(taken(claim), Origin::Claim(_)));
}

#[test]
fn a_folder_of_a_claim_is_named_by_its_way_from_the_root_in_one_spelling() {
    for path in ["..", "a/../b", "/a", "a/", "./a", "a//b", ".", "a\u{202e}b"] {
        let claim = json!({"persistentVolumeClaim": {"claimName": "datasets", "path": path}});
        let found = rejected(&with_workspace(&claim), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.workspace.persistentVolumeClaim.path");
    }
}

#[test]
fn what_is_rewritten_is_of_a_source_that_no_git_compares() {
    let mut asking = archive("https://pypi.org/shop.tar.gz");
    asking["sanitize"] = json!(["Npmrc", "Netrc"]);
    let taken = accept(&identity(), &with_workspace(&asking), &ordinary(), &platform()).unwrap();
    assert_eq!(taken.source.unwrap().sanitize, [Sanitized::Npmrc, Sanitized::Netrc]);
    let mut of_git =
        with_workspace(&json!({"git": {"url": "https://pypi.org/shop.git"}, "sanitize": ["Npmrc"]}));
    of_git.spec.egress.as_mut().unwrap().allow[1].methods = None;
    only(rejected(&of_git, &ordinary()), RejectionReason::InvalidField, "spec.workspace.sanitize");
    // Each that the schema has, the step knows by its name.
    for format in agentsandbox_workspace::Format::ALL {
        let read: Sanitized = from(json!(format.as_str()));
        assert_eq!(read.as_str(), format.as_str());
    }
}

#[test]
fn an_image_that_a_workspace_begins_with_is_of_the_classes_registries_and_says_which_one_it_is() {
    const FIELD: &str = "spec.workspace.image.reference";
    let of = |image: serde_json::Value| with_workspace(&json!({"image": image}));
    let narrow =
        || with_class(|c| c.spec.images = Some(from(json!({"allowedRegistries": ["ghcr.io/acme"]}))));
    let mut inside = of(json!({"reference": "ghcr.io/acme/code:1", "path": "src"}));
    inside.spec.agent.image = "ghcr.io/acme/agent:1".to_owned();
    let taken = accept(&identity(), &inside, &narrow(), &platform()).unwrap();
    assert!(matches!(taken.source.unwrap().origin, Origin::Image(_)), "the control");
    let mut outside = of(json!({"reference": "ghcr.io/other/code:1"}));
    outside.spec.agent.image = "ghcr.io/acme/agent:1".to_owned();
    only(rejected(&outside, &narrow()), RejectionReason::OutsideClass, FIELD);
    for reference in ["ghcr.io/acme/code", "ghcr.io/acme/code:latest"] {
        only(
            rejected(&of(json!({"reference": reference})), &ordinary()),
            RejectionReason::InvalidField,
            FIELD,
        );
    }
    let upwards = of(json!({"reference": "ghcr.io/acme/code:1", "path": "../etc"}));
    only(rejected(&upwards, &ordinary()), RejectionReason::InvalidField, "spec.workspace.image.path");
}

#[test]
fn o_t1_no_volume_keeps_what_was_read_by_somebodys_right_for_whoever_writes_the_sandbox_later() {
    for source in
        [json!({"configMap": {"name": "task"}}), json!({"persistentVolumeClaim": {"claimName": "datasets"}})]
    {
        let mut lasting = source.clone();
        lasting["access"] = json!("Persistent");
        lasting["persistent"] = json!({"size": "1Gi"});
        let found = rejected(&with_workspace(&lasting), &ordinary());
        only(found, RejectionReason::InvalidField, "spec.workspace.persistent");
        assert!(
            accept(&identity(), &with_workspace(&source), &ordinary(), &platform()).is_ok(),
            "the control"
        );
    }
}
