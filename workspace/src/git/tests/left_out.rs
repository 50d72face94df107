//! What is left out is nowhere: in no file, and in no object.

use std::fs;
use std::path::Path;

use super::{Asked, Out, Served, git, git_with, taken};

const CANARY: &str = "git-canary-91c4";
const CONTROL: &str = "git-control-77af";

/// A pattern of the project's list, as a name that it leaves out.
fn name_of(pattern: &str) -> String {
    let plain = pattern.trim_start_matches("**/").replace('*', "x");
    match plain.strip_suffix('/') {
        Some(folder) => format!("{folder}/inside"),
        None => plain,
    }
}

fn names() -> Vec<String> {
    let lines = crate::exclusion::DEFAULT.lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '!'])).map(name_of).collect()
}

/// Every pattern in the tree, deeper in it, in its history alone, in a stash, in a submodule, and behind links.
fn seeded() -> (Served, usize) {
    let served = Served::new();
    let names = names();
    assert!(names.len() > 40, "{names:?}");
    for (number, name) in names.iter().enumerate() {
        served.write(&format!("past/{name}"), &format!("{CANARY} past {number}"));
        served.write(name, &format!("{CANARY} old {number}"));
    }
    served.write("moved/.env", &format!("{CANARY} moved"));
    served.commit("with secrets");
    fs::remove_dir_all(served.path().join("past")).unwrap();
    // In one commit the same content has a harmless name, which the tree of today has not.
    served.write("moved/settings.txt", &format!("{CANARY} moved"));
    served.commit("under another name");
    fs::remove_dir_all(served.path().join("moved")).unwrap();
    for (number, name) in names.iter().enumerate() {
        served.write(name, &format!("{CANARY} new {number}"));
        served.write(&format!("deep/er/{name}"), &format!("{CANARY} deep {number}"));
    }
    served.write(".env.example", CONTROL).write("own.secret", CANARY).write("src/main.rs", "fn main() {}\n");
    std::os::unix::fs::symlink(format!("{CANARY}-target"), served.path().join("id_rsa.pem")).unwrap();
    std::os::unix::fs::symlink("../.env", served.path().join("src/settings")).unwrap();
    let inner = Served::new();
    inner.write(".env", CANARY).commit("inner");
    git(served.path(), &["submodule", "--quiet", "add", inner.path().to_str().unwrap(), "module"]);
    served.commit("today");
    served.write(".env", &format!("{CANARY} stashed"));
    git(served.path(), &["stash", "-q"]);
    (served, names.len())
}

/// Files with this text: as they are, and as each object is unpacked by git.
fn holding(tree: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![tree.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_dir() {
                waiting.push(path);
                continue;
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.strip_prefix(tree).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let objects = git_with(tree, &["cat-file", "--batch-all-objects", "--batch"], b"").unwrap();
    if objects.windows(text.len()).any(|window| window == text.as_bytes()) {
        found.push("an object".to_owned());
    }
    found.sort();
    found
}

fn out(served: &Served, depth: u32, include: &[&str]) -> Out {
    let id = git(served.path(), &["rev-parse", "HEAD"]);
    let exclude = ["*.secret"];
    let asked = Asked { wanted: &id, branch: Some("main"), exclude: &exclude, include, ..Asked::default() };
    taken(&served.pack(&id, depth), &asked).unwrap()
}

#[test]
fn p_g7_no_byte_of_what_is_left_out_is_in_a_file_or_object_of_the_tree_and_its_history() {
    let (served, count) = seeded();
    for depth in [1, 2, 100] {
        let out = out(&served, depth, &[".env.example"]);
        assert_eq!(holding(&out.tree(), CANARY), [""; 0], "{depth}");
        assert_eq!(
            holding(&out.tree(), CONTROL),
            [".env.example", "an object"],
            "the search finds what is there"
        );
        git_with(&out.tree(), &["fsck", "--full", "--strict"], b"").unwrap();
        assert_eq!(out.git(&["status", "--porcelain"]), "");
        assert_eq!(out.git(&["stash", "list"]), "");
        assert_eq!(out.done.submodules, 1);
        assert_eq!(fs::read_dir(out.tree().join("module")).unwrap().count(), 0, "an empty folder");
        let left_out = out.done.unpacked.left_out + out.done.unpacked.excluded;
        // Each twice, `own.secret`, and the link.
        assert_eq!(left_out as usize, 2 * count + 2, "{:?}", out.notes);
    }
}

#[test]
fn what_is_included_is_there_with_its_object_and_its_past() {
    let (served, _) = seeded();
    let out = out(&served, 100, &[".env"]);
    let found = holding(&out.tree(), CANARY);
    assert_eq!(found, [".env", "an object", "deep/er/.env"]);
    assert!(out.git(&["show", "HEAD:.env"]).contains(CANARY));
    assert!(out.git(&["show", "HEAD~2:moved/.env"]).contains(CANARY));
}

#[test]
fn a_content_that_the_tree_has_under_a_name_of_its_own_stays() {
    let served = Served::new();
    served.write("empty.txt", "").write(".env", "").write("a.txt", "same").write("b.pem", "same");
    let id = served.commit("one");
    let out = taken(&served.pack(&id, 1), &Asked { wanted: &id, ..Asked::default() }).unwrap();
    assert_eq!((out.git(&["status", "--porcelain"]), out.done.unpacked.left_out), (String::new(), 2));
    assert!(!out.tree().join(".env").exists() && !out.tree().join("b.pem").exists());
    assert_eq!(fs::read_to_string(out.tree().join("a.txt")).unwrap(), "same");
    assert!(!out.git(&["config", "--list"]).contains("promisor"), "no object is missing");
}
