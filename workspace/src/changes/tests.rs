//! Trees as an agent leaves them, told, shown and applied; judged by git and by the file system.

mod applied;
mod hostile;
mod streamed;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::apply::ApplyError;
use super::unified::{Binary, Unshown};
use super::{Bounds, Changes, stream, unified, walk};
use crate::limits::Limits;
use crate::refusal::Error;
use crate::tree::Tree;

/// An original, what an agent made of it, and a copy of the original outside.
struct Trees {
    folder: TempDir,
}

impl Trees {
    /// All three hold the same.
    fn new(original: impl Fn(&Path)) -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["original", "agent", "outside"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            original(&folder.path().join(name));
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn told(&self, bounds: &Bounds) -> (Vec<u8>, Result<(), Error>) {
        let open = |name| fs::File::open(self.path(name)).unwrap();
        let mut told = Vec::new();
        let done = walk::tell(open("original").as_fd(), open("agent").as_fd(), bounds, &mut told);
        (told, done)
    }

    fn changes(&self) -> Changes {
        let (told, done) = self.told(&Bounds::default());
        done.unwrap();
        stream::read(&mut told.as_slice(), &Bounds::default()).unwrap()
    }

    fn apply(&self, changes: &Changes) -> Result<(), ApplyError> {
        super::apply::apply(changes, fs::File::open(self.path("outside")).unwrap().as_fd())
    }

    /// What git says of the first two.
    fn git(&self, args: &[&str]) -> String {
        let repository = TempDir::new().unwrap();
        let git = |tree: &str, args: &[&str]| {
            let output = Command::new("git")
                .args(["-c", "core.autocrlf=false", "-c", "user.name=a", "-c", "user.email=a@b.test"])
                .arg("--git-dir")
                .arg(repository.path())
                .arg("--work-tree")
                .arg(self.path(tree))
                .args(args)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_SYSTEM", "/dev/null")
                .current_dir(self.path(tree))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        git("original", &["init", "-q"]);
        git("original", &["add", "-A", "-f"]);
        git("original", &["commit", "-q", "--allow-empty", "-m", "original"]);
        git("agent", &["add", "-A", "-f"]);
        git("agent", &[&["diff", "--cached", "--no-renames", "--no-ext-diff", "--full-index"], args].concat())
    }
}

fn shown(changes: &Changes) -> String {
    let mut out = Vec::new();
    changes.changes.iter().for_each(|change| unified::show(change, Binary::Named, &mut out).unwrap());
    String::from_utf8(out).unwrap()
}

/// Every path with all that counts of it.
fn listing(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if meta.is_dir() {
                found.push(format!("{name}/"));
                walk(root, &path, found);
            } else if meta.is_symlink() {
                found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if !meta.is_file() {
                found.push(format!("{name} is no file"));
            } else {
                let content = fs::read(&path).unwrap().escape_ascii().to_string();
                found.push(format!("{name} {} {content}", meta.mode() & 0o100 != 0));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn executable(root: &Path, name: &str, is_executable: bool) {
    let mode = if is_executable { 0o755 } else { 0o644 };
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

const PROGRAM: &str = "use std::fs;\n\nfn one() {\n    let a = 1;\n    let b = 2;\n    let c = 3;\n    let d = 4;\n}\n\nfn two() {\n    let e = 5;\n    let f = 6;\n    let g = 7;\n    let h = 8;\n    println!(\"{e}\");\n}\n";

fn project(root: &Path) {
    put(root, "src/main.rs", PROGRAM);
    put(root, "src/gone.rs", "fn gone() {}\n");
    put(root, "src-old/x", "x\n");
    put(root, "src.txt", "beside\n");
    put(root, "run.sh", "#!/bin/sh\n");
    put(root, "no newline", "the last line");
    put(root, "data.bin", b"\0\x01\x02");
    put(root, "becomes/folder", "one\n");
    put(root, "was-file", "was\n");
    put(root, "was-folder/a", "a\n");
    put(root, "was-folder/b", "b\n");
    put(root, "was-link-target", "t\n");
    put(root, "crlf.txt", "one\r\ntwo\r\n");
    put(root, "empty", "");
    put(root, "größe/ä \"quoted\" \\.txt", "a\n");
    symlink("src/main.rs", root.join("link")).unwrap();
    symlink("run.sh", root.join("was-link")).unwrap();
    fs::create_dir(root.join("empty-folder")).unwrap();
}

/// Edits, adds, deletes, renames, and changes modes and kinds.
fn work(root: &Path) {
    let text = PROGRAM
        .replace("let b = 2", "let b = 20")
        .replace("    let h = 8;\n", "    let h = 8;\n    let i = 9;\n");
    put(root, "src/main.rs", text);
    fs::remove_file(root.join("src/gone.rs")).unwrap();
    put(root, "src/new/deep.rs", "fn deep() {}\n");
    fs::rename(root.join("src-old/x"), root.join("src-old/y")).unwrap();
    executable(root, "run.sh", true);
    put(root, "no newline", "the last line\nand one more");
    put(root, "data.bin", b"\0\x01\x03");
    fs::remove_file(root.join("was-file")).unwrap();
    put(root, "was-file/inside", "in\n");
    fs::remove_dir_all(root.join("was-folder")).unwrap();
    put(root, "was-folder", "file now\n");
    fs::remove_file(root.join("was-link")).unwrap();
    put(root, "was-link", "file now\n");
    fs::remove_file(root.join("was-link-target")).unwrap();
    symlink("src", root.join("was-link-target")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("src.txt", root.join("link")).unwrap();
    put(root, "crlf.txt", "one\r\ntwo\nthree\r\n");
    put(root, "empty", "no more\n");
    put(root, "now-empty", "");
    put(root, "größe/ä \"quoted\" \\.txt", "b\n");
    put(root, "with space", "s\n");
    executable(root, "with space", true);
    fs::remove_dir(root.join("empty-folder")).unwrap();
    fs::create_dir(root.join("other-empty-folder")).unwrap();
}

#[test]
fn what_is_shown_is_what_git_says_of_the_same_trees() {
    let trees = Trees::new(project);
    assert_eq!(trees.changes(), Changes::default(), "nothing differs yet");
    work(&trees.path("agent"));
    let changes = trees.changes();
    assert_eq!(changes.refused, []);
    assert_eq!(shown(&changes), trees.git(&[]));
    let status: String = changes
        .changes
        .iter()
        .filter_map(|change| Some((unified::status(change)?, change.path.as_str())))
        .map(|(status, path)| format!("{status}\t{}\n", unified::quoted(path)))
        .collect();
    assert_eq!(status, trees.git(&["--name-status"]));
    let lines: String = changes
        .changes
        .iter()
        .filter(|change| unified::status(change).is_some_and(|status| status != 'T'))
        .map(|change| {
            let lines = unified::lines(change, Binary::Named)
                .map_or(("-".to_owned(), "-".to_owned()), |(added, removed)| {
                    (added.to_string(), removed.to_string())
                });
            format!("{}\t{}\t{}\n", lines.0, lines.1, unified::quoted(change.path.as_str()))
        })
        .collect();
    assert_eq!(lines, trees.git(&["--numstat", "--diff-filter=AMD"]));
}

#[test]
fn what_an_agent_hides_behind_a_zero_byte_is_named_and_shown_as_git_shows_it_when_asked() {
    let trees = Trees::new(project);
    put(&trees.path("agent"), "src/main.rs", format!("// \0\n{PROGRAM}"));
    put(&trees.path("agent"), "new.js", "/* \0 */ evil()\n");
    let changes = trees.changes().changes;
    assert_eq!(changes.len(), 2);
    for change in &changes {
        assert_eq!(unified::unshown(change, Binary::Named), Some(Unshown::Binary), "{}", change.path);
        assert_eq!(unified::unshown(change, Binary::AsText), None, "{}", change.path);
    }
    let mut out = Vec::new();
    changes.iter().for_each(|change| unified::show(change, Binary::AsText, &mut out).unwrap());
    assert_eq!(String::from_utf8(out).unwrap(), trees.git(&["--text"]));
}

#[test]
fn where_the_originals_content_is_not_told_what_is_there_now_is_shown_whole_and_said_to_be_so() {
    let trees = Trees::new(|root| {
        put(root, "large", "x\n".repeat(3 << 20));
        put(root, "gone", "x\n".repeat(3 << 20));
        put(root, "same", "x\n".repeat(3 << 20));
    });
    put(&trees.path("agent"), "large", "one\ntwo\n");
    fs::remove_file(trees.path("agent/gone")).unwrap();
    executable(&trees.path("agent"), "same", true);
    let changes = trees.changes();
    let why: Vec<_> = changes.changes.iter().map(|one| unified::unshown(one, Binary::Named)).collect();
    assert_eq!(why, [Some(Unshown::Untold), Some(Unshown::Untold), None], "gone, large, same");
    let text = shown(&changes);
    assert!(text.contains("Content of a/large is not shown: "), "{text}");
    assert!(text.contains("@@ -0,0 +1,2 @@\n+one\n+two\n"), "{text}");
    assert!(text.contains("Content of a/gone is not shown: "), "{text}");
    assert!(text.ends_with("diff --git a/same b/same\nold mode 100644\nnew mode 100755\n"), "{text}");
}

#[test]
fn what_would_take_too_much_memory_to_be_compared_is_said_to_be_too_large() {
    let trees = Trees::new(project);
    put(&trees.path("agent"), "lines", "\n".repeat(200_001));
    put(&trees.path("agent"), "bytes", "x".repeat((4 << 20) + 1));
    put(&trees.path("agent"), "run.sh", "\n".repeat(200_000));
    let changes = trees.changes();
    let why: Vec<_> = changes.changes.iter().map(|one| unified::unshown(one, Binary::AsText)).collect();
    assert_eq!(why, [Some(Unshown::TooLarge), Some(Unshown::TooLarge), None], "bytes, lines, run.sh");
    let text = shown(&changes);
    assert!(
        text.contains("Content of /dev/null and b/lines is not shown: more than 4 MiB or 200000 lines\n")
    );
    assert_eq!(unified::lines(&changes.changes[0], Binary::AsText), None);
}

/// Numbers that look random and are the same each time (Knuth's multiplier of 64 bits).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn text(&mut self) -> Vec<String> {
        let lines = ["fn a() {", "    x;", "    y;", "}", "", "\tz", "if b {", "  c"];
        (0..self.below(60)).map(|_| format!("{}\n", lines[self.below(8) as usize])).collect()
    }

    fn edited(&mut self, mut text: Vec<String>) -> Vec<String> {
        for _ in 0..=self.below(4) {
            let at = self.below(text.len() as u64 + 1) as usize;
            if self.below(2) == 0 && at < text.len() {
                text.remove(at);
            } else {
                let line = format!("    y{};\n", self.below(3));
                text.insert(at, if self.below(2) == 0 { "    x;\n".to_owned() } else { line });
            }
        }
        text
    }
}

#[test]
fn hundreds_of_edits_are_shown_so_that_git_applies_them_and_are_applied_to_the_byte() {
    let trees = Trees::new(|root| {
        let mut numbers = Numbers(7);
        (0..300).for_each(|number| put(root, &format!("f{number}"), numbers.text().concat()));
    });
    let mut numbers = Numbers(7);
    let old: Vec<_> = (0..300).map(|_| numbers.text()).collect();
    for (number, old) in old.into_iter().enumerate() {
        put(&trees.path("agent"), &format!("f{number}"), numbers.edited(old).concat());
    }
    let changes = trees.changes();
    assert!(changes.changes.len() > 250, "{}", changes.changes.len());
    // Of lines that are so much alike there are several shortest differences; nearly always git's own is the one that is shown.
    let (own, gits) = (shown(&changes), trees.git(&[]));
    let of = |text: &str| text.split("diff --git ").map(str::to_owned).collect::<Vec<_>>();
    let others = of(&own).iter().zip(of(&gits)).filter(|(own, git)| *own != git).count();
    assert!(others * 20 < changes.changes.len(), "{others} of {} differ", changes.changes.len());
    trees.apply(&changes).unwrap();
    assert_eq!(listing(&trees.path("outside")), listing(&trees.path("agent")));
    fs::write(trees.path("patch"), own).unwrap();
    let patched =
        Command::new("git").args(["apply", "../patch"]).current_dir(trees.path("original")).output();
    assert!(patched.as_ref().unwrap().status.success(), "{patched:?}");
    assert_eq!(listing(&trees.path("original")), listing(&trees.path("agent")));
}

#[test]
fn a_copy_of_an_original_is_the_original_byte_for_byte_and_neither_writes_to_the_other() {
    let trees = Trees::new(|root| {
        project(root);
        executable(root, "run.sh", true);
        put(root, ".git/HEAD", "ref: refs/heads/main\n");
    });
    let volume = fs::File::open(trees.path("outside")).unwrap();
    let mut tree = Tree::create(volume.as_fd(), "tree", Limits::default()).unwrap();
    tree.copy(fs::File::open(trees.path("original")).unwrap().as_fd()).unwrap();
    tree.publish().unwrap();
    let copy = trees.path("outside/tree");
    assert_eq!(listing(&copy), listing(&trees.path("original")));
    let modified = |root: &Path| fs::metadata(root.join("run.sh")).unwrap().mtime();
    assert_eq!(modified(&copy), modified(&trees.path("original")));
    put(&copy, "run.sh", "changed");
    assert_eq!(fs::read_to_string(trees.path("original/run.sh")).unwrap(), "#!/bin/sh\n");
}
