//! A port on which everything is answered: the "other pod" of the tests.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;

/// Answers TCP with a greeting and UDP with an echo, for good.
pub fn serve(port: u16) -> io::Result<String> {
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((length, peer)) = datagrams.recv_from(&mut packet) {
            let _ = packet.get(..length).map(|packet| datagrams.send_to(packet, peer));
        }
    });
    for stream in TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?.incoming() {
        let _ = stream?.write_all(b"reached\n");
    }
    Ok(String::new())
}
