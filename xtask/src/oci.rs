//! Image archives made from files, byte for byte the same each time.
//!
//! An archive is an OCI image layout in a tar, with Docker's `manifest.json` beside it, so that containerd, Docker, Podman
//! and buildah all read it. Nothing in it depends on when, where or by whom it was made: entries are sorted, owned by
//! root, dated 1970, and the one layer is not compressed, because compressors differ between versions.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CREATED: &str = "1970-01-01T00:00:00Z";
const DIRECTORY_MODE: u32 = 0o755;

/// One image, before it is an archive.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Full reference with its tag, which is never `latest`: that would mean "always pull".
    pub reference: String,
    /// Path inside the image → content. Parent folders come by themselves.
    pub files: BTreeMap<String, File>,
    /// What runs.
    pub entrypoint: Vec<String>,
    /// Arguments where none are given.
    pub command: Vec<String>,
    /// `uid:gid`.
    pub user: String,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
}

/// One file of an image.
#[derive(Clone, Debug)]
pub struct File {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// An archive on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The image's full reference.
    pub reference: String,
    /// The tar.
    pub path: PathBuf,
    /// Digest of the image's manifest, as `sha256:…`.
    pub digest: String,
}

/// Why there is no archive.
#[derive(Debug, Error)]
pub enum OciError {
    /// A file could not be read or written.
    #[error("cannot write the image archive {path}")]
    Write {
        /// The archive.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A reference that means "always pull", or that has no tag at all.
    #[error("the image reference {0} needs a tag other than `latest`")]
    Reference(String),
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest: format!("sha256:{hex}"), bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replacen(':', "/", 1))
    }
}

/// Writes the image as a tar that any container tool can load.
pub fn write(image: &Image, path: &Path) -> Result<Archive, OciError> {
    let named = image.reference.rsplit_once(':').filter(|(_, tag)| *tag != "latest" && !tag.contains('/'));
    if named.is_none() {
        return Err(OciError::Reference(image.reference.clone()));
    }
    let failed = |source| OciError::Write { path: path.to_owned(), source };
    let (bytes, digest) = archive(image).map_err(failed)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, bytes).map_err(failed)?;
    Ok(Archive { reference: image.reference.clone(), path: path.to_owned(), digest })
}

fn archive(image: &Image) -> io::Result<(Vec<u8>, String)> {
    let layer = Blob::new(layer(&image.files)?);
    let config = Blob::new(serde_json::to_vec(&config(image, &layer.digest))?);
    let manifest = Blob::new(serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(CONFIG_TYPE),
        "layers": [layer.descriptor(LAYER_TYPE)],
    }))?);
    let mut entry = manifest.descriptor(MANIFEST_TYPE);
    entry["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]});
    let docker = json!([{"Config": config.path(), "RepoTags": [image.reference], "Layers": [layer.path()]}]);
    let mut files = BTreeMap::new();
    let mut add = |path: String, content: Vec<u8>| files.insert(path, File { content, mode: 0o644 });
    add("oci-layout".to_owned(), serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?);
    add("index.json".to_owned(), serde_json::to_vec(&index)?);
    add("manifest.json".to_owned(), serde_json::to_vec(&docker)?);
    let digest = manifest.digest.clone();
    for blob in [layer, config, manifest] {
        add(blob.path(), blob.bytes);
    }
    Ok((tar(&files)?, digest))
}

fn config(image: &Image, layer: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "Env": image.env,
            "Labels": image.labels,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": CREATED, "created_by": "cargo xtask images"}],
    })
}

fn layer(files: &BTreeMap<String, File>) -> io::Result<Vec<u8>> {
    tar(files)
}

/// A tar of the files and of their parent folders, each folder before what is in it.
fn tar(files: &BTreeMap<String, File>) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for folder in folders(files) {
        let mut header = header(tar::EntryType::Directory, DIRECTORY_MODE, 0);
        builder.append_data(&mut header, format!("{folder}/"), io::empty())?;
    }
    for (path, file) in files {
        let size = u64::try_from(file.content.len()).map_err(io::Error::other)?;
        let mut header = header(tar::EntryType::Regular, file.mode, size);
        builder.append_data(&mut header, path.trim_start_matches('/'), file.content.as_slice())?;
    }
    builder.into_inner()
}

fn folders(files: &BTreeMap<String, File>) -> Vec<String> {
    let mut all: Vec<String> = files
        .keys()
        .flat_map(|path| Path::new(path.trim_start_matches('/')).ancestors().skip(1))
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| folder.display().to_string())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        let file = |text: &str, mode| File { content: text.as_bytes().to_vec(), mode };
        Image {
            reference: "example.test/thing:1".to_owned(),
            files: [
                ("/usr/bin/thing".to_owned(), file("binary", 0o755)),
                ("/etc/thing.conf".to_owned(), file("a = 1", 0o644)),
            ]
            .into(),
            entrypoint: vec!["/usr/bin/thing".to_owned()],
            user: "65532:65532".to_owned(),
            ..Image::default()
        }
    }

    fn entries(bytes: &[u8]) -> BTreeMap<String, (u64, u64, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let header = entry.header().clone();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (path, (header.uid().unwrap(), header.mtime().unwrap(), header.mode().unwrap(), content))
            })
            .collect()
    }

    #[test]
    fn o_c1_the_same_files_give_the_same_archive() {
        assert_eq!(archive(&image()).unwrap(), archive(&image()).unwrap());
        let mut other = image();
        other.files.get_mut("/etc/thing.conf").unwrap().content.push(b'0');
        assert_ne!(archive(&image()).unwrap().1, archive(&other).unwrap().1);
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_the_index_leads_to_the_files() {
        let (bytes, digest) = archive(&image()).unwrap();
        let files = entries(&bytes);
        for (path, (.., content)) in &files {
            if let Some(name) = path.strip_prefix("blobs/sha256/").filter(|name| !name.is_empty()) {
                assert_eq!(Blob::new(content.clone()).digest, format!("sha256:{name}"));
            }
        }
        let parsed = |path: &str| -> Value { serde_json::from_slice(&files[path].3).unwrap() };
        let blob =
            |digest: &Value| parsed(&format!("blobs/{}", digest.as_str().unwrap().replacen(':', "/", 1)));
        let entry = &parsed("index.json")["manifests"][0];
        assert_eq!(entry["digest"], json!(digest));
        assert_eq!(entry["annotations"]["io.containerd.image.name"], json!("example.test/thing:1"));
        let manifest = blob(&entry["digest"]);
        let config = blob(&manifest["config"]["digest"]);
        assert_eq!(config["config"]["User"], json!("65532:65532"));
        let layer = &manifest["layers"][0]["digest"];
        assert_eq!(config["rootfs"]["diff_ids"], json!([layer]));
        let layer = entries(&files[&format!("blobs/{}", layer.as_str().unwrap().replacen(':', "/", 1))].3);
        let names: Vec<&str> = layer.keys().map(String::as_str).collect();
        assert_eq!(names, ["etc/", "etc/thing.conf", "usr/", "usr/bin/", "usr/bin/thing"]);
        assert_eq!(layer["usr/bin/thing"], (0, 0, 0o755, b"binary".to_vec()));
    }

    #[test]
    fn a_tag_that_means_always_pull_is_refused() {
        for reference in ["example.test/thing", "example.test:5000/thing", "example.test/thing:latest"] {
            let image = Image { reference: reference.to_owned(), ..image() };
            let refused = write(&image, Path::new("never-written.tar"));
            assert!(matches!(refused, Err(OciError::Reference(_))), "{reference}");
        }
    }
}
