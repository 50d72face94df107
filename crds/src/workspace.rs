//! The folder /workspace: what it begins with, and what of that is left out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{BYTES_MESSAGE, BYTES_RULE};

/// The folder /workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.access) || self.access != 'ReadOnly' || has(self.archive)").message("a folder that is empty and cannot be written serves nobody: name an archive, or remove access: ReadOnly").field_path(".access"),
    validation = Rule::new("has(self.archive) || !(has(self.exclude) || has(self.include))").message("exclude and include say what of a source is left out, and no source is named: name an archive, or remove them").field_path(".exclude")
)]
pub struct Workspace {
    /// Size at which the pod is evicted, in bytes; absent means 1Gi. An archive and what it unpacks to must fit into it together. The
    /// folder lasts as long as the agent's pod.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub size_limit: Option<String>,
    /// An archive that is unpacked into the folder before the agent starts; absent means that the folder begins empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSource>,
    /// Patterns of what is left out of a source beside the project's own list of files that hold secrets, in the language of
    /// .gitignore without braces, such as `**/*.secret`.
    #[x_kube(validation = Rule::new("self.all(p, p.matches('^[^#{}[:cntrl:]][^{}[:cntrl:]]*$'))").message("each pattern of exclude must be one of .gitignore that begins with no # and holds no brace or control character, such as **/*.secret"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub exclude: Vec<String>,
    /// Patterns of what is taken though the project's own list leaves it out, such as `.env.example`. It takes nothing back from
    /// exclude.
    #[x_kube(validation = Rule::new("self.all(p, p.matches('^[^#!{}[:cntrl:]][^{}[:cntrl:]]*$'))").message("each pattern of include must be one of .gitignore that begins with no # or ! and holds no brace or control character, such as .env.example"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub include: Vec<String>,
    /// What the agent may do there: ReadWrite (absent means this), or ReadOnly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<WorkspaceAccess>,
}

/// What the agent may do in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkspaceAccess {
    /// Read.
    ReadOnly,
    /// Read and write; what it writes lasts as long as its pod.
    ReadWrite,
}

/// An archive: tar, tar.gz, tar.zst or zip, as its content says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveSource {
    /// Where it is. It is fetched through the sandbox's own proxy, so a rule of egress must allow GET there, and at each place that it
    /// redirects to; what credential that rule names is added.
    #[x_kube(validation = Rule::new(r"self.matches('^https://([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])(:[1-9][0-9]{0,4})?/[!-\x22$-~]*$')").message("url must be an https address of a lower-case host name with a path, and without a login, a fragment or white space, such as https://codeload.github.com/acme/shop/tar.gz/refs/tags/v1; where a login is needed, name an AgentCredential in the rule"))]
    #[schemars(length(min = 12, max = 2048))]
    pub url: String,
    /// Its SHA-256, which is compared before anything of it is read.
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message("sha256 must be 64 hexadecimal digits in lower case: write what sha256sum says of the archive"))]
    #[schemars(length(min = 64, max = 64))]
    pub sha256: String,
    /// How many of the first names of each path are taken off; absent means none. Most archives of a repository have one folder around
    /// it: write 1 there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub strip_components: Option<i32>,
}

/// What the workspace began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// Regular files.
    #[schemars(range(min = 0))]
    pub files: i64,
    /// Bytes of them.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// Files and links that were left out. The log of the agent's pod, container workspace, names them.
    #[schemars(range(min = 0))]
    pub left_out: i64,
}
