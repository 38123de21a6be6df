//! Files and folders of a server: read and written in many pieces at once, named, synced.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use leeward_store::bucket::Read;
use leeward_store::{Error, Result};

use super::refusal::{lost, refused};
use super::session::{Exchange, Session, is_done};
use super::wire::{Answer, Attributes, Message, flag, kind, status};
use crate::answer::At;

/// Data in flight for one file, in bytes.
const WINDOW_BYTES: u64 = 4 << 20;

/// What a session does with files. Paths are those of the server.
pub(super) struct Files<'a> {
    pub(super) session: &'a Session,
    pub(super) at: &'a At<'a>,
}

impl Files<'_> {
    /// Asks and takes whatever comes.
    fn answer(&self, kind: u8, fill: impl FnOnce(&mut Message)) -> Result<Answer> {
        self.session.exchange().ask(kind, fill).map_err(|error| lost(self.at, error))
    }

    /// Asks for something to be done; the answer if it was not.
    pub(super) fn request(&self, kind: u8, fill: impl FnOnce(&mut Message)) -> Result<Result<(), Answer>> {
        let answer = self.answer(kind, fill)?;
        Ok(if is_done(&answer) { Ok(()) } else { Err(answer) })
    }

    fn done(&self, kind: u8, fill: impl FnOnce(&mut Message)) -> Result<()> {
        self.request(kind, fill)?.map_err(|answer| refused(self.at, &answer))
    }

    /// What a path is.
    pub(super) fn look(&self, path: &str) -> Result<Attributes> {
        match self.answer(kind::LSTAT, |message| {
            message.bytes(path.as_bytes());
        })? {
            Answer::Attributes(attributes) => Ok(attributes),
            answer => Err(refused(self.at, &answer)),
        }
    }

    pub(super) fn remove(&self, path: &str) -> Result<()> {
        self.done(kind::REMOVE, |message| {
            message.bytes(path.as_bytes());
        })
    }

    /// Renames a file; whatever has the new name is replaced at one moment.
    pub(super) fn replace(&self, from: &str, to: &str) -> Result<Result<(), Answer>> {
        self.request(kind::EXTENDED, |message| {
            message.bytes(b"posix-rename@openssh.com").bytes(from.as_bytes()).bytes(to.as_bytes());
        })
    }

    /// Gives a file another name, which must not be there.
    pub(super) fn link(&self, from: &str, to: &str) -> Result<Result<(), Answer>> {
        self.request(kind::EXTENDED, |message| {
            message.bytes(b"hardlink@openssh.com").bytes(from.as_bytes()).bytes(to.as_bytes());
        })
    }

    /// Makes a folder. One that is there is as good, and so is one that cannot be made: whoever needs it finds out.
    pub(super) fn make_folder(&self, path: &str) -> Result<()> {
        self.request(kind::MKDIR, |message| {
            message.bytes(path.as_bytes()).number(0);
        })
        .map(|_| ())
    }

    /// Removes a folder if it is empty; whether it did.
    pub(super) fn remove_folder(&self, path: &str) -> Result<bool> {
        let removed = self.request(kind::RMDIR, |message| {
            message.bytes(path.as_bytes());
        })?;
        Ok(removed.is_ok())
    }

    fn open(&self, exchange: &mut Exchange<'_>, path: &str, flags: u32) -> Result<Vec<u8>> {
        let answer = exchange.ask(kind::OPEN, |message| {
            message.bytes(path.as_bytes()).number(flags).number(0);
        });
        match answer.map_err(|error| lost(self.at, error))? {
            Answer::Handle(handle) => Ok(handle),
            answer => Err(refused(self.at, &answer)),
        }
    }

    pub(super) fn close(&self, handle: &[u8]) {
        self.session.tell(kind::CLOSE, |message| {
            message.bytes(handle);
        });
    }

    /// Reads a file, or a range of it that may reach past its end.
    pub(super) fn read(&self, path: &str, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        let mut exchange = self.session.exchange();
        let handle = self.open(&mut exchange, path, flag::READ)?;
        let read = self.read_open(&mut exchange, &handle, range, size_max);
        self.close(&handle);
        read
    }

    fn read_open(
        &self,
        exchange: &mut Exchange<'_>,
        handle: &[u8],
        range: Option<Range<u64>>,
        size_max: u64,
    ) -> Result<Read> {
        let answer = exchange.ask(kind::FSTAT, |message| {
            message.bytes(handle);
        });
        let size = match answer.map_err(|error| lost(self.at, error))? {
            Answer::Attributes(attributes) if attributes.is_folder() => {
                return Err(Error::NotFound { store: self.at.store.to_owned(), key: self.at.key.to_owned() });
            }
            Answer::Attributes(attributes) => attributes.size,
            answer => return Err(refused(self.at, &answer)),
        };
        let size = size.ok_or_else(|| self.at.nonsense("a file without a size"))?;
        if range.is_none() && size > size_max {
            return Err(Error::TooLarge {
                store: self.at.store.to_owned(),
                key: self.at.key.to_owned(),
                size,
                size_max,
            });
        }
        let range = range.unwrap_or(0..size);
        let range = range.start.min(size)..range.end.min(size);
        let content = self.read_range(exchange, handle, range)?;
        Ok(Read { content, size, tag: None })
    }

    /// Reads a range that is there, with many requests in flight. An answer may hold less than was asked for.
    fn read_range(&self, exchange: &mut Exchange<'_>, handle: &[u8], range: Range<u64>) -> Result<Vec<u8>> {
        let step = self.session.abilities.read_bytes_max;
        let length = range.end.saturating_sub(range.start);
        let length = usize::try_from(length).map_err(|_| self.at.nonsense("a range beyond this machine"))?;
        // It grows with what comes: the size is what the server says.
        let mut content = Vec::new();
        let mut asked: HashMap<u32, Range<u64>> = HashMap::new();
        let mut wanted: Vec<Range<u64>> = Vec::new();
        let mut next = range.start;
        loop {
            while (asked.len() as u64) < (WINDOW_BYTES / step).max(1) {
                let piece = match wanted.pop() {
                    Some(piece) => piece,
                    None if next < range.end => {
                        let piece = next..range.end.min(next.saturating_add(step));
                        next = piece.end;
                        piece
                    }
                    None => break,
                };
                let number = exchange.send(kind::READ, |message| {
                    let count = u32::try_from(piece.end - piece.start).unwrap_or(u32::MAX);
                    message.bytes(handle).long(piece.start).number(count);
                });
                asked.insert(number.map_err(|error| lost(self.at, error))?, piece);
            }
            if asked.is_empty() {
                debug_assert_eq!(content.len(), length);
                return Ok(content);
            }
            let (number, answer) = exchange.receive().map_err(|error| lost(self.at, error))?;
            let piece = asked.remove(&number).ok_or_else(|| self.at.nonsense("an answer to nothing"))?;
            let data = match answer {
                Answer::Data(data) if !data.is_empty() && data.len() as u64 <= piece.end - piece.start => {
                    data
                }
                Answer::Status(status::EOF, _) => return Err(self.at.nonsense("a file that became shorter")),
                answer @ Answer::Status(..) => return Err(refused(self.at, &answer)),
                _ => return Err(self.at.nonsense("another range than was asked for")),
            };
            let start = (piece.start - range.start) as usize;
            let end = start + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(&data);
            let rest = piece.start + data.len() as u64..piece.end;
            if !rest.is_empty() {
                wanted.push(rest);
            }
        }
    }

    /// Writes a new file in pieces, and makes its content durable if `syncs`.
    pub(super) fn write(&self, path: &str, parts: &[&[u8]], syncs: bool) -> Result<()> {
        let mut exchange = self.session.exchange();
        let handle = self.open(&mut exchange, path, flag::WRITE | flag::CREATE | flag::EXCLUSIVE)?;
        let written = self.write_open(&mut exchange, &handle, parts, syncs);
        if written.is_err() {
            self.close(&handle);
        }
        written
    }

    /// Everything goes out at once: a server does what concerns one file in the order in which it was asked.
    fn write_open(
        &self,
        exchange: &mut Exchange<'_>,
        handle: &[u8],
        parts: &[&[u8]],
        syncs: bool,
    ) -> Result<()> {
        let step = self.session.abilities.write_bytes_max;
        let window = (WINDOW_BYTES / step).max(1) as usize;
        let mut offset = 0_u64;
        for piece in parts.iter().flat_map(|part| part.chunks(step as usize)) {
            while exchange.outstanding() >= window {
                self.receive_done(exchange)?;
            }
            let sent = exchange.send(kind::WRITE, |message| {
                message.bytes(handle).long(offset).bytes(piece);
            });
            sent.map_err(|error| lost(self.at, error))?;
            offset += piece.len() as u64;
        }
        if syncs {
            let sent = exchange.send(kind::EXTENDED, |message| {
                message.bytes(b"fsync@openssh.com").bytes(handle);
            });
            sent.map_err(|error| lost(self.at, error))?;
        }
        let sent = exchange.send(kind::CLOSE, |message| {
            message.bytes(handle);
        });
        sent.map_err(|error| lost(self.at, error))?;
        while exchange.outstanding() > 0 {
            self.receive_done(exchange)?;
        }
        Ok(())
    }

    fn receive_done(&self, exchange: &mut Exchange<'_>) -> Result<()> {
        let (_, answer) = exchange.receive().map_err(|error| lost(self.at, error))?;
        if is_done(&answer) { Ok(()) } else { Err(refused(self.at, &answer)) }
    }

    /// Makes durable which names a folder has; whether it is there. OpenSSH opens folders like files; a server that does not
    /// is asked once only.
    pub(super) fn sync_folder(&self, path: &str) -> Result<bool> {
        if self.session.syncs_no_folders.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let mut exchange = self.session.exchange();
        let handle = match self.open(&mut exchange, path, flag::READ) {
            Ok(handle) => handle,
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => {
                self.session.syncs_no_folders.store(true, Ordering::Relaxed);
                return Ok(true);
            }
        };
        let answer = exchange.ask(kind::EXTENDED, |message| {
            message.bytes(b"fsync@openssh.com").bytes(&handle);
        });
        self.close(&handle);
        if !is_done(&answer.map_err(|error| lost(self.at, error))?) {
            self.session.syncs_no_folders.store(true, Ordering::Relaxed);
        }
        Ok(true)
    }
}
