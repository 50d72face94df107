use std::fs;
use std::io::{Read, repeat};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::io::Errno;
use tempfile::TempDir;

use super::Tree;
use crate::limits::Limits;
use crate::path::RelativePath;
use crate::refusal::{Error, Reason};

fn path(text: &str) -> RelativePath {
    RelativePath::parse(text.as_bytes()).unwrap()
}

/// A folder for a tree, beside a file that nobody may touch.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/secret"), "untouched").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn tree(&self, limits: Limits) -> Tree {
        Tree::create(fs::File::open(self.path("in")).unwrap().as_fd(), "tree", limits).unwrap()
    }

    /// What stands in the tree's folder.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("in"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn check_outside(&self) {
        let outside: Vec<_> = fs::read_dir(self.path("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1);
        let secret = fs::metadata(self.path("outside/secret")).unwrap();
        assert_eq!((secret.nlink(), secret.len()), (1, 9));
    }
}

fn file(tree: &mut Tree, name: &str, content: &str) -> Result<u64, Error> {
    tree.file(&path(name), false, None, &mut content.as_bytes())
}

fn reason<T>(done: Result<T, Error>) -> Option<Reason> {
    done.err().and_then(|error| error.reason())
}

#[test]
fn a_tree_is_there_whole_or_not_at_all() {
    let place = Place::new();
    let mut tree = place.tree(Limits::default());
    file(&mut tree, "a/b/c", "x").unwrap();
    assert_eq!(place.names(), [".tree.unfinished"]);
    let staged = fs::metadata(place.path("in/.tree.unfinished")).unwrap();
    assert_eq!(staged.permissions().mode() & 0o7777, 0o700, "nobody else may enter");
    drop(tree);
    assert_eq!(place.names(), [""; 0], "what is dropped is taken away");
    let mut tree = place.tree(Limits::default());
    file(&mut tree, "a/b/c", "x").unwrap();
    file(&mut tree, "a/d", "yy").unwrap();
    tree.symlink(&path("a/l"), b"b/c").unwrap();
    tree.hard_link(&path("h"), &path("a/d")).unwrap();
    let counts = tree.publish().unwrap();
    assert_eq!((counts.files, counts.folders, counts.links, counts.bytes), (2, 2, 2, 3));
    assert_eq!(place.names(), ["tree"]);
    assert_eq!(fs::read_to_string(place.path("in/tree/a/l")).unwrap(), "x");
    assert_eq!(fs::read_to_string(place.path("in/tree/h")).unwrap(), "yy");
    assert_eq!(fs::metadata(place.path("in/tree")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn a_place_that_is_taken_stays_as_it_is() {
    let place = Place::new();
    for make in [|at: &Path| fs::create_dir(at).unwrap(), |at: &Path| symlink("../outside", at).unwrap()] {
        make(&place.path("in/tree"));
        let mut tree = place.tree(Limits::default());
        file(&mut tree, "secret", "changed").unwrap();
        assert!(matches!(tree.publish(), Err(Error::System { .. })));
        assert_eq!(place.names(), ["tree"]);
        place.check_outside();
        fs::remove_file(place.path("in/tree")).or_else(|_| fs::remove_dir(place.path("in/tree"))).unwrap();
    }
}

#[test]
fn without_the_kernels_help_nothing_that_is_there_is_replaced_either() {
    let place = Place::new();
    let folder = fs::File::open(place.path("in")).unwrap();
    fs::create_dir(place.path("in/staged")).unwrap();
    fs::write(place.path("in/staged/file"), "new").unwrap();
    fs::create_dir(place.path("in/empty")).unwrap();
    fs::write(place.path("in/taken"), "old").unwrap();
    symlink("nowhere", place.path("in/link")).unwrap();
    for name in ["empty", "taken", "link"] {
        assert_eq!(
            super::put_plainly(folder.as_fd(), "staged", folder.as_fd(), name),
            Err(Errno::EXIST),
            "{name}"
        );
    }
    super::put_plainly(folder.as_fd(), "staged", folder.as_fd(), "tree").unwrap();
    assert_eq!(fs::read_to_string(place.path("in/tree/file")).unwrap(), "new");
}

#[test]
fn what_an_earlier_attempt_left_is_taken_away_without_following_links() {
    let place = Place::new();
    let left = place.path("in/.tree.unfinished");
    fs::create_dir_all(left.join("a/b")).unwrap();
    fs::write(left.join("a/b/c"), "x").unwrap();
    symlink("../../outside", left.join("out")).unwrap();
    symlink("../../../../outside/secret", left.join("a/b/out")).unwrap();
    let mut tree = place.tree(Limits::default());
    file(&mut tree, "new", "x").unwrap();
    tree.publish().unwrap();
    assert_eq!(fs::read_dir(place.path("in/tree")).unwrap().count(), 1);
    symlink("../outside", &left).unwrap();
    drop(Tree::create(fs::File::open(place.path("in")).unwrap().as_fd(), "tree", Limits::default()).unwrap());
    assert_eq!(place.names(), ["tree"]);
    place.check_outside();
}

#[test]
fn no_path_goes_through_a_link() {
    let place = Place::new();
    for name in ["l/x", "l/x/y", "f/x", "l"] {
        let mut tree = place.tree(Limits::default());
        tree.folder(&path("d")).unwrap();
        tree.symlink(&path("l"), b"d").unwrap();
        file(&mut tree, "f", "x").unwrap();
        let wanted = if name == "l" { Reason::NamedTwice } else { Reason::ThroughLink };
        assert_eq!(reason(file(&mut tree, name, "x")), Some(wanted), "{name}");
        assert_eq!(reason(tree.publish()), Some(Reason::Unfinished), "nothing comes of it");
    }
    // The control: the same name where no link is.
    let mut tree = place.tree(Limits::default());
    tree.folder(&path("l")).unwrap();
    file(&mut tree, "l/x", "x").unwrap();
    tree.publish().unwrap();
}

#[test]
fn the_kernel_follows_no_link_that_the_names_do_not_know() {
    // Somebody put the link there behind the writer's back.
    let place = Place::new();
    let staged = place.path("in/.tree.unfinished");
    for (planted, wanted) in [(true, Some(Reason::ThroughLink)), (false, None)] {
        for entry in ["d/file", "d/folder/", "d/link", "d/hard"] {
            let mut tree = place.tree(Limits::default());
            file(&mut tree, "source", "x").unwrap();
            tree.folder(&path("d")).unwrap();
            if planted {
                fs::remove_dir(staged.join("d")).unwrap();
                symlink("../../outside", staged.join("d")).unwrap();
            }
            let done = match entry {
                "d/folder/" => tree.folder(&path(entry)),
                "d/link" => tree.symlink(&path(entry), b"x"),
                "d/hard" => tree.hard_link(&path(entry), &path("source")),
                _ => file(&mut tree, entry, "x").map(drop),
            };
            assert_eq!(reason(done), wanted, "{entry}");
            place.check_outside();
        }
    }
    // Not even one that stays inside, in the middle of a path.
    let mut tree = place.tree(Limits::default());
    tree.folder(&path("d/e")).unwrap();
    tree.folder(&path("other/e")).unwrap();
    fs::rename(staged.join("d"), staged.join("moved")).unwrap();
    symlink("other", staged.join("d")).unwrap();
    assert_eq!(reason(file(&mut tree, "d/e/file", "x")), Some(Reason::ThroughLink));
    let mut tree = place.tree(Limits::default());
    tree.folder(&path("d")).unwrap();
    symlink("../../../outside/secret", staged.join("d/file")).unwrap();
    assert_eq!(reason(file(&mut tree, "d/file", "x")), Some(Reason::NamedTwice));
    place.check_outside();
}

#[test]
fn a_hard_link_is_made_only_to_what_this_archive_wrote() {
    let place = Place::new();
    let staged = place.path("in/.tree.unfinished");
    for target in ["absent", "d", "l", "l/secret", "planted", "planted-folder/secret", ".", "d/"] {
        let mut tree = place.tree(Limits::default());
        file(&mut tree, "d/f", "x").unwrap();
        tree.symlink(&path("l"), b"d").unwrap();
        symlink("../../outside/secret", staged.join("planted")).unwrap();
        symlink("../../outside", staged.join("planted-folder")).unwrap();
        let done = tree.hard_link(&path("h"), &path(target));
        assert_eq!(reason(done), Some(Reason::HardLinkEscapes), "{target}");
        place.check_outside();
    }
    let mut tree = place.tree(Limits::default());
    file(&mut tree, "d/f", "x").unwrap();
    tree.hard_link(&path("h"), &path("d/f")).unwrap();
    tree.publish().unwrap();
    assert_eq!(fs::metadata(place.path("in/tree/h")).unwrap().nlink(), 2, "the control");
}

#[test]
fn modes_are_two_whatever_the_umask_and_times_are_kept() {
    let place = Place::new();
    let mut tree = place.tree(Limits::default());
    for (name, is_executable, modified) in
        [("run", true, Some(86400)), ("read", false, Some(u64::MAX)), ("now", false, None)]
    {
        tree.file(&path(name), is_executable, modified, &mut &b"x"[..]).unwrap();
    }
    tree.folder(&path("d/e")).unwrap();
    tree.publish().unwrap();
    let of = |name: &str| fs::metadata(place.path("in/tree").join(name)).unwrap();
    let mode = |name: &str| of(name).permissions().mode() & 0o7777;
    assert_eq!([mode("run"), mode("read"), mode("d"), mode("d/e")], [0o755, 0o644, 0o755, 0o755]);
    assert_eq!((of("run").mtime(), of("read").mtime()), (86400, i64::from(i32::MAX)));
}

#[test]
fn a_path_is_written_once_and_never_in_another_case() {
    let place = Place::new();
    for (second, wanted) in [
        ("a/File", Some(Reason::NamedTwice)),
        ("a/file", Some(Reason::CaseCollision)),
        ("A/other", Some(Reason::CaseCollision)),
        ("a", Some(Reason::NamedTwice)),
        ("a/other", None),
    ] {
        let mut tree = place.tree(Limits::default());
        file(&mut tree, "a/File", "x").unwrap();
        assert_eq!(reason(file(&mut tree, second, "x")), wanted, "{second}");
    }
    let mut tree = place.tree(Limits::default());
    tree.folder(&path("a")).unwrap();
    tree.folder(&path("a")).unwrap();
    tree.folder(&path(".")).unwrap();
    assert_eq!(tree.counts().folders, 1, "a folder may be named again");
    assert_eq!(reason(file(&mut tree, ".", "x")), Some(Reason::EmptySegment));
}

#[test]
fn no_git_folder_is_written() {
    let place = Place::new();
    for name in [".git/config", "a/.GIT/hooks/post-checkout", "git~1/x", "a/.git"] {
        let mut tree = place.tree(Limits::default());
        assert_eq!(reason(file(&mut tree, name, "x")), Some(Reason::GitFolder), "{name}");
    }
    let mut tree = place.tree(Limits::default());
    assert_eq!(reason(tree.symlink(&path(".git"), b"x")), Some(Reason::GitFolder));
    let mut tree = place.tree(Limits::default());
    file(&mut tree, ".gitignore", "x").unwrap();
}

#[test]
fn each_limit_is_taken_and_one_more_is_not() {
    let place = Place::new();
    let limits = Limits {
        entries_max: 3,
        bytes_max: 200_000,
        file_bytes_max: 100_000,
        depth_max: 2,
        ..Limits::default()
    };
    let of = |bytes: u64| repeat(7).take(bytes);
    let mut tree = place.tree(limits);
    tree.file(&path("a"), false, None, &mut of(100_000)).unwrap();
    tree.file(&path("b"), false, None, &mut of(100_000)).unwrap();
    assert_eq!(reason(tree.file(&path("c"), false, None, &mut of(1))), Some(Reason::TooLarge(200_000)));
    let mut tree = place.tree(limits);
    let done = tree.file(&path("a"), false, None, &mut repeat(7));
    assert_eq!(reason(done), Some(Reason::FileTooLarge(100_000)), "without end");
    let staged = fs::metadata(place.path("in/.tree.unfinished/a")).unwrap();
    assert!(staged.len() <= 100_000, "nothing beyond it is written");
    let mut tree = place.tree(limits);
    file(&mut tree, "a/b", "x").unwrap();
    file(&mut tree, "a/c", "x").unwrap();
    assert_eq!(reason(file(&mut tree, "d", "x")), Some(Reason::TooMany(3)));
    let mut tree = place.tree(limits);
    assert_eq!(reason(file(&mut tree, "a/b/c", "x")), Some(Reason::TooDeep(2)));
}

#[test]
fn a_folder_that_somebody_put_in_the_trees_stead_is_not_taken_for_it() {
    let place = Place::new();
    let mut tree = place.tree(Limits::default());
    file(&mut tree, "a", "x").unwrap();
    fs::rename(place.path("in/.tree.unfinished"), place.path("moved")).unwrap();
    fs::create_dir(place.path("in/.tree.unfinished")).unwrap();
    assert_eq!(reason(tree.publish()), Some(Reason::Replaced));
    let mut tree =
        Tree::create(fs::File::open(place.path("in")).unwrap().as_fd(), "b", Limits::default()).unwrap();
    file(&mut tree, "a", "x").unwrap();
    assert!(tree.publish().is_ok(), "the control");
}

#[test]
fn what_is_left_deeper_than_any_tree_ends_in_an_error_and_not_in_a_crash() {
    let place = Place::new();
    let left = place.path("in/.tree.unfinished");
    let parent = fs::File::open(place.path("in")).unwrap();
    fs::create_dir_all(left.join(vec!["d"; 256].join("/"))).unwrap();
    assert!(Tree::create(parent.as_fd(), "tree", Limits::default()).is_ok(), "the control");
    fs::create_dir_all(left.join(vec!["d"; 257].join("/"))).unwrap();
    assert!(matches!(
        Tree::create(parent.as_fd(), "tree", Limits::default()),
        Err(Error::System { doing: "take away", .. })
    ));
    fs::remove_dir_all(&left).unwrap();
    let tree = place.tree(Limits { depth_max: 1000, ..Limits::default() });
    assert_eq!(tree.limits().depth_max, 256, "no tree is deeper");
}

#[test]
fn after_a_failure_nothing_more_is_written() {
    let place = Place::new();
    let mut tree = place.tree(Limits::default());
    assert!(tree.symlink(&path("l"), b"..").is_err());
    assert_eq!(reason(file(&mut tree, "a", "x")), Some(Reason::Unfinished));
    assert_eq!(reason(tree.folder(&path("a"))), Some(Reason::Unfinished));
    assert_eq!(reason(tree.publish()), Some(Reason::Unfinished));
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn the_name_of_a_tree_is_one_name() {
    let place = Place::new();
    let folder = fs::File::open(place.path("in")).unwrap();
    for name in ["", ".", "..", "a/b", "/a", "a\0", "a\n"] {
        assert!(Tree::create(folder.as_fd(), name, Limits::default()).is_err(), "{name:?}");
    }
    assert!(Tree::create(folder.as_fd(), "workspace", Limits::default()).is_ok());
}
