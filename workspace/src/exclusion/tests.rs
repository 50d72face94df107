use super::{DEFAULT, Exclusion, PATTERNS_MAX, Verdict};
use crate::path::RelativePath;

fn path(text: &str) -> RelativePath {
    RelativePath::parse(text.as_bytes()).unwrap()
}

fn of(exclude: &[&str], include: &[&str]) -> Exclusion {
    Exclusion::new(exclude, include).unwrap()
}

/// A file that each pattern of the list is there for.
const LEFT_OUT: [(&str, &str); 52] = [
    (".env", ".env"),
    (".env.*", ".env.local"),
    (".envrc", ".envrc"),
    (".git-credentials", ".git-credentials"),
    (".netrc", ".netrc"),
    ("_netrc", "_netrc"),
    (".npmrc", ".npmrc"),
    (".yarnrc.yml", ".yarnrc.yml"),
    (".pypirc", ".pypirc"),
    (".htpasswd", ".htpasswd"),
    (".pgpass", ".pgpass"),
    (".my.cnf", ".my.cnf"),
    ("**/.cargo/credentials", ".cargo/credentials"),
    ("**/.cargo/credentials.toml", ".cargo/credentials.toml"),
    ("**/.gem/credentials", ".gem/credentials"),
    ("**/.composer/auth.json", ".composer/auth.json"),
    ("**/.m2/settings.xml", ".m2/settings.xml"),
    ("**/.aws/credentials", ".aws/credentials"),
    ("**/.config/gcloud/", ".config/gcloud/application_default_credentials.json"),
    ("application_default_credentials.json", "application_default_credentials.json"),
    ("*-service-account.json", "my-service-account.json"),
    (".azure/", ".azure/accessTokens.json"),
    ("**/.docker/config.json", ".docker/config.json"),
    (".dockercfg", ".dockercfg"),
    ("**/.kube/config", ".kube/config"),
    ("kubeconfig", "kubeconfig"),
    (".vault-token", ".vault-token"),
    ("**/.config/gh/hosts.yml", ".config/gh/hosts.yml"),
    ("*.pem", "tls.pem"),
    ("*.key", "tls.key"),
    ("*.p12", "a.p12"),
    ("*.pfx", "a.pfx"),
    ("*.jks", "a.jks"),
    ("*.keystore", "a.keystore"),
    ("*.ppk", "a.ppk"),
    ("*.kdbx", "a.kdbx"),
    ("id_rsa", "id_rsa"),
    ("id_dsa", "id_dsa"),
    ("id_ecdsa", "id_ecdsa"),
    ("id_ecdsa_sk", "id_ecdsa_sk"),
    ("id_ed25519", "id_ed25519"),
    ("id_ed25519_sk", "id_ed25519_sk"),
    (".ssh/", ".ssh/config"),
    (".gnupg/", ".gnupg/secring.gpg"),
    (".terraform/", ".terraform/terraform"),
    ("*.tfstate", "prod.tfstate"),
    ("*.tfstate.*", "prod.tfstate.backup"),
    (".terraform*state", ".terraform.state"),
    ("*.tfvars", "prod.tfvars"),
    (".env.*", ".env.production.local"),
    (".env.*", ".env.examples"),
    (".ssh/", ".ssh/id_rsa.pub"),
];

#[test]
fn every_default_pattern_leaves_its_file_out_and_include_brings_it_back() {
    let patterns = DEFAULT.lines().filter(|line| !line.starts_with(['#', '!']));
    for pattern in patterns {
        assert!(LEFT_OUT.iter().any(|(of, _)| *of == pattern), "{pattern} has no file here");
    }
    let nothing = of(&[], &[]);
    for (_, file) in LEFT_OUT {
        let anchored = format!("/{file}");
        for at in [file.to_owned(), format!("sub/folder/{file}"), file.to_uppercase()] {
            assert_eq!(nothing.verdict(&path(&at), false), Verdict::LeftOutByDefault, "{at}");
        }
        let included = of(&[], &[&*anchored]);
        assert_eq!(included.verdict(&path(file), false), Verdict::Taken, "{file} is included");
        let elsewhere = path(&format!("x/{file}"));
        assert_eq!(included.verdict(&elsewhere, false), Verdict::LeftOutByDefault, "{file} is anchored");
    }
}

#[test]
fn what_holds_no_secret_is_taken() {
    let nothing = of(&[], &[]);
    for file in [
        ".env.example",
        ".env.sample",
        ".environment",
        "src/main.rs",
        "id_rsa.pub",
        "docs/keys.md",
        "key",
        ".aws/config",
        ".docker/README.md",
        "package.json",
        ".gitignore",
        "main.tf",
    ] {
        assert_eq!(nothing.verdict(&path(file), false), Verdict::Taken, "{file}");
    }
}

#[test]
fn include_takes_back_from_the_list_alone_and_only_what_it_names() {
    let both = of(&["*.pem", "secret/"], &["*.pem", "test.key", ".env", "secret/**"]);
    assert_eq!(both.verdict(&path("a.pem"), false), Verdict::Excluded, "exclude wins over include");
    assert_eq!(both.verdict(&path("secret/x"), false), Verdict::Excluded);
    assert_eq!(both.verdict(&path("test.key"), false), Verdict::Taken);
    assert_eq!(both.verdict(&path("TEST.KEY"), false), Verdict::LeftOutByDefault, "include is exact");
    assert_eq!(both.verdict(&path("other.key"), false), Verdict::LeftOutByDefault);
    assert_eq!(both.verdict(&path(".env.local"), false), Verdict::LeftOutByDefault);
    let inside = of(&[], &[".ssh/config"]);
    assert_eq!(inside.verdict(&path(".ssh/config"), false), Verdict::Taken);
    assert_eq!(inside.verdict(&path(".ssh/id_x"), false), Verdict::LeftOutByDefault);
}

#[test]
fn exclude_means_what_gitignore_means() {
    let list = of(&["/build", "*.log", "!keep.log", "docs/**/draft", "tmp/"], &[]);
    for (file, is_folder, wanted) in [
        ("build", true, Verdict::Excluded),
        ("build/x/y", false, Verdict::Excluded),
        ("src/build", true, Verdict::Taken),
        ("a/b.log", false, Verdict::Excluded),
        ("a/B.LOG", false, Verdict::Excluded),
        ("a/keep.log", false, Verdict::Taken),
        ("docs/a/b/draft", false, Verdict::Excluded),
        ("docs/draft/x", false, Verdict::Excluded),
        ("tmp", true, Verdict::Excluded),
        ("tmp", false, Verdict::Taken),
        ("tmp/x", false, Verdict::Excluded),
    ] {
        assert_eq!(list.verdict(&path(file), is_folder), wanted, "{file}");
    }
    assert_eq!(list.verdict(&path("./"), true), Verdict::Taken, "the tree itself");
}

#[test]
fn a_pattern_that_would_say_nothing_is_refused() {
    let many = vec!["x"; PATTERNS_MAX + 1];
    assert!(Exclusion::new(&many, &[]).is_err());
    assert!(Exclusion::new(&many[1..], &[]).is_ok(), "the control");
    let long = "x".repeat(257);
    for pattern in [
        "",
        " ",
        "# comment",
        "a\nb",
        "../x",
        "a/../b",
        "./x",
        "!",
        "/",
        "!/",
        "//",
        "a//b",
        "a//",
        "!..",
        "{a}",
        "*.{a,b}",
        long.as_str(),
    ] {
        let error = Exclusion::new(&[pattern], &[]).unwrap_err();
        assert_eq!(error.pattern, pattern);
        assert!(error.to_string().is_ascii());
        assert!(Exclusion::new(&[], &[pattern]).is_err(), "{pattern} in include");
    }
    assert!(Exclusion::new(&[], &["!x"]).is_err(), "include negates nothing");
}

#[test]
fn no_negation_brings_anything_back_from_a_folder_that_is_left_out() {
    let list = of(&["secret/", "!keep.log", "*.log"], &[]);
    assert_eq!(list.verdict(&path("secret/keep.log"), false), Verdict::Excluded);
    assert_eq!(of(&[], &[]).verdict(&path(".ssh/.env.example"), false), Verdict::LeftOutByDefault);
    assert_eq!(of(&[], &[]).verdict(&path(".azure/.env.dist/x"), false), Verdict::LeftOutByDefault);
    // The control: a folder that is not left out itself, and a negation that comes last.
    let list = of(&["*.log", "!keep.log", "dist/*", "!dist/a"], &[]);
    assert_eq!(list.verdict(&path("x/keep.log"), false), Verdict::Taken);
    assert_eq!(list.verdict(&path("dist/a/b"), false), Verdict::Taken);
    assert_eq!(list.verdict(&path("dist/b"), false), Verdict::Excluded);
}

#[test]
fn what_is_left_out_is_so_in_either_form_of_its_accents_and_in_any_case() {
    let list = of(&["r\u{e9}sum\u{e9}.txt"], &["\u{e9}.pem"]);
    for name in ["r\u{e9}sum\u{e9}.txt", "re\u{301}sume\u{301}.txt", "R\u{c9}SUM\u{c9}.TXT"] {
        assert_eq!(list.verdict(&path(name), false), Verdict::Excluded, "{name}");
    }
    assert_eq!(list.verdict(&path("resume.txt"), false), Verdict::Taken);
    assert_eq!(list.verdict(&path("\u{e9}.pem"), false), Verdict::Taken);
    assert_eq!(list.verdict(&path("e\u{301}.pem"), false), Verdict::LeftOutByDefault, "include is exact");
}
