//! Targets of symbolic links.

use crate::limits::PATH_BYTES_MAX;
use crate::path::{RelativePath, check};
use crate::refusal::{Reason, Refusal};

/// Checks that a symbolic link at `path` stays inside the tree, whatever other links the tree holds.
///
/// The target climbs first and then names: `..` after a name is refused, because that name may be a link, and then `..`
/// leads to where nobody looked. A link lies where its path says, since no path goes through a link: so the climbs are
/// counted exactly, and each name behind them is inside, or again a link that stays inside.
///
/// # Errors
/// Refuses, with the path of the link, a target that is absolute, climbs out, climbs late, or is no name.
pub fn check_target(path: &RelativePath, target: &[u8]) -> Result<(), Refusal> {
    let refused = |reason| Refusal::new(path.as_str().as_bytes(), reason);
    let target = std::str::from_utf8(target).map_err(|_| refused(Reason::NotUtf8))?;
    if target.is_empty() {
        return Err(refused(Reason::EmptySegment));
    }
    if target.starts_with('/') || target.len() > PATH_BYTES_MAX {
        return Err(refused(Reason::LinkEscapes));
    }
    let mut left = path.depth().saturating_sub(1);
    let mut has_named = false;
    for segment in target.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
        if segment == ".." {
            if has_named || left == 0 {
                return Err(refused(Reason::LinkEscapes));
            }
            left -= 1;
        } else {
            check(segment).map_err(refused)?;
            has_named = true;
        }
    }
    Ok(())
}

/// Checks a symbolic link that comes with changes to a folder where other files are: it must not lead into a repository, which is
/// none of the tree's. Tells where it leads by its names.
///
/// # Errors
/// Refuses what [`check_target`] does, and a target in what some file system takes for a `.git` folder.
pub fn check_new(path: &RelativePath, target: &[u8]) -> Result<RelativePath, Refusal> {
    check_target(path, target)?;
    let refused = |reason| Refusal::new(path.as_str().as_bytes(), reason);
    let target = std::str::from_utf8(target).map_err(|_| refused(Reason::NotUtf8))?;
    let mut names: Vec<&str> = path.split().0.split('/').filter(|name| !name.is_empty()).collect();
    for segment in target.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
        match segment {
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let leads = if names.is_empty() { ".".to_owned() } else { names.join("/") };
    let leads = RelativePath::parse(leads.as_bytes()).map_err(|refusal| refused(refusal.reason))?;
    if leads.is_in_git_folder() { Err(refused(Reason::LinkToGit)) } else { Ok(leads) }
}

#[cfg(test)]
mod tests {
    use super::{check_new, check_target};
    use crate::path::RelativePath;
    use crate::refusal::Reason;

    fn reason(path: &str, target: &str) -> Option<Reason> {
        let path = RelativePath::parse(path.as_bytes()).unwrap();
        check_target(&path, target.as_bytes()).err().map(|refusal| {
            assert_eq!(refusal.path, path.as_str().as_bytes(), "the link is named");
            refusal.reason
        })
    }

    #[test]
    fn a_link_that_leads_out_is_refused_with_its_path() {
        for (path, target) in [
            ("a", "/etc/passwd"),
            ("a", ".."),
            ("a", "../x"),
            ("a/b", "../.."),
            ("a/b", "../../x"),
            ("a/b", ".././../x"),
            ("a/b", "..//../x"),
            // `c` may be a link to somewhere less deep.
            ("a/b", "c/../../x"),
            ("a/b", "c/.."),
        ] {
            assert_eq!(reason(path, target), Some(Reason::LinkEscapes), "{path} -> {target}");
        }
        assert_eq!(reason("a", ""), Some(Reason::EmptySegment));
        assert_eq!(reason("a", "x\u{1b}"), Some(Reason::Control));
        // The control: every link that stays inside.
        for (path, target) in
            [("a", "b"), ("a", "./b/"), ("a/b", ".."), ("a/b", "../x"), ("a/b/c", "../../x/y"), ("a", ".")]
        {
            assert_eq!(reason(path, target), None, "{path} -> {target}");
        }
    }

    #[test]
    fn a_new_link_leads_where_its_names_say_and_into_no_repository() {
        let leads = |path: &str, target: &str| {
            let path = RelativePath::parse(path.as_bytes()).unwrap();
            let leads = check_new(&path, target.as_bytes());
            leads.map(|leads| leads.as_str().to_owned()).map_err(|refusal| refusal.reason)
        };
        for (path, target, wanted) in [
            ("a", "b", "b"),
            ("a", "./b//c/", "b/c"),
            ("a/b", "c", "a/c"),
            ("a/b", "../c", "c"),
            ("a/b/c", "../../d/e", "d/e"),
            ("a/b", "..", ""),
            ("a", ".", ""),
        ] {
            assert_eq!(leads(path, target).as_deref(), Ok(wanted), "{path} -> {target}");
        }
        for target in [".git", "../.git/config", "../.GIT/hooks/pre-commit", "x/.git", "git~1/config"] {
            assert_eq!(leads("a/b", target), Err(Reason::LinkToGit), "{target}");
        }
        assert_eq!(leads("a/b", "../../x"), Err(Reason::LinkEscapes));
    }
}
