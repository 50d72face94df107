//! Types of conditions and their reasons. Both are names that programs rely on: they are added to, never renamed.

use crate::controller::accept::RejectionReason;

/// Types of conditions, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// True: spec and references are valid. False: a person has to change something; the message names the fields.
    Accepted,
    /// True: the proxy holds every credential that rules name. False: one is missing or malformed.
    CredentialsReady,
    /// True: the proxy serves. False: it cannot start.
    ProxyReady,
    /// True: every direct route was tried from inside and found closed, the proxy is closed to others, and no policy
    /// widens the walls. False: a route, the proxy, or a policy is open.
    NetworkIsolated,
    /// True: the fence found the promised kernel and limits. False: it found something else.
    RuntimeVerified,
    /// True: what the workspace's source brought is in its place. False: it could not be had, or was refused. It is told only where a
    /// source is named.
    WorkspaceReady,
    /// True: all of the above, and the agent runs, or the program of a Task ended with exit code 0, or the sandbox is suspended as asked
    /// and nothing of it runs. False: the reason is the first of the above that does not hold.
    Ready,
    /// True: the sandbox is suspended, and neither its agent nor its proxy runs. False: it is not, or one of its pods is not gone yet. It
    /// is told only where lifecycle.state is written.
    Suspended,
    /// True: the operator expects to get further by itself (kstatus).
    Reconciling,
    /// True: somebody has to do something (kstatus).
    Stalled,
}

impl ConditionType {
    /// The type as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::CredentialsReady => "CredentialsReady",
            Self::ProxyReady => "ProxyReady",
            Self::NetworkIsolated => "NetworkIsolated",
            Self::RuntimeVerified => "RuntimeVerified",
            Self::WorkspaceReady => "WorkspaceReady",
            Self::Ready => "Ready",
            Self::Suspended => "Suspended",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Reasons of conditions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason as it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// Spec and references are valid.
    Accepted,
    /// The class does not exist, or there is not exactly one default.
    ClassNotFound,
    /// The class itself cannot be served.
    ClassUnsupported,
    /// The class's RuntimeClass does not exist.
    RuntimeUnavailable,
    /// A credential does not exist.
    CredentialNotFound,
    /// A rule asks for more than its credential allows.
    OutsideCredential,
    /// The sandbox asks for more than its class allows.
    OutsideClass,
    /// The template does not exist.
    TemplateNotFound,
    /// The sandbox asks for more than its template allows.
    OutsideTemplate,
    /// The operator has seen no list of templates.
    TemplatesUnknown,
    /// A field is wrong by itself.
    InvalidField,
    /// Nothing more is known, because the sandbox is not accepted.
    NotAccepted,
    /// No operator has seen the sandbox yet.
    Pending,
    /// A child's name belongs to somebody else.
    NameConflict,
    /// The operator lacks a permission.
    Forbidden,
    /// A quota or an admission policy refuses a child.
    Refused,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// The sandbox is being deleted.
    Terminating,
    /// A wall is missing or was changed, and could not be put back; the agent is stopped.
    WallsMissing,
    /// The policy document was changed and could not be put back; proxy and agent are stopped.
    PolicyChanged,
    /// A pod is being replaced.
    Replacing,
    /// A pod ended, and is replaced after a pause.
    Ended,
    /// No rule names a credential.
    NoneNeeded,
    /// The proxy holds every credential.
    Loaded,
    /// The proxy held every credential when it became ready; it is not asked whether it still does.
    LoadedAtStart,
    /// A credential's Secret or key is missing.
    CredentialMissing,
    /// A credential's value cannot be used.
    CredentialMalformed,
    /// The proxy is starting.
    ProxyStarting,
    /// The proxy ends again and again.
    ProxyFailing,
    /// The proxy serves.
    Serving,
    /// No node takes the pod.
    Unschedulable,
    /// The node of a pod does not report any more.
    NodeUnreachable,
    /// An image cannot be pulled.
    ImageUnavailable,
    /// The fence has not reported.
    FencePending,
    /// The node has not made the agent's pod; the pod's events say why.
    PodSandboxPending,
    /// Every route was found closed.
    Proven,
    /// Every route was found closed from inside; the operator's own proof is waived by its flags.
    ProvenWithoutProbe,
    /// A direct route is open.
    EgressOpen,
    /// The proxy can be reached by others than its agent.
    ProxyOpen,
    /// The proxy was found closed to others once, and is tried once more.
    ProbePending,
    /// The operator could not try whether the proxy is closed to others.
    ProbeFailed,
    /// Another policy allows what the walls deny, out of a pod.
    EgressWidened,
    /// Another policy allows what the walls deny, into a pod.
    IngressWidened,
    /// The fence could not reach or enrol with the proxy.
    ProxyUnreachable,
    /// The fence could not do its work.
    FenceFailed,
    /// The report of the fence, or of the workspace's step, cannot be read.
    ReportInvalid,
    /// The promised kernel was found.
    KernelVerified,
    /// Another kernel was found.
    WrongKernel,
    /// A limit does not hold.
    LimitsMissing,
    /// The process sandbox that the agent is to start in cannot be had on its node.
    ProcessSandboxMissing,
    /// The workspace's archive or repository is being fetched, or waits for the fence.
    Fetching,
    /// The workspace's archive is unpacked, its commit checked out, or its folder copied.
    Unpacked,
    /// The sandbox's proxy denied a request for the workspace's archive or repository.
    FetchDenied,
    /// The workspace's archive or repository could not be had.
    FetchFailed,
    /// The workspace's archive is another one than its SHA-256 says.
    DigestMismatch,
    /// The workspace's archive or commit is damaged, or it or the folder asks for what is never done.
    ArchiveRefused,
    /// The workspace's step could not do its own work.
    WorkspaceFailed,
    /// The ConfigMap or claim that the workspace begins with is not there.
    SourceMissing,
    /// The claim of a persistent workspace has no volume yet.
    ClaimPending,
    /// The claim of a persistent workspace has lost its volume.
    ClaimLost,
    /// The claim of a persistent workspace was deleted, and goes with the pod of the agent that works on it.
    ClaimEnding,
    /// The agent's container is starting.
    AgentStarting,
    /// The agent's program ends again and again.
    AgentFailing,
    /// The agent runs.
    Running,
    /// The sandbox is suspended: neither agent nor proxy runs.
    Suspended,
    /// The sandbox is to be suspended, and something of it is not gone yet.
    Suspending,
    /// The sandbox is not suspended.
    NotSuspended,
    /// The program was to run once, and ended well.
    Succeeded,
    /// The program was to run once, and ended badly.
    Failed,
    /// The sandbox lived as long as it may, and was stopped.
    LifetimeExceeded,
    /// The run of a Task's program took as long as one may, and was stopped.
    DeadlineExceeded,
    /// Nothing passed through the sandbox's proxy for as long as may be, and it was stopped.
    IdleTimeoutExceeded,
    /// Nothing more is known, because the sandbox is over.
    Finished,
    /// Nothing to report.
    Settled,
    /// The last pass failed for a reason that passes.
    Retrying,
}

impl Reason {
    /// Whether somebody has to do something before the sandbox gets further.
    #[must_use]
    pub const fn needs_a_person(self) -> bool {
        matches!(
            self,
            Self::ClassNotFound
                | Self::ClassUnsupported
                | Self::RuntimeUnavailable
                | Self::CredentialNotFound
                | Self::OutsideCredential
                | Self::OutsideClass
                | Self::TemplateNotFound
                | Self::OutsideTemplate
                | Self::TemplatesUnknown
                | Self::InvalidField
                | Self::NameConflict
                | Self::Forbidden
                | Self::Refused
                | Self::CredentialMissing
                | Self::CredentialMalformed
                | Self::EgressWidened
                | Self::IngressWidened
                | Self::EgressOpen
                | Self::ProxyOpen
                | Self::WrongKernel
                | Self::LimitsMissing
                | Self::ProcessSandboxMissing
                | Self::ImageUnavailable
                | Self::FetchDenied
                | Self::DigestMismatch
                | Self::ArchiveRefused
                | Self::SourceMissing
                | Self::ClaimLost
                | Self::ProxyFailing
                | Self::AgentFailing
                | Self::Failed
                | Self::LifetimeExceeded
                | Self::DeadlineExceeded
                | Self::IdleTimeoutExceeded
        )
    }
}

impl From<RejectionReason> for Reason {
    fn from(reason: RejectionReason) -> Self {
        match reason {
            RejectionReason::ClassNotFound => Self::ClassNotFound,
            RejectionReason::ClassUnsupported => Self::ClassUnsupported,
            RejectionReason::RuntimeUnavailable => Self::RuntimeUnavailable,
            RejectionReason::CredentialNotFound => Self::CredentialNotFound,
            RejectionReason::OutsideCredential => Self::OutsideCredential,
            RejectionReason::OutsideClass => Self::OutsideClass,
            RejectionReason::TemplateNotFound => Self::TemplateNotFound,
            RejectionReason::OutsideTemplate => Self::OutsideTemplate,
            RejectionReason::InvalidField => Self::InvalidField,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The sections of docs/reasons.md: (chapter, text), by reason.
    fn sections() -> BTreeMap<String, (String, String)> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");
        let text = std::fs::read_to_string(file).unwrap();
        let mut found = BTreeMap::new();
        for chapter in text.split("\n## ").skip(1) {
            let (name, body) = chapter.split_once('\n').unwrap();
            for section in body.split("### ").skip(1) {
                let (reason, text) = section.split_once('\n').unwrap();
                let before = found.insert(reason.to_owned(), (name.to_owned(), text.trim().to_owned()));
                assert_eq!(before, None, "{reason} has two sections");
            }
        }
        found
    }

    #[test]
    fn every_reason_has_its_section_with_cause_and_remedy_and_every_section_its_reason() {
        const EVENTS: [&str; 4] =
            ["AdmissionPoliciesInForce", "AdmissionPoliciesNotInForce", "EgressDenied", "WorkspaceRetained"];
        let mut sections = sections();
        for reason in Reason::ALL {
            let (chapter, text) = sections.remove(reason.as_str()).unwrap_or_else(|| panic!("no {reason:?}"));
            assert_eq!(
                chapter == "Somebody has to act",
                reason.needs_a_person(),
                "{reason:?} is in {chapter}"
            );
            let (cause, remedy) = text.split_once("**Do:** ").unwrap_or((&text, ""));
            assert!(cause.len() > 10, "{reason:?} has no cause");
            assert_eq!(remedy.is_empty(), chapter == "All is well", "{reason:?}: {remedy}");
        }
        for event in EVENTS {
            assert_eq!(sections.remove(event).map(|(chapter, _)| chapter).as_deref(), Some("Events only"));
        }
        assert_eq!(sections, BTreeMap::new(), "sections of no reason");
    }
}
