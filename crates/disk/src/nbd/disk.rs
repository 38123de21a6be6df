//! An export as a disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::connection::{Connection, Ticket};
use super::handshake::{ALLOCATION, Export};
use super::wire::{self, Command};
use super::{NbdOptions, NbdUrl};
use crate::source::check_range;
use crate::{Error, Extent, ExtentKind, Format, Info, Result, Source, Target};

/// Length of a read or write, and how many of one call are under way at once. Depth counts for more than length.
const PIECE_BYTES: u32 = 256 << 10;
const IN_FLIGHT_MAX: usize = 16;
/// What is asked for, or zeroed, by one request without data.
const RANGE_BYTES_MAX: u32 = 1 << 30;
const ZERO_BYTES_MAX: u32 = 128 << 20;
/// What is brought into a server's cache by one request.
const CACHE_BYTES_MAX: u32 = 32 << 20;

/// A disk that an NBD server exports.
pub struct NbdDisk {
    url: String,
    export: Export,
    connections: Vec<Connection>,
    next: AtomicUsize,
    /// Buffers of pieces, to be used again.
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl NbdDisk {
    /// Connects to the export, several times if the server says that this is safe.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or breaks the protocol.
    pub fn connect(url: &NbdUrl, options: &NbdOptions) -> Result<Self> {
        Self::connect_with_contexts(url, options, &[])
    }

    /// Connects as [`NbdDisk::connect`] does, to an export that has all these meta contexts as well, such as
    /// `qemu:dirty-bitmap:NAME`; [`NbdDisk::ranges`] tells what they say.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, breaks the protocol, or lacks one of the contexts.
    pub fn connect_with_contexts(url: &NbdUrl, options: &NbdOptions, contexts: &[&str]) -> Result<Self> {
        let (first, export) = Connection::open(url, options, contexts)?;
        let mut connections = vec![first];
        if export.has(wire::CAN_MULTI_CONN) {
            while connections.len() < options.connections_max {
                // A server may limit how many it takes; one suffices.
                let Ok((connection, again)) = Connection::open(url, options, contexts) else { break };
                if again.size != export.size || again.contexts != export.contexts {
                    return Err(Error::Protocol {
                        peer: url.text.clone(),
                        what: "the export changes from one connection to the next".to_owned(),
                    });
                }
                connections.push(connection);
            }
        }
        Ok(Self {
            url: url.text.clone(),
            export,
            connections,
            next: AtomicUsize::new(0),
            buffers: Mutex::default(),
        })
    }

    /// Refuses an export that cannot be written or is smaller than `virtual_size`.
    ///
    /// # Errors
    /// It is such an export.
    pub fn check_writable(&self, virtual_size: u64) -> Result<()> {
        let what = if self.export.has(wire::READ_ONLY) {
            "the server exports it read-only".to_owned()
        } else if self.export.size < virtual_size {
            format!("the export has {} bytes, fewer than the disk of {virtual_size} bytes", self.export.size)
        } else {
            return Ok(());
        };
        Err(Error::Invalid { path: self.url.clone(), what })
    }

    /// Tells the server that the content of a range is not needed any more, if it wants to know.
    ///
    /// # Errors
    /// The server refuses or the connection breaks.
    pub fn trim(&self, offset: u64, length: u64) -> Result<()> {
        check_range(&self.url, offset, length, self.export.size)?;
        if !self.export.has(wire::SEND_TRIM) {
            return Ok(());
        }
        self.without_data(Command::Trim, offset, length, ZERO_BYTES_MAX)
    }

    /// Asks the server to bring a range into its cache, if it has one.
    ///
    /// # Errors
    /// The server refuses or the connection breaks.
    pub fn cache(&self, offset: u64, length: u64) -> Result<()> {
        check_range(&self.url, offset, length, self.export.size)?;
        if !self.export.has(wire::SEND_CACHE) {
            return Ok(());
        }
        let block = self.export.block_min;
        let step = CACHE_BYTES_MAX.min(self.export.block_max & !(block - 1)).max(block);
        self.without_data(Command::Cache, offset, length, step)
    }

    /// Whether the server takes requests to bring ranges into its cache.
    #[must_use]
    pub fn can_cache(&self) -> bool {
        self.export.has(wire::SEND_CACHE)
    }

    /// What a meta context says of a range, as offset, length and flags: in order, without gaps, the whole range, and
    /// neighbours with the same flags as one. What flags mean is up to the context; in `qemu:dirty-bitmap:NAME` bit 0
    /// means that the range is dirty. Where a bitmap has many small ranges, ask for a part of the disk at a time.
    ///
    /// # Errors
    /// The context was not asked for when connecting, or the connection breaks.
    pub fn ranges(&self, context: &str, offset: u64, length: u64) -> Result<Vec<(u64, u64, u32)>> {
        check_range(&self.url, offset, length, self.export.size)?;
        let number = self.export.context(context).ok_or_else(|| Error::Invalid {
            path: self.url.clone(),
            what: format!("the meta context {context:?} was not asked for when connecting"),
        })?;
        let mut found: Vec<(u64, u64, u32)> = Vec::new();
        let mut position = offset;
        while position < offset + length {
            for (start, length, flags) in self.told(number, position, offset + length - position)? {
                position = start + length;
                match found.last_mut() {
                    Some(last) if last.2 == flags => last.1 += length,
                    _ => found.push((start, length, flags)),
                }
            }
        }
        Ok(found)
    }

    /// What one reply tells of a range in a context, from its start on: at least something, and at most the range.
    fn told(&self, context: u32, offset: u64, length: u64) -> Result<Vec<(u64, u64, u32)>> {
        let (start, end) = self.aligned(offset, length.min(u64::from(RANGE_BYTES_MAX)));
        let connection = self.connection();
        let asked = (end - start) as u32;
        let reply =
            connection.wait(connection.send(Command::BlockStatus, start, asked, &[], Vec::new())?)?;
        let mut found = Vec::new();
        let mut position = start;
        // The server may tell of less than was asked for, and of more, and differently for each context.
        for (_, told, flags) in reply.extents.into_iter().filter(|&(number, ..)| number == context) {
            let stop = (position + u64::from(told)).min(offset + length);
            let from = position.max(offset);
            if stop > from {
                found.push((from, stop - from, flags));
            }
            position = stop.max(position);
        }
        if found.is_empty() {
            return Err(Error::Protocol {
                peer: self.url.clone(),
                what: format!("the server tells nothing of the extents at {offset}"),
            });
        }
        Ok(found)
    }

    fn connection(&self) -> &Connection {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        &self.connections[index]
    }

    /// The length of a piece that the server takes.
    fn piece_bytes(&self) -> u32 {
        PIECE_BYTES.min(self.export.block_max & !(self.export.block_min - 1)).max(self.export.block_min)
    }

    /// The range widened to the server's blocks.
    fn aligned(&self, offset: u64, length: u64) -> (u64, u64) {
        let block = u64::from(self.export.block_min);
        let start = offset & !(block - 1);
        (start, (offset + length).next_multiple_of(block).min(self.export.size).max(offset + length))
    }

    fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < 2 * IN_FLIGHT_MAX {
            buffers.push(buffer);
        }
    }

    fn read_aligned(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let connection = self.connection();
        let piece = self.piece_bytes();
        let mut under_way: VecDeque<(Ticket, &mut [u8])> = VecDeque::new();
        let mut position = offset;
        for part in buffer.chunks_mut(piece as usize) {
            if under_way.len() == IN_FLIGHT_MAX {
                self.receive(connection, under_way.pop_front())?;
            }
            let length = part.len() as u32;
            let ticket = connection.send(Command::Read, position, length, &[], self.buffer())?;
            under_way.push_back((ticket, part));
            position += u64::from(length);
        }
        under_way.into_iter().try_for_each(|next| self.receive(connection, Some(next)))
    }

    fn receive(&self, connection: &Connection, next: Option<(Ticket, &mut [u8])>) -> Result<()> {
        let Some((ticket, part)) = next else { return Ok(()) };
        let reply = connection.wait(ticket)?;
        part.copy_from_slice(&reply.data);
        self.give_back(reply.data);
        Ok(())
    }

    /// Asks for something that needs no data, for a range in steps.
    fn without_data(&self, command: Command, offset: u64, length: u64, step: u32) -> Result<()> {
        let connection = self.connection();
        let mut position = offset;
        while position < offset + length {
            let part = (offset + length - position).min(u64::from(step)) as u32;
            connection.wait(connection.send(command, position, part, &[], Vec::new())?)?;
            position += u64::from(part);
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let zeros = vec![0; length.min(4 << 20) as usize];
        let mut position = offset;
        while position < offset + length {
            let part = (offset + length - position).min(zeros.len() as u64);
            self.write_at(&zeros[..part as usize], position)?;
            position += part;
        }
        Ok(())
    }
}

impl Source for NbdDisk {
    fn virtual_size(&self) -> u64 {
        self.export.size
    }

    fn info(&self) -> Info {
        let yes_no = |flag| if self.export.has(flag) { "yes" } else { "no" }.to_owned();
        Info {
            format: Format::Nbd,
            virtual_size: self.export.size,
            allocated_bytes: None,
            details: vec![
                ("read-only", yes_no(wire::READ_ONLY)),
                ("connections", self.connections.len().to_string()),
                ("structured replies", if self.export.structured { "yes" } else { "no" }.to_owned()),
                (
                    "extents",
                    if self.export.context(ALLOCATION).is_some() { ALLOCATION } else { "not told" }
                        .to_owned(),
                ),
            ],
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(&self.url, offset, length, self.export.size)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let Some(context) = self.export.context(ALLOCATION) else {
            return Ok(vec![Extent { offset, length, kind: ExtentKind::Data }]);
        };
        let mut found = Vec::new();
        for (offset, length, flags) in self.told(context, offset, length)? {
            Extent { offset, length, kind: kind(flags) }.push_merged(&mut found);
        }
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.url, offset, buffer.len() as u64, self.export.size)?;
        let (start, end) = self.aligned(offset, buffer.len() as u64);
        if (start, end) == (offset, offset + buffer.len() as u64) {
            return self.read_aligned(buffer, offset);
        }
        let mut whole = vec![0; (end - start) as usize];
        self.read_aligned(&mut whole, start)?;
        let skip = (offset - start) as usize;
        buffer.copy_from_slice(&whole[skip..skip + buffer.len()]);
        Ok(())
    }
}

fn kind(flags: u32) -> ExtentKind {
    match (flags & wire::STATE_ZERO != 0, flags & wire::STATE_HOLE != 0) {
        (true, true) => ExtentKind::Unallocated,
        (true, false) => ExtentKind::Zero,
        // A hole that is not said to be zero may read as anything.
        (false, _) => ExtentKind::Data,
    }
}

impl Target for NbdDisk {
    fn virtual_size(&self) -> u64 {
        self.export.size
    }

    fn is_blank(&self) -> bool {
        false
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(&self.url, offset, data.len() as u64, self.export.size)?;
        let connection = self.connection();
        let mut under_way = VecDeque::new();
        let mut position = offset;
        for part in data.chunks(self.piece_bytes() as usize) {
            if under_way.len() == IN_FLIGHT_MAX
                && let Some(first) = under_way.pop_front()
            {
                connection.wait(first)?;
            }
            let length = part.len() as u32;
            under_way.push_back(connection.send(Command::Write, position, length, part, Vec::new())?);
            position += u64::from(length);
        }
        under_way.into_iter().try_for_each(|ticket| connection.wait(ticket).map(|_| ()))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        check_range(&self.url, offset, length, self.export.size)?;
        if !self.export.has(wire::SEND_WRITE_ZEROES) {
            return self.write_zeros(offset, length);
        }
        match self.without_data(Command::WriteZeroes, offset, length, ZERO_BYTES_MAX) {
            // The server offers it, and cannot do it for this range.
            Err(Error::Io { .. }) => self.write_zeros(offset, length),
            other => other,
        }
    }

    /// Flushes. One connection suffices: a server that allows several promises that a flush covers all of them.
    fn finish(&self, durable: bool) -> Result<()> {
        if !durable || !self.export.has(wire::SEND_FLUSH) {
            return Ok(());
        }
        let connection = self.connection();
        connection.wait(connection.send(Command::Flush, 0, 0, &[], Vec::new())?).map(|_| ())
    }
}
