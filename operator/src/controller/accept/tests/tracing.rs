//! The collector that a class names.

use super::*;

/// What is told of a class with this collector; nothing if it is accepted.
fn told_of_collector(egress: serde_json::Value, tracing: serde_json::Value) -> Option<String> {
    let wrong = with_class(|c| {
        c.spec.egress = Some(from(egress));
        c.spec.tracing = Some(from(tracing));
    });
    let faults = accept(&identity(), &sandbox(|_| ()), &wrong, &platform()).err()?;
    only(
        faults.iter().map(|fault| (fault.reason, fault.field.clone())).collect(),
        RejectionReason::ClassUnsupported,
        "spec.className",
    );
    Some(faults[0].message.clone())
}

#[test]
fn p_c7_a_collector_that_the_proxy_would_refuse_is_the_classes_fault() {
    let egress = || json!({"allowedPrivateRanges": ["192.168.7.0/24"]});
    let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
    for fine in [
        json!({"endpoint": "http://192.168.7.50:4318"}),
        json!({"endpoint": "http://1.1.1.1:4318"}),
        json!({"endpoint": "http://10.96.0.50:4318", "pods": pods}),
    ] {
        assert_eq!(told_of_collector(egress(), fine.clone()), None, "{fine}");
    }
    for (wrong, instead) in [
        (json!({"endpoint": "http://169.254.169.254:80"}), "is a cloud's metadata service"),
        (json!({"endpoint": "http://collector.example.com:99999"}), "write http://"),
        (json!({"endpoint": "http://10.96.0.1:443"}), "tracing.pods"),
        (json!({"endpoint": "http://192.168.8.1:4318"}), "egress.allowedPrivateRanges"),
        (json!({"endpoint": "http://127.0.0.1:4318", "pods": pods}), "is no address of a pod or Service"),
    ] {
        let told = told_of_collector(egress(), wrong.clone()).unwrap();
        assert!(told.contains("has a wrong tracing.endpoint: ") && told.contains(instead), "{wrong} {told}");
    }
}

#[test]
fn o_n17_behind_an_upstream_proxy_a_collector_is_no_way_around_it() {
    let behind = || json!({"upstreamProxy": {"url": "http://proxy.example.com:3128"}});
    let told = told_of_collector(behind(), json!({"endpoint": "https://otel.example.com:443"})).unwrap();
    assert!(told.contains("has a wrong tracing.endpoint: with egress.upstreamProxy"), "{told}");
    let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
    for fine in [
        json!({"endpoint": "https://otel.example.com:443", "pods": pods}),
        json!({"endpoint": "http://1.1.1.1:4318"}),
    ] {
        assert_eq!(told_of_collector(behind(), fine.clone()), None, "{fine}");
    }
    assert_eq!(told_of_collector(json!({}), json!({"endpoint": "https://otel.example.com:443"})), None);
}

#[test]
fn a_service_as_collector_comes_with_its_pods() {
    for name in ["otel.observability.svc", "otel.observability.svc.cluster.local"] {
        let endpoint = format!("http://{name}:4318");
        let told = told_of_collector(json!({}), json!({"endpoint": endpoint})).unwrap();
        assert!(told.contains("write its pods in tracing.pods"), "{told}");
        let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
        assert_eq!(told_of_collector(json!({}), json!({"endpoint": endpoint, "pods": pods})), None);
    }
}

#[test]
fn pods_of_a_collector_that_kubernetes_would_refuse_are_the_classes_fault() {
    let told = |namespace: &str, labels: serde_json::Value| {
        let pods = json!({"namespace": namespace, "labels": labels});
        told_of_collector(json!({}), json!({"endpoint": "http://10.96.0.50:4318", "pods": pods}))
    };
    let (long, longer) = ("a".repeat(63), "a".repeat(64));
    for fine in ["app", "app.kubernetes.io/name", "A_b-c.d", "1", long.as_str()] {
        assert_eq!(told("observability", json!({fine: "otel-collector"})), None, "{fine}");
    }
    for fine in ["", "v1.2_3-X", long.as_str()] {
        assert_eq!(told("observability", json!({"app": fine})), None, "{fine}");
    }
    let wrong = |field: &str, labels: serde_json::Value, namespace: &str| {
        let told = told(namespace, labels.clone()).unwrap_or_else(|| panic!("{labels} {namespace}"));
        assert!(told.contains(&format!("has a wrong tracing.pods.{field}: ")), "{told}");
    };
    let keys = ["", "app kubernetes", "-app", "app-", "/app", "a/b/c", "App.io/name", "é", longer.as_str()];
    keys.iter().for_each(|key| wrong("labels", json!({*key: "otel"}), "observability"));
    let values = ["otel collector", "-otel", "otel.", "a/b", longer.as_str()];
    values.iter().for_each(|value| wrong("labels", json!({"app": value}), "observability"));
    wrong("labels", json!({}), "observability");
    ["", "Observability", "a b"].iter().for_each(|name| wrong("namespace", json!({"app": "otel"}), name));
}
