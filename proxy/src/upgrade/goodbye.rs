//! The end of a WebSocket that its policy cuts. A socket that is closed with bytes unread is reset, and the client's kernel may then
//! throw away what the client has not read yet. So the agent is told why, where a frame may stand, then that nothing follows, and a
//! little of what it still sends is taken, as it may have been on its way. None of it goes anywhere.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::frames::Frames;
use crate::limits::{LATE_BODY_BYTES_MAX, LATE_BODY_IDLE_TIMEOUT, LATE_BODY_TIMEOUT};

/// RFC 6455, 5.2: the last frame of a Close, with two bytes.
const CLOSE: [u8; 2] = [0x88, 2];

/// What a WebSocket is closed for (RFC 6455, 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The proxy ends.
    GoingAway = 1001,
    /// It is not allowed any more.
    PolicyViolation = 1008,
}

/// The agent's side of a tunnel that was cut.
pub(crate) struct Goodbye<A> {
    pub(super) read: ReadHalf<A>,
    pub(super) write: WriteHalf<A>,
    pub(super) frames: Frames,
}

impl<A: AsyncRead + AsyncWrite> Goodbye<A> {
    /// Ends a WebSocket.
    pub(super) async fn closes(mut self, code: Code) {
        let [high, low] = (code as u16).to_be_bytes();
        let close = [CLOSE[0], CLOSE[1], high, low];
        let told = async {
            // Where the upstream had ended before, this side is shut already, and the agent may still say what it likes.
            if self.frames.is_between() {
                let _ = self.write.write_all(&close).await;
            }
            self.ends().await;
        };
        // A client that does not take it has seen the end of its connection.
        let _ = timeout(LATE_BODY_TIMEOUT, told).await;
    }

    /// Says that nothing follows, and takes a little of what comes.
    async fn ends(&mut self) {
        let _ = self.write.shutdown().await;
        let (mut taken, mut buffer) = (0, [0; 1024]);
        while taken <= LATE_BODY_BYTES_MAX
            && let Ok(Ok(read @ 1..)) = timeout(LATE_BODY_IDLE_TIMEOUT, self.read.read(&mut buffer)).await
        {
            taken += read;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{duplex, empty, repeat};
    use tokio::time::Instant;

    use super::*;
    use crate::upgrade::frames::Side;

    /// None of an upstream so far.
    fn none() -> Frames {
        Frames::new(Side::Upstream, false)
    }

    fn frame(length: usize) -> Vec<u8> {
        super::super::frames::tests::frame(Side::Upstream, 0x82, length)
    }

    /// What an agent is told that was written these bytes before, and for how long the rest of what it says is taken.
    async fn told(before: &[u8], mut says: impl AsyncRead + Unpin) -> (Vec<u8>, Duration) {
        let (agent, ours) = duplex(1024);
        let (read, write) = tokio::io::split(ours);
        let mut frames = none();
        frames.pass(before).unwrap();
        let (mut hears, mut speaks) = tokio::io::split(agent);
        let begin = Instant::now();
        let agent = async {
            let mut told = Vec::new();
            hears.read_to_end(&mut told).await.unwrap();
            let _ = tokio::io::copy(&mut says, &mut speaks).await;
            told
        };
        let closing = async {
            Goodbye { read, write, frames }.closes(Code::PolicyViolation).await;
            begin.elapsed()
        };
        tokio::join!(agent, closing)
    }

    #[tokio::test(start_paused = true)]
    async fn p_h1_a_close_stands_only_where_a_frame_may_and_what_still_comes_is_taken_within_bounds() {
        assert_eq!(told(&frame(3), empty()).await.0, [0x88, 2, 0x03, 0xf0]);
        assert_eq!(told(&frame(3)[..4], empty()).await.0, [] as [u8; 0], "in the middle of a frame");
        let (_, after) = told(&[], empty()).await;
        assert_eq!(after.as_secs(), LATE_BODY_IDLE_TIMEOUT.as_secs(), "of silence");
        let (_, after) = told(&[], repeat(0)).await;
        assert!(after < LATE_BODY_IDLE_TIMEOUT, "{after:?} of a flood");
    }

    #[tokio::test(start_paused = true)]
    async fn p_h1_what_still_comes_is_taken_also_where_the_upstream_had_ended_before() {
        let (mut agent, ours) = duplex(1024);
        let (read, mut write) = tokio::io::split(ours);
        write.shutdown().await.unwrap();
        let said = async {
            let said = agent.write_all(&[0; 16 * 1024]).await;
            let mut told = Vec::new();
            agent.read_to_end(&mut told).await.unwrap();
            (said.is_ok(), told.len())
        };
        let goodbye = Goodbye { read, write, frames: none() };
        let (said, ()) = tokio::join!(said, goodbye.closes(Code::PolicyViolation));
        assert_eq!(said, (true, 0), "all is taken, and nothing is told");
    }
}
