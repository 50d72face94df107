//! What tells of an agent's changes, read, shown, and applied to a folder beside something that nobody may touch.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use agentsandbox_workspace::changes::{Bounds, Change, apply, stream, unified};

/// Small, so that reaching them takes few bytes.
fn bounds() -> Bounds {
    Bounds { changes_max: 16, refused_max: 4, file_bytes_max: 256, bytes_max: 1024, ..Bounds::default() }
}

/// What is told is whole or nothing; what is shown of it names no other file; what is applied stays in its folder, writes no repository
/// there, and is there whole or not at all.
pub fn changes(data: &[u8]) {
    let mut told = data;
    let changes = match stream::read(&mut told, &bounds()) {
        Ok(changes) => changes,
        Err(error) => return assert!(error.to_string().is_ascii(), "{error}"),
    };
    for change in &changes.changes {
        shown(change);
    }
    let refused = changes.refused.iter();
    assert!(refused.clone().all(|one| one.path.is_ascii() && !one.path.contains(char::is_control)));
    assert!(refused.clone().all(|one| one.reason.is_ascii() && !one.reason.contains(char::is_control)));

    let folder = tempfile::tempdir().expect("there is room");
    let (inside, secret) = (folder.path().join("in"), folder.path().join("secret"));
    fs::create_dir(&inside).expect("there is room");
    fs::write(&secret, "untouched").expect("there is room");
    let opened = fs::File::open(&inside).expect("it was made");
    let done = apply::apply(&changes, opened.as_fd());
    assert_eq!(fs::read_to_string(&secret).expect("it is there"), "untouched");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2);
    let found = count(&inside);
    let wanted = changes.changes.iter().filter(|change| change.new.is_some()).count();
    match done {
        // Folders on the way that nobody told of are none: each is a step of its own.
        Ok(()) => assert_eq!(found, wanted),
        Err(_) => assert_eq!(found, 0, "nothing is left of what is not applied"),
    }
}

fn shown(change: &Change) {
    let mut out = Vec::new();
    unified::show(change, unified::Binary::Named, &mut out).expect("memory takes it");
    let name = unified::quoted(change.path.as_str());
    assert!(name.is_ascii() && !name.contains(char::is_control));
    let head = out.split(|byte| *byte == b'\n').next().unwrap_or_default();
    assert!(out.is_empty() || head.starts_with(b"diff --git "));
}

/// How much is in a folder, no repository among it.
fn count(folder: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("it is UTF-8").to_owned();
        assert!(!name.eq_ignore_ascii_case(".git") && !name.contains(char::is_control), "{name}");
        let meta = fs::symlink_metadata(&path).expect("it is there");
        assert!(meta.is_dir() || meta.is_file() || meta.is_symlink(), "a device");
        found += 1;
        if meta.is_dir() {
            found += count(&path);
        }
    }
    found
}
