//! The images of critest's pods: one Debian under the names that are written in critest, each with its own user and program.
//!
//! Upstream's are busybox and nginx from a registry, which the rig has not. The specs compare what busybox' programs say, so they stand in
//! the place of Debian's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::agent_images::{debian, digest_of, hex};
use crate::failure::{During, Result};
use crate::{paths, shell};

/// Changed when the recipe below changes.
const RECIPE: &str = "1";
const PACKAGES: &str = "nginx-light,busybox-static,procps,net-tools";
const E2E: &str = "registry.k8s.io/e2e-test-images";
const STAGING: &str = "gcr.io/k8s-staging-cri-tools";

/// Says whose rights it has.
const NO_NEW_PRIVILEGES: &str = "#include <stdio.h>
#include <unistd.h>
int main(void) { printf(\"Effective uid: %d\\n\", (int)geteuid()); return 0; }
";

/// Name, program and user of each image.
fn images() -> [(String, Value, &'static str); 10] {
    let e2e = |name: &str| format!("{E2E}/{name}");
    let staging = |name: &str| format!("{STAGING}/{name}:latest");
    let (shell, nginx) = (json!(["sh"]), "exec nginx -g 'daemon off;'");
    let other_port = "sed -i 's/listen 80 /listen 12003 /; /::/d' /etc/nginx/sites-enabled/default; ";
    [
        (e2e("busybox:1.29-2"), shell.clone(), ""),
        (e2e("nginx:1.14-2"), json!(["nginx", "-g", "daemon off;"]), ""),
        (e2e("httpd:2.4.39-4"), json!(["sh", "-c", format!("echo httpd; {nginx}")]), ""),
        (e2e("nonewprivs:1.3"), json!(["/no-new-privileges"]), "1000"),
        (staging("hostnet-nginx-amd64"), json!(["sh", "-c", format!("{other_port}{nginx}")]), ""),
        (staging("test-image-predefined-group"), shell.clone(), "1000"),
        (staging("test-image-user-uid"), shell.clone(), "1002"),
        (staging("test-image-user-username"), shell.clone(), "www-data"),
        (staging("test-image-user-uid-group"), shell.clone(), "1003:50000"),
        (staging("test-image-user-username-group"), shell, "www-data:100"),
    ]
}

/// An archive of all of them, built once.
///
/// # Errors
/// When a package client or the compiler fails; the sentence names its log.
pub fn built() -> Result<PathBuf> {
    let recipe = format!("{RECIPE} {PACKAGES} {NO_NEW_PRIVILEGES} {:?}", images());
    let key: String = hex(&Sha256::digest(recipe)).chars().take(16).collect();
    let folder = paths::cache().join(format!("rig/critest-images-{key}"));
    let archive = folder.join("images.tar");
    let _held = paths::cache_locked("critest-images")?;
    if archive.exists() {
        return Ok(archive);
    }
    let root = folder.join("root");
    let _absent = fs::remove_dir_all(&root);
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    debian(PACKAGES, &folder, &root)?;
    complete(&folder, &root)?;
    pack(&folder, &root, &archive)?;
    fs::remove_dir_all(&root).during(format!("{} cannot be removed", root.display()))?;
    Ok(archive)
}

/// What Debian has not: a user in a group of the image, busybox' programs by their names, and a program with set-uid.
fn complete(folder: &Path, root: &Path) -> Result<()> {
    let append = |file: &str, line: &str| {
        let path = root.join(file);
        let text = fs::read_to_string(&path).during(format!("{} cannot be read", path.display()))?;
        fs::write(&path, text + line).during(format!("{} cannot be written", path.display()))
    };
    append("etc/passwd", "default-user:x:1000:1000::/home/default-user:/bin/sh\n")?;
    append("etc/group", "group-defined-in-image:x:50000:default-user\n")?;
    let (source, program) = (folder.join("no-new-privileges.c"), root.join("no-new-privileges"));
    fs::write(&source, NO_NEW_PRIVILEGES).during("a program cannot be written")?;
    let mut cc = shell::command("cc", &["-O2", "-static", "-s", "-o"]);
    shell::output(cc.arg(&program).arg(&source))?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .during("a program cannot be given its rights")?;
    let list = shell::output(&mut shell::command(root.join("usr/bin/busybox"), &["--list"]))?;
    for name in list.lines().filter(|name| *name != "busybox") {
        let path = root.join("usr/bin").join(name);
        let _absent = fs::remove_file(&path);
        std::os::unix::fs::symlink("busybox", &path).during(format!("{name} cannot be linked"))?;
    }
    Ok(())
}

/// One layer, and a configuration for each name.
fn pack(folder: &Path, root: &Path, archive: &Path) -> Result<()> {
    let layer = folder.join("layer.tar");
    let mut tar = shell::command("tar", &["--sort=name", "--numeric-owner", "-C"]);
    tar.arg(root).arg("-cf").arg(&layer);
    shell::output(tar.args(["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "."]))?;
    let layers = json!({"type": "layers", "diff_ids": [format!("sha256:{}", digest_of(&layer)?)]});
    let (mut files, mut manifest) = (vec!["manifest.json".to_owned(), "layer.tar".to_owned()], Vec::new());
    for (name, program, user) in images() {
        let env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
        let config = json!({"architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {"Cmd": program, "User": user, "Env": env}, "rootfs": layers})
        .to_string();
        let file = format!("{}.json", hex(&Sha256::digest(&config)));
        fs::write(folder.join(&file), config).during("a configuration cannot be written")?;
        manifest.push(json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
        if !files.contains(&file) {
            files.push(file);
        }
    }
    fs::write(folder.join("manifest.json"), json!(manifest).to_string())
        .during("the manifest cannot be written")?;
    let partial = folder.join("images.partial");
    let mut tar = shell::command("tar", &["--numeric-owner", "-C"]);
    shell::output(tar.arg(folder).arg("-cf").arg(&partial).args(&files))?;
    fs::remove_file(&layer).during("the layer cannot be removed")?;
    fs::rename(&partial, archive).during(format!("{} cannot be written", archive.display()))
}
