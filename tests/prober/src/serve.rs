//! Ports on which everything is answered: the "other pod" of the tests.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;

/// Answers TCP with a greeting and UDP with an echo, for good. A port that it cannot have is told and left out.
pub fn serve(ports: Vec<u16>) -> ! {
    for port in ports {
        for listen in [tcp, udp] {
            thread::spawn(move || {
                if let Err(error) = listen(port) {
                    eprintln!("port {port}: {error}");
                }
            });
        }
    }
    crate::sleep()
}

fn tcp(port: u16) -> io::Result<()> {
    for stream in TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?.incoming() {
        let _ = stream?.write_all(b"reached\n");
    }
    Ok(())
}

fn udp(port: u16) -> io::Result<()> {
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let mut packet = [0; 2048];
    loop {
        let (length, peer) = datagrams.recv_from(&mut packet)?;
        let _ = packet.get(..length).map(|packet| datagrams.send_to(packet, peer));
    }
}
