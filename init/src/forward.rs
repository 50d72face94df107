//! The first process of an agent that has no network. It stays in the pod's, and carries what the agent sends to its loopback to the sandbox's own
//! proxy, byte for byte; it judges nothing of it: the proxy does. It starts the process that becomes the agent, passes signals on to it, and ends as
//! it ended, so that whoever ends this one ends the agent, and the container.
//!
//! For whoever [enters](crate::confine::enter) the container later there is another one, [`beside`] the command: that is the process that was started, so its
//! terminal, its signals and its exit code are its own, and the one that carries ends with it.
//!
//! Of what the agent's container starts these alone are in the pod's network. So before its child goes on it takes from itself what the
//! agent could use it for: nobody reads its memory or what it has open, and it has the [filters](crate::confine::calls) of every agent. It reads
//! nothing but the sockets, and dials one address.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{DumpableBehavior, PidfdFlags, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::confine::network::{BEGINS_WITHIN, Fault, SOCKETS, WORD, hand, received};
use crate::confine::{calls, say};
use crate::program::SELF;

/// Connections at a time, of all entrances: each is two descriptors. More wait where they are, as they would before the proxy.
const CONNECTIONS_MAX: usize = 400;
/// How long the agent may go on sending where the proxy has ended its side: the proxy bears silence there for as long.
const ENDED_MAX: Duration = Duration::from_secs(600);
/// Questions of DNS at a time; more are lost, as they are on any network.
const QUESTIONS_MAX: usize = 64;
/// The longest message of DNS over UDP that anybody sends (RFC 6891, and the flag days since).
const DATAGRAM_BYTES_MAX: usize = 4096;
/// How long an answer is waited for: resolvers ask again sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the proxy may take to take a connection; it is a neighbour.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause where nothing can be taken: descriptors are short, and become free again.
const PAUSE: Duration = Duration::from_millis(50);
/// What is passed on to the agent, to which a container's signals are meant.
const PASSED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
/// How shells tell a signal by an exit code.
const ENDED_BY_SIGNAL: u8 = 128;

/// Starts this command line once more, as the process that leaves the network and becomes the agent, and carries for it until it ends.
/// Returns its exit code.
///
/// # Errors
/// When it cannot be started or carried for; it has not become the agent then, or ends with this process.
pub fn keep(proxy: IpAddr) -> Result<ExitCode, Fault> {
    kept(proxy).map_err(Fault::Keep)
}

fn kept(proxy: IpAddr) -> io::Result<ExitCode> {
    let (control, its) = UnixStream::pair()?;
    let mut arguments = std::env::args_os().skip(1);
    let child = Command::new(SELF)
        .args(arguments.next())
        .arg("--inside")
        .args(arguments)
        .stdin(OwnedFd::from(its))
        // What an agent sends to the group of its processes is not for this one.
        .process_group(0)
        .spawn()?;
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    seal()?;
    control.set_read_timeout(Some(BEGINS_WITHIN))?;
    // Where none come the child says why, and ends.
    let handed = hand(&control, &[io::stdin().as_fd()]);
    let sockets = handed.and_then(|()| received(&control, SOCKETS)).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ends = signal(SignalKind::child())?;
        pass_signals_on(child)?;
        begin(sockets, proxy, control)?;
        loop {
            if let Some(code) = ended(child)? {
                return Ok(code);
            }
            ends.recv().await;
        }
    })
}

/// Carries for the process that has started this one, until it ends; whoever started it goes on at once.
#[must_use]
pub fn beside(proxy: IpAddr) -> ExitCode {
    beside_parent(proxy).map_or_else(
        |error| {
            // Heard as long as it is that one's child; later, who has started it sees that nobody answers, and starts nothing either.
            say(&format!("what carries to the proxy does not begin: {error}"));
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn beside_parent(proxy: IpAddr) -> io::Result<()> {
    let parent = rustix::process::getppid().ok_or(io::ErrorKind::NotFound)?;
    // By its number another could be meant later. One that has ended already hands nothing over.
    let parent = rustix::process::pidfd_open(parent, PidfdFlags::empty())?;
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // From here on it has no terminal, none of the command's output, and is not its child.
    nix::unistd::daemon(false, false)?;
    seal()?;
    control.set_read_timeout(Some(BEGINS_WITHIN))?;
    let sockets = received(&control, SOCKETS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        begin(sockets, proxy, control)?;
        spawn_blocking(move || outlived(&parent)).await.map_err(io::Error::other)?
    })
}

/// Returns once the process has ended.
fn outlived(process: &OwnedFd) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            ended => return Ok(ended.map(drop)?),
        }
    }
}

/// Takes from this process what another could use it for.
fn seal() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    calls::confine().map_err(io::Error::other)
}

fn pass_signals_on(child: Pid) -> io::Result<()> {
    for passed in PASSED {
        let mut asked = signal(SignalKind::from_raw(passed as i32))?;
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                let _ = kill(child, passed);
            }
        });
    }
    Ok(())
}

/// How the child ended, if it has. The first process of a container is given the children of all that have ended, too.
fn ended(child: Pid) -> io::Result<Option<ExitCode>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                let number = u8::try_from(signal as i32).unwrap_or_default();
                return Ok(Some(ExitCode::from(ENDED_BY_SIGNAL.saturating_add(number))));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Carries what comes to these sockets from now on, and says so; of none nothing is said, and the child ends.
fn begin(mut sockets: Vec<OwnedFd>, proxy: IpAddr, mut control: UnixStream) -> io::Result<()> {
    let Some(datagrams) = sockets.pop() else { return Ok(()) };
    let datagrams = std::net::UdpSocket::from(datagrams);
    let port = datagrams.local_addr()?.port();
    datagrams.set_nonblocking(true)?;
    tokio::spawn(answers(UdpSocket::from_std(datagrams)?, SocketAddr::new(proxy, port)));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for socket in sockets {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        let to = SocketAddr::new(proxy, listener.local_addr()?.port());
        tokio::spawn(connections(TcpListener::from_std(listener)?, to, Arc::clone(&places)));
    }
    control.write_all(&[WORD])
}

async fn connections(listener: TcpListener, to: SocketAddr, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((near, _)) => {
                tokio::spawn(async move {
                    carry(near, to).await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Carries one connection. Where the proxy is not there, or one side breaks off, so does the other: an end is told as an end alone.
async fn carry(mut near: TcpStream, to: SocketAddr) {
    let Ok(Ok(mut far)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await else { return cut(&near) };
    // Each side has said already when something is to be sent.
    let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    if carried(&mut near, &mut far, ENDED_MAX).await.is_err() {
        cut(&near);
        cut(&far);
    }
}

async fn carried(near: &mut TcpStream, far: &mut TcpStream, ended_max: Duration) -> io::Result<()> {
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
    let asking = async {
        copy(&mut from_near, &mut to_far).await?;
        to_far.shutdown().await
    };
    let answering = async {
        copy(&mut from_far, &mut to_near).await?;
        to_near.shutdown().await
    };
    tokio::pin!(asking, answering);
    tokio::select! {
        asked = &mut asking => {
            asked?;
            answering.await
        }
        answered = &mut answering => {
            answered?;
            timeout(ended_max, asking).await?
        }
    }
}

fn cut(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn answers(socket: UdpSocket, to: SocketAddr) {
    let (socket, places) = (Arc::new(socket), Arc::new(Semaphore::new(QUESTIONS_MAX)));
    let mut question = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else {
            sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (socket, question) = (Arc::clone(&socket), question.get(..length).unwrap_or_default().to_vec());
        tokio::spawn(async move {
            if let Ok(Ok(answer)) = timeout(ANSWER_TIMEOUT, answered(&question, to)).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

/// From a socket of its own, which takes an answer of the proxy's alone.
async fn answered(question: &[u8], to: SocketAddr) -> io::Result<Vec<u8>> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM_BYTES_MAX];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn forwarding(to: SocketAddr, places: usize) -> SocketAddr {
        let (listener, address) = listening().await;
        tokio::spawn(connections(listener, to, Arc::new(Semaphore::new(places))));
        address
    }

    #[tokio::test]
    async fn what_is_sent_is_carried_byte_for_byte_and_each_side_ends_by_itself() {
        let (proxy, to) = listening().await;
        let mut agent = TcpStream::connect(forwarding(to, 1).await).await.unwrap();
        let (mut far, _) = proxy.accept().await.unwrap();
        let sent: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let (written, read) = tokio::join!(
            async {
                agent.write_all(&sent).await.unwrap();
                agent.shutdown().await
            },
            async {
                let mut read = Vec::new();
                far.read_to_end(&mut read).await.unwrap();
                read
            }
        );
        written.unwrap();
        assert!(read == sent);
        far.write_all(b"answer").await.unwrap();
        drop(far);
        let mut answer = String::new();
        agent.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn what_breaks_off_or_is_not_there_is_no_end() {
        let (proxy, to) = listening().await;
        let by = forwarding(to, 8).await;
        let mut agent = TcpStream::connect(by).await.unwrap();
        let (far, _) = proxy.accept().await.unwrap();
        cut(&far);
        drop(far);
        let broken = agent.read(&mut [0]).await.unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
        drop(proxy);
        let mut agent = TcpStream::connect(by).await.unwrap();
        let absent = agent.read(&mut [0]).await.unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn there_are_as_many_connections_at_a_time_as_there_are_places_and_the_next_waits() {
        let (proxy, to) = listening().await;
        let by = forwarding(to, 1).await;
        let first = TcpStream::connect(by).await.unwrap();
        let (far, _) = proxy.accept().await.unwrap();
        let mut second = TcpStream::connect(by).await.unwrap();
        second.write_all(b"x").await.unwrap();
        assert!(timeout(Duration::from_millis(200), proxy.accept()).await.is_err());
        drop((first, far));
        let (mut far, _) = proxy.accept().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_question_is_answered_to_who_asked() {
        let proxy = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let to = proxy.local_addr().unwrap();
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let by = near.local_addr().unwrap();
        tokio::spawn(answers(near, to));
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").await, UdpSocket::bind("127.0.0.1:0").await);
        let (one, other) = (one.unwrap(), other.unwrap());
        one.send_to(b"one", by).await.unwrap();
        other.send_to(b"other", by).await.unwrap();
        let mut buffer = [0; 16];
        for _ in 0..2 {
            let (length, from) = proxy.recv_from(&mut buffer).await.unwrap();
            let answer = [b"to ", &buffer[..length]].concat();
            proxy.send_to(&answer, from).await.unwrap();
        }
        for (socket, expected) in [(one, "to one"), (other, "to other")] {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], from), (expected.as_bytes(), by));
        }
    }

    #[test]
    fn where_no_sockets_came_nobody_is_told_that_they_are_carried() {
        let (own, mut other) = UnixStream::pair().unwrap();
        begin(Vec::new(), Ipv4Addr::LOCALHOST.into(), own).unwrap();
        let mut word = Vec::new();
        io::Read::read_to_end(&mut other, &mut word).unwrap();
        assert!(word.is_empty());
    }

    #[test]
    fn fewer_sockets_than_all_are_none() {
        let (own, other) = UnixStream::pair().unwrap();
        hand(&other, &[io::stdin().as_fd()]).unwrap();
        assert!(received(&own, SOCKETS).is_err());
        hand(&other, &[io::stdin().as_fd()]).unwrap();
        assert_eq!(received(&own, 1).unwrap().len(), 1);
        drop(other);
        assert!(received(&own, 1).is_err());
    }

    #[tokio::test]
    async fn a_connection_that_the_proxy_has_ended_is_not_kept_for_ever() {
        let ((agents, near_at), (proxy, far_at)) = (listening().await, listening().await);
        let mut agent = TcpStream::connect(near_at).await.unwrap();
        let (mut near, _) = agents.accept().await.unwrap();
        let mut far = TcpStream::connect(far_at).await.unwrap();
        drop(proxy.accept().await.unwrap());
        let kept = carried(&mut near, &mut far, Duration::from_millis(50));
        let kept = timeout(Duration::from_secs(30), kept).await.expect("it is kept");
        assert_eq!(kept.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(agent.read(&mut [0]).await.unwrap(), 0, "its end was told");
    }
}
