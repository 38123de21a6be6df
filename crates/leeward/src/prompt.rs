//! Asking on the terminal, without showing what is typed.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::interrupt;

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// A terminal that does not show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Asks on the terminal of this process for a line; none when there is no terminal.
pub fn ask(question: &str) -> io::Result<Option<Zeroizing<String>>> {
    let Ok(mut terminal) = File::options().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    terminal.write_all(question.as_bytes())?;
    let silent = Silent::new(&terminal)?;
    let line = read_line(&terminal);
    drop(silent);
    line.map(Some)
}

/// Reads a line byte by byte, so that nothing of it stays in a buffer.
fn read_line(mut terminal: &File) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    let mut byte = [0];
    loop {
        wait(terminal)?;
        match terminal.read(&mut byte)? {
            0 => break,
            _ if byte[0] == b'\n' => break,
            _ if line.len() < LINE_BYTES_MAX => line.push(byte[0]),
            _ => return Err(io::Error::other("the line is too long")),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| io::Error::other("what was typed is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Waits until something was typed. A read would go on after a signal, and leave a terminal that shows nothing behind.
fn wait(terminal: &File) -> io::Result<()> {
    let step = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while !interrupt::is_requested() {
        match poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}
