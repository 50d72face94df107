//! What comes back from an upstream: fields, streams, frames of a WebSocket, compressed bodies. A secret never passes.

use std::sync::{Arc, LazyLock};

use agentsandbox_policy::Injection;
use agentsandbox_proxy::limits::{DECODED_FREE_BYTES, DECODED_RATIO_MAX};
use agentsandbox_proxy::scrub::decode::{Coding, Decoder, Undecodable};
use agentsandbox_proxy::scrub::frames::{FrameMask, NoFrame};
use agentsandbox_proxy::scrub::{BodyMask, Scrubber};
use agentsandbox_proxy::secrets::Secret;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::pieces::{cut, ends};

const SECRETS: [&str; 3] = ["sk-live-0123456789abcdef", "Re/al%+41?0123==\"x", "pass:wo.rd~01234"];
/// As many bytes of a secret may have gone before it is known for one: a stream never waits for fewer than four.
const UNHELD_BYTES_MAX: usize = 3;

fn scrubber() -> Arc<Scrubber> {
    static KNOWN: LazyLock<Arc<Scrubber>> = LazyLock::new(|| {
        let injections = [
            Injection::Bearer,
            Injection::Query { name: "key".to_owned() },
            Injection::Basic { username: "user".to_owned() },
        ];
        let secret = |text: &str| Secret::parse(text.as_bytes().to_vec().into()).expect("it is one");
        let secrets = SECRETS.map(secret);
        Arc::new(Scrubber::new(injections.iter().zip(&secrets)))
    });
    Arc::clone(&KNOWN)
}

/// Each secret as it is, in hexadecimal, and percent-encoded.
fn needles() -> &'static [Vec<u8>] {
    static KNOWN: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let percent = |byte: u8| match byte {
            plain if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                char::from(plain).to_string()
            }
            other => format!("%{other:02X}"),
        };
        let spelled = |text: &str| {
            [text.to_owned(), hex(text), hex(text).to_uppercase(), text.bytes().map(percent).collect()]
        };
        SECRETS.iter().flat_map(|text| spelled(text)).map(String::into_bytes).collect()
    });
    &KNOWN
}

fn holds(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

/// Where secrets stand in a text.
fn places(text: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    needles().iter().flat_map(move |needle| {
        let at =
            text.windows(needle.len()).enumerate().filter(move |(_, window)| *window == needle.as_slice());
        at.map(|(at, window)| (at, at + window.len()))
    })
}

/// What is passed on of a stream is as long as what came, has an asterisk wherever it differs, shows no secret, and is
/// the same however it was cut, but for the bytes before a cut that are too few to be held.
pub fn sse(data: &[u8]) {
    let (pieces, whole) = (cut(data), masked(&[data]));
    let passed = masked(&pieces);
    assert_eq!((whole.len(), passed.len()), (data.len(), data.len()));
    assert!(places(data).all(|(start, end)| whole[start..end].iter().all(|byte| *byte == b'*')));
    for (start, end) in places(data) {
        let least = &passed[(start + UNHELD_BYTES_MAX)..end];
        assert!(least.iter().all(|byte| *byte == b'*'), "{}", String::from_utf8_lossy(&passed));
    }
    let ends = ends(&pieces);
    for (at, (passed, whole)) in passed.iter().zip(&whole).enumerate().filter(|(_, (a, b))| a != b) {
        assert_eq!((Some(passed), *whole), (data.get(at), b'*'), "at {at}");
        let follows = |end: &usize| *end > at && *end <= at + UNHELD_BYTES_MAX;
        assert!(ends.iter().any(follows), "at {at}, where nothing was cut");
    }
}

fn masked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut mask = BodyMask::new(scrubber());
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&mask.pass(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&mask.release());
    out
}

/// No field shows a secret, in whatever spelling, once it is scrubbed; and scrubbing it again changes nothing.
pub fn fields(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for (number, line) in data.split(|byte| *byte == b'\n').take(64).enumerate() {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (HeaderName::from_bytes(&line[..at]).ok(), &line[at + 1..]),
            None => (None, line),
        };
        let name = name.unwrap_or_else(|| HeaderName::try_from(format!("x-{number}")).expect("a name"));
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    scrubber().scrub(&mut headers);
    for (name, value) in &headers {
        let mut text = value.as_bytes().to_vec();
        for layer in 0..=3 {
            let shown = needles().iter().find(|needle| holds(&text, needle));
            assert_eq!(shown, None, "decoded {layer} times: {value:?}");
            text = percent_decoded(&text);
        }
        let lower = |needle: &&Vec<u8>| holds(name.as_str().as_bytes(), &needle.to_ascii_lowercase());
        assert_eq!(needles().iter().find(lower), None, "{name}");
    }
    let mut again = headers.clone();
    scrubber().scrub(&mut again);
    assert_eq!(again, headers, "scrubbed again it is something else");
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |digit: &u8| char::from(*digit).to_digit(16);
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        let value = match after {
            [high, low, ..] if *first == b'%' => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        out.push(value.and_then(|value| u8::try_from(value).ok()).unwrap_or(*first));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    out
}

/// Frames stay frames and show no secret, however they are cut; what is none ends the connection at the same place.
pub fn websocket(data: &[u8]) {
    let pass = |pieces: &[&[u8]]| -> Result<Vec<u8>, (Vec<u8>, NoFrame)> {
        let mut mask = FrameMask::new(&scrubber());
        let mut out = Vec::new();
        for piece in pieces {
            match mask.pass(Bytes::copy_from_slice(piece)) {
                Ok(clean) => out.extend_from_slice(&clean),
                Err(error) => return Err((out, error)),
            }
        }
        out.extend_from_slice(&mask.release());
        Ok(out)
    };
    let (payloads, is_broken) = payloads(data);
    let (whole, pieces) = (pass(&[data]), pass(&cut(data)));
    assert_eq!((whole.is_err(), pieces.is_err()), (is_broken, is_broken));
    let (Ok(whole), Ok(pieces)) = (whole, pieces) else { return };
    assert_eq!(whole.len(), pieces.len());
    assert!(whole.len() <= data.len());
    let in_payload = |at: usize| payloads.iter().any(|(start, end)| (*start..*end).contains(&at));
    for (at, byte) in pieces.iter().enumerate().chain(whole.iter().enumerate()) {
        assert!(data.get(at) == Some(byte) || (*byte == b'*' && in_payload(at)), "at {at}");
    }
    for (start, end) in &payloads {
        for (from, until) in places(&data[*start..*end]) {
            assert!(whole[start + from..start + until].iter().all(|byte| *byte == b'*'));
            let least = &pieces[start + from + UNHELD_BYTES_MAX..start + until];
            assert!(least.iter().all(|byte| *byte == b'*'));
        }
    }
}

/// Where payloads stand in a server's bytes (RFC 6455, 5.2), and whether something in them is no frame of a server
/// without extensions.
fn payloads(data: &[u8]) -> (Vec<(usize, usize)>, bool) {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(head) = data.get(at..).filter(|head| head.len() > 1) {
        if head[0] & 0x70 != 0 || head[1] & 0x80 != 0 {
            return (all, true);
        }
        let long = match head[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(length) = head.get(2..2 + long) else { break };
        let length = length.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let length = if long == 0 { u64::from(head[1]) } else { length };
        let start = at + 2 + long;
        let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(start).min(data.len());
        all.push((start, end));
        at = end;
    }
    (all, false)
}

/// A compressed body becomes the same text however it is cut, is bounded, or is not passed on.
pub fn decode(data: &[u8]) {
    let Some((coding, body)) = data.split_first() else { return };
    let coding = match coding % 4 {
        0 => Coding::Gzip,
        1 => Coding::Deflate,
        2 => Coding::Brotli,
        _ => Coding::Zstd,
    };
    let (whole, pieces) = (decoded(coding, &[body]), decoded(coding, &cut(body)));
    let bound = body.len() as u64 * DECODED_RATIO_MAX + DECODED_FREE_BYTES;
    for (text, _) in [&whole, &pieces] {
        assert!(text.len() as u64 <= bound, "{coding:?}: {} bytes of {}", text.len(), body.len());
    }
    match (&whole, &pieces) {
        ((text, Ok(())), (other, Ok(()))) => assert_eq!(text, other, "{coding:?}"),
        // Less has been fed when the bound is looked at.
        ((text, Ok(())), (_, Err(_))) => {
            assert!(text.len() as u64 > DECODED_FREE_BYTES, "{coding:?}: cut, it cannot be decoded");
        }
        ((_, Err(_)), (_, Ok(()))) => panic!("{coding:?}: cut, it can be decoded"),
        ((text, Err(_)), (other, Err(_))) => {
            let length = text.len().min(other.len());
            assert_eq!(text[..length], other[..length], "{coding:?}");
        }
    }
}

fn decoded(coding: Coding, pieces: &[&[u8]]) -> (Vec<u8>, Result<(), Undecodable>) {
    let mut decoder = Decoder::new(coding);
    let mut out = Vec::new();
    let mut step = |decoder: &mut Decoder| -> Result<(), Undecodable> {
        while let Some(step) = decoder.step()? {
            out.extend_from_slice(&step);
        }
        Ok(())
    };
    let mut ended = pieces.iter().try_for_each(|piece| {
        decoder.feed(&Bytes::copy_from_slice(piece));
        step(&mut decoder)
    });
    if ended.is_ok() {
        decoder.end();
        ended = step(&mut decoder);
    }
    (out, ended)
}
