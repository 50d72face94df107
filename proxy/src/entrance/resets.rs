//! Refusals of the HTTP/2 library. It answers a stream that breaks the protocol with RST_STREAM (RFC 9113, 6.4) and
//! tells nobody, so no request ever comes of it and no entry is opened. Here the frames that go out are watched, their
//! heads only, so that such a refusal is written down like any other. Nothing is held back or changed.

use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// RFC 9113, 4.1.
const HEAD_BYTES: usize = 9;
const RST_STREAM: u8 = 3;
/// RFC 9113, 7. The codes for a stream that was given up, 0, 2, 5 and 8, are no refusal.
const REFUSALS: [u32; 6] = [1, 3, 4, 6, 7, 11];
const REFUSED_STREAM: u32 = 7;

/// What is refused by resetting a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is one more than may be open.
    OneMore,
    /// It breaks the protocol.
    Malformed,
}

/// Calls `refused` for each stream that the library refuses on a stream of bytes to an agent that speaks HTTP/2.
pub fn watched<S: AsyncWrite>(io: S, refused: impl Fn(Refusal)) -> InspectWriter<S, impl FnMut(&[u8])> {
    let mut frames = Frames::default();
    InspectWriter::new(io, move |bytes: &[u8]| frames.pass(bytes, &refused))
}

/// Where in a frame the bytes so far end.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    code: Vec<u8>,
    left: usize,
}

impl Frames {
    /// Takes what went out, and tells of each stream that it refuses.
    fn pass(&mut self, mut bytes: &[u8], refused: impl Fn(Refusal)) {
        while !bytes.is_empty() {
            let in_head = self.head.len() < HEAD_BYTES;
            let wanted = if in_head { HEAD_BYTES - self.head.len() } else { self.left };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if in_head {
                self.head.extend_from_slice(now);
                self.left = self.payload_bytes();
            } else {
                if self.is_reset() {
                    self.code.extend_from_slice(now);
                }
                self.left -= now.len();
            }
            if self.head.len() == HEAD_BYTES && self.left == 0 {
                self.refusal().into_iter().for_each(&refused);
                self.head.clear();
                self.code.clear();
            }
        }
    }

    fn payload_bytes(&self) -> usize {
        match self.head.as_slice() {
            [a, b, c, ..] => usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
            _ => 0,
        }
    }

    fn is_reset(&self) -> bool {
        self.head.get(3) == Some(&RST_STREAM)
    }

    fn refusal(&self) -> Option<Refusal> {
        let code = <[u8; 4]>::try_from(self.code.as_slice()).map(u32::from_be_bytes).ok();
        match code.filter(|code| self.is_reset() && REFUSALS.contains(code))? {
            REFUSED_STREAM => Some(Refusal::OneMore),
            _ => Some(Refusal::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{self, IoSlice};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes so many bytes at a time.
    struct Narrow(usize);

    impl AsyncWrite for Narrow {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len().min(self.0)))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum::<usize>().min(self.0)))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    /// What [`refusing_two`] refuses.
    const REFUSED: [Refusal; 2] = [Refusal::Malformed, Refusal::OneMore];

    fn told(all: &Cell<Vec<Refusal>>, one: Refusal) {
        all.set([all.take(), vec![one]].concat());
    }

    /// Frames that refuse two streams.
    fn refusing_two() -> Vec<u8> {
        [
            frame(4, &[]),
            frame(RST_STREAM, &1_u32.to_be_bytes()),
            frame(0, &frame(RST_STREAM, &1_u32.to_be_bytes())),
            frame(RST_STREAM, &8_u32.to_be_bytes()),
            frame(RST_STREAM, &7_u32.to_be_bytes()),
        ]
        .concat()
    }

    #[tokio::test]
    async fn refusals_are_counted_of_what_is_taken_of_two_pieces() {
        let bytes = refusing_two();
        for taken in 1..=bytes.len() {
            for cut in 0..bytes.len() {
                let refused = Cell::default();
                let mut io = watched(Narrow(taken), |refusal| told(&refused, refusal));
                assert!(io.is_write_vectored());
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (head, payload) = rest.split_at(cut.min(rest.len()));
                    let pieces = [IoSlice::new(head), IoSlice::new(payload)];
                    rest = &rest[io.write_vectored(&pieces).await.unwrap()..];
                }
                assert_eq!(refused.take(), REFUSED, "{taken} at a time, cut at {cut}");
            }
        }
    }

    #[test]
    fn refusals_are_counted_however_the_bytes_are_cut() {
        let bytes = refusing_two();
        for size in 1..=bytes.len() {
            let (mut frames, refused) = (Frames::default(), Cell::default());
            bytes.chunks(size).for_each(|piece| frames.pass(piece, |refusal| told(&refused, refusal)));
            assert_eq!(refused.take(), REFUSED, "in pieces of {size}");
        }
    }
}
