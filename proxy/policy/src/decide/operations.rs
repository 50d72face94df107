//! Places where method and path say nothing of what is asked: all of it, queries and changes alike, is one `POST` to one path.
//!
//! A rule that takes such a place in by a pattern was hardly written with all of this in mind, so a key goes there only where a path
//! names it.

use std::sync::LazyLock;

use super::advice::concerning;
use crate::path::{PathGlob, any_reading_matches};
use crate::policy::{Reach, Rule, Scope, reach};
use crate::{Denial, DenialReason, Request, Target};

/// The last segment of such a path (<https://graphql.org/learn/serving-over-http/>).
const GRAPHQL: &str = "graphql";

/// Every path that ends with it.
static PLACES: LazyLock<Vec<PathGlob>> = LazyLock::new(|| {
    [format!("/{GRAPHQL}"), format!("/**/{GRAPHQL}")]
        .iter()
        .filter_map(|glob| PathGlob::parse(glob).ok())
        .collect()
});

/// Whether a credential may go where the request asks for operations that nobody here can tell apart.
///
/// # Errors
/// A denial unless a path of the rule, or of a scope that takes the request in, names the place.
pub(super) fn named(name: &str, rule: &Rule, scopes: &[Scope], request: &Request) -> Result<(), Box<Denial>> {
    if !is_of_operations(&request.target) || rule.scope.names(&request.target) {
        return Ok(());
    }
    let names = |scope: &Scope| {
        scope.names(&request.target) && reach(std::slice::from_ref(scope), request) == Reach::Within
    };
    if scopes.iter().any(names) {
        return Ok(());
    }
    let how = format!(
        "Every operation of GraphQL goes to this path, so the key of AgentCredential {name} does not go there by a pattern. To let the agent do all that the key may, write the path itself in paths of the rule."
    );
    Err(concerning(DenialReason::CredentialScope, name, rule, request, &how))
}

/// In any case of letters, and however its path may be read.
fn is_of_operations(target: &Target) -> bool {
    let path = target.canonical_path();
    let text = path.as_str().as_bytes();
    let spells = |window: &[u8]| window.eq_ignore_ascii_case(GRAPHQL.as_bytes());
    // Most paths cannot be read as one of these, and are told apart without a copy.
    (text.contains(&b'%') || text.windows(GRAPHQL.len()).any(spells)) && any_reading_matches(&PLACES, path)
}
