//! Every byte between the proxy and the internet, as somebody on that line has it: what he must not find there, and what he does.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::catalogue;
use crate::failure::{During, Failure, Result};
use crate::held::{Held, START_TIMEOUT, said_ready, until};
use crate::netns::Namespaces;

/// Sends the text of its first argument past the listener, in a packet that nobody takes.
const MARK: &str = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), ('9.9.9.9', 9))";

/// A listener.
pub struct Wire {
    file: PathBuf,
    marks: AtomicU32,
    _listener: Held,
}

impl Wire {
    /// Listens from now on; what passes is kept in a file of the folder.
    ///
    /// # Errors
    /// When nobody may listen, as without root.
    pub fn tap(spaces: &Namespaces, folder: &Path) -> Result<Self> {
        let file = folder.join("wire");
        File::create(&file).during("what passes cannot be kept")?;
        let mut command = spaces.world.command("python3");
        command.arg(catalogue::folder().join("drivers/wire.py")).arg("world1").arg(&file);
        let child = command.stdout(Stdio::piped()).spawn().during("python3 cannot be run")?;
        let mut listener = Held::of(child);
        if !said_ready(&mut listener, START_TIMEOUT) {
            return Err(Failure::new("nobody can listen between the proxy and the internet"));
        }
        Ok(Self { file, marks: AtomicU32::new(0), _listener: listener })
    }

    /// Where all that was sent before now has been written down.
    ///
    /// # Errors
    /// When the listener has gone.
    pub fn end(&self, spaces: &Namespaces) -> Result<u64> {
        let mark = format!("mark-{}-of-the-listener", self.marks.fetch_add(1, Ordering::Relaxed));
        let begin = fs::metadata(&self.file).map(|file| file.len()).during("what passed cannot be read")?;
        let sent = spaces.proxy.command("python3").args(["-c", MARK, &mark]).status();
        if !sent.during("python3 cannot be run")?.success() {
            return Err(Failure::new("nothing can be sent from the proxy's namespace"));
        }
        let passed = || self.since(begin).ok().filter(|heard| has(heard, mark.as_bytes()));
        let heard = until("the listener between the proxy and the internet", passed)?;
        Ok(begin + heard.len() as u64)
    }

    /// What passed from there on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn since(&self, begin: u64) -> Result<Vec<u8>> {
        let mut file = File::open(&self.file).during("what passed cannot be read")?;
        file.seek(SeekFrom::Start(begin)).during("what passed cannot be read")?;
        let mut heard = Vec::new();
        file.read_to_end(&mut heard).during("what passed cannot be read")?;
        Ok(heard)
    }
}

/// Whether the bytes hold these.
#[must_use]
pub fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Whether a connection was asked for, by this address and at this port: by a packet with SYN and without ACK (RFC 791, 3.1; RFC 9293, 3.1),
/// whose header of IP has no options, as Linux sends it.
pub fn asks_for_connection(heard: &[u8], from: Ipv4Addr, port: u16) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    // Source, destination, both ports, two numbers, the length of the header, flags.
    heard.windows(22).any(|packet| {
        packet[..4] == from.octets()
            && packet[10..12] == port.to_be_bytes()
            && packet[21] & (SYN | ACK) == SYN
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_asked_for_by_a_syn_of_the_address_to_the_port_and_by_nothing_else() {
        let from = Ipv4Addr::new(10, 9, 1, 2);
        let packet = |from: Ipv4Addr, port: u16, flags: u8| {
            let ip =
                [&[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0][..], &from.octets(), &[9, 9, 9, 9]].concat();
            [&ip[..], &[0xc0, 1], &port.to_be_bytes(), &[0; 8], &[0xa0, flags], &[0xff; 20]].concat()
        };
        let heard = |packets: &[Vec<u8>]| asks_for_connection(&packets.concat(), from, 3128);
        let other = packet(Ipv4Addr::new(10, 9, 1, 1), 3128, 0x02);
        assert!(!heard(&[
            other.clone(),
            packet(from, 443, 0x02),
            packet(from, 3128, 0x10),
            packet(from, 3128, 0x12)
        ]));
        for flags in [0x02, 0xc2] {
            assert!(heard(&[other.clone(), packet(from, 3128, flags), packet(from, 443, 0x11)]));
        }
        assert!(!heard(&[]) && !heard(&[packet(from, 3128, 0x02)[..33].to_vec()]));
    }

    #[test]
    fn bytes_are_found_at_the_beginning_in_the_middle_at_the_end_and_nowhere_else() {
        for wanted in ["abc", "cde", "fgh"] {
            assert!(has(b"abcdefgh", wanted.as_bytes()), "{wanted}");
        }
        assert!(!has(b"abcdefgh", b"acb") && !has(b"", b"a"));
    }
}
