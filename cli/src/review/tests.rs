use agentsandbox_workspace::changes::{Change, Entry, RefusedPath};
use clap::Parser as _;
use serde_json::json;

use super::*;
use crate::args::Output;

fn of(path: &str, content: &str) -> Changes {
    let bytes = content.len() as u64;
    let new = Some(Entry::File { executable: false, bytes, sha256: "0".repeat(64) });
    let path = RelativePath::parse(path.as_bytes()).unwrap();
    let change = Change { path, old: None, new, old_content: None, new_content: content.as_bytes().to_vec() };
    Changes { changes: vec![change], ..Changes::default() }
}

fn seen(changes: &Changes, args: &DiffArgs) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    shown::show_all(changes, args, &mut out).map(|()| out)
}

fn args(name_status: bool, stat: bool) -> DiffArgs {
    let name = "fix".to_owned();
    DiffArgs { name, name_status, stat, raw: false, text: false, output: Output::Table }
}

#[test]
fn what_is_shown_harms_no_terminal_and_says_the_same_in_each_way() {
    let changes = of("größe.txt", "\u{1b}[2Jone\ntwo\n");
    let whole = seen(&changes, &args(false, false)).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    assert!(
        text.contains("+\u{1b}[2Jone\n+two\n") && text.contains(r#""b/gr\303\266\303\237e.txt""#),
        "{text}"
    );
    let mut harmless = Vec::new();
    harmlessly(&changes, &args(false, false), &mut harmless).unwrap();
    let harmless = String::from_utf8(harmless).unwrap();
    assert!(!harmless.contains('\u{1b}') && harmless.contains(r"+\u{1b}[2Jone"), "{harmless}");
    assert_eq!(seen(&changes, &args(true, false)).unwrap(), b"A\t\"gr\\303\\266\\303\\237e.txt\"\n");
    assert_eq!(seen(&changes, &args(false, true)).unwrap(), b"2\t0\t\"gr\\303\\266\\303\\237e.txt\"\n");
    let told = shown::json(&changes);
    assert_eq!(
        (told["changes"][0]["status"].as_str(), told["changes"][0]["added"].as_u64()),
        (Some("A"), Some(2))
    );
    assert!(!told.to_string().contains("one"), "no content: {told}");
    assert_eq!(told["digest"], changes.digest());
}

#[test]
fn a_path_whose_content_is_not_shown_is_named_unless_it_is_asked_for() {
    let changes = of("a", "// \0\nevil()\n");
    let told = shown::hidden(&changes, &args(false, false));
    assert!(told.starts_with("not shown: a: ") && told.ends_with("--text shows it\n"), "{told}");
    let asked = DiffArgs { text: true, ..args(false, false) };
    assert_eq!(shown::hidden(&changes, &asked), "");
    let text = seen(&changes, &asked).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("+evil()\n"));
    assert_eq!(shown::hidden(&of("a", "plain\n"), &args(false, false)), "", "the control");
}

#[test]
fn a_folder_that_comes_or_goes_without_files_is_told_though_git_knows_none() {
    let path = |path: &str| RelativePath::parse(path.as_bytes()).unwrap();
    let folder = |name: &str, old: Option<Entry>, new: Option<Entry>| Change {
        path: path(name),
        old,
        new,
        old_content: None,
        new_content: Vec::new(),
    };
    let is_folder = || Some(Entry::Folder {});
    let mut changes = of("full/a", "x\n");
    changes.changes.insert(0, folder("full", None, is_folder()));
    changes.changes.push(folder("gone", is_folder(), None));
    changes.changes.push(folder("new", None, is_folder()));
    assert_eq!(seen(&changes, &args(true, false)).unwrap(), b"A\tfull/a\nD\tgone/\nA\tnew/\n");
    assert_eq!(
        shown::folders(&changes, &args(false, false)),
        "note: a folder without files goes: gone/\nnote: a folder without files comes: new/\n"
    );
    assert_eq!(shown::json(&changes)["changes"][2]["status"], "D");
}

fn reviewed(digest: &str, without_refused: bool) -> ApplyArgs {
    ApplyArgs { name: "fix".to_owned(), to: ".".into(), reviewed: digest.to_owned(), without_refused }
}

#[test]
fn nothing_is_applied_but_what_was_reviewed() {
    let changes = of("a", "one\n");
    let digest = changes.digest();
    assert_eq!(approved(changes.clone(), &reviewed(&digest, false)), Ok((changes, vec![])));
    let mut later = of("a", "one\n");
    later.changes[0].new = Some(Entry::File { executable: false, bytes: 4, sha256: "1".repeat(64) });
    for others in [later, of("b", "one\n"), Changes::default()] {
        let told = approved(others, &reviewed(&digest, true)).unwrap_err();
        assert!(told.contains("not what was reviewed"), "{told}");
    }
}

#[test]
fn where_paths_are_refused_nothing_is_applied_unless_that_is_meant_and_then_nothing_is_deleted() {
    let mut changes = Changes { refused_count: 1, ..of("a", "one\n") };
    let mut gone = of("b", "").changes.remove(0);
    gone.old = gone.new.take();
    changes.changes.push(gone);
    let digest = changes.digest();
    let told = approved(changes.clone(), &reviewed(&digest, false)).unwrap_err();
    assert!(told.contains("--without-refused"), "{told}");
    let (rest, stay) = approved(changes.clone(), &reviewed(&digest, true)).unwrap();
    assert_eq!(rest.changes, changes.changes[..1]);
    assert_eq!(stay.iter().map(RelativePath::as_str).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn apply_takes_no_digest_that_is_none_and_does_nothing_without_one() {
    let parsed = |args: &[&str]| {
        let line = ["kubectl-agentsandbox", "apply", "fix", "--to", "."];
        crate::args::Cli::try_parse_from(line.iter().chain(args)).is_ok()
    };
    let (digest, upper) = ("0".repeat(64), "A".repeat(64));
    assert!(parsed(&["--reviewed", &digest]));
    for args in [&[] as &[&str], &["--reviewed", ""], &["--reviewed", "0"], &["--reviewed", &upper]] {
        assert!(!parsed(args), "{args:?}");
    }
}

#[test]
fn what_is_refused_is_named_and_the_rest_of_it_counted() {
    let refused = RefusedPath { path: "a\u{1b}b".to_owned(), reason: "r\n".to_owned() };
    let changes =
        Changes { refused: vec![refused], refused_count: 3, has_git_folder: true, ..Changes::default() };
    let notes = shown::notes(&changes);
    assert_eq!(
        notes,
        "refused: a\\u{1b}b: r \nrefused: 2 paths more\nnote: .git is no part of this, and is never applied\n"
    );
    assert_eq!(shown::notes(&Changes::default()), "");
}

#[test]
fn a_commit_is_told_where_what_is_fetched_anew_may_be_another() {
    let sandbox = |reference: Option<&str>, commit: &str| -> AgentSandbox {
        let git = json!({"url": "https://github.com/acme/shop.git", "ref": reference});
        serde_json::from_value(json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "fix"},
            "spec": {"className": "c", "agent": {"image": "i:1"}, "workspace": {"git": git, "access": "Overlay"}},
            "status": {"workspace": {"files": 1, "bytes": 1, "leftOut": 0, "commit": commit}},
        }))
        .unwrap()
    };
    let commit = "a".repeat(40);
    assert_eq!(moving(&sandbox(Some("main"), &commit)), Some(commit.as_str()));
    assert_eq!(moving(&sandbox(None, &commit)), Some(commit.as_str()));
    assert_eq!(moving(&sandbox(Some(&commit), &commit)), None);
    assert_eq!(moving(&sandbox(Some("main"), "")), None);
}

#[test]
fn a_conflict_is_told_on_one_line_that_harms_no_terminal() {
    let conflict = Conflict { path: "a\nb".to_owned(), found: "\u{1b}x".to_owned() };
    let text = told(&[conflict]);
    assert!(text.starts_with("conflict: a b: there is \\u{1b}x\n"), "{text}");
}

#[tokio::test]
async fn no_signal_ends_the_program_while_changes_are_carried_out() {
    let mut held = held().unwrap();
    let process = std::process::id().to_string();
    for (name, signal) in ["INT", "TERM", "HUP"].into_iter().zip(&mut held) {
        let line = format!("kill -s {name} {process}");
        let sent = std::process::Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(sent.success(), "{name}");
        assert!(signal.recv().await.is_some(), "{name}");
    }
}
