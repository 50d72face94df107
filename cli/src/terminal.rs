//! The terminal that a person sits at, given to a command: each key goes there as it is, Ctrl-C among them, what the command writes is obeyed as
//! it is, and it is told the window's size. It is as it was again whichever way the command or this program ends, but for SIGKILL.

use std::os::fd::{AsFd, OwnedFd};

use futures::SinkExt;
use futures::channel::mpsc::Sender;
use kube::api::TerminalSize;
use rustix::termios::{OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Error;
use crate::exec::ExecError;
use crate::run::Signals;

/// A terminal that is a command's; it is as it was once this is dropped.
struct Taken {
    at: OwnedFd,
    before: Termios,
}

impl Taken {
    fn new(at: impl AsFd) -> std::io::Result<Self> {
        let at = at.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&at)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&at, OptionalActions::Now, &raw)?;
        Ok(Self { at, before })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A terminal answers questions as if its answer were typed: what came of the command's and nobody read would be the shell's next line.
        let _flushed = tcflush(&self.at, QueueSelector::IFlush);
        // One that is gone needs nothing. What is still to be shown is not waited for: whoever reads it may have stopped.
        let _restored = tcsetattr(&self.at, OptionalActions::Now, &self.before);
    }
}

/// Gives a command the terminal until it ends, or until a signal ends this program, and tells the exit code.
///
/// # Errors
/// Where there is no terminal, and what the command's way says.
pub async fn given(at: impl AsFd, command: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    // Heard before, so that none ends the program between.
    let mut signals = Signals::new()?;
    let _taken = Taken::new(at).map_err(ExecError::NoTerminal)?;
    tokio::select! {
        ended = command => ended,
        code = signals.next() => Ok(code),
    }
}

/// Tells the size of the window now, and whenever it changes, to whoever listens.
pub async fn tell_size(at: impl AsFd, mut to: Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while let Ok(size) = tcgetwinsize(&at) {
        let size = TerminalSize { width: size.ws_col, height: size.ws_row };
        if to.send(size).await.is_err() || changes.recv().await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;

    use futures::channel::mpsc::channel;
    use futures::{FutureExt, StreamExt};
    use rustix::fs::OFlags;
    use rustix::process::{Signal, getpid, kill_process};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{InputModes, LocalModes, OutputModes, Winsize, tcsetwinsize};

    use super::*;

    /// A terminal: what a person sits at, and what a program has of it.
    struct Pair {
        near: File,
        far: File,
    }

    impl Pair {
        fn new() -> Self {
            let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&near).unwrap();
            unlockpt(&near).unwrap();
            let far = ptsname(&near, Vec::new()).unwrap().into_string().unwrap();
            let no_owner = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
            let far = OpenOptions::new().read(true).write(true).custom_flags(no_owner).open(far).unwrap();
            Self { near: near.into(), far }
        }

        /// Whether each key goes to the program as it is, and all that is written is shown as it is.
        fn is_raw(&self) -> bool {
            let modes = tcgetattr(&self.far).unwrap();
            let local = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            let cooked = [
                modes.input_modes.contains(InputModes::ICRNL),
                modes.output_modes.contains(OutputModes::OPOST),
                modes.local_modes.contains(local),
            ];
            assert!(cooked.iter().all(|is| *is == cooked[0]), "{modes:?}");
            !modes.local_modes.intersects(local)
        }

        fn size(&self, columns: u16, rows: u16) {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&self.near, size).unwrap();
        }
    }

    #[tokio::test]
    async fn each_key_goes_to_the_command_as_it_is_and_the_terminal_is_as_it_was_afterwards() {
        let mut pair = Pair::new();
        assert!(!pair.is_raw());
        let command = async {
            assert!(pair.is_raw());
            // Ctrl-C, Ctrl-D, Ctrl-Z and Return without a line's end.
            (&pair.near).write_all(b"\x03\x04\x1a\r").unwrap();
            let mut keys = [0; 4];
            (&pair.far).read_exact(&mut keys).unwrap();
            assert_eq!(&keys, b"\x03\x04\x1a\r");
            Ok(7)
        };
        assert_eq!(given(&pair.far, command).await.unwrap(), 7);
        assert!(!pair.is_raw());
        // The control: a terminal that nobody took shows what is typed.
        pair.near.write_all(b"a").unwrap();
        let mut shown = [0];
        pair.near.read_exact(&mut shown).unwrap();
        assert_eq!(&shown, b"a");
    }

    #[tokio::test]
    async fn a_terminal_is_as_it_was_after_an_error_and_a_panic() {
        let pair = Pair::new();
        let failed = given(&pair.far, async {
            assert!(pair.is_raw());
            Err(ExecError::NoCode("it failed".to_owned()).into())
        });
        assert!(failed.await.is_err() && !pair.is_raw());
        let broken = async { if pair.is_raw() { unreachable!("the panic that is meant") } else { Ok(0) } };
        let outcome = std::panic::AssertUnwindSafe(given(&pair.far, broken)).catch_unwind().await;
        assert!(outcome.is_err() && !pair.is_raw());
    }

    #[tokio::test]
    async fn a_terminal_is_as_it_was_after_a_signal_and_its_exit_code_is_the_shells() {
        let signals = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)];
        for (signal, code) in signals {
            let pair = Pair::new();
            let command = async {
                assert!(pair.is_raw());
                kill_process(getpid(), signal).unwrap();
                std::future::pending().await
            };
            assert_eq!(given(&pair.far, command).await.unwrap(), code, "{signal:?}");
            assert!(!pair.is_raw(), "{signal:?}");
        }
    }

    #[tokio::test]
    async fn what_the_terminal_answered_and_the_command_did_not_read_is_no_line_of_the_shell() {
        let pair = Pair::new();
        let command = async {
            (&pair.near).write_all(b"\x1b]lrm -rf ~\r").unwrap();
            Ok(0)
        };
        given(&pair.far, command).await.unwrap();
        (&pair.near).write_all(b"typed later\n").unwrap();
        let mut line = [0; 64];
        let count = (&pair.far).read(&mut line).unwrap();
        assert_eq!(String::from_utf8_lossy(&line[..count]), "typed later\n");
    }

    #[tokio::test]
    async fn what_is_no_terminal_is_not_given() {
        let file = tempfile::tempfile().unwrap();
        let outcome = given(&file, async { unreachable!("the command is not begun") }).await;
        assert!(matches!(outcome, Err(Error::Exec(ExecError::NoTerminal(_)))));
    }

    #[tokio::test]
    async fn the_size_of_the_window_is_told_at_once_and_when_it_changes() {
        let pair = Pair::new();
        pair.size(77, 33);
        let (to, mut told) = channel(1);
        let telling = tokio::spawn(tell_size(pair.far.try_clone().unwrap(), to));
        let first = told.next().await.unwrap();
        assert_eq!((first.width, first.height), (77, 33));
        pair.size(120, 40);
        // The kernel tells it to the terminal's own session, which this is not.
        kill_process(getpid(), Signal::WINCH).unwrap();
        let next = told.next().await.unwrap();
        assert_eq!((next.width, next.height), (120, 40));
        telling.abort();
    }
}
