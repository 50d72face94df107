//! The payload of a WebSocket's frames on their way down (RFC 6455, 5.2), masked like a body. The heads of frames stand
//! between the pieces of a message, so they are told apart; nothing else of the protocol is read or judged.
//!
//! A mask is as long as what it hides, so a frame's length stays true. What a frame ends with is not held beyond it: the
//! next frame's head must not overtake it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{BodyMask, Scrubber};

/// Opcode and flags, mask flag and length; the length goes on in up to eight bytes more.
const HEAD_BYTES_MIN: usize = 2;
const RESERVED_FLAGS: u8 = 0x70;
const CONTROL_FLAG: u8 = 0x08;
const MASK_FLAG: u8 = 0x80;

/// What came is no frame that a server may send when no extension was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no WebSocket frame of a server without extensions")]
pub struct NoFrame;

/// The state between two reads of one WebSocket.
pub struct FrameMask {
    /// One for messages, which may be in several frames, and one for what may stand between these.
    messages: BodyMask,
    controls: BodyMask,
    head: Vec<u8>,
    /// Bytes of the payload that are still to come.
    left: u64,
    is_control: bool,
}

impl FrameMask {
    /// Masks what the scrubber knows.
    #[must_use]
    pub fn new(scrubber: &Arc<Scrubber>) -> Self {
        let mask = || BodyMask::new(Arc::clone(scrubber));
        Self { messages: mask(), controls: mask(), head: Vec::new(), left: 0, is_control: false }
    }

    /// What may be passed on once these bytes have come.
    ///
    /// # Errors
    /// [`NoFrame`], upon which nothing may be passed on any more.
    pub fn pass(&mut self, mut bytes: Bytes) -> Result<Bytes, NoFrame> {
        let mut clean = BytesMut::with_capacity(bytes.len() + self.head.len());
        while !bytes.is_empty() {
            if self.left == 0 {
                let taken = self.take_head(&mut bytes)?;
                clean.put_slice(&taken);
                continue;
            }
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let payload = bytes.split_to(length);
            self.left -= u64::try_from(length).unwrap_or(self.left);
            let is_over = self.left == 0;
            let mask = self.mask();
            clean.put(mask.pass(payload));
            if is_over {
                clean.put(mask.release());
            }
        }
        Ok(clean.freeze())
    }

    /// What was held for too long, or until the end.
    #[must_use]
    pub fn release(&mut self) -> Bytes {
        self.mask().release()
    }

    /// Whether something is held.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.is_control { self.controls.holds() } else { self.messages.holds() }
    }

    fn mask(&mut self) -> &mut BodyMask {
        if self.is_control { &mut self.controls } else { &mut self.messages }
    }

    /// Takes bytes of a head; gives it back once it is whole.
    fn take_head(&mut self, bytes: &mut Bytes) -> Result<Vec<u8>, NoFrame> {
        let missing = self.head_bytes().saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes.split_to(missing));
        if let [first, second, ..] = self.head.as_slice()
            && (first & RESERVED_FLAGS != 0 || second & MASK_FLAG != 0)
        {
            return Err(NoFrame);
        }
        if self.head.len() < self.head_bytes() {
            return Ok(Vec::new());
        }
        let head = std::mem::take(&mut self.head);
        let [first, second, long @ ..] = head.as_slice() else { return Err(NoFrame) };
        self.is_control = first & CONTROL_FLAG != 0;
        self.left = match long {
            [] => u64::from(*second),
            long => long.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        Ok(head)
    }

    fn head_bytes(&self) -> usize {
        let long = match self.head.get(1).map(|second| second & !MASK_FLAG) {
            Some(126) => 2,
            Some(127) => 8,
            _ => 0,
        };
        HEAD_BYTES_MIN + long
    }
}

#[cfg(test)]
mod tests {
    use agentsandbox_policy::Injection;

    use super::*;
    use crate::secrets::Secret;

    const KEY: &str = "sk-live-0123456789abcdef";
    const TEXT: u8 = 0x81;
    const TEXT_TO_BE_CONTINUED: u8 = 0x01;
    const LAST: u8 = 0x80;
    const PING: u8 = 0x89;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = match payload.len() {
            short @ 0..126 => vec![u8::try_from(short).unwrap()],
            long @ 126..65536 => [&[126][..], &u16::try_from(long).unwrap().to_be_bytes()].concat(),
            long => [&[127][..], &(long as u64).to_be_bytes()].concat(),
        };
        [&[first][..], &length, payload].concat()
    }

    /// What is passed on when the bytes come in pieces of this size.
    fn passed(bytes: &[u8], piece_bytes: usize) -> Result<Vec<u8>, NoFrame> {
        let scrubber = Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(KEY))]));
        let mut mask = FrameMask::new(&scrubber);
        let mut clean = Vec::new();
        for piece in bytes.chunks(piece_bytes) {
            clean.extend_from_slice(&mask.pass(Bytes::copy_from_slice(piece))?);
        }
        clean.extend_from_slice(&mask.release());
        Ok(clean)
    }

    #[test]
    fn p_f6_a_secret_in_a_frame_is_masked_and_the_frame_stays_a_frame() {
        let stars = "*".repeat(KEY.len());
        for before in [0, 60, 100, 200, 70_000] {
            let text = |key: &str| frame(TEXT, format!("{}{key} after", "x".repeat(before)).as_bytes());
            let bytes = [text(KEY), frame(PING, KEY.as_bytes()), text("and more")].concat();
            let expected = [text(&stars), frame(PING, stars.as_bytes()), text("and more")].concat();
            assert_eq!(passed(&bytes, bytes.len()).unwrap(), expected, "{before}");
            for piece_bytes in [1, 2, 5, 11, 24, 1000] {
                let clean = passed(&bytes, piece_bytes).unwrap();
                assert_eq!(clean.len(), bytes.len());
                let text = String::from_utf8_lossy(&clean);
                assert!(!text.contains(&KEY[3..]) && text.contains(" after"), "{before}, {piece_bytes}");
            }
        }
    }

    #[test]
    fn p_f6_a_secret_that_is_cut_into_two_frames_shows_no_more_than_its_kind() {
        for cut in 1..KEY.len() {
            let (left, right) = KEY.split_at(cut);
            let bytes = [
                frame(TEXT_TO_BE_CONTINUED, left.as_bytes()),
                frame(PING, b"still there?"),
                frame(LAST, format!("{right}.").as_bytes()),
            ]
            .concat();
            let clean = passed(&bytes, bytes.len()).unwrap();
            let shown: usize = clean.iter().filter(|byte| **byte == b'*').count();
            assert!(shown >= KEY.len() - 7 && shown <= KEY.len(), "cut at {cut}: {shown} masked");
            assert!(clean.ends_with(b"*.") && clean.windows(12).any(|text| text == b"still there?"));
            let ping = 2 + cut..2 + cut + 14;
            assert_eq!(clean[ping.clone()], bytes[ping], "cut at {cut}: each frame stays where it was");
            assert_eq!(clean.len(), bytes.len());
        }
    }

    #[test]
    fn what_is_held_within_a_frame_is_told_and_let_go_and_the_rest_is_masked() {
        let mut mask = FrameMask::new(&Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(KEY))])));
        for first in [TEXT, PING] {
            let bytes = frame(first, format!("{KEY}.").as_bytes());
            let (begun, rest) = bytes.split_at(2 + 5);
            assert!(!mask.holds());
            assert_eq!(mask.pass(Bytes::copy_from_slice(begun)).unwrap(), bytes[..2]);
            assert!(mask.holds());
            assert_eq!(mask.release(), KEY[..5]);
            assert!(!mask.holds());
            let masked = format!("{}.", "*".repeat(KEY.len() - 5));
            assert_eq!(mask.pass(Bytes::copy_from_slice(rest)).unwrap(), masked);
        }
    }

    #[test]
    fn p_h1_a_frame_that_uses_an_extension_or_is_masked_ends_the_socket() {
        let good = frame(TEXT, b"plain");
        assert_eq!(passed(&good, 1).unwrap(), good);
        for flag in [0x40, 0x20, 0x10] {
            assert_eq!(passed(&frame(TEXT | flag, b"deflated"), 3), Err(NoFrame));
        }
        assert_eq!(passed(&[TEXT, MASK_FLAG | 1, 0, 0, 0, 0, b'x'], 3), Err(NoFrame));
    }
}
