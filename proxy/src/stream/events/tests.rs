use super::*;

const LAST: &[u8] = b"event: error\ndata: {}\n\n";

/// What a client makes of a stream that ends here (WHATWG HTML, 9.2.6), by lines and fields and nothing else of ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::stream) struct Client {
    /// Type and data of each event that its program is told of.
    pub(in crate::stream) told: Vec<(String, String)>,
    /// With which it comes back.
    pub(in crate::stream) last_id: String,
    pub(in crate::stream) retry: Option<u64>,
}

pub(in crate::stream) fn client(stream: &[u8]) -> Client {
    let text = std::str::from_utf8(stream).expect("a client that takes no half character");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let (mut client, mut kind, mut data, mut id) =
        (Client::default(), String::new(), String::new(), String::new());
    // What no line end follows is no line.
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    for line in lines {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                client.last_id.clone_from(&id);
                if !data.is_empty() {
                    data.pop();
                    client.told.push((kind.clone(), data.clone()));
                }
                (kind, data) = Default::default();
            }
            "event" => kind = value.to_owned(),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                client.retry = value.parse().ok().or(client.retry);
            }
            _ => {}
        }
    }
    client
}

pub(in crate::stream) const STREAMS: [&str; 8] = [
    "data: first\n\ndata: {\"second\": 2}\n\n",
    "event: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n: ping\r\n\r\ndata: 12345\r\n\r\n",
    "id: 7\rdata: by CR\r\rid: 8\rdata\rdata: \r\r",
    "\u{feff}id: 1\ndata: x\n\nid: 22\nretry: 3000\ndata: y\n\nid\ndata: z\n\n:c\nretry: 10\n\n",
    "\u{feff}\n\u{feff}data: no field\n\ndata: grüße, 世界, 🦀, \u{800}\u{d000}\u{10000}\u{100000}\n\n",
    "id: a\0b\ndata: 1\n\ndata: 2\nid: \n\nidle: 3\nid:4\ndata:5\n\n",
    "\r\n\r\n: only\r\n: comments",
    "event: x\n\nevent: y\nid: 9\n\nnonsense\ndata: 1\n\n",
];

#[test]
fn p_h3_wherever_a_stream_is_cut_its_client_has_whole_events_alone_and_then_the_last_one() {
    for stream in STREAMS {
        for cut in 0..=stream.len() {
            for piece in [1, 2, usize::MAX] {
                let (passed, _) = stream.as_bytes().split_at(cut);
                let mut events = Events::default();
                for piece in passed.chunks(piece.min(passed.len().max(1))) {
                    events.pass(piece);
                }
                let ended = [passed, &events.close(), LAST].concat();
                let mut seen = client(&ended);
                assert_eq!(seen.told.pop(), Some(("error".into(), "{}".into())), "{stream:?} at {cut}");
                let halves: Vec<_> =
                    seen.told.extract_if(.., |(kind, _)| kind == "agentsandbox-cut").collect();
                assert!(halves.len() <= 1, "{stream:?} at {cut}");
                for (_, data) in halves {
                    assert!(data.ends_with("(the rest of this event was not passed on)"), "{data}");
                    assert!(
                        serde_json::from_str::<serde_json::Value>(&data).is_err(),
                        "{data} reads as JSON"
                    );
                }
                // As if it had ended there, when it discards what is not whole.
                let whole = String::from_utf8_lossy(passed).into_owned();
                assert_eq!(seen, client(whole.as_bytes()), "{stream:?} at {cut}");
            }
        }
    }
}

#[test]
fn p_h3_between_two_events_nothing_stands_before_the_last_one() {
    for passed in ["", "data: x\n\n", "data: x\r\n\r\n", ": ping\n", "data: x\n\n: ping\n"] {
        let mut events = Events::default();
        events.pass(passed.as_bytes());
        assert_eq!(events.close(), [] as [u8; 0], "{passed:?}");
    }
}

#[test]
fn p_h3_an_id_that_is_too_long_to_be_told_again_counts_as_none() {
    let long = "x".repeat(ID_BYTES_MAX + 45);
    let fits = &long[..ID_BYTES_MAX];
    for mark in ["", "\u{feff}"] {
        for (whole, half, kept) in [
            (Some(fits), Some("2"), fits),
            (Some(fits), Some(fits), fits),
            (Some(fits), Some(&long), fits),
            (Some(fits), None, fits),
            (Some(&long), Some("2"), ""),
            (Some(&long), Some(&long), ""),
            (Some(&long), Some(&long[..ID_BYTES_MAX + 1]), ""),
            (Some(&long[..ID_BYTES_MAX - 1]), Some(&long), &long[..ID_BYTES_MAX - 1]),
            (Some(&long[..ID_BYTES_MAX + 1]), Some("2"), ""),
            (None, Some(&long), ""),
            (None, Some("2"), ""),
            (Some(""), Some(&long), ""),
        ] {
            let id = |id: Option<&str>| id.map(|id| format!("id: {id}\n")).unwrap_or_default();
            let passed = format!("{mark}{}data: 1\n\n{}data: ha", id(whole), id(half));
            let mut events = Events::default();
            events.pass(passed.as_bytes());
            let ended = [passed.as_bytes(), &events.close(), LAST].concat();
            let (whole, half) = (whole.map(str::len), half.map(str::len));
            assert_eq!(client(&ended).last_id, kept, "{whole:?} {half:?} {mark:?}");
            assert!(events.line.capacity() <= 4 * LINE_BYTES_MAX, "a line is not gathered");
        }
    }
}

#[test]
fn p_i4_of_a_line_no_more_is_kept_than_the_longest_id_that_is_told() {
    let mut events = Events::default();
    for _ in 0..3 {
        events.pass("x".repeat(ID_BYTES_MAX).as_bytes());
    }
    // Behind a byte order mark, and a byte more, by which a longer one is known.
    assert_eq!(events.line.len(), "\u{feff}id: ".len() + ID_BYTES_MAX + 1);
}
