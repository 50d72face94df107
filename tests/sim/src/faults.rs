//! What goes wrong, by rule or by seed.

use std::ops::Range;

/// One request, as it arrives.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before it.
    pub number: u64,
    /// Virtual milliseconds since the world began.
    pub at: u64,
    /// As `PATCH networkpolicies/fix-login-agent`, with `/status` behind it for the subresource; `WATCH` and `LIST` stand
    /// for themselves.
    pub line: String,
    /// How many came before it with the same line and body, from the same process.
    pub repeats: u64,
    /// In which namespace; empty for all, and for what is in none.
    pub namespace: String,
    /// What it asks for besides, as it was sent.
    pub query: String,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is served.
    Serve,
    /// It is served after so many milliseconds more.
    Slow(u64),
    /// It is so many milliseconds longer on its way, and is served only if its asker still waits then.
    Held(u64),
    /// The connection is reset before it arrives.
    Reset,
    /// It takes effect, and the connection is reset before the answer.
    Lose,
    /// It takes effect, and nothing is ever heard again.
    LoseSilently,
    /// It takes effect twice; the first answer is heard.
    Duplicate,
    /// Nothing is ever heard, and it takes no effect.
    Silence,
    /// It takes no effect and is answered with this status, and with `Retry-After` if there is a number.
    Refuse(u16, Option<u64>),
    /// It takes no effect and is answered with 403, as by an API server that has not read the roles yet.
    Deny,
    /// It takes effect, and the answer breaks off in the middle.
    Cut,
    /// It takes effect, and the answer never ends.
    Endless,
    /// The asker dies before it arrives.
    CrashBefore,
    /// It takes effect, and the asker dies before the answer.
    CrashAfter,
}

/// What becomes of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// It is brought after so many milliseconds.
    After(u64),
    /// The watch ends before it.
    Cut,
    /// The watch ends before it, and what it had seen last has been forgotten by the server.
    Gone,
    /// The watch brings nothing any more, and does not end.
    Stuck,
}

/// Decides what goes wrong.
pub trait Faults: Send {
    /// What becomes of a request.
    fn request(&mut self, asked: &Asked) -> Fate;

    /// What becomes of a watch event of a kind; `draw` is a number that follows from the seed and the event.
    fn event(&mut self, plural: &str, at: u64, draw: u64) -> Lateness {
        let _ = (plural, at);
        Lateness::After(1 + draw % 4)
    }
}

/// Nothing goes wrong.
#[derive(Debug, Default)]
pub struct None;

impl Faults for None {
    fn request(&mut self, _: &Asked) -> Fate {
        Fate::Serve
    }
}

/// Whatever a function says of requests.
pub struct Rule<F>(pub F);

impl<F: FnMut(&Asked) -> Fate + Send> Faults for Rule<F> {
    fn request(&mut self, asked: &Asked) -> Fate {
        (self.0)(asked)
    }
}

/// Whatever two functions say of requests and of events.
pub struct Rules<F, G>(pub F, pub G);

impl<F, G> Faults for Rules<F, G>
where
    F: FnMut(&Asked) -> Fate + Send,
    G: FnMut(&str, u64, u64) -> Lateness + Send,
{
    fn request(&mut self, asked: &Asked) -> Fate {
        (self.0)(asked)
    }

    fn event(&mut self, plural: &str, at: u64, draw: u64) -> Lateness {
        (self.1)(plural, at, draw)
    }
}

/// Everything goes wrong at times, while `during` lasts.
#[derive(Debug)]
pub struct Storm {
    /// What is drawn follows from it.
    pub seed: u64,
    /// Virtual milliseconds.
    pub during: Range<u64>,
}

impl Faults for Storm {
    fn request(&mut self, asked: &Asked) -> Fate {
        if !self.during.contains(&asked.at) {
            return Fate::Serve;
        }
        let draw = hash(self.seed, &format!("fate {} {} {}", asked.line, asked.repeats, asked.number / 64));
        match draw % 100 {
            0..=3 => Fate::Reset,
            4..=7 => Fate::Lose,
            8 => Fate::LoseSilently,
            9..=10 => Fate::Duplicate,
            11 => Fate::Silence,
            12..=13 => Fate::Refuse(429, Some(1)),
            14..=15 => Fate::Refuse(500, Option::None),
            16 => Fate::Refuse(503, Option::None),
            17 => Fate::Refuse(504, Option::None),
            18..=19 => Fate::Refuse(409, Option::None),
            20 => Fate::Cut,
            21 => Fate::Endless,
            22 if draw >> 16 & 1 == 0 => Fate::CrashBefore,
            22 => Fate::CrashAfter,
            23..=40 => Fate::Slow((draw >> 8) % 900),
            _ => Fate::Serve,
        }
    }

    fn event(&mut self, plural: &str, at: u64, draw: u64) -> Lateness {
        if !self.during.contains(&at) {
            return Lateness::After(1 + draw % 4);
        }
        match hash(self.seed ^ draw, plural) % 100 {
            0..=2 => Lateness::Cut,
            3..=4 => Lateness::Gone,
            5..=19 => Lateness::After(draw % 5000),
            _ => Lateness::After(1 + draw % 50),
        }
    }
}

/// A number that follows from a seed and a text (FNV-1a with SplitMix64's finaliser).
pub fn hash(seed: u64, text: &str) -> u64 {
    let mut hash = text.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
