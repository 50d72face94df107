//! The first names of each path, taken off.

use std::fs;
use std::io::Cursor;

use tar::EntryType;

use super::{Place, tar_of};
use crate::archive::unpack;
use crate::exclusion::Exclusion;
use crate::limits::Limits;
use crate::refusal::Reason;

#[test]
fn the_first_names_are_taken_off_before_anything_is_judged() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let archive = tar_of(&[
        ("shop-1/", Directory, ""),
        ("shop-1/src/main.rs", Regular, "fn main() {}"),
        ("shop-1/copy", Link, "shop-1/src/main.rs"),
        ("shop-1/secret/key", Regular, "canary"),
    ]);
    let (place, exclusion) = (Place::new(), Exclusion::new(&["/secret"], &[]).unwrap());
    let tree = place.tree(Limits::default());
    let done = unpack(Cursor::new(&archive), tree, &exclusion, 1, &mut |_| {}).unwrap();
    assert_eq!((done.written.files, done.written.links, done.excluded), (1, 1, 1));
    assert_eq!(fs::read_to_string(place.path("copy")).unwrap(), "fn main() {}");
    for (entry, wanted) in [
        (("README", Regular, "no folder around it"), Reason::Stripped(1)),
        (("shop-1", Symlink, "README"), Reason::Stripped(1)),
        (("shop-1/up", Symlink, "../outside"), Reason::LinkEscapes),
        (("shop-1/.git/config", Regular, "[core]"), Reason::GitFolder),
        ((".git/config", Regular, "[core]"), Reason::GitFolder),
        ((".GIT/config", Regular, "[core]"), Reason::GitFolder),
        (("shop-1/copy", Link, "README"), Reason::HardLinkEscapes),
    ] {
        let place = Place::new();
        let (archive, tree) = (tar_of(&[entry]), place.tree(Limits::default()));
        let error = unpack(Cursor::new(archive), tree, &exclusion, 1, &mut |_| {}).unwrap_err();
        assert_eq!(error.reason(), Some(wanted), "{entry:?}");
        place.check(false);
    }
}

/// Files whose folders alone say that they are secret.
const BY_FOLDER: [&str; 6] = [
    ".azure/msal_token_cache.json",
    ".ssh/deploy_key",
    ".aws/credentials",
    ".docker/config.json",
    ".kube/config",
    ".config/gh/hosts.yml",
];

#[test]
fn no_secret_and_no_git_folder_comes_back_with_the_names_that_are_taken_off() {
    use EntryType::{Link, Regular};
    for (around, strip) in [("", 1), ("shop-1/", 2)] {
        let within = |name: &str| format!("{around}{name}");
        let names = BY_FOLDER.map(within);
        let (code, link) = (within("src/main.rs"), within("src/link"));
        let mut entries = vec![(code.as_str(), Regular, "fn main() {}")];
        entries.extend(names.iter().map(|name| (name.as_str(), Regular, "canary")));
        entries.push((link.as_str(), Link, names[1].as_str()));
        let archive = tar_of(&entries);
        let unpacked = |exclude: &[&str], include: &[&str], archive: &[u8]| {
            let (place, exclusion) = (Place::new(), Exclusion::new(exclude, include).unwrap());
            let tree = place.tree(Limits::default());
            (unpack(Cursor::new(archive), tree, &exclusion, strip, &mut |_| {}), place)
        };
        let (done, place) = unpacked(&[], &[], &archive);
        assert_eq!((done.unwrap().left_out, place.names()), (7, vec!["main.rs".to_owned()]), "{strip}");
        // The control: under the name that is on the list, a file is included.
        let (done, place) = unpacked(&[], &["deploy_key"], &archive);
        assert_eq!((done.unwrap().left_out, place.names()[0].as_str()), (5, "deploy_key"), "{strip}");
        let (done, place) = unpacked(&["src"], &[], &archive);
        assert_eq!((done.unwrap().written.files, place.names()), (0, vec![]), "{strip}");

        let git = within(".git/objects/pack/pack-1.pack");
        let git = tar_of(&[(code.as_str(), Regular, "fn main() {}"), (&git, Regular, "PACK")]);
        let (refused, place) = unpacked(&[], &[], &git);
        assert_eq!(refused.unwrap_err().reason(), Some(Reason::GitFolder), "{strip}");
        place.check(false);
        let (done, place) = unpacked(&[".git"], &[], &git);
        assert_eq!((done.unwrap().excluded, place.names()), (1, vec!["main.rs".to_owned()]), "{strip}");
    }
}
