//! One input in several pieces, as a network may deliver it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest piece.
const PIECE_BYTES_MAX: u8 = 29;
/// The last bytes of an input say how it is cut, over and over, so that a seed is plain text and a fuzzer can still move
/// each cut.
const PLAN_BYTES: usize = 4;

/// The input in pieces, none of them empty.
pub fn cut(data: &[u8]) -> Vec<&[u8]> {
    let plan = data.get(data.len().saturating_sub(PLAN_BYTES)..).unwrap_or_default();
    let mut lengths = plan.iter().map(|byte| usize::from(byte % PIECE_BYTES_MAX) + 1).cycle();
    let (mut rest, mut pieces) = (data, Vec::new());
    while let Some(length) = lengths.next().filter(|_| !rest.is_empty()) {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Where the pieces end.
pub fn ends(pieces: &[&[u8]]) -> Vec<usize> {
    pieces
        .iter()
        .scan(0, |end, piece| {
            *end += piece.len();
            Some(*end)
        })
        .collect()
}

/// How often a reader finds nothing new before the end. One that closes its half gives up what is not answered yet, so a
/// client waits for as long as anybody needs for an answer.
const PATIENCE_POLLS: usize = 64;

/// A connection on which these pieces arrive, and then the end; what is written to it is kept.
#[derive(Debug)]
pub struct Script {
    pieces: VecDeque<Vec<u8>>,
    patience: usize,
    /// What was written.
    pub written: Vec<u8>,
}

impl Script {
    /// A connection on which these pieces arrive.
    pub fn of(pieces: &[&[u8]]) -> Self {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        Self { pieces, patience: PATIENCE_POLLS, written: Vec::new() }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pieces.is_empty() && self.patience > 0 {
            self.patience -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(buffer.remaining().min(piece.len()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
