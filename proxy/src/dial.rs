//! The only function of the proxy that opens a socket to an upstream. It takes a [`DialPermit`], which exists only for
//! an address that was judged for a request that was allowed; so nothing else can be dialled.

use agentsandbox_policy::DialPermit;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::CONNECT_TIMEOUT;

/// Connects to the judged address.
pub async fn connect(permit: &DialPermit) -> std::io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(permit.address())).await??;
    // Streams of small events are the common case here; Nagle would hold them back.
    stream.set_nodelay(true)?;
    Ok(stream)
}
