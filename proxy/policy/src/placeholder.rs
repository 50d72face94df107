//! Finds placeholders in what an agent sends. A placeholder is no secret; one that leaves the proxy is a request that its
//! sender believes to carry a key, so it must not go out as if it did.
//!
//! In a head a placeholder is found as it is, in base64 and base64url at any alignment, and with its characters
//! percent-encoded or escaped as in JSON, three times over. In a body, which passes by, both are found as they are and escaped once.
//! One of fewer than [`TELLING_BYTES_MIN`] bytes is not looked for in bodies. What is compressed, and what a WebSocket carries,
//! is not searched. A constant, which anybody may know, is looked for in heads alone, and only from that length on: in a body
//! it may be a quotation, and whoever writes what the agent reads could stop its requests with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

use crate::{CredentialUse, Denial, DenialReason, Injection, Permit, Policy};

mod body;

pub use body::BodySearch;

/// A shorter one, such as the word itself, may be a part of any text.
pub const TELLING_BYTES_MIN: usize = 16;
/// An escape of an escape of an escape; servers undo one or two.
const LAYERS: usize = 3;
const ALPHABETS: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&alphabet::STANDARD, NO_PAD), GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD)];

/// The placeholders of one policy.
pub struct Placeholders {
    known: Vec<Known>,
    heads: Words,
    bodies: Option<Arc<Words>>,
}

/// One text, and the credentials that it stands for; a constant may stand for several.
struct Known {
    text: String,
    /// As the name of a field would hold it.
    name: String,
    credentials: Vec<String>,
    /// Whether only this agent was given it.
    issued: bool,
}

/// Texts to look for, and which of the known placeholders each of them spells.
struct Words {
    automaton: AhoCorasick,
    spells: Vec<usize>,
    longest: usize,
}

/// The placeholders cannot be looked for, so their policy cannot be obeyed.
#[derive(Debug, thiserror::Error)]
#[error("the placeholders are too many or too long")]
pub struct Unsearchable(#[from] BuildError);

impl Placeholders {
    /// Those of all credentials of the policy.
    ///
    /// # Errors
    /// [`Unsearchable`] when no automaton can be made of them.
    pub fn of(policy: &Policy) -> Result<Self, Unsearchable> {
        let mut all = BTreeMap::<&str, (Vec<String>, bool)>::new();
        let issued = policy.placeholders().map(|(credential, texts)| (credential, texts, true));
        let constant = policy.constants().map(|(credential, texts)| (credential, texts, false));
        for (credential, texts, issued) in issued.chain(constant) {
            for text in texts.iter().filter(|text| issued || text.len() >= TELLING_BYTES_MIN) {
                let (credentials, is_issued) = all.entry(text).or_default();
                credentials.push(credential.to_owned());
                *is_issued |= issued;
            }
        }
        let known: Vec<Known> = all
            .into_iter()
            .map(|(text, (credentials, issued))| Known {
                text: text.to_owned(),
                name: text.to_ascii_lowercase(),
                credentials,
                issued,
            })
            .collect();
        let numbered = || known.iter().enumerate();
        let spelled = numbered().flat_map(|(number, known)| {
            spellings(known.text.as_bytes()).into_iter().map(move |spelling| (number, spelling))
        });
        let heads = Words::new(spelled)?;
        let telling = numbered().filter(|(_, known)| known.issued && known.text.len() >= TELLING_BYTES_MIN);
        let spelled = telling.flat_map(|(number, known)| {
            spellings(known.text.as_bytes()).into_iter().map(move |spelling| (number, spelling))
        });
        let bodies = Some(Words::new(spelled)?).filter(|words| !words.spells.is_empty()).map(Arc::new);
        Ok(Self { known, heads, bodies })
    }

    /// A credential whose placeholder stands in this part of a head, other than one that also stands for `own`.
    #[must_use]
    pub fn misused(&self, text: &[u8], own: Option<&str>) -> Option<&str> {
        if self.known.is_empty() {
            return None;
        }
        let mut layer = None;
        for _ in 0..=LAYERS {
            let text = layer.as_deref().unwrap_or(text);
            if let Some(found) = self.heads.all(text).find_map(|number| self.known.get(number)?.not_of(own)) {
                return Some(found);
            }
            layer = Some(body::unescaped(text)?);
        }
        None
    }

    /// A credential whose placeholder stands in the target of a permitted request, other than in the place from which the secret
    /// takes it.
    #[must_use]
    pub fn misused_in_target(&self, permit: &Permit) -> Option<&str> {
        let target = permit.target();
        // What stays of the target once the secret has its place.
        let rest = permit.credential().and_then(|credential| match credential.injection() {
            Injection::Query { name } => Some(target.with_query_parameter(name, "").as_str().to_owned()),
            Injection::PathSegment { after, placeholders } => {
                target.with_path_segment(after, placeholders, "")
            }
            Injection::Header { .. }
            | Injection::Bearer
            | Injection::Basic { .. }
            | Injection::Cookie { .. } => None,
        });
        let own = permit.credential().filter(|_| rest.is_some()).map(CredentialUse::name);
        let in_rest = || self.misused(rest?.as_bytes(), None);
        self.misused(target.as_str().as_bytes(), own).or_else(in_rest)
    }

    /// A credential after whose placeholder this field is named; names are read in lower case.
    fn names(&self, field: &str) -> Option<&str> {
        self.known.iter().find(|known| field.contains(&known.name))?.not_of(None)
    }

    /// A credential whose placeholder stands in one of these fields, each its name in lower case and its value; `own` tells for each
    /// name which credential may have its placeholder there.
    pub fn misused_in<'a, 'f>(
        &'a self,
        mut fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        own: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<&'a str> {
        if self.known.is_empty() {
            return None;
        }
        fields.find_map(|(name, value)| self.names(name).or_else(|| self.misused(value, own(name))))
    }

    /// What looks for them in one body; none where there is nothing to look for.
    #[must_use]
    pub fn in_body(self: &Arc<Self>) -> Option<BodySearch> {
        (!self.known.is_empty()).then(|| BodySearch::new(Arc::clone(self)))
    }

    /// A credential of the placeholder with this number.
    fn credential(&self, number: usize) -> Option<&str> {
        self.known.get(number)?.not_of(None)
    }
}

impl Permit {
    /// The denial of a request that holds a placeholder of this credential in a place that is not the credential's.
    #[must_use]
    pub fn misuse(&self, credential: &str) -> Denial {
        Denial::of(self, DenialReason::PlaceholderMisuse).with_credential(credential).with_how_to_allow(format!(
            "The placeholder of AgentCredential {credential} stands where no key is put in; send it only in the credential's own place, and only where a rule names that credential."
        ))
    }
}

impl Known {
    fn not_of(&self, own: Option<&str>) -> Option<&str> {
        if own.is_some_and(|own| self.credentials.iter().any(|credential| credential == own)) {
            return None;
        }
        self.credentials.first().map(String::as_str)
    }
}

impl Words {
    fn new(spelled: impl Iterator<Item = (usize, Vec<u8>)>) -> Result<Self, BuildError> {
        let (spells, texts): (Vec<usize>, Vec<Vec<u8>>) = spelled.unzip();
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        // The longest counts: a short constant may be a part of another credential's placeholder.
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts)?;
        Ok(Self { automaton, spells, longest })
    }

    /// The placeholders that stand in the text.
    fn all(&self, text: &[u8]) -> impl Iterator<Item = usize> {
        self.automaton
            .find_iter(text)
            .filter_map(|found| self.spells.get(found.pattern().as_usize()).copied())
    }
}

/// The text itself and what base64 has of it behind any number of other bytes: the characters that no neighbour has a bit
/// in.
fn spellings(text: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![text.to_vec()];
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(text);
        let first = if before == 0 { 0 } else { before + 1 };
        let partial_last = usize::from(!padded.len().is_multiple_of(3));
        for alphabet in &ALPHABETS {
            let encoded = alphabet.encode(&padded).into_bytes();
            let end = encoded.len().saturating_sub(partial_last);
            all.extend(encoded.get(first..end).map(<[u8]>::to_vec));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
