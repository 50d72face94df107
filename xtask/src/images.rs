//! The project's images, without a registry and without a builder: static binaries, one file each, from scratch.
//!
//! `cargo xtask images` builds the binaries once, puts each into an archive of its own under `target/images`, and with
//! `--load` hands the archives to the cluster. The same sources give the same digests: paths are remapped out of the
//! binaries, and `oci` adds nothing that varies. `--verify` builds everything a second time, elsewhere, and compares.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use memchr::memmem;
use thiserror::Error;

use crate::oci::{self, Archive, File, Image, OciError};
use crate::paths;

/// Every image runs as this user, which no file in it belongs to.
const USER: &str = "65532:65532";
/// A static binary of ours is well below this; more means that something came along which should not have.
const IMAGE_BYTES_MAX: u64 = 48 << 20;

/// One image of ours: a crate, its binary, and the image's name.
#[derive(Clone, Copy, Debug)]
struct Component {
    package: &'static str,
    repository: &'static str,
    tag: &'static str,
}

/// What users run.
const PRODUCT: [Component; 3] = [
    Component {
        package: "agentsandbox-operator",
        repository: "ghcr.io/agentsandbox/operator",
        tag: env!("CARGO_PKG_VERSION"),
    },
    Component {
        package: "agentsandbox-proxy",
        repository: "ghcr.io/agentsandbox/proxy",
        tag: env!("CARGO_PKG_VERSION"),
    },
    Component {
        package: "agentsandbox-init",
        repository: "ghcr.io/agentsandbox/init",
        tag: env!("CARGO_PKG_VERSION"),
    },
];
/// What the cluster tests run besides.
const TEST: [Component; 1] =
    [Component { package: "agentsandbox-prober", repository: "agentsandbox.test/prober", tag: "1" }];

/// Which images are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those that users run.
    Product,
    /// Those, and the ones of the cluster tests.
    WithTests,
}

/// Why there are no images.
#[derive(Debug, Error)]
pub enum ImagesError {
    /// Cargo could not be run.
    #[error("cannot run cargo")]
    Cargo(#[source] io::Error),
    /// Cargo failed; it has said why.
    #[error("cargo could not build the binaries ({0})")]
    Build(ExitStatus),
    /// A binary is missing or unreadable.
    #[error("cannot read the binary {path}")]
    Binary {
        /// Where it should be.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A binary needs a loader, which a scratch image has not.
    #[error("{0} is not a static binary")]
    NotStatic(PathBuf),
    /// A binary holds a path of this machine.
    #[error("{path} names {folder}, a folder of the machine that built it, so it is another one elsewhere")]
    NamesMachine {
        /// The binary.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// A binary is larger than any of ours should be.
    #[error("{path} has {bytes} bytes; at most {IMAGE_BYTES_MAX} are expected")]
    TooLarge {
        /// The binary.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The archive could not be made.
    #[error(transparent)]
    Archive(#[from] OciError),
    /// Two builds of the same sources differ.
    #[error("{reference} is not reproducible: {first}, then {second}")]
    Differs {
        /// The image.
        reference: String,
        /// Digest of the first build.
        first: String,
        /// Digest of the second build.
        second: String,
    },
}

/// Builds the selected images and writes `target/images/<name>.tar`.
pub fn build(workspace: &Path, selection: Selection) -> Result<Vec<Archive>, ImagesError> {
    let target = target(workspace);
    compile(workspace, &target, selection)?;
    archives(workspace, &target, &target.join("images"), selection)
}

/// Builds the programs of the selected images, and writes no image: somebody else may be reading those.
pub fn programs(workspace: &Path, selection: Selection) -> Result<(), ImagesError> {
    compile(workspace, &target(workspace), selection)
}

/// Builds the operator's program alone, with the flags of its image, and says where it is.
pub fn operator(workspace: &Path) -> Result<PathBuf, ImagesError> {
    let target = target(workspace);
    let package = "agentsandbox-operator";
    compile_packages(workspace, &target, &[package])?;
    Ok(target.join(triple()).join("release").join(package))
}

/// Builds the images again in a folder of their own, from nothing, and compares digests.
pub fn verify(workspace: &Path, first: &[Archive], selection: Selection) -> Result<(), ImagesError> {
    let target = target(workspace).join("images-second-build");
    compile(workspace, &target, selection)?;
    let second = archives(workspace, &target, &target.join("images"), selection)?;
    for (first, second) in first.iter().zip(&second) {
        if first.digest != second.digest {
            return Err(ImagesError::Differs {
                reference: first.reference.clone(),
                first: first.digest.clone(),
                second: second.digest.clone(),
            });
        }
    }
    Ok(())
}

fn components(selection: Selection) -> Vec<Component> {
    match selection {
        Selection::Product => PRODUCT.to_vec(),
        Selection::WithTests => PRODUCT.into_iter().chain(TEST).collect(),
    }
}

/// The triple of this machine's own architecture; there is no cross-building here.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Cargo's output folder, as a whole path: it is taken out of binaries.
fn target(workspace: &Path) -> PathBuf {
    workspace.join(paths::target())
}

fn compile(workspace: &Path, target: &Path, selection: Selection) -> Result<(), ImagesError> {
    let mut packages: Vec<&str> =
        components(selection).into_iter().map(|component| component.package).collect();
    if selection == Selection::WithTests {
        // The world runs beside the cluster, not in it, so it is no image.
        packages.push("agentsandbox-world");
    }
    compile_packages(workspace, target, &packages)
}

fn compile_packages(workspace: &Path, target: &Path, packages: &[&str]) -> Result<(), ImagesError> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--release", "--locked"]);
    // With an explicit target the flags reach our code only, not build scripts, and the artefacts lie apart from
    // everyday builds, which therefore stay valid.
    cargo.arg("--target").arg(triple()).arg("--target-dir").arg(target);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let prefixes = prefixes(target);
    let remapped = prefixes.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}"));
    let flags: Vec<String> =
        ["-C".to_owned(), "target-feature=+crt-static".to_owned()].into_iter().chain(remapped).collect();
    // The unit separator lets paths contain spaces.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let c_flags: Vec<String> =
        prefixes.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
    cargo.env(format!("CFLAGS_{}", triple().replace('-', "_")), c_flags.join(" "));
    let status = cargo.status().map_err(ImagesError::Cargo)?;
    if status.success() { Ok(()) } else { Err(ImagesError::Build(status)) }
}

/// Paths of this machine that would end up in panic messages and debug sections, and what stands there instead. The repository's own
/// is none of them: cargo names its files from its root, and other people's crates, which are built with the same flags, then need
/// not be built again for a repository that lies elsewhere.
fn prefixes(target: &Path) -> Vec<(String, &'static str)> {
    let known = [(Some(target.to_owned()), "/target"), (cargo_home(), "/cargo")];
    known.into_iter().filter_map(|(path, name)| Some((path?.display().to_string(), name))).collect()
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// Folders of sources on this machine: a binary that names one is not the same elsewhere.
fn sources(workspace: &Path) -> Vec<PathBuf> {
    let packages = PRODUCT.iter().map(|component| component.package);
    let folders = packages.filter_map(|package| package.strip_prefix("agentsandbox-"));
    let own = folders.map(|folder| workspace.join(folder).join("src"));
    own.chain(cargo_home().map(|home| home.join("registry"))).collect()
}

fn archives(
    workspace: &Path,
    target: &Path,
    folder: &Path,
    selection: Selection,
) -> Result<Vec<Archive>, ImagesError> {
    let sources = sources(workspace);
    components(selection)
        .into_iter()
        .map(|component| {
            let binary = target.join(triple()).join("release").join(component.package);
            let image = image(component, static_binary(&binary, &sources)?);
            let name = component.repository.rsplit('/').next().unwrap_or(component.package);
            Ok(oci::write(&image, &folder.join(format!("{name}.tar")))?)
        })
        .collect()
}

fn image(component: Component, content: Vec<u8>) -> Image {
    let path = format!("/{}", component.package);
    let label = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    Image {
        reference: format!("{}:{}", component.repository, component.tag),
        files: BTreeMap::from([(path.clone(), File { content, mode: 0o755 })]),
        entrypoint: vec![path],
        user: USER.to_owned(),
        labels: BTreeMap::from([
            label("title", component.package),
            label("version", component.tag),
            label("licenses", env!("CARGO_PKG_LICENSE")),
            label("source", env!("CARGO_PKG_REPOSITORY")),
        ]),
        ..Image::default()
    }
}

fn static_binary(path: &Path, sources: &[PathBuf]) -> Result<Vec<u8>, ImagesError> {
    let bytes = fs::read(path).map_err(|source| ImagesError::Binary { path: path.to_owned(), source })?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > IMAGE_BYTES_MAX {
        return Err(ImagesError::TooLarge { path: path.to_owned(), bytes: size });
    }
    if has_interpreter(&bytes) {
        return Err(ImagesError::NotStatic(path.to_owned()));
    }
    let named = sources.iter().find(|source| memmem::find(&bytes, source.as_os_str().as_bytes()).is_some());
    match named {
        Some(folder) => Err(ImagesError::NamesMachine { path: path.to_owned(), folder: folder.clone() }),
        None => Ok(bytes),
    }
}

/// Whether a 64-bit little-endian ELF file asks for a loader (`PT_INTERP`). What is no such file counts as if it did.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    const HEADERS_AT: usize = 0x20;
    const HEADER_SIZE_AT: usize = 0x36;
    const HEADER_COUNT_AT: usize = 0x38;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return true;
    }
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        field
            .iter()
            .rev()
            .try_fold(0_usize, |number, byte| number.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    let Some(((start, size), count)) =
        number(HEADERS_AT, 8).zip(number(HEADER_SIZE_AT, 2)).zip(number(HEADER_COUNT_AT, 2))
    else {
        return true;
    };
    (0..count).any(|index| {
        number(start.saturating_add(index.saturating_mul(size)), 4) == usize::try_from(PT_INTERP).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_asks_for_a_loader_is_not_static() {
        let mut elf = vec![0; 0x40 + 0x38 * 2];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 0x38;
        elf[0x38] = 2;
        elf[0x40] = 1;
        elf[0x40 + 0x38] = 2;
        assert!(!has_interpreter(&elf));
        elf[0x40 + 0x38] = 3;
        assert!(has_interpreter(&elf));
        assert!(has_interpreter(b"#!/bin/sh"), "a script needs an interpreter too");
    }

    #[test]
    fn o_c1_every_image_runs_as_nobody_with_one_file_that_is_what_runs() {
        for component in components(Selection::WithTests) {
            let image = image(component, b"binary".to_vec());
            assert_eq!(image.user, "65532:65532");
            assert_eq!(image.files.keys().collect::<Vec<_>>(), image.entrypoint.iter().collect::<Vec<_>>());
            assert!(image.files.values().all(|file| file.mode == 0o755), "a program with special bits");
            assert!(!image.reference.ends_with(":latest"));
        }
    }

    /// The smallest there is: a header without segments.
    fn elf(content: &str) -> Vec<u8> {
        let mut elf = vec![0; 0x40];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf.extend_from_slice(content.as_bytes());
        elf
    }

    #[test]
    fn a_binary_that_names_a_folder_of_the_machine_that_built_it_makes_no_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("binary");
        let sources = sources(Path::new("/somewhere"));
        let home = cargo_home().unwrap().display().to_string();
        for (content, is_told) in [
            ("operator/src/main.rs and /cargo/registry/src/hyper".to_owned(), false),
            ("/somewhere/operator/src/main.rs".to_owned(), true),
            (format!("{home}/registry/src/hyper/lib.rs"), true),
        ] {
            fs::write(&path, elf(&content)).unwrap();
            let outcome = static_binary(&path, &sources);
            assert_eq!(
                matches!(outcome, Err(ImagesError::NamesMachine { .. })),
                is_told,
                "{content}: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_repository_that_lies_elsewhere_is_built_with_the_same_flags() {
        let prefixes = prefixes(Path::new("/somewhere/target"));
        let names: Vec<&str> = prefixes.iter().map(|(_, name)| *name).collect();
        assert_eq!(names, ["/target", "/cargo"]);
    }
}
