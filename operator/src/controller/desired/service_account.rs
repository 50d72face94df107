//! The identities of one sandbox: without a token, without a binding. The agent's exists so that it is nobody's else;
//! the proxy's may be given a cloud identity by whoever administers the cloud.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::Component;
use crate::controller::accept::Identity;

/// The ServiceAccount of a component.
#[must_use]
pub fn service_account(identity: &Identity, component: Component) -> ServiceAccount {
    ServiceAccount {
        metadata: component.metadata(identity, component.name(identity)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
