//! SCTP, which a kernel mostly has not, and then nobody in the pod can speak it.
//!
//! Where a kernel has it, an association that comes up means open. Nobody is sure to listen on an open route, so there
//! "refused" and silence are weaker evidence than over TCP.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Tries to set up an association.
pub async fn connect(target: SocketAddr) -> io::Result<()> {
    let socket =
        Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::SCTP)).map_err(absence)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // A TCP stream in all but name: tokio needs only readiness and the pending error.
    let socket = TcpStream::from_std(socket.into())?;
    socket.ready(Interest::WRITABLE).await?;
    socket.take_error()?.map_or(Ok(()), Err)
}

/// gVisor calls a stream protocol that it has not an invalid argument; elsewhere in this exchange that would be no evidence.
fn absence(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::INVAL) => Errno::PROTONOSUPPORT.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sentrys_refusal_to_make_a_socket_is_read_as_absence() {
        let read = |errno: Errno| Errno::from_io_error(&absence(errno.into()));
        assert_eq!(read(Errno::INVAL), Some(Errno::PROTONOSUPPORT));
        assert_eq!(read(Errno::MFILE), Some(Errno::MFILE));
    }
}
