use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;

/// A text of words, as the encoders of brotli and zstd made them: what is decoded is compared with the text.
const TEXT: &str = include_str!("fixtures/text.txt");
const BROTLI: &[u8] = include_bytes!("fixtures/text.br");
const ZSTD: &[u8] = include_bytes!("fixtures/text.zst");

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// What comes out when the body comes in pieces of these sizes, the last one repeated.
fn decoded(coding: Coding, body: &[u8], piece_bytes: usize) -> Result<Vec<u8>, Undecodable> {
    let mut decoder = Decoder::new(coding);
    let mut out = Vec::new();
    for piece in body.chunks(piece_bytes.max(1)) {
        decoder.feed(&Bytes::copy_from_slice(piece));
        while let Some(step) = decoder.step()? {
            assert!(step.len() < STEP_BYTES + READ_BYTES);
            out.extend_from_slice(&step);
        }
    }
    decoder.end();
    while let Some(step) = decoder.step()? {
        out.extend_from_slice(&step);
    }
    Ok(out)
}

fn all() -> [(Coding, Vec<u8>); 4] {
    [
        (Coding::Gzip, gzip(TEXT.as_bytes())),
        (Coding::Deflate, zlib(TEXT.as_bytes())),
        (Coding::Brotli, BROTLI.to_vec()),
        (Coding::Zstd, ZSTD.to_vec()),
    ]
}

#[test]
fn p_f6_each_coding_is_decoded_however_it_is_cut() {
    for (coding, body) in all() {
        for piece_bytes in [1, 2, 3, 7, 17, 18, 19, 61, 1000, body.len()] {
            let text = decoded(coding, &body, piece_bytes).unwrap();
            assert_eq!(text, TEXT.as_bytes(), "{coding:?} in pieces of {piece_bytes}");
        }
    }
}

/// A frame of zstd with a window of 128 KiB whose blocks are written as they stand, or are one byte so many times.
fn zstd_of(blocks: &[(usize, &[u8], usize)]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    for (number, (kind, bytes, size)) in blocks.iter().enumerate() {
        let header = size << 3 | kind << 1 | usize::from(number + 1 == blocks.len());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(bytes);
    }
    frame
}

#[test]
fn blocks_of_zstd_of_each_size_and_kind_are_decoded_however_they_are_cut() {
    let text: Vec<u8> = (0..100_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let (plain, repeated) = (0, 1);
    let body = zstd_of(&[
        (plain, &text[..1], 1),
        (plain, &text[1..300], 299),
        (repeated, b"x", 90_000),
        (plain, &text[300..], text.len() - 300),
    ]);
    let expected = [&text[..300], &vec![b'x'; 90_000], &text[300..]].concat();
    for piece_bytes in [1, 5, 4096, body.len()] {
        assert!(decoded(Coding::Zstd, &body, piece_bytes) == Ok(expected.clone()), "{piece_bytes}");
    }
    assert!(decoded(Coding::Zstd, &body[..body.len() - 1], 4096).is_err(), "the last byte is missing");
}

#[test]
fn as_much_is_decoded_as_the_bound_says_and_not_a_byte_more() {
    let fed = 6 + 9 * 4;
    let last = usize::try_from(fed * DECODED_RATIO_MAX + DECODED_FREE_BYTES).unwrap() - 8 * (128 << 10);
    for (size, fits) in [(last, true), (last + 1, false)] {
        let mut blocks = vec![(1, &b"x"[..], 128 << 10); 8];
        blocks.push((1, b"x", size));
        let body = zstd_of(&blocks);
        assert_eq!(
            (body.len() as u64, decoded(Coding::Zstd, &body, body.len()).is_ok()),
            (fed, fits),
            "{size}"
        );
    }
}

#[test]
fn each_answer_that_is_decoded_takes_one_of_the_places_of_its_kind_until_it_is_over() {
    for (coding, other, most) in [
        (Coding::Gzip, Coding::Zstd, NARROW_DECODERS_MAX),
        (Coding::Deflate, Coding::Brotli, NARROW_DECODERS_MAX),
        (Coding::Brotli, Coding::Gzip, WIDE_DECODERS_MAX),
        (Coding::Zstd, Coding::Deflate, WIDE_DECODERS_MAX),
    ] {
        let places = Places::default();
        let mut taken: Vec<_> = (0..most).map(|_| places.take(coding).unwrap()).collect();
        assert!(places.take(coding).is_none() && places.take(other).is_some(), "{coding:?}");
        taken.pop();
        assert!(places.take(coding).is_some(), "{coding:?}");
    }
}

#[test]
fn several_members_or_frames_are_one_body() {
    let twice = |body: &[u8]| [body, body].concat();
    for (coding, body) in [(Coding::Gzip, gzip(TEXT.as_bytes())), (Coding::Zstd, ZSTD.to_vec())] {
        assert_eq!(decoded(coding, &twice(&body), 64).unwrap(), twice(TEXT.as_bytes()), "{coding:?}");
    }
}

#[test]
fn p_f7_what_is_cut_off_damaged_or_followed_by_something_is_not_decoded() {
    for (coding, body) in all() {
        assert!(decoded(coding, &body, 64).is_ok());
        for length in [1, body.len() / 2, body.len() - 1] {
            assert_eq!(decoded(coding, &body[..length], 64), Err(Undecodable), "{coding:?} cut at {length}");
        }
        let more = [&body[..], b"more"].concat();
        assert_eq!(decoded(coding, &more, 64), Err(Undecodable), "{coding:?} and more");
        assert_eq!(decoded(coding, b"no such body, in no coding at all", 64), Err(Undecodable), "{coding:?}");
        assert_eq!(decoded(coding, b"", 64).unwrap(), b"", "{coding:?}: an answer without a body");
    }
}

#[test]
fn p_d10_what_grows_beyond_the_bound_is_broken_off() {
    let ratio = usize::try_from(DECODED_RATIO_MAX).unwrap();
    let free = usize::try_from(DECODED_FREE_BYTES).unwrap();
    for (coding, encode) in [(Coding::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Coding::Deflate, zlib)] {
        let largest = vec![0; free];
        assert_eq!(decoded(coding, &encode(&largest), 64).unwrap().len(), free, "{coding:?}");
        let bomb = encode(&vec![0; 8 * free]);
        assert!(bomb.len() * ratio + free < 8 * free, "{coding:?}: it is none");
        assert_eq!(decoded(coding, &bomb, 64), Err(Undecodable), "{coding:?}");
    }
    // One block of one byte, 128 KiB times, and again.
    let block = |last: u32| ((128 << 10 << 3) | (1 << 1) | last).to_le_bytes()[..3].to_vec();
    let header = [&0xFD2F_B528_u32.to_le_bytes()[..], &[0, 7 << 3]].concat();
    let frame = |blocks: usize| {
        let body = |last: u32| [block(last), vec![0]].concat();
        [header.clone(), body(0).repeat(blocks), body(1)].concat()
    };
    assert_eq!(decoded(Coding::Zstd, &frame(3), 64).unwrap().len(), 4 * (128 << 10));
    assert_eq!(decoded(Coding::Zstd, &frame(free >> 14), 64), Err(Undecodable));
}

#[test]
fn p_d10_a_window_beyond_the_bound_is_not_decoded() {
    // The window's exponent stands in the upper five bits, above 2^10 (RFC 8878, 3.1.1.1.2).
    let frame = |exponent: u8| {
        [&0xFD2F_B528_u32.to_le_bytes()[..], &[0, (exponent - 10) << 3, 0b1001, 0, 0, b'x']].concat()
    };
    let widest = u8::try_from(DECODED_WINDOW_BYTES_MAX.ilog2()).unwrap();
    let fits = decoded(Coding::Zstd, &frame(widest), 64);
    assert_eq!(fits.unwrap(), b"x");
    assert_eq!(decoded(Coding::Zstd, &frame(widest + 1), 64), Err(Undecodable));
    // Nothing, in brotli with a large window: 0x11, the window's exponent in six bits, and the end.
    assert_eq!(decoded(Coding::Brotli, &[0x11, 0b11 << 6 | 30], 64), Err(Undecodable));
    // And with the smallest one.
    assert_eq!(decoded(Coding::Brotli, &[0b0110], 64).unwrap(), b"");
}

#[test]
fn p_f7_only_one_known_coding_and_no_compressed_messages_can_be_read() {
    let coded = |fields: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        coding(&headers)
    };
    assert_eq!(coded(&[]), Ok(None));
    assert_eq!(coded(&[("content-encoding", " Identity ,")]), Ok(None));
    assert_eq!(coded(&[("content-encoding", "GZIP")]), Ok(Some(Coding::Gzip)));
    assert_eq!(coded(&[("content-encoding", "identity, br")]), Ok(Some(Coding::Brotli)));
    assert_eq!(coded(&[("content-encoding", "deflate")]), Ok(Some(Coding::Deflate)));
    assert_eq!(
        coded(&[("content-encoding", "zstd"), ("transfer-encoding", "chunked")]),
        Ok(Some(Coding::Zstd))
    );
    assert_eq!(coded(&[("grpc-encoding", "identity")]), Ok(None));
    for unknown in [
        &[("content-encoding", "gzip, gzip")][..],
        &[("content-encoding", "gzip"), ("content-encoding", "br")],
        &[("content-encoding", "compress")],
        &[("content-encoding", "dcz")],
        &[("grpc-encoding", "gzip")],
        &[("connect-content-encoding", "gzip")],
        &[("transfer-encoding", "gzip, chunked")],
    ] {
        assert_eq!(coded(unknown), Err(Undecodable), "{unknown:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn p_i9_no_input_makes_a_decoder_panic_or_grow(body in prop::collection::vec(any::<u8>(), 0..200), piece_bytes in 1..80_usize) {
        for (coding, valid) in all() {
            // Random behind a valid beginning gets deeper than random alone.
            for at in [0, 4, valid.len() / 2] {
                let body = [&valid[..at], &body].concat();
                if let Ok(text) = decoded(coding, &body, piece_bytes) {
                    let bound = body.len() as u64 * DECODED_RATIO_MAX + DECODED_FREE_BYTES;
                    prop_assert!(text.len() as u64 <= bound);
                }
            }
        }
    }
}
