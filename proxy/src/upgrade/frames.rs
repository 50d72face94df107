//! The frames of a WebSocket (RFC 6455, 5.2), read for whether they are frames, and for where they end. After a handshake nothing
//! but frames may pass: whoever has a tunnel could else speak any protocol in it. What is in them is between the two sides.

/// Opcode and flags, mask flag and length; the length goes on in up to eight bytes more, and after it comes an agent's masking key.
const HEAD_BYTES_MIN: usize = 2;
const KEY_BYTES: usize = 4;
const LAST_FLAG: u8 = 0x80;
const EXTENSION_FLAGS: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASK_FLAG: u8 = 0x80;
/// Bytes of the payload of a frame that may stand between those of a message (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// What came is no frame that this side may send here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no WebSocket frame that this side may send here")]
pub(super) struct NoFrame;

/// Whose frames they are: a client masks each of its own, and a server none (RFC 6455, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Agent,
    Upstream,
}

/// The frames of one side, so far.
#[derive(Debug)]
pub(super) struct Frames {
    side: Side,
    /// Whether the handshake agreed on an extension, which may give the reserved flags a meaning.
    may_extend: bool,
    head: Vec<u8>,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// Whether a message has begun that is not over.
    is_within: bool,
    is_broken: bool,
}

impl Frames {
    /// None so far.
    pub(super) const fn new(side: Side, may_extend: bool) -> Self {
        Self { side, may_extend, head: Vec::new(), left: 0, is_within: false, is_broken: false }
    }

    /// Takes what comes next, however it is cut.
    ///
    /// # Errors
    /// [`NoFrame`], also for all that comes after it.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), NoFrame> {
        while let [first, rest @ ..] = bytes {
            if self.is_broken {
                return Err(NoFrame);
            }
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(skipped..).unwrap_or_default();
                self.left -= u64::try_from(skipped).unwrap_or(self.left);
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            self.is_broken = self.judge().is_err();
        }
        if self.is_broken { Err(NoFrame) } else { Ok(()) }
    }

    /// Whether a frame may begin here.
    pub(super) fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0 && !self.is_broken
    }

    /// Judges as much of a head as there is, and goes on to the payload once it is whole.
    fn judge(&mut self) -> Result<(), NoFrame> {
        let Some(first) = self.head.first().copied() else { return Ok(()) };
        let is_control = self.opens(first)?;
        let Some(second) = self.head.get(1).copied() else { return Ok(()) };
        if (second & MASK_FLAG != 0) != (self.side == Side::Agent) {
            return Err(NoFrame);
        }
        let short = second & !MASK_FLAG;
        if is_control && u64::from(short) > CONTROL_BYTES_MAX {
            return Err(NoFrame);
        }
        let more = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let key = if self.side == Side::Agent { KEY_BYTES } else { 0 };
        if self.head.len() < HEAD_BYTES_MIN + more + key {
            return Ok(());
        }
        let long = self.head.iter().skip(HEAD_BYTES_MIN).take(more);
        let long = long.fold(0, |length, byte| length << 8 | u64::from(*byte));
        // The highest bit of eight bytes must not be set.
        if long > u64::MAX >> 1 {
            return Err(NoFrame);
        }
        self.left = if more == 0 { u64::from(short) } else { long };
        if !is_control {
            self.is_within = first & LAST_FLAG == 0;
        }
        self.head.clear();
        Ok(())
    }

    /// Whether the frame that this byte begins may stand between those of a message (RFC 6455, 5.4), where it may stand at all.
    fn opens(&self, first: u8) -> Result<bool, NoFrame> {
        if first & EXTENSION_FLAGS != 0 && !self.may_extend {
            return Err(NoFrame);
        }
        match (first & OPCODE, self.is_within) {
            (0, true) | (1 | 2, false) => Ok(false),
            (8..=10, _) if first & LAST_FLAG != 0 => Ok(true),
            _ => Err(NoFrame),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TEXT: u8 = 0x81;
    const BINARY: u8 = 0x82;
    const TEXT_TO_BE_CONTINUED: u8 = 0x01;
    const MORE: u8 = 0x00;
    const LAST: u8 = 0x80;
    const CLOSE: u8 = 0x88;
    const PING: u8 = 0x89;
    const PONG: u8 = 0x8a;

    /// A frame as this side sends it.
    pub fn frame(side: Side, first: u8, length: usize) -> Vec<u8> {
        let mask = if side == Side::Agent { MASK_FLAG } else { 0 };
        let head = match length {
            0..126 => vec![first, mask | u8::try_from(length).unwrap()],
            126..65_536 => [&[first, mask | 126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
            _ => [&[first, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        let key: &[u8] = if side == Side::Agent { &[1, 2, 3, 4] } else { &[] };
        [&head[..], key, &vec![0x88; length]].concat()
    }

    fn passes(side: Side, may_extend: bool, bytes: &[u8]) -> bool {
        let results = [1, 2, 3, 7, 1000, bytes.len()].map(|piece| {
            let mut frames = Frames::new(side, may_extend);
            let passed = bytes.chunks(piece).all(|bytes| frames.pass(bytes).is_ok());
            assert_eq!(frames.pass(&[]).is_ok(), passed, "it stays as it is");
            assert!(passed || !frames.is_between());
            passed
        });
        assert!(results.iter().all(|one| *one == results[0]), "{results:?}");
        results[0]
    }

    #[test]
    fn a_frame_may_begin_where_the_one_before_it_ends_however_the_bytes_are_cut() {
        for side in [Side::Agent, Side::Upstream] {
            let lengths = [0, 1, 125, 126, 300, 65_535, 65_536, 0];
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(side, BINARY, *length)).collect();
            let mut ends = Vec::new();
            for length in lengths {
                ends.push(ends.last().copied().unwrap_or(0) + frame(side, BINARY, length).len());
            }
            let (mut frames, mut found) = (Frames::new(side, false), Vec::new());
            for (at, byte) in bytes.iter().enumerate() {
                frames.pass(&[*byte]).unwrap();
                if frames.is_between() {
                    found.push(at + 1);
                }
            }
            assert_eq!(found, ends);
            assert!(passes(side, false, &bytes));
        }
    }

    #[test]
    fn p_h1_a_message_may_come_in_frames_with_others_between_them() {
        for side in [Side::Agent, Side::Upstream] {
            let of = |first| frame(side, first, 3);
            let firsts = [TEXT_TO_BE_CONTINUED, PING, MORE, PONG, LAST, BINARY, CLOSE];
            assert!(passes(side, false, &firsts.map(of).concat()));
            assert!(!passes(side, false, &of(LAST)), "nothing has begun that could go on");
            assert!(!passes(side, false, &[of(TEXT_TO_BE_CONTINUED), of(TEXT)].concat()));
        }
    }

    #[test]
    fn p_h1_what_is_no_frame_of_its_side_does_not_pass() {
        for (side, other) in [(Side::Agent, Side::Upstream), (Side::Upstream, Side::Agent)] {
            assert!(passes(side, false, &frame(side, TEXT, 5)));
            assert!(!passes(side, false, &frame(other, TEXT, 5)), "masked by the one and not by the other");
            for reserved in [0x83, 0x87, 0x8b, 0x8f] {
                assert!(!passes(side, true, &frame(side, reserved, 1)), "{reserved:#x}");
            }
            assert!(!passes(side, false, &frame(side, PING & !LAST_FLAG, 1)), "a ping in parts");
            assert!(
                passes(side, false, &frame(side, PING, 125)) && !passes(side, false, &frame(side, PING, 126))
            );
            for protocol in ["SSH-2.0-OpenSSH_9.2\r\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00"] {
                assert!(!passes(side, false, protocol.as_bytes()), "{protocol}");
            }
        }
    }

    #[test]
    fn p_h1_reserved_flags_pass_only_where_an_extension_was_agreed_on() {
        for flag in [0x40, 0x20, 0x10] {
            let bytes = frame(Side::Agent, TEXT | flag, 4);
            assert!(passes(Side::Agent, true, &bytes) && !passes(Side::Agent, false, &bytes));
        }
    }

    #[test]
    fn p_h1_a_length_beyond_what_a_frame_may_have_does_not_pass() {
        let of = |high: u8| [&[BINARY, 127, high][..], &[0xff; 7]].concat();
        assert!(passes(Side::Upstream, false, &of(0x7f)) && !passes(Side::Upstream, false, &of(0x80)));
    }
}
