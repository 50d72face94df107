//! Changes in a folder outside: all of them, or nothing.

use std::collections::HashSet;

use super::*;
use crate::changes::apply::{Conflict, STAGE};
use crate::changes::{Change, Entry, RefusedPath};
use crate::look;
use crate::path::RelativePath;

#[test]
fn what_is_applied_is_exactly_what_the_agent_left_and_nothing_is_left_beside_it() {
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    put(&trees.path("outside"), ".git/config", "mine\n");
    put(&trees.path("outside"), "src/mine.txt", "not the agent's\n");
    put(&trees.path("agent"), ".git/config", "[core]\n\tfsmonitor = touch /tmp/owned\n");
    let changes = trees.changes();
    assert!(changes.has_git_folder);
    trees.apply(&changes).unwrap();
    let mut wanted = listing(&trees.path("agent"));
    wanted.retain(|line| !line.starts_with(".git"));
    wanted.extend([".git/".to_owned(), ".git/config true mine\\n".replace("true", "false")]);
    wanted.push("src/mine.txt false not the agent\\'s\\n".to_owned());
    wanted.sort();
    assert_eq!(listing(&trees.path("outside")), wanted);
    assert!(!trees.path("outside").join(STAGE).exists());
    // A second time the folder holds the original no more.
    assert!(matches!(trees.apply(&changes), Err(ApplyError::Conflicts(_))));
}

/// The conflicts, after which nothing was written.
#[track_caller]
fn conflicts(trees: &Trees, changes: &Changes) -> Vec<Conflict> {
    let before = listing(&trees.path("outside"));
    let Err(ApplyError::Conflicts(conflicts)) = trees.apply(changes) else { panic!("it was applied") };
    assert_eq!(listing(&trees.path("outside")), before);
    conflicts
}

#[test]
fn a_folder_that_holds_anything_else_than_the_original_is_left_as_it_is_and_each_such_path_is_told() {
    let told = |outside: &dyn Fn(&Path)| {
        let trees = Trees::new(project);
        work(&trees.path("agent"));
        outside(&trees.path("outside"));
        let found = conflicts(&trees, &trees.changes());
        found.into_iter().map(|conflict| conflict.path).collect::<Vec<_>>()
    };
    assert_eq!(told(&|root| put(root, "src/main.rs", "mine")), ["src/main.rs"]);
    assert_eq!(told(&|root| executable(root, "run.sh", true)), ["run.sh"]);
    assert_eq!(told(&|root| fs::remove_file(root.join("src/gone.rs")).unwrap()), ["src/gone.rs"]);
    assert_eq!(told(&|root| put(root, "src/new/deep.rs", "mine")), ["src/new"]);
    assert_eq!(told(&|root| put(root, "WITH space", "mine")), ["with space"]);
    let through = |root: &Path| {
        fs::rename(root.join("src"), root.join("elsewhere")).unwrap();
        symlink("elsewhere", root.join("src")).unwrap();
    };
    assert_eq!(told(&through), ["src/gone.rs", "src/main.rs", "src/new"]);
    let fifo = |root: &Path| {
        fs::remove_file(root.join("data.bin")).unwrap();
        hostile::fifo(&root.join("data.bin"));
    };
    assert_eq!(told(&fifo), ["data.bin"], "and nobody waits for it");
}

fn change(path: &str, old: Option<Entry>, new: Option<Entry>, content: &str) -> Change {
    let path = RelativePath::parse(path.as_bytes()).unwrap();
    Change { path, old, new, old_content: None, new_content: content.as_bytes().to_vec() }
}

fn of(content: &str) -> Option<Entry> {
    let bytes = content.len() as u64;
    let sha256 = look::sha256(&mut content.as_bytes(), bytes).unwrap().unwrap();
    Some(Entry::File { executable: false, bytes, sha256 })
}

#[test]
fn a_digest_is_that_of_one_set_of_changes_and_of_no_other() {
    let refused = RefusedPath { path: "p".to_owned(), reason: "r".to_owned() };
    let file =
        |executable, bytes, sha256: &str| Some(Entry::File { executable, bytes, sha256: sha256.repeat(64) });
    let link = |target: &str| Some(Entry::Link { target: target.to_owned() });
    let of = |all: &[(&str, Option<Entry>, Option<Entry>)]| Changes {
        changes: all.iter().map(|(path, old, new)| change(path, old.clone(), new.clone(), "")).collect(),
        ..Changes::default()
    };
    let mut sets = vec![
        Changes::default(),
        of(&[("a", None, file(false, 1, "0"))]),
        of(&[("b", None, file(false, 1, "0"))]),
        of(&[("a", None, file(true, 1, "0"))]),
        of(&[("a", None, file(false, 2, "0"))]),
        of(&[("a", None, file(false, 1, "1"))]),
        of(&[("a", file(false, 1, "0"), None)]),
        of(&[("a", file(false, 1, "1"), file(false, 1, "0"))]),
        of(&[("a", Some(Entry::Folder {}), file(false, 1, "0"))]),
        of(&[("a", None, Some(Entry::Folder {}))]),
        of(&[("a", None, link("b"))]),
        of(&[("a", None, link("c"))]),
        of(&[("a", None, link("b")), ("c", None, link("d"))]),
        of(&[("a", None, link("b")), ("c", None, link("e"))]),
    ];
    sets.push(Changes { refused_count: 1, ..sets[1].clone() });
    sets.push(Changes { refused_count: 1, refused: vec![refused.clone()], ..sets[1].clone() });
    sets.push(Changes { refused_count: 2, refused: vec![refused], ..sets[1].clone() });
    let digests: HashSet<String> = sets.iter().map(Changes::digest).collect();
    assert_eq!(digests.len(), sets.len());
    let is_one = |digest: &String| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(digests.iter().all(is_one), "{digests:?}");
    // Content is in it by the digest that is compared with what came, so it need not be read again.
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    let reviewed = trees.changes().digest();
    assert_eq!(trees.changes().digest(), reviewed, "the control: told twice, it is the same");
    put(&trees.path("agent"), "with space", "t\n");
    assert_ne!(trees.changes().digest(), reviewed);
}

#[test]
fn without_deletions_half_of_a_rename_takes_nothing_away() {
    let trees = Trees::new(project);
    let root = trees.path("agent");
    // The other half is refused by its size, and a folder's files go with it.
    fs::remove_file(root.join("src/gone.rs")).unwrap();
    fs::File::create(root.join("moved.rs")).unwrap().set_len(65 << 20).unwrap();
    fs::remove_dir_all(root.join("was-folder")).unwrap();
    put(&root, "was-folder", "file now\n");
    put(&root, "run.sh", "changed\n");
    let changes = trees.changes();
    assert_eq!(changes.refused_count, 1);
    let (changes, stay) = changes.without_deletions();
    let stay: Vec<&str> = stay.iter().map(RelativePath::as_str).collect();
    assert_eq!(stay, ["src/gone.rs", "was-folder", "was-folder/a", "was-folder/b"]);
    trees.apply(&changes).unwrap();
    let mut wanted = listing(&trees.path("original"));
    wanted.iter_mut().filter(|line| line.starts_with("run.sh ")).for_each(|line| {
        *line = "run.sh false changed\\n".to_owned();
    });
    assert_eq!(listing(&trees.path("outside")), wanted);
}

#[test]
fn what_fails_in_its_middle_is_undone_to_the_byte() {
    // A folder that goes holds what the original has not: files went before it.
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    put(&trees.path("outside"), "was-folder/mine", "mine\n");
    let before = listing(&trees.path("outside"));
    let error = trees.apply(&trees.changes()).unwrap_err();
    assert!(error.to_string().contains("was-folder"), "{error}");
    assert_eq!(listing(&trees.path("outside")), before);

    // A file whose folder nobody makes is the last step, behind all the others.
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    let before = listing(&trees.path("outside"));
    let mut changes = trees.changes();
    changes.changes.push(change("zzz/file", None, of("x"), "x"));
    let error = trees.apply(&changes).unwrap_err();
    assert!(error.to_string().contains("zzz/file"), "{error}");
    assert_eq!(listing(&trees.path("outside")), before);
}

#[test]
fn the_second_guard_refuses_what_no_reader_would_have_let_through() {
    let trees = Trees::new(project);
    let before = listing(&trees.path("outside"));
    let link = |target: &str| Some(Entry::Link { target: target.to_owned() });
    for hostile in [
        change(".git/hooks/pre-commit", None, of("x"), "x"),
        change("sub/.GIT", None, of("x"), "x"),
        change("out", None, link("../../etc"), ""),
        change("abs", None, link("/etc"), ""),
        change("notes", None, link(".git/config"), ""),
        change(&format!("{STAGE}/new/x"), None, of("x"), "x"),
        change("link/x", None, of("x"), "x"),
    ] {
        let changes = Changes { changes: vec![hostile.clone()], ..Changes::default() };
        trees.apply(&changes).map_err(|error| error.to_string()).expect_err(hostile.path.as_str());
        assert_eq!(listing(&trees.path("outside")), before, "{}", hostile.path);
    }
    let control = Changes { changes: vec![change("new", None, of("x"), "x")], ..Changes::default() };
    trees.apply(&control).unwrap();
    assert_eq!(fs::read_to_string(trees.path("outside/new")).unwrap(), "x");
}

#[test]
fn what_would_be_a_repository_with_what_is_there_already_is_a_conflict() {
    let of = |there: &[&str], coming: &str| {
        let trees = Trees::new(|root| put(root, "lib/x", "x"));
        there.iter().for_each(|name| put(&trees.path("outside"), name, "x"));
        put(&trees.path("agent"), coming, "x");
        (trees.changes(), trees)
    };
    for (there, coming, folder) in [
        (&["lib/objects/x", "lib/refs/x"] as &[&str], "lib/HEAD", "lib"),
        (&["lib/HEAD", "lib/refs/x"], "lib/objects/x", "lib"),
        (&["HEAD", "objects/x", "refs/x"], "lib/config", "."),
        (&["head"], "commondir", "."),
    ] {
        let (changes, trees) = of(there, coming);
        let found = conflicts(&trees, &changes);
        let found: Vec<&str> = found.iter().map(|conflict| conflict.path.as_str()).collect();
        assert_eq!(found, [folder], "{there:?}");
    }
    // The control: half of one is none.
    let (changes, trees) = of(&["lib/objects/x"], "lib/HEAD");
    trees.apply(&changes).unwrap();
}

#[test]
fn what_an_apply_that_was_killed_left_is_told_and_not_taken_away() {
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    put(&trees.path("outside"), &format!("{STAGE}/old/mine"), "mine");
    // It went half of its way: these are no conflicts.
    fs::remove_file(trees.path("outside/src/gone.rs")).unwrap();
    put(&trees.path("outside"), "with space", "s\n");
    assert!(matches!(trees.apply(&trees.changes()), Err(ApplyError::Unfinished)));
    assert_eq!(fs::read_to_string(trees.path("outside").join(STAGE).join("old/mine")).unwrap(), "mine");
}

#[test]
fn the_paths_that_a_run_changes_are_written_down_before_the_first_of_them_is_touched() {
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    let changes = trees.changes();
    let outside = fs::File::open(trees.path("outside")).unwrap();
    let stage = trees.path("outside").join(STAGE);
    fs::create_dir(&stage).unwrap();
    drop(crate::changes::apply::staged(&changes, outside.as_fd()).unwrap());
    let written = fs::read_to_string(stage.join("paths")).unwrap();
    assert_eq!(written.lines().count(), changes.changes.len() + 2, "{written}");
    for line in ["M\tsrc/main.rs", "D\tsrc/gone.rs", "A\tsrc/new/", "D\twas-folder/", "A\twas-folder"] {
        assert!(written.lines().any(|found| found == line), "{line}: {written}");
    }
}
