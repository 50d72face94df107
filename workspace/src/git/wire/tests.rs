use super::{Greeting, Lines, Names, Reader, Sent, Wanted, WireError, fetch, is_name, list};

fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

fn band(number: u8, data: &[u8]) -> Vec<u8> {
    [format!("{:04x}", data.len() + 5).as_bytes(), &[number], data].concat()
}

fn read(answer: &[u8], reader: &mut dyn Reader) -> Result<(), WireError> {
    let mut lines = Lines::default();
    lines.feed(answer, reader)
}

const ID: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn a_pack_is_the_same_however_its_answer_is_cut() {
    let answer = [
        line("shallow-info\n"),
        line(&format!("shallow {ID}")),
        b"0001".to_vec(),
        line("packfile\n"),
        band(2, b"progress"),
        band(1, b"PACK"),
        band(1, &[7; 3000]),
        b"0000".to_vec(),
    ]
    .concat();
    for piece in 1..answer.len() {
        let (mut pack, mut lines) = (Vec::new(), Lines::default());
        let mut sent = Sent::new(&mut pack);
        for bytes in answer.chunks(piece) {
            lines.feed(bytes, &mut sent).unwrap();
        }
        assert!(lines.is_empty());
        assert_eq!(sent.end(), Ok(3004));
        assert_eq!(pack, [&b"PACK"[..], &[7; 3000]].concat());
    }
    for end in 0..answer.len() {
        let mut pack = Vec::new();
        let mut sent = Sent::new(&mut pack);
        read(&answer[..end], &mut sent).unwrap();
        assert_eq!(sent.end(), Err(WireError::Truncated), "{end}");
    }
}

#[test]
fn an_answer_that_is_none_is_refused_and_a_servers_words_are_kept() {
    for (answer, wanted) in [
        (b"<html>".to_vec(), WireError::NotGit),
        (b"0003".to_vec(), WireError::NotGit),
        (b"0004".to_vec(), WireError::NotGit),
        (b"ffff".to_vec(), WireError::NotGit),
        (line("ERR evil words"), WireError::Server),
        ([line("packfile\n"), band(3, b"evil words")].concat(), WireError::Server),
        ([line("packfile\n"), band(9, b"x")].concat(), WireError::NotGit),
        ([line("packfile\n"), b"0001".to_vec()].concat(), WireError::NotGit),
        ([line("packfile\n"), b"0000".to_vec(), line("more")].concat(), WireError::NotGit),
        (line("x\n").repeat(10_001), WireError::TooLong),
    ] {
        let mut pack = Vec::new();
        let error = read(&answer, &mut Sent::new(&mut pack)).unwrap_err();
        assert!(!error.to_string().contains("evil"));
        assert_eq!(error, wanted, "{}", answer[..answer.len().min(40)].escape_ascii());
    }
}

#[test]
fn only_version_2_with_sha_1_is_spoken() {
    let v2 = [line("version 2\n"), line("fetch=shallow\n"), line("object-format=sha1\n"), b"0000".to_vec()]
        .concat();
    let behind = [line("# service=git-upload-pack\n"), b"0000".to_vec(), v2.clone()].concat();
    let v0 =
        [line("# service=git-upload-pack\n"), b"0000".to_vec(), line(&format!("{ID} HEAD\0x\n"))].concat();
    let v1 = line("version 1\n");
    let sha256 = [line("version 2\n"), line("object-format=sha256\n")].concat();
    for (answer, wanted) in [
        (v2[..v2.len() - 4].to_vec(), Err(WireError::Truncated)),
        (v2, Ok(())),
        (behind, Ok(())),
        (v0, Err(WireError::Version)),
        (v1, Err(WireError::Version)),
        (b"0000".to_vec(), Err(WireError::Version)),
        (sha256, Err(WireError::Format)),
    ] {
        let mut greeting = Greeting::default();
        let done = read(&answer, &mut greeting).and_then(|()| greeting.end());
        assert_eq!(done, wanted);
    }
}

fn named(wanted: &Wanted, lines: &[String]) -> Result<(String, Option<String>), WireError> {
    let mut names = Names::new(wanted);
    let mut answer: Vec<u8> = lines.iter().flat_map(|text| line(&format!("{text}\n"))).collect();
    read(&answer, &mut names)?;
    assert_eq!(names.end(), Err(WireError::Truncated), "a list that was cut");
    answer.extend(b"0000");
    let mut names = Names::new(wanted);
    read(&answer, &mut names)?;
    names.end().map(|named| (named.id, named.branch))
}

#[test]
fn a_name_is_a_branch_before_it_is_a_tag_and_never_what_only_begins_like_it() {
    let other = "f".repeat(40);
    let wanted = Wanted::parse(Some("v1")).unwrap();
    let (branch, tag) = (format!("{ID} refs/heads/v1"), format!("{other} refs/tags/v1 peeled:{ID}"));
    let longer = format!("{other} refs/heads/v1-old");
    let is_branch = Ok((ID.to_owned(), Some("v1".to_owned())));
    assert_eq!(named(&wanted, &[tag.clone(), branch, longer.clone()]), is_branch);
    assert_eq!(named(&wanted, &[tag]), Ok((other.clone(), None)));
    assert_eq!(named(&wanted, &[longer]), Err(WireError::NoSuchName));

    let head = |target: &str| named(&Wanted::Head, &[format!("{ID} HEAD symref-target:{target}")]);
    assert_eq!(head("refs/heads/main"), Ok((ID.to_owned(), Some("main".to_owned()))));
    for target in
        ["refs/heads/../../config", "refs/heads/a\"]\n[core]", "refs/tags/x", "refs/heads/-x", "/etc/x"]
    {
        assert_eq!(head(target).map(|(_, branch)| branch).unwrap_or(None), None, "{target}");
    }
    assert_eq!(
        named(&Wanted::Head, &["unborn HEAD symref-target:refs/heads/main".into()]),
        Err(WireError::NoHead)
    );
    assert_eq!(Wanted::parse(Some(ID)), Some(Wanted::Commit(ID.to_owned())));
}

#[test]
fn a_name_that_git_would_read_otherwise_is_none() {
    for name in ["main", "feature/x-1", "v1.0", "a+b", "release_2"] {
        assert!(is_name(name), "{name}");
    }
    let long = "x".repeat(201);
    for name in [
        "", "-x", "a/-b", "/a", "a/", "a//b", ".a", "a/.b", "a..b", "a.lock", "a.", "HEAD", "a b", "a\nb",
        "a\"b", &long,
    ] {
        assert!(!is_name(name), "{name:?}");
        assert_eq!(Wanted::parse(Some(name)), None, "{name:?}");
    }
}

#[test]
fn what_is_asked_for_is_whole_lines() {
    for request in [list(&Wanted::Head), list(&Wanted::Name("main".into())), fetch(ID, 3)] {
        struct Nothing;
        impl Reader for Nothing {
            fn take(&mut self, _: gix_packetline::PacketLineRef<'_>) -> Result<(), WireError> {
                Ok(())
            }
        }
        let mut lines = Lines::default();
        lines.feed(&request, &mut Nothing).unwrap();
        assert!(lines.is_empty() && request.ends_with(b"0000"));
    }
}
