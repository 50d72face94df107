use std::sync::Arc;

use agentsandbox_policy::Injection;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;

use super::super::events::tests::{STREAMS, client};
use super::super::tests::Frames;
use super::super::{Cleaning, Session};
use super::*;
use crate::audit::tests::{Disk, audit, begin, read};
use crate::entrance::Entrance;
use crate::limits::{EVENT_BYTES_HELD_MAX, EVENTS_BYTES_HELD_MAX};
use crate::scrub::Scrubber;
use crate::secrets::Secret;

/// A stream on its way, the end where it comes from, and what was written down about it.
struct Rig {
    upstream: Option<mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>>,
    body: Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError>>>,
    traffic: Arc<Traffic>,
    disk: Disk,
}

/// A stream that is stopped behind so many bytes.
fn rig(most: Option<usize>, room: &Room) -> Rig {
    searched(None, most, room)
}

/// The same of one that is searched.
fn searched(scrubber: Option<Arc<Scrubber>>, most: Option<usize>, room: &Room) -> Rig {
    let disk = Disk::default().room(usize::MAX);
    let mut entry = audit(&disk).open(Entrance::HttpProxy, None);
    let asked = begin(&mut entry).unwrap();
    let traffic = entry.traffic();
    let (upstream, pieces) = mpsc::unbounded_channel();
    let pieces = futures::stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
    let cleaning = Cleaning { scrubber, session: Session::Passed };
    let most = most.map(|bytes| bytes.try_into().unwrap());
    let inner = Downward::new(StreamBody::new(pieces.boxed()), cleaning, None, entry).at_most(most);
    let body = Box::pin(EventStream::new(inner, asked, room.clone()));
    Rig { upstream: Some(upstream), body, traffic, disk }
}

impl Rig {
    fn sends(&self, piece: impl AsRef<[u8]>) {
        let piece = Bytes::copy_from_slice(piece.as_ref());
        self.upstream.as_ref().unwrap().send(Ok(Frame::data(piece))).unwrap();
    }

    /// What comes now.
    fn now(&mut self) -> Option<String> {
        let frame = futures::FutureExt::now_or_never(self.body.frame())?.unwrap().unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    /// All that comes until the end, and whether that is in order.
    fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        while let Some(frame) = futures::executor::block_on(self.body.frame()) {
            let Ok(frame) = frame else { return (all, false) };
            all.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        (all, true)
    }

    fn bytes_down(self) -> u64 {
        drop(self.body);
        read(&self.disk.lines()).last().unwrap()["bytesDown"].as_u64().unwrap()
    }
}

#[test]
fn p_h3_wherever_a_stream_is_stopped_its_client_has_whole_events_alone_and_nothing_of_the_next() {
    for stream in STREAMS {
        for cut in 0..stream.len() {
            for size in [1, 2, usize::MAX] {
                let (passed, stopped) = stream.as_bytes().split_at(cut);
                let mut rig = rig(Some(cut), &Room::default());
                passed.chunks(size.min(cut.max(1))).for_each(|piece| rig.sends(piece));
                rig.sends(stopped);
                let (all, in_order) = rig.rest();
                let text = std::str::from_utf8(&all).unwrap();
                let (before, last) = text.split_once("event: error\n").unwrap();
                assert!(in_order && last.contains("\"AnswerTooLarge\""), "{stream:?} at {cut}: {text}");
                // The CR that was passed on may be half of a line's end, and is made a whole one.
                let before = if before.len() > cut { before.strip_suffix('\n').unwrap() } else { before };
                assert!(passed.starts_with(before.as_bytes()), "{stream:?} at {cut}: {text}");
                let mut seen = client(&all);
                assert_eq!(seen.told.pop().unwrap().0, "error");
                // What a client may take of an event before it is whole.
                seen.retry = None;
                let mut whole = client(String::from_utf8_lossy(passed).as_bytes());
                whole.retry = None;
                assert_eq!(seen, whole, "{stream:?} at {cut}");
                assert_eq!(rig.bytes_down(), u64::try_from(before.len()).unwrap(), "{stream:?} at {cut}");
            }
        }
    }
}

#[test]
fn p_h3_a_whole_event_waits_for_nothing_and_half_of_one_for_its_end() {
    let mut rig = rig(None, &Room::default());
    for (piece, passed) in [
        ("data: 1\n\n", Some("data: 1\n\n")),
        ("data: 2\n\ndata", Some("data: 2\n\n")),
        (": 3", None),
        ("\n", None),
        ("\nid: 4", Some("data: 3\n\n")),
        ("\r\n\r\n", Some("id: 4\r\n\r\n")),
        ("data: 5\r\r", Some("data: 5\r\r")),
        ("\n", Some("\n")),
        (": ping\n", Some(": ping\n")),
        ("\n", Some("\n")),
        ("data: 6\n: in an event\n", None),
        ("\n", Some("data: 6\n: in an event\n\n")),
    ] {
        rig.sends(piece);
        assert_eq!(rig.now().as_deref(), passed, "{piece:?}");
    }
}

#[test]
fn p_h3_what_is_held_is_passed_on_where_its_upstream_ends_or_breaks_off_and_not_counted_where_its_agent_does()
{
    let mut ended = rig(None, &Room::default());
    ended.sends("data: half");
    assert_eq!(ended.now(), None);
    ended.upstream = None;
    assert_eq!(ended.rest(), (b"data: half".to_vec(), true));
    assert_eq!(ended.bytes_down(), 10);
    let mut broken = rig(None, &Room::default());
    broken.sends("data: half");
    broken.upstream.take().unwrap().send(Err("it broke".into())).unwrap();
    assert_eq!(broken.rest(), (b"data: half".to_vec(), false));
    let mut with_trailers = rig(None, &Room::default());
    with_trailers.sends("data: half");
    with_trailers.upstream.take().unwrap().send(Ok(Frame::trailers(HeaderMap::new()))).unwrap();
    assert_eq!(with_trailers.now().as_deref(), Some("data: half"));
    let trailers = futures::executor::block_on(with_trailers.body.frame()).unwrap().unwrap();
    assert!(trailers.is_trailers());
    let mut given_up = rig(None, &Room::default());
    given_up.sends("data: 1\n\ndata: half");
    assert_eq!(given_up.now().as_deref(), Some("data: 1\n\n"));
    assert_eq!((given_up.now(), given_up.bytes_down()), (None, 9));
}

#[test]
fn p_i4_an_event_that_there_is_no_room_for_is_passed_on_as_it_comes_and_the_next_is_held_again() {
    let room = Room::default();
    let long = "x".repeat(EVENT_BYTES_HELD_MAX - 6);
    let mut rig_of_long = rig(None, &room);
    rig_of_long.sends(format!("data: {long}"));
    assert_eq!(rig_of_long.now(), None, "as long as one may be");
    rig_of_long.sends("y");
    assert_eq!(rig_of_long.now(), Some(format!("data: {long}y")));
    for (piece, passed) in [("z", Some("z")), ("\n\ndata: 2", Some("\n\n")), ("\n\n", Some("data: 2\n\n"))] {
        rig_of_long.sends(piece);
        assert_eq!(rig_of_long.now().as_deref(), passed);
    }
    let mut others: Vec<Rig> =
        (0..EVENTS_BYTES_HELD_MAX / EVENT_BYTES_HELD_MAX).map(|_| rig(None, &room)).collect();
    for other in &mut others {
        other.sends(format!("data: {long}"));
        assert_eq!(other.now(), None);
    }
    for (piece, passed) in [("data: 3\n\nda", Some("data: 3\n\nda")), ("ta: 4\n\n", Some("ta: 4\n\n"))] {
        rig_of_long.sends(piece);
        assert_eq!(rig_of_long.now().as_deref(), passed, "all room is taken");
    }
    drop(others);
    rig_of_long.sends("data: 5");
    assert_eq!(rig_of_long.now(), None);
}

#[tokio::test(start_paused = true)]
async fn p_f6_of_half_a_secret_that_is_held_at_a_stop_nothing_is_passed_on() {
    const KEY: &str = "sk-live-0123456789abcdef";
    // In an event that is held, and in one that is too long to be.
    for before in ["data: ".to_owned(), format!("data: {}", "x".repeat(EVENT_BYTES_HELD_MAX))] {
        let scrubber = Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(KEY))]));
        let room = before.len() + 9;
        let mut rig = searched(Some(scrubber), Some(room), &Room::default());
        rig.sends("data: 1\n\n");
        rig.sends(format!("{before}{}", &KEY[..5]));
        // The half before was none; while this one is held there is no room for it.
        rig.sends(format!("y{}", &KEY[..9]));
        let mut all = Vec::new();
        while let Some(frame) = rig.body.frame().await {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        let text = String::from_utf8(all).unwrap();
        let (passed, _) = text.split_once("event: error").unwrap();
        assert!(passed.starts_with("data: 1\n\n"), "{passed:?}");
        assert!(text.contains("AnswerTooLarge") && !text.contains(&KEY[..3]), "{}", before.len());
    }
}

#[test]
fn an_event_stream_is_known_by_its_type_alone_and_where_it_is_not_packed() {
    for (kind, coding, expected) in [
        ("text/event-stream", "identity", true),
        ("Text/Event-Stream ; charset=utf-8", "Identity", true),
        ("text/event-stream", "gzip", false),
        ("text/plain", "identity", false),
        ("text/plain; text/event-stream", "identity", false),
    ] {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, kind.parse().unwrap());
        assert_eq!(is_event_stream(&fields), kind.to_ascii_lowercase().starts_with("text/event-stream"));
        fields.insert(CONTENT_ENCODING, coding.parse().unwrap());
        assert_eq!(is_event_stream(&fields), expected, "{kind} {coding}");
    }
    assert!(!is_event_stream(&HeaderMap::new()));
}

#[test]
fn p_h3_a_stream_is_over_with_its_upstream_and_not_while_something_waits_behind_what_was_held() {
    let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
    let trailers = || Frame::trailers(HeaderMap::new());
    for (left, over) in [
        (vec![data("data: 1\n\n")], &[false, true][..]),
        (vec![data("data: 1\n\n"), data("data: half")], &[false, false, true]),
        (vec![data("data: half"), trailers()], &[false, false, true]),
    ] {
        let mut entry = audit(&Disk::default().room(usize::MAX)).open(Entrance::HttpProxy, None);
        let asked = begin(&mut entry).unwrap();
        let cleaning = Cleaning { scrubber: None, session: Session::Passed };
        let inner = Frames { left: left.into(), is_over: true };
        let mut body = EventStream::new(Downward::new(inner, cleaning, None, entry), asked, Room::default());
        assert!(!body.is_watched(), "nothing can end it but its own end");
        let mut seen = vec![body.is_end_stream()];
        while seen.len() < over.len() {
            assert!(futures::executor::block_on(body.frame()).unwrap().is_ok());
            seen.push(body.is_end_stream());
        }
        assert_eq!(seen, over);
    }
}

#[test]
fn p_h3_the_last_event_tells_of_the_rule_and_first_of_what_stopped_the_upload_beside_it() {
    for (fault, reason) in [(None, "AnswerTooLarge"), (Some(Fault::OverLimit), "UploadLimitExceeded")] {
        let mut rig = rig(Some(3), &Room::default());
        if let Some(fault) = fault {
            rig.traffic.faults(fault);
        }
        assert_eq!(rig.body.size_hint().exact(), None);
        rig.sends("data: 1\n\n");
        let (all, in_order) = rig.rest();
        let text = String::from_utf8(all).unwrap();
        assert!(in_order && text.contains(reason) && text.contains("\"rule\":\""), "{text}");
        assert_eq!(rig.body.size_hint().exact(), Some(0), "nothing follows");
    }
}
