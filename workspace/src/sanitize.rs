//! Files that hold settings and secrets side by side, rewritten: the secrets go, the rest stays.
//!
//! It fails closed. A line stays where its key is no name of a secret and its value, without the login of its addresses, has nothing in it that
//! looks like one; what cannot be read in one way goes, and comments go, for people keep old keys in them. No format is read as a whole: what
//! stays is the line as it stood, but for the login. Where a file is no text, nothing of it stays.

use std::fmt::{self, Display, Formatter};
use std::io::{copy, sink};

use crate::tokens::Searched;

/// Bytes of a file beyond which it is none of these.
pub const SANITIZED_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a line that stays.
const LINE_BYTES_MAX: usize = 4096;
/// Letters and digits in a row, of both kinds, from which on they look like a secret.
const OPAQUE_BYTES_MIN: usize = 16;
/// Digits of a UUID, with its dashes.
const UUID_BYTES: usize = 36;
/// What stands in the place of a setting that went.
const LEFT_OUT: &str = "# left out";

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.npmrc`: one `key=value` a line.
    Npmrc,
    /// `.pypirc`: sections, as Python's configparser reads them.
    Pypirc,
    /// `pip.conf` and `pip.ini`: the same.
    PipConf,
    /// `.netrc` and `_netrc`: words, of which names of machines alone stay.
    Netrc,
    /// `.gitconfig`: sections, as git reads them.
    GitConfig,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Npmrc, Self::Pypirc, Self::PipConf, Self::Netrc, Self::GitConfig];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Npmrc => "Npmrc",
            Self::Pypirc => "Pypirc",
            Self::PipConf => "PipConf",
            Self::Netrc => "Netrc",
            Self::GitConfig => "GitConfig",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// What a file of this name is, in any case of letters.
    #[must_use]
    pub fn of(file: &str) -> Option<Self> {
        match file.to_ascii_lowercase().as_str() {
            ".npmrc" => Some(Self::Npmrc),
            ".pypirc" => Some(Self::Pypirc),
            "pip.conf" | "pip.ini" => Some(Self::PipConf),
            ".netrc" | "_netrc" => Some(Self::Netrc),
            ".gitconfig" => Some(Self::GitConfig),
            _ => None,
        }
    }

    /// The file without its secrets; none where it is no text.
    #[must_use]
    pub fn rewritten(self, content: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(content).ok()?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Some(match self {
            Self::Netrc => machines(text),
            Self::Npmrc | Self::Pypirc | Self::PipConf | Self::GitConfig => settings(self, text),
        })
    }

    /// A setting's key with what divides it from its value, and the value.
    fn divided(self, line: &str) -> Option<(&str, &str)> {
        let at = match self {
            // Its keys hold colons.
            Self::Npmrc | Self::GitConfig => line.find('='),
            Self::Pypirc | Self::PipConf | Self::Netrc => line.find(['=', ':']),
        };
        line.split_at_checked(at? + 1)
    }

    /// Whether an indented line goes on with the value before.
    const fn folds(self) -> bool {
        matches!(self, Self::Pypirc | Self::PipConf)
    }
}

impl Display for Format {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// What becomes of the lines that go on with one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

fn settings(format: Format, text: &str) -> String {
    let (mut out, mut section, mut value, mut continues) = (String::new(), Fate::Stays, Fate::Goes, false);
    let mut named = String::new();
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let bare = line.trim();
        // A backslash at the end of a line takes the next one into the value, which no line here shows as a whole.
        let goes_on = format == Format::GitConfig && line.ends_with('\\') && !bare.starts_with(['#', ';']);
        let is_rest = std::mem::replace(&mut continues, goes_on);
        let kept = if bare.is_empty() {
            Some(String::new())
        } else if bare.starts_with(['#', ';']) {
            continue;
        } else if is_rest || continues || !is_plain(line) {
            if bare.starts_with('[') {
                section = Fate::Goes;
            }
            value = Fate::Goes;
            None
        } else if format.folds() && line.starts_with([' ', '\t']) {
            // Without a value before it, it is a setting to some readers.
            let is_whole = section == Fate::Stays && value == Fate::Stays && !names_secret(format, line);
            if is_whole { clean(line) } else { None }
        } else if bare.starts_with('[') {
            let header = header(bare);
            section = if header.is_some() { Fate::Stays } else { Fate::Goes };
            named = bare
                .trim_matches(['[', ']'])
                .split([' ', '"'])
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            value = Fate::Goes;
            header
        } else {
            let kept = if section == Fate::Stays { setting(format, &named, line) } else { None };
            value = if kept.is_some() { Fate::Stays } else { Fate::Goes };
            kept
        };
        let kept = kept.filter(|kept| !has_token(kept));
        out.push_str(kept.as_deref().unwrap_or(LEFT_OUT));
        out.push('\n');
    }
    out.pop();
    out
}

/// A section's first line, with nothing behind it: git reads a setting there.
fn header(bare: &str) -> Option<String> {
    let inner = bare.strip_prefix('[')?.strip_suffix(']')?;
    let is_odd = inner.contains(['[', ']', '\\', '#', ';']) || inner.matches('"').count() > 2;
    let is_odd = is_odd || is_secret(inner.split([' ', '"']).next().unwrap_or_default());
    clean(inner).filter(|_| !is_odd).map(|inner| format!("[{inner}]"))
}

/// What stays of git's settings: these sections and keys, and no alias. Of the others any may name a command.
const GIT: [(&str, &[&str]); 11] = [
    ("user", &["name", "email"]),
    ("url", &["insteadof", "pushinsteadof"]),
    ("remote", &["url", "pushurl", "fetch", "push"]),
    ("branch", &["remote", "merge", "rebase"]),
    ("http", &["proxy", "sslverify"]),
    ("core", &["autocrlf", "eol", "filemode", "ignorecase", "quotepath", "abbrev"]),
    ("init", &["defaultbranch"]),
    ("pull", &["rebase", "ff"]),
    ("push", &["default", "followtags"]),
    ("fetch", &["prune"]),
    ("merge", &["conflictstyle", "ff"]),
];

/// Whether a line, whatever it goes on with, divides into the name of a secret and something.
fn names_secret(format: Format, line: &str) -> bool {
    format.divided(line).is_some_and(|(key, _)| is_secret(key.trim_end_matches(['=', ':']).trim()))
}

/// Whether a well-known shape of a credential is in a line.
fn has_token(line: &str) -> bool {
    let mut searched = Searched::new(line.as_bytes());
    // Memory cannot fail to be read.
    copy(&mut searched, &mut sink()).is_err() || !searched.found().is_empty()
}

fn setting(format: Format, section: &str, line: &str) -> Option<String> {
    // A word alone, which to git is a switch, may be anything.
    let (key, value) = format.divided(line)?;
    let name = key.trim_end_matches(['=', ':']).trim();
    let is_command = value.trim_start().trim_start_matches(['"', '\'']).starts_with('!');
    if is_secret(name) || is_command || has_opaque(name) || name.contains("://") {
        return None;
    }
    let is_known = |(of, keys): &(&str, &[&str])| {
        *of == section && keys.iter().any(|key| name.eq_ignore_ascii_case(key))
    };
    if format == Format::GitConfig && !GIT.iter().any(is_known) {
        return None;
    }
    // A scope of npm, and nothing else that could be a login.
    if name.trim_start_matches('@').contains('@') {
        return None;
    }
    let value = if name.eq_ignore_ascii_case("email") { mail(value)? } else { clean(value)? };
    Some(format!("{key}{value}"))
}

/// Whether a key is the name of a secret.
fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 22] = [
        "auth",
        "token",
        "pass",
        "pwd",
        "pw",
        "secret",
        "key",
        "cred",
        "cookie",
        "otp",
        "header",
        "helper",
        "session",
        "login",
        "private",
        "psk",
        "bearer",
        "jwt",
        "dsn",
        "webhook",
        "cert",
        "signature",
    ];
    const SETTINGS: [&str; 6] = ["cert", "alwaysauth", "authtype", "keyfile", "certfile", "keyringprovider"];
    // Of a key of npm that begins with a registry, what it says of it.
    let own = if key.starts_with("//") { key.rsplit(':').next().unwrap_or(key) } else { key };
    let plain: String =
        own.chars().filter(char::is_ascii_alphanumeric).map(|one| one.to_ascii_lowercase()).collect();
    !SETTINGS.contains(&plain.as_str()) && (plain.is_empty() || WORDS.iter().any(|word| plain.contains(word)))
}

/// A value without the logins of its addresses; none where it may hold a secret.
fn clean(value: &str) -> Option<String> {
    let is_between = |one: char| one.is_whitespace() || matches!(one, '"' | '\'' | ',' | '<' | '>');
    let mut out = String::new();
    for piece in value.split_inclusive(is_between) {
        let end = piece.char_indices().next_back().filter(|(_, last)| is_between(*last));
        let (word, between) = piece.split_at(end.map_or(piece.len(), |(at, _)| at));
        out.push_str(&clean_word(word)?);
        out.push_str(between);
    }
    Some(out)
}

fn clean_word(word: &str) -> Option<String> {
    let Some((scheme, rest)) = word.split_once("://") else {
        let is_login = word.contains('@') && !word.starts_with("git@");
        // To some readers a comment begins there.
        let is_odd = word.contains(['#', ';', '$']);
        return (!is_login && !is_odd && !has_opaque(word)).then(|| word.to_owned());
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let is_host = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && port.bytes().all(|byte| byte.is_ascii_digit());
    // A login with a slash in it ends further on; the scope of a package begins with its at sign.
    let mut before = path.split('@');
    let last = before.next_back();
    let is_path = last.is_some()
        && before.all(|before| before.ends_with('/'))
        && !path.contains(['?', '#', ';'])
        && (!path.contains('@') || (port.is_empty() && name.contains('.')))
        && !path.contains("://")
        && !path.contains('$');
    let is_scheme =
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-'));
    let kept = format!("{scheme}://{host}{path}");
    (is_host && is_path && is_scheme && !has_opaque(&kept)).then_some(kept)
}

/// An address of mail.
fn mail(value: &str) -> Option<String> {
    let own = value.trim().trim_matches('"');
    let (name, host) = own.split_once('@')?;
    let is_plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+'))
    };
    (is_plain(name) && is_plain(host) && !has_opaque(own)).then(|| value.to_owned())
}

/// Whether something in a text looks as if a machine had drawn it.
fn has_opaque(text: &str) -> bool {
    text.split(|one: char| !one.is_ascii_alphanumeric()).any(|run| {
        run.len() >= OPAQUE_BYTES_MIN
            && run.bytes().any(|byte| byte.is_ascii_digit())
            && run.bytes().any(|byte| byte.is_ascii_alphabetic())
    }) || text.split(|one: char| !one.is_ascii_alphanumeric() && one != '-').any(is_uuid)
        || text.contains("-----BEGIN")
}

/// Its runs of digits are short.
fn is_uuid(text: &str) -> bool {
    text.len() == UUID_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Whether every reader takes this for one line of a bounded length.
fn is_plain(line: &str) -> bool {
    let is_break = |one: char| (one.is_control() && one != '\t') || matches!(one, '\u{2028}' | '\u{2029}');
    // A backslash begins what each reader takes for another character.
    line.len() <= LINE_BYTES_MAX && !line.contains(is_break) && !line.contains('\\')
}

/// What a `.netrc` names: its machines. A login stands where some hosts take a token, so it goes with the rest.
fn machines(text: &str) -> String {
    let (mut out, mut lines) = (String::new(), text.split('\n'));
    let mut wants_name = None::<bool>;
    while let Some(line) = lines.next() {
        let mut rest = line;
        while let Some((next, behind)) = word(rest) {
            rest = behind;
            // Quotes that go on in another line: which words are names from here on, each reader sees otherwise.
            let Some(next) = next else { return out };
            match (wants_name.take(), next.as_str()) {
                (Some(true), name) => {
                    let is_name =
                        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
                    if is_name && !name.is_empty() && !has_opaque(name) {
                        out.push_str(&format!("machine {name}\n"));
                    }
                }
                (Some(false), _) => {}
                (None, "machine") => wants_name = Some(true),
                (None, "login" | "password" | "account") => wants_name = Some(false),
                // A macro ends with an empty line.
                (None, "macdef") => {
                    lines.by_ref().find(|line| line.trim().is_empty());
                    break;
                }
                (None, comment) if comment.starts_with('#') => break,
                (None, _) => {}
            }
        }
    }
    out
}

/// The next word of a line without its quotes, none where they do not end, and what follows it.
fn word(line: &str) -> Option<(Option<String>, &str)> {
    let line = line.trim_start();
    let (mut out, mut is_quoted, mut is_escaped) = (String::new(), false, false);
    for (at, one) in line.char_indices() {
        match one {
            _ if is_escaped => {
                out.push(one);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if one.is_whitespace() && !is_quoted => {
                return Some((Some(out), line.get(at..).unwrap_or_default()));
            }
            _ => out.push(one),
        }
    }
    (!line.is_empty()).then(|| ((!is_quoted && !is_escaped).then_some(out), ""))
}

#[cfg(test)]
mod tests;
