//! What no git server would send, and a hostile one does.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_hash::Kind as HashKind;
use gix_object::Kind;
use std::io::Write;

use super::{Asked, Served, limits, shop, taken};
use crate::limits::Limits;
use crate::refusal::{Error, Reason};

/// A pack as it is put together by hand.
#[derive(Default)]
struct Packed {
    entries: Vec<Vec<u8>>,
}

impl Packed {
    /// An entry of any type, whatever it claims as its size.
    fn entry(&mut self, type_id: u8, size: u64, base: &[u8], content: &[u8]) -> &mut Self {
        let (mut out, mut size, mut byte) = (Vec::new(), size >> 4, type_id << 4 | (size & 15) as u8);
        while size > 0 {
            out.push(byte | 128);
            byte = (size & 127) as u8;
            size >>= 7;
        }
        out.push(byte);
        out.extend_from_slice(base);
        let mut encoder = ZlibEncoder::new(&mut out, Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap();
        self.entries.push(out);
        self
    }

    fn object(&mut self, kind: Kind, content: &[u8]) -> gix_hash::ObjectId {
        let type_id = match kind {
            Kind::Commit => 1,
            Kind::Tree => 2,
            Kind::Blob => 3,
            Kind::Tag => 4,
        };
        self.entry(type_id, content.len() as u64, b"", content);
        gix_object::compute_hash(HashKind::Sha1, kind, content).unwrap()
    }

    fn tree(&mut self, entries: &[(&str, &[u8], gix_hash::ObjectId)]) -> gix_hash::ObjectId {
        let entry = |(mode, name, id): &(&str, &[u8], gix_hash::ObjectId)| {
            [mode.as_bytes(), b" ", name, b"\0", id.as_slice()].concat()
        };
        self.object(Kind::Tree, &entries.iter().flat_map(entry).collect::<Vec<u8>>())
    }

    fn commit(&mut self, tree: gix_hash::ObjectId) -> String {
        let who = "A <a@b.test> 1700000000 +0000";
        let text = format!("tree {tree}\nauthor {who}\ncommitter {who}\n\nx\n");
        self.object(Kind::Commit, text.as_bytes()).to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        let count = (self.entries.len() as u32).to_be_bytes();
        let out = [&b"PACK\0\0\0\x02"[..], &count, &self.entries.concat()].concat();
        crate::git::index::seal(out).unwrap()
    }
}

fn refused(pack: &[u8], wanted: &str, limits: Limits) -> Error {
    taken(pack, &Asked { wanted, limits, ..Asked::default() }).err().expect("it is refused")
}

fn reason(pack: &Packed, wanted: &str) -> Option<Reason> {
    refused(&pack.bytes(), wanted, limits()).reason()
}

#[test]
fn a_name_or_mode_in_a_tree_that_could_hurt_refuses_all_of_it() {
    let long = "x".repeat(256);
    for (mode, name, wanted) in [
        ("100644", ".git", Reason::GitFolder),
        ("40000", ".git", Reason::GitFolder),
        ("100644", ".GIT", Reason::GitFolder),
        ("100644", ".Git.", Reason::GitFolder),
        ("40000", "git~1", Reason::GitFolder),
        ("100644", ".g\u{200c}it", Reason::GitFolder),
        ("120000", ".git\u{feff}", Reason::GitFolder),
        ("40000", ".git::$INDEX_ALLOCATION", Reason::GitFolder),
        ("40000", "..", Reason::ParentSegment),
        ("100644", "..", Reason::ParentSegment),
        ("100644", ".", Reason::EmptySegment),
        ("100644", "", Reason::EmptySegment),
        ("100644", "a/b", Reason::Malformed),
        ("100644", "/etc/x", Reason::Malformed),
        ("100644", "a\nb", Reason::Control),
        ("100644", "a\u{1b}[2J", Reason::Control),
        ("100644", &long, Reason::NameTooLong),
        ("100755", "a\u{202e}txt", Reason::Control),
        ("20644", "device", Reason::UnknownMode),
        ("10644", "fifo", Reason::UnknownMode),
        ("140755", "socket", Reason::UnknownMode),
        ("140000", "socket", Reason::UnknownMode),
        ("0100644", "padded", Reason::UnknownMode),
        ("300644", "beyond", Reason::UnknownMode),
        ("700755", "beyond", Reason::UnknownMode),
        ("040000", "padded", Reason::UnknownMode),
        ("104755", "setuid", Reason::UnknownMode),
        ("100666", "odd", Reason::UnknownMode),
        ("0", "none", Reason::UnknownMode),
    ] {
        // At the top, and in a folder.
        for is_deep in [false, true] {
            let mut pack = Packed::default();
            let blob = pack.object(Kind::Blob, b"src");
            let id = if mode == "40000" { pack.tree(&[("100644", b"x", blob)]) } else { blob };
            let mut tree = pack.tree(&[(mode, name.as_bytes(), id)]);
            if is_deep {
                tree = pack.tree(&[("40000", b"src", tree)]);
            }
            let commit = pack.commit(tree);
            let error = refused(&pack.bytes(), &commit, limits());
            // gix itself reads no entry whose mode is none.
            let is_read = !matches!(error, Error::Pack(_));
            assert!(!is_read || error.reason() == Some(wanted), "{mode} {name:?}: {error}");
            assert!(is_read || wanted == Reason::UnknownMode, "{mode} {name:?}: {error}");
        }
    }
}

#[test]
fn names_that_collide_and_links_that_leave_refuse_all_of_it() {
    let same = |one: &str, other: &str| {
        let mut pack = Packed::default();
        let blob = pack.object(Kind::Blob, b"x");
        let tree = pack.tree(&[("100644", one.as_bytes(), blob), ("100644", other.as_bytes(), blob)]);
        let commit = pack.commit(tree);
        reason(&pack, &commit)
    };
    assert_eq!(same("README", "readme"), Some(Reason::CaseCollision));
    assert_eq!(same("e\u{301}", "\u{e9}"), Some(Reason::UnicodeCollision));
    assert_eq!(same("a", "a"), Some(Reason::Malformed), "one name twice");
    assert_eq!(same("b", "a"), Some(Reason::Malformed), "unsorted");

    for (target, wanted) in [
        ("../x", Reason::LinkEscapes),
        ("/etc/passwd", Reason::LinkEscapes),
        ("a/../../x", Reason::LinkEscapes),
    ] {
        let mut pack = Packed::default();
        let blob = pack.object(Kind::Blob, target.as_bytes());
        let tree = pack.tree(&[("120000", b"up", blob)]);
        let commit = pack.commit(tree);
        assert_eq!(reason(&pack, &commit), Some(wanted), "{target}");
    }
    // A link, and a folder of its name: what is in the folder would be written through the link.
    let mut pack = Packed::default();
    let blob = pack.object(Kind::Blob, b"src");
    let inner = pack.tree(&[("100644", b"x", blob)]);
    let tree = pack.tree(&[("120000", b"a", blob), ("40000", b"a", inner)]);
    let commit = pack.commit(tree);
    assert!(reason(&pack, &commit).is_some());
}

#[test]
fn what_was_not_asked_for_and_what_is_not_there_is_not_checked_out() {
    let served = shop();
    let id = super::git(served.path(), &["rev-parse", "HEAD"]);
    let other = super::git(served.path(), &["rev-parse", "HEAD~1"]);
    let (pack, not_asked) = (served.pack(&id, 1), served.pack(&other, 1));
    assert!(taken(&pack, &Asked { wanted: &id, ..Asked::default() }).is_ok(), "the control");
    assert_eq!(refused(&not_asked, &id, limits()).reason(), Some(Reason::Missing), "another commit");

    let mut pack = Packed::default();
    let blob = pack.object(Kind::Blob, b"x");
    let absent = gix_object::compute_hash(HashKind::Sha1, Kind::Blob, b"absent").unwrap();
    let tree = pack.tree(&[("100644", b"x", absent)]);
    let commit = pack.commit(tree);
    assert_eq!(reason(&pack, &commit), Some(Reason::Missing), "a content that is absent");
    let commit = pack.commit(absent);
    assert_eq!(reason(&pack, &commit), Some(Reason::Missing), "a tree that is absent");
    let commit = pack.commit(blob);
    assert_eq!(reason(&pack, &commit), Some(Reason::WrongKind), "a content in a tree's place");
    let within = pack.tree(&[("100644", b"x", tree)]);
    let commit = pack.commit(within);
    assert_eq!(reason(&pack, &commit), Some(Reason::WrongKind), "a tree in a content's place");
    assert_eq!(reason(&pack, &blob.to_string()), Some(Reason::WrongKind), "a content in a commit's place");
}

#[test]
fn a_pack_that_is_damaged_cut_or_longer_is_refused_at_each_byte() {
    let served = Served::new();
    let id = served.write("a", "some text").commit("one");
    let pack = served.pack(&id, 1);
    for end in 0..pack.len() {
        refused(&pack[..end], &id, limits());
    }
    refused(&[&pack[..pack.len() - 20], &[0; 40]].concat(), &id, limits());
    for at in 0..pack.len() {
        let mut damaged = pack.clone();
        damaged[at] ^= 1;
        assert_eq!(refused(&damaged, &id, limits()).reason(), Some(Reason::Checksum), "{at}");
    }
    // The same from a server that says so at its end.
    for at in 0..pack.len() - 20 {
        let mut damaged = pack[..pack.len() - 20].to_vec();
        damaged[at] ^= 1;
        let damaged = crate::git::index::seal(damaged).unwrap();
        // Some bits of a compression mean nothing; then the objects are what their ids say.
        if let Ok(out) = taken(&damaged, &Asked { wanted: &id, ..Asked::default() }) {
            assert_eq!(std::fs::read_to_string(out.tree().join("a")).unwrap(), "some text");
            assert_eq!(out.done.commit, id);
        }
    }
}

fn size(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 127 {
        out.push((number & 127) as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

#[test]
fn a_bomb_is_refused_before_it_takes_more_than_its_bound() {
    let nobody = "0".repeat(40);
    // A size that is not what comes, below and beyond what memory there is.
    for claimed in [5, 1 << 20, 1 << 40, u64::MAX] {
        let mut pack = Packed::default();
        pack.entry(3, claimed, b"", &[0; 1000]);
        let error = refused(&pack.bytes(), &nobody, limits());
        let is_too_large = matches!(error.reason(), Some(Reason::ObjectTooLarge(_)));
        assert!(
            is_too_large == (claimed > 1 << 30) && (is_too_large || matches!(error, Error::Pack(_))),
            "{error}"
        );
    }
    let small = Limits { bytes_max: 1 << 20, file_bytes_max: 1 << 19, ..limits() };
    let reason = |pack: &Packed| refused(&pack.bytes(), &nobody, small).reason();
    let mut pack = Packed::default();
    pack.object(Kind::Blob, &vec![0; (1 << 19) + 1]);
    assert_eq!(reason(&pack), Some(Reason::FileTooLarge(1 << 19)));
    let mut pack = Packed::default();
    for byte in 0..5 {
        pack.object(Kind::Blob, &vec![byte; 1 << 18]);
    }
    assert_eq!(reason(&pack), Some(Reason::TooLarge(1 << 20)));
    // A few bytes that copy their base over and over, one on the other.
    let mut pack = Packed::default();
    pack.object(Kind::Blob, &[1; 4096]);
    let mut length = 4096_u64;
    for _ in 0..6 {
        let copies = 16;
        // Of at most 16 MiB, which is what one instruction copies.
        let bytes = (length.min(0xff_ffff) as u32).to_le_bytes();
        let copy = [&[0xf0][..], &bytes[..3]].concat();
        let delta = [size(length), size(length * copies), copy.repeat(copies as usize)].concat();
        let distance = pack.entries.last().unwrap().len() as u64;
        pack.entry(6, delta.len() as u64, &offset(distance), &delta);
        length *= copies;
    }
    assert_eq!(reason(&pack), Some(Reason::FileTooLarge(1 << 19)));
    // What one of them alone would take, in the memory of a machine.
    let mut pack = Packed::default();
    pack.object(Kind::Blob, b"x");
    let distance = pack.entries.last().unwrap().len() as u64;
    let delta = [size(1), size(1 << 40)].concat();
    pack.entry(6, delta.len() as u64, &offset(distance), &delta);
    assert!(matches!(refused(&pack.bytes(), &nobody, limits()), Error::Pack(_)));
    let mut pack = Packed::default();
    for number in 0..5001_u32 {
        pack.object(Kind::Blob, &number.to_be_bytes());
    }
    assert_eq!(reason(&pack), Some(Reason::TooMany(5000)));
}

/// The distance of an entry that is made from another (gitformat-pack(5)).
fn offset(mut distance: u64) -> Vec<u8> {
    let mut out = vec![(distance & 127) as u8];
    while distance > 127 {
        distance = (distance >> 7) - 1;
        out.insert(0, (distance & 127) as u8 | 128);
    }
    out
}

#[test]
fn trees_that_name_one_another_without_end_are_counted_as_paths() {
    let mut pack = Packed::default();
    let blob = pack.object(Kind::Blob, b"x");
    let mut tree = pack.tree(&[("100644", b"x", blob)]);
    for _ in 0..10 {
        let names: Vec<String> = (0..10).map(|number| format!("f{number}")).collect();
        let entries: Vec<_> = names.iter().map(|name| ("40000", name.as_bytes(), tree)).collect();
        tree = pack.tree(&entries);
    }
    let commit = pack.commit(tree);
    assert_eq!(reason(&pack, &commit), Some(Reason::TooMany(5000)), "ten billion files of twelve objects");
    let mut tree = pack.tree(&[("100644", b"x", blob)]);
    for _ in 0..70 {
        tree = pack.tree(&[("40000", b"d", tree)]);
    }
    let commit = pack.commit(tree);
    assert_eq!(reason(&pack, &commit), Some(Reason::TooDeep(64)));
    // A few objects, whose paths together are more than memory has place for.
    let long = "x".repeat(240);
    let names: Vec<String> = (0..30_000).map(|number| format!("{number:05}")).collect();
    let empty = pack.tree(&[]);
    let folders: Vec<_> = names.iter().map(|name| ("40000", name.as_bytes(), empty)).collect();
    let mut tree = pack.tree(&folders);
    for _ in 0..7 {
        tree = pack.tree(&[("40000", long.as_bytes(), tree)]);
    }
    let commit = pack.commit(tree);
    let many = Limits { entries_max: 1_000_000, ..limits() };
    assert_eq!(refused(&pack.bytes(), &commit, many).reason(), Some(Reason::PathsTooLong(48 << 20)));
}

#[test]
fn a_chain_of_objects_that_is_longer_than_gits_own_is_refused() {
    let chain = |length: usize| {
        let mut pack = Packed::default();
        let blob = pack.object(Kind::Blob, b"xx");
        for _ in 0..length {
            // The same again, and a byte more would be another object.
            let delta = [size(2), size(2), vec![0x90, 2]].concat();
            let distance = pack.entries.last().unwrap().len() as u64;
            pack.entry(6, delta.len() as u64, &offset(distance), &delta);
        }
        let tree = pack.tree(&[("100644", b"x", blob)]);
        let commit = pack.commit(tree);
        taken(&pack.bytes(), &Asked { wanted: &commit, ..Asked::default() })
            .err()
            .and_then(|error| error.reason())
    };
    assert_eq!((chain(4095), chain(4096)), (None, Some(Reason::Malformed)));
}

#[test]
fn objects_that_are_made_from_others_are_read_in_any_order_and_never_in_a_circle() {
    let base = b"hello, base".to_vec();
    let delta = [size(11), size(5), vec![0x90, 5]].concat();
    let id = |content: &[u8]| gix_object::compute_hash(HashKind::Sha1, Kind::Blob, content).unwrap();
    let mut pack = Packed::default();
    // Before the object that it is made from.
    pack.entry(7, delta.len() as u64, id(&base).as_slice(), &delta);
    pack.object(Kind::Blob, &base);
    let tree = pack.tree(&[("100644", b"made", id(b"hello"))]);
    let commit = pack.commit(tree);
    let out = taken(&pack.bytes(), &Asked { wanted: &commit, ..Asked::default() }).unwrap();
    assert_eq!(std::fs::read_to_string(out.tree().join("made")).unwrap(), "hello");

    for base in [id(b"hello"), id(b"absent")] {
        let mut pack = Packed::default();
        pack.entry(7, delta.len() as u64, base.as_slice(), &delta);
        assert_eq!(reason(&pack, &commit), Some(Reason::Missing), "made from itself, or from nothing");
    }
    for distance in [0, 1, 12, 1 << 40] {
        let mut pack = Packed::default();
        pack.entry(6, delta.len() as u64, &offset(distance), &delta);
        assert_eq!(reason(&pack, &commit), Some(Reason::Missing), "{distance}");
    }
    // From the middle of another object, whose bytes there are an object of their own.
    let mut inner = Packed::default();
    inner.object(Kind::Blob, &base);
    let hidden = inner.entries.concat();
    let mut pack = Packed::default();
    let mut stored = ZlibEncoder::new(Vec::new(), Compression::none());
    stored.write_all(&hidden).unwrap();
    let mut outer = vec![3 << 4 | (hidden.len() & 15) as u8 | 128, (hidden.len() >> 4) as u8];
    outer.extend(stored.finish().unwrap());
    let begin = outer.windows(hidden.len()).position(|window| window == hidden).unwrap();
    pack.entries.push(outer);
    let distance = (pack.entries[0].len() - begin) as u64;
    pack.entry(6, delta.len() as u64, &offset(distance), &delta);
    assert_eq!(reason(&pack, &commit), Some(Reason::Missing));
}

#[test]
fn nothing_is_checked_out_once_there_is_no_time_left() {
    let served = shop();
    let id = super::git(served.path(), &["rev-parse", "HEAD"]);
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("pack"), served.pack(&id, 1)).unwrap();
    let parent = std::fs::File::open(folder.path()).unwrap();
    let exclusion = crate::exclusion::Exclusion::new::<&str>(&[], &[]).unwrap();
    let origin = crate::git::Origin { url: "https://git.test/a", branch: None };
    // At each look at the clock.
    for looks in 0..400 {
        let left = std::cell::Cell::new(looks);
        let clock = || {
            left.set(left.get() - 1);
            if left.get() < 0 { Err(Error::Late) } else { Ok(()) }
        };
        let tree = crate::tree::Tree::create(std::os::fd::AsFd::as_fd(&parent), "tree", limits()).unwrap();
        let pack = folder.path().join("pack");
        match crate::git::check_out(&pack, &id, &origin, tree, &exclusion, &clock, &mut |_| {}) {
            Ok(_) => {
                // Ten objects are read, walked and written anew.
                assert!(
                    looks > 30,
                    "the clock is looked at for objects, trees, files and the new pack: {looks}"
                );
                return;
            }
            Err(error) => assert!(matches!(error, Error::Late), "{error}"),
        }
        assert!(!folder.path().join("tree").exists());
    }
    panic!("the control: it is checked out in time");
}

#[test]
fn an_address_or_branch_that_would_be_read_otherwise_is_refused() {
    let served = shop();
    let id = super::git(served.path(), &["rev-parse", "HEAD"]);
    let pack = served.pack(&id, 1);
    for url in [
        "https://a.test/x\n[core]",
        "https://a.test/\"x",
        "https://a.test/x#y",
        "https://a.test/x y",
        "a\\b",
        "",
    ] {
        let asked = Asked { wanted: &id, url, ..Asked::default() };
        assert_eq!(
            taken(&pack, &asked).err().and_then(|error| error.reason()),
            Some(Reason::Malformed),
            "{url:?}"
        );
    }
    for branch in ["../../config", "x]\n[core]", "-x"] {
        let asked = Asked { wanted: &id, branch: Some(branch), ..Asked::default() };
        assert_eq!(
            taken(&pack, &asked).err().and_then(|error| error.reason()),
            Some(Reason::Malformed),
            "{branch:?}"
        );
    }
    assert!(
        taken(&pack, &Asked { wanted: &id, branch: Some("ok"), ..Asked::default() }).is_ok(),
        "the control"
    );
}
