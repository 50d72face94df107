//! Changes as text and as JSON.

use std::collections::HashSet;
use std::io::{self, Write};

use agentsandbox_workspace::changes::unified::{
    Binary, Unshown, folder_status, lines, quoted, show, status, unshown,
};
use agentsandbox_workspace::changes::{Change, Changes, Entry, GIT_FOLDER};
use serde_json::{Value, json};

use crate::args::DiffArgs;
use crate::text::harmless_line;

/// Shows changes one after the other, as the agent wrote them: whoever shows them to a terminal makes them harmless on their way.
///
/// # Errors
/// What `out` says.
pub fn show_all(changes: &Changes, args: &DiffArgs, out: &mut dyn Write) -> io::Result<()> {
    let filled = Filled::of(changes);
    for change in &changes.changes {
        let name = quoted(change.path.as_str());
        match (args.name_status, args.stat) {
            (true, _) => {
                if let Some(status) = filled.empty(change) {
                    writeln!(out, "{status}\t{}", quoted(&format!("{}/", change.path.as_str())))?;
                }
                if let Some(status) = status(change) {
                    writeln!(out, "{status}\t{name}")?;
                }
            }
            (false, true) if status(change).is_some() => match lines(change, binary(args)) {
                Some((added, removed)) => writeln!(out, "{added}\t{removed}\t{name}")?,
                None => writeln!(out, "-\t-\t{name}")?,
            },
            (false, true) => {}
            (false, false) => show(change, binary(args), out)?,
        }
    }
    Ok(())
}

const fn binary(args: &DiffArgs) -> Binary {
    if args.text { Binary::AsText } else { Binary::Named }
}

/// The paths whose content should be shown and is not, or not all of it: an agent could hide there whatever it likes.
pub fn hidden(changes: &Changes, args: &DiffArgs) -> String {
    if args.name_status || args.stat {
        return String::new();
    }
    let of = |change: &Change| {
        let why = unshown(change, binary(args))?;
        let more = if why == Unshown::Binary { "; --text shows it" } else { "" };
        Some(format!("not shown: {}: {why}{more}\n", harmless_line(change.path.as_str())))
    };
    changes.changes.iter().filter_map(of).collect()
}

/// Folders in which a file or a link comes or goes, by what git calls that: its path tells of them.
struct Filled<'a> {
    added: HashSet<&'a str>,
    deleted: HashSet<&'a str>,
}

impl<'a> Filled<'a> {
    fn of(changes: &'a Changes) -> Self {
        let mut filled = Self { added: HashSet::new(), deleted: HashSet::new() };
        let is_leaf = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| !entry.is_folder());
        for change in &changes.changes {
            let path = change.path.as_str();
            let above = || path.match_indices('/').filter_map(|(end, _)| path.get(..end));
            if is_leaf(&change.new) {
                filled.added.extend(above());
            }
            if is_leaf(&change.old) {
                filled.deleted.extend(above());
            }
        }
        filled
    }

    /// Whether a folder comes or goes of which no other path tells: git knows none, and it is applied.
    fn empty(&self, change: &Change) -> Option<char> {
        let path = change.path.as_str();
        folder_status(change).filter(|status| match status {
            'A' => !self.added.contains(path),
            _ => !self.deleted.contains(path),
        })
    }
}

/// The folders that come or go and are nothing to git, where it is shown as git would.
pub fn folders(changes: &Changes, args: &DiffArgs) -> String {
    if args.name_status {
        return String::new();
    }
    let filled = Filled::of(changes);
    let of = |change: &Change| {
        let doing = if filled.empty(change)? == 'A' { "comes" } else { "goes" };
        Some(format!("note: a folder without files {doing}: {}/\n", harmless_line(change.path.as_str())))
    };
    changes.changes.iter().filter_map(of).collect()
}

/// What is to be known beside it.
pub fn notes(changes: &Changes) -> String {
    let refused = changes.refused.iter().map(|refused| {
        format!("refused: {}: {}\n", harmless_line(&refused.path), harmless_line(&refused.reason))
    });
    let mut notes: String = refused.collect();
    let named = changes.refused.len() as u64;
    if changes.refused_count > named {
        notes.push_str(&format!("refused: {} paths more\n", changes.refused_count - named));
    }
    if changes.has_git_folder {
        notes.push_str(&format!("note: {GIT_FOLDER} is no part of this, and is never applied\n"));
    }
    notes
}

/// The same for programs, without content.
pub fn json(changes: &Changes) -> Value {
    let all: Vec<Value> = changes
        .changes
        .iter()
        .map(|change| {
            let lines = lines(change, Binary::Named);
            json!({
                "path": change.path.as_str(),
                "status": status(change).or(folder_status(change)).map(String::from),
                "old": change.old,
                "new": change.new,
                "added": lines.map(|(added, _)| added),
                "removed": lines.map(|(_, removed)| removed),
            })
        })
        .collect();
    json!({
        "changes": all,
        "refused": changes.refused,
        "refusedCount": changes.refused_count,
        "hasGitFolder": changes.has_git_folder,
        "digest": changes.digest(),
    })
}
