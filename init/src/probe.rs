//! One attempt to leave by one route. Opens sockets; judges nothing but its own answer.
//!
//! Every attempt is made twice within the window, from two sockets: the first packet to a fresh neighbour may be lost
//! to address resolution, and the kernel would repeat it only after a second, long after the window's end.
//!
//! What could not be tried is never "closed": an error that does not come from a wall (no descriptors, no memory, no
//! free port) is [`Sighting::Untried`], and keeps the round from being a proof.

mod icmp;
mod udp;

use std::io;
use std::time::Duration;

use futures::future::{Either, select};
use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::route::{Protocol, Route};

pub use udp::connected;

/// How long one round waits for answers. Inside a cluster and to a public resolver an answer takes a few milliseconds,
/// across an ocean about 100; and each start of an agent waits this long where walls drop silently.
pub const WINDOW: Duration = Duration::from_millis(150);
/// When the second attempt starts: late enough for a neighbour to be resolved, early enough for its answer to come.
const SECOND_ATTEMPT_AFTER: Duration = Duration::from_millis(40);

/// What an attempt saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// Somebody answered.
    Open,
    /// A wall refused, there is no route at all, or nobody answered within the window.
    Closed,
    /// The attempt was not made, for a reason that says nothing about walls.
    Untried(Errno),
}

/// Tries one route for at most [`WINDOW`].
pub async fn attempt(route: Route) -> Sighting {
    let mut first = Box::pin(once(route));
    if let Ok(sighting) = timeout(SECOND_ATTEMPT_AFTER, &mut first).await {
        return sighting;
    }
    let second = Box::pin(once(route));
    match timeout(WINDOW.saturating_sub(SECOND_ATTEMPT_AFTER), select(first, second)).await {
        Ok(Either::Left((sighting, _)) | Either::Right((sighting, _))) => sighting,
        Err(_silence) => Sighting::Closed,
    }
}

async fn once(route: Route) -> Sighting {
    let answered = match route.protocol {
        Protocol::Tcp => connect(route).await,
        Protocol::Dns => udp::dns(route.target).await,
        Protocol::Quic => udp::quic(route.target).await,
        Protocol::Icmp => icmp::echo(route.address(), socket2::Type::DGRAM).await,
        Protocol::IcmpRaw => icmp::echo(route.address(), socket2::Type::RAW).await,
    };
    match answered {
        Ok(()) => Sighting::Open,
        Err(error) => refusal(route, &error),
    }
}

async fn connect(route: Route) -> io::Result<()> {
    let socket = if route.target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Closing resets: rounds follow each other quickly, and must not fill the node's table with TIME_WAIT.
    socket.set_zero_linger()?;
    let stream: TcpStream = socket.connect(route.target).await?;
    drop(stream);
    Ok(())
}

/// What an error says about the route. The list of refusals is closed; anything else is no evidence.
fn refusal(route: Route, error: &io::Error) -> Sighting {
    let Some(errno) = Errno::from_io_error(error) else { return Sighting::Untried(Errno::IO) };
    match errno {
        // Rejected on the way, by netfilter in this pod, or by the runtime.
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN => {
            Sighting::Closed
        }
        Errno::NETDOWN | Errno::TIMEDOUT | Errno::PERM | Errno::ACCESS => Sighting::Closed,
        // The kernel has no such protocol, so nobody in this pod can speak it.
        Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT | Errno::OPNOTSUPP => {
            Sighting::Closed
        }
        // No address of that family in this pod. For IPv4, which a pod here always has, it means that ports ran out.
        Errno::ADDRNOTAVAIL if route.target.is_ipv6() => Sighting::Closed,
        other => Sighting::Untried(other),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    fn loopback(protocol: Protocol, port: u16) -> Route {
        Route { protocol, target: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port) }
    }

    #[tokio::test]
    async fn a_listening_port_is_found_open() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(attempt(loopback(Protocol::Tcp, port)).await, Sighting::Open);
    }

    #[tokio::test]
    async fn a_refused_port_is_found_closed_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let before = std::time::Instant::now();
        assert_eq!(attempt(loopback(Protocol::Tcp, port)).await, Sighting::Closed);
        assert!(before.elapsed() < SECOND_ATTEMPT_AFTER);
    }

    #[tokio::test]
    async fn any_datagram_that_comes_back_means_open() {
        for protocol in [Protocol::Dns, Protocol::Quic] {
            let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = echo.local_addr().unwrap().port();
            let answer = async {
                let mut packet = [0; 2048];
                let (length, peer) = echo.recv_from(&mut packet).await.unwrap();
                echo.send_to(&packet[..length], peer).await.unwrap();
            };
            let (sighting, ()) = tokio::join!(attempt(loopback(protocol, port)), answer);
            assert_eq!(sighting, Sighting::Open, "{protocol:?}");
        }
    }

    #[tokio::test]
    async fn silence_is_closed_and_is_asked_twice() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = silent.local_addr().unwrap().port();
        assert_eq!(attempt(loopback(Protocol::Dns, port)).await, Sighting::Closed);
        let mut packet = [0; 2048];
        for _ in 0..2 {
            timeout(WINDOW, silent.recv_from(&mut packet)).await.expect("two attempts").unwrap();
        }
    }

    #[tokio::test]
    async fn a_dead_datagram_port_is_closed() {
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = gone.local_addr().unwrap().port();
        drop(gone);
        assert_eq!(attempt(loopback(Protocol::Quic, port)).await, Sighting::Closed);
    }

    #[tokio::test]
    async fn an_echo_request_to_an_answering_host_is_open_or_no_socket_could_be_had() {
        for (protocol, kind) in
            [(Protocol::Icmp, socket2::Type::DGRAM), (Protocol::IcmpRaw, socket2::Type::RAW)]
        {
            let permitted =
                socket2::Socket::new(socket2::Domain::IPV4, kind, Some(socket2::Protocol::ICMPV4)).is_ok();
            let expected = if permitted { Sighting::Open } else { Sighting::Closed };
            assert_eq!(attempt(loopback(protocol, 0)).await, expected, "{protocol:?}");
        }
    }

    #[test]
    fn an_error_of_our_own_is_never_a_wall() {
        let tcp = loopback(Protocol::Tcp, 1);
        for errno in
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL, Errno::ADDRNOTAVAIL]
        {
            assert_eq!(refusal(tcp, &errno.into()), Sighting::Untried(errno));
        }
        for errno in
            [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::PERM, Errno::AFNOSUPPORT]
        {
            assert_eq!(refusal(tcp, &errno.into()), Sighting::Closed);
        }
        assert_eq!(refusal(tcp, &io::Error::other("no errno")), Sighting::Untried(Errno::IO));
    }
}
