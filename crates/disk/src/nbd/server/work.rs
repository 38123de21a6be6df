//! Requests and what they do.

use super::guard::Failure;
use super::handshake::{ALLOCATION_NUMBER, BLOCK_MAX};
use super::session::Session;
use crate::ExtentKind;
use crate::nbd::wire::{self, Command};

/// Bytes that are read or written at a time; also what a worker holds at most.
pub(super) const PIECE_BYTES: u64 = 256 << 10;
/// Reads of at least this length are asked about holes first.
const HOLE_READ_BYTES_MIN: u64 = 64 << 10;
/// Stretches into which a piece is split for the sake of its holes, at most.
const STRETCHES_MAX: usize = 8;
/// Extents of a reply at most; a client asks again for the rest.
const EXTENTS_MAX: usize = 4096;
/// Bytes zeroed, trimmed or cached by one call of a device, at most.
const RANGE_BYTES_MAX: u64 = 128 << 20;

/// A request as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl Request {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) structured: bool,
    /// Those that were agreed on: a bit for each number.
    pub(super) contexts: u32,
}

impl Limits {
    /// The command of a request that may be served.
    pub(super) fn check(&self, request: &Request) -> Result<Command, Failure> {
        let invalid = |what: &str| Err(Failure::new(wire::EINVAL, what));
        let Some(command) = Command::from_number(request.command) else {
            return invalid("the server does not know this command");
        };
        let allowed = wire::FLAG_FUA
            | match command {
                Command::Read if self.structured => wire::FLAG_DF,
                Command::WriteZeroes => wire::FLAG_NO_HOLE | wire::FLAG_FAST_ZERO,
                Command::BlockStatus => wire::FLAG_REQ_ONE,
                _ => 0,
            };
        if request.flags & !allowed != 0 {
            return invalid("the command does not take these flags");
        }
        let changes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
        if changes && self.read_only {
            return Err(Failure::new(wire::EPERM, "the export is read-only"));
        }
        if matches!(command, Command::Read | Command::Write) && request.length > BLOCK_MAX {
            return invalid("the request is longer than the server takes");
        }
        if command == Command::Flush {
            return Ok(command);
        }
        if request.offset.checked_add(u64::from(request.length)).is_none_or(|end| end > self.size) {
            let grows = matches!(command, Command::Write | Command::WriteZeroes);
            let errno = if grows { wire::ENOSPC } else { wire::EINVAL };
            return Err(Failure::new(errno, "the request reaches past the end of the disk"));
        }
        match command {
            Command::Read if request.has(wire::FLAG_DF) && u64::from(request.length) > PIECE_BYTES => {
                Err(Failure::new(wire::EOVERFLOW, "too long for one piece"))
            }
            Command::WriteZeroes if request.has(wire::FLAG_FAST_ZERO) => {
                Err(Failure::new(wire::ENOTSUP, "zeroing is not known to be faster than writing"))
            }
            Command::BlockStatus if self.contexts == 0 => invalid("no meta context was agreed on"),
            Command::BlockStatus if request.length == 0 => invalid("extents of nothing were asked for"),
            _ => Ok(command),
        }
    }
}

/// The pieces of a range, which end at multiples of the length of a piece.
fn pieces(offset: u64, length: u32, piece_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + u64::from(length);
    let mut position = offset;
    std::iter::from_fn(move || {
        let piece = (position, (piece_bytes - position % piece_bytes).min(end - position));
        position += piece.1;
        (piece.1 > 0).then_some(piece)
    })
}

fn chunk_head(request: &Request, done: bool, kind: u16, length: u64) -> [u8; 20] {
    let mut head = [0; 20];
    head[..4].copy_from_slice(&wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&(if done { wire::CHUNK_DONE } else { 0 }).to_be_bytes());
    head[6..8].copy_from_slice(&kind.to_be_bytes());
    head[8..16].copy_from_slice(&request.cookie.to_be_bytes());
    head[16..].copy_from_slice(&(length as u32).to_be_bytes());
    head
}

fn simple_head(request: &Request, errno: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
    head[4..8].copy_from_slice(&errno.to_be_bytes());
    head[8..].copy_from_slice(&request.cookie.to_be_bytes());
    head
}

fn state(kind: ExtentKind) -> u32 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Zero => wire::STATE_ZERO,
        ExtentKind::Unallocated => wire::STATE_HOLE | wire::STATE_ZERO,
    }
}

impl Session<'_> {
    /// Serves a request that carries no data, with `buffer` to read into.
    pub(super) fn serve(&self, request: &Request, buffer: &mut Vec<u8>) {
        let served = self.limits.check(request).and_then(|command| match command {
            Command::Read if self.limits.structured => self.read(request, buffer),
            Command::Read => self.read_simple(request, buffer),
            Command::BlockStatus => self.block_status(request),
            _ => self.change(command, request).map(|()| self.done(request)),
        });
        match served {
            Ok(()) => self.count(false),
            Err(failure) => self.refuse(request, failure),
        }
    }

    /// Ends a write of which all parts were served.
    pub(super) fn written(&self, request: &Request, failure: Option<Failure>) {
        let durable = match failure {
            Some(failure) => Err(failure),
            None if request.has(wire::FLAG_FUA) => self.device.change(|writable| writable.flush()),
            None => Ok(()),
        };
        if let Err(failure) = durable {
            return self.refuse(request, failure);
        }
        self.counters.written(request.length);
        self.count(false);
        self.done(request);
    }

    fn count(&self, failed: bool) {
        let counter = |counter: &std::sync::atomic::AtomicU64| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        counter(&self.counters.requests);
        if failed {
            counter(&self.counters.requests_failed);
        }
    }

    fn done(&self, request: &Request) {
        self.outbox.send(&simple_head(request, 0), &[]);
    }

    /// Answers with an error; the connection goes on.
    pub(super) fn refuse(&self, request: &Request, failure: Failure) {
        self.count(true);
        if !self.limits.structured {
            return self.outbox.send(&simple_head(request, failure.errno), &[]);
        }
        let (kind, place) = match failure.offset {
            Some(offset) => (wire::CHUNK_ERROR_OFFSET, offset.to_be_bytes().to_vec()),
            None => (wire::CHUNK_ERROR_PLAIN, Vec::new()),
        };
        let mut payload = failure.errno.to_be_bytes().to_vec();
        payload.extend((failure.message.len() as u16).to_be_bytes());
        payload.extend(failure.message.as_bytes());
        payload.extend(place);
        self.outbox.send(&chunk_head(request, true, kind, payload.len() as u64), &payload);
    }

    fn read(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        if request.length == 0 {
            self.outbox.send(&chunk_head(request, true, wire::CHUNK_NONE, 0), &[]);
        }
        let whole = request.has(wire::FLAG_DF) || u64::from(request.length) <= PIECE_BYTES;
        let piece_bytes = if whole { u64::MAX } else { PIECE_BYTES };
        for (offset, length) in pieces(request.offset, request.length, piece_bytes) {
            for (offset, length, data) in self.stretches(request, offset, length)? {
                if self.outbox.is_broken() {
                    return Ok(());
                }
                let done = offset + length == request.end();
                if data {
                    let bytes = part(buffer, length);
                    self.device.read(bytes, offset)?;
                    let head = chunk_head(request, done, wire::CHUNK_OFFSET_DATA, 8 + length);
                    self.outbox.send(&[head.as_slice(), &offset.to_be_bytes()].concat(), bytes);
                } else {
                    let hole = [offset.to_be_bytes().as_slice(), &(length as u32).to_be_bytes()].concat();
                    self.outbox.send(&chunk_head(request, done, wire::CHUNK_OFFSET_HOLE, 12), &hole);
                }
            }
        }
        self.counters.read(request.length);
        Ok(())
    }

    /// What a piece consists of, as offset, length and whether it has to be read.
    fn stretches(
        &self,
        request: &Request,
        offset: u64,
        length: u64,
    ) -> Result<Vec<(u64, u64, bool)>, Failure> {
        let whole = vec![(offset, length, true)];
        if length < HOLE_READ_BYTES_MIN || request.has(wire::FLAG_DF) {
            return Ok(whole);
        }
        let mut found: Vec<(u64, u64, bool)> = Vec::new();
        let mut position = offset;
        while position < offset + length {
            for extent in self.device.extents(position, offset + length - position)? {
                position = extent.end();
                let full = found.len() == STRETCHES_MAX;
                match found.last_mut() {
                    Some(last) if last.2 == extent.kind.is_data() => last.1 += extent.length,
                    _ if full => return Ok(whole),
                    _ => found.push((extent.offset, extent.length, extent.kind.is_data())),
                }
            }
        }
        Ok(found)
    }

    /// A read for a client that does not know structured replies: once data follow, no error can be told any more. A read
    /// that is longer than a piece is therefore tried as a whole before the first byte is sent.
    fn read_simple(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        if u64::from(request.length) <= PIECE_BYTES {
            let bytes = part(buffer, u64::from(request.length));
            self.device.read(bytes, request.offset)?;
            self.outbox.send(&simple_head(request, 0), bytes);
        } else {
            for (offset, length) in pieces(request.offset, request.length, PIECE_BYTES) {
                self.device.read(part(buffer, length), offset)?;
            }
            self.outbox.stream(|send| {
                send(&simple_head(request, 0));
                for (offset, length) in pieces(request.offset, request.length, PIECE_BYTES) {
                    let bytes = part(buffer, length);
                    self.device.read(bytes, offset).map_err(|_| ())?;
                    send(bytes);
                }
                Ok(())
            });
        }
        self.counters.read(request.length);
        Ok(())
    }

    /// A chunk for each context that was agreed on.
    fn block_status(&self, request: &Request) -> Result<(), Failure> {
        let mut left = self.limits.contexts;
        while left != 0 {
            let number = left.trailing_zeros();
            left &= left - 1;
            let found = match number {
                ALLOCATION_NUMBER => self.allocation(request)?,
                _ => self.marked(request, number),
            };
            let mut payload = number.to_be_bytes().to_vec();
            for (length, flags) in found {
                payload.extend((length as u32).to_be_bytes());
                payload.extend(flags.to_be_bytes());
            }
            let head = chunk_head(request, left == 0, wire::CHUNK_BLOCK_STATUS, payload.len() as u64);
            self.outbox.send(&head, &payload);
        }
        Ok(())
    }

    fn allocation(&self, request: &Request) -> Result<Vec<(u64, u32)>, Failure> {
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut position = request.offset;
        while position < request.end() {
            for extent in self.device.extents(position, request.end() - position)? {
                position = extent.end();
                let full = found.len() == extents_max(request);
                match found.last_mut() {
                    Some(last) if last.1 == state(extent.kind) => last.0 += extent.length,
                    _ if full => return Ok(found),
                    _ => found.push((extent.length, state(extent.kind))),
                }
            }
        }
        Ok(found)
    }

    /// What a context of the device says. A number that is not there was not agreed on.
    fn marked(&self, request: &Request, number: u32) -> Vec<(u64, u32)> {
        let context = self.device.0.contexts().get((number - ALLOCATION_NUMBER - 1) as usize);
        let stretches = context.map(|context| context.stretches(request.offset, request.end()));
        stretches.into_iter().flatten().take(extents_max(request)).collect()
    }

    /// What changes the disk, or its cache, without data from the client.
    fn change(&self, command: Command, request: &Request) -> Result<(), Failure> {
        let may_unmap = !request.has(wire::FLAG_NO_HOLE);
        // A flush has no range; what its client put there was not checked.
        let (offset, length) =
            if command == Command::Flush { (0, 0) } else { (request.offset, request.length) };
        for (offset, length) in pieces(offset, length, RANGE_BYTES_MAX) {
            self.device.change(|writable| match command {
                Command::WriteZeroes => writable.zero_at(offset, length, may_unmap),
                Command::Trim => writable.trim(offset, length),
                _ => writable.cache(offset, length),
            })?;
        }
        let flushes = command == Command::Flush || command != Command::Cache && request.has(wire::FLAG_FUA);
        if flushes && !self.limits.read_only {
            self.device.change(|writable| writable.flush())?;
        }
        Ok(())
    }
}

fn extents_max(request: &Request) -> usize {
    if request.has(wire::FLAG_REQ_ONE) { 1 } else { EXTENTS_MAX }
}

/// The first bytes of a buffer that grows to what is needed.
fn part(buffer: &mut Vec<u8>, length: u64) -> &mut [u8] {
    let length = length as usize;
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    &mut buffer[..length]
}
