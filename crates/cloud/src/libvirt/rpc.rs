//! Messages to and from libvirt's daemon.
//!
//! The protocol is the one of libvirt's page "RPC protocol & APIs" (kbase/internals/rpc): a length, a header of six words
//! (program, version, procedure, kind, serial, status), and XDR. Numbers of procedures never change. After a message that
//! announces file descriptors each of them follows with one byte of its own.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::xdr::Reader;
use crate::qemu::channel::broken;
use crate::{Error, Result};

/// The program of what all hypervisors have in common.
pub(super) const REMOTE: u32 = 0x2000_8086;
/// The program of what QEMU alone has.
pub(super) const QEMU: u32 = 0x2000_8087;
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// The longest message of libvirt, its length included.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Kinds of messages.
const CALL: u32 = 0;
const REPLY: u32 = 1;
const EVENT: u32 = 2;
const CALL_WITH_DESCRIPTORS: u32 = 4;
/// Status of a message.
const OK: u32 = 0;
const ERROR: u32 = 1;

/// What the daemon sends.
#[derive(Debug)]
pub(super) enum Message {
    /// The answer to a call.
    Reply {
        /// Number of the call.
        serial: u32,
        /// What was asked for, or why not.
        result: std::result::Result<Vec<u8>, Refusal>,
    },
    /// Something that it tells by itself.
    Event {
        /// Program to which the procedure belongs.
        program: u32,
        /// What is told.
        procedure: u32,
        /// What belongs to it.
        payload: Vec<u8>,
    },
}

/// Why the daemon does not do what was asked for.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// Number of the reason; see `virErrorNumber`.
    pub(super) code: u32,
    /// For people.
    pub(super) message: String,
}

/// A connection to the daemon.
#[derive(Debug)]
pub(super) struct Rpc {
    peer: String,
    socket: UnixStream,
    /// What has been read and not been used.
    buffer: Vec<u8>,
    serial: u32,
}

impl Rpc {
    pub(super) fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let peer = path.display().to_string();
        let cannot = |action| {
            let place = peer.clone();
            move |source| Error::io(place, action, source)
        };
        let socket = UnixStream::connect(path).map_err(cannot("connect to libvirt"))?;
        socket.set_write_timeout(Some(limit)).map_err(cannot("set up the socket"))?;
        Ok(Self { peer, socket, buffer: Vec::new(), serial: 0 })
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// Names the other side in messages.
    pub(super) fn set_peer(&mut self, peer: String) {
        self.peer = peer;
    }

    /// Sends a call and returns its number.
    pub(super) fn send(
        &mut self,
        program: u32,
        procedure: u32,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<u32> {
        self.serial = self.serial.wrapping_add(1);
        let kind = if descriptors.is_empty() { CALL } else { CALL_WITH_DESCRIPTORS };
        let length = 4 + HEADER_BYTES + payload.len() + if descriptors.is_empty() { 0 } else { 4 };
        if length > MESSAGE_BYTES_MAX {
            return Err(broken(&self.peer, "a command is longer than libvirt takes"));
        }
        let mut words = vec![length as u32, program, VERSION, procedure, kind, self.serial, OK];
        if !descriptors.is_empty() {
            words.push(descriptors.len() as u32);
        }
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
        bytes.extend_from_slice(payload);
        let sent = (&self.socket)
            .write_all(&bytes)
            .and_then(|()| descriptors.iter().try_for_each(|descriptor| self.send_descriptor(*descriptor)));
        sent.map_err(|source| Error::io(&self.peer, "send a command", source))?;
        Ok(self.serial)
    }

    fn send_descriptor(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message; `None` when none came until the deadline.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Option<Message>> {
        loop {
            if let Some(bytes) = self.take()? {
                return self.parse(&bytes).map(Some);
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// A whole message without its length.
    fn take(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(length) = Reader::new(&self.buffer).word() else { return Ok(None) };
        let length = length as usize;
        if !(4 + HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(broken(&self.peer, format!("it sends a message of {length} bytes")));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(length);
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.drain(..4);
        Ok(Some(bytes))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Message> {
        let (header, payload) = bytes.split_at(HEADER_BYTES);
        let mut header = Reader::new(header);
        let mut word = || header.word().unwrap_or(u32::MAX);
        let (program, _version, procedure, kind, serial, status) =
            (word(), word(), word(), word(), word(), word());
        match (kind, status) {
            (REPLY, OK) => Ok(Message::Reply { serial, result: Ok(payload.to_vec()) }),
            (REPLY, ERROR) => Ok(Message::Reply { serial, result: Err(self.refusal(payload)?) }),
            (EVENT, OK) => Ok(Message::Event { program, procedure, payload: payload.to_vec() }),
            _ => Err(broken(&self.peer, format!("it sends a message of kind {kind} and status {status}"))),
        }
    }

    fn refusal(&self, payload: &[u8]) -> Result<Refusal> {
        let mut reader = Reader::new(payload);
        let mut parse = || {
            let code = reader.word()?;
            let _part_of_libvirt = reader.word()?;
            let message = reader.optional_text()?.unwrap_or_default();
            Some(Refusal { code, message })
        };
        parse().ok_or_else(|| broken(&self.peer, "it sends an error that makes no sense"))
    }

    /// Reads once; `false` when nothing came until the deadline.
    fn fill(&mut self, deadline: Instant) -> Result<bool> {
        // A limit of zero means none at all.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut piece = [0; 16 << 10];
        let read = self.socket.set_read_timeout(Some(left)).and_then(|()| (&self.socket).read(&mut piece));
        match read {
            Ok(0) => Err(broken(&self.peer, "libvirt closed the connection")),
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
}
