//! Adding blobs to a repository: one session, one pack of each kind being filled, threads that store.
//!
//! Frames come from many threads. A pack that is full goes to a storing thread over a queue of one, so memory is bounded
//! by a pack of each kind, one in the queue and one for each storing thread, and compressing goes on while packs are
//! written. There is one storing thread where the store is a disk, several where a request waits for a network.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::frame::{BlobKind, Frame};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::index::{Entry, Index, Location, Run, run};
use crate::pack::{FrameEntry, PackBuilder, SealedPack};
use crate::repository::{INDEX, PACKS, Repository, SNAPSHOTS, UNREADABLE, pack_key, put_once, run_key};
use crate::session::{Published, Session};
use crate::tree::Node;
use crate::{Error, Result};

/// Entries of packs that no index run has yet; at this many a run is written, which bounds memory and makes what was
/// stored findable for a rerun after a crash.
const PENDING_ENTRIES_MAX: usize = 1 << 18;
/// Parts of the set of claimed names, so that threads seldom wait for each other.
const SHARDS: usize = 64;
/// How often the index is loaded anew for one lookup: collections may follow each other.
const LOOKS_MAX: usize = 3;
/// Threads that store packs, at most: each holds one in memory.
const STORING_THREADS_MAX: usize = 16;
/// Packs whose directories are read at once, at most.
const READING_THREADS_MAX: usize = 8;
/// Bytes of packs that these threads hold, at most, while there are more than two.
const STORING_BYTES_MAX: usize = 256 << 20;

/// As many as pay, and as packs of their size leave room for.
fn storing_threads(repository: &Repository) -> usize {
    let room = STORING_BYTES_MAX / (repository.config().pack_bytes as usize).max(1);
    repository.store().requests_at_once().min(room.max(2)).clamp(1, STORING_THREADS_MAX)
}

/// Locks a mutex. A thread that panicked while holding it has already failed the work as a whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Entries of one frame.
pub(crate) fn frame_entries(
    repository: &Repository,
    kind: BlobKind,
    pack: PackId,
    frame: &FrameEntry,
    node_lengths: impl Fn(usize) -> u32,
) -> Vec<Entry> {
    let chunk_bytes = repository.config().chunk_bytes() as u32;
    let mut content_offset = 0;
    let mut entries = Vec::with_capacity(frame.blobs.len());
    for (index, id) in frame.blobs.iter().enumerate() {
        let location = Location { pack, offset: frame.offset, length: frame.length, content_offset };
        entries.push(Entry { id: *id, location });
        // A hostile directory may name more blobs than a frame can hold; they are then not found where it says.
        content_offset = u32::saturating_add(
            content_offset,
            match kind {
                BlobKind::Chunk => chunk_bytes,
                BlobKind::Node => node_lengths(index),
            },
        );
    }
    entries
}

/// What the threads of a writer share.
struct Shared {
    repository: Repository,
    index: RwLock<Index>,
    /// Names that this writer stores and that no run of the index has yet.
    claimed: Vec<Mutex<HashSet<BlobId>>>,
    /// What is stored and that no run speaks of yet.
    pending: Mutex<Pending>,
    /// The first failure of a storing thread.
    failure: Mutex<Option<Error>>,
    stored_bytes: AtomicU64,
    /// Held while parity is made.
    parity: Mutex<()>,
}

impl Shared {
    fn shard(&self, id: &BlobId) -> MutexGuard<'_, HashSet<BlobId>> {
        lock(&self.claimed[id.0[16] as usize % SHARDS])
    }

    /// Looks something up in the index; in a newer one when a run of it has been merged away by a collection, and the store
    /// does not let those read on who have it open. What the newer one says may be relied on as what the first one said: the
    /// session was there before either of them was looked at.
    fn look<T>(&self, look: impl Fn(&Index) -> Result<T>) -> Result<T> {
        for _ in 0..LOOKS_MAX {
            match look(&self.index.read().unwrap_or_else(PoisonError::into_inner)) {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
            // Held while it is loaded: a run that this writer stores meanwhile is either listed, or added after.
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            *index = self.repository.load_index()?;
        }
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pack being filled; the lengths of tree nodes are kept beside it, because its directory does not have them.
struct Filling {
    builder: PackBuilder,
    node_lengths: Vec<Vec<u32>>,
}

struct Full {
    pack: SealedPack,
    node_lengths: Vec<Vec<u32>>,
}

/// Adds blobs to a repository and publishes a snapshot of them.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    session: Option<Session>,
    chunks: Mutex<Filling>,
    nodes: Mutex<Filling>,
    queue: Option<SyncSender<Full>>,
    storing: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Registers a session, then looks at what the repository holds, in that order.
    pub(crate) fn begin(repository: &Repository, purpose: String) -> Result<Self> {
        Self::in_session(repository, Session::begin(repository, purpose)?)
    }

    /// As [`Writer::begin`], for one that publishes snapshots of another repository under the names that they have there.
    pub(crate) fn begin_copies(
        repository: &Repository,
        purpose: String,
        copies: Vec<SnapshotId>,
    ) -> Result<Self> {
        let session = Session::begin_copies(repository, purpose, copies)?;
        if let Err(error) = repository.await_deletions() {
            let _ = session.end(repository);
            return Err(error);
        }
        Self::in_session(repository, session)
    }

    fn in_session(repository: &Repository, session: Session) -> Result<Self> {
        let index = match repository.load_index().and_then(|mut index| {
            repository.adopt_orphans(&mut index)?;
            Ok(index)
        }) {
            Ok(index) => index,
            Err(error) => {
                // The first error is the one to tell; a session left behind is found to be dead by a collection.
                let _ = session.end(repository);
                return Err(error);
            }
        };
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            index: RwLock::new(index),
            claimed: (0..SHARDS).map(|_| Mutex::default()).collect(),
            pending: Mutex::default(),
            failure: Mutex::new(None),
            stored_bytes: AtomicU64::new(0),
            parity: Mutex::new(()),
        });
        let filling = |kind| -> Result<_> {
            let builder = PackBuilder::new(kind, repository.config())?;
            Ok(Mutex::new(Filling { builder, node_lengths: Vec::new() }))
        };
        let (chunks, nodes) = (filling(BlobKind::Chunk)?, filling(BlobKind::Node)?);
        let (queue, packs) = sync_channel(1);
        // Owned by the storing threads alone: when all have failed the queue is closed, and whoever fills it wakes up.
        let packs = Arc::new(Mutex::new(packs));
        let mut writer =
            Self { shared, session: Some(session), chunks, nodes, queue: Some(queue), storing: Vec::new() };
        for _ in 0..storing_threads(repository) {
            let (shared, packs) = (Arc::clone(&writer.shared), Arc::clone(&packs));
            let thread = std::thread::Builder::new().name("store".to_owned());
            let thread = thread
                .spawn(move || store_packs(&shared, packs))
                .map_err(|error| Error::Invalid(format!("cannot start a thread: {error}")))?;
            writer.storing.push(thread);
        }
        Ok(writer)
    }

    /// Looks anew at what the repository holds, and takes up packs that others have put there since. To be called before
    /// anything is claimed: what was found missing may be there now.
    pub(crate) fn look_again(&self) -> Result<()> {
        let mut index = self.shared.repository.load_index()?;
        self.shared.repository.adopt_orphans(&mut index)?;
        *self.shared.index.write().unwrap_or_else(PoisonError::into_inner) = index;
        Ok(())
    }

    /// The repository that is written.
    pub(crate) fn repository(&self) -> &Repository {
        &self.shared.repository
    }

    /// The session's identity.
    pub(crate) fn session_id(&self) -> Option<&str> {
        self.session.as_ref().map(Session::id)
    }

    /// Bytes added to the store so far.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.shared.stored_bytes.load(Ordering::Relaxed)
    }

    /// Whether the caller has to store this blob. When the answer is yes, every later caller is told no: the blob
    /// counts as stored.
    pub(crate) fn claim(&self, id: &BlobId) -> Result<bool> {
        self.shared.look(|index| {
            if index.may_contain(id) && index.can_reuse(id)? {
                return Ok(false);
            }
            // Under the same read lock, so that a run that is being added cannot take the name out in between.
            Ok(self.shared.shard(id).insert(*id))
        })
    }

    /// Takes back a claim: the caller could not get hold of the blob, so nobody may count on it.
    pub(crate) fn release(&self, id: &BlobId) {
        self.shared.shard(id).remove(id);
    }

    /// After [`Writer::flush`]: how many names were claimed whose blobs never came.
    pub(crate) fn unplaced(&self) -> usize {
        self.shared.claimed.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether a blob may be referred to: it lies in a pack that nobody means to delete, or this writer stores it.
    pub(crate) fn can_refer(&self, id: &BlobId) -> Result<bool> {
        self.shared.look(|index| Ok(self.shared.shard(id).contains(id) || index.can_reuse(id)?))
    }

    /// Whether [`Writer::may_contain`] is enough to leave a blob of the parent snapshot alone.
    pub(crate) fn is_settled(&self) -> bool {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).is_settled()
    }

    /// Whether the index speaks of the blob, judged by memory alone: enough for a blob of the parent snapshot while
    /// the index is settled.
    pub(crate) fn may_contain(&self, id: &BlobId) -> bool {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).may_contain(id)
            || self.shared.shard(id).contains(id)
    }

    /// Stores a frame of chunks.
    pub(crate) fn push_chunks(&self, frame: &Frame<'_>, blobs: Vec<BlobId>) -> Result<()> {
        self.push(BlobKind::Chunk, frame, blobs, Vec::new())
    }

    /// Stores a frame of tree nodes, whose lengths in the frame's content are given.
    pub(crate) fn push_nodes(&self, frame: &Frame<'_>, blobs: Vec<BlobId>, lengths: Vec<u32>) -> Result<()> {
        self.push(BlobKind::Node, frame, blobs, lengths)
    }

    fn push(&self, kind: BlobKind, frame: &Frame<'_>, blobs: Vec<BlobId>, lengths: Vec<u32>) -> Result<()> {
        let config = self.shared.repository.config();
        let filling = if kind == BlobKind::Chunk { &self.chunks } else { &self.nodes };
        let full = {
            let mut filling = lock(filling);
            filling.builder.push(frame, blobs);
            filling.node_lengths.push(lengths);
            if filling.builder.len() < config.pack_bytes as usize {
                return Ok(());
            }
            take(&mut filling, kind, config)?
        };
        self.enqueue(full)
    }

    fn enqueue(&self, full: Full) -> Result<()> {
        let refused = match &self.queue {
            Some(queue) => queue.send(full).is_err(),
            None => true,
        };
        if refused { Err(self.failure()) } else { Ok(()) }
    }

    fn failure(&self) -> Error {
        // Several threads may find the storing threads gone; one of them gets the reason, the others just stop.
        lock(&self.shared.failure).take().unwrap_or(Error::Interrupted)
    }

    /// Stores what is left and waits until all of it is durable and in the index.
    pub(crate) fn flush(&mut self) -> Result<()> {
        for (filling, kind) in [(&self.chunks, BlobKind::Chunk), (&self.nodes, BlobKind::Node)] {
            let full = {
                let mut filling = lock(filling);
                let config = self.shared.repository.config();
                if filling.builder.is_empty() { None } else { Some(take(&mut filling, kind, config)?) }
            };
            if let Some(full) = full {
                self.enqueue(full)?;
            }
        }
        self.queue = None;
        let died =
            std::mem::take(&mut self.storing).into_iter().filter_map(|thread| thread.join().err()).count();
        if let Some(error) = lock(&self.shared.failure).take() {
            return Err(error);
        }
        if died > 0 {
            return Err(Error::Invalid("a storing thread has died".to_owned()));
        }
        lock(&self.shared.pending).write_run(&self.shared)
    }

    /// Publishes snapshots whose blobs are all stored, all of them or none. `confirm` has the last word. When this
    /// returns, they survive anything.
    pub(crate) fn commit(
        mut self,
        snapshots: Vec<Published>,
        confirm: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let repository = self.shared.repository.clone();
        if let Err(error) = self.settle().and_then(|()| confirm()) {
            let own = self.session.as_ref().map(|session| session.own(&snapshots));
            repository.withdraw_snapshots(&own.unwrap_or_default());
            return Err(error);
        }
        let Some(session) = self.session.take() else {
            return Err(Error::Invalid("the session has ended".to_owned()));
        };
        let session = session.commit(&repository, snapshots)?;
        session.publish(&repository)?;
        session.end(&repository)
    }

    /// Makes durable what the snapshot refers to, also what others stored: it may have been listed before it was durable.
    fn settle(&mut self) -> Result<()> {
        self.flush()?;
        for prefix in [PACKS, INDEX, SNAPSHOTS] {
            self.shared.repository.store().settle(prefix)?;
        }
        Ok(())
    }

    /// Ends the session without publishing anything; what was stored stays and is used by a rerun.
    pub(crate) fn abandon(mut self) -> Result<()> {
        let flushed = self.flush();
        if let Some(session) = self.session.take() {
            session.end(&self.shared.repository)?;
        }
        flushed
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After an error: let the storing threads finish, so that a rerun finds what they stored, and end the session. A
        // failure here changes nothing; a session that stays behind is found to be dead by a collection.
        self.queue = None;
        for thread in std::mem::take(&mut self.storing) {
            let _ = thread.join();
        }
        let _ = lock(&self.shared.pending).write_run(&self.shared);
        if let Some(session) = self.session.take() {
            let _ = session.end(&self.shared.repository);
        }
    }
}

fn take(filling: &mut Filling, kind: BlobKind, config: &crate::Config) -> Result<Full> {
    let builder = std::mem::replace(&mut filling.builder, PackBuilder::new(kind, config)?);
    Ok(Full { pack: builder.seal(), node_lengths: std::mem::take(&mut filling.node_lengths) })
}

/// A storing thread: packs first, and from time to time the index run that speaks of them.
fn store_packs(shared: &Shared, packs: Arc<Mutex<Receiver<Full>>>) {
    loop {
        let full = lock(&packs).recv();
        let Ok(full) = full else { return };
        let stored = store_pack(shared, full);
        if let Err(error) = stored {
            lock(&shared.failure).get_or_insert(error);
        }
        if lock(&shared.failure).is_some() {
            return;
        }
    }
}

/// Stores a pack, and then counts its entries among those that a run has to speak of.
fn store_pack(shared: &Shared, full: Full) -> Result<()> {
    let Full { pack, node_lengths } = full;
    put_once(shared.repository.store(), &pack_key(pack.id)?, &pack.bytes)?;
    let size = pack.bytes.len() as u64;
    // After the pack. One at a time, which bounds memory; storing goes on meanwhile.
    let parity = {
        let _turn = lock(&shared.parity);
        shared.repository.put_parity(pack.id, &pack.bytes)?
    };
    shared.stored_bytes.fetch_add(parity, Ordering::Relaxed);
    shared.stored_bytes.fetch_add(size, Ordering::Relaxed);
    let mut pending = lock(&shared.pending);
    pending.sizes.push((pack.id, size));
    for (frame, lengths) in pack.frames.iter().zip(&node_lengths) {
        let length = |index: usize| lengths.get(index).copied().unwrap_or(0);
        pending.entries.extend(frame_entries(&shared.repository, pack.kind, pack.id, frame, length));
    }
    if pending.entries.len() >= PENDING_ENTRIES_MAX { pending.write_run(shared) } else { Ok(()) }
}

/// What was stored and that no run speaks of yet.
#[derive(Default)]
struct Pending {
    entries: Vec<Entry>,
    sizes: Vec<(PackId, u64)>,
}

impl Pending {
    fn write_run(&mut self, shared: &Shared) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.entries.sort_unstable();
        self.entries.dedup();
        for entries in self.entries.chunks(run::RUN_ENTRIES_MAX) {
            let run = shared.repository.put_run(entries)?;
            shared.stored_bytes.fetch_add(run.stored_bytes(), Ordering::Relaxed);
            let mut index = shared.index.write().unwrap_or_else(PoisonError::into_inner);
            index.add(run, self.sizes.iter().copied());
            for entry in entries {
                shared.shard(&entry.id).remove(&entry.id);
            }
        }
        self.entries.clear();
        self.sizes.clear();
        Ok(())
    }
}

/// The index entries of a pack, and what is wrong with frames that had to be left out.
pub(crate) type PackEntries = (Vec<Entry>, Vec<String>);

/// Packs that no run speaks of.
struct Orphans {
    /// What is in them, in order.
    entries: Vec<Entry>,
    sizes: Vec<(PackId, u64)>,
}

/// A run that is not stored.
struct InMemory(Vec<u8>);

impl leeward_store::Object for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_store::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.0.get(start..).and_then(|rest| rest.get(..buffer.len())) {
            Some(found) => buffer.copy_from_slice(found),
            None => {
                return Err(leeward_store::Error::Io {
                    store: "memory".to_owned(),
                    action: "read",
                    key: "a run".to_owned(),
                    source: std::io::ErrorKind::UnexpectedEof.into(),
                });
            }
        }
        Ok(())
    }
}

impl Repository {
    /// Stores a run of sorted entries and opens it.
    pub(crate) fn put_run(&self, entries: &[Entry]) -> Result<Arc<Run>> {
        let encoded = run::encode(entries);
        let key = run_key(encoded.id)?;
        put_once(self.store(), &key, &encoded.bytes)?;
        let object = match self.store().open(&key) {
            Ok(object) => object,
            // A collection has merged it into another already: what it says still holds.
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => {
                Arc::new(InMemory(encoded.bytes))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Arc::new(Run::open(encoded.id, object, self.location())?))
    }

    /// Finds packs that no run speaks of (their writer died before it wrote one) and adds them to the index.
    pub(crate) fn adopt_orphans(&self, index: &mut Index) -> Result<()> {
        // Nothing new may refer to a condemned pack.
        let orphans = self.orphans(index, |pack| !index.states().condemned.contains(pack))?;
        for part in orphans.entries.chunks(run::RUN_ENTRIES_MAX) {
            let run = self.put_run(part)?;
            index.add(run, orphans.sizes.iter().copied());
        }
        Ok(())
    }

    /// As [`Repository::adopt_orphans`], for readers, who store nothing.
    pub(crate) fn adopt_orphans_in_memory(&self, index: &mut Index) -> Result<()> {
        let orphans = self.orphans(index, |_| true)?;
        for part in orphans.entries.chunks(run::RUN_ENTRIES_MAX) {
            let encoded = run::encode(part);
            let object = Arc::new(InMemory(encoded.bytes));
            let run = Arc::new(Run::open(encoded.id, object, self.location())?);
            index.add(run, orphans.sizes.iter().copied());
        }
        Ok(())
    }

    /// What is in the packs that no run speaks of, as far as `wanted` has it.
    fn orphans(&self, index: &Index, wanted: impl Fn(&PackId) -> bool) -> Result<Orphans> {
        let known: HashSet<PackId> = index.runs().iter().flat_map(|run| run.packs.iter().copied()).collect();
        let mut entries = Vec::new();
        let mut sizes = Vec::new();
        let present = index.states().present.iter();
        let orphans: Vec<(PackId, u64)> = present
            .filter(|(pack, _)| !known.contains(*pack) && wanted(pack))
            .map(|(pack, size)| (*pack, *size))
            .collect();
        for (pack, size, found) in self.read_entries(&orphans) {
            match found {
                Ok((found, _)) => {
                    entries.extend(found);
                    sizes.push((pack, size));
                }
                // Gone again, or damaged: nothing will refer to it, and `check` names it.
                Err(error) if error.is_not_found() || error.kind() == crate::ErrorKind::Damaged => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_unstable();
        entries.dedup();
        Ok(Orphans { entries, sizes })
    }

    /// Reads what packs say of themselves, several at once where a request waits for a network.
    fn read_entries(&self, packs: &[(PackId, u64)]) -> Vec<(PackId, u64, Result<PackEntries>)> {
        let (next, read) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(packs.len())));
        std::thread::scope(|scope| {
            for _ in 0..self.store().requests_at_once().clamp(1, READING_THREADS_MAX).min(packs.len()) {
                scope.spawn(|| {
                    while let Some((pack, size)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let entries = self.pack_entries(*pack);
                        lock(&read).push((*pack, *size, entries));
                    }
                });
            }
        });
        std::mem::take(&mut *lock(&read))
    }

    /// The index entries of a pack, from the pack alone, and what is wrong with frames that had to be left out.
    pub(crate) fn pack_entries(&self, pack: PackId) -> Result<PackEntries> {
        let directory = self.pack_directory(pack)?;
        let (mut entries, mut flaws) = (Vec::new(), Vec::new());
        match directory.kind {
            BlobKind::Chunk => {
                for frame in &directory.frames {
                    entries.extend(frame_entries(self, BlobKind::Chunk, pack, frame, |_| 0));
                }
            }
            BlobKind::Node => {
                // Nodes have lengths of their own, which only their frames know.
                let key = pack_key(pack)?;
                let object = self.store().open(&key)?;
                let mut decoder = self.frame_decoder()?;
                let (mut bytes, mut content) = (Vec::new(), Vec::new());
                for frame in &directory.frames {
                    bytes.resize(frame.length as usize, 0);
                    let lengths = match object.read_at(&mut bytes, u64::from(frame.offset)) {
                        Err(error) if error.is_bad_place() => Err(format!("{UNREADABLE}: {error}")),
                        Err(error) => return Err(error.into()),
                        Ok(()) => decoder
                            .decode(BlobKind::Node, &bytes, &mut content)
                            .and_then(|()| self.node_lengths(&content, &frame.blobs)),
                    };
                    match lengths {
                        Ok(lengths) => {
                            let length = |index: usize| lengths.get(index).copied().unwrap_or(0);
                            entries.extend(frame_entries(self, BlobKind::Node, pack, frame, length));
                        }
                        Err(what) => flaws.push(format!("at offset {}: {what}", frame.offset)),
                    }
                }
            }
        }
        Ok((entries, flaws))
    }

    /// The lengths of the nodes in the content of a frame, which are compared with their names.
    fn node_lengths(&self, content: &[u8], blobs: &[BlobId]) -> Result<Vec<u32>, String> {
        let mut lengths = Vec::with_capacity(blobs.len());
        let mut rest = content;
        for id in blobs {
            let (_, length) = Node::decode(rest)?;
            let (node, after) = rest.split_at(length);
            if self.keys().node(node) != *id {
                return Err(format!("tree node {id} does not match its name"));
            }
            lengths.push(length as u32);
            rest = after;
        }
        Ok(lengths)
    }
}
