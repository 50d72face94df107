//! The rules of a sandbox within those of its template.
//!
//! Each rule of the sandbox lies within one of the template's, the first that takes it in, and takes from that one what it does not say. They
//! are asked in the order in which the proxy has them speak: the most specific host first. A sandbox that writes egress without rules has
//! none. Keys are the template's, if it names any.

use std::cell::Cell;

use agentsandbox_crds::common::{EgressLimits, Method};
use agentsandbox_crds::quantity::bytes;
use agentsandbox_crds::sandbox::{EgressAnswer, EgressRule, Scheme, Tls, Websocket};
use agentsandbox_policy::{HostPattern, PathGlob};
use serde::Serialize;
use serde_json::Value;

use crate::fault::Faults;
use crate::hosts::covers;

/// What of a rule is not within one of the template's.
struct Outside {
    /// Its field; empty for the whole rule.
    field: &'static str,
    /// What the template's rule has there.
    has: String,
}

/// A field as the merged rule has it, or what speaks against it.
type Compared<T> = Result<T, Outside>;

/// The rules that a sandbox has; each that lies in no rule of the template is a fault, and left out.
pub(crate) fn allow(own: &[EgressRule], of: &[EgressRule], faults: &mut Faults) -> Vec<EgressRule> {
    let work = Work::default();
    let names_keys = of.iter().any(has_key);
    let mut outers: Vec<Outer<'_>> = of.iter().enumerate().map(Outer::of).collect();
    outers.sort_by_cached_key(|outer| turn(outer.rule, outer.place));
    let mut names: Vec<String> = own.iter().filter_map(|rule| rule.name.clone()).collect();
    let mut merged: Vec<Taken> = Vec::new();
    for (index, rule) in own.iter().enumerate() {
        let own = Own { rule, globs: globs(rule) };
        let Some((at, narrowed)) = taken_in(index, &own, &outers, names_keys, &work, faults) else {
            continue;
        };
        let of_outer = outers.get(at).and_then(|outer| outer.rule.name.clone());
        let name = rule.name.clone().or_else(|| of_outer.filter(|name| !names.contains(name)));
        names.extend(name.clone());
        merged.push(Taken { index, at, rule: EgressRule { name, ..narrowed } });
    }
    limited(&merged, &outers, faults);
    spoken_for(&merged, &outers, &work, faults);
    if work.is_over() {
        faults.outside(
            "egress.allow",
            format!("{} rules", of.len()),
            "write fewer rules and paths: these are too many to compare",
        );
    }
    merged.into_iter().map(|taken| taken.rule).collect()
}

/// When a rule speaks, as the proxy has them do it: the most specific host first, what is opened before what passes unopened, and the first
/// of those. A host that is no pattern comes last; it takes in nothing.
fn turn(rule: &EgressRule, place: usize) -> impl Ord + use<> {
    let host = HostPattern::parse(&rule.host).ok().map(|host| host.specificity());
    (host.is_none(), host, rule.tls == Some(Tls::Passthrough), place)
}

/// A rule of the sandbox within one of the template.
struct Taken {
    /// Its place among the sandbox's.
    index: usize,
    /// The template's, by its turn to speak.
    at: usize,
    rule: EgressRule,
}

/// A rule of the sandbox, with its paths as they are compared.
struct Own<'a> {
    rule: &'a EgressRule,
    globs: Globs,
}

/// A rule of the template.
struct Outer<'a> {
    /// Its place there.
    place: usize,
    rule: &'a EgressRule,
    globs: Globs,
}

impl<'a> Outer<'a> {
    fn of((place, rule): (usize, &'a EgressRule)) -> Self {
        Self { place, rule, globs: globs(rule) }
    }
}

/// Paths of a rule; none of one that cannot be read, which takes in nothing and lies in nothing.
type Globs = Vec<Option<PathGlob>>;

fn globs(rule: &EgressRule) -> Globs {
    rule.paths.iter().flatten().map(|path| PathGlob::parse(path).ok()).collect()
}

fn has_key(rule: &EgressRule) -> bool {
    rule.credential.is_some() || rule.client_certificate.is_some()
}

/// Pairs of segments of paths that may be compared for one sandbox. The schema lets rules and paths be written of which each with each would be
/// millions, and everybody else's sandboxes wait meanwhile.
const COMPARED_MAX: usize = 200_000;

/// How many were.
#[derive(Default)]
struct Work(Cell<usize>);

impl Work {
    /// Whether these two paths may be compared, too.
    fn compares(&self, one: &str, other: &str) -> bool {
        let segments = |path: &str| path.split('/').count();
        self.0.set(self.0.get().saturating_add(segments(one) * segments(other)));
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.0.get() > COMPARED_MAX
    }
}

/// Rules of one host count together what they send, so within what one host pattern of the template may send there is one host: more would
/// have it once each.
fn limited(merged: &[Taken], outers: &[Outer<'_>], faults: &mut Faults) {
    let mut hosts: Vec<(&str, &str)> = Vec::new();
    for Taken { index, at, rule } in merged {
        let Some(pattern) = outers.get(*at).map(|outer| outer.rule.host.as_str()) else { continue };
        let of_pattern =
            outers.iter().find(|outer| outer.rule.host == pattern && outer.rule.limits.is_some());
        let Some(limiting) = of_pattern else { continue };
        if let Some((_, other)) = hosts.iter().find(|(of, host)| *of == pattern && *host != rule.host) {
            faults.outside_of(
                &format!("egress.allow[{index}].host"),
                &format!("sandbox.egress.allow[{}].limits", limiting.place),
                "limits that count for all its hosts together",
                format!("write rules of one host within it, as the one for {other}"),
            );
        }
        hosts.push((pattern, rule.host.as_str()));
    }
}

/// Of the rules that allow a request the one with the most specific host speaks: it says which key is put in, and how much may pass. So no rule
/// of the sandbox may allow what another rule of the template would have spoken for, and say other things of it.
fn spoken_for(merged: &[Taken], outers: &[Outer<'_>], work: &Work, faults: &mut Faults) {
    for Taken { index, at, rule } in merged {
        let Some(taken) = outers.get(*at) else { continue };
        let path = format!("egress.allow[{index}].host");
        for (before, other) in outers.iter().enumerate().take(*at) {
            let meets = covers(&other.rule.host, &rule.host) || covers(&rule.host, &other.rule.host);
            // Written as well, and still speaking first.
            let keeps = |one: &Taken| {
                one.at == before
                    && is_as_wide(&one.rule, other.rule)
                    && turn(&one.rule, one.index) < turn(rule, *index)
            };
            if meets
                && says_other(other.rule, taken.rule)
                && !merged.iter().any(keeps)
                && !is_disjoint(rule, other.rule, work)
            {
                faults.outside_of(
                    &path,
                    &format!("sandbox.egress.allow[{}]", other.place),
                    format!("a rule for {} that says more of the same requests", other.rule.host),
                    "write that rule as well, before this one, or a host that it does not concern",
                );
                break;
            }
        }
    }
}

/// Whether two rules have other things said of the requests that they allow.
fn says_other(one: &EgressRule, other: &EgressRule) -> bool {
    let said = |rule: &EgressRule| {
        (
            rule.credential.clone(),
            rule.client_certificate.clone(),
            rule.limits.clone(),
            rule.answer.clone(),
            rule.headers.clone(),
            rule.tls == Some(Tls::Passthrough),
        )
    };
    said(one) != said(other)
}

/// Whether a rule allows all that the template's does.
fn is_as_wide(rule: &EgressRule, outer: &EgressRule) -> bool {
    let extent = |rule: &EgressRule| {
        (
            rule.host.clone(),
            rule.ports.clone(),
            rule.methods.clone(),
            rule.paths.clone(),
            rule.websocket,
            rule.scheme,
        )
    };
    extent(rule) == extent(outer)
        && (rule.tls == Some(Tls::Passthrough)) == (outer.tls == Some(Tls::Passthrough))
}

/// Whether no request is allowed by both, as far as that is seen at once.
fn is_disjoint(rule: &EgressRule, other: &EgressRule, work: &Work) -> bool {
    let usual = |rule: &EgressRule| if rule.scheme == Some(Scheme::Http) { 80 } else { 443 };
    let ports = |rule: &EgressRule| rule.ports.clone().unwrap_or_else(|| vec![usual(rule)]);
    let (own, others) = (ports(rule), ports(other));
    let scheme = |rule: &EgressRule| rule.scheme.unwrap_or(Scheme::Https);
    let apart = |own: &Option<Vec<Method>>, other: &Option<Vec<Method>>| match (own, other) {
        (Some(own), Some(other)) => own.iter().all(|method| !other.contains(method)),
        _ => false,
    };
    let paths = match (&rule.paths, &other.paths) {
        (Some(own), Some(other)) => own
            .iter()
            .all(|path| other.iter().all(|glob| work.compares(path, glob) && lead_apart(path, glob))),
        _ => false,
    };
    scheme(rule) != scheme(other)
        || own.iter().all(|port| !others.contains(port))
        || apart(&rule.methods, &other.methods)
        || paths
}

/// Whether two globs differ before either has a `*`.
fn lead_apart(one: &str, other: &str) -> bool {
    for pair in one.split('/').zip(other.split('/')) {
        match pair {
            (own, other) if own.contains('*') || other.contains('*') => return false,
            (own, other) if own != other => return true,
            _ => {}
        }
    }
    one.split('/').count() != other.split('/').count()
}

/// The first of the template's rules, by their turn to speak, that takes a rule in, and the rule with what it takes from it.
fn taken_in(
    index: usize,
    own: &Own<'_>,
    outers: &[Outer<'_>],
    names_keys: bool,
    work: &Work,
    faults: &mut Faults,
) -> Option<(usize, EgressRule)> {
    let (path, rule) = (format!("egress.allow[{index}]"), own.rule);
    let mut nearest = None;
    let unnamed = |rule: &EgressRule| EgressRule { name: None, ..rule.clone() };
    // One that is written as the template's is that one.
    let own_of = outers.iter().position(|outer| unnamed(outer.rule) == unnamed(rule));
    let turns = own_of.into_iter().chain(0..outers.len()).filter_map(|at| Some((at, outers.get(at)?)));
    for (at, outer) in turns.filter(|(_, outer)| covers(&outer.rule.host, &rule.host)) {
        if work.is_over() {
            return None;
        }
        match narrowed(own, outer, names_keys, work) {
            Ok(narrowed) => return Some((at, narrowed)),
            Err(outside) => drop(nearest.get_or_insert((outer.place, outside))),
        }
    }
    match nearest {
        Some((place, Outside { field, has })) => faults.outside_of(
            &format!("{path}.{field}"),
            &format!("sandbox.egress.allow[{place}].{field}"),
            has,
            format!("leave {field} out, or write what lies within that"),
        ),
        None => {
            let mut hosts: Vec<_> =
                outers.iter().map(|outer| (outer.place, outer.rule.host.as_str())).collect();
            hosts.sort_unstable();
            let hosts: Vec<&str> = hosts.into_iter().map(|(_, host)| host).collect();
            let has = if hosts.is_empty() { "no rule".to_owned() } else { hosts.join(", ") };
            faults.outside_of(
                &format!("{path}.host"),
                "sandbox.egress.allow",
                has,
                format!(
                    "remove the rule for {}, or ask the template's owner for one that takes it in",
                    rule.host
                ),
            );
        }
    }
    None
}

/// A rule within one of the template's that has its host.
fn narrowed(own: &Own<'_>, of: &Outer<'_>, names_keys: bool, work: &Work) -> Compared<EgressRule> {
    let (rule, outer) = (own.rule, of.rule);
    let key = |field, own: &Option<String>, of: &Option<String>| match own {
        Some(name) if of.as_ref() != Some(name) && names_keys => {
            Err(Outside { field, has: of.clone().unwrap_or_else(|| "none".to_owned()) })
        }
        Some(name) => Ok(Some(name.clone())),
        None => Ok(of.clone()),
    };
    let contains = |one: &String, all: &[String]| all.contains(one);
    Ok(EgressRule {
        name: None,
        host: rule.host.clone(),
        scheme: scheme(rule, outer)?,
        answer: answer(rule.answer.as_ref(), outer.answer.as_ref())?,
        limits: limits(rule.limits.as_ref(), outer.limits.as_ref())?,
        ports: ports(rule, outer)?,
        methods: among("methods", rule.methods.as_ref(), outer.methods.as_ref(), |one, all| {
            all.contains(one)
        })?,
        paths: paths(own, of, work)?,
        credential: key("credential", &rule.credential, &outer.credential)?,
        client_certificate: key("clientCertificate", &rule.client_certificate, &outer.client_certificate)?,
        websocket: websocket(rule, outer)?,
        tls: tls(rule, outer)?,
        headers: among("headers", rule.headers.as_ref(), outer.headers.as_ref(), contains)?,
    })
}

/// The paths of a rule, each within one of the template's.
fn paths(own: &Own<'_>, of: &Outer<'_>, work: &Work) -> Compared<Option<Vec<String>>> {
    let Some(paths) = &own.rule.paths else { return Ok(of.rule.paths.clone()) };
    let is_keyed = has_key(own.rule) || has_key(of.rule);
    let lies_in = |(glob, of): (&Option<PathGlob>, &String), path: &PathGlob, text: &str| {
        let Some(glob) = glob else { return false };
        work.compares(of, text)
            && glob.takes_in(path)
            && !(is_keyed && names_operations(path, text) && !glob.names_its_end())
    };
    let is_within = |(path, text): (&Option<PathGlob>, &String)| match (path, &of.rule.paths) {
        (Some(path), None) => !(is_keyed && names_operations(path, text)),
        (Some(path), Some(all)) => of.globs.iter().zip(all).any(|glob| lies_in(glob, path, text)),
        (None, _) => false,
    };
    match own.globs.iter().zip(paths).all(is_within) {
        true => Ok(Some(paths.clone())),
        false => {
            let has = of.rule.paths.as_deref().map_or_else(|| "no path that is named".to_owned(), shown);
            Err(Outside { field: "paths", has })
        }
    }
}

/// Whether a path may name a place where method and path say nothing of what is asked: a key goes there only where a path names it, so what
/// takes it in by a pattern gives less. An escape may hide the name.
fn names_operations(path: &PathGlob, text: &str) -> bool {
    path.names_its_end() && (text.contains('%') || text.to_ascii_lowercase().contains("graphql"))
}

/// A list each of whose entries has to be within the template's, which it has where it is not written.
fn among<T: Clone + Serialize>(
    field: &'static str,
    own: Option<&Vec<T>>,
    of: Option<&Vec<T>>,
    is_within: impl Fn(&T, &[T]) -> bool,
) -> Compared<Option<Vec<T>>> {
    match (own, of) {
        (Some(own), Some(of)) if !own.iter().all(|one| is_within(one, of)) => {
            Err(Outside { field, has: shown(of) })
        }
        (Some(own), _) => Ok(Some(own.clone())),
        (None, of) => Ok(of.cloned()),
    }
}

/// The entries of a list as they are written.
fn shown<T: Serialize>(entries: &[T]) -> String {
    let text = |one: &T| match serde_json::to_value(one).unwrap_or_default() {
        Value::String(text) => text,
        other => other.to_string(),
    };
    entries.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn scheme(rule: &EgressRule, outer: &EgressRule) -> Compared<Option<Scheme>> {
    let of = outer.scheme.unwrap_or(Scheme::Https);
    match rule.scheme {
        Some(own) if own != of => Err(Outside { field: "scheme", has: format!("{of:?}") }),
        Some(own) => Ok(Some(own)),
        None => Ok(outer.scheme),
    }
}

fn ports(rule: &EgressRule, outer: &EgressRule) -> Compared<Option<Vec<i32>>> {
    let usual = if outer.scheme == Some(Scheme::Http) { 80 } else { 443 };
    let of = outer.ports.clone().unwrap_or_else(|| vec![usual]);
    match &rule.ports {
        Some(own) if !own.iter().all(|port| of.contains(port)) => {
            Err(Outside { field: "ports", has: shown(&of) })
        }
        Some(own) => Ok(Some(own.clone())),
        None => Ok(outer.ports.clone()),
    }
}

fn websocket(rule: &EgressRule, outer: &EgressRule) -> Compared<Option<Websocket>> {
    match rule.websocket {
        Some(Websocket::Allow) if outer.websocket != Some(Websocket::Allow) => {
            Err(Outside { field: "websocket", has: "Deny".to_owned() })
        }
        Some(own) => Ok(Some(own)),
        // Messages of a WebSocket are not bounded as an answer is.
        None if rule.answer.is_some() => Ok(None),
        None => Ok(outer.websocket),
    }
}

/// What passes unopened is not judged, so a rule that asks for that opens it.
fn tls(rule: &EgressRule, outer: &EgressRule) -> Compared<Option<Tls>> {
    let is_judged = rule.methods.is_some()
        || rule.paths.is_some()
        || rule.credential.is_some()
        || rule.client_certificate.is_some()
        || rule.websocket.is_some()
        || rule.answer.is_some()
        || rule.headers.is_some();
    match rule.tls {
        Some(Tls::Passthrough) if outer.tls != Some(Tls::Passthrough) => {
            Err(Outside { field: "tls", has: "Intercept".to_owned() })
        }
        Some(own) => Ok(Some(own)),
        None if is_judged => Ok(outer.tls.filter(|tls| *tls == Tls::Intercept)),
        None => Ok(outer.tls),
    }
}

fn limits(own: Option<&EgressLimits>, of: Option<&EgressLimits>) -> Compared<Option<EgressLimits>> {
    let (Some(own), Some(of)) = (own, of) else { return Ok(own.or(of).cloned()) };
    Ok(Some(EgressLimits {
        upload_bytes: lower("limits.uploadBytes", own.upload_bytes.as_ref(), of.upload_bytes.as_ref())?,
        upload_bytes_per_minute: lower(
            "limits.uploadBytesPerMinute",
            own.upload_bytes_per_minute.as_ref(),
            of.upload_bytes_per_minute.as_ref(),
        )?,
    }))
}

fn answer(own: Option<&EgressAnswer>, of: Option<&EgressAnswer>) -> Compared<Option<EgressAnswer>> {
    let (Some(own), Some(of)) = (own, of) else { return Ok(own.or(of).cloned()) };
    let types =
        among("answer.contentTypes", own.content_types.as_ref(), of.content_types.as_ref(), |one, all| {
            all.iter().any(|known| is_type_of(one, known))
        })?;
    let max_bytes = lower("answer.maxBytes", own.max_bytes.as_ref(), of.max_bytes.as_ref())?;
    Ok(Some(EgressAnswer { max_bytes, content_types: types }))
}

/// Whether a media type is another, or of its kind where that is `text/*`.
fn is_type_of(one: &str, known: &str) -> bool {
    let of_kind = known.strip_suffix('*').is_some_and(|kind| kind.ends_with('/') && one.starts_with(kind));
    one == known || of_kind
}

/// A number of bytes of at most the template's, which it is where it is not written.
fn lower(field: &'static str, own: Option<&String>, of: Option<&String>) -> Compared<Option<String>> {
    match (own, of) {
        (Some(own), Some(most)) => {
            let is_more = bytes(own).is_some_and(|asked| bytes(most).is_none_or(|most| asked > most));
            if is_more { Err(Outside { field, has: most.clone() }) } else { Ok(Some(own.clone())) }
        }
        (own, of) => Ok(own.or(of).cloned()),
    }
}
