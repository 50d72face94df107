//! What file systems that fold names take for the same.

use icu_normalizer::ComposingNormalizerBorrowed;

/// Folding once can bring out what folds again; real names are stable after two.
const ROUNDS: usize = 3;

/// One spelling for every name that a file system may take for this one: compatibility form, without case, without the
/// characters that are not shown. It is coarser than any one of them, so that some pairs are refused which none confuses.
pub fn fold(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    let normalizer = const { ComposingNormalizerBorrowed::new_nfkc() };
    let mut folded = normalizer.normalize(name).into_owned();
    for _ in 0..ROUNDS {
        // Upper case first: it takes what has no simple counterpart apart, as in the sharp s and the final sigma.
        let shown = folded.chars().filter(|letter| !is_ignorable(*letter));
        let lower: String = shown.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
        folded = normalizer.normalize(&lower).into_owned();
    }
    folded
}

/// Whether a file system may take a name for `.git`: HFS+ ignores letters that are not shown, NTFS dots and spaces at the
/// end and what follows a colon, and both ignore case. `git~1` is its short name.
pub fn is_git(name: &str) -> bool {
    let folded = fold(name);
    let own = folded.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    let short = own.strip_prefix("git~");
    own == ".git" || short.is_some_and(|digits| digits.starts_with(|first: char| first.is_ascii_digit()))
}

/// Default_Ignorable_Code_Point of Unicode 17, DerivedCoreProperties.txt.
fn is_ignorable(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{fold, is_git};

    #[test]
    fn names_that_some_file_system_confuses_fold_to_one() {
        for (one, other) in [
            ("README", "readme"),
            ("\u{e9}", "e\u{301}"),
            ("\u{c9}", "e\u{301}"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{3c2}", "\u{3a3}"),
            ("\u{212a}", "k"),
            ("\u{17f}", "S"),
            ("\u{fb01}le", "file"),
            ("\u{ff21}", "a"),
            ("a\u{200d}b", "ab"),
            ("\u{1e9e}", "ss"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} and {other}");
        }
        for (one, other) in [("a", "b"), ("e", "\u{e9}"), ("a.b", "ab"), ("\u{430}", "a")] {
            assert_ne!(fold(one), fold(other), "{one} and {other}");
        }
    }

    #[test]
    fn whatever_some_file_system_takes_for_a_git_folder_is_one() {
        for name in [
            ".git",
            ".GIT",
            ".Git.",
            ".git ",
            ".git. .",
            "git~1",
            "GIT~12",
            ".g\u{200c}it",
            ".git\u{feff}",
            ".git::$INDEX_ALLOCATION",
            "\u{ff0e}git",
        ] {
            assert!(is_git(name), "{name:?}");
        }
        for name in [".gitignore", ".gitmodules", "git", "git~", "x.git", ".github", ".gi"] {
            assert!(!is_git(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_folded_stays_as_it_is_whatever_its_case(name in any::<String>()) {
            let folded = fold(&name);
            assert_eq!(fold(&folded), folded);
            assert_eq!(fold(&name.to_ascii_uppercase()), folded);
        }
    }
}
