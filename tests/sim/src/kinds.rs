//! The kinds that the simulated API server serves.

/// One kind.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// As in paths.
    pub plural: &'static str,
    /// As in objects.
    pub kind: &'static str,
    /// Group and version, `v1` for the core.
    pub api_version: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether status is written through a subresource of its own.
    pub has_status: bool,
    /// Whether `metadata.generation` counts changes of anything but status and metadata.
    pub counts_generations: bool,
}

macro_rules! kinds {
    ($($constant:ident = $plural:literal $kind:literal $version:literal $namespaced:literal $status:literal $generation:literal;)*) => {
        $(
            #[doc = $kind]
            pub static $constant: Kind = Kind {
                plural: $plural, kind: $kind, api_version: $version, namespaced: $namespaced,
                has_status: $status, counts_generations: $generation,
            };
        )*
        /// All of them.
        pub static ALL: &[&Kind] = &[$(&$constant,)*];
    };
}

kinds! {
    SANDBOXES = "agentsandboxes" "AgentSandbox" "agentsandbox.dev/v1alpha1" true true true;
    CREDENTIALS = "agentcredentials" "AgentCredential" "agentsandbox.dev/v1alpha1" true true true;
    CLASSES = "agentsandboxclasses" "AgentSandboxClass" "agentsandbox.dev/v1alpha1" false true true;
    TEMPLATES = "agentsandboxtemplates" "AgentSandboxTemplate" "agentsandbox.dev/v1alpha1" true false true;
    NAMESPACES = "namespaces" "Namespace" "v1" false true false;
    PODS = "pods" "Pod" "v1" true true true;
    SERVICES = "services" "Service" "v1" true true false;
    ACCOUNTS = "serviceaccounts" "ServiceAccount" "v1" true false false;
    CONFIG_MAPS = "configmaps" "ConfigMap" "v1" true false false;
    CLAIMS = "persistentvolumeclaims" "PersistentVolumeClaim" "v1" true true false;
    SECRETS = "secrets" "Secret" "v1" true false false;
    POLICIES = "networkpolicies" "NetworkPolicy" "networking.k8s.io/v1" true false true;
    NODES = "nodes" "Node" "v1" false false false;
    SERVICE_CIDRS = "servicecidrs" "ServiceCIDR" "networking.k8s.io/v1" false false false;
    RUNTIME_CLASSES = "runtimeclasses" "RuntimeClass" "node.k8s.io/v1" false false false;
    LEASES = "leases" "Lease" "coordination.k8s.io/v1" true false false;
    SLICES = "endpointslices" "EndpointSlice" "discovery.k8s.io/v1" true false false;
    EVENTS = "events" "Event" "events.k8s.io/v1" true false false;
}

impl Kind {
    /// Whether it is one of this project's, which a CRD defines.
    pub fn is_ours(&self) -> bool {
        self.api_version.starts_with("agentsandbox.dev/")
    }

    /// Whether who puts an object in the place of another must say of which version that is.
    pub fn needs_version(&self) -> bool {
        self.is_ours()
    }

    /// Whether what is put where nothing is, is created.
    pub fn is_created_by_put(&self) -> bool {
        ["services", "leases"].contains(&self.plural)
    }

    /// Whether the answer to a deletion that took effect at once is the object; of others it is a Status.
    pub fn is_shown_when_deleted(&self) -> bool {
        ["pods", "services", "serviceaccounts", "persistentvolumeclaims"].contains(&self.plural)
    }
}

/// The kind of this group, version and plural.
pub fn find(api_version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter().copied().find(|kind| kind.api_version == api_version && kind.plural == plural)
}
