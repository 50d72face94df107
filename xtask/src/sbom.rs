//! What a binary of ours is made of, as an SPDX 2.3 document beside its image: each crate with its version, its licence, and
//! the checksum that `Cargo.lock` pins. Same sources, same document.
//!
//! It is read off what cargo resolves, not off the binary. Features are resolved for the whole workspace, so that a document
//! may name a crate more than its binary holds, and none less.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The document says when it was made, and would differ each time.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Why there is no document.
#[derive(Debug, Error)]
pub enum SbomError {
    /// Cargo could not be run, or a file could not be read or written.
    #[error("the bill of materials of {package} cannot be made")]
    Io {
        /// Whose it is.
        package: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Cargo did not say what was asked.
    #[error("cargo does not say what {0} is made of")]
    Unresolved(String),
}

/// Writes the document of one package of the workspace.
///
/// # Errors
/// When cargo does not know the package, or the file cannot be written.
pub fn write(workspace: &Path, triple: &str, package: &str, file: &Path) -> Result<(), SbomError> {
    let failed = |source| SbomError::Io { package: package.to_owned(), source };
    let metadata = metadata(workspace, triple).map_err(failed)?;
    let lock = fs::read_to_string(workspace.join("Cargo.lock")).map_err(failed)?;
    let document = document(&metadata, &checksums(&lock), package)
        .ok_or_else(|| SbomError::Unresolved(package.to_owned()))?;
    fs::write(file, format!("{document:#}\n")).map_err(failed)
}

fn metadata(workspace: &Path, triple: &str) -> io::Result<Value> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", triple]);
    let output = cargo.current_dir(workspace).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// SHA-256 of each crate's archive, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let of = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    };
    lock.split("[[package]]").filter_map(of).collect()
}

/// The document; none when the package is not in what cargo resolved.
fn document(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    package: &str,
) -> Option<Value> {
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).filter_map(|each| Some((each["id"].as_str()?, each))).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let members: BTreeSet<&str> = list(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let root = *packages.iter().find(|(id, each)| each["name"] == package && members.contains(*id))?.0;
    let edges = edges(&nodes, root);
    let all: BTreeSet<&str> = edges.iter().flat_map(|(from, to)| [*from, *to]).chain([root]).collect();
    let described: Vec<Value> = all.iter().filter_map(|id| described(packages.get(id)?, checksums)).collect();
    let relation = |from: String, kind: &str, to: String| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let reference = |id: &str| reference(packages.get(id)?);
    let mut relations = vec![relation("SPDXRef-DOCUMENT".to_owned(), "DESCRIBES", reference(root)?)];
    for (from, to) in &edges {
        relations.push(relation(reference(from)?, "DEPENDS_ON", reference(to)?));
    }
    let version = packages.get(root)?["version"].as_str()?;
    let digest = hex(&Sha256::digest(Value::from(described.clone()).to_string()));
    let repository = env!("CARGO_PKG_REPOSITORY");
    Some(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{package}-{version}"),
        "documentNamespace": format!("{repository}/spdx/{package}-{version}-{digest}"),
        "creationInfo": {"created": CREATED, "creators": ["Tool: cargo xtask images"]},
        "packages": described,
        "relationships": relations,
    }))
}

/// Who depends on whom below this package, tests not counted.
fn edges<'a>(nodes: &BTreeMap<&'a str, &'a Value>, root: &'a str) -> BTreeSet<(&'a str, &'a str)> {
    let (mut found, mut seen, mut next) = (BTreeSet::new(), BTreeSet::from([root]), vec![root]);
    while let Some(from) = next.pop() {
        let Some(node) = nodes.get(from) else { continue };
        for dependency in list(&node["deps"]) {
            let is_used = list(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev");
            if let Some(to) = dependency["pkg"].as_str().filter(|_| is_used) {
                found.insert((from, to));
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
    }
    found
}

fn described(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Option<Value> {
    let (name, version) = (package["name"].as_str()?, package["version"].as_str()?);
    // Older crates write a slash where SPDX has OR.
    let license = package["license"].as_str().map(|license| license.replace('/', " OR "));
    let mut described = json!({
        "SPDXID": reference(package)?,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": license.unwrap_or_else(|| "NOASSERTION".to_owned()),
        "copyrightText": "NOASSERTION",
    });
    // What has none is of this repository.
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        let fields = described.as_object_mut()?;
        let download = format!("https://crates.io/api/v1/crates/{name}/{version}/download");
        fields.insert("downloadLocation".to_owned(), download.into());
        fields.insert("checksums".to_owned(), json!([{"algorithm": "SHA256", "checksumValue": checksum}]));
        let purl = format!("pkg:cargo/{name}@{version}");
        fields.insert(
            "externalRefs".to_owned(),
            json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}]),
        );
    }
    Some(described)
}

/// An SPDX identifier has letters, digits, `.` and `-` only.
fn reference(package: &Value) -> Option<String> {
    let text = format!("SPDXRef-Package-{}-{}", package["name"].as_str()?, package["version"].as_str()?);
    Some(text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-', "-"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_i10_the_bill_of_materials_of_the_proxy_has_what_the_lockfile_pins_and_nothing_of_its_tests() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = tempfile::tempdir().unwrap();
        let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
        let write = |name: &str| {
            let file = folder.path().join(name);
            write(&workspace, &triple, "agentsandbox-proxy", &file).unwrap();
            fs::read_to_string(file).unwrap()
        };
        let text = write("a");
        assert_eq!(text, write("b"), "the same each time");
        let document: Value = serde_json::from_str(&text).unwrap();
        let names: BTreeSet<&str> =
            list(&document["packages"]).map(|package| package["name"].as_str().unwrap()).collect();
        for name in ["agentsandbox-proxy", "agentsandbox-policy", "rustls", "aws-lc-sys", "hyper"] {
            assert!(names.contains(name), "{name} is missing");
        }
        for name in ["kube", "proptest", "tempfile", "ring"] {
            assert!(!names.contains(name), "{name} is not in it");
        }
        let lock = fs::read_to_string(workspace.join("Cargo.lock")).unwrap();
        for package in list(&document["packages"]) {
            let is_ours = package["name"].as_str().unwrap().starts_with("agentsandbox-");
            let checksum = package["checksums"][0]["checksumValue"].as_str();
            assert_eq!(checksum.is_none(), is_ours, "{package}");
            assert!(checksum.is_none_or(|checksum| checksum.len() == 64 && lock.contains(checksum)));
        }
        assert!(list(&document["relationships"]).count() > names.len());
        assert!(matches!(write_unknown(&workspace, &triple, folder.path()), Err(SbomError::Unresolved(_))));
    }

    fn write_unknown(workspace: &Path, triple: &str, folder: &Path) -> Result<(), SbomError> {
        write(workspace, triple, "agentsandbox-nobody", &folder.join("c"))
    }
}
