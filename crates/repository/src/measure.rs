//! Measuring the index, and whole repositories, at sizes that no test disk has. Not part of the interface that programs use.

mod hollow;
mod numbers;
mod synthetic;

pub use synthetic::Synthetic;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_store::Store;

use crate::Result;
use crate::frame::{BlobKind, FrameDecoder, FrameEncoder};
use crate::id::{BlobId, IdKeys, PackId};
use crate::index::{Entry, Index, Location, PackStates, Run, run};
use crate::keys::Keyring;
use crate::repository::{INDEX, put_once, run_key};

/// What a synthetic index costs.
#[derive(Debug, Clone, Copy)]
pub struct IndexMeasurement {
    /// Number of names.
    pub count: u64,
    /// Time to encode and store it.
    pub build: Duration,
    /// Time to open it.
    pub open: Duration,
    /// Lookups of names that are there, a second.
    pub hits_per_second: f64,
    /// Lookups of names that are not there, a second.
    pub misses_per_second: f64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

/// Blobs of one pack in the synthetic index: what 32 MiB hold.
const BLOBS_PER_PACK: u64 = 1200;

fn random_ids(seed: u64, part: u64, parts: u64, count: usize) -> Vec<BlobId> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&part.to_le_bytes());
    let mut bytes = vec![0; count * 32];
    hasher.finalize_xof().fill(&mut bytes);
    let span = u64::MAX / parts;
    let mut ids: Vec<BlobId> = bytes
        .as_chunks::<32>()
        .0
        .iter()
        .map(|bytes| {
            // Evenly spread over the part of the names that one merged run holds.
            let mut id = *bytes;
            let random = id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            id[..8].copy_from_slice(&(part * span + random % span).to_be_bytes());
            BlobId(id)
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Builds an index of `count` random names in `store` (prefix `index`), as a collection leaves it, opens it, and looks up
/// `lookups` names that are there and as many that are not, in random order.
///
/// # Errors
/// The store fails.
pub fn measure_index(store: &dyn Store, count: u64, lookups: usize) -> Result<IndexMeasurement> {
    let parts = count.div_ceil(run::RUN_ENTRIES_MAX as u64).max(1);
    let mut keys = Vec::new();
    let mut sample = Vec::new();
    let mut present = HashMap::new();
    let (mut build, mut stored_bytes) = (Duration::ZERO, 0);
    for part in 0..parts {
        let size = (count / parts + u64::from(part < count % parts)) as usize;
        let ids = random_ids(1, part, parts, size);
        sample.extend(ids.iter().step_by((count as usize / lookups.max(1)).max(1)).copied());
        let entries: Vec<Entry> = ids
            .iter()
            .enumerate()
            .map(|(number, id)| {
                let mut pack = [0; 32];
                pack[..8].copy_from_slice(&((part << 32 | number as u64) / BLOBS_PER_PACK).to_le_bytes());
                let location =
                    Location { pack: PackId(pack), offset: 64, length: 1 << 19, content_offset: 0 };
                present.insert(location.pack, 32 << 20);
                Entry { id: *id, location }
            })
            .collect();
        let started = Instant::now();
        let encoded = run::encode(&entries);
        put_once(store, &run_key(encoded.id)?, &encoded.bytes)?;
        build += started.elapsed();
        stored_bytes += encoded.bytes.len() as u64;
        keys.push(encoded.id);
    }
    store.settle(INDEX)?;

    let started = Instant::now();
    let mut runs = Vec::new();
    for id in keys {
        runs.push(Arc::new(Run::open(id, store.open(&run_key(id)?)?, store.name())?));
    }
    let index = Index::new(runs, PackStates { present, ..PackStates::default() });
    let open = started.elapsed();

    // Neighbouring names are far apart in the order of their last bytes.
    sample.sort_unstable_by_key(|id| id.0[24..].to_vec());
    let started = Instant::now();
    let mut found = 0_usize;
    for id in &sample {
        found += usize::from(index.may_contain(id) && index.can_reuse(id)?);
    }
    let hits_per_second = sample.len() as f64 / started.elapsed().as_secs_f64();
    assert_eq!(found, sample.len(), "every name that was stored is found");

    let absent = random_ids(2, 0, 1, lookups);
    let started = Instant::now();
    let mut wrong = 0_usize;
    for id in &absent {
        wrong += usize::from(index.may_contain(id) && index.can_reuse(id)?);
    }
    let misses_per_second = absent.len() as f64 / started.elapsed().as_secs_f64();
    assert_eq!(wrong, 0, "no name is found that was not stored");
    let memory_bytes = index.memory_bytes();
    Ok(IndexMeasurement {
        count,
        build,
        open,
        hits_per_second,
        misses_per_second,
        stored_bytes,
        memory_bytes,
    })
}

/// Encodes content as a frame at a level of zstd, checked as in a backup; returns the bytes that it takes.
///
/// # Errors
/// Compression fails.
pub fn encode_frame(content: &[u8], level: i32) -> Result<Vec<u8>> {
    let mut encoder = FrameEncoder::new(level, &Arc::new(Keyring::plain()))?;
    Ok(encoder.encode(BlobKind::Chunk, content)?.bytes.to_vec())
}

/// Decodes a frame into `content`; `None` when it is damaged.
///
/// # Errors
/// zstd cannot be set up.
pub fn decode_frame(frame: &[u8], content: &mut Vec<u8>) -> Result<Option<()>> {
    Ok(FrameDecoder::new(&Arc::new(Keyring::plain()))?.decode(BlobKind::Chunk, frame, content).ok())
}

/// Names every chunk of `content`, as a backup does.
#[must_use]
pub fn name_chunks(content: &[u8], chunk_bytes: usize) -> Vec<BlobId> {
    let keys = IdKeys::new(&[0; 32]);
    content.chunks_exact(chunk_bytes).map(|chunk| keys.chunk(chunk)).collect()
}
