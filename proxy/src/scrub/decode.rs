//! Makes a compressed body readable while it passes by, so that it can be searched for secrets.
//!
//! Where answers are searched the proxy asks for none that is compressed; this is for upstreams that compress all the
//! same. What comes out is bounded at each step, and so is how much may come of how little: a body that grows beyond
//! [`DECODED_RATIO_MAX`] is broken off. What cannot be decoded is never passed on.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::Arc;

use brotli_decompressor::BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW;
use bytes::{Buf, Bytes, BytesMut};
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, TRANSFER_ENCODING};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    DECODED_FREE_BYTES, DECODED_RATIO_MAX, DECODED_WINDOW_BYTES_MAX, NARROW_DECODERS_MAX, WIDE_DECODERS_MAX,
};

mod zstd;

/// Bytes that come out of a decoder at a time.
const READ_BYTES: usize = 64 * 1024;
/// Encoded bytes that go into it for that. Deflate makes at most 1,032 bytes of one (zlib's technical details), so all of
/// them fit, and nothing waits inside the decoder for room.
const FED_BYTES: usize = 60;
/// What is there already is gathered up to here, and then passed on.
const STEP_BYTES: usize = 16 * 1024;
const BROTLI_BUFFER_BYTES: usize = 4 * 1024;

/// A content coding that can be decoded (RFC 9110, 8.4.1; RFC 7932; RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `deflate`, which is zlib's format.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// The body is not in its coding, too large for its size, or in a coding that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body cannot be decoded")]
pub struct Undecodable;

/// The coding of an answer's body; none when it is readable as it is.
///
/// # Errors
/// [`Undecodable`] when it cannot be made readable: an unknown coding, more than one, or messages in it that are
/// compressed one by one.
pub fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Undecodable> {
    // Whatever names a coding of the answer ends so, and most answers have none.
    if !headers.keys().any(|field| field.as_str().ends_with("-encoding")) {
        return Ok(None);
    }
    let is_identity = |value: &[u8]| value.is_empty() || value.eq_ignore_ascii_case(b"identity");
    // There are few fields, and mostly none of these: comparing names takes less than four hashes of them.
    let tokens = |name: &str| -> Vec<Vec<u8>> {
        let fields = headers.iter().filter(|(field, _)| field.as_str() == name);
        fields
            .flat_map(|(_, value)| value.as_bytes().split(|b| *b == b','))
            .map(|token| token.trim_ascii().to_ascii_lowercase())
            .filter(|token| !is_identity(token))
            .collect()
    };
    let messages = ["grpc-encoding", "connect-content-encoding"];
    let transfer = tokens(TRANSFER_ENCODING.as_str());
    if messages.iter().any(|name| !tokens(name).is_empty())
        || transfer.iter().any(|token| token != b"chunked")
    {
        return Err(Undecodable);
    }
    match tokens(CONTENT_ENCODING.as_str()).as_slice() {
        [] => Ok(None),
        [one] => match one.as_slice() {
            b"gzip" | b"x-gzip" => Ok(Some(Coding::Gzip)),
            b"deflate" => Ok(Some(Coding::Deflate)),
            b"br" => Ok(Some(Coding::Brotli)),
            b"zstd" => Ok(Some(Coding::Zstd)),
            _ => Err(Undecodable),
        },
        _ => Err(Undecodable),
    }
}

/// The places of all answers that are decoded at a time, by how much memory that takes.
pub struct Places {
    wide: Arc<Semaphore>,
    narrow: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { wide: places(WIDE_DECODERS_MAX), narrow: places(NARROW_DECODERS_MAX) }
    }
}

impl Places {
    /// Takes a place until it is dropped; none when all are taken. Nothing waits for one: those that have them may be streams
    /// without end.
    #[must_use]
    pub fn take(&self, coding: Coding) -> Option<OwnedSemaphorePermit> {
        let places = match coding {
            Coding::Gzip | Coding::Deflate => &self.narrow,
            Coding::Brotli | Coding::Zstd => &self.wide,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// Whether a body in this coding that begins with this byte has a window for which one place is not enough: of WBITS there is one value
/// alone that is (RFC 7932, 9.1).
#[must_use]
pub fn takes_two_places(coding: Coding, first: u8) -> bool {
    const WIDEST: u8 = 0b1111;
    coding == Coding::Brotli && first & WIDEST == WIDEST
}

/// Decodes one body. It is fed a piece, and then asked for steps until it needs another piece.
pub struct Decoder {
    of: Of,
    out: Box<[u8]>,
    fed: u64,
    made: u64,
    failed: bool,
}

enum Of {
    Gzip(MultiGzDecoder<Feed>),
    Deflate(ZlibDecoder<Feed>),
    Brotli(Box<brotli_decompressor::Decompressor<Feed>>),
    Zstd(Box<zstd::Frames>),
}

impl Decoder {
    /// A decoder at the beginning of a body.
    #[must_use]
    pub fn new(coding: Coding) -> Self {
        let of = match coding {
            Coding::Gzip => Of::Gzip(MultiGzDecoder::new(Feed::default())),
            Coding::Deflate => Of::Deflate(ZlibDecoder::new(Feed::default())),
            Coding::Brotli => {
                let mut decoder =
                    brotli_decompressor::Decompressor::new(Feed::default(), BROTLI_BUFFER_BYTES);
                // A window of up to 1 GiB, which no content coding has (RFC 7932, 9.1: at most 16 MiB).
                decoder.set_parameter(BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
                Of::Brotli(Box::new(decoder))
            }
            Coding::Zstd => Of::Zstd(Box::new(zstd::Frames::new(DECODED_WINDOW_BYTES_MAX))),
        };
        Self { of, out: vec![0; READ_BYTES].into(), fed: 0, made: 0, failed: false }
    }

    /// Gives it the next piece of the body.
    pub fn feed(&mut self, piece: &Bytes) {
        self.fed = self.fed.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        match &mut self.of {
            Of::Zstd(frames) => frames.feed(piece),
            of => of.with_feed(|feed| feed.push(piece)),
        }
    }

    /// Decodes nothing more.
    pub fn gives_up(&mut self) {
        self.failed = true;
    }

    /// Tells it that the body has ended.
    pub fn end(&mut self) {
        match &mut self.of {
            Of::Zstd(frames) => frames.end(),
            of => of.with_feed(|feed| feed.ended = true),
        }
    }

    /// The next decoded bytes; none when another piece is needed, or when the body is over.
    ///
    /// # Errors
    /// [`Undecodable`]; from then on always.
    pub fn step(&mut self) -> Result<Option<Bytes>, Undecodable> {
        if self.failed {
            return Err(Undecodable);
        }
        let stepped = self.try_step();
        self.failed = stepped.is_err();
        stepped
    }

    fn try_step(&mut self) -> Result<Option<Bytes>, Undecodable> {
        // A body of no bytes, as of an answer that has none, is no stream of any coding.
        if self.fed == 0 {
            return Ok(None);
        }
        let mut step = BytesMut::new();
        while step.len() < STEP_BYTES {
            let read = match &mut self.of {
                Of::Gzip(decoder) => decoder.read(&mut self.out),
                Of::Deflate(decoder) => decoder.read(&mut self.out),
                Of::Brotli(decoder) => decoder.read(&mut self.out),
                Of::Zstd(frames) => frames.read(&mut self.out),
            };
            match read {
                // Something may not follow the end of the stream.
                Ok(0) if self.is_spent() => break,
                Ok(0) => return Err(Undecodable),
                Ok(length) => {
                    self.made = self.made.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
                    if self.made
                        > self.fed.saturating_mul(DECODED_RATIO_MAX).saturating_add(DECODED_FREE_BYTES)
                    {
                        return Err(Undecodable);
                    }
                    step.extend_from_slice(self.out.get(..length).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(Undecodable),
            }
        }
        Ok((!step.is_empty()).then(|| step.freeze()))
    }

    fn is_spent(&mut self) -> bool {
        match &mut self.of {
            Of::Zstd(frames) => frames.is_spent(),
            of => {
                let mut spent = true;
                of.with_feed(|feed| spent = !feed.pending.has_remaining());
                spent
            }
        }
    }
}

impl Of {
    fn with_feed(&mut self, change: impl FnOnce(&mut Feed)) {
        match self {
            Self::Gzip(decoder) => change(decoder.get_mut()),
            Self::Deflate(decoder) => change(decoder.get_mut()),
            Self::Brotli(decoder) => change(decoder.get_mut()),
            Self::Zstd(_) => {}
        }
    }
}

/// What a decoder reads from: the pieces so far, a few bytes at a time. Where there is none it would block, so that the
/// decoder keeps its state and is asked again.
#[derive(Default)]
struct Feed {
    pending: BytesMut,
    ended: bool,
}

impl Feed {
    fn push(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.pending.is_empty() && !self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(self.pending.get(..FED_BYTES).unwrap_or(&self.pending))
    }

    fn consume(&mut self, bytes: usize) {
        self.pending.advance(bytes.min(self.pending.len()));
    }
}

impl Read for Feed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
