//! The step against real git, served by `git http-backend` behind the stand-in.

use std::fs;
use std::path::Path;
use std::process::Command;

use agentsandbox_report::WorkspaceVerdict;
use clap::Parser;
use tempfile::TempDir;

use super::Place;
use super::stand_in::StandIn;
use crate::args::Args;

/// In the place of a digest: the address is a repository's.
pub const GIT: &str = "git";
const URL: &str = "https://git.test/shop.git";

fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args(["-c", "init.defaultBranch=main", "-c", "user.name=a", "-c", "user.email=a@b.test"])
        .args(args);
    command.current_dir(folder).env("HOME", folder).env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A folder with the repository `shop.git` of two commits, the second of which is on `main` alone.
fn repositories() -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let work = folder.path().join("work");
    fs::create_dir_all(work.join("src")).unwrap();
    git(&work, &["init", "-q"]);
    fs::write(work.join("src/main.rs"), "fn main() {}").unwrap();
    fs::write(work.join(".env"), "KEY=canary-a").unwrap();
    fs::write(work.join(".env.example"), "KEY=canary-b").unwrap();
    fs::write(work.join("own.secret"), "canary-c").unwrap();
    git(&work, &["add", "-A", "-f"]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(&work, &["branch", "first"]);
    fs::write(work.join("second.txt"), "two").unwrap();
    git(&work, &["add", "-A", "-f"]);
    git(&work, &["commit", "-q", "-m", "two"]);
    let id = git(&work, &["rev-parse", "HEAD"]);
    git(folder.path(), &["clone", "-q", "--bare", "work", "shop.git"]);
    fs::create_dir(folder.path().join("empty.git")).unwrap();
    git(&folder.path().join("empty.git"), &["init", "-q", "--bare"]);
    (folder, id)
}

#[test]
fn p_g7_a_repository_is_there_with_its_git_folder_and_the_secrets_in_it_are_not() {
    let (folder, id) = repositories();
    let place = Place::new(StandIn::of_git(folder.path()));
    let (report, log) = place.run(URL, GIT, &["--exclude=*.secret", "--include=.env.example"]);
    assert_eq!(report.verdict, WorkspaceVerdict::Unpacked, "{}", report.message);
    assert_eq!((report.files, report.bytes, report.left_out), (3, 27, 2));
    assert_eq!(report.commit.as_deref(), Some(id.as_str()));
    assert_eq!(place.file("src/main.rs").as_deref(), Some("fn main() {}"));
    assert_eq!(place.file(".env.example").as_deref(), Some("KEY=canary-b"), "the control: it is included");
    assert_eq!((place.file(".env"), place.file("own.secret")), (None, None));
    assert!(log.contains("left out: .env\n") && !log.contains("canary"), "{log}");
    assert_eq!(place.names(), ["report.json", "tree"], "nothing of the pack stays");
    let asked = place.proxy.asked();
    let refs = "GET /shop.git/info/refs?service=git-upload-pack";
    let post = "POST /shop.git/git-upload-pack";
    let tunnel = "CONNECT git.test:443";
    assert_eq!(asked, [tunnel, refs, tunnel, post, tunnel, post]);
    assert_eq!(place.proxy.protocols(), ["version=2"; 3], "and no login: that is the proxy's to add");

    let tree = place.volume().join("tree");
    assert_eq!(git(&tree, &["status", "--porcelain", "--branch"]), "## main...origin/main");
    assert_eq!(git(&tree, &["config", "remote.origin.url"]), URL);
    assert_eq!(git(&tree, &["rev-list", "--count", "HEAD"]), "1");
    git(&tree, &["fsck", "--full", "--strict"]);
    let (again, _) = place.run(URL, GIT, &[]);
    assert_eq!((again, place.proxy.asked().len()), (report, 6), "nothing is fetched again");
}

#[test]
fn a_branch_a_commit_and_a_depth_are_what_is_asked_for() {
    let (folder, id) = repositories();
    let first = git(&folder.path().join("shop.git"), &["rev-parse", "first"]);
    for (more, commit, count) in [
        (vec!["--git-ref=first"], &first, "1"),
        (vec!["--git-ref=main", "--git-depth=5"], &id, "2"),
        (vec!["--git-ref", first.as_str()], &first, "1"),
    ] {
        let place = Place::new(StandIn::of_git(folder.path()));
        let (report, _) = place.run(URL, GIT, &more);
        assert_eq!(report.commit.as_ref(), Some(commit), "{}", report.message);
        assert_eq!(git(&place.volume().join("tree"), &["rev-list", "--count", "HEAD"]), count);
    }
}

#[test]
fn a_repository_that_cannot_be_had_says_why_and_leaves_nothing() {
    let (folder, _) = repositories();
    for (url, more, why) in [
        ("https://git.test/none.git", vec![], "status 404"),
        ("https://git.test/empty.git", vec![], "is empty"),
        (URL, vec!["--git-ref=none"], "no branch or tag"),
        (URL, vec!["--git-ref=1111111111111111111111111111111111111111"], "the server refuses"),
        ("https://files.test/x", vec![], "not answer as a git server"),
        ("https://words.test/x", vec![], "the server refuses"),
        ("https://version-0.test/x", vec![], "version 2"),
        ("https://cut.test/x", vec![], "broke off"),
        ("https://to-git.test/x", vec![], "no redirect"),
        ("https://to-files.test/x", vec![], "no redirect"),
        ("https://down.test/x", vec![], "UpstreamUnreachable"),
        ("https://self-signed.test/x", vec![], "TLS"),
        ("http://git.test/shop.git", vec![], "only https"),
        ("https://user:word-canary@git.test/shop.git", vec![], "login"),
        ("https://git.test/shop.git?a=b", vec![], "no query"),
    ] {
        let place = Place::new(StandIn::of_git(folder.path()));
        let (report, _) = place.run(url, GIT, &more);
        assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{url}: {}", report.message);
        assert!(report.message.contains(why), "{url}: {}", report.message);
        assert!(!report.message.contains("evil") && !report.message.contains("canary"), "{}", report.message);
        assert_eq!(place.names(), Vec::<String>::new(), "{url}");
        let hosts = place.proxy.asked().into_iter().filter(|line| line.starts_with("CONNECT"));
        assert!(hosts.collect::<Vec<_>>().windows(2).all(|two| two[0] == two[1]), "one host alone is asked");
    }
    let place = Place::new(StandIn::of_git(folder.path()));
    let (report, _) = place.run("https://connect.test/shop.git", GIT, &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::FetchDenied, "{}", report.message);
    assert!(report.message.contains("(HostNotAllowed): Write a rule."), "{}", report.message);
}

#[test]
fn a_repository_is_bounded_by_the_workspace_and_by_time() {
    let (folder, _) = repositories();
    let work = folder.path().join("work");
    let noise: String =
        (0..400_000_u32).map(|number| format!("{:x}", number.wrapping_mul(2_654_435_761))).collect();
    fs::write(work.join("big"), noise).unwrap();
    git(&work, &["add", "-A", "-f"]);
    git(&work, &["commit", "-q", "-m", "big"]);
    git(&work, &["push", "-q", "../shop.git", "HEAD:main"]);
    let place = Place::new(StandIn::of_git(folder.path()));
    let (report, _) = place.run(URL, GIT, &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{}", report.message);
    assert!(report.message.contains("sizeLimit"), "{}", report.message);
    fs::write(work.join("big"), "x".repeat(980_000)).unwrap();
    git(&work, &["commit", "-q", "-a", "-m", "fits"]);
    git(&work, &["push", "-q", "../shop.git", "HEAD:main"]);
    let (report, _) = place.run(URL, GIT, &["--git-ref=main"]);
    assert_eq!(report.verdict, WorkspaceVerdict::Unpacked, "{}", report.message);

    fs::write(work.join("other"), "y".repeat(30_000)).unwrap();
    git(&work, &["add", "-A", "-f"]);
    git(&work, &["commit", "-q", "-m", "more"]);
    git(&work, &["push", "-q", "../shop.git", "HEAD:main"]);
    let place = Place::new(StandIn::of_git(folder.path()));
    let (report, _) = place.run(URL, GIT, &[]);
    assert_eq!(report.verdict, WorkspaceVerdict::ArchiveRefused, "{}", report.message);
    assert!(
        report.message.contains("The repository and its tree must fit into the 1000000 bytes"),
        "{}",
        report.message
    );
    let (report, _) = place.run(URL, GIT, &["--deadline-secs=0"]);
    assert_eq!(report.verdict, WorkspaceVerdict::FetchFailed, "{}", report.message);
    assert!(report.message.contains("within 0 seconds"), "{}", report.message);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn exactly_one_source_is_named_and_a_ref_is_a_name_that_git_reads_in_one_way() {
    let line = |more: &[&str]| {
        let own = ["agentsandbox-init", "workspace", "--proxy=10.0.0.1", "--trust-bundle=/b", "--volume=/v"];
        Args::try_parse_from(own.iter().chain(&["--volume-bytes=1"]).chain(more)).is_ok()
    };
    let (url, git_url) = ("--url=https://a.test/x", "--git-url=https://a.test/x");
    let sha256 = format!("--sha256={}", "0".repeat(64));
    assert!(line(&[url, &sha256]) && line(&[git_url]), "the control");
    assert!(line(&[git_url, "--git-ref=v1", "--git-depth=1000"]));
    for wrong in [
        &[][..],
        &[url],
        &[&sha256],
        &[url, &sha256, git_url],
        &[git_url, &sha256],
        &[url, &sha256, "--git-ref=main"],
        &[git_url, "--strip-components=1"],
        &[git_url, "--git-depth=0"],
        &[git_url, "--git-depth=1001"],
        &[git_url, "--git-ref=a..b"],
        &[git_url, "--git-ref=--upload-pack=x"],
    ] {
        assert!(!line(wrong), "{wrong:?}");
    }
}
