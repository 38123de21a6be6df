//! A disk as it is read of the object and given to the repository, with the digests by which it is compared afterwards.

use std::sync::{Mutex, PoisonError};

use leeward_repository::{Control, Error, Given, Take};
use leeward_runs::step::{Context, Fault};

use super::super::Target;
use super::super::fault::{self, Watching};
use super::{Intended, Kept, Read};
use crate::image::Disk;
use crate::ledger::{Digest, Done, Ledger, RangeDigests, Settled, UNIT_BYTES};
use crate::pour::{Piece, PourOptions, Stopped, pour};

/// Requests for the object at once.
const REQUESTS: usize = 6;

/// The disks on their way into the repository.
pub(super) struct Reading<'a> {
    context: &'a Context,
    target: &'a Target,
    kept: Kept,
    /// The first disks, read to their ends.
    read: Mutex<Vec<Read>>,
    /// Why it failed, where that is nothing of the repository's.
    fault: Mutex<Option<Fault>>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(context: &'a Context, target: &'a Target, kept: &Kept) -> Self {
        Self { context, target, kept: kept.clone(), read: Mutex::default(), fault: Mutex::default() }
    }

    /// What was read, and why it failed where that is nothing of the repository's.
    pub(super) fn end(self) -> (Vec<Read>, Option<Fault>) {
        let read = self.read.into_inner().unwrap_or_else(PoisonError::into_inner);
        (read, self.fault.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, fault: Fault) -> Error {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        Error::Interrupted
    }

    /// Gives all of a disk, and zeros behind it where the snapshot is to be larger.
    pub(super) fn give(
        &self,
        intended: &Intended,
        disk: &Disk,
        take: &mut Take<'_>,
    ) -> leeward_repository::Result<()> {
        let (size, bytes) = (disk.virtual_size(), intended.bytes);
        let begin = Settled { position: 0, digests: RangeDigests::new(bytes), data_bytes: 0, hash: None };
        let mut given = InOrder { ledger: Ledger::new(bytes, begin), position: 0, size, bytes, take };
        let options = PourOptions { requests: REQUESTS, limit: self.target.limit.clone() };
        let note = format!("storing {}", intended.image);
        let watching = Watching { context: self.context, note: &note };
        let poured = pour(disk, &options, &watching, &mut |piece| given.piece(piece));
        let poured = poured.map_err(|stopped| match stopped {
            Stopped::Read(error) => self.failed(fault::of_import(&error)),
            Stopped::Taken(error) => error,
        })?;
        if given.position < bytes {
            // The disk was empty, or ended at a unit.
            given.zeros(bytes - given.position)?;
        }
        let read = Read {
            source: disk.identity().clone(),
            bytes,
            digests: given.ledger.settled().digests.clone(),
            object_digest: poured.digest,
        };
        self.read.lock().unwrap_or_else(PoisonError::into_inner).push(read);
        Ok(())
    }
}

impl Control for Reading<'_> {
    // How far it is, is told by who reads.
    fn advance(&self, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        self.context.is_stopped()
    }

    /// What was read is durable before anything is published: by it a snapshot is known whose publication was the last that this
    /// process did. Who has lost the run learns of it here, and publishes nothing.
    fn confirm(&self) -> leeward_repository::Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = Kept { read, ..self.kept.clone() };
        let context = self.context;
        context.check().and_then(|()| context.keep(&kept)).map_err(|fault| self.failed(fault))
    }
}

/// Bytes of a disk in order, on their way to `take`, with their digests.
struct InOrder<'a, 't> {
    ledger: Ledger,
    position: u64,
    /// Of the disk.
    size: u64,
    /// Of the snapshot.
    bytes: u64,
    take: &'a mut Take<'t>,
}

impl InOrder<'_, '_> {
    /// Takes a piece; the last one is filled up to a whole unit, if there is more behind the disk.
    fn piece(&mut self, piece: Piece) -> leeward_repository::Result<()> {
        match piece {
            Piece::Data(mut data) => {
                let end = self.position + data.len() as u64;
                let filled =
                    if end == self.size { end.next_multiple_of(UNIT_BYTES).min(self.bytes) } else { end };
                data.resize((filled - self.position) as usize, 0);
                let done = Done::Data { digest: Digest::of(&data), hash: None };
                self.ledger.complete(self.position, filled, done);
                self.position = filled;
                (self.take)(Given::Data(data))
            }
            Piece::Zeros(length) if self.position + length == self.size => {
                self.zeros(self.bytes - self.position)
            }
            Piece::Zeros(length) => self.zeros(length),
        }
    }

    fn zeros(&mut self, length: u64) -> leeward_repository::Result<()> {
        self.ledger.complete(self.position, self.position + length, Done::Zeros);
        self.position += length;
        (self.take)(Given::Zeros(length))
    }
}
