use std::fs;
use std::io::{Cursor, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use proptest::prelude::{Strategy, prop, proptest};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{Note, Unpacked, unpack, unpack_stream};
use crate::exclusion::Exclusion;
use crate::limits::Limits;
use crate::refusal::{Error, Reason};
use crate::tree::Tree;

mod readings;
mod sanitized;
mod strip;

/// Entries of a tar: a name, a kind, and a content or a target.
type TarEntries<'a> = &'a [(&'a str, EntryType, &'a str)];

/// Entries of a zip: a name, a mode and a content.
type ZipEntries<'a> = &'a [(&'a str, u32, &'a [u8])];

/// A header whose name is written as it is: no builder makes a hostile one.
fn header(name: &[u8], kind: EntryType, target: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_mtime(86400);
    header.set_size(size);
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..target.len()].copy_from_slice(target);
    if kind == EntryType::GNUSparse
        && let Some(gnu) = header.as_gnu_mut()
    {
        gnu.realsize.copy_from_slice(b"00000000000\0");
    }
    header.set_cksum();
    header
}

/// An archive of entries, each a name, a kind, and a content or a target.
fn tar_of(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let (target, content) = match kind {
            EntryType::Symlink | EntryType::Link => (content.as_bytes(), &b""[..]),
            _ => (&b""[..], content.as_bytes()),
        };
        builder.append(&header(name.as_bytes(), *kind, target, content.len() as u64), content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = rawzip::ZipArchiveWriter::new(Vec::new());
    for (name, mode, content) in entries {
        let name = rawzip::path::EntryPath::verbatim(name.as_bytes());
        let file =
            zip.new_file(name).compression_method(rawzip::CompressionMethod::DEFLATE).unix_permissions(*mode);
        let (mut entry, config) = file.start().unwrap();
        let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::default()));
        writer.write_all(content).unwrap();
        let (encoder, descriptor) = writer.finish().unwrap();
        encoder.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    zip.finish().unwrap()
}

/// A folder for a tree, beside a file that nobody may touch.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("secret"), "untouched").unwrap();
        Self { folder }
    }

    fn tree(&self, limits: Limits) -> Tree {
        Tree::create(fs::File::open(self.folder.path().join("in")).unwrap().as_fd(), "tree", limits).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("in/tree").join(name)
    }

    /// Names in the tree's own folder, in order.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Nothing beside the tree was touched, and the tree is there as a whole or not at all.
    fn check(&self, is_there: bool) {
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join(folder)).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("."), ["in", "secret"]);
        assert_eq!(fs::read_to_string(self.folder.path().join("secret")).unwrap(), "untouched");
        assert_eq!(names("in"), if is_there { vec!["tree"] } else { vec![] });
    }

    fn unpack(&self, archive: &[u8], limits: Limits) -> Result<Unpacked, Error> {
        let exclusion = Exclusion::new::<&str>(&[], &[]).unwrap();
        let done = unpack(Cursor::new(archive), self.tree(limits), &exclusion, 0, &mut |_| {});
        self.check(done.is_ok());
        done
    }
}

fn reason_of(archive: &[u8], limits: Limits) -> Option<Reason> {
    let place = Place::new();
    let done = place.unpack(archive, limits);
    done.err().map(|error| error.reason().unwrap_or_else(|| panic!("{error}")))
}

/// Every kind of entry that is taken.
fn plain() -> Vec<(&'static str, EntryType, &'static str)> {
    vec![
        ("./", EntryType::Directory, ""),
        ("./src/", EntryType::Directory, ""),
        ("./src/main.rs", EntryType::Regular, "fn main() {}\n"),
        ("./src/link", EntryType::Symlink, "../README"),
        ("./README", EntryType::Regular, "read me"),
        ("./copy", EntryType::Link, "README"),
    ]
}

#[test]
fn an_archive_of_any_kind_is_unpacked() {
    let tar = tar_of(&plain());
    let mut zstd = Vec::new();
    for half in [&tar[..1000], &tar[1000..]] {
        ruzstd::encoding::compress(half, &mut zstd, ruzstd::encoding::CompressionLevel::Fastest);
    }
    for archive in [tar.clone(), gzip(&tar), [gzip(&tar[..700]), gzip(&tar[700..])].concat(), zstd] {
        let place = Place::new();
        let done = place.unpack(&archive, Limits::default()).unwrap();
        assert_eq!((done.written.files, done.written.folders, done.written.links), (2, 1, 2));
        assert_eq!(fs::read_to_string(place.path("src/link")).unwrap(), "read me");
        assert_eq!(fs::read_to_string(place.path("copy")).unwrap(), "read me");
        let mode = fs::metadata(place.path("README")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "set-id bits are gone");
    }
    let zip = zip_of(&[
        ("src/", 0o040_755, b""),
        ("src/main.rs", 0o104_755, b"fn main() {}"),
        ("src/link", 0o120_777, b"main.rs"),
    ]);
    let place = Place::new();
    let done = place.unpack(&zip, Limits::default()).unwrap();
    assert_eq!((done.written.files, done.written.folders, done.written.links), (1, 1, 1));
    assert_eq!(fs::read_to_string(place.path("src/link")).unwrap(), "fn main() {}");
    assert_eq!(fs::metadata(place.path("src/main.rs")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn no_entry_of_an_archive_leads_out_of_its_tree() {
    use EntryType::{Block, Char, Directory, Fifo, GNUSparse, Link, Regular, Symlink};
    let cases: [(TarEntries<'_>, Reason); 22] = [
        (&[("../x", Regular, "x")], Reason::ParentSegment),
        (&[("/etc/x", Regular, "x")], Reason::Absolute),
        (&[("a/../../x", Regular, "x")], Reason::ParentSegment),
        (&[("..", Directory, "")], Reason::ParentSegment),
        (&[("../../secret", Link, "x")], Reason::ParentSegment),
        (&[("l", Symlink, "../../secret")], Reason::LinkEscapes),
        (&[("l", Symlink, "/etc/passwd")], Reason::LinkEscapes),
        (
            &[("d/e/", Directory, ""), ("d/l", Symlink, "e"), ("d/m", Symlink, "l/../../../x")],
            Reason::LinkEscapes,
        ),
        (&[("l", Symlink, "."), ("l/x", Regular, "x")], Reason::ThroughLink),
        (&[("l", Symlink, "x"), ("l", Regular, "x")], Reason::NamedTwice),
        (&[("d/", Directory, ""), ("d", Symlink, "x")], Reason::NamedTwice),
        (&[("f", Regular, "x"), ("f/x", Regular, "x")], Reason::ThroughLink),
        (&[("h", Link, "/etc/passwd")], Reason::HardLinkEscapes),
        (&[("h", Link, "../../secret")], Reason::HardLinkEscapes),
        (&[("h", Link, "absent")], Reason::HardLinkEscapes),
        (&[("f", Char, "")], Reason::Device),
        (&[("f", Block, "")], Reason::Device),
        (&[("f", Fifo, "")], Reason::Device),
        (&[("f", GNUSparse, "")], Reason::Sparse),
        (&[("f", EntryType::new(b'7'), "x")], Reason::UnknownKind),
        (&[(".git/config", Regular, "[core]")], Reason::GitFolder),
        (&[("a", Regular, "x"), ("A", Regular, "x")], Reason::CaseCollision),
    ];
    for (entries, wanted) in cases {
        // What is before it is not left either.
        let all: Vec<_> = plain().into_iter().chain(entries.iter().copied()).collect();
        assert_eq!(reason_of(&tar_of(&all), Limits::default()), Some(wanted), "{entries:?}");
        let place = Place::new();
        let error = place.unpack(&tar_of(&all), Limits::default()).unwrap_err();
        assert!(error.to_string().starts_with(entries.last().unwrap().0), "{error} names its path");
    }
}

#[test]
fn a_name_of_a_pax_record_is_judged_like_any_other() {
    let with = |key: &str, value: &str, kind: EntryType| {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions([(key, value.as_bytes())]).unwrap();
        builder.append(&header(b"x", kind, b"y", 0), &b""[..]).unwrap();
        builder.into_inner().unwrap()
    };
    use EntryType::{Regular, Symlink};
    assert_eq!(reason_of(&with("path", "../x", Regular), Limits::default()), Some(Reason::ParentSegment));
    assert_eq!(reason_of(&with("linkpath", "/x", Symlink), Limits::default()), Some(Reason::LinkEscapes));
    assert_eq!(reason_of(&with("GNU.sparse.major", "1", Regular), Limits::default()), Some(Reason::Sparse));
    assert_eq!(reason_of(&with("path", "z", Regular), Limits::default()), None, "the control");
    assert_eq!(reason_of(&with("comment", "z", Regular), Limits::default()), None, "the control");
}

#[test]
fn a_path_that_is_too_deep_is_refused_also_where_it_is_left_out() {
    let limits = Limits { depth_max: 2, ..Limits::default() };
    let deep = tar_of(&[("a/b/c.key", EntryType::Regular, "x")]);
    assert_eq!(reason_of(&deep, limits), Some(Reason::TooDeep(2)));
    assert_eq!(reason_of(&tar_of(&[("a/b.key", EntryType::Regular, "x")]), limits), None, "the control");
}

#[test]
fn a_zip_with_two_readings_or_a_hostile_entry_is_refused() {
    let cases: [(ZipEntries<'_>, Reason); 9] = [
        (&[("../x", 0o100_644, b"x")], Reason::ParentSegment),
        (&[("/x", 0o100_644, b"x")], Reason::Absolute),
        (&[("l", 0o120_777, b"../x")], Reason::LinkEscapes),
        (&[("l", 0o120_777, b".."), ("l/x", 0o100_644, b"x")], Reason::LinkEscapes),
        (&[("l", 0o120_777, b"."), ("l/x", 0o100_644, b"x")], Reason::ThroughLink),
        (&[("f", 0o020_644, b"")], Reason::Device),
        (&[("f", 0o140_644, b"")], Reason::Device),
        (&[("f", 0o040_644, b"x")], Reason::UnknownKind),
        (&[("f", 0o100_644, b"x"), ("f", 0o100_644, b"y")], Reason::NamedTwice),
    ];
    for (entries, wanted) in cases {
        assert_eq!(reason_of(&zip_of(entries), Limits::default()), Some(wanted), "{entries:?}");
    }
    let zip = zip_of(&[("name-of-a-file", 0o100_644, b"x")]);
    assert_eq!(reason_of(&zip, Limits::default()), None, "the control");
    assert_eq!(reason_of(&[&zip[..], b"x"].concat(), Limits::default()), Some(Reason::Trailing));
    // The name where the entry lies comes first, that of the directory last.
    let mut other = zip.clone();
    let at = other.windows(4).position(|part| part == b"name").unwrap();
    other[at] = b'g';
    assert_eq!(reason_of(&other, Limits::default()), Some(Reason::TwoNames));
}

#[test]
fn an_archive_that_grows_beyond_its_ratio_is_refused_before_it_is_written() {
    let size = 20 << 20;
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    builder.append(&header(b"zeros", EntryType::Regular, b"", size), std::io::repeat(0).take(size)).unwrap();
    let bomb = builder.into_inner().unwrap().finish().unwrap();
    let zip = zip_of(&[("zeros", 0o100_644, &vec![0; 20 << 20])]);
    for (archive, name) in [(bomb, "tar.gz"), (zip, "zip")] {
        assert_eq!(reason_of(&archive, Limits::default()), Some(Reason::Bomb(200)), "{name}");
        let wide = Limits { ratio_max: 2000, ..Limits::default() };
        assert_eq!(reason_of(&archive, wide), None, "the control: {name}");
        let small = Limits { file_bytes_max: 1 << 20, ..wide };
        assert_eq!(reason_of(&archive, small), Some(Reason::FileTooLarge(1 << 20)), "{name}");
        let small = Limits { bytes_max: 1 << 20, ..wide };
        assert_eq!(reason_of(&archive, small), Some(Reason::TooLarge(1 << 20)), "{name}");
    }
}

#[test]
fn a_long_name_without_end_is_not_read_into_memory() {
    let size = 8 << 20;
    let mut builder = Builder::new(Vec::new());
    let long = header(b"././@LongLink", EntryType::GNULongName, b"", size);
    builder.append(&long, std::io::repeat(b'x').take(size)).unwrap();
    builder.append(&header(b"x", EntryType::Regular, b"", 0), &b""[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    assert_eq!(reason_of(&archive, Limits::default()), Some(Reason::HeadTooLarge));
    let mut builder = Builder::new(Vec::new());
    let global = header(b"pax_global_header", EntryType::XGlobalHeader, b"", size);
    builder.append(&global, std::io::repeat(b'x').take(size)).unwrap();
    let archive = builder.into_inner().unwrap();
    assert_eq!(reason_of(&archive, Limits::default()), Some(Reason::HeadTooLarge));
    let mut builder = Builder::new(Vec::new());
    builder.append(&header(b"././@LongLink", EntryType::GNULongName, b"", 200), &[b'x'; 200][..]).unwrap();
    builder.append(&header(b"x", EntryType::Regular, b"", 0), &b""[..]).unwrap();
    assert_eq!(reason_of(&builder.into_inner().unwrap(), Limits::default()), None, "the control");
}

#[test]
fn entries_are_counted_also_those_that_are_left_out() {
    let entries = [("a.key", EntryType::Regular, "x"), ("b.key", EntryType::Regular, "x")];
    let limits = Limits { entries_max: 1, ..Limits::default() };
    assert_eq!(reason_of(&tar_of(&entries), limits), Some(Reason::TooMany(1)));
    assert_eq!(reason_of(&tar_of(&entries), Limits { entries_max: 2, ..limits }), None);
    let zip = zip_of(&[("a", 0o100_644, b""), ("b", 0o100_644, b"")]);
    assert_eq!(reason_of(&zip, limits), Some(Reason::TooMany(1)));
}

#[test]
fn an_archive_that_is_cut_off_or_goes_on_is_refused() {
    let tar = tar_of(&plain());
    let whole = tar.len() - 1024;
    assert_eq!(reason_of(&tar[..whole], Limits::default()), Some(Reason::Truncated), "no end");
    assert_eq!(reason_of(&tar[..whole + 512], Limits::default()), Some(Reason::Truncated), "half an end");
    assert_eq!(reason_of(&[&tar[..], &[0; 8192]].concat(), Limits::default()), None, "padding");
    assert_eq!(reason_of(&[&tar[..], &[1]].concat(), Limits::default()), Some(Reason::Trailing));
    assert_eq!(reason_of(&[&tar[..], &tar[..]].concat(), Limits::default()), Some(Reason::Trailing));
    for none in [&b""[..], b"x", b"PK", &[0; 4096], b"hello, this is no archive"] {
        assert!(Place::new().unpack(none, Limits::default()).is_err(), "{none:?}");
    }
    let mut damaged = gzip(&tar);
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    assert!(Place::new().unpack(&damaged, Limits::default()).is_err(), "its checksum");
}

#[test]
fn what_is_left_out_is_counted_and_named_under_each_of_its_names() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let token = format!("ghp_{}", "aB3x".repeat(9));
    let archive = tar_of(&[
        (".env", Regular, "canary"),
        (".ssh/", Directory, ""),
        (".ssh/config", Regular, "canary"),
        ("notes", Link, ".env"),
        ("see", Symlink, ".env"),
        ("logs/a", Regular, "canary"),
        ("src/config", Regular, &token),
        ("tls.key", Regular, "wanted"),
    ]);
    let exclusion = Exclusion::new(&["logs/"], &["tls.key"]).unwrap();
    let (place, mut notes) = (Place::new(), Vec::new());
    let done = unpack_stream(&archive[..], place.tree(Limits::default()), &exclusion, 0, &mut |note| {
        notes.push(match note {
            Note::LeftOut(path) => format!("left out {path}"),
            Note::Token(path, shape) => format!("{shape} in {path}"),
            Note::Rewritten(path) => format!("rewritten {path}"),
        });
    })
    .unwrap();
    assert_eq!((done.left_out, done.excluded, done.with_tokens, done.written.files), (3, 1, 1, 2));
    assert_eq!(
        notes,
        [
            "left out .env",
            "left out .ssh/config",
            "left out notes",
            "left out logs/a",
            "GitHub personal access token in src/config"
        ]
    );
    assert!(fs::read(place.path("see")).is_err(), "a link to what is left out leads nowhere");
    assert!(fs::read_dir(place.path("")).unwrap().count() == 3);
    assert_eq!(fs::read_to_string(place.path("tls.key")).unwrap(), "wanted", "the control");
}

#[test]
fn a_file_is_not_in_the_tree_under_another_name_than_the_one_that_is_left_out() {
    let entries = [("notes", EntryType::Regular, "canary"), (".env", EntryType::Link, "notes")];
    assert_eq!(reason_of(&tar_of(&entries), Limits::default()), Some(Reason::LeftOutElsewhere));
}

/// Entries of hostile names among each other.
fn hostile() -> impl Strategy<Value = Vec<(&'static str, EntryType, &'static str)>> {
    let names = [
        "a",
        "b",
        "a/b",
        "a/b/c",
        "b/c",
        "./a/",
        "../secret",
        "/etc/x",
        "a/../../x",
        "A",
        ".env",
        "l",
        "l/x",
    ];
    let targets = ["a", "..", "../..", "../../secret", "a/b", "/etc/passwd", "b/..", "l", ".", "", "./../a"];
    let kinds = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link];
    let entry = (
        prop::sample::select(names.to_vec()),
        prop::sample::select(kinds.to_vec()),
        prop::sample::select(targets.to_vec()),
    );
    prop::collection::vec(entry.prop_map(|entry| entry), 1..8)
}

/// Every link of a tree leads inside, read by the system itself.
fn check_links(root: &std::path::Path, folder: &std::path::Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_symlink() {
            // What leads nowhere leads to nothing outside: `secret` beside the tree is there.
            if let Ok(target) = fs::canonicalize(&path) {
                assert!(target.starts_with(root.canonicalize().unwrap()), "{} leads out", path.display());
            }
        } else if kind.is_dir() {
            check_links(root, &path);
        } else {
            assert!(kind.is_file());
        }
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn no_archive_writes_or_leads_outside(entries in hostile()) {
        let place = Place::new();
        if place.unpack(&tar_of(&entries), Limits::default()).is_ok() {
            check_links(&place.path(""), &place.path(""));
        }
    }
}

#[test]
fn no_prefix_of_an_archive_writes_outside() {
    use EntryType::{Link, Regular, Symlink};
    let hostile = [
        ("a", Regular, "x"),
        ("l", Symlink, "a"),
        ("l/../../../secret", Regular, "x"),
        ("h", Link, "../../secret"),
    ];
    let tar = tar_of(&hostile);
    let plain = tar_of(&plain());
    let zip = zip_of(&[("a", 0o100_644, b"x"), ("../../secret", 0o100_644, b"x")]);
    let harmless = zip_of(&[("a", 0o100_644, b"x"), ("b/c", 0o100_644, b"x")]);
    for archive in [tar.clone(), gzip(&tar), plain.clone(), gzip(&plain), zip, harmless] {
        let place = Place::new();
        let step = archive.len() / 200 + 1;
        for end in (0..archive.len()).step_by(step) {
            // Whether it is taken or refused, `unpack` looks beside it.
            assert!(place.unpack(&archive[..end], Limits::default()).is_err(), "{end} of {}", archive.len());
        }
    }
    assert!(Place::new().unpack(&gzip(&plain), Limits::default()).is_ok(), "the control");
}
