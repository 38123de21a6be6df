//! Lines of JSON over a Unix socket, with limits: what QMP and the guest agent have in common.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

use crate::{Error, Result};

/// A line is 32 MiB at most; QEMU's longest answers, for long chains of images, stay far below.
const LINE_BYTES_MAX: usize = 32 << 20;

/// A socket from which lines are read and to which lines are written.
#[derive(Debug)]
pub(super) struct Lines {
    peer: String,
    socket: UnixStream,
    /// What has been read and not been used.
    buffer: Vec<u8>,
    /// So much of it holds no end of a line.
    searched: usize,
}

impl Lines {
    /// Connects to a socket.
    pub(super) fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let peer = path.display().to_string();
        let cannot = |action| {
            let place = peer.clone();
            move |source| Error::io(place, action, source)
        };
        let socket = UnixStream::connect(path).map_err(cannot("connect"))?;
        socket.set_write_timeout(Some(limit)).map_err(cannot("set up the socket"))?;
        Ok(Self { peer, socket, buffer: Vec::new(), searched: 0 })
    }

    /// The name of the other side, for messages.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// The socket itself.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends bytes, the first of them together with file descriptors.
    pub(super) fn send(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let sent = if descriptors.is_empty() { Ok(0) } else { self.send_with(bytes, descriptors) };
        sent.and_then(|sent| (&self.socket).write_all(&bytes[sent..]))
            .map_err(|source| Error::io(&self.peer, "send a command", source))
    }

    fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors at once"));
        }
        Ok(sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    }

    /// Leaves out everything up to the next byte of this value; for `guest-sync-delimited`.
    pub(super) fn skip_through(&mut self, mark: u8, deadline: Instant) -> Result<bool> {
        loop {
            if let Some(at) = self.buffer.iter().position(|&byte| byte == mark) {
                self.buffer.drain(..=at);
                self.searched = 0;
                return Ok(true);
            }
            self.buffer.clear();
            self.searched = 0;
            if !self.fill(deadline)? {
                return Ok(false);
            }
        }
    }

    /// The next line as JSON; `None` when none came until the deadline.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            while let Some(line) = self.take_line() {
                let text = line.trim_ascii();
                if !text.is_empty() {
                    return self.parse(text).map(Some);
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(self.broken(format!("it sends a message of more than {LINE_BYTES_MAX} bytes")));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    fn parse(&self, text: &[u8]) -> Result<Value> {
        serde_json::from_slice(text)
            .map_err(|error| self.broken(format!("it sends what is not JSON: {error}")))
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = end.map(|end| end + self.searched) else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    /// Reads once; `false` when nothing came until the deadline.
    fn fill(&mut self, deadline: Instant) -> Result<bool> {
        // A limit of zero means none at all.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut piece = [0; 16 << 10];
        let read = self.socket.set_read_timeout(Some(left)).and_then(|()| (&self.socket).read(&mut piece));
        match read {
            Ok(0) => Err(self.broken("it closed the connection".to_owned())),
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                io::ErrorKind::Interrupted => Ok(Instant::now() < deadline),
                _ => Err(Error::io(&self.peer, "read an answer", error)),
            },
        }
    }

    /// The error for a peer that does not keep to the protocol.
    pub(super) fn broken(&self, what: String) -> Error {
        Error::Protocol { peer: self.peer.clone(), what }
    }
}
