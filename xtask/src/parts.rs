//! The cluster's programs, built from Go modules once into a cache that is keyed by their committed inputs.
//!
//! Each part has a module of its own under `xtask/rig`, because their requirements conflict. A part whose inputs have
//! not changed is not built again; a build that was cut off leaves no part that looks whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::failure::{During, Failure, Result};
use crate::{paths, shell};

/// Version of Kubernetes that the rig runs; its module is pinned to the same.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// Version of the CRI's own tests: the one that the rig's containerd is tested with by its makers.
pub const CRITEST_VERSION: &str = "v1.37.0";

/// Changed when the way of building changes without a change of a part's files.
const RECIPE: &str = "1";

/// A Go module of the rig and the programs built from it.
struct Part {
    /// Folder under `xtask/rig`.
    folder: &'static str,
    /// Program name and Go package.
    programs: &'static [(&'static str, &'static str)],
    /// Build tags.
    tags: &'static str,
    /// What is changed in its sources.
    patch: Patch,
}

/// A change of gVisor's sources, made in one file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patch {
    None,
    /// The shim does not lower its own OOM score: where the capability is missing the kernel refuses that, and the shim then
    /// starts nothing.
    OomScore,
    /// `runsc exec --detach`, by which a container's exec is started, looks whether the pid file is there, and then whether the
    /// process has ended. A command that is done between the two is told as one that could not be started, and how it ended is
    /// lost. With the change what has ended is asked for its pid file once more, and left to be waited for by the shim.
    EndedExec,
}

/// A source with its change, or none where the place of it is not found.
type Mend = fn(&str) -> Option<String>;

/// The longest build comes first.
const PARTS: [Part; 8] = [
    Part { folder: "kubernetes", programs: &[("kubernetes", ".")], tags: "", patch: Patch::None },
    Part {
        folder: "gvisor",
        programs: &[("runsc", "gvisor.dev/gvisor/runsc")],
        tags: "",
        patch: Patch::EndedExec,
    },
    Part {
        folder: "gvisor",
        programs: &[("containerd-shim-runsc-v1", "gvisor.dev/gvisor/shim")],
        tags: "",
        patch: Patch::OomScore,
    },
    Part {
        folder: "containerd",
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        tags: "no_btrfs no_zfs no_devmapper urfave_cli_no_docs",
        patch: Patch::None,
    },
    Part {
        folder: "coredns",
        programs: &[("coredns", "github.com/coredns/coredns")],
        tags: "",
        patch: Patch::None,
    },
    Part {
        folder: "kuberouter",
        programs: &[("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router")],
        tags: "",
        patch: Patch::None,
    },
    Part { folder: "provisioner", programs: &[("provisioner", ".")], tags: "", patch: Patch::None },
    Part { folder: "helm", programs: &[("helm", "helm.sh/helm/v4/cmd/helm")], tags: "", patch: Patch::None },
];

/// Other people's tests and judges, each built when it is asked for. A name that ends in `.test` is that of a package's tests.
const JUDGES: [Part; 3] = [
    Part { folder: "cyclonus", programs: &[("cyclonus-cells", ".")], tags: "", patch: Patch::None },
    Part {
        folder: "critest",
        programs: &[("critest.test", "sigs.k8s.io/cri-tools/cmd/critest")],
        tags: "",
        patch: Patch::None,
    },
    Part {
        folder: "kubernetes-tests",
        programs: &[("netpol.test", "./netpol"), ("agnhost", "./agnhost")],
        tags: "",
        patch: Patch::None,
    },
];

/// Names by which the multi-call binary is called.
const KUBERNETES_PROGRAMS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// Free space that a build from nothing needs: sources, Go's own cache and the programs.
pub const BUILD_BYTES_FREE_MIN: u64 = 15 << 30;

/// More than the sources of all parts take.
const SOURCE_BYTES_MAX: u64 = 4 << 30;

/// The folder with the programs, all built.
///
/// # Errors
/// When Go is missing, the disk is full, or a build fails; the sentence says what to do.
pub fn built() -> Result<PathBuf> {
    let _held = paths::cache_locked("rig-bin")?;
    let bin = paths::cache().join("rig/bin");
    fs::create_dir_all(&bin).during(format!("{} cannot be made", bin.display()))?;
    let mut missing = Vec::new();
    for part in &PARTS {
        let key = part.key()?;
        if part.is_built(&key) { part.link(&key, &bin)? } else { missing.push((part, key)) }
    }
    if !missing.is_empty() {
        check_can_build(&bin)?;
        println!("building {} of {} parts of the cluster; this is done once", missing.len(), PARTS.len());
    }
    for (part, key) in missing {
        part.build(&key)?;
        part.link(&key, &bin)?;
    }
    for program in KUBERNETES_PROGRAMS {
        relink(&bin.join("kubernetes"), &bin.join(program))?;
    }
    Ok(bin)
}

/// A program of other people's tests and judges, built once.
///
/// # Errors
/// As [`built`], and when there is none of this name.
pub fn judge(name: &str) -> Result<PathBuf> {
    let part = JUDGES
        .iter()
        .find(|part| part.programs.iter().any(|(program, _)| *program == name))
        .during(format!("the rig has no program {name}"))?;
    let _held = paths::cache_locked(part.folder)?;
    let key = part.key()?;
    if !part.is_built(&key) {
        check_can_build(&paths::cache())?;
        println!("building {}; this is done once", part.folder);
        part.build(&key)?;
    }
    Ok(part.folder_of(&key).join(name))
}

/// Begins to download the sources of the parts that are not built, and does not wait: compilers keep the cores busy meanwhile.
/// What cannot be downloaded is told by [`built`], which asks again; where a build could not be made, nothing is.
pub fn fetch_ahead() {
    let folder = paths::cache();
    // The build asks for its room again, and the sources are not to be what it then lacks.
    let has_room = || free(&folder).is_ok_and(|bytes| bytes >= BUILD_BYTES_FREE_MIN + SOURCE_BYTES_MAX);
    if fs::create_dir_all(&folder).is_err() || !shell::exists("go") || !has_room() {
        return;
    }
    let missing = PARTS.iter().filter(|part| part.key().is_ok_and(|key| !part.is_built(&key)));
    let commands: Vec<Command> = missing.map(Part::listing).collect();
    std::thread::spawn(move || {
        for mut command in commands {
            let _told_by_the_build = command.output();
        }
    });
}

fn check_can_build(folder: &Path) -> Result<()> {
    if !shell::exists("go") {
        return Err(Failure::new(
            "Go 1.26 or newer is needed to build the cluster's programs: install it and put `go` on the PATH",
        ));
    }
    let free = free(folder)?;
    if free < BUILD_BYTES_FREE_MIN {
        return Err(Failure::new(format!(
            "{} GiB are free in {} and a build needs {}: free some, or set XDG_CACHE_HOME to a larger disk",
            free >> 30,
            folder.display(),
            BUILD_BYTES_FREE_MIN >> 30
        )));
    }
    Ok(())
}

/// Bytes that are free in a folder.
fn free(folder: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).during("the disk cannot be asked for its free space")?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

fn relink(to: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == to) {
        return Ok(());
    }
    let _absent = fs::remove_file(link);
    std::os::unix::fs::symlink(to, link).during(format!("{} cannot be linked", link.display()))
}

/// Whether this process may lower the OOM score of another (`CAP_SYS_RESOURCE`, bit 24 of the effective set).
#[must_use]
pub fn may_lower_oom_score() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << 24) != 0)
}

impl Part {
    fn source(&self) -> PathBuf {
        paths::repository().join("xtask/rig").join(self.folder)
    }

    /// Digest of everything the programs are made from.
    fn key(&self) -> Result<String> {
        let mut digest = Sha256::new();
        digest.update(format!("{RECIPE} {:?} {} {}", self.programs, self.tags, self.patch().is_some()));
        if self.patch == Patch::EndedExec {
            digest.update(ENDED_EXEC);
        }
        for file in ["go.mod", "go.sum", "main.go", "netpol/netpol_test.go", "agnhost/main.go"] {
            let path = self.source().join(file);
            if path.exists() {
                digest.update(fs::read(&path).during(format!("{} cannot be read", path.display()))?);
            }
        }
        Ok(digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
    }

    /// The change that is made on this machine, and the file it is made in.
    fn patch(&self) -> Option<(&'static str, Mend)> {
        match self.patch {
            Patch::OomScore if !may_lower_oom_score() => {
                Some(("pkg/shim/v1/manager.go", without_negative_oom_score))
            }
            Patch::EndedExec => Some(("runsc/specutils/specutils.go", asking_what_has_ended_again)),
            Patch::None | Patch::OomScore => None,
        }
    }

    fn folder_of(&self, key: &str) -> PathBuf {
        paths::cache().join("rig").join(format!("{}-{key}", self.folder))
    }

    fn is_built(&self, key: &str) -> bool {
        self.programs.iter().all(|(name, _)| self.folder_of(key).join(name).is_file())
    }

    fn link(&self, key: &str, bin: &Path) -> Result<()> {
        self.programs
            .iter()
            .try_for_each(|(name, _)| relink(&self.folder_of(key).join(name), &bin.join(name)))
    }

    /// Lists all packages that the programs are made from, for which Go has to download those that are not there.
    fn listing(&self) -> Command {
        let mut go = shell::command("go", &["list", "-deps", "-f", "", "-tags", self.tags]);
        go.args(self.programs.iter().map(|(_, package)| package));
        go.current_dir(self.source()).env("CGO_ENABLED", "0");
        go
    }

    fn build(&self, key: &str) -> Result<()> {
        let folder = self.folder_of(key);
        fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
        let patch = self.patch();
        let source = match patch {
            Some((file, mend)) => self.vendored(&folder, file, mend)?,
            None => self.source(),
        };
        for (name, package) in self.programs {
            let begin = Instant::now();
            println!("  {name} …");
            let partial = folder.join(format!("{name}.partial"));
            // Vet would look at all that the tests depend on.
            let build: &[&str] = match name.ends_with(".test") {
                true => &["test", "-c", "-vet=off", "-trimpath"],
                false => &["build", "-trimpath"],
            };
            let mut go = shell::command("go", build);
            go.args(["-ldflags", &self.ldflags(), "-tags", self.tags]);
            if patch.is_some() {
                go.arg("-mod=vendor");
            }
            go.arg("-o").arg(&partial).arg(package).current_dir(&source).env("CGO_ENABLED", "0");
            shell::logged(&mut go, &folder.join(format!("{name}.log")))?;
            let done = folder.join(name);
            fs::rename(&partial, &done).during(format!("{} cannot be written", done.display()))?;
            println!("  {name} built in {} s", begin.elapsed().as_secs());
        }
        Ok(())
    }

    /// Without these the API server calls itself v0.0.0-master and Helm's kubeVersion checks misjudge it.
    fn ldflags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        if self.folder == "kubernetes" {
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                flags += &format!(
                    " -X {package}.gitVersion={KUBERNETES_VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor=36 -X {package}.gitTreeState=clean"
                );
            }
        }
        if self.folder == "critest" {
            flags += &format!(" -X sigs.k8s.io/cri-tools/pkg/version.Version={CRITEST_VERSION}");
        }
        flags
    }

    /// A copy of the module with its sources, in which one file is mended. (`go build -overlay` refuses files of the module
    /// cache.)
    fn vendored(&self, folder: &Path, file: &str, mend: Mend) -> Result<PathBuf> {
        let copy = folder.join("vendored");
        fs::create_dir_all(&copy).during(format!("{} cannot be made", copy.display()))?;
        for file in ["go.mod", "go.sum", "tools.go"] {
            fs::copy(self.source().join(file), copy.join(file)).during(format!("{file} cannot be copied"))?;
        }
        let mut vendor: Command = shell::command("go", &["mod", "vendor"]);
        shell::logged(vendor.current_dir(&copy), &folder.join("vendor.log"))?;
        let path = copy.join("vendor/gvisor.dev/gvisor").join(file);
        let text = fs::read_to_string(&path).during(format!("{} cannot be read", path.display()))?;
        let mended = mend(&text).during(format!("gVisor's {file} no longer has what is mended in it"))?;
        fs::write(&path, mended).during(format!("{} cannot be written", path.display()))?;
        Ok(copy)
    }
}

/// Stands before gVisor's own look at the process, which takes away how it ended.
const ENDED_EXEC: &str = "\
\t\tvar ended unix.Siginfo
\t\tif err := unix.Waitid(unix.P_PID, pid, &ended, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
\t\t\treturn backoff.Permanent(fmt.Errorf(\"error looking at process: %v\", err))
\t\t}
\t\tif ended.Signo == 0 {
\t\t\treturn fmt.Errorf(\"process %d not running yet\", pid)
\t\t}
\t\tif ok, err := ready(); err == nil && ok {
\t\t\treturn nil
\t\t}
";

/// The source whose `WaitForReady` looks for the pid file of what has ended once more, or none where its place is not found.
fn asking_what_has_ended_again(source: &str) -> Option<String> {
    let (before, function) = source.split_once("func WaitForReady(")?;
    let body = function.split_once("\n}\n")?.0;
    let at = body.find("\t\tvar ws unix.WaitStatus\n")?;
    let (asked, waits) = function.split_at(at);
    Some(format!("{before}func WaitForReady({asked}{ENDED_EXEC}{waits}"))
}

/// The source with `oomScoreMax` set to 0, or none where the constant is not found.
fn without_negative_oom_score(source: &str) -> Option<String> {
    let line = source.lines().find(|l| l.trim_start().starts_with("oomScoreMax") && l.contains('='))?;
    let (left, _) = line.split_once('=')?;
    Some(source.replacen(line, &format!("{left}= 0"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oom_score_constant_is_found_and_set_to_zero_or_the_build_fails() {
        let source = "const (\n\toomScoreMax = -999\n\tother = 1\n)";
        assert_eq!(without_negative_oom_score(source).unwrap(), "const (\n\toomScoreMax = 0\n\tother = 1\n)");
        assert_eq!(without_negative_oom_score("const other = 1"), None);
    }

    #[test]
    fn a_process_that_has_ended_is_asked_once_more_before_gvisor_takes_how_it_ended_or_the_build_fails() {
        let waits = "\t\tvar ws unix.WaitStatus\n\t\tunix.Wait4(pid, &ws, unix.WNOHANG, &ru)\n}\n";
        let before = "package specutils\n\t\tvar ws unix.WaitStatus\nfunc WaitForReady(pid int) error {\n";
        assert_eq!(
            asking_what_has_ended_again(&format!("{before}{waits}")).unwrap(),
            format!("{before}{ENDED_EXEC}{waits}")
        );
        assert_eq!(
            asking_what_has_ended_again(
                "func WaitForReady(pid int) error {\n}\n\t\tvar ws unix.WaitStatus\n"
            ),
            None
        );
        assert_eq!(asking_what_has_ended_again("package specutils"), None);
    }

    #[test]
    fn every_part_has_a_module() {
        for part in PARTS.iter().chain(&JUDGES) {
            assert!(part.source().join("go.mod").is_file(), "{}", part.folder);
        }
    }
}
