//! The capturing sockets: every IP packet that arrives in this network namespace becomes a journal entry.
//!
//! One packet socket each for IPv4 and IPv6, bound to no interface, in cooked mode so that what is read begins with the IP header. A
//! socket for one protocol sees arriving packets only (sockets for all protocols would see departing ones too), which
//! is what the journal promises. Traffic within the namespace passes over loopback and is left out.

use std::io::{self, Read};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

use crate::frame;
use crate::journal::{Journal, now_ns};

/// The kernel's number for IPv4 frames, in network byte order as the socket call wants it.
const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// The kernel's number for IPv6 frames.
const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// Headers are all that is read of a packet.
const SNAPSHOT_BYTES: usize = 256;
/// Room for a burst of some ten thousand packets while the reader is not scheduled.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;

/// Starts the two readers; they end with the process.
///
/// # Errors
/// Fails where packet sockets need a capability that the process does not have.
pub fn capture(journal: &Journal) -> io::Result<()> {
    for (name, ethertype) in [("packets-v4", ETHERTYPE_IPV4), ("packets-v6", ETHERTYPE_IPV6)] {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ethertype))))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        let journal = journal.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || read_all(socket, &journal))?;
    }
    Ok(())
}

fn read_all(mut socket: Socket, journal: &Journal) {
    let mut snapshot = [0u8; SNAPSHOT_BYTES];
    loop {
        let bytes = match socket.read(&mut snapshot) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error() == Some(ENETDOWN) => continue,
            Err(error) => {
                tracing::error!(error.message = %error, "packet capture ended");
                return;
            }
        };
        if let Some(packet) =
            frame::read(&snapshot[..bytes], now_ns()).filter(|packet| !packet.source.is_loopback())
        {
            journal.packet(packet);
        }
    }
}

/// Told once to a packet socket when an interface goes down; the socket stays good.
const ENETDOWN: i32 = 100;
