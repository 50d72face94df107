//! What is measured: where the code comes from, what the agent may do with it, and what it runs under.

use serde_json::{Value, json};

use crate::served::{CLAIM, HOST, IMAGE, IMAGE_FOLDER, RUNC_CLASS, Served};

/// Where the code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: what everything else is compared with.
    Empty,
    /// A git server, over https.
    Git,
    /// A web server, as a tar.gz.
    Archive,
    /// A claim that somebody filled.
    Claim,
    /// An image that is on the node.
    Image,
}

/// What the agent may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read.
    ReadOnly,
    /// Read and write a copy.
    Overlay,
    /// Read and write a volume of its own.
    Persistent,
}

/// What it runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The node's own kernel.
    Runc,
    /// gVisor.
    Runsc,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub runtime: Runtime,
    pub source: Source,
    pub access: Access,
}

impl Source {
    pub const ALL: [Self; 5] = [Self::Empty, Self::Git, Self::Archive, Self::Claim, Self::Image];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Git => "git",
            Self::Archive => "archive",
            Self::Claim => "claim",
            Self::Image => "image",
        }
    }

    /// What the product takes: a folder that stays empty is read by nobody, and a claim or nothing has no original to keep.
    const fn allows(self, access: Access) -> bool {
        match self {
            Self::Empty => matches!(access, Access::ReadWrite | Access::Persistent),
            Self::Claim => !matches!(access, Access::Persistent),
            Self::Git | Self::Archive | Self::Image => true,
        }
    }
}

impl Access {
    pub const ALL: [Self; 4] = [Self::ReadWrite, Self::ReadOnly, Self::Overlay, Self::Persistent];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "ReadWrite",
            Self::ReadOnly => "ReadOnly",
            Self::Overlay => "Overlay",
            Self::Persistent => "Persistent",
        }
    }
}

impl Runtime {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}

impl Case {
    /// Everything that the product takes under gVisor, and each source once with the node's own kernel; only what is named, where
    /// something is.
    pub fn all(only: &[String]) -> Vec<Self> {
        let runsc = Source::ALL.into_iter().flat_map(|source| {
            let accesses = Access::ALL.into_iter().filter(move |access| source.allows(*access));
            accesses.map(move |access| Self { runtime: Runtime::Runsc, source, access })
        });
        let runc =
            Source::ALL.map(|source| Self { runtime: Runtime::Runc, source, access: Access::ReadWrite });
        let is_named = |case: &Self| {
            let name = case.name();
            only.is_empty() || only.iter().any(|word| name.contains(word.as_str()))
        };
        runsc.chain(runc).filter(is_named).collect()
    }

    /// As it is told, and as the name of an object.
    pub fn name(self) -> String {
        format!("{}-{}-{}", self.runtime.name(), self.source.name(), self.access.name().to_ascii_lowercase())
    }

    /// What it is compared with: nothing of a source, under the same runtime and with the same kind of volume where that was measured.
    pub fn baseline(self) -> Self {
        let access = match (self.runtime, self.access) {
            (Runtime::Runsc, Access::Persistent) => Access::Persistent,
            _ => Access::ReadWrite,
        };
        Self { source: Source::Empty, access, ..self }
    }

    /// The sandbox, with nothing but what its source needs and the defaults of its class.
    pub fn sandbox(self, name: &str, image: &str, served: &Served) -> Value {
        let mut workspace = json!({"access": self.access.name()});
        if self.access == Access::Persistent {
            workspace["persistent"] = json!({"size": "1Gi", "whenDeleted": "Delete"});
        }
        let mut rules = Vec::new();
        match self.source {
            Source::Empty => {}
            Source::Git => {
                workspace["git"] = json!({"url": served.git_url});
                rules.push(json!({"host": "github.com", "paths": ["/acme/**"], "credential": "git"}));
            }
            Source::Archive => {
                workspace["archive"] =
                    json!({"url": served.archive_url, "sha256": served.archive_sha256, "stripComponents": 1});
                rules.push(json!({"host": HOST, "methods": ["GET"]}));
            }
            Source::Claim => workspace["persistentVolumeClaim"] = json!({"claimName": CLAIM}),
            Source::Image => workspace["image"] = json!({"reference": IMAGE, "path": IMAGE_FOLDER}),
        }
        let class = match self.runtime {
            Runtime::Runc => RUNC_CLASS,
            Runtime::Runsc => xtask::install::WORLD_CLASS,
        };
        let mut spec = json!({
            "className": class,
            "agent": {"image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]},
            "workspace": workspace,
        });
        if !rules.is_empty() {
            spec["egress"] = json!({"allow": rules});
        }
        json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": name}, "spec": spec,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_measured_in_each_way_that_is_accepted_and_beside_an_empty_folder() {
        let all = Case::all(&[]);
        assert_eq!(all.len(), 17 + 5);
        for case in &all {
            assert!(all.contains(&case.baseline()), "{}", case.name());
            assert_eq!(case.baseline().source, Source::Empty);
        }
        let named: Vec<String> = Case::all(&["git".to_owned()]).into_iter().map(Case::name).collect();
        assert_eq!(named.len(), 5, "{named:?}");
    }
}
