//! Waiting for a proxy of this machine to listen: what kubelet runs after a start, so that "started" means "serving".

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A proxy that does not listen after this time will not.
const WITHIN: Duration = Duration::from_secs(10);
/// Pause between two attempts: a start takes some tens of milliseconds.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest that one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Why nobody serves.
#[derive(Debug, thiserror::Error)]
#[error("no proxy serves at {admin} within {} s", WITHIN.as_secs())]
pub struct NotServing {
    admin: SocketAddr,
    #[source]
    last: io::Error,
}

/// Returns once `/healthz` at `admin` answers 200: every port is bound before the first one is served.
///
/// # Errors
/// When that does not happen within ten seconds of `since`.
pub fn await_serving(admin: SocketAddr, since: Instant) -> Result<(), NotServing> {
    loop {
        match ask(admin) {
            Ok(()) => return Ok(()),
            Err(last) if since.elapsed() >= WITHIN => return Err(NotServing { admin, last }),
            Err(_) => sleep(PAUSE),
        }
    }
}

fn ask(admin: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status.ends_with(b" 200") { Ok(()) } else { Err(io::Error::other("it is not healthy")) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    fn long_ago() -> Instant {
        Instant::now().checked_sub(WITHIN).unwrap()
    }

    #[test]
    fn only_an_answer_of_200_is_serving() {
        await_serving(answering("HTTP/1.1 200 OK\r\n\r\n"), Instant::now()).unwrap();
        await_serving(answering("HTTP/1.1 503 No\r\n\r\n"), long_ago()).unwrap_err();
        await_serving("127.0.0.1:1".parse().unwrap(), long_ago()).unwrap_err();
    }
}
