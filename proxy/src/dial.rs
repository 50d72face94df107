//! The only function of the proxy that opens a socket to an upstream. It takes a [`DialPermit`], which exists only for
//! an address that was judged for a request that was allowed; so nothing else can be dialled.

use std::io;
use std::time::Duration;

use agentsandbox_policy::DialPermit;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::chain::{self, Tunnel};
use crate::limits::{CONNECT_TIMEOUT, UPSTREAM_DEAF_MAX, UPSTREAM_PROBE_INTERVAL};
use crate::secrets::Secret;
use crate::upstream::{Place, Placed};

/// A connection to a destination, directly or through the upstream proxy. The socket has its place among those that are open at a time.
pub type Stream = Either<Placed<TcpStream>, Tunnel>;

/// Connects to the judged address, and asks the proxy there for the destination if the policy names one.
pub async fn connect(permit: &DialPermit, place: Place, password: Option<&Secret>) -> io::Result<Stream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(permit.address())).await??;
    // Streams of small events are the common case here; Nagle would hold them back.
    stream.set_nodelay(true)?;
    gives_up(&stream, UPSTREAM_DEAF_MAX)?;
    let stream = Placed::new(stream, place);
    match permit.through() {
        None => Ok(Either::Left(stream)),
        Some(proxy) => timeout(CONNECT_TIMEOUT, chain::open(stream, permit, proxy, password)).await?,
    }
}

/// Has the kernel end the connection once the other side has taken nothing of what waits for it, or answered no probe, for so long: else
/// a host that is gone, or reads no more, would hold a place for ever. What the other side sends and nobody reads here is another matter:
/// the kernel answers for us.
fn gives_up(stream: &TcpStream, after: Duration) -> io::Result<()> {
    set_tcp_keepidle(stream, UPSTREAM_PROBE_INTERVAL)?;
    set_tcp_keepintvl(stream, UPSTREAM_PROBE_INTERVAL)?;
    // Linux counts no unanswered probes then (tcp(7)); they have the same time.
    set_tcp_user_timeout(stream, u32::try_from(after.as_millis()).unwrap_or(u32::MAX))?;
    Ok(set_socket_keepalive(stream, true)?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use agentsandbox_policy::{Host, Policy};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn p_i4_an_upstream_that_takes_nothing_is_given_up_and_one_whose_answer_nobody_reads_is_not() {
        let bound = Duration::from_millis(500);
        let ((mut deaf, _far), (mut paused, far)) = (pair().await, pair().await);
        for stream in [&deaf, &paused] {
            gives_up(stream, bound).unwrap();
        }
        // Until there is no room for more.
        let mut sent = 0;
        loop {
            match far.try_write(&PIECE) {
                Ok(bytes) => sent += bytes,
                Err(_) if sent > 0 => break,
                Err(_) => far.writable().await.unwrap(),
            }
        }
        let begin = std::time::Instant::now();
        let ended = loop {
            if let Err(error) = deaf.write_all(&PIECE).await {
                break error;
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= bound);
        drop(far);
        let mut read = Vec::new();
        paused.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), sent, "all of it is there, as long as nobody took it");
    }

    #[tokio::test]
    async fn p_i4_a_place_is_held_by_the_socket_while_the_upstream_proxy_is_asked_and_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let policy = format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, \
             rules: [{{name: pass, host: pass.test, ports: [443], scheme: https, tls: Passthrough}}], \
             addresses: {{allow: ['127.0.0.0/8']}}, upstream: {{proxy: {{url: 'http://127.0.0.1:{}'}}}}}}",
            listener.local_addr().unwrap().port()
        );
        let policy = Policy::from_yaml(&policy).unwrap();
        let permit = policy.pass(&Host::parse("pass.test").unwrap(), 443).unwrap();
        let permit = permit.dial(&policy, Ipv4Addr::LOCALHOST.into()).unwrap();
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let asked = async {
            let mut proxy = listener.accept().await.unwrap().0;
            proxy.read_u8().await.unwrap();
            proxy
        };
        let mut proxy = tokio::select! {
            _ = connect(&permit, place.into(), None) => panic!("it has no answer"),
            proxy = asked => proxy,
        };
        assert_eq!(places.available_permits(), 0, "the socket is open");
        proxy.read_to_end(&mut Vec::new()).await.unwrap();
        while places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
    }
}
