//! No network but a loopback, on which the proxy's entrances are found at their ports. The process takes a network of its own, opens the
//! sockets there, and hands them to another ([`crate::forward`]), which stays in the pod's network, whose walls let it reach the proxy and
//! nothing else. What the agent starts never comes there by force: it would need a capability over the pod's users, and has none over its own.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::program::SELF;

/// Ports of the proxy's entrances that are spoken to over TCP: as an HTTP proxy, SOCKS5, by a base URL, TLS, HTTP, and DNS.
pub const STREAMS: [u16; 6] = [3128, 1080, 8080, 443, 80, 53];
/// Port of its policy DNS over UDP.
pub const DATAGRAMS: u16 = 53;
/// Sockets that are handed over.
pub const SOCKETS: usize = STREAMS.len() + 1;
/// What is said with them, and what is answered.
pub const WORD: u8 = b'.';
/// How long parent and child may take for each step: they are programs on this machine.
pub const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// Connections that wait to be taken, as before the proxy itself.
const BACKLOG: i32 = 1024;
/// The loopback is the first interface of every network.
const LOOPBACK: i32 = 1;

/// Why there is no such network.
#[derive(Debug, Error)]
pub enum Fault {
    /// The process that becomes the agent cannot be started, or not be carried for.
    #[error("the agent's connections to its proxy cannot be carried: {0}")]
    Keep(#[source] io::Error),
    /// The loopback cannot be listened on.
    #[error("port {port} of the loopback cannot be opened: {source}")]
    Door {
        /// The port.
        port: u16,
        /// What the kernel says.
        source: io::Error,
    },
    /// The other process does not carry.
    #[error("what carries the agent's connections to its proxy does not begin: {0}")]
    Silent(#[source] io::Error),
}

/// The process that stays in the pod's network, and waits for what it is to carry.
#[derive(Debug)]
pub struct Keeper {
    control: UnixStream,
}

/// The sockets that the agent finds on its loopback.
#[derive(Debug)]
pub struct Doors {
    streams: Vec<TcpListener>,
    datagrams: UdpSocket,
}

impl Keeper {
    /// Meets it on standard input, and takes from it what the agent is to have there.
    ///
    /// # Errors
    /// When it is not there, or has not sealed itself.
    pub fn meet() -> Result<Self, Fault> {
        let meet = || {
            // Nobody would carry, and nobody tell how the agent ended.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
            control.set_read_timeout(Some(BEGINS_WITHIN))?;
            for input in received(&control, 1)? {
                rustix::stdio::dup2_stdin(input)?;
            }
            Ok(Self { control })
        };
        meet().map_err(Fault::Silent)
    }

    /// Starts one for this process, which is to have a network of its own and is no agent's first: it becomes nobody's child, so that the
    /// command waits for none that it has not started, and ends with this process, whatever that becomes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(proxy: IpAddr) -> Result<Self, Fault> {
        let begin = || {
            let (control, its) = UnixStream::pair()?;
            control.set_read_timeout(Some(BEGINS_WITHIN))?;
            let began = Command::new(SELF)
                .arg("carry")
                .arg(format!("--proxy={proxy}"))
                .stdin(OwnedFd::from(its))
                .stdout(Stdio::null())
                .status()?;
            if began.success() { Ok(Self { control }) } else { Err(io::Error::other(began.to_string())) }
        };
        begin().map_err(Fault::Keep)
    }

    /// Has it carry what comes to these sockets, and returns once it does.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn serve(self, doors: &Doors) -> Result<(), Fault> {
        self.handed(doors).map_err(Fault::Silent)
    }

    fn handed(mut self, doors: &Doors) -> io::Result<()> {
        let sockets: Vec<_> =
            doors.streams.iter().map(AsFd::as_fd).chain([doors.datagrams.as_fd()]).collect();
        hand(&self.control, &sockets)?;
        let mut answer = [0];
        self.control.read_exact(&mut answer)?;
        if answer == [WORD] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Hands over what is open.
///
/// # Errors
/// When it cannot be sent.
pub fn hand(control: &UnixStream, open: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if !message.push(SendAncillaryMessage::ScmRights(open)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(control, &[IoSlice::new(&[WORD])], &mut message, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What was handed over: so many, or none.
///
/// # Errors
/// When it is not so many, or nobody is there any more.
pub fn received(control: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    recvmsg(control, &mut [IoSliceMut::new(&mut word)], &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let open: Vec<OwnedFd> = message
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(open) => Some(open),
            _ => None,
        })
        .flatten()
        .collect();
    if word == [WORD] && open.len() == count {
        Ok(open)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} of {count} came", open.len())))
    }
}

impl Doors {
    /// Opens them in this network.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open() -> Result<Self, Fault> {
        let door = |port| move |source| Fault::Door { port, source };
        // gVisor's is up from the beginning.
        if !is_up() {
            raise_loopback().map_err(door(0))?;
        }
        let streams =
            STREAMS.into_iter().map(|port| listening(port).map_err(door(port))).collect::<Result<_, _>>()?;
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, DATAGRAMS)).map_err(door(DATAGRAMS))?;
        Ok(Self { streams, datagrams })
    }
}

fn listening(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether the loopback leads to itself. Nothing is sent.
fn is_up() -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    socket.is_ok_and(|socket| socket.connect((Ipv4Addr::LOCALHOST, DATAGRAMS)).is_ok())
}

/// Turns the loopback on in a network that is new. The message is that of rtnetlink(7): its head, then `struct ifinfomsg`.
///
/// # Errors
/// When the kernel refuses it.
pub fn raise_loopback() -> io::Result<()> {
    const MESSAGE_BYTES: u32 = 32;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 0x5;
    const UP: u32 = 0x1;
    const NONE: u32 = 0;
    // Where the answer, which repeats the message, has its number.
    const NUMBER: std::ops::Range<usize> = 16..20;
    let head = [
        &MESSAGE_BYTES.to_ne_bytes()[..],
        &libc::RTM_NEWLINK.to_ne_bytes(),
        &REQUEST_AND_ACKNOWLEDGE.to_ne_bytes(),
        &NONE.to_ne_bytes(),
        &NONE.to_ne_bytes(),
    ];
    // Its family and kind are not asked for; then which, what it is to be, and what of that is meant.
    let link = [&NONE.to_ne_bytes()[..], &LOOPBACK.to_ne_bytes(), &UP.to_ne_bytes(), &UP.to_ne_bytes()];
    let routes = Some(Protocol::from(libc::NETLINK_ROUTE));
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, routes)?;
    socket.send(&[head.concat(), link.concat()].concat())?;
    let mut answer = [0; 128];
    let length = socket.read(&mut answer)?;
    let number = answer.get(..length).and_then(|answer| answer.get(NUMBER)?.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
