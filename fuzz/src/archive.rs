//! Archives, unpacked into a folder beside something that nobody may touch.

use std::fs;
use std::io::Cursor;
use std::os::fd::AsFd;
use std::path::Path;

use agentsandbox_workspace::{Counts, Exclusion, Limits, Tree, unpack};

/// Small, so that reaching them takes few bytes.
const LIMITS: Limits =
    Limits { entries_max: 64, bytes_max: 1 << 20, file_bytes_max: 1 << 18, depth_max: 8, ratio_max: 200 };

/// A block of tar, where its magic is, and where its checksum is.
const BLOCK_BYTES: usize = 512;
const MAGIC_AT: std::ops::Range<usize> = 257..262;
const CHECKSUM_AT: std::ops::Range<usize> = 148..156;

/// An archive is there whole or not at all, holds what its limits allow, and neither it nor a link of it reaches outside.
pub fn archive(data: &[u8]) {
    check(data);
    // A fuzzer finds no checksums.
    check(&mended(data));
}

fn check(data: &[u8]) {
    let folder = tempfile::tempdir().expect("there is room");
    let (inside, secret) = (folder.path().join("in"), folder.path().join("secret"));
    fs::create_dir(&inside).expect("there is room");
    fs::write(&secret, "untouched").expect("there is room");
    let parent = fs::File::open(&inside).expect("it was made");
    let tree = Tree::create(parent.as_fd(), "tree", LIMITS).expect("it is empty");
    let exclusion = Exclusion::new(&["left-out"], &["*.key"]).expect("they are patterns");
    let done = unpack(Cursor::new(data), tree, &exclusion, 0, &mut |_| {});
    assert_eq!(fs::read_to_string(&secret).expect("it is there"), "untouched");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2);
    let staged = fs::read_dir(&inside).expect("it is there").count();
    let Ok(unpacked) = done.map_err(|error| assert!(error.to_string().is_ascii(), "{error}")) else {
        assert_eq!(staged, 0, "nothing is left of what is refused");
        return;
    };
    assert_eq!(staged, 1);
    let root = inside.join("tree");
    let mut found = Counts::default();
    count(&root, &root, &mut found);
    assert!(
        found.bytes <= LIMITS.bytes_max && found.files + found.folders + found.links <= LIMITS.entries_max
    );
    // What the writer calls a hard link is a file like any other.
    let written = unpacked.written;
    assert_eq!(found.folders, written.folders);
    assert_eq!(found.files + found.links, written.files + written.links);
}

/// Counts what is in a tree, and follows its links.
fn count(root: &Path, folder: &Path, found: &mut Counts) {
    for entry in fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be read").path();
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let name = path.file_name().and_then(|name| name.to_str()).expect("it is UTF-8");
        assert!(!name.eq_ignore_ascii_case(".git") && name != "left-out" && !name.contains(char::is_control));
        if meta.is_dir() {
            found.folders += 1;
            count(root, &path, found);
        } else if meta.is_symlink() {
            found.links += 1;
            // One that leads nowhere leads to nothing outside.
            let inside = root.canonicalize().expect("it is there");
            assert!(path.canonicalize().is_ok_and(|target| target.starts_with(inside)) || !path.exists());
        } else {
            assert!(meta.is_file(), "a device");
            found.files += 1;
            found.bytes += meta.len() / std::os::unix::fs::MetadataExt::nlink(&meta);
        }
    }
}

/// The same blocks, with the checksum that each header should have.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut mended = data.to_vec();
    for block in mended.chunks_exact_mut(BLOCK_BYTES).filter(|block| &block[MAGIC_AT] == b"ustar") {
        block[CHECKSUM_AT].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM_AT].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    mended
}
