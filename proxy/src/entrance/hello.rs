//! The first words of a TLS client (RFC 8446, 4.1.2), kept while the TLS library reads them: it tells their server name,
//! but not whether that is the name that the client means. Nothing here is decided; what cannot be read counts as
//! encrypted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::writes_through::writes_through;

/// The library takes no longer handshake message, and each record has a head of its own.
const HELLO_BYTES_MAX: usize = 66 * 1024;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 9849, 5.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// A stream that keeps what is read of it until that is taken.
pub struct Overheard<S> {
    io: S,
    heard: Option<Vec<u8>>,
}

impl<S> Overheard<S> {
    /// Keeps what is read of `io` from now on.
    pub const fn new(io: S) -> Self {
        Self { io, heard: Some(Vec::new()) }
    }

    /// What was read so far; nothing is kept from now on.
    pub fn take(&mut self) -> Vec<u8> {
        self.heard.take().unwrap_or_default()
    }
}

/// Whether a client hello may mean another name than it says. A random extension that only looks like it (GREASE) cannot
/// be told from a true one by anybody but the client.
pub fn is_encrypted(hello: &[u8]) -> bool {
    extensions(&message(hello)).is_none_or(|kinds| kinds.contains(&ENCRYPTED_CLIENT_HELLO))
}

/// The handshake bytes in these records.
fn message(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [HANDSHAKE_RECORD, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (payload, after) = rest.split_at(length.min(rest.len()));
        message.extend_from_slice(payload);
        records = after;
    }
    message
}

/// The kinds of a client hello's extensions.
fn extensions(message: &[u8]) -> Option<Vec<u16>> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    let mut hello = Reader(message);
    if hello.number(1)? != usize::from(CLIENT_HELLO) {
        return None;
    }
    let length = hello.number(3)?;
    let mut body = Reader(hello.bytes(length)?);
    body.bytes(VERSION_AND_RANDOM)?;
    for length_bytes in [1, 2, 1] {
        // Session id, cipher suites, compression methods.
        body.vector(length_bytes)?;
    }
    if body.0.is_empty() {
        return Some(Vec::new());
    }
    let mut list = Reader(body.vector(2)?);
    let mut kinds = Vec::new();
    while !list.0.is_empty() {
        kinds.push(u16::try_from(list.number(2)?).ok()?);
        list.vector(2)?;
    }
    Some(kinds)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        Some(self.bytes(length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.bytes(length)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if let Some(heard) = &mut self.heard
            && heard.len() < HELLO_BYTES_MAX
        {
            heard.extend_from_slice(buffer.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

writes_through!(Overheard);

#[cfg(test)]
mod tests {
    use super::*;

    /// A client hello with these extensions, all empty, in records of so many bytes.
    fn hello(kinds: &[u16], record_bytes: usize) -> Vec<u8> {
        let list: Vec<u8> =
            kinds.iter().flat_map(|kind| [&kind.to_be_bytes()[..], &[0, 0]].concat()).collect();
        let length = u16::try_from(list.len()).unwrap().to_be_bytes();
        let body = [&[3, 3][..], &[7; 32], &[1, 9], &[0, 2, 0x13, 1], &[1, 0], &length, &list].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[CLIENT_HELLO], &length[1..], &body].concat();
        let record = |piece: &[u8]| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE_RECORD, 3, 1][..], &length, piece].concat()
        };
        message.chunks(record_bytes).flat_map(record).collect()
    }

    #[test]
    fn p_a22_an_encrypted_name_is_seen_wherever_it_stands_and_however_it_is_cut() {
        for record_bytes in [1, 7, 4096] {
            for kinds in [&[ENCRYPTED_CLIENT_HELLO][..], &[0, 43, ENCRYPTED_CLIENT_HELLO, 51], &[51, 0xfe0d]]
            {
                assert!(is_encrypted(&hello(kinds, record_bytes)), "{kinds:?}");
            }
            for kinds in [&[][..], &[0, 43, 51], &[0xfd00, 0x0dfe]] {
                assert!(!is_encrypted(&hello(kinds, record_bytes)), "{kinds:?}");
            }
        }
    }

    #[test]
    fn p_a22_a_hello_that_cannot_be_read_counts_as_encrypted() {
        let whole = hello(&[0, 43, 51], 4096);
        assert!(!is_encrypted(&whole));
        for end in 0..whole.len() {
            assert!(is_encrypted(&whole[..end]), "{end}");
        }
    }
}
