//! One attempt to leave by one route. Opens sockets; judges nothing but its own answer.
//!
//! Every attempt is made twice within its window, from two sockets: the first packet to a fresh neighbour may be lost
//! to address resolution, and the kernel would repeat it only after a second, long after the window's end.
//!
//! The proxy is tried by the same attempt, beside the routes and in the same window: [`control`]. That it answers shows
//! that packets leave this pod and answers come back in time; without it silence is not evidence of anything.
//!
//! What could not be tried is never "closed": an error that does not come from a wall (no descriptors, no memory, no
//! free port) is [`Sighting::Untried`], and keeps the round from being a proof.

mod icmp;
mod sctp;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::{Either, select};
use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};

use crate::link;
use crate::route::{Protocol, Route};

pub use udp::connected;

/// How long an attempt waits for an answer, at least. An open route answers within its round trip: to anything in a
/// cluster a few milliseconds, to a public resolver, of which every continent has one, some 10 to 50. Each start of an
/// agent waits this long where walls drop silently. [`window`] widens it where the network is seen to be slow.
pub const WINDOW: Duration = Duration::from_millis(100);
/// The window of rounds that come late: something is slow or wrong, and then patience costs nobody a start.
pub const WINDOW_PATIENT: Duration = Duration::from_millis(500);
/// Silence counts as a wall only after this many times the time that the proxy took to answer in the same round.
const ANSWERS_PER_WINDOW: u32 = 2;
/// When the second attempt starts: late enough for a neighbour to be resolved, early enough for its answer to come.
const SECOND_ATTEMPT_AFTER: Duration = Duration::from_millis(30);

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

/// The window of a round in which the proxy took `answered`: never below `least`.
#[must_use]
pub fn window(least: Duration, answered: Duration) -> Duration {
    least.max(answered.saturating_mul(ANSWERS_PER_WINDOW))
}

/// Tries the proxy as a route is tried, and says how long it took to answer; `None` if it did not within `least`.
pub async fn control(proxy: SocketAddr, least: Duration) -> Option<Duration> {
    let started = Instant::now();
    let route = Route { protocol: Protocol::Tcp, target: proxy };
    let sighting = attempt(route, sleep_until(started + least)).await;
    let took = started.elapsed();
    (sighting == Sighting::Open && took <= least).then_some(took)
}

/// A timer that fires later than this after its time tells that this process was not running.
const LATE_MAX: Duration = Duration::from_millis(20);

/// Completes when silence since the call is evidence: after `least`, or later where the proxy answered late. A proxy that
/// did not answer makes the round worthless, so nobody waits longer for it.
///
/// A pod that was throttled wakes up with its timers and its packets due at the same time, and under gVisor the packets
/// are read by the same throttled process. So a silence that ends late was not listened to, and begins again.
pub async fn silence(least: Duration, control: impl Future<Output = Option<Duration>>) {
    let started = Instant::now();
    let window = window(least, control.await.unwrap_or_default());
    let mut due = started + window;
    loop {
        sleep_until(due).await;
        let now = Instant::now();
        if now.duration_since(due) <= LATE_MAX {
            return;
        }
        due = now + window;
    }
}

/// Tries one route until `silence`.
pub async fn attempt(route: Route, silence: impl Future<Output = ()>) -> Sighting {
    let answer = async {
        let mut first = Box::pin(once(route));
        if let Ok(sighting) = timeout(SECOND_ATTEMPT_AFTER, &mut first).await {
            return sighting;
        }
        match select(first, Box::pin(once(route))).await {
            Either::Left((sighting, _)) | Either::Right((sighting, _)) => sighting,
        }
    };
    // An answer that is there counts, however late this process came to look.
    tokio::select! {
        biased;
        sighting = answer => sighting,
        () = silence => Sighting::Closed,
    }
}

async fn once(route: Route) -> Sighting {
    match try_once(route).await {
        Ok(()) => Sighting::Open,
        Err(error) => refusal(route, &error),
    }
}

async fn try_once(route: Route) -> io::Result<()> {
    let own: Vec<IpAddr> = match route.link() {
        Some(scope) => {
            let own = link::own()?;
            link::check_settled(&own, scope)?;
            own.into_iter().map(|own| own.address.into()).collect()
        }
        None => Vec::new(),
    };
    match route.protocol {
        Protocol::Tcp => connect(route).await,
        Protocol::Dns => udp::dns(route.target).await,
        Protocol::Quic => udp::quic(route.target).await,
        Protocol::Icmp => icmp::echo(route.address(), socket2::Type::DGRAM).await,
        Protocol::IcmpRaw => icmp::echo(route.address(), socket2::Type::RAW).await,
        Protocol::Sctp => sctp::connect(route.target).await,
        Protocol::Link => icmp::echo_of_others(route.target, socket2::Type::DGRAM, &own).await,
        Protocol::LinkRaw => icmp::echo_of_others(route.target, socket2::Type::RAW, &own).await,
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
        // The interface has an address there, so that nothing could be sent is no wall's doing.
        Errno::NETUNREACH | Errno::ADDRNOTAVAIL if route.link().is_some() => Sighting::Untried(errno),
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::{TcpListener, UdpSocket};
    use tokio::time::sleep;

    use super::*;

    /// Far longer than an answer or a refusal takes, both of which come at once.
    const LONG: Duration = Duration::from_secs(20);

    async fn tried(route: Route) -> Sighting {
        attempt(route, sleep(LONG)).await
    }

    /// An address on which nobody else listens, whatever the port, so that a port that was given up is nobody's.
    fn lonely(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 91, last)
    }

    fn loopback(protocol: Protocol, port: u16) -> Route {
        Route { protocol, target: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port) }
    }

    #[tokio::test]
    async fn a_listening_port_is_found_open() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tried(loopback(Protocol::Tcp, port)).await, Sighting::Open);
    }

    #[tokio::test]
    async fn a_refused_port_is_found_closed_at_once() {
        let listener = TcpListener::bind((lonely(1), 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        let before = std::time::Instant::now();
        assert_eq!(tried(Route { protocol: Protocol::Tcp, target }).await, Sighting::Closed);
        assert!(before.elapsed() < LONG, "a refusal is not waited out");
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
            let (sighting, ()) = tokio::join!(tried(loopback(protocol, port)), answer);
            assert_eq!(sighting, Sighting::Open, "{protocol:?}");
        }
    }

    #[tokio::test]
    async fn silence_is_closed_and_is_asked_twice() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let silence = sleep(SECOND_ATTEMPT_AFTER + Duration::from_secs(1));
        assert_eq!(attempt(loopback(Protocol::Dns, port), silence).await, Sighting::Closed);
        let mut packet = [0; 2048];
        for _ in 0..2 {
            timeout(LONG, silent.recv_from(&mut packet)).await.expect("two attempts").unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_evidence_only_after_twice_the_time_the_proxy_took() {
        for (answered, expected) in [
            (Some(Duration::from_millis(1)), WINDOW),
            (Some(WINDOW / 2), WINDOW),
            (Some(WINDOW * 8 / 10), WINDOW * 16 / 10),
            (None, WINDOW),
        ] {
            let started = Instant::now();
            silence(WINDOW, async {
                sleep(answered.unwrap_or(WINDOW)).await;
                answered
            })
            .await;
            assert_eq!(started.elapsed(), expected, "{answered:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_that_ends_late_because_the_process_was_held_up_begins_again() {
        let started = Instant::now();
        // The clock jumps while nobody runs, as in a pod that is throttled.
        let held_up = tokio::time::advance(WINDOW * 4);
        tokio::join!(silence(WINDOW, async { Some(Duration::from_millis(1)) }), held_up);
        assert_eq!(started.elapsed(), WINDOW * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_there_beats_a_window_that_is_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let open = loopback(Protocol::Tcp, listener.local_addr().unwrap().port());
        for _ in 0..20 {
            // The clock jumps while the process is held up, so that answer and end are found together.
            let held_up = tokio::time::advance(WINDOW * 4);
            let (sighting, ()) = tokio::join!(attempt(open, sleep(WINDOW)), held_up);
            assert_eq!(sighting, Sighting::Open);
        }
    }

    #[tokio::test]
    async fn the_control_is_the_proxys_answer_and_nothing_else() {
        let listener = TcpListener::bind((lonely(2), 0)).await.unwrap();
        let proxy = listener.local_addr().unwrap();
        assert!(control(proxy, LONG).await.is_some_and(|took| took <= LONG));
        drop(listener);
        assert_eq!(control(proxy, LONG).await, None);
    }

    #[tokio::test]
    async fn a_dead_datagram_port_is_closed() {
        let gone = UdpSocket::bind((lonely(3), 0)).await.unwrap();
        let target = gone.local_addr().unwrap();
        drop(gone);
        let before = std::time::Instant::now();
        assert_eq!(tried(Route { protocol: Protocol::Quic, target }).await, Sighting::Closed);
        assert!(before.elapsed() < LONG, "a refusal is not waited out");
    }

    #[tokio::test]
    async fn an_echo_request_to_an_answering_host_is_open_or_no_socket_could_be_had() {
        for (protocol, kind) in
            [(Protocol::Icmp, socket2::Type::DGRAM), (Protocol::IcmpRaw, socket2::Type::RAW)]
        {
            let permitted =
                socket2::Socket::new(socket2::Domain::IPV4, kind, Some(socket2::Protocol::ICMPV4)).is_ok();
            let expected = if permitted { Sighting::Open } else { Sighting::Closed };
            assert_eq!(tried(loopback(protocol, 0)).await, expected, "{protocol:?}");
        }
    }

    #[tokio::test]
    async fn on_a_link_only_the_answer_of_another_counts() {
        let host = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
        for kind in [socket2::Type::DGRAM, socket2::Type::RAW] {
            if socket2::Socket::new(socket2::Domain::IPV6, kind, Some(socket2::Protocol::ICMPV6)).is_err() {
                continue;
            }
            let another = timeout(LONG, icmp::echo_of_others(host, kind, &[])).await;
            assert!(another.is_ok_and(|answered| answered.is_ok()), "{kind:?}");
            // On the loopback device an answer takes far less.
            let answered = timeout(WINDOW_PATIENT, icmp::echo_of_others(host, kind, &[host.ip()])).await;
            assert!(answered.is_err(), "{kind:?}: {answered:?}");
        }
    }

    #[test]
    fn a_link_on_which_nothing_can_be_sent_yet_is_untried_and_not_closed() {
        let target = "[ff02::1%2]:0".parse().unwrap();
        for protocol in [Protocol::Link, Protocol::LinkRaw, Protocol::Tcp] {
            let route = Route { protocol, target };
            for errno in [Errno::AGAIN, Errno::NETUNREACH, Errno::ADDRNOTAVAIL] {
                assert_eq!(refusal(route, &errno.into()), Sighting::Untried(errno), "{route}");
            }
            assert_eq!(
                refusal(route, &Errno::PERM.into()),
                Sighting::Closed,
                "{route}: nobody here may send"
            );
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
