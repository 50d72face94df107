//! Real git is the server, by `git upload-pack`, and the judge of what is checked out. What real git would not send is packed here.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::wire::{Lines, Named, Names, Sent, Wanted, fetch, list};
use super::{CheckedOut, Origin, check_out};
use crate::archive::Note;
use crate::exclusion::Exclusion;
use crate::limits::Limits;
use crate::refusal::Error;
use crate::tree::Tree;

mod hostile;
mod left_out;

/// Runs git as nobody in particular, and returns what it says.
fn git_with(folder: &Path, args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new("git");
    command.args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"]).args(args);
    command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_PROTOCOL", "version=2");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@b.test");
        command.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // What it says may fill its pipe before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

fn git(folder: &Path, args: &[&str]) -> String {
    let said = git_with(folder, args, b"").unwrap_or_else(|error| panic!("{args:?}: {error}"));
    String::from_utf8(said).unwrap().trim_end().to_owned()
}

/// A repository, as it is on a server.
struct Served {
    folder: TempDir,
}

impl Served {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        git(folder.path(), &["init", "-q"]);
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, content: &str) -> &Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn commit(&self, message: &str) -> String {
        git(self.path(), &["add", "-A", "-f", "."]);
        git(self.path(), &["commit", "-q", "--allow-empty", "-m", message]);
        git(self.path(), &["rev-parse", "HEAD"])
    }

    /// What a server answers to a request.
    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let args = ["upload-pack", "--stateless-rpc", "--strict", ".git"];
        git_with(self.path(), &args, request).unwrap()
    }

    fn named(&self, wanted: &Wanted) -> Named {
        let mut names = Names::new(wanted);
        Lines::default().feed(&self.ask(&list(wanted)), &mut names).unwrap();
        names.end().unwrap()
    }

    fn pack(&self, id: &str, depth: u32) -> Vec<u8> {
        let mut pack = Vec::new();
        let mut sent = Sent::new(&mut pack);
        Lines::default().feed(&self.ask(&fetch(id, depth)), &mut sent).unwrap();
        sent.end().unwrap();
        pack
    }
}

/// Where a commit is checked out.
struct Out {
    folder: TempDir,
    done: CheckedOut,
    notes: Vec<String>,
}

impl Out {
    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.tree(), args)
    }
}

fn limits() -> Limits {
    Limits { bytes_max: 64 << 20, file_bytes_max: 32 << 20, entries_max: 5000, ..Limits::default() }
}

struct Asked<'a> {
    wanted: &'a str,
    branch: Option<&'a str>,
    url: &'a str,
    exclude: &'a [&'a str],
    include: &'a [&'a str],
    limits: Limits,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self {
            wanted: "",
            branch: None,
            url: "https://git.test/a.git",
            exclude: &[],
            include: &[],
            limits: limits(),
        }
    }
}

fn taken(pack: &[u8], asked: &Asked<'_>) -> Result<Out, Error> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("pack"), pack).unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    let tree = Tree::create(parent.as_fd(), "tree", asked.limits)?;
    let exclusion = Exclusion::new(asked.exclude, asked.include).unwrap();
    let origin = Origin { url: asked.url, branch: asked.branch };
    let mut notes = Vec::new();
    let done = check_out(
        &folder.path().join("pack"),
        asked.wanted,
        &origin,
        tree,
        &exclusion,
        &|| Ok(()),
        &mut |note| match note {
            Note::LeftOut(path) => notes.push(path.to_string()),
            Note::Token(..) | Note::Rewritten(_) => {}
        },
    );
    match done {
        Ok(done) => Ok(Out { folder, done, notes }),
        Err(error) => {
            let left: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["pack"], "nothing stays: {error}");
            Err(error)
        }
    }
}

fn shop() -> Served {
    let served = Served::new();
    served.write("src/main.rs", "fn main() {}\n").write("run.sh", "#!/bin/sh\necho it runs\n");
    served.write("docs/a b/\u{e9}.md", "text\r\n").write(".gitattributes", "* text=auto\n*.rs filter=evil\n");
    git(served.path(), &["update-index", "--add", "--chmod=+x", "run.sh"]);
    fs::set_permissions(served.path().join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    std::os::unix::fs::symlink("src/main.rs", served.path().join("link")).unwrap();
    served.commit("one");
    served.write("src/main.rs", "fn main() { /* two */ }\n");
    served.commit("two");
    served
}

#[test]
fn real_git_finds_a_checked_out_commit_clean_and_works_on_with_it() {
    let served = shop();
    served
        .write(".env", "KEY=left-out")
        .write("certs/server.pem", "left-out")
        .write("sub/.env.local", "left-out");
    let id = served.commit("three");
    for depth in [1, 2, 100] {
        let named = served.named(&Wanted::Head);
        assert_eq!((named.id.as_str(), named.branch.as_deref()), (id.as_str(), Some("main")));
        let url = served.path().to_str().unwrap();
        let asked = Asked { wanted: &named.id, branch: Some("main"), url, ..Asked::default() };
        let out = taken(&served.pack(&id, depth), &asked).unwrap();
        assert_eq!(out.done.commit, id);
        assert_eq!((out.done.unpacked.left_out, out.notes.len()), (3, 3), "{:?}", out.notes);
        assert_eq!(out.done.unpacked.written.files, 4);

        assert_eq!(out.git(&["status", "--porcelain", "--branch"]), "## main...origin/main");
        git_with(&out.tree(), &["fsck", "--full", "--strict"], b"").unwrap();
        assert_eq!(out.git(&["rev-parse", "HEAD"]), id);
        let commits = out.git(&["rev-list", "--count", "HEAD"]);
        assert_eq!(commits, depth.min(3).to_string());
        assert_eq!(out.git(&["ls-files", "--stage", "run.sh"]).split(' ').next(), Some("100755"));

        fs::write(out.tree().join("src/main.rs"), "fn main() { /* the agent's */ }\n").unwrap();
        assert_eq!(out.git(&["status", "--porcelain"]), " M src/main.rs");
        assert!(out.git(&["diff"]).contains("+fn main() { /* the agent's */ }"));
        out.git(&["stash"]);
        out.git(&["stash", "pop"]);
        out.git(&["checkout", "-q", "-b", "agent"]);
        out.git(&["commit", "-q", "-a", "-m", "four"]);
        assert!(out.git(&["log", "-p", "-1"]).contains("the agent's"));
        assert_eq!(out.git(&["status", "--porcelain"]), "");
        out.git(&["push", "-q", "origin", "agent"]);
        git(served.path(), &["fsck", "--full", "--strict"]);
        let changed = git(served.path(), &["diff", "--name-status", "main", "agent"]);
        assert_eq!(changed, "M\tsrc/main.rs", "what is left out is not deleted");
        git(served.path(), &["branch", "-q", "-D", "agent"]);
        out.git(&["gc", "-q"]);
        git_with(&out.tree(), &["fsck", "--full"], b"").unwrap();
    }
}

#[test]
fn the_git_folder_runs_nothing_and_asks_nobody() {
    let served = shop();
    served.write(".env", "left-out");
    let id = served.commit("three");
    let asked = Asked { wanted: &id, branch: Some("main"), ..Asked::default() };
    let out = taken(&served.pack(&id, 1), &asked).unwrap();
    let mut names = Vec::new();
    let mut waiting = vec![out.tree().join(".git")];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { names.push(path) }
        }
    }
    let mut names: Vec<_> = names.iter().map(|name| name.file_name().unwrap().to_str().unwrap()).collect();
    names.sort_unstable();
    let pack = "pack-0000000000000000000000000000000000000000";
    let packs = [format!("{pack}.idx"), format!("{pack}.pack"), format!("{pack}.promisor")];
    let mut wanted = vec!["HEAD", "config", "index", "packed-refs", "shallow", "sparse-checkout"];
    wanted.extend(packs.iter().map(String::as_str));
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    let config = out.git(&["config", "--local", "--name-only", "--list"]);
    let keys: Vec<&str> = config.lines().collect();
    let known =
        ["core.", "sparse.", "remote.origin.url", "remote.origin.fetch", "branch.main.", "remote.left-out."];
    assert!(keys.iter().all(|key| known.iter().any(|known| key.starts_with(known))), "{config}");
    assert_eq!(out.git(&["config", "remote.origin.url"]), "https://git.test/a.git");
    // What is left out is looked for nowhere: not even where the origin is.
    let asked = git_with(&out.tree(), &["cat-file", "-p", "HEAD:.env"], b"").unwrap_err();
    assert!(asked.contains("left-out") && !asked.contains("git.test"), "{asked}");
}

#[test]
fn a_branch_a_tag_of_a_tag_and_a_commit_lead_to_what_they_name() {
    let served = shop();
    let first = git(served.path(), &["rev-parse", "HEAD~1"]);
    git(served.path(), &["branch", "old/one", &first]);
    git(served.path(), &["tag", "-a", "-m", "x", "inner", &first]);
    git(served.path(), &["tag", "-a", "-m", "x", "outer", "inner"]);
    for (name, branch) in
        [("old/one", Some("old/one")), ("outer", None), ("inner", None), (first.as_str(), None)]
    {
        let named = served.named(&Wanted::parse(Some(name)).unwrap());
        assert_eq!(named.branch.as_deref(), branch);
        let asked = Asked { wanted: &named.id, branch, ..Asked::default() };
        let out = taken(&served.pack(&named.id, 1), &asked).unwrap();
        assert_eq!(
            (out.done.commit.as_str(), out.git(&["status", "--porcelain"])),
            (first.as_str(), String::new())
        );
        assert_eq!(fs::read_to_string(out.tree().join("src/main.rs")).unwrap(), "fn main() {}\n", "{name}");
    }
}

#[test]
fn a_repository_without_anything_to_leave_out_lacks_nothing() {
    let served = shop();
    let id = git(served.path(), &["rev-parse", "HEAD"]);
    let asked = Asked { wanted: &id, branch: Some("main"), ..Asked::default() };
    let out = taken(&served.pack(&id, 100), &asked).unwrap();
    assert!(!out.git(&["config", "--list"]).contains("promisor"));
    assert!(!out.tree().join(".git/shallow").exists());
    git_with(&out.tree(), &["fsck", "--full", "--strict"], b"").unwrap();
    assert!(out.git(&["log", "-p"]).contains("+fn main() {}"));
}

#[test]
fn p_g7_no_pull_checkout_or_worktree_brings_a_left_out_file_or_ends_for_want_of_one() {
    let served = shop();
    served.write(".env", "KEY=one").write("deploy/.env.production", "KEY=one").write("past.pem", "KEY=one");
    served.commit("one");
    fs::remove_file(served.path().join("past.pem")).unwrap();
    served.write(".env", "KEY=two").write("a.txt", "two");
    let id = served.commit("two");
    let url = served.path().to_str().unwrap();
    let exclude = ["*.Secret"];
    let asked = Asked { wanted: &id, branch: Some("main"), url, exclude: &exclude, ..Asked::default() };
    let out = taken(&served.pack(&id, 2), &asked).unwrap();
    let holds = |when: &str| {
        for name in [".env", "deploy/.env.production", "past.pem", ".ENV.local", "x/y.secret", "new/id_rsa"] {
            assert!(!out.tree().join(name).exists(), "{when}: {name}");
        }
        assert_eq!(out.git(&["status", "--porcelain"]), "", "{when}");
    };
    out.git(&["checkout", "-q", "HEAD~1"]);
    holds("an older commit");
    out.git(&["checkout", "-q", "main"]);
    out.git(&["reset", "-q", "--hard", "HEAD~1"]);
    holds("a reset");
    out.git(&["reset", "-q", "--hard", &id]);
    out.git(&["worktree", "add", "-q", "../beside", "HEAD~1"]);
    let beside = out.folder.path().join("beside");
    assert!(
        beside.join("src/main.rs").exists()
            && !beside.join(".env").exists()
            && !beside.join("past.pem").exists()
    );
    out.git(&["worktree", "remove", "../beside"]);

    served
        .write(".env", "KEY=three")
        .write(".ENV.local", "KEY")
        .write("x/y.secret", "KEY")
        .write("new/id_rsa", "KEY");
    served.write("a.txt", "three").commit("three");
    out.git(&["pull", "-q"]);
    assert_eq!(
        fs::read_to_string(out.tree().join("a.txt")).unwrap(),
        "three",
        "the control: what is taken comes"
    );
    holds("a pull");
    out.git(&["checkout", "-q", "HEAD~1"]);
    out.git(&["checkout", "-q", "main"]);
    holds("and back");
    // What the agent writes under such a name is its own, and goes nowhere.
    fs::write(out.tree().join(".env"), "the agent's").unwrap();
    out.git(&["commit", "-q", "--allow-empty", "-a", "-m", "four"]);
    assert_eq!(out.git(&["diff", "--name-status", "origin/main", "HEAD"]), "");
    assert_eq!(fs::read_to_string(out.tree().join(".env")).unwrap(), "the agent's");
}
