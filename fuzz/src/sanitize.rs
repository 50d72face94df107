//! Files that hold settings and secrets side by side, written anew without their secrets.

use agentsandbox_workspace::Format;

/// A weak password: nothing but where it stands tells that it is one.
const PASSWORD: &str = "hunter";

/// The settings that hold the password, as each format's readers would find it.
const fn secrets(format: Format) -> &'static [&'static str] {
    match format {
        Format::Npmrc => &[
            "//npm.example/:_authToken=hunter",
            "_password = \"hunter\"",
            "registry=https://me:hunter@npm.example/",
        ],
        Format::Pypirc => {
            &["password: hunter", "password = hunter", "repository=https://me:hunter@pypi.example/simple"]
        }
        Format::PipConf => &[
            "index-url = https://me:hunter@pypi.example/simple",
            "proxy=http://me:hunter@proxy.example:3128",
        ],
        Format::Netrc => {
            &["machine git.example login me password hunter", "password hunter", "account \"hunter\""]
        }
        Format::GitConfig => &[
            "\tpassword = hunter",
            "[url \"https://me:hunter@git.example/\"]",
            "\tproxy = http://me:hunter@proxy.example:3128",
            "[user] token = hunter",
        ],
    }
}

/// The password is not in what stays, whatever stands before and behind it in lines of their own; and what stays is taken as it is when it
/// is read again, but for the marks of what went, which are comments.
pub fn sanitize(data: &[u8]) {
    let [format, which, data @ ..] = data else { return };
    let format = Format::ALL[usize::from(*format) % Format::ALL.len()];
    let secrets = secrets(format);
    let secret = secrets[usize::from(*which) % secrets.len()];
    let Ok(data) = std::str::from_utf8(data) else { return assert_eq!(format.rewritten(data), None) };
    if data.contains(PASSWORD) {
        return;
    }
    let (before, behind) = data.split_once('\0').unwrap_or((data, ""));
    let stays = format.rewritten(format!("{before}\n{secret}\n{behind}").as_bytes()).expect("it is text");
    assert!(!stays.contains(PASSWORD), "{stays}");
    let unmarked: Vec<_> = stays.split('\n').filter(|line| *line != "# left out").collect();
    let again = format.rewritten(stays.as_bytes()).expect("it is text");
    assert_eq!(again, unmarked.join("\n"), "{stays}");
}
