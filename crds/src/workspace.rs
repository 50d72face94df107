//! The folder /workspace: what it begins with, and what of that is left out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{BYTES_MESSAGE, BYTES_RULE, STORAGE_CLASS_MESSAGE, STORAGE_CLASS_RULE};
use crate::sandbox::ImagePullPolicy;
use crate::scratch::{Execution, Medium};

/// Whether each source is named, in CEL.
const SOURCES: &str = "[has(self.archive), has(self.git), has(self.configMap), has(self.persistentVolumeClaim), has(self.image)]";

/// The folder /workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(format!("{SOURCES}.filter(one, one).size() <= 1")).message("a workspace begins with one source: remove all but one of archive, git, configMap, persistentVolumeClaim and image"),
    validation = Rule::new(format!("!has(self.access) || self.access != 'ReadOnly' || {SOURCES}.exists(one, one)")).message("a folder that is empty and cannot be written serves nobody: name an archive, a git repository or another source, or remove access: ReadOnly").field_path(".access"),
    validation = Rule::new(format!("!has(self.access) || self.access != 'Overlay' || {SOURCES}.exists(one, one)")).message("there is no original to compare with: name an archive, a git repository or another source, or remove access: Overlay").field_path(".access"),
    validation = Rule::new(format!("{SOURCES}.exists(one, one) || !(has(self.exclude) || has(self.include))")).message("exclude and include say what of a source is left out, and no source is named: name an archive, a git repository or another source, or remove them").field_path(".exclude"),
    validation = Rule::new(format!("!has(self.sanitize) || (!has(self.git) && {SOURCES}.exists(one, one))")).message("sanitize rewrites files of a source, and to git a file that is rewritten is changed: name an archive, a configMap, a persistentVolumeClaim or an image, or remove sanitize").field_path(".sanitize"),
    validation = Rule::new("!has(self.persistent) || !(has(self.configMap) || has(self.persistentVolumeClaim))").message("a persistent workspace keeps what it was filled with, whoever writes the sandbox later: name an archive, a git repository or an image, or remove persistent").field_path(".persistent"),
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
    /// A ConfigMap of the sandbox's namespace, whose keys are copied into the folder as files before the agent starts. Whoever writes the
    /// sandbox must be allowed to get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A PersistentVolumeClaim of the sandbox's namespace, of which a folder is copied into the folder before the agent starts. Nothing is
    /// written to it. Whoever writes the sandbox must be allowed to mount it, or to create pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// An OCI image that the node pulls, of which a folder is copied into the folder before the agent starts. Nothing of it is run. It needs
    /// image volumes: Kubernetes 1.35 and containerd 2.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
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
    /// Files that are rewritten without the secrets in them: of the project's own list, where they are left out else, and beside it. What
    /// is excluded stays out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub sanitize: Vec<Sanitized>,
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

/// Files that hold settings and secrets side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sanitized {
    /// `.npmrc`.
    Npmrc,
    /// `.pypirc`.
    Pypirc,
    /// `pip.conf` and `pip.ini`.
    PipConf,
    /// `.netrc` and `_netrc`, of which the names of machines stay.
    Netrc,
    /// `.gitconfig`.
    GitConfig,
}

impl Sanitized {
    /// The name as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Npmrc => "Npmrc",
            Self::Pypirc => "Pypirc",
            Self::PipConf => "PipConf",
            Self::Netrc => "Netrc",
            Self::GitConfig => "GitConfig",
        }
    }
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

/// A ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Its name. One whose name ends in -policy is refused: so end those that the operator makes.
    #[x_kube(validation = Rule::new(OBJECT_NAME_RULE).message("name must be the name of a ConfigMap of this namespace, such as task: lower-case letters, digits, - and ."))]
    #[x_kube(validation = Rule::new("!self.endsWith('-policy')").message("ConfigMaps whose names end in -policy are those of sandboxes' own: give it another name"))]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A claim, with what is copied of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// Its name. One whose name ends in -workspace is refused: so end those that the operator makes.
    #[x_kube(validation = Rule::new(OBJECT_NAME_RULE).message("claimName must be the name of a PersistentVolumeClaim of this namespace, such as datasets: lower-case letters, digits, - and ."))]
    #[x_kube(validation = Rule::new("!self.endsWith('-workspace')").message("claims whose names end in -workspace are those of sandboxes' own: give it another name"))]
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The folder in it that is copied, such as src/shop; absent means all of it.
    #[x_kube(validation = Rule::new(FOLDER_RULE).message(FOLDER_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
}

/// An image, with what is copied of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image, with a digest or a tag other than latest, of a registry that the class allows.
    #[x_kube(validation = Rule::new(IMAGE_RULE).message("reference must be an image with a tag or digest, such as ghcr.io/acme/shop-code:1.2.3"))]
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
    /// The folder in it that is copied, such as src/shop; absent means all of it.
    #[x_kube(validation = Rule::new(FOLDER_RULE).message(FOLDER_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// When the node pulls it: IfNotPresent (absent means this), Always or Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<ImagePullPolicy>,
}

/// An image.
const IMAGE_RULE: &str = "self.matches('^[a-z0-9][a-zA-Z0-9._/:@-]*$')";
/// The name of an object, as RFC 1123 has those of subdomains.
const OBJECT_NAME_RULE: &str =
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')";
/// A folder in a source.
const FOLDER_RULE: &str =
    "self.matches('^[^/[:cntrl:]]+(/[^/[:cntrl:]]+)*$') && !self.matches('(^|/)[.][.]?(/|$)')";
/// What [`FOLDER_RULE`] says to someone who broke it.
const FOLDER_MESSAGE: &str = "path must name a folder of the source by its way from there, such as src/shop, with no / before or behind it and no . or .. in it";

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
