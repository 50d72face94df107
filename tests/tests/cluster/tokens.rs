//! The operator's token is worth little to a thief: for an hour at most, for one API server, and not beyond its pod.

use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Rig, eventually};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Error};
use serde_json::Value;
use xtask::{install, shell};

const OPERATOR: &str = "agentsandbox-operator";
/// An hour.
const LASTS_SECS_MAX: i64 = 3600;
/// The API server remembers for some seconds that a token was good.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);

/// The operator's pod, of which there is one.
async fn operator(client: &Client) -> Pod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), install::NAMESPACE);
    let label = ListParams::default().labels("app.kubernetes.io/component=operator");
    eventually("one operator is ready", READY_WITHIN, || async {
        let mut all = pods.list(&label).await.map_err(|error| error.to_string())?.items;
        let pod = all.pop().ok_or("there is none")?;
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready && all.is_empty() { Ok(pod) } else { Err(format!("{:?}", pod.status)) }
    })
    .await
}

/// Each token in the volumes of a pod, as its node holds it.
fn tokens(rig: &Rig, pod: &Pod) -> Vec<String> {
    let uid = pod.metadata.uid.as_deref().expect("a pod that exists has a UID");
    let volumes = rig.cluster.state().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~projected");
    let find = format!("find {} -name token -type l -exec cat {{}} \\; -exec echo \\;", volumes.display());
    let found = shell::output(&mut rig.cluster.on_node("sh", &["-c", &find]).unwrap()).unwrap();
    found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// What a token says of itself.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a token has three parts");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload).expect("its parts are base64");
    serde_json::from_slice(&bytes).expect("its payload is JSON")
}

/// What the API server answers whoever shows this token: a good one may read the operator's Lease.
async fn shown(rig: &Rig, token: &str) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(rig.client_with(token).await, install::NAMESPACE);
    leases.get(OPERATOR).await.map(drop)
}

fn is_unknown(answer: &Result<(), Error>) -> bool {
    matches!(answer, Err(Error::Api(status)) if status.code == 401)
}

/// Whether one who serves this audience would take the token; none means the API server's own.
async fn is_taken(client: &Client, token: &str, audience: Option<&str>) -> bool {
    let spec = TokenReviewSpec {
        token: token.to_owned(),
        audiences: audience.map(|audience| vec![audience.to_owned()]),
    };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let judged = reviews.create(&PostParams::default(), &review).await.unwrap();
    judged.status.and_then(|status| status.authenticated).unwrap_or(false)
}

/// A token of the operator's account and pod for somebody else than the API server.
async fn for_another_audience(client: &Client, pod: &Pod, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), install::NAMESPACE);
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: Some(vec![audience.to_owned()]),
        bound_object_ref: Some(bound),
        expiration_seconds: Some(600),
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let made = accounts.create_token_request(OPERATOR, &PostParams::default(), &request).await.unwrap();
    made.status.and_then(|status| status.token).expect("a token was made")
}

#[tokio::test]
async fn o_h21_the_operators_only_token_lasts_an_hour_is_for_the_api_server_and_ends_with_its_pod() {
    let rig = Rig::alone().await;
    let pod = operator(&rig.client).await;
    let tokens = tokens(&rig, &pod);
    let [token] = tokens.as_slice() else { panic!("the operator's pod holds {} tokens", tokens.len()) };
    let claims = claims(token);
    let time = |name: &str| claims[name].as_i64().expect("a token has times");
    let lasts = time("exp") - time("iat");
    assert!(lasts <= LASTS_SECS_MAX, "the token lasts {lasts} s");
    assert_eq!(claims["aud"].as_array().map(Vec::len), Some(1), "{claims}");
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"].as_str(), pod.metadata.uid.as_deref(), "{claims}");

    shown(&rig, token).await.unwrap();
    assert!(is_taken(&rig.client, token, None).await);
    assert!(!is_taken(&rig.client, token, Some("somebody-else")).await);
    let other = for_another_audience(&rig.client, &pod, "somebody-else").await;
    assert!(is_taken(&rig.client, &other, Some("somebody-else")).await);
    let answer = shown(&rig, &other).await;
    assert!(is_unknown(&answer), "{answer:?}");

    let pods: Api<Pod> = Api::namespaced(rig.client.clone(), install::NAMESPACE);
    pods.delete(pod.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    eventually("the token of a pod that is gone is refused", FORGOTTEN_WITHIN, || async {
        let answer = shown(&rig, token).await;
        if is_unknown(&answer) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let next = operator(&rig.client).await;
    assert_ne!(next.metadata.uid, pod.metadata.uid);
}
