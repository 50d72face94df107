use agentsandbox_crds::names::ANNOTATION_POLICY_HASH;
use serde_json::json;

use super::*;
use crate::controller::apply::Sealed;
use crate::controller::desired;
use crate::controller::memory::{Failed, Memory};
use crate::controller::observe::ProxyClosed;
use crate::fixtures::{self, accepted, agent_pod, from, identity, live, observed, platform, proxy_pod};

mod edges;

fn now() -> Timestamp {
    "2026-01-01T00:00:20Z".parse().unwrap()
}

/// The step for this child when `change` was done to the one that stands.
fn planned(wanted: &Child, change: impl FnOnce(&mut Value)) -> Step {
    let mut value = live(wanted.clone()).value();
    change(&mut value);
    let standing = match wanted {
        Child::ServiceAccount(_) => Child::ServiceAccount(from(value)),
        Child::NetworkPolicy(_) => Child::NetworkPolicy(from(value)),
        Child::ConfigMap(_) => Child::ConfigMap(from(value)),
        Child::PersistentVolumeClaim(_) => Child::PersistentVolumeClaim(Box::new(from(value))),
        Child::Service(_) => Child::Service(Box::new(from(value))),
        Child::Pod(_) => Child::Pod(Box::new(from(value))),
    };
    step(wanted.clone(), &observed(vec![standing], Vec::new()), &identity(), now())
}

fn all() -> Vec<Child> {
    let accepted = accepted(|_| ());
    let boundary = desired::boundary(&accepted, &platform());
    let pods = [
        desired::proxy_pod::pod(&accepted, &platform(), &Sealed::for_tests(), None),
        desired::agent_pod::pod(&accepted, &platform(), &Sealed::for_tests()),
    ];
    let pods = pods.map(|pod| Child::Pod(Box::new(pod)));
    boundary.walls.into_iter().chain(boundary.supplies).chain(pods).collect()
}

fn wall() -> Child {
    all().into_iter().find(|child| child.kind() == ChildKind::NetworkPolicy).unwrap()
}

fn pod() -> Child {
    all().pop().unwrap()
}

/// A step's name.
fn name(step: &Step) -> &'static str {
    match step {
        Step::Create(_) => "Create",
        Step::Repair(_) => "Repair",
        Step::Delete(_) => "Delete",
        Step::Renew(_) => "Renew",
        Step::Leave(_) => "Leave",
        Step::Await(_) => "Await",
        Step::Hold(..) => "Hold",
        Step::Clear(..) => "Clear",
        Step::Foreign(..) => "Foreign",
    }
}

#[test]
fn what_is_missing_is_created_and_what_is_as_wanted_is_left() {
    for child in all() {
        let absent = step(child.clone(), &Observed::default(), &identity(), now());
        assert_eq!(absent, Step::Create(child.clone()));
        assert_eq!(name(&planned(&child, |_| ())), "Leave", "{} {}", child.kind().as_str(), child.name());
    }
}

#[test]
fn what_the_api_server_adds_is_no_difference() {
    for child in all() {
        let added = planned(&child, |value| {
            value["metadata"]["annotations"]["acme.test/note"] = json!("x");
            value["metadata"]["labels"]["acme.test/team"] = json!("x");
            let own = value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            value["metadata"]["finalizers"] = std::iter::once(json!("acme.test/backup")).chain(own).collect();
        });
        assert_eq!(name(&added), "Leave", "{}", child.kind().as_str());
    }
}

#[test]
fn o_r33_an_owner_is_ours_by_group_kind_uid_and_control_together() {
    for child in all() {
        for (key, other) in [
            ("uid", json!("another")),
            ("kind", json!("AgentCredential")),
            ("apiVersion", json!("acme.test/v1")),
            ("controller", json!(false)),
        ] {
            let step = planned(&child, |value| value["metadata"]["ownerReferences"][0][key] = other);
            assert_eq!(step, Step::Foreign(child.kind(), child.name().to_owned()), "{key}");
        }
        let unowned = planned(&child, |value| value["metadata"]["ownerReferences"] = json!([]));
        assert_eq!(name(&unowned), "Foreign");
    }
}

#[test]
fn labels_that_were_taken_off_are_put_back() {
    for child in all() {
        let step = planned(&child, |value| value["metadata"]["labels"] = json!({}));
        assert_eq!(name(&step), "Repair", "{}", child.kind().as_str());
    }
}

#[test]
fn a_wall_is_compared_whole_for_there_an_addition_is_an_opening() {
    for (what, change) in [
        ("another peer", json!({"egress": [{}]})),
        ("no types", json!({"policyTypes": null})),
        ("ingress", json!({"ingress": [{}]})),
        ("another selector", json!({"podSelector": {"matchLabels": {"app": "x"}}})),
    ] {
        let step = planned(&wall(), |value| {
            for (key, inner) in change.as_object().unwrap() {
                value["spec"][key] = inner.clone();
            }
        });
        assert_eq!(name(&step), "Repair", "{what}");
    }
}

#[test]
fn what_is_on_its_way_out_is_awaited_and_a_wall_is_narrowed_even_then() {
    for child in all() {
        let ending =
            planned(&child, |value| value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        // A wall stands until our own finalizer is taken off it.
        let wanted = if child.kind() == ChildKind::NetworkPolicy { "Renew" } else { "Await" };
        assert_eq!(name(&ending), wanted, "{}", child.kind().as_str());
    }
    let on_a_node = planned(&pod(), |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        value["spec"]["nodeName"] = json!("node-7");
    });
    let awaits = |step| matches!(step, Step::Await(Doomed { node, .. }) if node.as_deref() == Some("node-7"));
    assert!(awaits(on_a_node), "the node that has to report its end is named");
    let released = planned(&wall(), |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        value["metadata"]["finalizers"] = json!(["acme.test/backup"]);
    });
    assert_eq!(name(&released), "Await", "no finalizer can be added to what is being deleted");
    let unheld = planned(&wall(), |value| value["metadata"]["finalizers"] = Value::Null);
    assert_eq!(name(&unheld), "Repair", "one that stands gets it back");
    let widened = planned(&wall(), |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        value["spec"]["egress"] = json!([{}]);
    });
    assert_eq!(name(&widened), "Repair");
    let documents = all().into_iter().find(|child| child.kind() == ChildKind::ConfigMap).unwrap();
    let edited = planned(&documents, |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        value["data"]["policy.yaml"] = json!("rules: []");
    });
    assert_eq!(name(&edited), "Repair", "a finalizer must not keep a stranger's text in force");
}

/// What is to be done with an agent's pod of today, once the operator has become another version in another cluster.
fn after_an_upgrade(today: &Pod, fence_image: &str) -> Step {
    let mut tomorrow = platform();
    tomorrow.init_image = fence_image.to_owned();
    tomorrow.api_endpoints.push("10.0.0.2:6443".parse().unwrap());
    tomorrow.cluster_dns = "10.96.0.11".parse().unwrap();
    let wanted = desired::agent_pod::pod(&accepted(|_| ()), &tomorrow, &Sealed::for_tests());
    let observed = observed(vec![live(Child::Pod(Box::new(today.clone())))], Vec::new());
    step(Child::Pod(Box::new(wanted)), &observed, &identity(), now())
}

#[test]
fn o_r26_an_upgrade_and_a_change_of_the_cluster_end_no_agent_behind_a_proven_fence() {
    let same = platform().init_image;
    let newer = same.replace(":test", ":next");
    assert_ne!(same, newer);
    for image in [&same, &newer] {
        assert_eq!(name(&after_an_upgrade(&agent_pod(), image)), "Leave", "{image}");
    }
    // A fence that has proven nothing yet has to prove it of the cluster as it is, with the image that is to be had.
    let Child::Pod(unproven) = pod() else { panic!("the last child is the agent's pod") };
    for image in [&same, &newer] {
        assert_eq!(name(&after_an_upgrade(&unproven, image)), "Delete", "{image}");
    }
}

#[test]
fn o_t9_a_fence_that_somebody_replaced_is_seen_also_after_it_has_proven_the_walls() {
    let mut tampered = agent_pod();
    tampered.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].image =
        Some("evil.test/agentsandbox/init:test".to_owned());
    assert_eq!(name(&after_an_upgrade(&tampered, &platform().init_image)), "Delete");
}

#[test]
fn o_t9_a_step_of_the_workspace_that_somebody_told_otherwise_is_seen_and_a_newer_one_is_left() {
    let sourced = accepted(|s| {
        let archive = json!({"url": "https://pypi.org/a.tar", "sha256": "0".repeat(64)});
        s.spec.workspace = Some(from(json!({"archive": archive})));
    });
    let wanted = desired::agent_pod::pod(&sourced, &platform(), &Sealed::for_tests());
    let today =
        fixtures::reported(fixtures::ready(wanted.clone(), "agent", "10.244.0.9"), &fixtures::report(|_| ()));
    let ended = |code: Option<i32>| {
        let mut live = today.clone();
        let state = code.map(|code| json!({"terminated": {"exitCode": code}}));
        let state = state.unwrap_or(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        live.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap().push(from(json!({
            "name": desired::workspace::WORKSPACE, "ready": false, "restartCount": 0, "image": "i", "imageID": "i",
            "state": state,
        })));
        live
    };
    let of = |mut live: Pod, change: fn(&mut Container)| {
        change(&mut live.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[1]);
        let observed = observed(vec![Child::Pod(Box::new(live))], Vec::new());
        name(&step(Child::Pod(Box::new(wanted.clone())), &observed, &identity(), now())).to_owned()
    };
    let planned = |change: fn(&mut Container)| of(ended(Some(0)), change);
    let before: fn(&mut Container) = |c| c.image = Some(platform().init_image.replace(":test", ":before"));
    assert_eq!(planned(|_| ()), "Leave");
    assert_eq!(planned(before), "Leave");
    // No agent runs behind a step that has not unpacked, and the newer version may mend what it fails by.
    for live in [today.clone(), ended(None), ended(Some(1))] {
        assert_eq!((of(live.clone(), |_| ()), of(live, before)), ("Leave".to_owned(), "Delete".to_owned()));
    }
    assert_eq!(planned(|c| c.image = Some("evil.test/init:test".to_owned())), "Delete");
    assert_eq!(planned(|c| c.args.as_mut().unwrap().retain(|arg| !arg.starts_with("--sha256"))), "Delete");
}

#[test]
fn o_t9_who_tells_of_changes_is_ours_and_a_newer_one_ends_no_agent_whose_work_it_tells_of() {
    let kept = accepted(|s| {
        let archive = json!({"url": "https://pypi.org/a.tar", "sha256": "0".repeat(64)});
        s.spec.workspace = Some(from(json!({"archive": archive, "access": "Overlay"})));
    });
    let wanted = desired::agent_pod::pod(&kept, &platform(), &Sealed::for_tests());
    let planned = |has_unpacked: bool, change: fn(&mut Container)| {
        let ready = fixtures::ready(wanted.clone(), "agent", "10.244.0.9");
        let mut live = fixtures::reported(ready, &fixtures::report(|_| ()));
        if has_unpacked {
            live.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap().push(from(json!({
                "name": desired::workspace::WORKSPACE, "ready": false, "restartCount": 0, "image": "i", "imageID": "i",
                "state": {"terminated": {"exitCode": 0}},
            })));
        }
        let review = &mut live.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[2];
        assert_eq!(review.name, desired::review::REVIEW);
        change(review);
        let observed = observed(vec![Child::Pod(Box::new(live))], Vec::new());
        name(&step(Child::Pod(Box::new(wanted.clone())), &observed, &identity(), now())).to_owned()
    };
    let before: fn(&mut Container) = |c| c.image = Some(platform().init_image.replace(":test", ":before"));
    assert_eq!((planned(true, |_| ()), planned(true, before)), ("Leave".to_owned(), "Leave".to_owned()));
    assert_eq!(planned(false, before), "Delete", "no agent runs yet");
    assert_eq!(planned(true, |c| c.image = Some("evil.test/init:test".to_owned())), "Delete");
    assert_eq!(planned(true, |c| c.args = Some(vec!["changes".to_owned()])), "Delete");
}

#[test]
fn a_repository_is_the_image_without_tag_and_digest() {
    for (image, wanted) in [
        ("ghcr.io/agentsandbox/init:1.2.3", "ghcr.io/agentsandbox/init"),
        ("ghcr.io/agentsandbox/init@sha256:00", "ghcr.io/agentsandbox/init"),
        ("localhost:5000/init", "localhost:5000/init"),
        ("localhost:5000/init:1@sha256:00", "localhost:5000/init"),
    ] {
        assert_eq!(repository(image), wanted);
    }
}

#[test]
fn what_was_changed_on_the_way_is_told_and_an_earlier_pod_of_ours_is_no_change() {
    let sent = agent_pod();
    assert_eq!(changed_on_the_way(&sent, &sent), None);
    let mut mirrored = sent.clone();
    mirrored.spec.as_mut().unwrap().containers[0].image = Some("mirror.test/agent:2.1".to_owned());
    let told = changed_on_the_way(&sent, &mirrored).unwrap();
    assert!(told.contains("mirror.test/agent:2.1"), "{told}");
    let mut injected = sent.clone();
    let sidecar = from(json!({"name": "mesh", "image": "mesh.test/proxy:1"}));
    injected.spec.as_mut().unwrap().containers.push(sidecar);
    assert!(changed_on_the_way(&sent, &injected).unwrap().contains("mesh"));
    mirrored.metadata.annotations.as_mut().unwrap().insert(ANNOTATION_SPEC_HASH.to_owned(), "x".to_owned());
    assert_eq!(changed_on_the_way(&sent, &mirrored), None);
}

#[test]
fn a_pod_of_another_spec_or_image_is_replaced() {
    let hash = planned(&pod(), |value| value["metadata"]["annotations"][ANNOTATION_SPEC_HASH] = json!("0"));
    assert!(matches!(hash, Step::Delete(Doomed { uid, .. }) if uid == "uid-of-fix-login-agent"));
    let image = planned(&pod(), |value| value["spec"]["containers"][0]["image"] = json!("evil.test/agent:1"));
    assert_eq!(name(&image), "Delete");
}

#[test]
fn o_h15_a_pod_that_was_given_an_ephemeral_container_is_replaced() {
    let debug = json!([{"name": "debug", "image": "ghcr.io/acme/agent:2.1"}]);
    let added = planned(&pod(), |value| value["spec"]["ephemeralContainers"] = debug);
    assert!(matches!(added, Step::Delete(Doomed { uid, .. }) if uid == "uid-of-fix-login-agent"));
    let none = planned(&pod(), |value| value["spec"]["ephemeralContainers"] = json!([]));
    assert_ne!(name(&none), "Delete");
}

#[test]
fn o_r26_another_policy_changes_the_proxys_pod_and_never_replaces_it() {
    let proxy = Child::Pod(Box::new(proxy_pod("10.244.0.8")));
    let step = planned(&proxy, |value| value["metadata"]["annotations"][ANNOTATION_POLICY_HASH] = json!("0"));
    assert_eq!(name(&step), "Repair");
}

#[test]
fn a_pod_that_ended_is_replaced_after_a_pause() {
    for phase in ["Failed", "Succeeded"] {
        let created = |at: &'static str| {
            planned(&pod(), |value| {
                value["status"] = json!({"phase": phase, "reason": "Evicted", "message": "Disk is full. "});
                value["metadata"]["creationTimestamp"] = json!(at);
            })
        };
        let (until, why) = ("2026-01-01T00:00:30Z".parse().unwrap(), "Evicted: Disk is full.".to_owned());
        assert_eq!(created("2026-01-01T00:00:00Z"), Step::Hold(until, why.clone()));
        let over = created("2025-12-31T23:59:50Z");
        assert!(
            matches!(&over, Step::Clear(doomed, told) if !doomed.uid.is_empty() && *told == why),
            "{over:?}"
        );
    }
}

#[test]
fn a_task_whose_program_ended_is_left_whatever_is_wanted_by_now() {
    let (task, service) = (task(), pod());
    let over = |wanted: &Child| {
        planned(wanted, |value| {
            value["metadata"]["annotations"] = json!({"agentsandbox.dev/spec-hash": "of another spec"});
            value["metadata"]["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
            value["status"] = json!({
                "phase": "Failed",
                "initContainerStatuses": [{"name": "fence", "ready": false, "restartCount": 0, "image": "i", "imageID": "i",
                    "state": {"terminated": {"exitCode": 0, "message": fixtures::report(|_| ())}}}],
                "containerStatuses": [{"name": "agent", "ready": false, "restartCount": 0, "image": "i", "imageID": "i",
                    "state": {"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:00:10Z"}}}],
            });
        })
    };
    assert_eq!(name(&over(&task)), "Leave", "it holds the result");
    assert_eq!(name(&over(&service)), "Clear", "the control is one that goes on");
}

fn task() -> Child {
    let accepted = accepted(|s| s.spec.lifecycle = Some(from(json!({"mode": "Task"}))));
    Child::Pod(Box::new(desired::agent_pod::pod(&accepted, &platform(), &Sealed::for_tests())))
}

#[test]
fn a_task_that_failed_before_its_program_was_started_rests_for_its_pause_unless_another_is_wanted() {
    let wanted = task();
    let mut value = live(wanted.clone()).value();
    value["status"] = serde_json::to_value(fixtures::failed_pod("p", "", |_| ()).status).unwrap();
    let pod: Pod = from(value);
    let memory = Memory::default().failed("u", Some(&pod), now());
    let until = memory.as_ref().unwrap().until;
    let at = |wanted: &Child, failed: Option<Failed>, at: Timestamp| {
        let standing = vec![Child::Pod(Box::new(pod.clone()))];
        let seen = Observed { failed, ..observed(standing, Vec::new()) };
        name(&step(wanted.clone(), &seen, &identity(), at))
    };
    assert_eq!(at(&wanted, memory.clone(), now()), "Leave", "it says what its fence found");
    assert_eq!(at(&wanted, memory.clone(), until), "Delete");
    let another = fixtures::failed_pod("another", "", |_| ());
    let of_another = Memory::default().failed("u", Some(&another), now());
    assert_eq!(at(&wanted, of_another, now()), "Delete", "what is remembered is of another pod");
    let Child::Pod(mut edited) = wanted else { unreachable!() };
    edited.metadata.annotations.as_mut().unwrap().insert(ANNOTATION_SPEC_HASH.to_owned(), "new".to_owned());
    assert_eq!(at(&Child::Pod(edited), memory, now()), "Delete", "somebody has corrected it");
}

#[test]
fn keys_are_made_for_a_proxy_that_has_none() {
    let wanted = || desired::boundary(&accepted(|_| ()), &platform());
    let none = boundary(wanted(), &Observed::default(), &identity(), now());
    assert!(none.keys.is_some_and(|name| name.starts_with("fix-login-keys-")));
    let proxy = Child::Pod(Box::new(proxy_pod("10.244.0.8")));
    assert_eq!(boundary(wanted(), &observed(vec![proxy], Vec::new()), &identity(), now()).keys, None);
}

#[test]
fn a_step_knows_its_kind() {
    let whole = fixtures::boundary().into_iter().chain([Child::Pod(Box::new(agent_pod()))]);
    for child in whole {
        assert_eq!(Step::Create(child.clone()).kind(), child.kind());
        assert_eq!(Step::Foreign(child.kind(), "x".to_owned()).kind(), child.kind());
    }
}

#[test]
fn a_service_that_is_open_and_else_as_wanted_is_left_and_one_that_was_changed_comes_back_shut() {
    let wanted = || desired::boundary(&accepted(|_| ()), &platform());
    let open = || desired::service::open(&identity(), &ProxyClosed::for_tests());
    let planned = |change: fn(&mut k8s_openapi::api::core::v1::Service)| {
        let mut standing = open();
        change(&mut standing);
        let seen = observed(vec![fixtures::service(standing)], Vec::new());
        boundary(wanted(), &seen, &identity(), now()).supplies.pop().unwrap()
    };
    assert_eq!(planned(|_| ()), Step::Leave(fixtures::service(open())));
    let shut = Child::Service(Box::new(desired::service::shut(&identity())));
    let changes: [fn(&mut k8s_openapi::api::core::v1::Service); 4] = [
        |s| s.spec.as_mut().unwrap().selector = None,
        |s| s.spec.as_mut().unwrap().selector = Some([("app".to_owned(), "x".to_owned())].into()),
        |s| s.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 9090,
        |s| s.metadata.labels = None,
    ];
    for change in changes {
        let uid = fixtures::service(open()).metadata().uid.clone();
        assert_eq!(planned(change), Step::Repair(shut.clone().with_uid(uid)));
    }
    let none = boundary(wanted(), &Observed::default(), &identity(), now()).supplies.pop().unwrap();
    assert_eq!(none, Step::Create(shut));
}

#[test]
fn a_claim_is_put_right_in_its_size_and_its_end_and_never_taken_from_another_sandbox() {
    let claim = |persistent: Value| {
        let accepted = accepted(|s| {
            s.spec.workspace = Some(from(json!({"access": "Persistent", "persistent": persistent})));
        });
        Child::PersistentVolumeClaim(Box::new(desired::claim::claim(&accepted).unwrap()))
    };
    let kept = claim(json!({"size": "2Gi"}));
    let absent = step(kept.clone(), &Observed::default(), &identity(), now());
    assert_eq!(absent, Step::Create(kept.clone()));
    let bound = |value: &mut Value| {
        value["spec"]["volumeName"] = json!("pv");
        value["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        value["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    };
    assert_eq!(name(&planned(&kept, bound)), "Leave");
    let sized = |size: &str| {
        let size = size.to_owned();
        move |value: &mut Value| value["spec"]["resources"]["requests"]["storage"] = json!(size)
    };
    assert_eq!(name(&planned(&kept, sized("1Gi"))), "Repair", "it grows");
    assert_eq!(name(&planned(&kept, sized("3Gi"))), "Leave", "it never shrinks");
    assert_eq!(kept, claim(json!({"size": "2Gi", "whenDeleted": "Delete"})), "its end is its teardown's");
    for controller in [true, false] {
        let mut owner = identity().owner;
        owner.controller = Some(controller);
        let owned = planned(&kept, |value| value["metadata"]["ownerReferences"] = json!([owner]));
        assert_eq!(name(&owned), "Repair", "it would be collected with its owner");
    }

    for (key, other) in [
        ("agentsandbox.dev/sandbox-uid", json!("of an earlier one")),
        ("app.kubernetes.io/managed-by", json!("helm")),
    ] {
        let step = planned(&kept, |value| value["metadata"]["labels"][key] = other);
        assert_eq!(name(&step), "Foreign", "{key}");
    }
    assert_eq!(name(&planned(&kept, |value| value["metadata"]["labels"] = json!(null))), "Foreign");
    let going = |value: &mut Value| value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(name(&planned(&kept, going)), "Await");
}
