//! Archives that say two things, of which each reader believes one.

use tar::{Builder, EntryType};

use super::{header, reason_of, zip_of};
use crate::limits::Limits;
use crate::refusal::Reason;

/// Headers with what follows them.
type Blocks<'a> = &'a [(EntryType, &'a [u8])];

/// Blocks of tar, one behind the other, and the end.
fn blocks(entries: Blocks<'_>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, content) in entries {
        builder.append(&header(b"x", *kind, b"", content.len() as u64), *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_tar_that_its_readers_understand_differently_is_refused() {
    use EntryType::{Directory, GNULongName, Link, Regular, Symlink, XGlobalHeader, XHeader};
    let file: (EntryType, &[u8]) = (Regular, b"content");
    let cases: [(Blocks<'_>, Reason); 12] = [
        (&[(XHeader, b"9 path=a\n9 path=b\n"), file], Reason::TwoNames),
        (&[(XHeader, b"9 path=a\n"), (GNULongName, b"b\0"), file], Reason::TwoNames),
        (&[(XHeader, b"11 size=12\n"), file], Reason::TwoReadings),
        (&[(XGlobalHeader, b"9 path=a\n"), file], Reason::TwoNames),
        (&[(XGlobalHeader, b"11 size=12\n"), file], Reason::TwoReadings),
        (&[(XGlobalHeader, b"23 GNU.sparse.major=10\n"), file], Reason::Sparse),
        (&[(XHeader, b"13 comment=x\n"), (XGlobalHeader, b"9 path=a\n"), file], Reason::TwoNames),
        (&[(XHeader, b"13 comment=x\n"), (XGlobalHeader, b"13 comment=y\n"), file], Reason::TwoReadings),
        (&[(GNULongName, b"a\0"), (XGlobalHeader, b"13 comment=y\n"), file], Reason::TwoReadings),
        (&[(Directory, b"content")], Reason::TwoReadings),
        (&[(Symlink, b"content")], Reason::TwoReadings),
        (&[(Link, b"content")], Reason::TwoReadings),
    ];
    for (entries, wanted) in cases {
        assert_eq!(reason_of(&blocks(entries), Limits::default()), Some(wanted), "{entries:?}");
    }
    for entries in [
        &[(XGlobalHeader, &b"13 comment=y\n"[..]), file][..],
        &[(XHeader, b"9 path=a\n9 path=a\n"), file],
        &[(XHeader, b"9 path=b\n"), (GNULongName, b"b\0"), file],
    ] {
        assert_eq!(reason_of(&blocks(entries), Limits::default()), None, "the control: {entries:?}");
    }
}

#[test]
fn entries_of_a_zip_lie_one_behind_the_other_and_say_there_what_its_directory_says() {
    let of = |names: &[&str]| {
        let entries: Vec<_> = names.iter().map(|name| (*name, 0o100_644, &b"some content"[..])).collect();
        zip_of(&entries)
    };
    let at = |zip: &[u8], magic: &[u8], nth: usize| {
        zip.windows(4).enumerate().filter(|(_, part)| *part == magic).map(|(at, _)| at).nth(nth).unwrap()
    };
    let (first, both) = (of(&["a"]), of(&["a", "b"]));
    assert_eq!(reason_of(&both, Limits::default()), None, "the control");
    // Two archives, of which readers from the front see the first, and from the end the second.
    assert_eq!(reason_of(&[&first[..], &both].concat(), Limits::default()), Some(Reason::TwoReadings));
    // Two entries of the directory in one place.
    let mut twice = both.clone();
    let (one, other) = (at(&both, b"PK\x01\x02", 0), at(&both, b"PK\x01\x02", 1));
    twice.copy_within(one + 42..one + 46, other + 42);
    let local = at(&both, b"PK\x03\x04", 0) + 30;
    twice[other + 46] = twice[local];
    assert_eq!(reason_of(&twice, Limits::default()), Some(Reason::NamedTwice), "the same name");
    let mut encrypted = both.clone();
    encrypted[at(&both, b"PK\x03\x04", 1) + 6] |= 1;
    assert_eq!(reason_of(&encrypted, Limits::default()), Some(Reason::TwoReadings));
    encrypted[other + 8] |= 1;
    assert_eq!(reason_of(&encrypted, Limits::default()), Some(Reason::Encrypted));
    let mut sized = both.clone();
    sized[at(&both, b"PK\x03\x04", 1) + 22] = 1;
    assert_eq!(reason_of(&sized, Limits::default()), Some(Reason::TwoReadings));
    // An entry that the directory does not know: the second one's record, with one fewer at the end.
    let end = at(&both, b"PK\x05\x06", 0);
    let mut hidden = [&both[..other], &both[end..]].concat();
    let size = u32::try_from(other - one).unwrap().to_le_bytes();
    hidden[other + 8] = 1;
    hidden[other + 10] = 1;
    hidden[other + 12..other + 16].copy_from_slice(&size);
    assert_eq!(reason_of(&hidden, Limits::default()), Some(Reason::TwoReadings));
}

#[test]
fn a_second_name_in_an_extra_field_of_a_zip_is_refused() {
    let with = |second: &[u8]| {
        let mut zip = rawzip::ZipArchiveWriter::new(Vec::new());
        let data = [&[1, 0, 0, 0, 0][..], second].concat();
        let id = rawzip::extra_fields::ExtraFieldId::INFO_ZIP_UNICODE_PATH;
        let file = zip.new_file(rawzip::path::EntryPath::verbatim(&b"a"[..]));
        let file = file.extra_field(id, &data, rawzip::Header::default()).unwrap();
        let (entry, config) = file.start().unwrap();
        let (_, descriptor) = config.wrap(std::io::sink()).finish().unwrap();
        entry.finish(descriptor).unwrap();
        zip.finish().unwrap()
    };
    assert_eq!(reason_of(&with(b"../b"), Limits::default()), Some(Reason::TwoNames));
    assert_eq!(reason_of(&with(b"a"), Limits::default()), None, "the control");
}
