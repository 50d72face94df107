use std::io::Write;
use std::time::Duration;

use agentsandbox_policy::Injection;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::audit::tests::{Disk, audit, begin, read};
use crate::entrance::Entrance;
use crate::limits::{NARROW_DECODERS_MAX, WIDE_DECODERS_MAX};
use crate::secrets::Secret;

const KEY: &str = "sk-live-0123456789abcdef";

type Event = Result<Frame<Bytes>, BoxError>;

/// A body on its way, the end where it comes from, and what was written down about it.
struct Rig {
    upstream: Option<mpsc::UnboundedSender<Event>>,
    body: Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError>>>,
    disk: Disk,
}

fn rig(coding: Option<Coding>) -> Rig {
    let disk = Disk::default().room(usize::MAX);
    let mut entry = audit(&disk).open(Entrance::HttpProxy, None);
    begin(&mut entry).unwrap();
    let (upstream, events) = mpsc::unbounded_channel::<Event>();
    let events = futures::stream::unfold(events, |mut events| async { Some((events.recv().await?, events)) });
    let scrubber = Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(KEY))]));
    let places = Places::default();
    let decoding = coding.map(|coding| Decoding::new(coding, &places).unwrap());
    let cleaning = Cleaning { scrubber: Some(scrubber), session: Session::Removed };
    Rig {
        upstream: Some(upstream),
        body: Box::pin(Downward::new(StreamBody::new(events.boxed()), cleaning, decoding, entry)),
        disk,
    }
}

impl Rig {
    fn sends(&self, data: impl Into<Bytes>) {
        self.upstream.as_ref().unwrap().send(Ok(Frame::data(data.into()))).unwrap();
    }

    async fn frame(&mut self) -> String {
        let data = self.body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(data.to_vec()).unwrap()
    }

    async fn ends(&mut self) -> Result<String, BoxError> {
        self.upstream = None;
        let mut all = Vec::new();
        while let Some(frame) = self.body.frame().await {
            all.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok(String::from_utf8(all)?)
    }

    /// The reason at the end, once the body is gone.
    fn reason(self) -> Option<String> {
        drop(self.body);
        let lines = read(&self.disk.lines());
        assert_eq!(lines.last().unwrap()["event"], "end");
        lines.last().unwrap()["reason"].as_str().map(str::to_owned)
    }
}

#[tokio::test(start_paused = true)]
async fn p_h3_held_bytes_go_on_when_nothing_follows_them_for_long_enough_and_not_before() {
    let mut rig = rig(None);
    rig.sends(format!("data: {}", &KEY[..6]));
    assert_eq!(rig.frame().await, "data: ");
    let start = Instant::now();
    assert_eq!(rig.frame().await, &KEY[..6]);
    assert_eq!(start.elapsed(), HELD_BYTES_PATIENCE);
    // What follows in time is not waited for, and the patience begins anew.
    rig.sends(format!("x {}", &KEY[..6]));
    assert_eq!(rig.frame().await, "x ");
    tokio::time::sleep(HELD_BYTES_PATIENCE - Duration::from_millis(1)).await;
    rig.sends(format!("{} ", &KEY[6..]));
    assert_eq!(rig.frame().await, format!("{} ", "*".repeat(KEY.len())));
    rig.sends(format!("y {}", &KEY[..9]));
    assert_eq!(rig.frame().await, "y ");
    assert_eq!(rig.frame().await, "*".repeat(9), "too much of it to be shown");
    assert_eq!(rig.ends().await.unwrap(), "");
    assert_eq!(rig.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn p_f6_a_compressed_body_is_masked_while_it_streams() {
    let mut rig = rig(Some(Coding::Gzip));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for part in ["data: first\n\n", &format!("data: {KEY}\n\n")] {
        encoder.write_all(part.as_bytes()).unwrap();
        encoder.flush().unwrap();
        rig.sends(std::mem::take(encoder.get_mut()));
        assert_eq!(rig.frame().await, part.replace(KEY, &"*".repeat(KEY.len())), "before the next is sent");
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-echo", KEY.parse().unwrap());
    rig.sends(encoder.finish().unwrap());
    rig.upstream.take().unwrap().send(Ok(Frame::trailers(trailers))).unwrap();
    let trailers = rig.body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-echo"], "[redacted]");
    assert_eq!(rig.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn p_i5_a_body_that_breaks_says_why_and_one_that_is_whole_says_nothing() {
    for (cut, reason) in [(0, None), (3, Some("UnreadableAnswer"))] {
        let mut rig = rig(Some(Coding::Gzip));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"text").unwrap();
        let body = encoder.finish().unwrap();
        rig.sends(body[..body.len() - cut].to_vec());
        assert_eq!(rig.ends().await.is_ok(), reason.is_none());
        assert_eq!(rig.reason().as_deref(), reason);
    }
    let mut broken = rig(None);
    broken.sends("begun");
    assert_eq!(broken.frame().await, "begun");
    broken.upstream.as_ref().unwrap().send(Err("reset".into())).unwrap();
    assert!(broken.ends().await.is_err());
    assert_eq!(broken.reason().unwrap(), "AnswerBroken");
    let mut left = rig(None);
    left.sends("begun");
    assert_eq!(left.frame().await, "begun");
    assert_eq!(left.reason().unwrap(), "Interrupted");
}

#[test]
fn p_d10_answers_are_decoded_a_few_at_a_time_and_fewer_with_a_wide_window() {
    let places = Places::default();
    for (codings, most) in [
        ([Coding::Gzip, Coding::Deflate], NARROW_DECODERS_MAX),
        ([Coding::Brotli, Coding::Zstd], WIDE_DECODERS_MAX),
    ] {
        let mut taken: Vec<_> =
            (0..most).map(|number| Decoding::new(codings[number % 2], &places).unwrap()).collect();
        assert!(codings.iter().all(|coding| Decoding::new(*coding, &places).is_none()), "{codings:?}");
        taken.pop();
        assert!(codings.iter().all(|coding| Decoding::new(*coding, &places).is_some()), "one has ended");
    }
    assert!(Decoding::new(Coding::Gzip, &places).is_some());
}

#[test]
fn p_d10_an_answer_with_the_widest_window_of_brotli_takes_two_places_and_is_not_decoded_where_there_is_one() {
    /// How a body begins whose window has 16 MiB, and 8.
    const WIDEST: u8 = 0x0f;
    const HALF: u8 = 0x0d;
    // Blocks without content (RFC 7932, 9.2), of which the last is the end: they make the decoder read its window.
    let begins = |decoding: &mut Decoding, first: u8| {
        decoding.feed(&Bytes::new());
        decoding.feed(&Bytes::copy_from_slice(&[first]));
        decoding.decoder.step().is_ok()
    };
    let places = Places::default();
    // As many as have places begin together, each with one.
    let mut all: Vec<_> =
        (0..WIDE_DECODERS_MAX).map(|_| Decoding::new(Coding::Brotli, &places).unwrap()).collect();
    let begun: Vec<_> = all.iter_mut().map(|decoding| begins(decoding, WIDEST)).collect();
    assert_eq!(begun, [false, true, false, true], "half of them have two");
    drop(all);
    let mut taken: Vec<_> =
        (0..WIDE_DECODERS_MAX - 1).map(|_| Decoding::new(Coding::Brotli, &places).unwrap()).collect();
    assert!(taken.iter_mut().all(|decoding| begins(decoding, HALF)));
    let mut wide = Decoding::new(Coding::Brotli, &places).unwrap();
    assert!(!begins(&mut wide, WIDEST), "there is one place, and it has it");
    drop((taken.pop(), wide));
    let mut wide = Decoding::new(Coding::Brotli, &places).unwrap();
    assert!(begins(&mut wide, WIDEST));
    assert!(Decoding::new(Coding::Zstd, &places).is_none(), "it has two");
    drop(wide);
    assert!(Decoding::new(Coding::Zstd, &places).is_some());
    // In other codings that byte says nothing of a window.
    let mut other = Decoding::new(Coding::Gzip, &places).unwrap();
    other.feed(&Bytes::copy_from_slice(&[WIDEST]));
    assert!(Decoding::new(Coding::Zstd, &places).is_some());
}

/// A body that has as many bytes as were announced, and whose upstream leaves it open or not.
struct All {
    is_over: bool,
}

impl HttpBody for All {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

#[test]
fn p_i5_an_answer_that_nobody_reads_is_stopped_with_the_agents_own_body_until_its_upstream_has_ended_it() {
    for (fault, is_over, told) in [
        (Some(Fault::OverLimit), false, Some(DenialReason::UploadLimitExceeded)),
        (Some(Fault::OverLimit), true, None),
        (Some(Fault::Gone), false, None),
        (None, false, None),
    ] {
        let disk = Disk::default().room(usize::MAX);
        let mut entry = audit(&disk).open(Entrance::HttpProxy, None);
        begin(&mut entry).unwrap();
        let traffic = entry.traffic();
        let cleaning = Cleaning { scrubber: None, session: Session::Passed };
        let mut body = Downward::new(All { is_over }, cleaning, None, entry);
        if let Some(fault) = fault {
            traffic.faults(fault);
        }
        assert_eq!(body.stopped().map(|denial| denial.reason), told);
    }
}

/// A body of these frames, whose upstream leaves it open behind them or not.
pub(super) struct Frames {
    pub(super) left: std::collections::VecDeque<Frame<Bytes>>,
    pub(super) is_over: bool,
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.left.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.is_over => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|frame| u64::try_from(data_bytes(frame)).unwrap()).sum())
    }
}

#[tokio::test(start_paused = true)]
async fn p_i5_an_answer_is_whole_once_all_of_it_was_passed_on_and_not_while_some_of_it_is_held() {
    let half = format!("text {}", &KEY[..6]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"text").unwrap();
    let packed = encoder.finish().unwrap();
    for (data, has_trailers, coding, whole) in [
        (b"text".to_vec(), false, None, 1),
        (half.clone().into_bytes(), false, None, 2),
        (half.into_bytes(), true, None, 3),
        (packed, false, Some(Coding::Gzip), 2),
    ] {
        // Whoever breaks off an answer behind so many frames, and whether its upstream ends it then, or leaves it open.
        for (frames, is_over) in (0..=whole).flat_map(|frames| [(frames, true), (frames, false)]) {
            // What is packed ends with its upstream alone.
            if coding.is_some() && !is_over {
                continue;
            }
            let disk = Disk::default().room(usize::MAX);
            let mut entry = audit(&disk).open(Entrance::HttpProxy, None);
            begin(&mut entry).unwrap();
            let trailers = has_trailers.then(|| Frame::trailers(HeaderMap::new()));
            let left = [Frame::data(data.clone().into())].into_iter().chain(trailers).collect();
            let scrubber = Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(KEY))]));
            let cleaning = Cleaning { scrubber: Some(scrubber), session: Session::Passed };
            let decoding = coding.map(|coding| Decoding::new(coding, &Places::default()).unwrap());
            let mut body = Downward::new(Frames { left, is_over }, cleaning, decoding, entry);
            let mut passed = 0;
            for _ in 0..frames {
                passed += body.frame().await.and_then(Result::ok).map_or(0, |frame| data_bytes(&frame));
            }
            let told = (data.len(), frames, is_over);
            let left = u64::try_from(data.len() - passed.min(data.len())).unwrap();
            assert_eq!(body.size_hint().exact(), coding.is_none().then_some(left), "{told:?}");
            assert_eq!(body.is_end_stream(), is_over && coding.is_none() && frames == whole, "{told:?}");
            drop(body);
            let lines = read(&disk.lines());
            let reason = (frames < whole).then_some("Interrupted");
            assert_eq!(lines.last().unwrap()["reason"].as_str(), reason, "{told:?}");
        }
    }
}

#[test]
fn p_f14_an_answer_loses_the_session_that_a_key_opened_and_no_other() {
    for (session, left) in [(Session::Removed, false), (Session::Passed, true)] {
        let mut fields = HeaderMap::new();
        fields.insert("set-cookie", "a=b".parse().unwrap());
        Cleaning { scrubber: None, session }.clean(&mut fields, None);
        assert_eq!(fields.contains_key("set-cookie"), left, "{session:?}");
    }
}
