//! A folder that is mounted beside the volume: copied once, and asked of no host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use agentsandbox_report::WorkspaceVerdict;

use super::stand_in::StandIn;
use super::{Args, Parser, Place, volume};

const CANARY: &str = "folder-canary-30b7";

/// A folder as a claim may hold it, and the place that it is copied to.
fn place() -> (Place, PathBuf) {
    let place = Place::new(StandIn::serving(b"never sent"));
    let source = place.folder.path().join("source");
    fs::create_dir_all(source.join("src/shop")).unwrap();
    fs::write(source.join("src/shop/main.rs"), "fn main() {}").unwrap();
    fs::write(source.join("src/shop/.env"), CANARY).unwrap();
    fs::write(source.join("outside"), CANARY).unwrap();
    (place, source)
}

#[test]
fn a_folder_is_copied_without_its_secrets_and_without_a_word_to_any_host() {
    let (place, source) = place();
    let folder = format!("--folder={}", source.display());
    let (report, log) = place.run("", "", &[&folder, "--folder-path=src/shop"]);
    assert_eq!(report.verdict, WorkspaceVerdict::Unpacked, "{}", report.message);
    assert_eq!((report.files, report.left_out, log.as_str()), (1, 1, "left out: .env\n"));
    assert_eq!(place.file("main.rs").as_deref(), Some("fn main() {}"));
    assert_eq!((place.file(".env"), place.file("outside")), (None, None));
    assert_eq!((place.names(), place.proxy.asked().len()), (vec!["report.json".into(), "tree".into()], 0));

    // What the folder holds by then, the agent's tree is left as it is.
    fs::write(source.join("src/shop/new"), "").unwrap();
    fs::write(place.volume().join(volume::TREE).join("work"), "of the agent").unwrap();
    let (again, _) = place.run("", "", &[&folder, "--folder-path=src/shop"]);
    assert_eq!((again, place.file("new")), (report, None));
    assert_eq!(place.file("work").as_deref(), Some("of the agent"));
}

#[test]
fn the_keys_of_a_config_map_are_files_as_the_kubelet_lays_them() {
    let (place, source) = place();
    let mounted = source.join("mounted");
    fs::create_dir_all(mounted.join("..2026_11_27")).unwrap();
    fs::write(mounted.join("..2026_11_27/main.py"), "print()").unwrap();
    symlink("..2026_11_27", mounted.join("..data")).unwrap();
    symlink("..data/main.py", mounted.join("main.py")).unwrap();
    let (report, _) = place.run("", "", &[&format!("--folder={}/..data", mounted.display())]);
    assert_eq!((report.verdict, report.files), (WorkspaceVerdict::Unpacked, 1), "{}", report.message);
    assert_eq!(place.file("main.py").as_deref(), Some("print()"));
}

#[test]
fn a_folder_that_is_not_there_or_lies_behind_a_link_is_told_by_its_name_and_a_hostile_one_by_its_path() {
    let (place, source) = place();
    symlink("/etc", source.join("link")).unwrap();
    symlink("../../outside", source.join("src/shop/up")).unwrap();
    let folder = format!("--folder={}", source.display());
    for (path, verdict, told) in [
        ("none/shop", WorkspaceVerdict::FetchFailed, "There is no folder none/shop"),
        (
            "link",
            WorkspaceVerdict::ArchiveRefused,
            "The folder is refused: link: a path through a link or a file.",
        ),
        ("src/shop", WorkspaceVerdict::ArchiveRefused, "The folder is refused: up: a link out of the tree."),
    ] {
        let (report, _) = place.run("", "", &[&folder, &format!("--folder-path={path}")]);
        assert_eq!(report.verdict, verdict, "{}", report.message);
        assert!(report.message.contains(told), "{}", report.message);
        assert_eq!(place.names(), Vec::<String>::new(), "nothing is left of it");
    }
    let (report, _) = place.run("", "", &["--folder=/none/such"]);
    assert!(report.message.contains("ImageVolume"), "{}", report.message);
    let (report, _) =
        place.run("", "", &[&folder, "--folder-path=src/shop", "--exclude=up", "--deadline-secs=0"]);
    assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{}", report.message);
    fs::write(source.join("src/shop/large"), vec![b'x'; 1_000_001]).unwrap();
    let (report, _) = place.run("", "", &[&folder, "--folder-path=src/shop", "--exclude=up"]);
    assert!(report.message.contains("raise spec.workspace.sizeLimit"), "{}", report.message);
}

/// Whether the step takes a command line with these arguments.
fn is_taken(more: &[&str]) -> bool {
    let line = [
        "agentsandbox-init",
        "workspace",
        "--proxy=10.0.0.1",
        "--trust-bundle=/b",
        "--volume=/v",
        "--volume-bytes=1",
    ];
    Args::try_parse_from(line.iter().chain(more)).is_ok()
}

#[test]
fn a_folder_is_no_second_source_and_its_path_leads_nowhere_else() {
    assert!(is_taken(&["--folder=/f"]) && is_taken(&["--folder=/f", "--folder-path=a/b"]));
    for refused in [
        &["--folder=/f", "--empty"][..],
        &["--folder=/f", "--git-url=https://a.test/b.git"],
        &["--folder=/f", "--url=https://a.test/b.tar", &format!("--sha256={}", "0".repeat(64))],
        &["--folder=/f", "--folder-path=../b"],
        &["--folder=/f", "--folder-path=/b"],
        &["--folder-path=b", "--empty"],
    ] {
        assert!(!is_taken(refused), "{refused:?}");
    }
}

#[test]
fn a_file_with_settings_and_secrets_is_rewritten_where_that_is_asked_for_and_of_git_never() {
    let (place, source) = place();
    fs::write(source.join("src/shop/.npmrc"), format!("a=1\n_authToken={CANARY}\n")).unwrap();
    let folder = format!("--folder={}", source.display());
    let (report, log) = place.run("", "", &[&folder, "--folder-path=src/shop", "--sanitize=Npmrc"]);
    assert_eq!((report.verdict, report.rewritten, report.left_out), (WorkspaceVerdict::Unpacked, 1, 1));
    assert_eq!(place.file(".npmrc").as_deref(), Some("a=1\n# left out\n"));
    assert_eq!(log, "left out: .env\nrewritten without its secrets: .npmrc\n");
    assert!(is_taken(&["--folder=/f", "--sanitize=Netrc"]));
    assert!(
        !is_taken(&["--git-url=https://a.test/b.git", "--sanitize=Netrc"])
            && !is_taken(&["--folder=/f", "--sanitize=netrc"])
    );
}
