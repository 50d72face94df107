//! Results made to hurt whoever looks at them or applies them: each is refused by its path, and what stands beside it is told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::changes::Change;
use crate::look::{Unseen, look};
use crate::refusal::Reason;

pub fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn raw(root: &Path, name: &[u8]) {
    fs::write(root.join(OsStr::from_bytes(name)), "x").unwrap();
}

fn moded(root: &Path, mode: u32) {
    put(root, "bad", "x");
    fs::set_permissions(root.join("bad"), fs::Permissions::from_mode(mode)).unwrap();
}

fn large(root: &Path, name: &str, bytes: u64) {
    fs::File::create(root.join(name)).unwrap().set_len(bytes).unwrap();
}

fn linked(root: &Path, target: &[u8]) {
    symlink(OsStr::from_bytes(target), root.join("bad")).unwrap();
}

/// What git obeys without a folder called `.git`: its configuration runs a program.
fn repository(root: &Path, name: &str) {
    put(root, &format!("{name}/HEAD"), "ref: refs/heads/main\n");
    put(root, &format!("{name}/config"), "[core]\n\tfsmonitor = touch /tmp/owned\n");
    for folder in ["objects", "refs"] {
        fs::create_dir_all(root.join(name).join(folder)).unwrap();
    }
}

type Hostile = (&'static str, fn(&Path), &'static str, Reason);

/// What it is, how it is made, and which path is refused for which reason.
const HOSTILE: [Hostile; 46] = [
    ("a FIFO", |root| fifo(&root.join("bad")), "bad", Reason::Device),
    (
        "a FIFO for a file",
        |root| {
            fs::remove_file(root.join("run.sh")).unwrap();
            fifo(&root.join("run.sh"))
        },
        "run.sh",
        Reason::Device,
    ),
    ("a socket", |root| drop(UnixListener::bind(root.join("bad")).unwrap()), "bad", Reason::Device),
    ("an absolute link", |root| linked(root, b"/etc/passwd"), "bad", Reason::LinkEscapes),
    ("a link out", |root| linked(root, b"../outside"), "bad", Reason::LinkEscapes),
    ("a link that climbs late", |root| linked(root, b"src/../../x"), "bad", Reason::LinkEscapes),
    (
        "a link out of a folder",
        |root| symlink("../../x", root.join("src/bad")).unwrap(),
        "src/bad",
        Reason::LinkEscapes,
    ),
    ("a link to controls", |root| linked(root, b"x\x1b[2J"), "bad", Reason::Control),
    ("a link to no text", |root| linked(root, b"\xff"), "bad", Reason::NotUtf8),
    ("a link of great length", |root| linked(root, &[b'x'; 3000]), "bad", Reason::LinkEscapes),
    (
        "a link for a folder",
        |root| {
            fs::remove_dir_all(root.join("was-folder")).unwrap();
            symlink("/etc", root.join("was-folder")).unwrap()
        },
        "was-folder",
        Reason::LinkEscapes,
    ),
    (
        "a link to the process's own files",
        |root| linked(root, b"/proc/self/environ"),
        "bad",
        Reason::LinkEscapes,
    ),
    ("a link into the repository", |root| linked(root, b".git/config"), "bad", Reason::LinkToGit),
    (
        "a link into the repository in another case",
        |root| symlink("../.GIT/hooks/pre-commit", root.join("src/bad")).unwrap(),
        "src/bad",
        Reason::LinkToGit,
    ),
    ("a link to what is left out", |root| linked(root, b"src/.env"), "bad", Reason::LinkToLeftOut),
    ("a link to what only a checkout has", |root| linked(root, b"src/x"), "bad", Reason::LinkElsewhere),
    ("a newline", |root| raw(root, b"a\nb"), r"a\x0ab", Reason::Control),
    ("an escape", |root| raw(root, b"\x1b[2Jx"), r"\x1b[2Jx", Reason::Control),
    ("a title", |root| raw(root, b"\x1b]0;owned\x07"), r"\x1b]0;owned\x07", Reason::Control),
    ("a carriage return", |root| raw(root, b"good\rbad"), r"good\x0dbad", Reason::Control),
    ("a backspace", |root| raw(root, b"a\x08b"), r"a\x08b", Reason::Control),
    ("a delete", |root| raw(root, b"\x7f"), r"\x7f", Reason::Control),
    ("a C1 control", |root| raw(root, b"\xc2\x9b31m"), r"\xc2\x9b31m", Reason::Control),
    (
        "a name from right to left",
        |root| raw(root, "a\u{202e}txt.exe".as_bytes()),
        r"a\xe2\x80\xaetxt.exe",
        Reason::Control,
    ),
    ("a separator of lines", |root| raw(root, "a\u{2028}b".as_bytes()), r"a\xe2\x80\xa8b", Reason::Control),
    ("no text", |root| raw(root, b"\xff\xfe"), r"\xff\xfe", Reason::NotUtf8),
    ("an overlong dot", |root| raw(root, b"\xc0\xae\xc0\xae"), r"\xc0\xae\xc0\xae", Reason::NotUtf8),
    (".GIT", |root| put(root, ".GIT/config", "x"), ".GIT", Reason::GitFolder),
    (".git with a space", |root| put(root, ".git /hooks/pre-commit", "x"), ".git ", Reason::GitFolder),
    ("a short name", |root| put(root, "git~1/config", "x"), "git~1", Reason::GitFolder),
    (
        ".git with a stream",
        |root| put(root, ".git::$INDEX_ALLOCATION/config", "x"),
        ".git::$INDEX_ALLOCATION",
        Reason::GitFolder,
    ),
    (
        ".git with a letter that is not shown",
        |root| put(root, ".g\u{200c}it/config", "x"),
        r".g\xe2\x80\x8cit",
        Reason::GitFolder,
    ),
    (
        "a repository in a folder",
        |root| put(root, "src/.git/hooks/post-checkout", "x"),
        "src/.git",
        Reason::GitFolder,
    ),
    (
        "a pointer to a repository",
        |root| put(root, "src/.git", "gitdir: /tmp/evil"),
        "src/.git",
        Reason::GitFolder,
    ),
    ("a repository under another name", |root| repository(root, "lib"), "lib", Reason::BareRepository),
    (
        "a repository in a folder of the original's",
        |root| repository(root, "src"),
        "src",
        Reason::BareRepository,
    ),
    (
        "a repository in the tree's own folder",
        |root| {
            put(root, "head", "ref: refs/heads/main\n");
            put(root, "Objects/x", "x");
            put(root, "refs/x", "x");
        },
        ".",
        Reason::BareRepository,
    ),
    (
        "a repository whose other half is elsewhere",
        |root| {
            put(root, "lib/HEAD", "ref: refs/heads/main\n");
            put(root, "lib/commondir", "../data.d\n");
        },
        "lib",
        Reason::BareRepository,
    ),
    ("a name in another case", |root| put(root, "RUN.sh", "x"), "RUN.sh", Reason::CaseCollision),
    (
        "a name in another form",
        |root| put(root, "gro\u{308}\u{df}e", "x"),
        r"gro\xcc\x88\xc3\x9fe",
        Reason::UnicodeCollision,
    ),
    ("set-user-id", |root| moded(root, 0o4755), "bad", Reason::SetId),
    ("set-group-id", |root| moded(root, 0o2755), "bad", Reason::SetId),
    ("a sticky file", |root| moded(root, 0o1644), "bad", Reason::SetId),
    ("a sparse giant", |root| large(root, "bad", 1 << 40), "bad", Reason::FileTooLarge(64 << 20)),
    (
        "a giant for a small file",
        |root| large(root, "run.sh", 65 << 20),
        "run.sh",
        Reason::FileTooLarge(64 << 20),
    ),
    (
        "a deep folder",
        |root| fs::create_dir_all(root.join("d/".repeat(65))).unwrap(),
        DEEP,
        Reason::TooDeep(64),
    ),
];

/// 65 names.
const DEEP: &str = "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d";

#[test]
fn each_of_more_than_thirty_hostile_results_is_refused_by_its_path_and_what_stands_beside_it_is_told() {
    for (what, make, path, reason) in HOSTILE {
        let trees = Trees::new(project);
        let root = trees.path("agent");
        make(&root);
        put(&root, "beside", "an honest change\n");
        let (told, done) = trees.told(&Bounds::default());
        done.unwrap_or_else(|error| panic!("{what}: {error}"));
        let changes = stream::read(&mut told.as_slice(), &Bounds::default()).unwrap();
        let refused: Vec<_> =
            changes.refused.iter().map(|one| (one.path.as_str(), one.reason.clone())).collect();
        assert_eq!(refused, [(path, reason.to_string())], "{what}");
        assert_eq!(changes.refused_count, 1, "{what}");
        let named: Vec<&str> = changes.changes.iter().map(|change| change.path.as_str()).collect();
        // Of the tree's own folder nothing is told.
        assert!(named.contains(&"beside") != (path == "."), "{what}: {named:?}");
        let is_in = |name: &&str| *name == path || name.starts_with(&format!("{path}/"));
        assert!(!named.iter().any(is_in), "{what}: {named:?}");
        assert!(told.len() < 64 << 10, "{what}: {} bytes are told", told.len());
    }
}

#[test]
fn what_git_takes_for_a_repository_is_one_to_the_walk_and_in_one_of_the_originals_nothing_changes() {
    // git itself says that what is refused here is one.
    let trees = Trees::new(|root| repository(root, "fixture"));
    let of_git = |folder: &Path| {
        let mut git = Command::new("git");
        git.args(["rev-parse", "--is-bare-repository"]).current_dir(folder);
        git.env("GIT_CEILING_DIRECTORIES", trees.folder.path()).output().unwrap().status.success()
    };
    assert!(of_git(&trees.path("agent/fixture")) && !of_git(&trees.path("agent")));
    put(&trees.path("agent"), "fixture/config", "[core]\n\tfsmonitor = another\n");
    put(&trees.path("agent"), "fixture/hooks/pre-commit", "x");
    put(&trees.path("agent"), "beside", "x");
    let changes = trees.changes();
    let refused: Vec<&str> = changes.refused.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(refused, ["fixture/config", "fixture/hooks"]);
    assert_eq!(changes.changes.len(), 1, "the control: what is beside it is told");
    fs::remove_dir_all(trees.path("agent/fixture")).unwrap();
    assert_eq!(trees.changes().refused_count, 0, "and it may go");
}

#[test]
fn a_path_beyond_what_is_taken_is_refused_and_a_device_is_never_opened() {
    let trees = Trees::new(project);
    let long = "n".repeat(250);
    let deep = [long.as_str(); 9].join("/");
    fs::create_dir_all(trees.path("agent").join(&deep)).unwrap();
    let changes = trees.changes();
    let found: Vec<&str> = changes.refused.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(found, [Reason::PathTooLong.to_string()]);

    let devices = fs::File::open("/dev").unwrap();
    let seen = look(devices.as_fd(), b"null");
    assert!(matches!(seen, Err(Unseen::Refused(Reason::Device))), "{seen:?}");
}

#[test]
fn hard_links_and_other_modes_are_neutral_content_and_nothing_more() {
    let trees = Trees::new(project);
    let root = trees.path("agent");
    fs::hard_link(root.join("run.sh"), root.join("again")).unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(root.join("src"), fs::Permissions::from_mode(0o2777)).unwrap();
    let changes = trees.changes();
    let named: Vec<&str> = changes.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!((named, changes.refused_count), (vec!["again"], 0));
    trees.apply(&changes).unwrap();
    let applied = fs::metadata(trees.path("outside/again")).unwrap();
    assert_eq!((applied.nlink(), applied.mode() & 0o7777), (1, 0o644));
}

#[test]
fn what_exceeds_a_bound_on_the_whole_ends_the_telling_with_its_name() {
    let trees = Trees::new(|_| ());
    (0..40).for_each(|number| put(&trees.path("agent"), &format!("f{number}"), "0123456789"));
    let ordinary = Bounds::default();
    let of = |bounds: Bounds| {
        let (told, done) = trees.told(&bounds);
        (done.err().and_then(|error| error.reason()), stream::read(&mut told.as_slice(), &ordinary))
    };
    let limits = Limits { entries_max: 39, ..ordinary.tree };
    let (reason, read) = of(Bounds { tree: limits, ..ordinary });
    assert_eq!(reason, Some(Reason::TooMany(39)));
    assert!(matches!(read, Err(Error::Untold(_))), "{read:?}");
    let (reason, read) = of(Bounds { changes_max: 39, ..ordinary });
    assert_eq!(reason, Some(Reason::TooMany(39)));
    assert!(matches!(read, Err(Error::Untold(_))), "{read:?}");
    // Of content that is too much, each path that has no more room is refused.
    let (reason, read) = of(Bounds { bytes_max: 395, refused_max: 100, ..ordinary });
    assert_eq!(reason, None);
    let read = read.unwrap();
    assert_eq!((read.changes.len(), read.refused_count), (39, 1));
    let (_, read) = of(Bounds { bytes_max: 5, refused_max: 3, ..ordinary });
    let read = read.unwrap();
    assert_eq!((read.refused.len(), read.refused_count), (3, 40), "the others are counted");
    assert_eq!(of(ordinary).1.unwrap().changes.len(), 40, "the control");
}

#[test]
fn content_that_leaves_no_room_for_both_sides_of_a_file_hides_none_of_them() {
    let trees = Trees::new(|root| {
        put(root, "auth.rs", "check();\n");
        put(root, "gone", "0123456789");
    });
    put(&trees.path("agent"), "a-filler", "0123456789");
    put(&trees.path("agent"), "auth.rs", "pass();\n");
    fs::remove_file(trees.path("agent/gone")).unwrap();
    let of = |bytes_max| {
        let (told, done) = trees.told(&Bounds { bytes_max, ..Bounds::default() });
        done.unwrap();
        stream::read(&mut told.as_slice(), &Bounds::default()).unwrap()
    };
    // The original's names come first: both sides of one file, and what goes; then there is no room for the filler.
    let named = |changes: &Changes| {
        let one = |change: &Change| (change.path.as_str().to_owned(), change.old_content.is_some());
        changes.changes.iter().map(one).collect::<Vec<_>>()
    };
    let found = of(17);
    assert_eq!(named(&found), [("auth.rs".to_owned(), true), ("gone".to_owned(), false)]);
    assert_eq!(found.refused.len(), 1, "the filler");
    // Room for the new side alone, or for the old one, is none.
    for bytes_max in [8, 9, 16] {
        let found = of(bytes_max);
        assert!(found.refused.iter().any(|one| one.path == "auth.rs"), "{bytes_max}: {found:?}");
        assert!(named(&found).iter().all(|(path, _)| path != "auth.rs"), "{bytes_max}");
    }
    assert_eq!(of(37).refused_count, 0, "the control");
}

#[test]
fn a_writer_that_swaps_what_is_looked_at_gets_nothing_told_from_outside() {
    const CANARY: &str = "nobody-may-be-told-this";
    let trees = Trees::new(project);
    put(trees.folder.path(), "secret/main.rs", CANARY);
    let (root, secret) = (trees.path("agent"), trees.path("secret"));
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (folder, kept, file) = (root.join("src"), root.join("kept"), root.join("run.sh"));
            while !is_done.load(Ordering::Relaxed) {
                fs::rename(&folder, &kept).unwrap();
                symlink(&secret, &folder).unwrap();
                fs::remove_file(&folder).unwrap();
                fs::rename(&kept, &folder).unwrap();
                fs::remove_file(&file).unwrap();
                symlink(secret.join("main.rs"), &file).unwrap();
                fs::remove_file(&file).unwrap();
                fifo(&file);
                fs::remove_file(&file).unwrap();
                fs::write(&file, "grows\n".repeat(9)).unwrap();
            }
        });
        let mut ended = 0;
        for _ in 0..500 {
            let (told, done) = trees.told(&Bounds::default());
            ended += u32::from(done.is_ok());
            let text = String::from_utf8_lossy(&told).into_owned();
            assert!(!text.contains(CANARY), "{text}");
            if done.is_ok() {
                stream::read(&mut told.as_slice(), &Bounds::default()).unwrap();
            }
        }
        is_done.store(true, Ordering::Relaxed);
        assert!(ended > 0, "no telling came to its end");
    });
}
