//! What is denied shows on the sandbox itself, for people who do not read a proxy's log.

use std::time::Duration;

use agentsandbox_tests::{Rig, eventually, with_namespace};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

use crate::fixtures;

/// The operator asks each proxy every 15 seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_denied_request_is_counted_in_the_status_and_told_as_an_event() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "denials", async |ns| {
        let dev = ns
            .sandbox(
                "dev",
                &fixtures::sleeper("dev", fixtures::AGENT_IMAGE, "Set", &["{host: api.anthropic.com}"]),
            )
            .await;
        dev.ready().await;
        assert_eq!(dev.get().await.status.unwrap().egress, None, "nothing was denied yet");
        dev.sh("curl -s -o /dev/null https://files.example.com/x; true").await;
        let denied = eventually("the denial is counted", TOLD_WITHIN, || async {
            let now = dev.api().get("dev").await.map_err(|error| error.to_string())?;
            let egress = now.status.and_then(|status| status.egress).unwrap_or_default();
            let one = egress.latest.iter().find(|one| one.host.as_deref() == Some("files.example.com"));
            one.cloned().ok_or_else(|| format!("{egress:?}"))
        })
        .await;
        assert_eq!((denied.reason.as_str(), denied.count), ("HostNotAllowed", 1));
        let events: Api<Event> = Api::namespaced(rig.client.clone(), &dev.namespace);
        eventually("an Event tells it", TOLD_WITHIN, || async {
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let told = all.iter().any(|event| event.reason.as_deref() == Some("EgressDenied"));
            told.then_some(()).ok_or_else(|| "no Event EgressDenied".to_owned())
        })
        .await;
    })
    .await;
}
