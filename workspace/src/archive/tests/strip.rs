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
        (("shop-1/copy", Link, "README"), Reason::HardLinkEscapes),
    ] {
        let place = Place::new();
        let (archive, tree) = (tar_of(&[entry]), place.tree(Limits::default()));
        let error = unpack(Cursor::new(archive), tree, &exclusion, 1, &mut |_| {}).unwrap_err();
        assert_eq!(error.reason(), Some(wanted), "{entry:?}");
        place.check(false);
    }
}
