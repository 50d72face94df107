//! WebSockets. The handshake is a request like any other; only after a 101 that answers the agent's own key do bytes
//! pass both ways, and until either side ends, or the policy would not allow it any more, which the agent is told. What a host that
//! knows a secret sends down is masked, frame by frame; for that no extension is agreed on. Nothing else of the frames is read, but
//! for whether they are frames, and for where they end.

mod frames;
mod goodbye;

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_policy::DenialReason;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use self::frames::{Frames, Side};
use self::goodbye::{Code, Goodbye};
use crate::audit::{Entry, Traffic};
use crate::entrance::{EntranceContext, Origin};
use crate::headers;
use crate::limits::{HALF_CLOSED_IDLE_TIMEOUT, HELD_BYTES_PATIENCE, TUNNEL_IDLE_TIMEOUT};
use crate::pipeline::Proxy;
use crate::respond::{self, Body};
use crate::revoked::Allowed;
use crate::scrub::Scrubber;
use crate::scrub::frames::FrameMask;
use crate::upstream::Answer;

/// RFC 6455, 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CHUNK_BYTES: usize = 16 * 1024;

/// The `Sec-WebSocket-Accept` that answers this request.
#[must_use]
pub fn accept_for(asked: &HeaderMap) -> String {
    let key = asked.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SUFFIX].concat()))
}

/// Whether a 101 is the answer to our handshake, in which no extension was asked for where frames are read.
#[must_use]
pub fn is_accepted(answer: &HeaderMap, accept: &str, scrubber: Option<&Arc<Scrubber>>) -> bool {
    if scrubber.is_some() && answer.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return false;
    }
    let is_websocket =
        answer.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket
        && answer.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value.as_bytes() == accept.as_bytes())
}

/// Adds the fields of the handshake, which are per hop and so were stripped.
pub fn ask(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The agent's side of a WebSocket that was asked for.
pub(crate) struct Tunnel {
    /// The agent, once it has its 101.
    pub agent: OnUpgrade,
    /// What an upstream answers its key with.
    pub accept: String,
    /// As what it was allowed.
    pub allowed: Allowed,
}

/// Passes the 101 on and joins the two sides.
pub(crate) fn join(
    proxy: &Arc<Proxy>,
    context: &EntranceContext,
    Tunnel { agent, allowed, .. }: Tunnel,
    mut response: Response<Answer>,
    (scrubber, mut entry): (Option<Arc<Scrubber>>, Entry),
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let carries = Carries::Frames { may_extend: response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS) };
    let origin = context.origin.clone();
    let owner = Arc::clone(proxy);
    proxy.connections.spawn(async move {
        // Named here, or the block would capture the peer alone and let the slot go.
        let Origin { entrance, peer, slot: _slot, .. } = origin;
        let work = async {
            let mut cut = pin!(async {
                tokio::select! {
                    () = owner.shutdown.cancelled() => None,
                    reason = allowed.ends(&owner.policy) => Some(reason),
                }
            });
            let joined = tokio::select! {
                joined = async { tokio::try_join!(agent, upstream) } => joined,
                reason = &mut cut => return reason.into_iter().for_each(|reason| entry.breaks(reason)),
            };
            let Ok((agent, upstream)) = joined else { return };
            let (agent, upstream) = (TokioIo::new(agent), TokioIo::new(upstream));
            let sides = (agent, upstream, carries);
            let Some((reason, goodbye)) = relay(sides, scrubber.as_ref(), &mut entry, cut).await else {
                return;
            };
            reason.into_iter().for_each(|reason| entry.breaks(reason));
            // It is over, whatever the agent makes of it.
            drop(entry);
            goodbye.closes(reason.map_or(Code::GoingAway, |_| Code::PolicyViolation)).await;
        };
        tokio::select! {
            biased;
            () = owner.cuts_off(entrance, peer) => {}
            () = work => {}
        }
    });
    headers::strip_response(response.headers_mut());
    ask(response.headers_mut());
    response.map(|_| respond::empty())
}

/// What passes in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Whatever the two sides agree on.
    Bytes,
    /// A WebSocket's frames, and nothing else.
    Frames {
        /// Whether the handshake agreed on an extension.
        may_extend: bool,
    },
}

impl Carries {
    /// Judges what comes from a side; the answer is an error once it is nothing that may pass.
    fn judge(self, side: Side) -> impl FnMut(&[u8]) -> Result<(), Cut> {
        let mut frames = match self {
            Self::Bytes => None,
            Self::Frames { may_extend } => Some(Frames::new(side, may_extend)),
        };
        move |bytes| match &mut frames {
            Some(frames) => frames.pass(bytes).map_err(|_| match side {
                Side::Agent => Cut::NoFrame,
                Side::Upstream => Cut::Unreadable,
            }),
            None => Ok(()),
        }
    }
}

/// How a way of a tunnel was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Whoever is read from broke off.
    Source,
    /// Whoever is written to takes no more.
    Sink,
    /// What an upstream sent is no frame, or cannot be searched.
    Unreadable,
    /// What the agent sent is no frame.
    NoFrame,
    /// What was read may not be sent.
    OverLimit,
}

/// Passes bytes both ways until both sides have ended or are silent for too long, and counts them. That one side has no more to say
/// is passed on as well. Where it is `cut` before, the upstream's side ends at once, and the agent's is given back.
pub(crate) async fn relay<A: AsyncRead + AsyncWrite, C>(
    (agent, upstream, carries): (A, impl AsyncRead + AsyncWrite, Carries),
    scrubber: Option<&Arc<Scrubber>>,
    entry: &mut Entry,
    cut: impl Future<Output = C>,
) -> Option<(C, Goodbye<A>)> {
    let (mut read, mut write) = tokio::io::split(agent);
    let frames = Mutex::new(Frames::new(Side::Upstream, true));
    let cut = tokio::select! {
        () = pass((&mut read, &mut write), (upstream, carries), scrubber, entry, &frames) => return None,
        cut = cut => cut,
    };
    let frames = frames.into_inner().unwrap_or_else(PoisonError::into_inner);
    Some((cut, Goodbye { read, write, frames }))
}

async fn pass(
    (agent_read, agent_write): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (upstream, carries): (impl AsyncRead + AsyncWrite, Carries),
    scrubber: Option<&Arc<Scrubber>>,
    entry: &mut Entry,
    frames: &Mutex<Frames>,
) {
    let traffic = entry.traffic();
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let mut is_frames = carries.judge(Side::Agent);
    let may_go_up = |bytes: &[u8]| {
        is_frames(bytes)?;
        traffic.spends(u64::try_from(bytes.len()).unwrap_or(u64::MAX)).map_err(|_| Cut::OverLimit)
    };
    let up = copy(agent_read, upstream_write, |bytes| traffic.goes_up(bytes.len()), may_go_up);
    let may_go_down = carries.judge(Side::Upstream);
    let went_down = |bytes: &[u8]| {
        traffic.goes_down(bytes.len());
        // Bytes that are no frames have no place where one may begin.
        let _ = frames.lock().unwrap_or_else(PoisonError::into_inner).pass(bytes);
    };
    let down = async {
        match scrubber {
            Some(scrubber) => {
                let mask = FrameMask::new(scrubber);
                copy_masked(upstream_read, agent_write, went_down, (mask, may_go_down)).await
            }
            None => copy(upstream_read, agent_write, went_down, may_go_down).await,
        }
    };
    let mut up = pin!(up);
    let mut down = pin!(down);
    let both = async {
        tokio::select! {
            // The agent may have said all it has to say, and still listen.
            ended = &mut up => match ended {
                // Nobody is left to hear the other side, or nobody who may.
                Err(Cut::OverLimit | Cut::NoFrame | Cut::Source) => (Some(ended), Some(Ok(()))),
                _ => (Some(ended), unless_silent(&traffic, down).await),
            },
            ended = &mut down => match ended {
                Err(Cut::Unreadable) => (Some(Ok(())), Some(ended)),
                _ => (unless_silent(&traffic, up).await, Some(ended)),
            },
            () = silence(&traffic, TUNNEL_IDLE_TIMEOUT) => (None, None),
        }
    };
    match both.await {
        // Why is known to the one who counts.
        (Some(Err(Cut::OverLimit)), _) | (_, Some(Err(Cut::OverLimit))) => {}
        (Some(Err(Cut::NoFrame)), _) | (_, Some(Err(Cut::NoFrame))) => {
            entry.breaks(DenialReason::MalformedRequest);
        }
        (_, Some(Err(Cut::Unreadable))) => entry.breaks(DenialReason::UnreadableAnswer),
        (_, Some(Err(Cut::Source))) => entry.breaks(DenialReason::AnswerBroken),
        (_, Some(Err(Cut::Sink))) | (Some(Err(Cut::Source)), _) => entry.breaks(DenialReason::Interrupted),
        // One that fell silent, where the other had no more to say.
        (None, _) | (_, None) => entry.breaks(DenialReason::LimitExceeded),
        // An upstream that takes no more has said so, or goes on saying what it has to say.
        (Some(Ok(()) | Err(Cut::Sink | Cut::Unreadable)), Some(Ok(()))) => entry.completes(),
    }
}

/// The end of the way that is left, unless nothing passes there for too long.
async fn unless_silent<T>(traffic: &Traffic, left: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        ended = left => Some(ended),
        () = silence(traffic, HALF_CLOSED_IDLE_TIMEOUT) => None,
    }
}

/// Completes when nothing has been passed on for this long, or up to half as long again.
async fn silence(traffic: &Traffic, bound: Duration) {
    let (mut before, mut is_silent) = (traffic.passed(), false);
    loop {
        sleep(bound / 2).await;
        let now = traffic.passed();
        if now == before && is_silent {
            return;
        }
        (before, is_silent) = (now, now == before);
    }
}

/// What was read, or the end. Many servers close without TLS's goodbye, so that an end without it is one.
async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<usize, Cut> {
    match from.read(buffer).await {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
        read => read.map_err(|_| Cut::Source),
    }
}

/// Ends the other side too, which would wait for the end; also where this one broke off.
async fn end(to: &mut (impl AsyncWrite + Unpin), ended: Result<(), Cut>) -> Result<(), Cut> {
    let told = to.shutdown().await.map_err(|_| Cut::Sink);
    ended.and(told)
}

/// Copies and tells what was written while it goes, so that a tunnel that is cut off is counted as well. What `may_go` refuses is not
/// written, nor what came with it.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    went: impl Fn(&[u8]),
    mut may_go: impl FnMut(&[u8]) -> Result<(), Cut>,
) -> Result<(), Cut> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match read(&mut from, &mut buffer).await {
            Ok(read @ 1..) => {
                let bytes = buffer.get(..read).unwrap_or_default();
                may_go(bytes)?;
                write(&mut to, bytes, &went).await?;
            }
            ended => return end(&mut to, ended.map(drop)).await,
        }
    }
}

/// The same, with secrets masked. What may be the beginning of one waits for what follows, but not for long.
async fn copy_masked(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    went: impl Fn(&[u8]),
    (mut mask, mut may_go): (FrameMask, impl FnMut(&[u8]) -> Result<(), Cut>),
) -> Result<(), Cut> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = if mask.holds() {
            let Ok(read) = timeout(HELD_BYTES_PATIENCE, read(&mut from, &mut buffer)).await else {
                write(&mut to, &mask.release(), &went).await?;
                continue;
            };
            read
        } else {
            read(&mut from, &mut buffer).await
        };
        let read = match read {
            Ok(read @ 1..) => read,
            ended => {
                write(&mut to, &mask.release(), &went).await?;
                return end(&mut to, ended.map(drop)).await;
            }
        };
        let bytes = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
        may_go(&bytes)?;
        let clean = mask.pass(bytes).map_err(|_| Cut::Unreadable)?;
        write(&mut to, &clean, &went).await?;
    }
}

/// Writes all of it. Each part is counted when it is taken, so that what went before a tunnel was cut is counted too.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    mut rest: &[u8],
    went: &impl Fn(&[u8]),
) -> Result<(), Cut> {
    if rest.is_empty() {
        return Ok(());
    }
    while !rest.is_empty() {
        let written = to.write(rest).await.map_err(|_| Cut::Sink)?;
        if written == 0 {
            return Err(Cut::Sink);
        }
        let (now, left) = rest.split_at(written.min(rest.len()));
        went(now);
        rest = left;
    }
    to.flush().await.map_err(|_| Cut::Sink)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{ReadBuf, duplex, empty, join, sink};

    use super::frames::tests::frame;
    use super::*;
    use crate::audit::tests::{Disk, audit, begin, read};
    use crate::entrance::Entrance;

    struct BreaksOff(ErrorKind);

    impl AsyncRead for BreaksOff {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    #[tokio::test]
    async fn p_h1_a_side_that_breaks_off_ends_the_other_at_once() {
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset] {
            let (mut agent, ours) = duplex(64);
            // The reading half lives on, as it does in a relay.
            let (_up, down) = tokio::io::split(ours);
            let ended = copy(BreaksOff(kind), down, |_| (), |_| Ok(())).await;
            assert_eq!(ended.is_ok(), kind == ErrorKind::UnexpectedEof);
            assert_eq!(agent.read(&mut [0]).await.unwrap(), 0);
        }
    }

    /// The reason at the end of a tunnel between these two, and the bytes that went down.
    async fn told(
        agent: impl AsyncRead + AsyncWrite,
        upstream: impl AsyncRead + AsyncWrite,
    ) -> (Option<String>, u64) {
        told_of(agent, upstream, Carries::Bytes).await
    }

    /// The same, of a tunnel that carries this.
    async fn told_of(
        agent: impl AsyncRead + AsyncWrite,
        upstream: impl AsyncRead + AsyncWrite,
        carries: Carries,
    ) -> (Option<String>, u64) {
        let disk = Disk::default().room(usize::MAX);
        let mut entry = audit(&disk).open(Entrance::HttpProxy, None);
        begin(&mut entry).unwrap();
        let frames = Mutex::new(Frames::new(Side::Upstream, true));
        pass(tokio::io::split(agent), (upstream, carries), None, &mut entry, &frames).await;
        drop(entry);
        let end = read(&disk.lines()).pop().unwrap();
        (end["reason"].as_str().map(str::to_owned), end["bytesDown"].as_u64().unwrap())
    }

    #[tokio::test]
    async fn p_i5_a_tunnel_that_is_cut_says_by_whom_and_one_that_ends_says_nothing() {
        let quiet = || join(empty(), sink());
        let says = || join(&b"data"[..], sink());
        let breaks = |kind| join(BreaksOff(kind), sink());
        assert_eq!(told(quiet(), says()).await, (None, 4));
        assert_eq!(told(quiet(), breaks(ErrorKind::UnexpectedEof)).await, (None, 0), "without a goodbye");
        let of = |reason: &str| Some(reason.to_owned());
        assert_eq!(told(quiet(), breaks(ErrorKind::ConnectionReset)).await, (of("AnswerBroken"), 0));
        assert_eq!(told(breaks(ErrorKind::ConnectionReset), says()).await.0, of("Interrupted"));
        let (deaf, peer) = duplex(64);
        drop(peer);
        assert_eq!(told(deaf, says()).await, (of("Interrupted"), 0));
    }

    #[tokio::test]
    async fn p_h1_only_frames_pass_in_a_websocket_and_whoever_sends_others_is_named() {
        let carries = Carries::Frames { may_extend: false };
        let of = |reason: &str| Some(reason.to_owned());
        for (says, reason) in [
            (frame(Side::Agent, 0x81, 5), None),
            (b"SSH-2.0-x\r\n".to_vec(), of("MalformedRequest")),
            (frame(Side::Upstream, 0x81, 5), of("MalformedRequest")),
            ([frame(Side::Agent, 0x81, 5), b"raw".to_vec()].concat(), of("MalformedRequest")),
        ] {
            let ((mut agent, near), (mut upstream, far)) = (duplex(1024), duplex(1024));
            let both = async {
                agent.write_all(&says).await.unwrap();
                agent.shutdown().await.unwrap();
                let mut went = Vec::new();
                upstream.read_to_end(&mut went).await.unwrap();
                upstream.shutdown().await.unwrap();
                went
            };
            let (ended, went) = tokio::join!(told_of(near, far, carries), both);
            assert_eq!(ended.0, reason, "{says:?}");
            assert_eq!(went, if reason.is_none() { says } else { Vec::new() });
        }
        let says = |bytes: Vec<u8>| join(std::io::Cursor::new(bytes), sink());
        let quiet = || join(empty(), sink());
        assert_eq!(told_of(quiet(), says(frame(Side::Upstream, 0x81, 5)), carries).await, (None, 7));
        for bytes in [b"SSH-2.0-x\r\n".to_vec(), frame(Side::Agent, 0x81, 5)] {
            assert_eq!(told_of(quiet(), says(bytes), carries).await, (of("UnreadableAnswer"), 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p_i5_a_tunnel_whose_other_side_is_silent_says_who_broke_it_and_ends_at_once_without_its_agent() {
        let broken = || join(BreaksOff(ErrorKind::ConnectionReset), sink());
        let (_silent, ours) = duplex(64);
        let begin = tokio::time::Instant::now();
        assert_eq!(told(broken(), ours).await, (Some("Interrupted".to_owned()), 0));
        assert_eq!(begin.elapsed(), Duration::ZERO, "nobody is left to hear it");
        let (_silent, ours) = duplex(64);
        assert_eq!(told(ours, broken()).await, (Some("AnswerBroken".to_owned()), 0));
        assert!(begin.elapsed() >= HALF_CLOSED_IDLE_TIMEOUT, "the agent may still have something to say");
    }

    #[tokio::test(start_paused = true)]
    async fn p_h1_a_tunnel_in_which_nothing_passes_ends_and_sooner_once_one_side_has_ended() {
        for (is_shut, bound) in [(false, TUNNEL_IDLE_TIMEOUT), (true, HALF_CLOSED_IDLE_TIMEOUT)] {
            let ((mut agent, ours), (mut upstream, theirs)) = (duplex(64), duplex(64));
            if is_shut {
                agent.shutdown().await.unwrap();
            }
            let begin = tokio::time::Instant::now();
            assert_eq!(told(ours, theirs).await, (Some("LimitExceeded".to_owned()), 0));
            let ended = begin.elapsed();
            assert!(bound <= ended && ended <= bound * 3 / 2, "{ended:?}");
            // One in which a byte comes now and then goes on, whoever says it.
            let ((mut near, ours), (mut far, theirs)) = (duplex(64), duplex(64));
            if is_shut {
                near.shutdown().await.unwrap();
            }
            let says = async {
                for _ in 0..5 {
                    sleep(bound * 2 / 3).await;
                    far.write_all(b"x").await.unwrap();
                    near.read_exact(&mut [0]).await.unwrap();
                }
                drop((near, far));
            };
            let (ended, ()) = tokio::join!(told(ours, theirs), says);
            assert_eq!(ended, (None, 5), "{is_shut}");
            drop((agent, upstream.shutdown().await));
        }
    }
}
