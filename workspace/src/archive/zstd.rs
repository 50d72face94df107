//! Frames of zstd one after the other, as `zstd -d` reads them.

use std::io::{self, BufRead, ErrorKind, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::limits::ZSTD_WINDOW_BYTES_MAX;

/// What the frames hold.
pub struct Frames<R: BufRead> {
    state: State<R>,
}

enum State<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<R, FrameDecoder>>),
    Failed,
}

impl<R: BufRead> Frames<R> {
    /// Reads frames from their first byte.
    pub fn new(archive: R) -> Self {
        Self { state: State::Between(archive) }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // Whoever leaves this loop early leaves nothing to read.
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Failed => return Err(ErrorKind::InvalidData.into()),
                State::Between(mut archive) => {
                    if archive.fill_buf()?.is_empty() {
                        self.state = State::Between(archive);
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new_with_max_window_size(archive, ZSTD_WINDOW_BYTES_MAX);
                    self.state = State::Within(Box::new(frame.map_err(io::Error::other)?));
                }
                State::Within(mut frame) => {
                    let read = frame.read(buffer)?;
                    if read == 0 {
                        self.state = State::Between(frame.into_inner());
                    } else {
                        self.state = State::Within(frame);
                        return Ok(read);
                    }
                }
            }
        }
    }
}
