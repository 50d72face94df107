//! The folder /workspace: what it begins with, and what of that is left out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{BYTES_MESSAGE, BYTES_RULE, STORAGE_CLASS_MESSAGE, STORAGE_CLASS_RULE};
use crate::scratch::{Execution, Medium};

/// The folder /workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.archive) && has(self.git))").message("a workspace begins with an archive or with a git repository: remove archive or git").field_path(".git"),
    validation = Rule::new("!has(self.access) || self.access != 'ReadOnly' || has(self.archive) || has(self.git)").message("a folder that is empty and cannot be written serves nobody: name an archive or a git repository, or remove access: ReadOnly").field_path(".access"),
    validation = Rule::new("!has(self.access) || self.access != 'Overlay' || has(self.archive) || has(self.git)").message("there is no original to compare with: name an archive or a git repository, or remove access: Overlay").field_path(".access"),
    validation = Rule::new("has(self.archive) || has(self.git) || !(has(self.exclude) || has(self.include))").message("exclude and include say what of a source is left out, and no source is named: name an archive or a git repository, or remove them").field_path(".exclude"),
    validation = Rule::new("has(self.persistent) == (has(self.access) && self.access == 'Persistent')").message("persistent describes the volume of access: Persistent and of no other: write both, or neither").field_path(".persistent"),
    validation = Rule::new("!has(self.persistent) || !has(self.sizeLimit)").message("sizeLimit bounds a folder of the node, and a persistent workspace is a volume of its own: remove sizeLimit, and write persistent.size").field_path(".sizeLimit"),
    validation = Rule::new("!has(self.persistent) || !has(self.medium)").message("medium says what a folder of the node is made of, and a persistent workspace is a volume of its own: remove medium").field_path(".medium")
)]
pub struct Workspace {
    /// Size in bytes, at which the pod is evicted, or a write fails where medium is Memory; absent means 1Gi, and 500Mi in memory. What is fetched and what it unpacks to must fit into it together. The
    /// folder lasts as long as the agent's pod.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub size_limit: Option<String>,
    /// Disk (absent means this), or Memory: a tmpfs, which counts towards the memory limit; twice with access: Overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// Whether programs that lie in the folder run: Allow (absent means this) or Deny, as in scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// An archive that is unpacked into the folder before the agent starts; absent means that the folder begins empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSource>,
    /// A git repository of which one commit is checked out into the folder before the agent starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
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
    /// What the agent may do there: ReadWrite (absent means this), ReadOnly, Overlay, or Persistent, where what it writes outlasts its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<WorkspaceAccess>,
    /// The volume of a persistent workspace: the PersistentVolumeClaim NAME-workspace. It is filled with the source once, when it is new;
    /// from then on it is the agent's, and another source, exclude or include changes nothing in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<PersistentWorkspace>,
}

/// The volume of a persistent workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("a claim keeps its storage class: write storageClassName as it was, or create the sandbox anew").field_path(".storageClassName")
)]
pub struct PersistentWorkspace {
    /// Size of the volume, in bytes, within what the class allows. It can grow where the storage class allows it, and never shrinks.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a volume never shrinks: write a size of at least what it was"))]
    #[schemars(length(min = 1, max = 20))]
    pub size: String,
    /// Name of the StorageClass; absent means the cluster's default one. Its provisioner has to know the access mode ReadWriteOncePod.
    #[x_kube(validation = Rule::new(STORAGE_CLASS_RULE).message(STORAGE_CLASS_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of the claim when the sandbox is deleted: Retain (absent means this), or Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<WhenDeleted>,
}

/// What becomes of a claim when its sandbox is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// It stays, with the agent's work; no other sandbox takes it, one of the same name neither.
    #[default]
    Retain,
    /// It is deleted once the agent's pod is gone.
    Delete,
}

/// What the agent may do in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkspaceAccess {
    /// Read.
    ReadOnly,
    /// Read and write; what it writes lasts as long as its pod.
    ReadWrite,
    /// Read and write a copy of what was fetched; the original stays where it cannot reach it, so that `kubectl agentsandbox` can show
    /// what differs, apply it elsewhere, or discard it. It takes sizeLimit twice, and a program that goes on: mode Service.
    Overlay,
    /// Read and write; what it writes is in a volume of the sandbox's own, which lasts longer than its pods.
    Persistent,
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

/// A git repository that is served over https.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// Where it is. It is fetched through the sandbox's own proxy, so a rule of egress must allow GET and POST beneath this path; what
    /// credential that rule names is added. No redirect is followed.
    #[x_kube(validation = Rule::new(r"self.matches('^https://([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])(:[1-9][0-9]{0,4})?/[A-Za-z0-9._~!$&()*+,=:@%/-]+$')").message("url must be an https address of a lower-case host name with the repository's path, and without a login, a query, a fragment, quotes or white space, such as https://github.com/acme/shop.git; where a login is needed, name an AgentCredential in the rule"))]
    #[schemars(length(min = 12, max = 2048))]
    pub url: String,
    /// A branch, a tag, or the id of a commit as 40 hexadecimal digits; absent means the branch that the repository's HEAD names.
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_+]([A-Za-z0-9._/+-]*[A-Za-z0-9_+-])?$') && !self.contains('..') && !self.contains('//') && !self.contains('/.') && !self.contains('/-') && !self.contains('./') && !self.contains('.lock/') && !self.endsWith('.lock') && self != 'HEAD'").message("ref must be the name of a branch or tag without refs/heads/, of letters, digits and . _ / + -, such as main or release/1.2, or the 40 digits of a commit in lower case"))]
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub reference: Option<String>,
    /// How many commits of the history are fetched; absent means 1, the commit alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub depth: Option<i32>,
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
    /// The commit that was checked out; absent or empty of an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub commit: Option<String>,
    /// The PersistentVolumeClaim that a persistent workspace is in; absent or empty of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub claim_name: Option<String>,
}
