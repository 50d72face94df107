//! What no rule allows, whatever it covers.

use crate::collector;
use crate::{Denial, DenialReason, Host, Policy};

impl Policy {
    /// The denial of a metadata service by its name, and of the proxy's own collector.
    pub(super) fn barred(&self, host: &Host, port: u16) -> Option<Denial> {
        if host.is_metadata_name() {
            let how = "Metadata services hand out a machine's credentials and are never allowed.";
            let denial = Denial::new(DenialReason::ForbiddenAddress).with_host(host).with_port(port);
            return Some(denial.with_how_to_allow(how));
        }
        self.collector()?.is(host, port).then(|| collector::barred(host, port))
    }
}
