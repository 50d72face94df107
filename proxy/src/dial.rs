//! The only function of the proxy that opens a socket to an upstream. It takes a [`DialPermit`], which exists only for
//! an address that was judged for a request that was allowed; so nothing else can be dialled.

use agentsandbox_policy::DialPermit;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::chain::{self, Tunnel};
use crate::limits::CONNECT_TIMEOUT;
use crate::secrets::Secret;
use crate::upstream::{Place, Placed};

/// A connection to a destination, directly or through the upstream proxy, with its place among those that are open at a time.
pub type Stream = Placed<Way>;
/// The way of a connection: direct, or through the upstream proxy.
pub type Way = Either<TcpStream, Tunnel>;

/// Connects to the judged address, and asks the proxy there for the destination if the policy names one.
pub async fn connect(
    permit: &DialPermit,
    place: Place,
    password: Option<&Secret>,
) -> std::io::Result<Stream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(permit.address())).await??;
    // Streams of small events are the common case here; Nagle would hold them back.
    stream.set_nodelay(true)?;
    let way = match permit.through() {
        None => Either::Left(stream),
        Some(proxy) => timeout(CONNECT_TIMEOUT, chain::open(stream, permit, proxy, password)).await??,
    };
    Ok(Placed::new(way, place))
}
