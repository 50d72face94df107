//! Differences of one thing alone, and those that are none.

use super::*;

fn of(kind: ChildKind) -> Child {
    all().into_iter().find(|child| child.kind() == kind).unwrap()
}

#[test]
fn an_empty_list_and_none_at_all_are_the_same_wall() {
    for nothing in [Value::Null, json!([])] {
        let step = planned(&wall(), |value| value["spec"]["ingress"] = nothing);
        assert_eq!(name(&step), "Leave");
    }
}

#[test]
fn o_t6_a_policy_document_with_bytes_beside_its_text_is_written_again() {
    let with = |data: Value| planned(&of(ChildKind::ConfigMap), |value| value["binaryData"] = data);
    assert_eq!(name(&with(json!({"policy.yaml": "AA=="}))), "Repair");
    assert_eq!(name(&with(json!({}))), "Leave");
}

#[test]
fn an_identity_that_was_given_a_token_loses_it_but_not_while_it_is_on_its_way_out() {
    let account = of(ChildKind::ServiceAccount);
    let given = |value: &mut Value| value["automountServiceAccountToken"] = json!(true);
    assert_eq!(name(&planned(&account, given)), "Repair");
    let ending = planned(&account, |value| {
        given(value);
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(name(&ending), "Await", "it bounds nothing");
}

#[test]
fn a_service_that_selects_by_one_more_label_is_not_as_wanted() {
    let step = planned(&of(ChildKind::Service), |value| value["spec"]["selector"]["app"] = json!("x"));
    assert_eq!(name(&step), "Repair");
}

#[test]
fn an_owner_that_holds_up_no_deletion_any_more_is_put_back() {
    for child in all() {
        let step = planned(&child, |value| {
            value["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(false);
        });
        assert_eq!(name(&step), "Repair", "{}", child.kind().as_str());
        let beside = planned(&child, |value| {
            let other = json!({"apiVersion": "acme.test/v1", "kind": "Backup", "name": "b", "uid": "u"});
            value["metadata"]["ownerReferences"].as_array_mut().unwrap().insert(0, other);
        });
        assert_eq!(name(&beside), "Leave", "{}", child.kind().as_str());
    }
}

#[test]
fn why_a_pod_ended_is_told_as_far_as_the_kubelet_says_and_no_longer_than_anybody_reads() {
    let why = |status: Value| {
        let ended = planned(&pod(), |value| {
            value["status"] = status;
            value["status"]["phase"] = json!("Failed");
        });
        let Step::Hold(_, why) = ended else { panic!("{}", name(&ended)) };
        why
    };
    assert_eq!(why(json!({})), "no reason was given");
    assert_eq!(why(json!({"reason": " ", "message": ""})), "no reason was given");
    assert_eq!(why(json!({"message": "Disk is full."})), "Disk is full.");
    assert_eq!(why(json!({"reason": "r", "message": "m".repeat(400)})), format!("r: {}", "m".repeat(297)));
}

#[test]
fn a_container_that_took_anothers_place_is_told_as_that() {
    let sent = agent_pod();
    let mut renamed = sent.clone();
    renamed.spec.as_mut().unwrap().containers[0].name = "other".to_owned();
    let told = changed_on_the_way(&sent, &renamed).unwrap();
    assert_eq!(told, "another container stands in the place of agent");
    let mut added = sent.clone();
    added.spec.as_mut().unwrap().containers.push(from(json!({"name": "mesh", "image": "i"})));
    assert_eq!(changed_on_the_way(&sent, &added).unwrap(), "a container mesh was added");
    assert!(changed_on_the_way(&added, &sent).unwrap().contains("in the place of mesh"));
}

/// What is to be done with a pod whose container of this place in the order of its start was changed before its fence proved anything.
fn unproven(wanted: &Pod, place: usize, change: impl FnOnce(&mut Container)) -> &'static str {
    let mut standing = wanted.clone();
    change(&mut standing.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[place]);
    let observed = observed(vec![live(Child::Pod(Box::new(standing)))], Vec::new());
    name(&step(Child::Pod(Box::new(wanted.clone())), &observed, &identity(), now()))
}

#[test]
fn o_t9_until_the_walls_are_proven_each_change_of_the_steps_before_the_agent_replaces_its_pod() {
    let sourced = accepted(|s| {
        let archive = json!({"url": "https://pypi.org/a.tar", "sha256": "0".repeat(64)});
        s.spec.workspace = Some(from(json!({"archive": archive})));
    });
    let wanted = desired::agent_pod::pod(&sourced, &platform(), &Sealed::for_tests());
    for place in [0, 1] {
        assert_eq!(unproven(&wanted, place, |_| ()), "Leave");
        let newer = |c: &mut Container| c.image = Some(platform().init_image.replace(":test", ":next"));
        assert_eq!(unproven(&wanted, place, newer), "Delete", "{place}: an image alone");
        let told = |c: &mut Container| c.args.as_mut().unwrap().push("--more".to_owned());
        assert_eq!(unproven(&wanted, place, told), "Delete", "{place}: an argument alone");
    }
}
