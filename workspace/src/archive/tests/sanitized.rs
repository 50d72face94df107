//! Files of an archive that are rewritten without their secrets.

use std::fs;

use super::*;
use crate::sanitize::Format;

const NPMRC: &str = "registry=https://me:canary@npm.example/\n_authToken=canary\n";

#[test]
fn a_file_of_an_archive_is_rewritten_where_that_is_asked_for_and_left_out_where_it_is_not() {
    use EntryType::{Link, Regular, Symlink};
    let archive = tar_of(&[
        ("shop/.npmrc", Regular, NPMRC),
        ("shop/.pypirc", Regular, "canary"),
        ("shop/other", Link, "shop/.npmrc"),
        ("shop/.netrc", Symlink, ".npmrc"),
        ("shop/.ssh/.npmrc", Regular, NPMRC),
    ]);
    let exclusion = Exclusion::new(&["none"], &["none"]).unwrap().sanitizing(&[Format::Npmrc, Format::Netrc]);
    let (place, mut rewritten) = (Place::new(), Vec::new());
    let done = unpack_stream(&archive[..], place.tree(Limits::default()), &exclusion, 1, &mut |note| {
        if let Note::Rewritten(path) = note {
            rewritten.push(path.to_string());
        }
    })
    .unwrap();
    assert_eq!((done.rewritten, done.left_out, done.written.files), (1, 4, 1));
    assert_eq!(rewritten, [".npmrc"]);
    let found = fs::read_to_string(place.path(".npmrc")).unwrap();
    assert_eq!(found, "registry=https://npm.example/\n# left out\n");
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 1, "neither other names nor other files");
}

#[test]
fn another_name_of_what_is_taken_is_not_rewritten_and_so_refused_and_no_git_folder_comes_with_it() {
    use EntryType::{Link, Regular};
    let exclusion = || Exclusion::new(&["none"], &["none"]).unwrap().sanitizing(&Format::ALL);
    let reason = |entries: &[(&str, EntryType, &str)]| {
        let place = Place::new();
        let archive = tar_of(entries);
        let done = unpack_stream(&archive[..], place.tree(Limits::default()), &exclusion(), 0, &mut |_| ());
        done.unwrap_err().reason()
    };
    for name in ["pip.conf", ".npmrc"] {
        let entries = [("settings", Regular, NPMRC), (name, Link, "settings")];
        assert_eq!(reason(&entries), Some(Reason::LeftOutElsewhere), "{name}");
    }
    assert_eq!(reason(&[(".git/.gitconfig", Regular, "canary")]), Some(Reason::GitFolder));
}
