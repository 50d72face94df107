//! What the ordinary sandbox has none of, and the Secret of its keys.

use super::*;

/// The agent's pod of a sandbox of a class.
fn pod_of(
    class_of: impl FnOnce(&mut serde_json::Value),
    change: impl FnOnce(&mut serde_json::Value),
) -> serde_json::Value {
    let mut spec = json!({"isolation": "GVisor", "runtimeClassName": "gvisor"});
    class_of(&mut spec);
    let known = references(vec![class(|c| c.spec = from(spec))], vec![credential(|_| ())]);
    let mut own = serde_json::to_value(sandbox(|_| ())).unwrap();
    change(&mut own["spec"]);
    let accepted = accept(&identity(), &from(own), &known, &platform()).unwrap();
    serde_json::to_value(agent_pod::pod(&accepted, &platform(), &sealed())).unwrap()
}

#[test]
fn the_keys_are_the_sandboxs_and_cannot_be_changed() {
    let material = crate::ca::generate("team", "fix-login", "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
    let secret = keys::secret(&identity(), &material);
    let proxys = Component::Proxy.metadata(&identity(), keys::name(&identity()));
    assert_eq!(secret.metadata, proxys);
    assert_eq!((secret.immutable, secret.type_.as_deref()), (Some(true), Some("Opaque")));
    let data = secret.data.unwrap();
    for (key, value) in [
        ("ca.crt", material.certificate.as_bytes()),
        ("ca.key", material.key.as_bytes()),
        ("enrolment-token", material.token.as_bytes()),
    ] {
        assert_eq!(data[key].0, value, "{key}");
    }
    assert_eq!(data.len(), 3);
    let mut later = identity();
    later.uid = "another".to_owned();
    assert_ne!(
        keys::name(&later),
        keys::name(&identity()),
        "a later sandbox of the name has keys of its own"
    );
}

#[test]
fn a_class_says_which_nodes_its_agents_may_have() {
    let scheduling = json!({
        "nodeSelector": {"pool": "agents"},
        "tolerations": [{"key": "gvisor", "value": "only", "effect": "NoSchedule"}, {"key": "spare"}],
    });
    let pod = pod_of(|class| class["scheduling"] = scheduling, |_| ());
    assert_eq!(pod["spec"]["nodeSelector"], json!({"pool": "agents"}));
    assert_eq!(
        pod["spec"]["tolerations"],
        json!([
            {"key": "gvisor", "operator": "Equal", "value": "only", "effect": "NoSchedule"},
            {"key": "spare", "operator": "Exists"},
        ])
    );
    let without = pod_of(|_| (), |_| ());
    assert!(without["spec"]["nodeSelector"].is_null() && without["spec"]["tolerations"].is_null());
}

#[test]
fn the_agents_own_program_folder_and_pull_policy_are_as_written() {
    let pod = pod_of(
        |_| (),
        |spec| {
            spec["agent"]["command"] = json!(["/bin/agent", "$(X)"]);
            spec["agent"]["workingDir"] = json!("/work");
            spec["agent"]["imagePullPolicy"] = json!("Always");
        },
    );
    let agent = &pod["spec"]["containers"][0];
    assert_eq!(agent["command"], json!(["/bin/agent", "$$(X)"]));
    assert_eq!((&agent["workingDir"], &agent["imagePullPolicy"]), (&json!("/work"), &json!("Always")));
    let plain = pod_of(|_| (), |_| ());
    assert!(plain["spec"]["containers"][0]["command"].is_null(), "the image's own");
}

#[test]
fn o_h9_the_step_that_fetches_the_code_is_bounded_and_strips_nothing_that_it_is_not_told_to() {
    let step = |strip: Option<u32>| {
        let archive =
            json!({"url": "https://pypi.org/a.tar", "sha256": "0".repeat(64), "stripComponents": strip});
        let pod = pod_of(|_| (), |spec| spec["workspace"] = json!({"archive": archive}));
        pod["spec"]["initContainers"][1].clone()
    };
    let told = |step: &serde_json::Value| step["args"].to_string().contains("--strip-components");
    assert!(!told(&step(None)) && !told(&step(Some(0))) && told(&step(Some(1))));
    let step = step(None);
    assert_eq!(step["imagePullPolicy"], "IfNotPresent");
    let limits = json!({"cpu": "1000m", "memory": (1_u64 << 30).to_string(), "ephemeral-storage": (16 << 20).to_string()});
    assert_eq!(step["resources"]["limits"], limits);
    assert_eq!(step["resources"]["requests"]["ephemeral-storage"], (2 << 20).to_string());
}

#[test]
fn o_h9_the_program_that_an_agent_starts_by_has_its_room_in_the_volume_and_in_both_containers() {
    let of = |confined: bool| {
        pod_of(
            |class| class["isolation"] = json!("Container"),
            |spec| {
                spec["agent"]["command"] = json!(["agent"]);
                spec["agent"]["processSandbox"] = if confined { json!({}) } else { json!(null) };
            },
        )
    };
    let disk = |pod: &serde_json::Value, list: &str| -> i64 {
        let limits = &pod["spec"][list][0]["resources"]["limits"];
        limits["ephemeral-storage"].as_str().unwrap().parse().unwrap()
    };
    let (with, without) = (of(true), of(false));
    for list in ["initContainers", "containers"] {
        assert_eq!(disk(&with, list) - disk(&without, list), 64 << 20, "{list}");
    }
    let volumes = with["spec"]["volumes"].as_array().unwrap();
    let program = volumes.iter().find(|volume| volume["name"] == "program").unwrap();
    assert_eq!(program["emptyDir"]["sizeLimit"], (64 << 20).to_string());
}

#[test]
fn p_f21_both_files_of_a_client_certificate_are_mounted_from_its_secret_where_the_document_says() {
    let mtls = credential(|c| {
        c.metadata.name = Some("mtls".to_owned());
        c.spec = from(json!({"secretRef": {"name": "partner-tls"}, "inject": {"type": "ClientCertificate"},
            "hosts": [{"host": "api.anthropic.com"}]}));
    });
    let known = references(vec![class(|_| ())], vec![credential(|_| ()), mtls]);
    let named = sandbox(|s| {
        s.spec.egress.as_mut().unwrap().allow[0].client_certificate = Some("mtls".to_owned());
    });
    let accepted = accept(&identity(), &named, &known, &platform()).unwrap();
    let document = &accepted.certificates[0].0;
    let mounted = serde_json::to_value(proxy_pod::pod(&accepted, &platform(), &sealed(), None)).unwrap();
    let volumes = mounted["spec"]["volumes"].as_array().unwrap();
    let projected = volumes.iter().find(|volume| volume["name"] == "credentials").unwrap();
    let items = json!([{"key": "tls.crt", "path": document.certificate_file}, {"key": "tls.key", "path": document.key_file}]);
    assert_eq!(
        projected["projected"]["sources"][1]["secret"],
        json!({"name": "partner-tls", "items": items, "optional": true})
    );
    assert_ne!(document.certificate_file, document.key_file);
}
