//! Where in an event stream the bytes so far end (WHATWG HTML, 9.2.6), and how it is ended there so that nobody takes half an event for a
//! whole one. Nothing that was passed on can be taken back: half an event becomes one of a type of its own, whose data says so, and whose id
//! counts for nothing. A client that reads the data of any event as JSON stumbles over it; most events are held until they are whole.

/// Longest id of an event that is remembered, in bytes. Where a longer one would have to be told again, the client is told that it has seen
/// none, and begins anew.
const ID_BYTES_MAX: usize = 256;
/// As much of a line as has to be seen: `id: ` and a byte more than an id may have, in a first line behind a byte order mark.
const LINE_BYTES_MAX: usize = 3 + 4 + ID_BYTES_MAX + 1;
/// Bytes of a character that may be missing its end.
const UNFINISHED_BYTES_MAX: usize = 3;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Behind half a line: half a number or a name is then another one.
const CUT: &[u8] = b"...\n";
/// What becomes of half an event.
const CUT_EVENT: &[u8] = b"event: agentsandbox-cut\ndata: (the rest of this event was not passed on)\n";

/// The state between two pieces of one stream.
#[derive(Default)]
pub(super) struct Events {
    /// The line that has not ended, as far as [`LINE_BYTES_MAX`].
    line: Vec<u8>,
    /// How long it is.
    line_bytes: usize,
    /// Its last bytes.
    tail: Vec<u8>,
    /// Lines have ended before.
    has_lines: bool,
    /// The last byte was a CR, which may be half of a CRLF.
    is_after_cr: bool,
    /// A field of an event that has not ended is there.
    has_begun: bool,
    /// The id that a client has of the last whole event.
    id: Vec<u8>,
    /// The id that it would have once the next one ends.
    next_id: Vec<u8>,
    /// The event that has not ended names an id, be it the same one or one that is too long.
    has_id: bool,
}

impl Events {
    /// Takes a piece. How many of its bytes come before what is no whole event yet, and no whole comment.
    pub(super) fn pass(&mut self, piece: &[u8]) -> usize {
        let (mut whole, mut bytes) = (0, piece);
        while let Some(first) = bytes.first() {
            let is_half = std::mem::take(&mut self.is_after_cr) && *first == b'\n';
            if is_half {
                bytes = bytes.get(1..).unwrap_or_default();
            } else {
                let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                    self.grow(bytes);
                    return whole;
                };
                let (line, rest) = bytes.split_at(end);
                self.grow(line);
                self.end_line();
                self.is_after_cr = rest.first() == Some(&b'\r');
                bytes = rest.get(1..).unwrap_or_default();
            }
            if !self.has_begun {
                whole = piece.len() - bytes.len();
            }
        }
        whole
    }

    /// What has to stand behind it before another event may: nothing where none has begun.
    pub(super) fn close(&self) -> Vec<u8> {
        let mut end = Vec::new();
        if self.is_after_cr {
            end.push(b'\n');
        }
        if self.line_bytes > 0 {
            end.extend_from_slice(finish(&self.tail));
            end.extend_from_slice(CUT);
        }
        if self.has_begun || is_field(self.line()) {
            end.extend_from_slice(CUT_EVENT);
            if self.has_id || id(self.line()).is_some() {
                end.extend_from_slice(b"id: ");
                end.extend_from_slice(&self.id);
                end.push(b'\n');
            }
            end.push(b'\n');
        }
        end
    }

    fn grow(&mut self, part: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
        self.line_bytes = self.line_bytes.saturating_add(part.len());
        let last = part.len().saturating_sub(UNFINISHED_BYTES_MAX);
        self.tail.extend_from_slice(part.get(last..).unwrap_or_default());
        let before = self.tail.len().saturating_sub(UNFINISHED_BYTES_MAX);
        self.tail.drain(..before);
    }

    /// The line that has not ended, as a client sees it.
    fn line(&self) -> &[u8] {
        let is_first = !self.has_lines;
        self.line.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first).unwrap_or(&self.line)
    }

    fn end_line(&mut self) {
        let line = self.line();
        if line.is_empty() {
            (self.has_begun, self.has_id) = (false, false);
            self.id.clone_from(&self.next_id);
        } else if is_field(line) {
            // Of a line that is longer than what is kept of it no id is told: it would be another one.
            let is_kept = self.line_bytes == self.line.len();
            let told = id(line).map(|told| match is_kept && told.len() <= ID_BYTES_MAX {
                true => told.to_vec(),
                false => Vec::new(),
            });
            if let Some(told) = told {
                (self.next_id, self.has_id) = (told, true);
            }
            self.has_begun = true;
        }
        self.line.clear();
        self.tail.clear();
        self.line_bytes = 0;
        self.has_lines = true;
    }
}

/// Whether a line is one of an event, and no comment.
fn is_field(line: &[u8]) -> bool {
    line.first().is_some_and(|first| *first != b':')
}

/// The id in a line that names one.
fn id(line: &[u8]) -> Option<&[u8]> {
    if line == b"id" {
        return Some(&[]);
    }
    let value = line.strip_prefix(b"id:")?;
    let value = value.strip_prefix(b" ").unwrap_or(value);
    (!value.contains(&0)).then_some(value)
}

/// What a character lacks that is cut in its middle (RFC 3629, 4): clients that take a stream for text would stumble over it.
fn finish(tail: &[u8]) -> &'static [u8] {
    let unfinished = (1..=tail.len()).find_map(|bytes| match tail.get(tail.len() - bytes..) {
        Some(cut @ [0xc2..=0xf4, ..]) => Some(cut),
        _ => None,
    });
    match unfinished {
        Some([0xc2..=0xdf] | [0xe0..=0xef, _] | [0xf0..=0xf4, _, _]) => b"\x80",
        Some([0xe0]) => b"\xa0\x80",
        Some([0xe1..=0xef] | [0xf0..=0xf4, _]) => b"\x80\x80",
        Some([0xf0]) => b"\x90\x80\x80",
        Some([0xf1..=0xf4]) => b"\x80\x80\x80",
        _ => b"",
    }
}

#[cfg(test)]
pub(super) mod tests;
