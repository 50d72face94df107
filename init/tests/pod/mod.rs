//! A network that stands for a pod's.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::thread;

use agentsandbox_init::confine::network::{DATAGRAMS, STREAMS, raise_loopback};
use nix::sched::{CloneFlags, unshare};

pub fn shell(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

/// What stands for the pod's network: one of a thread's own, with a route to everywhere, in which each of the proxy's ports answers with its number;
/// none where this machine gives a thread none.
pub fn in_a_pods_network<T: Send>(then: impl FnOnce() -> T + Send) -> Option<T> {
    let in_it = || {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        raise_loopback().unwrap();
        assert!(shell("ip route add default dev lo").status.success());
        for port in STREAMS {
            let listener = TcpListener::bind((PROXY, port)).unwrap();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut asked = [0; 4];
                    stream.read_exact(&mut asked).unwrap();
                    stream
                        .write_all(format!("{} to {port}\n", String::from_utf8_lossy(&asked)).as_bytes())
                        .unwrap();
                }
            });
        }
        let datagrams = UdpSocket::bind((PROXY, DATAGRAMS)).unwrap();
        thread::spawn(move || {
            let mut asked = [0; 4];
            while let Ok((_, from)) = datagrams.recv_from(&mut asked) {
                datagrams.send_to(b"told\n", from).unwrap();
            }
        });
        Some(then())
    };
    thread::scope(|scope| scope.spawn(in_it).join().unwrap())
}

/// Beside the loopback's own address, so that it is found through the forwarder only.
pub const PROXY: &str = "127.0.0.7";
