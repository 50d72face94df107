//! What would become of one request, by the functions that decide real ones. Nothing is resolved, dialled or read but the
//! document: whether a secret is there, and where a name leads, is not known here.

use std::sync::Arc;

use agentsandbox_policy::{Explanation, Placeholders, Policy, Scheme};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Uri};
use serde_json::Value;

use crate::decision;
use crate::destination;
use crate::entrance::Binding;
use crate::presented;

/// A request as it is written on a command line.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Method and URL, with a space between them.
    pub request: &'a str,
    /// Fields, each as `name: value`.
    pub fields: &'a [String],
    /// Its body, whole and not compressed.
    pub body: &'a [u8],
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Whether the request would be sent.
    pub allowed: bool,
    /// By which rule and with which credential, or why not and what to write.
    pub text: Value,
}

/// Why there is no answer: what is wrong with the question, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswerable(String);

/// Decides the request as the pipeline does.
///
/// # Errors
/// [`Unanswerable`] when it is not written as a request.
pub fn explain(policy: &Policy, question: Question<'_>) -> Result<Explained, Unanswerable> {
    let head = head(question)?;
    let placeholders = Placeholders::of(policy).map_err(|error| Unanswerable(error.to_string()))?;
    let placeholders = Arc::new(placeholders);
    let asked = match destination::read(&head, &Binding::AbsoluteForm, policy) {
        Ok(asked) => asked,
        Err(denial) => return told(&*denial),
    };
    if asked.scheme == Scheme::Https
        && let Some(pass) = policy.pass(&asked.host, asked.port)
    {
        return told(&pass);
    }
    let permit = match decision::decide(policy, &placeholders, asked, &head.headers) {
        Ok(permit) => permit,
        Err(denial) => return told(&*denial),
    };
    let mut search = placeholders.in_body();
    if let Some(credential) = search.as_mut().and_then(|search| search.finds(question.body)) {
        return told(&permit.misuse(credential));
    }
    let mut form = match presented::in_form(policy, &permit, &head.headers) {
        Ok(form) => form,
        Err(denial) => return told(&*denial),
    };
    match form.as_mut().and_then(|form| form.finds(question.body)) {
        Some(field) => told(&permit.own_field(field)),
        None => told(&permit),
    }
}

fn told<'a>(decision: impl Into<Explanation<'a>>) -> Result<Explained, Unanswerable> {
    let explanation = decision.into();
    let text = serde_json::to_value(&explanation).map_err(|error| Unanswerable(error.to_string()))?;
    Ok(Explained { allowed: explanation.is_allowed(), text })
}

fn head(question: Question<'_>) -> Result<Parts, Unanswerable> {
    let usage = || {
        Unanswerable("write a method and a URL, such as \"GET https://api.example.com/v1/models\"".to_owned())
    };
    let (method, url) = question.request.split_once(' ').ok_or_else(usage)?;
    let uri: Uri = url.parse().map_err(|_| usage())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(usage());
    }
    let (mut head, ()) =
        Request::builder().method(method).uri(uri).body(()).map_err(|_| usage())?.into_parts();
    for field in question.fields {
        let wrong = || Unanswerable(format!("\"{field}\" is no field: write it as \"name: value\""));
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        head.headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
