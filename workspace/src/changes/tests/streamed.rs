//! What arrives is judged again: streams that no walk of ours writes.

use super::*;
use crate::look;
use crate::refusal::Reason;

const START: &str = "{\"frame\":\"start\",\"version\":1}\n";
const END: &str = "{\"frame\":\"end\",\"refusedCount\":0,\"hasGitFolder\":false}\n";

fn read(stream: &[u8]) -> Result<Changes, Error> {
    let mut stream = stream;
    stream::read(&mut stream, &Bounds::default())
}

fn whole(frames: &str) -> Result<Changes, Error> {
    read(format!("{START}{frames}{END}").as_bytes())
}

/// A new file of this content, as it is told.
fn file(path: &str, content: &str) -> String {
    let sha256 = look::sha256(&mut content.as_bytes(), content.len() as u64).unwrap().unwrap();
    announced(path, &sha256, content.len(), content)
}

fn announced(path: &str, sha256: &str, bytes: usize, content: &str) -> String {
    let path = serde_json::to_string(path).unwrap();
    let length = String::from_utf8((content.len() as u32).to_be_bytes().to_vec()).unwrap();
    let chunk = if content.is_empty() { String::new() } else { format!("{length}{content}") };
    format!(
        "{{\"frame\":\"change\",\"path\":{path},\"old\":null,\"new\":{{\"kind\":\"file\",\"executable\":false,\"bytes\":{bytes},\"sha256\":\"{sha256}\"}},\"tellsOld\":false}}\n{chunk}\0\0\0\0"
    )
}

fn link(path: &str, target: &str) -> String {
    format!(
        "{{\"frame\":\"change\",\"path\":\"{path}\",\"old\":null,\"new\":{{\"kind\":\"link\",\"target\":\"{target}\"}},\"tellsOld\":false}}\n"
    )
}

#[test]
fn a_path_that_no_walk_tells_refuses_the_whole_by_its_reason() {
    let deep = "d/".repeat(64) + "d";
    for (frames, reason) in [
        (file("../x", "x"), Reason::ParentSegment),
        (file("a/../x", "x"), Reason::ParentSegment),
        (file("/etc/cron.d/x", "x"), Reason::Absolute),
        (file("", "x"), Reason::EmptySegment),
        (file(".", "x"), Reason::EmptySegment),
        (file("./a", "x"), Reason::EmptySegment),
        (file("a/", "x"), Reason::EmptySegment),
        (file("a//b", "x"), Reason::EmptySegment),
        (file("a\u{1b}[2J", "x"), Reason::Control),
        (file("a\nb", "x"), Reason::Control),
        (file("a\u{202e}b", "x"), Reason::Control),
        (file(".git/hooks/pre-commit", "x"), Reason::GitFolder),
        (file("sub/.GIT/config", "x"), Reason::GitFolder),
        (file("git~1/config", "x"), Reason::GitFolder),
        (file(&deep, "x"), Reason::TooDeep(64)),
        (link("out", "../x"), Reason::LinkEscapes),
        (link("out", "/etc/passwd"), Reason::LinkEscapes),
        (link("out", "a/../.."), Reason::LinkEscapes),
        (link("notes", ".git/config"), Reason::LinkToGit),
        (link("a/b", "../.GIT/hooks/pre-commit"), Reason::LinkToGit),
        ([link("a", "b"), file("a/x", "x")].concat(), Reason::ThroughLink),
        ([file("a/x", "x"), link("a", "b")].concat(), Reason::ThroughLink),
        ([file("a", "x"), file("a/x", "x")].concat(), Reason::ThroughLink),
        ([file("a", "x"), file("a", "y")].concat(), Reason::NamedTwice),
        ([file("a", "x"), file("A", "x")].concat(), Reason::CaseCollision),
        (
            [file("a/HEAD", "x"), file("a/objects/x", "x"), file("a/refs/x", "x")].concat(),
            Reason::BareRepository,
        ),
        ([file("HEAD", "x"), file("commondir", "x")].concat(), Reason::BareRepository),
        ([file("caf\u{e9}", "x"), file("cafe\u{301}", "x")].concat(), Reason::UnicodeCollision),
    ] {
        let found = whole(&frames).map_err(|error| error.reason());
        assert_eq!(found, Err(Some(reason)), "{frames:?}");
    }
    let honest = [file("a/b", "x"), link("a/l", "b")].concat();
    assert_eq!(whole(&honest).unwrap().changes.len(), 2, "the control");
}

#[test]
fn a_link_leads_to_what_the_original_has_or_what_comes_with_it_and_else_it_and_what_leads_to_it_are_refused()
{
    let of = |frames: &str| {
        let changes = whole(frames).unwrap();
        let refused: Vec<String> = changes.refused.iter().map(|one| one.path.clone()).collect();
        (changes.changes.len(), refused, changes.refused_count)
    };
    let chain = [link("a", "b"), link("b", "c")].concat();
    assert_eq!(of(&chain), (0, vec!["a".to_owned(), "b".to_owned()], 2));
    assert_eq!(of(&[chain.clone(), file("c", "x")].concat()), (3, vec![], 0), "the control");
    let known = link("a", "b").replace("}\n", ",\"leadsToOriginal\":true}\n");
    assert_eq!(of(&known), (1, vec![], 0));
    // What is refused comes with nothing, and what somebody left out is not led to though it comes.
    let changed = [link("a", "b"), announced("b", &"0".repeat(64), 1, "x")].concat();
    assert_eq!(of(&changed), (0, vec!["b".to_owned(), "a".to_owned()], 2));
    assert_eq!(of(&[link("a", ".env"), file(".env", "x")].concat()), (1, vec!["a".to_owned()], 1));
    let gone = "{\"frame\":\"change\",\"path\":\"b\",\"old\":{\"kind\":\"folder\"},\"new\":null,\"tellsOld\":false}\n";
    assert_eq!(of(&[link("a", "b"), gone.to_owned()].concat()), (1, vec!["a".to_owned()], 1));
}

#[test]
fn what_is_refused_here_is_counted_beside_what_was_refused_there() {
    let told = "{\"frame\":\"refused\",\"path\":\"p\",\"reason\":\"r\"}\n";
    let end = END.replace("\"refusedCount\":0", "\"refusedCount\":7");
    let stream = format!("{START}{told}{}{end}", link("a", "b"));
    assert_eq!(read(stream.as_bytes()).unwrap().refused_count, 8);
}

#[test]
fn a_stream_that_is_damaged_lies_or_is_too_large_refuses_the_whole() {
    let digest = "0".repeat(64);
    let long = format!("{{\"frame\":\"refused\",\"path\":\"{}\",\"reason\":\"r\"}}\n", "x".repeat(20_000));
    for frames in [
        "nonsense\n".to_owned(),
        "{\"frame\":\"other\"}\n".to_owned(),
        "{\"frame\":\"end\",\"refusedCount\":0,\"hasGitFolder\":false,\"more\":1}\n".to_owned(),
        START.to_owned(),
        END.to_owned(),
        long,
        announced("a", "ABC", 1, "x"),
        announced("a", &digest, 0, "x"),
        announced("a", &digest, 65 << 20, ""),
        "{\"frame\":\"change\",\"path\":\"a\",\"old\":null,\"new\":null,\"tellsOld\":false}\n".to_owned(),
        "{\"frame\":\"change\",\"path\":\"a\",\"old\":{\"kind\":\"folder\"},\"new\":null,\"tellsOld\":true}\n".to_owned(),
    ] {
        let found = whole(&frames);
        assert!(matches!(found, Err(Error::Stream(_))), "{frames:?} gave {found:?}");
    }
    assert!(matches!(read(b""), Err(Error::Stream(_))));
    assert!(matches!(read(b"{\"frame\":\"start\",\"version\":2}\n"), Err(Error::Stream(_))));
    // Content that the agent changed while it was told is refused by its path, and the rest holds.
    let changed = whole(&[announced("a", &digest, 1, "x"), file("b", "y")].concat()).unwrap();
    assert_eq!((changed.refused[0].path.as_str(), changed.changes.len()), ("a", 1));
}

#[test]
fn a_stream_counts_only_as_a_whole_wherever_it_breaks_off() {
    let trees = Trees::new(project);
    work(&trees.path("agent"));
    let (told, done) = trees.told(&Bounds::default());
    done.unwrap();
    assert_eq!(read(&told).unwrap(), trees.changes());
    for end in 0..told.len() {
        assert!(read(&told[..end]).is_err(), "cut at {end} of {}", told.len());
    }
    assert!(read(&[&told[..], b"x"].concat()).is_err(), "and nothing stands behind its end");
}

#[test]
fn all_of_the_content_together_is_bounded() {
    let bounds = Bounds { bytes_max: 3, ..Bounds::default() };
    let stream = format!("{START}{}{}{END}", file("a", "xx"), file("b", "yy"));
    let found = stream::read(&mut stream.as_bytes(), &bounds);
    assert!(matches!(found, Err(Error::Stream(_))), "{found:?}");
    assert!(stream::read(&mut stream.as_bytes(), &Bounds { bytes_max: 4, ..bounds }).is_ok());
    let found = stream::read(&mut stream.as_bytes(), &Bounds { changes_max: 1, ..Bounds::default() });
    assert_eq!(found.map_err(|error| error.reason()), Err(Some(Reason::TooMany(1))));
}

#[test]
fn what_is_told_of_a_refused_path_harms_no_terminal() {
    let frame = "{\"frame\":\"refused\",\"path\":\"a\\u001b[2J\\u202e\",\"reason\":\"r\\u0007\"}\n";
    let found = whole(frame).unwrap();
    assert_eq!(
        (found.refused[0].path.as_str(), found.refused[0].reason.as_str()),
        (r"a\x1b[2J\xe2\x80\xae", r"r\x07")
    );
    let told = "{\"frame\":\"failed\",\"message\":\"\\u001b]0;x\"}\n";
    assert!(whole(told).unwrap_err().to_string().is_ascii());
}
