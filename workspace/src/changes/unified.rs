//! Changes as git shows them: byte for byte what `git diff --full-index --no-renames` says of the two trees.
//!
//! Nothing is escaped here but names, which git escapes itself: who shows it to a terminal makes it harmless first. Folders are nothing
//! to git. Content that is not shown has its own words in its place ([`Unshown`]), so that nobody takes a file that is hidden for one of
//! no interest.

use std::io::{self, Write};

use gix_hash::Kind as HashKind;
use imara_diff::{Algorithm, Diff, Hunk, InternedInput, sources::byte_lines};

use super::{Change, Entry};

/// Lines around those that differ.
const CONTEXT: u32 = 3;
/// Longest heading of a hunk, in bytes (xdiff/xemit.c).
const HEADING_BYTES_MAX: usize = 80;
/// How far git looks for a byte that is in no text (xdiff-interface.c).
const BINARY_BYTES: usize = 8_000;

/// Bytes of a side of what is shown line by line.
const SIDE_BYTES_MAX: usize = 4 << 20;
/// Lines of it: each takes some tens of bytes of memory.
const SIDE_LINES_MAX: usize = 200_000;

/// What becomes of content with a byte that is in no text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Binary {
    /// Only that it differs is shown, as git does.
    #[default]
    Named,
    /// It is shown like any other.
    AsText,
}

/// Why content of a change is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unshown {
    /// It is no text: a single zero byte in a comment is enough.
    #[error("it holds a zero byte, as no text does")]
    Binary,
    /// Comparing it line by line would take too much memory.
    #[error("more than {} MiB or {SIDE_LINES_MAX} lines", SIDE_BYTES_MAX >> 20)]
    TooLarge,
    /// The original's was not told; what is there now is shown whole.
    #[error("the original's is too large, or was too much with all before it")]
    Untold,
}

const LINK: &str = "120000";
const EXECUTABLE: &str = "100755";
const PLAIN: &str = "100644";

/// One side of a change, as git has it.
#[derive(Clone, Copy)]
struct Side<'a> {
    mode: &'static str,
    /// None where it is not told.
    content: Option<&'a [u8]>,
}

impl Side<'_> {
    fn is_binary(&self) -> bool {
        self.content.is_some_and(|content| content.iter().take(BINARY_BYTES).any(|byte| *byte == 0))
    }

    fn is_too_large(&self) -> bool {
        self.content.is_some_and(|content| {
            content.len() > SIDE_BYTES_MAX
                || content.iter().filter(|byte| **byte == b'\n').count() > SIDE_LINES_MAX
        })
    }

    fn id(&self) -> String {
        let id = self.content.and_then(|content| {
            gix_object::compute_hash(HashKind::Sha1, gix_object::Kind::Blob, content).ok()
        });
        id.map_or_else(|| "?".repeat(40), |id| id.to_string())
    }
}

fn sides(change: &Change) -> (Option<Side<'_>>, Option<Side<'_>>) {
    let side = |entry: &Option<Entry>, content| match entry {
        None | Some(Entry::Folder {}) => None,
        Some(Entry::File { executable, .. }) => Some((if *executable { EXECUTABLE } else { PLAIN }, content)),
        Some(Entry::Link { .. }) => Some((LINK, None)),
    };
    fn target(entry: &Option<Entry>) -> Option<&[u8]> {
        match entry {
            Some(Entry::Link { target }) => Some(target.as_bytes()),
            _ => None,
        }
    }
    let whole = |entry, content| {
        side(entry, content).map(|(mode, content)| Side { mode, content: content.or(target(entry)) })
    };
    // What is there still need not be told twice.
    let is_same = match (&change.old, &change.new) {
        (Some(Entry::File { sha256: old, .. }), Some(Entry::File { sha256: new, .. })) => old == new,
        _ => false,
    };
    let new_content = change.new_content.as_slice();
    let old_content = change.old_content.as_deref().or(is_same.then_some(new_content));
    (whole(&change.old, old_content), whole(&change.new, Some(new_content)))
}

/// Why content of one of the sides is not shown; none where all of it is.
fn hidden(old: Option<Side<'_>>, new: Option<Side<'_>>, binary: Binary) -> Option<Unshown> {
    let sides = || [old, new].into_iter().flatten();
    if sides().any(|side| side.is_too_large()) {
        return Some(Unshown::TooLarge);
    }
    if binary == Binary::Named && sides().any(|side| side.is_binary()) {
        return Some(Unshown::Binary);
    }
    sides().any(|side| side.content.is_none()).then_some(Unshown::Untold)
}

/// Why content of a change is not shown, or not all of it; none where nothing else is to be seen.
#[must_use]
pub fn unshown(change: &Change, binary: Binary) -> Option<Unshown> {
    match sides(change) {
        (Some(old), Some(new)) if old.content == new.content => None,
        (old, new) => hidden(old, new, binary),
    }
}

/// Shows one change.
///
/// # Errors
/// What `out` says.
pub fn show(change: &Change, binary: Binary, out: &mut dyn Write) -> io::Result<()> {
    let path = change.path.as_str();
    match sides(change) {
        (None, None) => Ok(()),
        // git takes another kind of thing for another file.
        (Some(old), Some(new)) if (old.mode == LINK) != (new.mode == LINK) => {
            pair(path, (Some(old), None), binary, out)?;
            pair(path, (None, Some(new)), binary, out)
        }
        sides => pair(path, sides, binary, out),
    }
}

/// What git calls the change: added, deleted, modified, or of another type; none of a folder.
#[must_use]
pub fn status(change: &Change) -> Option<char> {
    match sides(change) {
        (None, None) => None,
        (None, Some(_)) => Some('A'),
        (Some(_), None) => Some('D'),
        (Some(old), Some(new)) if (old.mode == LINK) != (new.mode == LINK) => Some('T'),
        (Some(_), Some(_)) => Some('M'),
    }
}

/// The same of a folder that comes or goes, which is nothing to git: added or deleted; none where there is one before and after, or never.
#[must_use]
pub fn folder_status(change: &Change) -> Option<char> {
    let is_folder = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_folder);
    match (is_folder(&change.old), is_folder(&change.new)) {
        (false, true) => Some('A'),
        (true, false) => Some('D'),
        _ => None,
    }
}

/// Lines that come and that go; none where content of a side is not shown.
#[must_use]
pub fn lines(change: &Change, binary: Binary) -> Option<(u32, u32)> {
    let (old, new) = sides(change);
    if hidden(old, new, binary).is_some() {
        return None;
    }
    let input = InternedInput::new(byte_lines(text(old)), byte_lines(text(new)));
    let diff = Diff::compute(Algorithm::Myers, &input);
    Some((diff.count_additions(), diff.count_removals()))
}

/// A name as git writes it: in quotes, and escaped, where it holds anything but printable ASCII.
#[must_use]
pub fn quoted(name: &str) -> String {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if name.bytes().all(is_plain) {
        return name.to_owned();
    }
    let escaped = name.bytes().map(|byte| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        byte if is_plain(byte) => char::from(byte).to_string(),
        byte => format!("\\{byte:03o}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// All that is told of a side's content.
fn text(side: Option<Side<'_>>) -> &[u8] {
    side.and_then(|side| side.content).unwrap_or_default()
}

fn pair(
    path: &str,
    (old, new): (Option<Side<'_>>, Option<Side<'_>>),
    binary: Binary,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (from, to) = (quoted(&format!("a/{path}")), quoted(&format!("b/{path}")));
    writeln!(out, "diff --git {from} {to}")?;
    let mut kept = String::new();
    match (old, new) {
        (Some(old), Some(new)) if old.mode != new.mode => {
            writeln!(out, "old mode {}\nnew mode {}", old.mode, new.mode)?;
        }
        (Some(old), Some(_)) => kept = format!(" {}", old.mode),
        (Some(old), None) => writeln!(out, "deleted file mode {}", old.mode)?,
        (None, Some(new)) => writeln!(out, "new file mode {}", new.mode)?,
        (None, None) => {}
    }
    let id = |side: Option<Side<'_>>| side.map_or_else(|| "0".repeat(40), |side| side.id());
    let (old_id, new_id) = (id(old), id(new));
    if old_id == new_id {
        return Ok(());
    }
    writeln!(out, "index {old_id}..{new_id}{kept}")?;
    let name = |side: Option<Side<'_>>, name: &str| match side {
        Some(_) => name.to_owned(),
        None => "/dev/null".to_owned(),
    };
    let (from, to) = (name(old, &from), name(new, &to));
    match hidden(old, new, binary) {
        Some(Unshown::Binary) => return writeln!(out, "Binary files {from} and {to} differ"),
        Some(why @ Unshown::TooLarge) => {
            return writeln!(out, "Content of {from} and {to} is not shown: {why}");
        }
        // What is there now is shown whole.
        Some(why @ Unshown::Untold) => writeln!(out, "Content of {from} is not shown: {why}")?,
        None => {}
    }
    let (old, new) = (text(old), text(new));
    if old.is_empty() && new.is_empty() {
        return Ok(());
    }
    // Where a name holds a space, a tab tells patch(1) where it ends.
    let tab = |name: &str| if name.contains(' ') { "\t" } else { "" };
    writeln!(out, "--- {from}{}\n+++ {to}{}", tab(&from), tab(&to))?;
    hunks(old, new, out)
}

fn hunks(old: &[u8], new: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let input = InternedInput::new(byte_lines(old), byte_lines(new));
    let mut diff = Diff::compute(Algorithm::Myers, &input);
    diff.postprocess_lines(&input);
    let old: Vec<&[u8]> = input.before.iter().map(|token| input.interner[*token]).collect();
    let new: Vec<&[u8]> = input.after.iter().map(|token| input.interner[*token]).collect();
    let mut together: Vec<Hunk> = Vec::new();
    for hunk in diff.hunks() {
        let is_near = together.last().is_some_and(|last| hunk.before.start - last.before.end <= 2 * CONTEXT);
        if !is_near && !together.is_empty() {
            show_hunks(&std::mem::take(&mut together), &old, &new, out)?;
        }
        together.push(hunk);
    }
    if together.is_empty() { Ok(()) } else { show_hunks(&together, &old, &new, out) }
}

/// Hunks that are so near that the lines between them are shown.
fn show_hunks(hunks: &[Hunk], old: &[&[u8]], new: &[&[u8]], out: &mut dyn Write) -> io::Result<()> {
    let (Some(first), Some(last)) = (hunks.first(), hunks.last()) else { return Ok(()) };
    let count = |lines: &[&[u8]]| u32::try_from(lines.len()).unwrap_or(u32::MAX);
    let before = first.before.start.min(CONTEXT);
    let after = (count(old) - last.before.end).min(CONTEXT);
    let (old_start, old_end) = (first.before.start - before, last.before.end + after);
    let (new_start, new_end) = (first.after.start - before, last.after.end + after);
    write!(out, "@@ -{} +{} @@", range(old_start, old_end), range(new_start, new_end))?;
    if let Some(heading) = heading(old, old_start) {
        out.write_all(b" ")?;
        out.write_all(heading)?;
    }
    out.write_all(b"\n")?;
    let mut at = old_start;
    for hunk in hunks {
        show_lines(b' ', old, at..hunk.before.start, out)?;
        show_lines(b'-', old, hunk.before.clone(), out)?;
        show_lines(b'+', new, hunk.after.clone(), out)?;
        at = hunk.before.end;
    }
    show_lines(b' ', old, at..old_end, out)
}

fn show_lines(sign: u8, lines: &[&[u8]], range: std::ops::Range<u32>, out: &mut dyn Write) -> io::Result<()> {
    for line in lines.get(range.start as usize..range.end as usize).unwrap_or_default() {
        out.write_all(&[sign])?;
        out.write_all(line)?;
        if !line.ends_with(b"\n") {
            out.write_all(b"\n\\ No newline at end of file\n")?;
        }
    }
    Ok(())
}

/// Where lines begin and how many they are: of none, after which they would be.
fn range(start: u32, end: u32) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        count => format!("{},{count}", start + 1),
    }
}

/// The nearest line above that looks like the beginning of a function, as git takes it without knowing the language.
fn heading<'a>(lines: &[&'a [u8]], start: u32) -> Option<&'a [u8]> {
    let above = lines.get(..start as usize)?.iter().rev();
    let begins = |line: &&&[u8]| {
        line.first().is_some_and(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$'))
    };
    let line = above.into_iter().find(begins)?;
    let line = line.get(..HEADING_BYTES_MAX).unwrap_or(line);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let end = line.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    line.get(..end)
}
