//! The project's images, without a registry and without a builder: static binaries, one file each, from scratch.
//!
//! `cargo xtask images` builds the binaries once, puts each into an archive of its own under `target/images`, and with
//! `--load` hands the archives to the cluster. The same sources give the same digests: paths are remapped out of the
//! binaries, and `oci` adds nothing that varies. `--verify` builds everything a second time, elsewhere, and compares.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use thiserror::Error;

use crate::oci::{self, Archive, File, Image, OciError};

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
    let target = workspace.join("target");
    compile(workspace, &target, selection)?;
    archives(&target, &target.join("images"), selection)
}

/// Builds the programs of the selected images, and writes no image: somebody else may be reading those.
pub fn programs(workspace: &Path, selection: Selection) -> Result<(), ImagesError> {
    compile(workspace, &workspace.join("target"), selection)
}

/// Builds the operator's program alone, with the flags of its image, and says where it is.
pub fn operator(workspace: &Path) -> Result<PathBuf, ImagesError> {
    let target = workspace.join("target");
    let package = "agentsandbox-operator";
    compile_packages(workspace, &target, &[package])?;
    Ok(target.join(triple()).join("release").join(package))
}

/// Builds the images again in a folder of their own, from nothing, and compares digests.
pub fn verify(workspace: &Path, first: &[Archive], selection: Selection) -> Result<(), ImagesError> {
    let target = workspace.join("target/images-second-build");
    compile(workspace, &target, selection)?;
    let second = archives(&target, &target.join("images"), selection)?;
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
    let prefixes = prefixes(workspace, target);
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

/// Paths of this machine that would end up in panic messages and debug sections, and what stands there instead. Later
/// prefixes win where several match, so the target folder comes after the workspace.
fn prefixes(workspace: &Path, target: &Path) -> Vec<(String, &'static str)> {
    let cargo_home =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let known = [
        (Some(workspace.to_owned()), "/agentsandbox"),
        (Some(target.to_owned()), "/target"),
        (cargo_home, "/cargo"),
    ];
    known.into_iter().filter_map(|(path, name)| Some((path?.display().to_string(), name))).collect()
}

fn archives(target: &Path, folder: &Path, selection: Selection) -> Result<Vec<Archive>, ImagesError> {
    components(selection)
        .into_iter()
        .map(|component| {
            let binary = target.join(triple()).join("release").join(component.package);
            let image = image(component, static_binary(&binary)?);
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

fn static_binary(path: &Path) -> Result<Vec<u8>, ImagesError> {
    let bytes = fs::read(path).map_err(|source| ImagesError::Binary { path: path.to_owned(), source })?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > IMAGE_BYTES_MAX {
        return Err(ImagesError::TooLarge { path: path.to_owned(), bytes: size });
    }
    if has_interpreter(&bytes) { Err(ImagesError::NotStatic(path.to_owned())) } else { Ok(bytes) }
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

    #[test]
    fn no_path_of_the_machine_that_builds_reaches_a_binary() {
        let prefixes = prefixes(Path::new("/somewhere"), Path::new("/somewhere/target"));
        let names: Vec<&str> = prefixes.iter().map(|(_, name)| *name).collect();
        assert_eq!(names, ["/agentsandbox", "/target", "/cargo"]);
    }
}
