//! Zstandard, frame by frame and block by block (RFC 8878, 3.1.1): the library decodes a block that is there as a whole, so
//! here the bytes are gathered until one is. A block has at most 128 KiB.
//!
//! The library gives out what lies behind the window of a frame, and the rest when the frame has ended: what an upstream
//! streams in this coding, though it was asked not to, comes late.

use std::io::{self, ErrorKind, Read};

use bytes::{Buf, BytesMut};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Magic number, descriptor, window, dictionary and content size at their longest.
const HEADER_BYTES_MAX: usize = 18;
/// Of a block: its size, its type and whether it is the last.
const BLOCK_HEADER_BYTES: usize = 3;
/// A block of one byte, repeated.
const RLE: usize = 1;
const CHECKSUM_BYTES: usize = 4;
/// The descriptor follows the magic number; this is its bit for a checksum behind the last block.
const DESCRIPTOR_AT: usize = 4;
const CHECKSUM_FLAG: u8 = 1 << 2;

pub struct Frames {
    decoder: FrameDecoder,
    pending: BytesMut,
    ended: bool,
    /// Within a frame, whether it has a checksum.
    frame: Option<bool>,
}

impl Frames {
    /// Frames with a window of at most so many bytes.
    pub fn new(window_bytes_max: u64) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(window_bytes_max);
        Self { decoder, pending: BytesMut::new(), ended: false, frame: None }
    }

    pub fn feed(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    pub fn end(&mut self) {
        self.ended = true;
    }

    pub fn is_spent(&self) -> bool {
        self.pending.is_empty() && self.frame.is_none()
    }

    /// Begins the next frame, if its header is there.
    fn begin(&mut self) -> io::Result<()> {
        if self.pending.len() < HEADER_BYTES_MAX && !self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut source = self.pending.as_ref();
        let has_checksum =
            source.get(DESCRIPTOR_AT).is_some_and(|descriptor| descriptor & CHECKSUM_FLAG != 0);
        self.decoder.reset(&mut source).map_err(|_| ErrorKind::InvalidData)?;
        let header = self.pending.len() - source.len();
        self.pending.advance(header);
        self.frame = Some(has_checksum);
        Ok(())
    }

    /// Decodes the next block, if it is there.
    fn block(&mut self, has_checksum: bool) -> io::Result<()> {
        let missing = || if self.ended { ErrorKind::UnexpectedEof } else { ErrorKind::WouldBlock };
        let [low, middle, high, ..] = self.pending.as_ref() else { return Err(missing().into()) };
        let header = usize::from(*low) | usize::from(*middle) << 8 | usize::from(*high) << 16;
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        let checksum = if is_last && has_checksum { CHECKSUM_BYTES } else { 0 };
        let length = BLOCK_HEADER_BYTES + if kind == RLE { 1 } else { size } + checksum;
        let Some(block) = self.pending.get(..length) else { return Err(missing().into()) };
        let decoded = self.decoder.decode_blocks(block, BlockDecodingStrategy::UptoBlocks(1));
        decoded.map_err(|_| ErrorKind::InvalidData)?;
        self.pending.advance(length);
        Ok(())
    }
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.decoder.read(out)?;
            if read > 0 {
                return Ok(read);
            }
            match self.frame {
                Some(_) if self.decoder.is_finished() => self.frame = None,
                Some(has_checksum) => self.block(has_checksum)?,
                None if self.pending.is_empty() && self.ended => return Ok(0),
                None => self.begin()?,
            }
        }
    }
}
