//! A disk from its first byte to its last, for who takes it in order: an upload.
//!
//! Several requests read ahead of the place that is taken, so that the answers' delay does not count; what was read waits in a
//! line of bounded length. Memory: a unit of 2 MiB for each place in the line, and one answer for each request.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leeward_store::RateLimit;

use crate::digest::{DigestCheck, Hasher};
use crate::image::{Content, Disk};
use crate::plan::{ExtentFeed, Feed, Work, read_unit};
use crate::{Error, Progress, Result, Watch};

/// Places in the line for each request.
const AHEAD_PER_REQUEST: u64 = 2;
/// How long a thread waits before it asks whether to stop.
const NAP: Duration = Duration::from_millis(50);
/// Zeros that go into a digest at once, in bytes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The next bytes of a disk.
pub(crate) enum Piece {
    /// These.
    Data(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
}

/// How a disk is read.
#[derive(Clone)]
pub(crate) struct PourOptions {
    /// Requests at once.
    pub(crate) requests: usize,
    /// How fast the object is read.
    pub(crate) limit: Option<Arc<RateLimit>>,
}

impl Default for PourOptions {
    fn default() -> Self {
        Self { requests: 8, limit: None }
    }
}

/// What was given.
#[derive(Debug)]
pub(crate) struct Poured {
    /// Bytes of data among those of the disk, in whole units.
    pub(crate) data_bytes: u64,
    /// What came of the digests that are stated for the object.
    pub(crate) digest: DigestCheck,
}

/// Why not all was given.
#[derive(Debug)]
pub(crate) enum Stopped<E> {
    /// The disk could not be read, or the caller cancelled.
    Read(Error),
    /// Who takes it could not.
    Taken(E),
}

/// Gives all bytes of a disk, in order, to `take`.
///
/// # Errors
/// The disk cannot be read or does not match its digest, the caller cancelled, or `take` failed.
pub(crate) fn pour<E>(
    disk: &Disk,
    options: &PourOptions,
    watch: &dyn Watch,
    take: &mut dyn FnMut(Piece) -> Result<(), E>,
) -> Result<Poured, Stopped<E>> {
    let total = disk.virtual_size();
    let feed: Box<dyn Feed + '_> = match &disk.content {
        Content::Source { source, .. } => Box::new(ExtentFeed::new(source.as_ref(), total, 0)),
        Content::Stream(stream) => Box::new(stream.feed(total, 0, watch).map_err(Stopped::Read)?),
    };
    let mut hasher = match &disk.content {
        Content::Source { whole: Some(stated), .. } if !stated.is_empty() => {
            Some(Hasher::new(stated.clone()))
        }
        _ => None,
    };
    let requests = options.requests.max(1);
    let line = Line {
        disk,
        limit: options.limit.as_deref(),
        watch,
        ahead: AHEAD_PER_REQUEST * requests as u64,
        feed: Mutex::new(feed),
        state: Mutex::new(State {
            handed: 0,
            taken: 0,
            ready: BTreeMap::new(),
            readers: requests,
            is_over: false,
        }),
        changed: Condvar::new(),
    };
    let mut data_bytes = 0;
    std::thread::scope(|scope| {
        for _ in 0..requests {
            scope.spawn(|| line.read());
        }
        let _over = Over(&line);
        let mut done = 0;
        while let Some(piece) = line.next().map_err(Stopped::Read)? {
            done += match &piece {
                Piece::Data(bytes) => {
                    hasher.iter_mut().for_each(|hasher| hasher.update(bytes));
                    data_bytes += bytes.len() as u64;
                    bytes.len() as u64
                }
                Piece::Zeros(length) => {
                    hasher.iter_mut().for_each(|hasher| update_zeros(hasher, *length));
                    *length
                }
            };
            take(piece).map_err(Stopped::Taken)?;
            watch.progress(Progress { done_bytes: done, total_bytes: total, data_bytes });
        }
        Ok(())
    })?;
    let digest = match (&disk.content, hasher) {
        (Content::Stream(stream), _) => stream.digest().clone(),
        (_, Some(hasher)) => hasher.finish(&disk.identity().object).map_err(Stopped::Read)?,
        (Content::Source { whole: Some(_), .. }, None) => DigestCheck::NotStated,
        (Content::Source { whole: None, .. }, None) => DigestCheck::of_part(),
    };
    Ok(Poured { data_bytes, digest })
}

fn update_zeros(hasher: &mut Hasher, mut length: u64) {
    while length > 0 {
        let part = length.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..part as usize]);
        length -= part;
    }
}

struct State {
    /// Pieces that were handed out to be read.
    handed: u64,
    /// Those that were taken.
    taken: u64,
    /// By number; nothing at the end of the disk.
    ready: BTreeMap<u64, Result<Option<Piece>>>,
    /// Threads that read.
    readers: usize,
    is_over: bool,
}

struct Line<'a> {
    disk: &'a Disk,
    limit: Option<&'a RateLimit>,
    watch: &'a dyn Watch,
    ahead: u64,
    feed: Mutex<Box<dyn Feed + 'a>>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Ends the line when nobody takes from it any more.
struct Over<'l, 'a>(&'l Line<'a>);

impl Drop for Over<'_, '_> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

/// Counts a thread out, however it ends: who waits for what it was reading has to know.
struct Reader<'l, 'a>(&'l Line<'a>);

impl Drop for Reader<'_, '_> {
    fn drop(&mut self) {
        self.0.state().readers -= 1;
        self.0.changed.notify_all();
    }
}

impl Line<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one piece after the other.
    fn read(&self) {
        let _reader = Reader(self);
        while let Some((number, work)) = self.claim() {
            let piece = work.and_then(|work| work.map(|work| self.piece(work)).transpose());
            let is_last = !matches!(piece, Ok(Some(_)));
            let mut state = self.state();
            state.ready.insert(number, piece);
            state.is_over |= is_last;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next piece to read, when there is a place for it.
    fn claim(&self) -> Option<(u64, Result<Option<Work>>)> {
        // Held while waiting, so that pieces are numbered in their order.
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        while !state.is_over && state.handed >= state.taken + self.ahead {
            state = self.changed.wait_timeout(state, NAP).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.is_over {
            return None;
        }
        let number = state.handed;
        state.handed += 1;
        drop(state);
        Some((number, feed.next()))
    }

    fn piece(&self, work: Work) -> Result<Piece> {
        match work {
            Work::Zeros { length, .. } => Ok(Piece::Zeros(length)),
            Work::Data { content: Some(content), length, .. } => {
                self.pay(length)?;
                Ok(Piece::Data(content))
            }
            Work::Data { offset, length, content: None } => {
                let mut unit = vec![0; length as usize];
                if let Content::Source { source, .. } = &self.disk.content {
                    read_unit(source.as_ref(), &mut unit, offset, &|bytes| self.pay(bytes))?;
                }
                Ok(Piece::Data(unit))
            }
        }
    }

    fn pay(&self, bytes: u64) -> Result<()> {
        let Some(limit) = self.limit else { return Ok(()) };
        limit.wait(bytes, &|| self.watch.is_cancelled());
        if self.watch.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The next piece in the order of the disk; `None` at its end.
    fn next(&self) -> Result<Option<Piece>> {
        let mut state = self.state();
        loop {
            if self.watch.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let wanted = state.taken;
            if let Some(piece) = state.ready.remove(&wanted) {
                state.taken += 1;
                drop(state);
                self.changed.notify_all();
                return piece;
            }
            if state.readers == 0 {
                // One of them died, and tells so itself when it is joined.
                return Err(Error::Cancelled);
            }
            state = self.changed.wait_timeout(state, NAP).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use leeward_remote::Environment;
    use leeward_remote::objects;

    use super::{Piece, PourOptions, Stopped, pour};
    use crate::image::{ImageOptions, ObjectImage};
    use crate::{DigestCheck, Quiet};

    fn object(bytes: u64, data: &[(u64, &[u8])]) -> (tempfile::TempDir, ObjectImage) {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("disk.raw")).unwrap();
        file.set_len(bytes).unwrap();
        data.iter().for_each(|(offset, data)| file.write_all_at(data, *offset).unwrap());
        let source = objects::open(folder.path().to_str().unwrap(), &Environment::of(&[])).unwrap();
        let head = source.head("disk.raw").unwrap();
        let image = crate::image::open(&source, "disk.raw", &head, &ImageOptions::default(), &Quiet).unwrap();
        (folder, image)
    }

    #[test]
    fn a_disk_comes_in_its_order_to_its_last_byte() {
        let noise: Vec<u8> =
            (0..5_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let bytes = (40 << 20) + 512;
        let (folder, image) = object(bytes, &[(3 << 20, &noise), (bytes - 1, b"!"), (0, b"!")]);
        let mut all = Vec::new();
        let poured = pour::<()>(&image.disks[0], &PourOptions::default(), &Quiet, &mut |piece| {
            match piece {
                Piece::Data(data) => all.extend_from_slice(&data),
                Piece::Zeros(length) => all.resize(all.len() + length as usize, 0),
            }
            Ok(())
        })
        .unwrap();
        assert!(all == std::fs::read(folder.path().join("disk.raw")).unwrap());
        assert!(poured.data_bytes <= bytes);
        assert!(!matches!(poured.digest, DigestCheck::NotChecked { .. }), "{:?}", poured.digest);
    }

    #[test]
    fn who_takes_no_more_ends_it() {
        let (_folder, image) = object(1 << 30, &[(0, &[7; 4096])]);
        let mut left = 3;
        let stopped = pour(&image.disks[0], &PourOptions::default(), &Quiet, &mut |_| {
            left -= 1;
            if left == 0 { Err("full") } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(Stopped::Taken("full")) | Ok(_)), "{stopped:?}");
    }
}
