//! Each format with a canary in each place that a secret stands in.

use super::*;

const CANARY: &str = "canary";
const OPAQUE: &str = "canary0123456789abcdef";

fn kept(format: Format, text: &str) -> String {
    let out = format.rewritten(text.as_bytes()).unwrap();
    assert!(!out.contains(CANARY), "{format}: {out}");
    out
}

#[test]
fn of_an_npmrc_registries_and_switches_stay_and_what_logs_in_goes() {
    let text = format!(
        "registry=https://me:canary@npm.corp.example/\n@acme:registry = https://npm.pkg.github.com/@acme\n\
         //npm.corp.example/:_authToken=canary\n//npm.corp.example/:_password=\"canary\"\n_auth = canary\n\
         //npm.corp.example/:username=me\nemail=me@example.com\nalways-auth=true\nstrict-ssl=false\r\n\
         ; //old.example/:_authToken=canary\n#canary\n\ncafile=/etc/ssl/ca.crt\nkey=\"-----BEGIN PRIVATE KEY-----\\ncanary\"\n\
         proxy=http://canary:8080@proxy.example:3128\nhttps-proxy=me:canary@proxy.example\n\
         //npm.corp.example/{OPAQUE}/:always-auth=true\nregistry2=https://npm.example/{OPAQUE}/npm/\nplain"
    );
    let out = kept(Format::Npmrc, &text);
    let wanted = "registry=https://npm.corp.example/\n@acme:registry = https://npm.pkg.github.com/@acme\n\
                  # left out\n# left out\n# left out\n\
                  //npm.corp.example/:username=me\nemail=me@example.com\nalways-auth=true\nstrict-ssl=false\n\
                  \ncafile=/etc/ssl/ca.crt\n# left out\n\
                  proxy=http://proxy.example:3128\n# left out\n\
                  # left out\n# left out\n# left out";
    assert_eq!(out, wanted);
}

#[test]
fn of_a_pypirc_and_a_pip_conf_indexes_stay_and_a_value_over_several_lines_is_one() {
    let pypirc = "[distutils]\nindex-servers =\n    pypi\n    corp\n\n[pypi]\nusername = __token__\npassword = pypi-canary\n\
                  [corp]\nrepository: https://me:canary@pypi.corp.example/legacy/\npassword:\n  canary\n  canary\nusername: me\n";
    let out = kept(Format::Pypirc, pypirc);
    let wanted = "[distutils]\nindex-servers =\n    pypi\n    corp\n\n[pypi]\nusername = __token__\n# left out\n\
                  [corp]\nrepository: https://pypi.corp.example/legacy/\n# left out\n# left out\n# left out\nusername: me\n";
    assert_eq!(out, wanted);
    let pip = "[global]\nindex-url = https://me:canary@pypi.corp.example/simple\nextra-index-url =\n    https://canary@a.example/simple\n    \
               https://b.example/simple?token=canary\n    https://c.example/simple\ntimeout = 60\ntrusted-host = a.example b.example\n";
    let out = kept(Format::PipConf, pip);
    let wanted = "[global]\nindex-url = https://pypi.corp.example/simple\nextra-index-url =\n    https://a.example/simple\n# left out\n    \
                  https://c.example/simple\ntimeout = 60\ntrusted-host = a.example b.example\n";
    assert_eq!(out, wanted);
}

#[test]
fn of_a_netrc_the_machines_stay_and_nothing_else() {
    let text = "machine api.example.com login canary password canary\nmachine git.example.com\n  login me\n  password\n  canary\n\
                # machine old.example login x password canary\nmacdef init\nmachine canary.example\n\nmachine a.example login \"can ary\" password machine\n\
                default login anonymous password canary\nmachine canary0123456789abcdef\nmachine q.example password \"canary\nmachine canary\n";
    assert_eq!(
        kept(Format::Netrc, text),
        "machine api.example.com\nmachine git.example.com\nmachine a.example\nmachine q.example\n"
    );
}

#[test]
fn of_a_gitconfig_names_stay_and_headers_helpers_commands_and_logins_go() {
    let text = "[user]\n\tname = Jo Doe\n\temail = jo@example.com\n[url \"https://me:canary@github.com/\"]\n\tinsteadOf = https://github.com/\n\
                [http \"https://github.com/\"]\n\textraHeader = Authorization: Basic canary\n\tproxy = http://me:canary@proxy.example:3128\n\
                [credential]\n\thelper = \"!f() { echo password=canary; }; f\"\n[alias]\n\tci = commit\n\tx = !curl -u me:canary https://a.example\n\
                [github] token = canary\n\tuser = jo\n[core]\n\teditor = vi \\\n canary\n\tsshCommand = sshpass -p canary ssh\n\tautocrlf = input\n[remote \"origin\"]\n\turl = git@github.com:acme/shop.git\n";
    let out = kept(Format::GitConfig, text);
    let wanted = "[user]\n\tname = Jo Doe\n\temail = jo@example.com\n[url \"https://github.com/\"]\n\tinsteadOf = https://github.com/\n\
                  [http \"https://github.com/\"]\n# left out\n\tproxy = http://proxy.example:3128\n\
                  # left out\n# left out\n[alias]\n# left out\n# left out\n\
                  # left out\n# left out\n[core]\n# left out\n# left out\n# left out\n\tautocrlf = input\n[remote \"origin\"]\n\turl = git@github.com:acme/shop.git\n";
    assert_eq!(out, wanted);
}

#[test]
fn a_login_in_an_address_goes_however_it_is_written_and_what_is_unclear_goes_with_it() {
    let value = |value: &str| kept(Format::PipConf, &format!("[a]\nindex-url = {value}"));
    for (written, stays) in [
        ("https://canary@a.example/x", "https://a.example/x"),
        ("https://me:ca@nary@a.example:8443/x", "https://a.example:8443/x"),
        ("https://${CANARY}:canary@a.example", "https://a.example"),
        ("git+https://canary:x@a.example/b.git", "git+https://a.example/b.git"),
    ] {
        assert_eq!(value(written), format!("[a]\nindex-url = {stays}"), "{written}");
    }
    for unclear in [
        "https://me:can/canary@a.example/",
        "https://me:canary,1@a.example/",
        "https://1,canary@a.example/",
        "https://a.example/x?t=canary",
        "https://a.example/canary@1",
        "https://a.example/https://canary@b.example",
        "me:canary@a.example",
        "550e8400-e29b-41d4-a716-canary",
        "https://a.example/canary0123456789abcdef/simple",
        "https:// me:canary@a.example/",
        "canary\u{85}x",
        "canary\rx",
        "canary\u{2028}x",
    ] {
        if unclear.contains("550e") {
            assert_eq!(value("550e8400-e29b-41d4-a716-446655440000"), "[a]\n# left out");
            continue;
        }
        assert_eq!(value(unclear), "[a]\n# left out", "{unclear}");
    }
    let long = format!("[a]\nx = {}", "canary ".repeat(1000));
    assert_eq!(kept(Format::PipConf, &long), "[a]\n# left out");
}

#[test]
fn a_section_that_goes_takes_its_settings_with_it_and_what_is_no_text_is_nothing() {
    let text = "[url \"https://a.example/?canary\"]\n\tinsteadOf = canary\n[user]\n\tname = Jo\n";
    assert_eq!(kept(Format::GitConfig, text), "# left out\n# left out\n[user]\n\tname = Jo\n");
    for format in Format::ALL {
        assert_eq!(format.rewritten(b"a=\xff"), None);
        assert_eq!(format.rewritten(b"").as_deref(), Some(""));
        assert_eq!(Format::named(format.as_str()), Some(format));
    }
    assert_eq!(Format::of(".NPMRC"), Some(Format::Npmrc));
    assert_eq!((Format::of("npmrc"), Format::named("npmrc")), (None, None));
}

#[test]
fn what_a_reader_could_take_for_a_comment_an_escape_or_another_setting_goes() {
    for line in [
        "name = Jo ; old pw canary",
        "name = Jo;old pw canary",
        "timeout=60#canary",
        "registry=https://npm.example/ # _auth me:canary",
        "proxy=\"http\\u003a//me\\u003acanary\\u0040h\"",
        "\"//h/:\\u005f\\u0061uth\"=canary",
        "index-url = https://me:4711/@canary/",
        "index-url = https://a.example/#canary",
        "index-url = https://a.example/;t=canary",
        "pw = canary",
    ] {
        assert_eq!(kept(Format::Npmrc, line), "# left out", "{line}");
    }
    let folded = "[pypi]\nrepository = https://a.example/\n  username = me\n  password = canary\n[auth]\nvalue = canary\n";
    let wanted =
        "[pypi]\nrepository = https://a.example/\n  username = me\n# left out\n# left out\n# left out\n";
    assert_eq!(kept(Format::Pypirc, folded), wanted);
    let odd = "[pypi]\nusername = me\n[corp\\dev]\nusername = canary\n[other]\nusername = you\n";
    let wanted = "[pypi]\nusername = me\n# left out\n# left out\n[other]\nusername = you\n";
    assert_eq!(kept(Format::Pypirc, odd), wanted, "an odd header begins a section of its own");
    for token in [format!("glpat-{}", "aB3-x_".repeat(4)), format!("xoxb-{}", "1-2".repeat(9))] {
        assert_eq!(kept(Format::Npmrc, &format!("user = {token}")), "# left out", "{token}");
    }
}
