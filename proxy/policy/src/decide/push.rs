//! The push that a request begins. Before git pushes it asks for `…/info/refs?service=git-receive-pack`, which a host answers with
//! what only somebody who may push is shown, and with another set of references than a fetch is shown. So that request is
//! allowed only where the push itself is: by the same rule, and with the same credential.

use super::advice::{excepted, outside};
use crate::policy::{Reach, Rule, Scope, reach};
use crate::{Denial, DenialReason, Method, Request, Scheme, Target};

/// How the path of such a request ends, and that of the push (gitprotocol-http, "Smart Service git-receive-pack").
const REFS: &str = "/info/refs";
const PUSH: &str = "/git-receive-pack";

impl Request {
    /// The push that this request begins, if it begins one. The service is found in any spelling and wherever it stands in the query: of
    /// several that are named, nobody knows which one the host takes.
    pub(super) fn push(&self) -> Option<Self> {
        self.target.query()?;
        let path = self.target.path();
        let is_refs = |bytes: &[u8]| bytes.eq_ignore_ascii_case(b"refs");
        let names_refs = path.as_bytes().windows(4).any(is_refs);
        let names_push = || {
            let is_push = |value: &[u8]| contains(value, &PUSH.as_bytes()[1..]);
            self.target.has_query_parameter_with(|read| read.starts_with(b"service"), is_push)
        };
        if !names_refs || !names_push() {
            return None;
        }
        let path = path.trim_end_matches('/');
        let repository = path
            .len()
            .checked_sub(REFS.len())
            .and_then(|at| path.split_at_checked(at))
            .filter(|(_, end)| end.eq_ignore_ascii_case(REFS))
            .map(|(repository, _)| repository);
        // Whoever writes it in another way is judged by the folder it asks in.
        let repository = repository.or_else(|| path.rsplit_once('/').map(|(folder, _)| folder));
        let target = Target::parse(&format!("{}{PUSH}", repository.unwrap_or_default()));
        Some(Self {
            method: Method::parse("POST").unwrap_or_else(|_| self.method.clone()),
            target: target.unwrap_or_else(|_| self.target.clone()),
            websocket: false,
            ..self.clone()
        })
    }
}

/// The denial of a request for what it lacks, or for what the push lacks that it begins; then it says so.
pub(super) fn told(denial: Box<Denial>, request: &Request) -> Box<Denial> {
    use DenialReason::{CredentialScope, MethodNotAllowed, PathNotAllowed};
    let Some(push) = request.push() else { return denial };
    if !matches!(denial.reason, CredentialScope | MethodNotAllowed | PathNotAllowed) {
        return denial;
    }
    let how = format!(
        "A git push begins with this request, so it is allowed only where {} {} is; a fetch asks for service=git-upload-pack. {}",
        push.method,
        push.target.path(),
        denial.how_to_allow
    );
    let asked = denial.with_method(&request.method).with_path(request.target.path());
    Box::new(asked.with_how_to_allow(how))
}

/// Whether what an AgentCredential stands for may go out with the request, and with the push that it begins: over TLS, and to where
/// its owner lets it.
pub(super) fn within(
    name: &str,
    scopes: Option<&[Scope]>,
    rule: &Rule,
    request: &Request,
) -> Result<(), Box<Denial>> {
    let scopes = scopes.filter(|_| request.scheme == Scheme::Https);
    let goes = |step: &Request| match scopes.map_or(Reach::Outside, |scopes| reach(scopes, step)) {
        Reach::Within => Ok(()),
        Reach::Excepted => Err(excepted(name, rule, step)),
        Reach::Outside => Err(outside(name, rule, step)),
    };
    goes(request)?;
    request.push().as_ref().map_or(Ok(()), goes)
}

/// The same without saying why not.
pub(super) fn goes(scopes: &[Scope], request: &Request) -> bool {
    let goes = |step: &Request| reach(scopes, step) == Reach::Within;
    request.scheme == Scheme::Https && goes(request) && request.push().as_ref().is_none_or(goes)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}
