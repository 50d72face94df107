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

/// The plan where a stand-in stands beside its wall, with these finalizers and changed so.
fn beside_a_stand_in(is_deleted: bool, finalizers: &[&str], change: impl FnOnce(&mut Value)) -> BoundaryPlan {
    let Child::NetworkPolicy(own) = wall() else { unreachable!() };
    let mut stand_in = live(Child::NetworkPolicy(desired::network_policy::stand_in(&own))).value();
    stand_in["metadata"]["finalizers"] = json!(finalizers);
    if is_deleted {
        stand_in["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    change(&mut stand_in);
    let seen = observed(vec![live(wall()), Child::NetworkPolicy(from(stand_in))], Vec::new());
    boundary(desired::boundary(&accepted(|_| ()), &platform()), &seen, &identity(), now())
}

#[test]
fn a_stand_in_goes_once_its_wall_stands_unless_only_anothers_finalizer_keeps_it() {
    for (is_deleted, finalizers, goes) in [
        (false, [WALL_FINALIZER], true),
        (false, ["acme.test/backup"], true),
        (true, [WALL_FINALIZER], true),
        (true, ["acme.test/backup"], false),
    ] {
        let retired = beside_a_stand_in(is_deleted, &finalizers, |_| ()).retired;
        assert_eq!(!retired.is_empty(), goes, "{is_deleted} {finalizers:?}");
    }
}

#[test]
fn o_t6_a_wider_stand_in_is_narrowed_and_held_as_long_as_a_finalizer_can_be_added() {
    for (is_deleted, finalizers, is_held) in [
        (false, [WALL_FINALIZER], true),
        (false, ["acme.test/backup"], true),
        (true, [WALL_FINALIZER], true),
        (true, ["acme.test/backup"], false),
    ] {
        let open = |value: &mut Value| value["spec"]["egress"] = json!([{}]);
        let step = beside_a_stand_in(is_deleted, &finalizers, open).walls.pop();
        let Some(Step::Repair(Child::NetworkPolicy(narrowed))) = step else { panic!("{step:?}") };
        assert_eq!(narrowed.metadata.finalizers.is_some(), is_held, "{is_deleted} {finalizers:?}");
        assert_ne!(narrowed.spec.unwrap().egress.unwrap(), [from(json!({}))]);
    }
}

#[test]
fn what_the_api_server_adds_to_a_port_of_a_service_is_no_difference_and_another_port_is() {
    let service = of(ChildKind::Service);
    let with = |change: fn(&mut Value)| name(&planned(&service, |value| change(&mut value["spec"]["ports"])));
    assert_eq!(with(|ports| ports[0]["appProtocol"] = json!("kubernetes.io/h2c")), "Leave");
    assert_eq!(with(|ports| ports[0]["port"] = json!(9090)), "Repair");
    assert_eq!(with(|ports| ports.as_array_mut().unwrap().truncate(1)), "Repair");
}
