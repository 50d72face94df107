//! A volume that outlasts pods: it is filled once, and what an agent left in it is not touched by the next pod's step.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use agentsandbox_report::WorkspaceVerdict;

use super::stand_in::{StandIn, archive, sha256};
use super::{CODE, Place, URL, volume};

const UID: &str = "--claim-uid=0f9619ff-8b86-4d01-b42d-00cf4fc964ff";
const EMPTY: [&str; 3] = ["--empty", "--persistent", UID];
const AGAIN: [&str; 3] = ["--strip-components=1", "--persistent", UID];
const OTHERS: [&str; 3] =
    ["--strip-components=1", "--persistent", "--claim-uid=1f9619ff-8b86-4d01-b42d-00cf4fc964ff"];

#[test]
fn a_volume_that_begins_empty_is_reported_and_never_filled_later() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    fs::create_dir(place.volume().join("lost+found")).unwrap();
    let (first, _) = place.run(URL, "", &EMPTY);
    assert_eq!((first.verdict, first.files), (WorkspaceVerdict::Unpacked, 0), "{}", first.message);
    assert_eq!(place.names(), ["claim", "lost+found", "report.json", "tree"]);

    fs::write(place.volume().join("tree/work"), "of the agent").unwrap();
    let (second, _) = place.run(URL, &sha256(&code), &AGAIN);
    assert_eq!(
        (second, place.proxy.asked().len()),
        (first, 0),
        "a source that is named later changes nothing"
    );
    assert_eq!(place.file("work").as_deref(), Some("of the agent"));
}

#[test]
fn p_g7_what_an_agent_left_in_a_volume_hurts_no_step_and_is_left_as_it_is() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let (first, _) = place.run(URL, &sha256(&code), &AGAIN);
    assert_eq!(first.verdict, WorkspaceVerdict::Unpacked, "{}", first.message);
    let (tree, outside) = (place.volume().join(volume::TREE), place.folder.path().join("outside"));
    fs::write(&outside, "not the agent's").unwrap();
    for planted in ["report.json", ".tree.unfinished", "report.json.unfinished"] {
        symlink(&outside, tree.join(planted)).unwrap();
    }
    symlink("/", tree.join("root")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    fs::write(tree.join("n".repeat(255)), "").unwrap();
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"\x1b[2J\xff\n")), "").unwrap();
    let deep = (0..200).fold(tree.clone(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let before = fs::metadata(&tree).unwrap().mtime_nsec();

    let (second, log) = place.run(URL, &sha256(&code), &AGAIN);
    assert_eq!((second, log.as_str()), (first, ""), "it goes by its report");
    assert_eq!(place.proxy.asked().len(), 2, "nothing is fetched again");
    assert_eq!(fs::metadata(&tree).unwrap().mtime_nsec(), before);
    assert!(deep.is_dir() && fs::symlink_metadata(tree.join("root")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&outside).unwrap(), "not the agent's");
}

#[test]
fn a_report_that_cannot_be_read_takes_nobodys_work_away() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    place.run(URL, &sha256(&code), &AGAIN);
    fs::write(place.volume().join("tree/work"), "of the agent").unwrap();
    let path = place.volume().join(volume::REPORT);
    let report = fs::read_to_string(&path).unwrap();
    for other in
        ["{", "", &report.replace("\"version\":1", "\"version\":9"), &report.replace('{', "{\"new\":1,")]
    {
        fs::write(&path, other).unwrap();
        let (told, _) = place.run(URL, &sha256(&code), &AGAIN);
        assert_eq!(told.verdict, WorkspaceVerdict::Failed, "{other}");
        assert!(
            told.message.contains("report.json") && told.message.contains("nothing in it is touched"),
            "{}",
            told.message
        );
        assert_eq!(place.file("work").as_deref(), Some("of the agent"), "{other}");
    }
    fs::write(&path, &report).unwrap();
    assert_eq!(place.run(URL, &sha256(&code), &AGAIN).0.verdict, WorkspaceVerdict::Unpacked, "the control");
    // A tree without any report was never an agent's: its step was cut off.
    fs::remove_file(&path).unwrap();
    assert_eq!(place.run(URL, &sha256(&code), &AGAIN).0.verdict, WorkspaceVerdict::Unpacked);
    assert_eq!(place.file("work"), None);
}

#[test]
fn a_volume_that_was_filled_for_another_claim_is_neither_believed_nor_touched() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let (first, _) = place.run(URL, &sha256(&code), &AGAIN);
    fs::write(place.volume().join("tree/work"), "of another's agent").unwrap();
    for with_report in [true, false] {
        if !with_report {
            fs::remove_file(place.volume().join(volume::REPORT)).unwrap();
        }
        let before = place.names();
        let (told, _) = place.run(URL, &sha256(&code), &OTHERS);
        assert_eq!(told.verdict, WorkspaceVerdict::Failed, "{}", told.message);
        assert!(told.message.contains("another claim"), "{}", told.message);
        assert_eq!(place.names(), before);
        assert_eq!(place.file("work").as_deref(), Some("of another's agent"));
    }
    assert_eq!(place.proxy.asked().len(), 2, "nothing was fetched for it");
    let (again, _) = place.run(URL, &sha256(&code), &AGAIN);
    assert_eq!(again.verdict, first.verdict, "the control: {}", again.message);
}

#[test]
fn a_volume_with_somebodys_data_in_it_is_left_as_it_is() {
    for planted in ["data", "report.json", "tree", ".hidden", "report.json.unfinished"] {
        let place = Place::new(StandIn::serving(b"never sent"));
        let path = place.volume().join(planted);
        if planted == "tree" {
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "of somebody").unwrap();
        }
        let (told, _) = place.run(URL, "", &EMPTY);
        assert_eq!(told.verdict, WorkspaceVerdict::Failed, "{planted}: {}", told.message);
        assert!(told.message.contains("nothing in it is touched"), "{}", told.message);
        assert_eq!(place.names(), [planted]);
    }
    let place = Place::new(StandIn::serving(b"never sent"));
    fs::create_dir(place.volume().join("lost+found")).unwrap();
    fs::write(place.volume().join("claim.unfinished"), "0f96").unwrap();
    let (told, _) = place.run(URL, "", &EMPTY);
    assert_eq!(
        told.verdict,
        WorkspaceVerdict::Unpacked,
        "the control: a run that was cut off: {}",
        told.message
    );
}

#[test]
fn a_link_or_a_pipe_in_the_place_of_what_the_step_reads_is_an_error_and_nobody_waits_for_it() {
    for name in [volume::CLAIM, volume::REPORT] {
        for is_link in [true, false] {
            let place = Place::new(StandIn::serving(b"never sent"));
            let (told, _) = place.run(URL, "", &EMPTY);
            assert_eq!(told.verdict, WorkspaceVerdict::Unpacked, "{}", told.message);
            let (path, aside) = (place.volume().join(name), place.folder.path().join("aside"));
            fs::rename(&path, &aside).unwrap();
            if is_link {
                symlink(&aside, &path).unwrap();
            } else {
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            let (told, _) = place.run(URL, "", &EMPTY);
            assert_eq!(told.verdict, WorkspaceVerdict::Failed, "{name}, a link: {is_link}");
        }
    }
}

#[test]
fn a_persistent_volume_without_the_uid_of_its_claim_is_refused() {
    use clap::Parser;
    let line = |more: &[&str]| {
        let own = ["agentsandbox-init", "workspace", "--proxy=127.0.0.1", "--trust-bundle=/x", "--volume=/x"];
        let all = own.into_iter().chain(["--volume-bytes=1", "--empty"]).chain(more.iter().copied());
        crate::args::Args::try_parse_from(all).is_ok()
    };
    assert!(line(&["--persistent", UID]) && line(&[]), "the control");
    for more in [
        &["--persistent"][..],
        &[UID],
        &["--persistent", "--claim-uid="],
        &["--persistent", "--claim-uid=../x"],
    ] {
        assert!(!line(more), "{more:?}");
    }
}
