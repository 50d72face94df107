//! The whole step against a stand-in of the proxy that terminates TLS, as ours does, and answers for every host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use agentsandbox_report::{WorkspaceReport, WorkspaceVerdict};
use clap::Parser;
use tempfile::TempDir;

use super::{run, volume};
use crate::args::{Args, Command, WorkspaceArgs};

mod of_folder;
mod of_git;
mod overlay;
mod persistent;
mod stand_in;

use stand_in::{StandIn, archive, sha256};

const CODE: &[(&str, &str)] = &[
    ("shop-1/src/main.rs", "fn main() {}"),
    ("shop-1/.env", "KEY=canary-a"),
    ("shop-1/.env.example", "KEY=canary-b"),
    ("shop-1/notes\u{a0}x/id_rsa", "canary-c"),
    ("shop-1/own.secret", "canary-d"),
];

/// A volume beside something that nobody may touch.
struct Place {
    folder: TempDir,
    proxy: StandIn,
}

impl Place {
    fn new(proxy: StandIn) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("volume")).unwrap();
        fs::write(folder.path().join("ca.crt"), &proxy.ca).unwrap();
        Self { folder, proxy }
    }

    fn volume(&self) -> std::path::PathBuf {
        self.folder.path().join("volume")
    }

    fn args(&self, url: &str, sha256: &str, more: &[&str]) -> WorkspaceArgs {
        let (proxy, port) = (self.proxy.address.ip().to_string(), self.proxy.address.port().to_string());
        let (bundle, volume) = (self.folder.path().join("ca.crt"), self.volume());
        let mut line = vec!["agentsandbox-init", "workspace", "--proxy", &proxy, "--proxy-port", &port];
        line.extend(["--trust-bundle", bundle.to_str().unwrap(), "--volume", volume.to_str().unwrap()]);
        line.extend(["--volume-bytes", "1000000"]);
        if sha256 == of_git::GIT {
            line.extend(["--git-url", url]);
        } else if !more.contains(&"--empty") && !more.iter().any(|arg| arg.starts_with("--folder=")) {
            line.extend(["--url", url, "--sha256", sha256]);
        }
        line.extend(more);
        match Args::try_parse_from(line).unwrap().command {
            Command::Workspace(args) => args,
            _ => unreachable!(),
        }
    }

    /// The report, and the log.
    fn run(&self, url: &str, sha256: &str, more: &[&str]) -> (WorkspaceReport, String) {
        let mut log = Vec::new();
        let report = run(&self.args(url, sha256, more), Instant::now(), &mut log);
        (report, String::from_utf8(log).unwrap())
    }

    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.volume().join(volume::TREE).join(name)).ok()
    }

    /// Names in the volume.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.volume()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const URL: &str = "https://files.test/shop.tar.gz?token=query-canary";

#[test]
fn the_code_is_there_and_the_secrets_in_it_are_not() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let more = ["--strip-components=1", "--exclude=*.secret", "--include=.env.example"];
    let (report, log) = place.run(URL, &sha256(&code), &more);
    assert_eq!(report.verdict, WorkspaceVerdict::Unpacked, "{}", report.message);
    assert_eq!((report.files, report.bytes, report.left_out), (2, 24, 3));
    assert_eq!(place.file("src/main.rs").as_deref(), Some("fn main() {}"));
    assert_eq!(place.file(".env.example").as_deref(), Some("KEY=canary-b"), "the control: it is included");
    for name in [".env", "notes\u{a0}x/id_rsa", "own.secret"] {
        assert_eq!(place.file(name), None, "{name}");
    }
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(log.is_ascii() && !log.contains("canary"), "{log}");
    assert_eq!(lines.first(), Some(&"left out: .env"));
    assert_eq!(place.names(), ["report.json", "tree"], "nothing of the archive stays");
    assert_eq!(place.proxy.asked(), ["CONNECT files.test:443", "GET /shop.tar.gz?token=query-canary"]);
}

#[test]
fn what_is_not_what_was_asked_for_is_not_unpacked() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let (report, log) = place.run(URL, &"0".repeat(64), &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::DigestMismatch);
    assert!(report.message.contains(&sha256(&code)), "{}", report.message);
    assert!(!report.message.contains("query-canary"), "{}", report.message);
    assert_eq!((log.as_str(), place.names()), ("", Vec::new()), "nobody looked into it");
}

#[test]
fn what_the_proxy_denies_is_told_with_its_advice_wherever_the_archive_leads() {
    for (url, asked) in [
        ("https://connect.test/x?token=query-canary".to_owned(), 1),
        ("https://to-denied.test/x".to_owned(), 3),
        // Its length hides nothing of what follows.
        (format!("https://connect.test/{}", "x".repeat(2000)), 1),
    ] {
        let place = Place::new(StandIn::serving(b"never sent"));
        let (report, _) = place.run(&url, &"0".repeat(64), &[]);
        assert_eq!(report.verdict, WorkspaceVerdict::FetchDenied, "{}", report.message);
        assert!(report.message.contains("(HostNotAllowed): Write a rule."), "{}", report.message);
        assert!(report.message.contains("https://connect.test"), "{}", report.message);
        assert!(!report.message.contains("canary") && report.message.len() < 500, "{}", report.message);
        assert_eq!((place.names(), place.proxy.asked().len()), (Vec::new(), asked));
    }
}

#[test]
fn a_host_that_speaks_like_the_proxy_is_not_believed_and_its_words_are_told_to_nobody() {
    for (url, status) in [
        ("https://liar-400.test/x", "status 400"),
        ("https://liar-403.test/x", "status 403"),
        ("https://liar-502.test/x", "status 502"),
        ("https://to-liar.test/x", "status 403"),
    ] {
        let place = Place::new(StandIn::serving(b"never sent"));
        let (report, log) = place.run(url, &"0".repeat(64), &[]);
        assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{}", report.message);
        assert!(report.message.contains("The host or the proxy answered"), "{}", report.message);
        assert!(report.message.contains(status) && report.message.contains("audit log"));
        for word in ["LIE", "evil", "HostNotAllowed", "canary"] {
            assert!(!report.message.contains(word) && !log.contains(word), "{}", report.message);
        }
    }
}

#[test]
fn a_redirect_is_a_request_of_its_own_and_leads_to_https_alone() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let (report, _) = place.run("https://to-files.test/x", &sha256(&code), &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::Unpacked, "{}", report.message);
    let asked = place.proxy.asked();
    assert_eq!(
        asked,
        ["CONNECT to-files.test:443", "GET /x", "CONNECT files.test:443", "GET /shop.tar.gz"],
        "the other host is asked for by a tunnel of its own"
    );
    for (host, why) in [
        ("to-http.test", "not asked"),
        ("to-login.test", "not asked"),
        ("to-address.test", "not asked"),
        ("to-itself.test", "too often"),
        ("to-nowhere.test", "where to"),
    ] {
        let place = Place::new(StandIn::serving(&code));
        let (report, _) = place.run(&format!("https://{host}/x"), &sha256(&code), &[]);
        assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{host}");
        assert!(report.message.contains(why), "{host}: {}", report.message);
        assert!(place.proxy.asked().len() <= 12, "{host}");
    }
}

#[test]
fn what_cannot_be_had_says_why_and_leaves_nothing() {
    let code = archive(CODE);
    for (url, why) in [
        ("https://missing.test/x", "status 404"),
        ("https://down.test/x", "UpstreamUnreachable"),
        ("https://cut.test/x", "broke off"),
        ("https://long.test/x", "sizeLimit"),
        ("https://endless.test/x", "sizeLimit"),
        ("https://self-signed.test/x", "TLS"),
        ("http://files.test/x", "only https"),
        ("https://user:word-canary@files.test/x", "login"),
        ("https://93.184.215.14/x", "no DNS name"),
    ] {
        let place = Place::new(StandIn::serving(&code));
        let (report, _) = place.run(url, &sha256(&code), &[]);
        assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{url}: {}", report.message);
        assert!(report.message.contains(why), "{url}: {}", report.message);
        assert!(!report.message.contains("word-canary"), "{}", report.message);
        assert_eq!(place.names(), Vec::<String>::new(), "{url}");
    }
}

#[test]
fn an_archive_that_reaches_outside_is_refused_with_the_path_named() {
    let code = stand_in::escaping();
    let place = Place::new(StandIn::serving(&code));
    let (report, _) = place.run(URL, &sha256(&code), &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::ArchiveRefused);
    assert!(report.message.contains("src/up: a link out of the tree"), "{}", report.message);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_tree_that_does_not_fit_beside_its_archive_is_refused_with_the_field_to_raise() {
    let code = archive(&[("big", &"x".repeat(999_900))]);
    let place = Place::new(StandIn::serving(&code));
    let (report, _) = place.run(URL, &sha256(&code), &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::ArchiveRefused);
    assert!(report.message.contains("1000000 bytes of the workspace together"), "{}", report.message);
    let fitting = archive(&[("big", &"x".repeat(900_000))]);
    let place = Place::new(StandIn::serving(&fitting));
    assert_eq!(place.run(URL, &sha256(&fitting), &[]).0.verdict, WorkspaceVerdict::Unpacked, "the control");
}

#[test]
fn a_finished_tree_is_left_as_it_is_and_an_unfinished_one_is_made_anew() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let leftovers = place.volume().join(volume::TREE);
    fs::create_dir(&leftovers).unwrap();
    fs::write(leftovers.join("half"), "").unwrap();
    fs::create_dir(place.volume().join(".tree.unfinished")).unwrap();
    let (first, _) = place.run(URL, &sha256(&code), &["--strip-components=1"]);
    assert_eq!(first.verdict, WorkspaceVerdict::Unpacked, "{}", first.message);
    assert_eq!((place.file("half"), place.names()), (None, vec!["report.json".into(), "tree".into()]));

    fs::write(leftovers.join("work"), "of the agent").unwrap();
    let (second, _) = place.run(URL, &sha256(&code), &["--strip-components=1"]);
    assert_eq!((second, place.proxy.asked().len()), (first, 2), "nothing is fetched again");
    assert_eq!(place.file("work").as_deref(), Some("of the agent"));
}

#[test]
fn a_tree_is_called_whole_only_once_it_is_on_the_disk() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let (report, _) = place.run(URL, &sha256(&code), &["--strip-components=1"]);
    assert_eq!(volume::finished(&place.volume(), None), Some(report.clone()), "the control");
    fs::remove_file(place.volume().join(volume::REPORT)).unwrap();
    let failed = volume::finish_after(&place.volume(), &report, |_| {
        assert_eq!(place.names(), ["tree"], "the tree is written, and nothing calls it whole");
        Err(std::io::Error::other("the disk is gone"))
    });
    assert!(failed.is_err());
    assert_eq!((volume::finished(&place.volume(), None), place.names()), (None, vec!["tree".to_owned()]));
}

#[test]
fn what_the_agent_does_in_its_tree_makes_no_run_do_it_again_and_what_is_no_whole_report_does() {
    let code = archive(CODE);
    let place = Place::new(StandIn::serving(&code));
    let again = || place.run(URL, &sha256(&code), &["--strip-components=1"]).0;
    let first = again();
    let tree = place.volume().join(volume::TREE);
    let mode = |mode| fs::set_permissions(&tree, fs::Permissions::from_mode(mode)).unwrap();
    for planted in ["report.json", "report.json.unfinished", ".tree.unfinished"] {
        fs::write(tree.join(planted), "of the agent").unwrap();
    }
    fs::create_dir(tree.join("tree")).unwrap();
    mode(0);
    assert_eq!((again(), place.proxy.asked().len()), (first.clone(), 2), "nothing is fetched again");
    mode(0o755);
    assert_eq!(place.file("report.json").as_deref(), Some("of the agent"));

    let mut asked = 2;
    for (field, value) in
        [("version", 2.into()), ("verdict", "Failed".into()), ("more", "x".repeat(5000).into())]
    {
        let path = place.volume().join(volume::REPORT);
        let mut report: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        report[field] = value;
        fs::write(&path, report.to_string()).unwrap();
        fs::write(place.volume().join(".tmpAb3"), "of a run that was killed").unwrap();
        assert_eq!(again().verdict, WorkspaceVerdict::Unpacked);
        asked += 2;
        assert_eq!(
            (place.proxy.asked().len(), place.names()),
            (asked, vec!["report.json".into(), "tree".into()])
        );
    }
    fs::remove_dir_all(&tree).unwrap();
    assert_eq!((again().verdict, place.proxy.asked().len()), (WorkspaceVerdict::Unpacked, asked + 2));
}

#[test]
fn a_pattern_that_is_none_is_refused_before_anything_is_asked_for() {
    let place = Place::new(StandIn::serving(b""));
    let (report, _) = place.run(URL, &"0".repeat(64), &["--exclude=a/../b"]);
    assert_eq!(report.verdict, WorkspaceVerdict::Failed);
    assert!(report.message.contains("a/../b") && place.proxy.asked().is_empty(), "{}", report.message);
}

#[test]
fn a_digest_is_64_digits_in_lower_case() {
    let volume = Path::new("/none");
    for (sha256, is_taken) in
        [("0".repeat(64), true), ("A".repeat(64), false), ("0".repeat(63), false), ("g".repeat(64), false)]
    {
        let line =
            ["agentsandbox-init", "workspace", "--proxy=10.0.0.1", "--trust-bundle=/b", "--volume-bytes=1"];
        let own =
            [format!("--volume={}", volume.display()), format!("--url={URL}"), format!("--sha256={sha256}")];
        let line = line.into_iter().map(str::to_owned).chain(own);
        assert_eq!(Args::try_parse_from(line).is_ok(), is_taken, "{sha256}");
    }
}
