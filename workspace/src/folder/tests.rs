//! Folders made to hurt, each beside one that is taken.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{FileType, mknodat};

use super::*;
use crate::limits::Limits;
use crate::sanitize::Format;

const CANARY: &str = "folder-canary-51c3";

/// What became of a folder, and what was told of it.
struct Taken {
    result: Result<Unpacked, Error>,
    told: Vec<String>,
}

fn within_time() -> Result<(), Error> {
    Ok(())
}

fn taken_as(
    from: &Path,
    to: &Path,
    (exclude, include): (&[&str], &[&str]),
    limits: Limits,
    clock: &dyn Fn() -> Result<(), Error>,
) -> Taken {
    let exclusion = Exclusion::new(exclude, include).unwrap().sanitizing(&[Format::Npmrc, Format::PipConf]);
    let (from, place) = (File::open(from).unwrap(), File::open(to).unwrap());
    let tree = Tree::create(place.as_fd(), "tree", limits).unwrap();
    let mut told = Vec::new();
    let mut note = |note: Note<'_>| match note {
        Note::LeftOut(path) => told.push(path.to_string()),
        Note::Token(..) | Note::Rewritten(_) => {}
    };
    let result = unpack_folder(from.as_fd(), None, tree, &exclusion, clock, &mut note);
    told.sort();
    Taken { result, told }
}

fn taken(from: &Path, to: &Path, exclude: &[&str]) -> Taken {
    taken_as(from, to, (exclude, &[]), Limits::default(), &within_time)
}

/// Why a folder is refused that holds this beside a file; nothing is left of it then.
fn refusal(lay: impl FnOnce(&Path), limits: Limits) -> (String, Reason) {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("a"), "a").unwrap();
    lay(from.path());
    let taken = taken_as(from.path(), to.path(), (&[], &[]), limits, &within_time);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "nothing is left of the tree");
    match taken.result.unwrap_err() {
        Error::Refused(refusal) => (String::from_utf8(refusal.path).unwrap(), refusal.reason),
        other => panic!("{other:?}"),
    }
}

/// Every byte that lies in a tree.
fn all_of(tree: &Path, into: &mut String) {
    for entry in fs::read_dir(tree).unwrap().map(Result::unwrap) {
        into.push_str(&format!("{} ", entry.path().display()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all_of(&entry.path(), into),
            kind if kind.is_symlink() => {
                into.push_str(&fs::read_link(entry.path()).unwrap().to_string_lossy())
            }
            _ => into.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap())),
        }
    }
}

#[test]
fn a_folder_is_taken_with_its_files_links_and_modes_and_without_what_holds_secrets() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| from.path().join(name);
    for folder in ["app/empty", ".ssh", ".aws", "lost+found"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    for name in ["app/run.sh", "readme", ".env.example"] {
        fs::write(path(name), "taken").unwrap();
    }
    for name in ["app/.env", "app/own.secret", ".ssh/config", ".aws/credentials", "lost+found/#12"] {
        fs::write(path(name), CANARY).unwrap();
    }
    fs::set_permissions(path("app/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../readme", path("app/link")).unwrap();
    let Taken { result, told } = taken(from.path(), to.path(), &["*.secret"]);
    let unpacked = result.unwrap();
    assert_eq!(told, [".aws/credentials", ".ssh/config", "app/.env", "app/own.secret"]);
    assert_eq!((unpacked.written.files, unpacked.left_out, unpacked.excluded), (3, 3, 1));
    let tree = to.path().join("tree");
    assert_eq!(fs::read_to_string(tree.join("app/link")).unwrap(), "taken");
    assert!(tree.join("app/empty").is_dir() && !tree.join("lost+found").exists());
    assert_eq!(fs::metadata(tree.join("app/run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    let mut found = String::new();
    all_of(&tree, &mut found);
    assert!(!found.contains(CANARY), "{found}");

    let again = tempfile::tempdir().unwrap();
    let control = taken_as(from.path(), again.path(), (&[], &[".env"]), Limits::default(), &within_time);
    assert_eq!(control.result.unwrap().left_out, 2, "what is included is taken, as is what nobody excludes");
    assert_eq!(fs::read_to_string(again.path().join("tree/app/.env")).unwrap(), CANARY);
}

#[test]
fn what_no_archive_may_hold_no_folder_may_and_the_path_is_named() {
    let refusal = |lay: &dyn Fn(&Path)| refusal(lay, Limits::default());
    let is = |path: &str, reason| (path.to_owned(), reason);
    for target in ["/etc/passwd", "../up", "b/../../up"] {
        let found = refusal(&|from| symlink(target, from.join("out")).unwrap());
        assert_eq!(found, is("out", Reason::LinkEscapes), "{target}");
    }
    assert_eq!(
        refusal(&|from| drop(UnixListener::bind(from.join("socket")).unwrap())),
        is("socket", Reason::Device)
    );
    let fifo = |from: &Path| {
        mknodat(File::open(from).unwrap(), "fifo", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    assert_eq!(refusal(&fifo), is("fifo", Reason::Device));
    for mode in [0o4755, 0o2755, 0o1644] {
        let set = |from: &Path| {
            fs::write(from.join("root"), "").unwrap();
            fs::set_permissions(from.join("root"), fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(refusal(&set), is("root", Reason::SetId), "{mode:o}");
    }
    let twice = |one: &'static str, other: &'static str| {
        move |from: &Path| [one, other].iter().for_each(|name| fs::write(from.join(name), "").unwrap())
    };
    assert_eq!(refusal(&twice("A", "B")), is("a", Reason::CaseCollision));
    assert_eq!(refusal(&twice("caf\u{e9}", "cafe\u{301}")).1, Reason::UnicodeCollision);
    assert_eq!(refusal(&twice("n\u{202e}", "b")).1, Reason::Control);
    assert_eq!(refusal(&|from| fs::write(from.join("a\nb"), "").unwrap()).1, Reason::Control);
}

#[test]
fn a_git_folder_is_refused_in_any_spelling_and_one_that_is_excluded_is_in_no_tree() {
    for name in [".git", ".GIT", "sub/.git"] {
        let lay = |from: &Path| {
            fs::create_dir_all(from.join(name)).unwrap();
            fs::write(from.join(name).join("config"), CANARY).unwrap();
        };
        assert_eq!(refusal(lay, Limits::default()), (name.to_owned(), Reason::GitFolder));
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join(".git/objects/pack")).unwrap();
    fs::write(from.path().join(".git/objects/pack/pack-1.pack"), CANARY).unwrap();
    fs::write(from.path().join("main.rs"), "fn main() {}").unwrap();
    let unpacked = taken(from.path(), to.path(), &[".git"]).result.unwrap();
    assert_eq!((unpacked.written.files, unpacked.excluded), (1, 1));
    assert!(!to.path().join("tree/.git").exists());
}

#[test]
fn a_secret_with_a_second_name_is_in_no_tree_and_two_names_of_code_are_two_files() {
    // In the order of names the secret comes first in the one, and last in the other.
    for (secret, other) in [(".env", "settings"), ("z/.env", "a-copy")] {
        let (path, reason) = refusal(
            |from| {
                fs::create_dir_all(from.join("z")).unwrap();
                fs::write(from.join(secret), CANARY).unwrap();
                fs::hard_link(from.join(secret), from.join(other)).unwrap();
            },
            Limits::default(),
        );
        assert_eq!(reason, Reason::LeftOutElsewhere);
        assert!([secret, other].contains(&path.as_str()), "{path}");
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("one"), "code").unwrap();
    fs::hard_link(from.path().join("one"), from.path().join("two")).unwrap();
    fs::write(from.path().join(".env"), CANARY).unwrap();
    fs::hard_link(from.path().join(".env"), from.path().join("id_rsa")).unwrap();
    let unpacked = taken(from.path(), to.path(), &[]).result.unwrap();
    assert_eq!((unpacked.written.files, unpacked.left_out), (2, 2));
}

#[test]
fn what_is_left_out_may_be_of_any_kind_and_mode_for_nobody_looks_at_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| from.path().join(name);
    fs::write(path("code"), "code").unwrap();
    let _socket = UnixListener::bind(path("run.sock")).unwrap();
    fs::write(path("su"), "").unwrap();
    fs::set_permissions(path("su"), fs::Permissions::from_mode(0o4755)).unwrap();
    let Taken { result, told } = taken(from.path(), to.path(), &["*.sock", "su"]);
    assert_eq!((result.unwrap().excluded, told), (2, vec!["run.sock".to_owned(), "su".to_owned()]));
    // A pattern of folders alone says nothing of a socket, whatever else it may be.
    let other = tempfile::tempdir().unwrap();
    assert!(taken(from.path(), other.path(), &["su"]).result.is_err());
}

#[test]
fn each_limit_of_a_tree_holds_for_a_folder() {
    let small = |change: &dyn Fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let file = |name: &'static str, bytes: usize| {
        move |from: &Path| fs::write(from.join(name), vec![b'x'; bytes]).unwrap()
    };
    let limits = small(&|limits| limits.file_bytes_max = 10);
    assert_eq!(refusal(file("b", 11), limits), ("b".to_owned(), Reason::FileTooLarge(10)));
    let limits = small(&|limits| limits.bytes_max = 10);
    assert_eq!(refusal(file("b", 10), limits), ("b".to_owned(), Reason::TooLarge(10)));
    // A hole is as large as what is read of it.
    let hole = |from: &Path| File::create(from.join("hole")).unwrap().set_len(1 << 40).unwrap();
    let limits = small(&|limits| limits.file_bytes_max = 1 << 20);
    assert_eq!(refusal(hole, limits), ("hole".to_owned(), Reason::FileTooLarge(1 << 20)));
    let limits = small(&|limits| limits.entries_max = 2);
    let deep = |from: &Path| {
        fs::create_dir_all(from.join("d")).unwrap();
        fs::write(from.join("d/e"), "").unwrap();
    };
    assert_eq!(refusal(deep, limits), ("d".to_owned(), Reason::TooMany(2)));
    let limits = small(&|limits| limits.depth_max = 2);
    let deep = |from: &Path| fs::create_dir_all(from.join("1/2/3")).unwrap();
    assert_eq!(refusal(deep, limits), ("1/2/3".to_owned(), Reason::TooDeep(2)));
}

#[test]
fn a_folder_that_changes_while_it_is_read_is_refused_and_the_time_that_it_has_ends() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["a", "b", "c"] {
        fs::write(from.path().join(name), name).unwrap();
    }
    let reason = |change: &dyn Fn()| {
        let changes = || {
            change();
            Ok(())
        };
        let taken = taken_as(from.path(), to.path(), (&[], &[]), Limits::default(), &changes);
        taken.result.unwrap_err().reason()
    };
    assert_eq!(reason(&|| fs::write(from.path().join("new"), "").unwrap()), Some(Reason::Changing));
    let gone = || drop(fs::remove_file(from.path().join("c")));
    assert_eq!(reason(&gone), Some(Reason::Changing));
    let late = || Err(Error::Late);
    let taken = taken_as(from.path(), to.path(), (&[], &[]), Limits::default(), &late);
    assert!(matches!(taken.result, Err(Error::Late)));
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_grew_or_shrank_since_it_was_opened_is_no_file() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "12345").unwrap();
    let mut short = Counted { file: File::open(place.path().join("file")).unwrap(), bytes: 0, left: 3 };
    assert_eq!(io::read_to_string(&mut short).unwrap(), "123", "of what grew no more is read");
    let file = File::open(place.path().join("file")).unwrap();
    let before = fstat(&file).unwrap();
    assert!(is_as_before(&before, &fstat(&file).unwrap()));
    fs::write(place.path().join("file"), "123456").unwrap();
    assert!(!is_as_before(&before, &fstat(&file).unwrap()));
}

#[test]
fn a_folder_of_a_volume_is_opened_through_no_link_and_no_file() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("src/shop")).unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    symlink("src", place.path().join("link")).unwrap();
    symlink("/etc", place.path().join("out")).unwrap();
    let volume = File::open(place.path()).unwrap();
    let opened = |path: &str| open_within(volume.as_fd(), &RelativePath::parse(path.as_bytes()).unwrap());
    for (path, holds) in [("src/shop", 0), (".", 4)] {
        let found = names(opened(path).unwrap().as_fd(), 10, 1000).unwrap().unwrap();
        assert_eq!(found.len(), holds, "{path} can be read");
    }
    for path in ["link/shop", "out", "file"] {
        assert_eq!(opened(path).unwrap_err().reason(), Some(Reason::ThroughLink), "{path}");
    }
    assert!(matches!(opened("none").unwrap_err(), Error::System { .. }));
}

#[test]
fn what_is_rewritten_has_its_settings_and_no_secret_under_any_name_and_what_is_excluded_stays_out() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| from.path().join(name);
    for folder in ["web", ".ssh", "out"] {
        fs::create_dir(path(folder)).unwrap();
    }
    let npmrc = format!("registry=https://me:{CANARY}@npm.example/\n_authToken={CANARY}\n");
    for name in ["web/.npmrc", ".ssh/.npmrc", "out/.npmrc", ".netrc"] {
        fs::write(path(name), &npmrc).unwrap();
    }
    fs::write(path("pip.conf"), format!("[global]\nindex-url = https://{CANARY}@pypi.example/\n")).unwrap();
    fs::write(path("web/pip.conf"), [b'x'; (1 << 20) + 1]).unwrap();
    let Taken { result, told } =
        taken_as(from.path(), to.path(), (&["out"], &[".npmrc"]), Limits::default(), &within_time);
    let unpacked = result.unwrap();
    assert_eq!(told, [".netrc", "out", "web/pip.conf"]);
    assert_eq!((unpacked.rewritten, unpacked.left_out, unpacked.excluded), (3, 2, 1));
    let mut found = String::new();
    all_of(&to.path().join("tree"), &mut found);
    assert!(!found.contains(CANARY), "{found}");
    assert!(
        found.contains("registry=https://npm.example/") && found.contains("https://pypi.example/"),
        "{found}"
    );

    // Another name of what is rewritten has all its bytes.
    for (one, other) in [("pip.conf", "a-copy"), ("pip.conf", "settings")] {
        let (_, reason) = refusal(
            |from| {
                fs::write(from.join(one), CANARY).unwrap();
                fs::hard_link(from.join(one), from.join(other)).unwrap();
            },
            Limits::default(),
        );
        assert_eq!(reason, Reason::LeftOutElsewhere);
    }
}

#[test]
fn the_names_on_the_way_to_a_folder_are_judged_with_those_in_it() {
    let place = tempfile::tempdir().unwrap();
    let reads = |within: &str, include: &[&str]| {
        let folder = place.path().join(within);
        fs::create_dir_all(&folder).unwrap();
        for name in ["config", "credentials", ".npmrc", "code"] {
            fs::write(folder.join(name), CANARY).unwrap();
        }
        let to = tempfile::tempdir().unwrap();
        let exclusion = Exclusion::new(&["none"], include).unwrap().sanitizing(&[Format::Npmrc]);
        let tree = Tree::create(File::open(to.path()).unwrap().as_fd(), "tree", Limits::default()).unwrap();
        let (volume, within) =
            (File::open(place.path()).unwrap(), RelativePath::parse(within.as_bytes()).unwrap());
        let opened = open_within(volume.as_fd(), &within).unwrap();
        let result =
            unpack_folder(opened.as_fd(), Some(&within), tree, &exclusion, &within_time, &mut |_| ());
        let names = fs::read_dir(to.path().join("tree")).into_iter().flatten().count();
        result.map(|_| names).map_err(|error| error.reason())
    };
    assert_eq!(reads("home/.ssh", &[]), Ok(0));
    assert_eq!(reads("home/.aws", &[]), Ok(3), "credentials are left out");
    assert_eq!(reads("home/.ssh", &["code"]), Ok(1), "the control: what is included is taken");
    assert_eq!(reads("plain/src", &[]), Ok(4));
    for within in [".git", "shop/.GIT/objects"] {
        assert_eq!(reads(within, &[]), Err(Some(Reason::GitFolder)), "{within}");
    }
}

#[test]
fn a_folder_that_is_excluded_is_not_entered_and_no_hole_is_read_to_be_rewritten() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| from.path().join(name);
    fs::create_dir_all(path("cache/d")).unwrap();
    fs::write(path("cache/a\nb"), "").unwrap();
    fs::write(path("code"), "code").unwrap();
    File::create(path(".npmrc")).unwrap().set_len(1 << 42).unwrap();
    let changes = || {
        fs::write(path("cache/d/new"), "").unwrap();
        drop(fs::remove_file(path("cache/a\nb")));
        Ok(())
    };
    let Taken { result, told } =
        taken_as(from.path(), to.path(), (&["cache/"], &[]), Limits::default(), &changes);
    assert_eq!((result.unwrap().written.files, told), (1, vec![".npmrc".to_owned(), "cache".to_owned()]));
}
