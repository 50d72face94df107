//! HTTP/1.1 as an agent may write it: the head, and what follows it. hyper reads; what of ours is here are the bounds it
//! reads by, the destination, the decision, and the judgement of what is presented.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use agentsandbox_policy::{Host, Scheme};
use agentsandbox_proxy::entrance::{Binding, http1_reader};
use agentsandbox_proxy::{decision, destination};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

use crate::pieces::{Script, cut};
use crate::rules;

/// One request as the proxy sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    head: String,
    /// The rule that allows it, or the reason why none does.
    verdict: Result<String, String>,
    /// Its body, when that came to its end.
    body: Option<Bytes>,
}

/// A connection is read as the same requests however it is cut; what is allowed is what a rule names.
pub fn h1_head(data: &[u8]) {
    let Some((binding, bytes)) = data.split_first() else { return };
    let binding = match binding % 4 {
        0 => Binding::AbsoluteForm,
        1 => Binding::Bound {
            scheme: Scheme::Https,
            host: Host::parse("api.good.test").expect("a host"),
            port: 443,
        },
        2 => Binding::BaseUrl,
        _ => Binding::HostHeader,
    };
    same_however_cut(&binding, &[bytes], &cut(bytes));
}

/// What follows a head with a chunked body is read as the same bodies and requests however it is cut.
pub fn chunked(data: &[u8]) {
    const HEAD: &[u8] = b"POST /open/x HTTP/1.1\r\nhost: api.good.test\r\ntransfer-encoding: chunked\r\n\r\n";
    let binding = Binding::Bound {
        scheme: Scheme::Https,
        host: Host::parse("api.good.test").expect("a host"),
        port: 443,
    };
    let whole = [HEAD, data].concat();
    let pieces: Vec<&[u8]> = std::iter::once(HEAD).chain(cut(data)).collect();
    let seen = same_however_cut(&binding, &[&whole], &pieces);
    assert_eq!(seen.first().map(|seen| &seen.verdict), Some(&Ok("bare".to_owned())));
}

fn same_however_cut(binding: &Binding, whole: &[&[u8]], pieces: &[&[u8]]) -> Vec<Seen> {
    let seen = read(binding, whole);
    assert_eq!(seen, read(binding, pieces), "cut, it is read otherwise");
    seen
}

fn read(binding: &Binding, pieces: &[&[u8]]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let (seen, binding) = (Rc::clone(&seen), binding.clone());
        async move {
            let (head, body) = request.into_parts();
            let verdict = judge(&head, &binding);
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            let head = format!("{} {} {:?}", head.method, head.uri, head.headers);
            seen.borrow_mut().push(Seen { head, verdict, body });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let io = TokioIo::new(Script::of(pieces));
    // How the connection ends says nothing: one that breaks off is as good as one that is refused.
    let _ = block_on(async { http1_reader().serve_connection(io, service).await });
    Rc::try_unwrap(seen).expect("the connection is over").into_inner()
}

fn judge(head: &http::request::Parts, binding: &Binding) -> Result<String, String> {
    let policy = rules::known();
    let reason = |denial: Box<agentsandbox_policy::Denial>| denial.reason.to_string();
    let asked = destination::read(head, binding, policy).map_err(reason)?;
    let permit = decision::decide(policy, rules::placeholders(), asked, &head.headers).map_err(reason)?;
    rules::check(&permit);
    if let Binding::Bound { host, port, .. } = binding {
        assert_eq!((permit.host(), permit.port()), (host, *port), "a bound connection leads elsewhere");
    }
    Ok(permit.rule().to_owned())
}

/// Runs a future to its end on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
