use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use agentsandbox_workspace::Reason;
use tempfile::TempDir;

use super::*;

fn inside(text: &str) -> Result<(String, String), String> {
    match Place::parse(text) {
        Ok(Place::Inside(inside)) => Ok((inside.sandbox.clone(), inside.path())),
        Ok(Place::Here(path)) => Err(format!("here: {}", path.display())),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_place_is_in_a_sandbox_where_a_name_stands_before_a_colon_and_begins_in_its_workspace() {
    let of = |text: &str| inside(text).map(|(sandbox, path)| format!("{sandbox} {path}"));
    assert_eq!(of("fix:src/a.rs").unwrap(), "fix /workspace/src/a.rs");
    assert_eq!(of("fix:/tmp//out/").unwrap(), "fix /tmp/out");
    assert_eq!(of("fix:").unwrap(), "fix /workspace");
    assert_eq!(of("fix:./-x:y").unwrap(), "fix /workspace/-x:y");
    for here in ["./a:b", "a/b:c", "../x", "A:b", ":x"] {
        assert_eq!(of(here), Err(format!("here: {here}")));
    }
    for refused in ["fix:/", "fix:../x", "fix:a/../b", "fix:a\nb"] {
        assert!(of(refused).unwrap_err().contains("no path of a sandbox"), "{refused}");
    }
}

/// What an agent packed: of names, and of what they are.
fn packed(entries: &[(&str, Kind<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o6755);
        match kind {
            Kind::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, name, &[][..]).unwrap();
            }
            Kind::File(content) => {
                header.set_size(content.len() as u64);
                raw_name(&mut header, name);
                builder.append(&header, content.as_bytes()).unwrap();
            }
            Kind::Link(target) | Kind::HardLink(target) => {
                let is_hard = matches!(kind, Kind::HardLink(_));
                header.set_entry_type(if is_hard { tar::EntryType::Link } else { tar::EntryType::Symlink });
                builder.append_link(&mut header, name, target).unwrap();
            }
            Kind::Device => {
                header.set_entry_type(tar::EntryType::Char);
                builder.append_data(&mut header, name, &[][..]).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// The library writes no name that climbs, and an agent does.
fn raw_name(header: &mut tar::Header, name: &str) {
    let bytes = &mut header.as_old_mut().name;
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Folder,
    File(&'a str),
    Link(&'a str),
    HardLink(&'a str),
    Device,
}

fn taken(folder: &Path, packed: &[u8], name: &str, to: &str) -> Result<String, Error> {
    let mut told = Vec::new();
    // No pattern brings a repository back.
    let exclusion = what_comes_out(&["!.git".to_owned()]).unwrap();
    take(std::io::Cursor::new(packed), &exclusion, name, &folder.join(to), &mut told)?;
    Ok(String::from_utf8(told).unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_asked_for_takes_its_place_with_plain_modes_and_nothing_stays_beside_it() {
    let folder = TempDir::new().unwrap();
    let file = packed(&[("a.txt", Kind::File("new"))]);
    taken(folder.path(), &file, "a.txt", "b.txt").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("b.txt")).unwrap(), "new");
    assert_eq!(fs::metadata(folder.path().join("b.txt")).unwrap().permissions().mode() & 0o7777, 0o755);
    // A file is replaced by a file.
    taken(folder.path(), &packed(&[("a.txt", Kind::File("newer"))]), "a.txt", "b.txt").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("b.txt")).unwrap(), "newer");
    let tree = packed(&[
        ("out/", Kind::Folder),
        ("out/.env", Kind::File("agents own")),
        ("out/l", Kind::Link(".env")),
        ("out/.git/", Kind::Folder),
        ("out/.git/config", Kind::File("[core]\n\tfsmonitor = owned\n")),
    ]);
    let told = taken(folder.path(), &tree, "out", "copy").unwrap();
    assert_eq!(names(&folder.path().join("copy")), [".env", "l"]);
    assert_eq!(told, "left out: .git/config\n");
    assert_eq!(fs::metadata(folder.path().join("copy/.env")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(names(folder.path()), ["b.txt", "copy"]);
    // A folder without anything is one, too.
    taken(folder.path(), &packed(&[("out/", Kind::Folder)]), "out", "empty").unwrap();
    assert_eq!(names(&folder.path().join("empty")), [""; 0]);
}

#[test]
fn nothing_is_written_of_what_an_agent_made_to_hurt() {
    let file = |name| packed(&[(name, Kind::File("x"))]);
    let tree = |entries: &[(&str, Kind<'_>)]| {
        let mut all = vec![("out/", Kind::Folder)];
        all.extend(entries.iter().copied());
        packed(&all)
    };
    let cases: [(&str, Vec<u8>, Option<Reason>); 19] = [
        ("climbs", file("../out"), Some(Reason::ParentSegment)),
        ("absolute", file("/etc/owned"), Some(Reason::Absolute)),
        ("escapes", file("out\u{1b}[2J"), Some(Reason::Control)),
        ("climbs within", tree(&[("out/../../x", Kind::File("x"))]), Some(Reason::ParentSegment)),
        ("leads out", tree(&[("out/up", Kind::Link("../../up"))]), Some(Reason::LinkEscapes)),
        ("leads beside its place", tree(&[("out/up", Kind::Link("../.ssh/id"))]), Some(Reason::LinkEscapes)),
        ("leads away", tree(&[("out/up", Kind::Link("/etc/passwd"))]), Some(Reason::LinkEscapes)),
        (
            "another name of what is outside",
            tree(&[("out/x", Kind::HardLink("../x"))]),
            Some(Reason::HardLinkEscapes),
        ),
        (
            "through a link",
            tree(&[("out/l", Kind::Link("d")), ("out/l/x", Kind::File("x"))]),
            Some(Reason::ThroughLink),
        ),
        ("device", tree(&[("out/null", Kind::Device)]), Some(Reason::Device)),
        (
            "other letters",
            tree(&[("out/a", Kind::File("")), ("out/A", Kind::File(""))]),
            Some(Reason::CaseCollision),
        ),
        ("a repository", tree(&[("out/git~1/config", Kind::File("x"))]), Some(Reason::GitFolder)),
        ("beside a folder", tree(&[(".bashrc", Kind::File("owned"))]), Some(Reason::Stripped(1))),
        ("beside a file", packed(&[("out", Kind::File("x")), (".bashrc", Kind::File("owned"))]), None),
        ("another name", file(".bashrc"), None),
        ("a folder that comes late", packed(&[("out/x", Kind::File("x"))]), None),
        ("a link", packed(&[("out", Kind::Link("x"))]), None),
        ("cut off", tree(&[("out/x", Kind::File("x"))])[..1200].to_vec(), None),
        ("nothing", tar::Builder::new(Vec::new()).into_inner().unwrap(), Some(Reason::NotAnArchive)),
    ];
    for (what, packed, reason) in cases {
        let folder = TempDir::new().unwrap();
        let error = taken(folder.path(), &packed, "out", "copy").unwrap_err();
        if let Some(reason) = reason {
            let Error::Copy(CopyError::Refused(refused)) = &error else { panic!("{what}: {error}") };
            assert_eq!(refused.reason(), Some(reason), "{what}");
        }
        assert_eq!(names(folder.path()), [""; 0], "{what}");
    }
}

#[test]
fn a_place_that_is_taken_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let outside = TempDir::new().unwrap();
    symlink(outside.path(), folder.path().join("link")).unwrap();
    fs::create_dir(folder.path().join("there")).unwrap();
    let tree = packed(&[("out/", Kind::Folder), ("out/x", Kind::File("x"))]);
    let file = packed(&[("out", Kind::File("x"))]);
    for to in ["link", "there"] {
        for packed in [&tree, &file] {
            let error = taken(folder.path(), packed, "out", to).unwrap_err();
            assert!(matches!(error, Error::Copy(CopyError::Taken(_))), "{to}: {error}");
        }
    }
    fs::write(folder.path().join("file"), "mine").unwrap();
    let error = taken(folder.path(), &tree, "out", "file").unwrap_err();
    assert!(matches!(error, Error::Copy(CopyError::Taken(_))), "{error}");
    assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "mine");
    assert_eq!(names(folder.path()), ["file", "link", "there"]);
    assert_eq!(names(outside.path()), [""; 0]);
}

/// What is packed of a place here, by names and kinds, and what is told of the rest.
fn given(from: &Path, exclude: &[&str], include: &[&str]) -> Result<(Vec<String>, Vec<String>), CopyError> {
    let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let leaving = packed::Leaving::new(&owned(exclude), &owned(include)).unwrap();
    let (mut spool, mut told) = (tempfile::tempfile().unwrap(), Vec::new());
    packed::pack(from, "data", &leaving, &mut spool, &mut |line| told.push(line.to_owned()))?;
    spool.rewind().unwrap();
    let mut archive = tar::Archive::new(spool);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(
            (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap() & !0o777),
            (0, 0, 0)
        );
        let link = if header.entry_type().is_symlink() { " ->" } else { "" };
        format!("{}{link}", entry.path().unwrap().display().to_string().trim_end_matches('/'))
    });
    Ok((entries.collect(), told))
}

fn write(folder: &TempDir, name: &str, content: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn what_goes_in_is_packed_without_secrets_and_repositories_and_follows_no_link() {
    let folder = TempDir::new().unwrap();
    for name in ["src/a.rs", "log/b", ".env", ".env.local", ".git/config", ".azure/token", "deploy/id_rsa"] {
        write(&folder, name, name);
    }
    symlink("/etc/passwd", folder.path().join("src/l")).unwrap();
    // Whose it is here is in no header; only root could make it somebody else's.
    let _given = chown(folder.path().join("src/a.rs"), Some(1000), Some(1000));
    fs::set_permissions(folder.path().join("src/a.rs"), fs::Permissions::from_mode(0o4755)).unwrap();
    let (packed, told) = given(folder.path(), &["log"], &[".env.local"]).unwrap();
    let wanted = ["data", "data/.env.local", "data/deploy", "data/src", "data/src/a.rs", "data/src/l ->"];
    assert_eq!(packed, wanted);
    let left_out = [".azure/token", ".env", ".git", "deploy/id_rsa", "log"];
    assert_eq!(told, left_out.map(|path| format!("left out: {path}")));
    // What is taken back is so by its name below the folder, too.
    let (packed, _) = given(folder.path(), &["src"], &["deploy/id_rsa", ".azure"]).unwrap();
    assert!(
        ["data/deploy/id_rsa", "data/.azure/token"].iter().all(|name| packed.contains(&(*name).to_owned()))
    );
    // A file that is named itself goes as it is.
    assert_eq!(given(&folder.path().join(".env"), &[], &[]).unwrap(), (vec!["data".to_owned()], vec![]));
}

#[test]
fn the_program_tar_unpacks_what_goes_in_and_packs_what_comes_out() {
    let (folder, there, back) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let long = "n".repeat(200);
    for name in ["-x/a b", "größe", &long] {
        write(&folder, name, name);
    }
    symlink("-x/a b", folder.path().join("l")).unwrap();
    let leaving = packed::Leaving::new(&[], &[]).unwrap();
    let mut spool = tempfile::tempfile().unwrap();
    packed::pack(folder.path(), "-data", &leaving, &mut spool, &mut |line| panic!("{line}")).unwrap();
    spool.rewind().unwrap();
    let tar = |args: &[&str]| {
        let mut tar = std::process::Command::new("tar");
        tar.args(args);
        tar
    };
    let place = there.path().to_str().unwrap();
    let unpacked = tar(&["-x", "-f", "-", "-C", place]).stdin(spool).output().unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    let packed = tar(&["-c", "-f", "-", "-C", place, "--", "-data"]).output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    assert_eq!(taken(back.path(), &packed.stdout, "-data", "-data").unwrap(), "");
    let back = back.path().join("-data");
    assert_eq!(names(&back), ["-x", "größe", "l", &long]);
    assert_eq!(fs::read_to_string(back.join("l")).unwrap(), "-x/a b");
}

#[test]
fn what_is_a_secret_by_the_folder_that_it_is_in_is_so_where_that_folder_is_named() {
    let folder = TempDir::new().unwrap();
    for name in [".aws/credentials", ".aws/config", ".config/gcloud/tokens", ".ssh/work", "a/.git/config"] {
        write(&folder, name, name);
    }
    symlink(".aws", folder.path().join("innocent")).unwrap();
    for aws in [".aws", "innocent"] {
        let (packed, told) = given(&folder.path().join(aws), &[], &[]).unwrap();
        assert_eq!(
            (packed, told),
            (vec!["data".to_owned(), "data/config".to_owned()], vec!["left out: credentials".to_owned()])
        );
    }
    for all in [".config/gcloud", ".ssh", "a/.git"] {
        let outcome = given(&folder.path().join(all), &[], &[]);
        assert!(matches!(outcome, Err(CopyError::Nothing)), "{all}: {outcome:?}");
    }
    let (packed, _) = given(&folder.path().join(".ssh"), &[], &[".ssh"]).unwrap();
    assert_eq!(packed, ["data", "data/work"]);
    // What the user leaves out says nothing of the folders on the way.
    let way = folder.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(given(&folder.path().join("a"), &[way], &[]).unwrap().0, ["data"]);
}

#[test]
fn what_looks_like_a_credential_is_told_and_what_is_no_file_is_refused() {
    let folder = TempDir::new().unwrap();
    write(&folder, "notes", &format!("token: ghp_{}", "a1B2".repeat(9)));
    let (packed, told) = given(folder.path(), &[], &[]).unwrap();
    assert_eq!(packed, ["data", "data/notes"]);
    assert!(
        told.len() == 1
            && told[0].starts_with("holds what looks like a ")
            && told[0].ends_with(": data/notes"),
        "{told:?}"
    );
    let outcome = given(Path::new("/dev/zero"), &[], &[]);
    assert!(matches!(outcome, Err(CopyError::Here { doing: "packed", .. })), "{outcome:?}");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let outcome = given(folder.path(), &[], &[]);
    assert!(matches!(outcome, Err(CopyError::Here { doing: "packed", .. })), "{outcome:?}");
    // More than is copied at once is known before it is read.
    fs::File::create(folder.path().join("huge")).unwrap().set_len(BYTES_MAX + 1).unwrap();
    assert!(matches!(given(&folder.path().join("huge"), &[], &[]), Err(CopyError::TooMuch)));
}

#[test]
fn how_a_program_ended_is_told_and_never_taken_for_a_copy() {
    let ended = |code| check(Ended { program: "tar".to_owned(), code, said: "cannot stat".to_owned() });
    assert!(ended(0).is_ok());
    assert!(matches!(ended(127), Err(CopyError::NoTar)));
    assert!(
        ended(2)
            .unwrap_err()
            .to_string()
            .contains("`tar` in the agent's container ended with 2: cannot stat")
    );
}

#[tokio::test]
async fn what_a_program_complains_of_is_told_in_its_beginning_and_harmless() {
    let said = complaint("tar: \u{1b}[2Jx\nno\n".as_bytes()).await.unwrap();
    assert_eq!(said, "tar: \\u{1b}[2Jx no");
    let much = vec![b'x'; 3 * CHUNK_BYTES];
    assert_eq!(complaint(&much[..]).await.unwrap().len(), COMPLAINT_BYTES_MAX);
}

#[tokio::test]
async fn a_tar_that_never_ends_is_read_no_further_than_what_is_copied_at_once() {
    let mut spool = Vec::new();
    let outcome = spooled(tokio::io::repeat(1), &mut spool, 1 << 20).await;
    assert!(matches!(outcome, Err(Error::Copy(CopyError::TooMuch))));
    assert!(spool.len() <= 1 << 20);
    spooled(&[1; 9][..], &mut spool, 9).await.unwrap();
}
