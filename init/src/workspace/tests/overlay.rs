//! The step where the original stays: the agent's tree is a copy of it, and what the agent made of that can be told.

use std::process::ExitCode;

use agentsandbox_workspace::changes::{Bounds, stream};

use super::stand_in::hard_linked;
use super::*;
use crate::args::ChangesArgs;
use crate::review;

fn with_original(place: &Place) -> String {
    let original = place.folder.path().join("original");
    fs::create_dir_all(&original).unwrap();
    format!("--original={}", original.display())
}

#[test]
fn where_the_original_stays_the_agents_tree_is_a_copy_and_what_it_made_of_it_is_told() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let flag = with_original(&place);
    let more = ["--strip-components=1", "--exclude=*.secret", "--include=.env.example", &flag];
    let (report, _) = place.run(URL, &sha256(&code), &more);
    assert_eq!((report.verdict, report.files), (WorkspaceVerdict::Unpacked, 2), "{}", report.message);
    let original = place.folder.path().join("original/tree");
    for name in ["src/main.rs", ".env.example"] {
        assert_eq!(fs::read_to_string(original.join(name)).ok(), place.file(name), "{name}");
    }
    assert_eq!(place.names(), ["report.json", "tree"]);

    let workspace = place.volume().join(volume::TREE);
    let args = ChangesArgs { original: original.clone(), workspace, deadline_secs: 600 };
    let told = || {
        let mut told = Vec::new();
        assert_eq!(review::tell(&args, &mut told), ExitCode::SUCCESS);
        stream::read(&mut told.as_slice(), &Bounds::default()).unwrap().changes
    };
    assert_eq!(told(), []);
    fs::write(place.volume().join("tree/src/main.rs"), "fn main() { work() }").unwrap();
    let changes = told();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].path.as_str(), "src/main.rs");
    assert_eq!(changes[0].old_content.as_deref(), Some(b"fn main() {}".as_slice()));

    // The node starts the pod's sandbox again: what the agent made stays, and nothing is asked for.
    let asked = place.proxy.asked().len();
    let (again, _) = place.run(URL, &sha256(&code), &more);
    assert_eq!((again, place.proxy.asked().len()), (report, asked));
    assert_eq!(place.file("src/main.rs").as_deref(), Some("fn main() { work() }"));

    // Without its original the tree is made anew, and both are what was fetched.
    fs::remove_dir_all(&original).unwrap();
    let (anew, _) = place.run(URL, &sha256(&code), &more);
    assert_eq!(anew.verdict, WorkspaceVerdict::Unpacked);
    assert_eq!(told(), []);
    assert_eq!(place.file("src/main.rs").as_deref(), Some("fn main() {}"));
}

#[test]
fn what_cannot_be_compared_is_told_as_no_change_to_nobody() {
    let place = Place::new(StandIn::serving(b""));
    let missing = place.folder.path().join("missing");
    let args = ChangesArgs { original: missing, workspace: place.volume(), deadline_secs: 600 };
    let mut told = Vec::new();
    assert_eq!(review::tell(&args, &mut told), ExitCode::FAILURE);
    assert!(stream::read(&mut told.as_slice(), &Bounds::default()).is_err());
}

#[test]
fn a_file_with_many_names_is_not_copied_beyond_the_volume() {
    let code = hard_linked(300_000, 5);
    let place = Place::new(StandIn::serving(&code));
    let (report, _) = place.run(URL, &sha256(&code), &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::Unpacked, "the control: it fits once: {}", report.message);

    let place = Place::new(StandIn::serving(&code));
    let flag = with_original(&place);
    let (report, _) = place.run(URL, &sha256(&code), &[&flag]);
    assert_eq!(report.verdict, WorkspaceVerdict::ArchiveRefused, "{}", report.message);
    assert!(report.message.contains("raise spec.workspace.sizeLimit"), "{}", report.message);
    assert_eq!(place.names(), Vec::<String>::new(), "nothing of it stays");
}
