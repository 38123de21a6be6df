//! Packs: their directories, and where it is asked for every stored byte.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::frame::BlobKind;
use crate::id::{BlobId, PackId, domain, stored_digest};
use crate::index::Index;
use crate::pack;
use crate::parity::{check_object, parity_key};
use crate::repository::{PACKS, Repository, pack_key};
use crate::tree::Node;
use crate::{Error, Result};

use super::runs::Listed;
use super::{Check, FROM_A_COPY, HARMLESS, PackDamage, REMAKE, Reading};

/// A damaged frame of a pack.
pub(crate) struct FrameFlaw {
    /// Its offset in the pack.
    pub(crate) offset: u32,
    /// What is wrong with it.
    pub(crate) what: String,
    /// The blobs that were in it.
    pub(crate) blobs: Vec<BlobId>,
}

/// Compares every byte of a pack with its name: the damaged frames, or why it is no pack of this name at all.
pub(crate) fn pack_flaws(
    repository: &Repository,
    id: PackId,
    bytes: &[u8],
) -> Result<std::result::Result<Vec<FrameFlaw>, String>> {
    let directory = match pack::parse(id, bytes) {
        Ok(directory) => directory,
        Err(what) => return Ok(Err(what)),
    };
    let mut decoder = repository.frame_decoder()?;
    let (mut content, mut flaws) = (Vec::new(), Vec::new());
    for frame in directory.frames {
        let start = frame.offset as usize;
        let stored = bytes.get(start..start + frame.length as usize).unwrap_or_default();
        let flaw = if stored_digest(domain::FRAME, &[stored]) != frame.digest {
            Some("the bytes of the frame do not match their digest".to_owned())
        } else if !repository.looks_into(directory.kind) {
            None
        } else {
            let decoded = decoder.decode(directory.kind, stored, &mut content);
            decoded.err().or_else(|| wrong_blob(repository, directory.kind, &content, &frame.blobs))
        };
        if let Some(what) = flaw {
            flaws.push(FrameFlaw { offset: frame.offset, what, blobs: frame.blobs });
        }
    }
    Ok(Ok(flaws))
}

/// The first blob of a frame whose content does not match its name.
fn wrong_blob(repository: &Repository, kind: BlobKind, content: &[u8], blobs: &[BlobId]) -> Option<String> {
    let keys = repository.keys();
    let mut rest = content;
    for id in blobs {
        let (length, name) = match kind {
            BlobKind::Chunk => {
                let length = repository.config().chunk_bytes();
                (length, rest.get(..length).map(|bytes| keys.chunk(bytes)))
            }
            BlobKind::Node => match Node::decode(rest) {
                Ok((_, length)) => (length, Some(keys.node(&rest[..length]))),
                Err(what) => return Some(what),
            },
        };
        if name != Some(*id) {
            return Some(format!("{} {id} does not match its name", kind.name()));
        }
        rest = &rest[length..];
    }
    (!rest.is_empty()).then(|| "the frame holds more than its blobs".to_owned())
}

impl Check<'_> {
    /// Looks at all packs: at their directories, at those chosen whole, and at what the index says of them.
    pub(super) fn packs(&mut self, index: &Index, reading: &mut Reading<'_>) -> Result<()> {
        let mut listed: Vec<(PackId, u64)> =
            index.states().present.iter().map(|(pack, size)| (*pack, *size)).collect();
        listed.sort_unstable();
        for entry in self.repository.store().list(PACKS)? {
            if entry.key.name().parse::<PackId>().is_err() {
                self.find(entry.key.as_str(), "its name is not a digest", HARMLESS);
            }
        }
        let mut directories = self.directories(&listed, index)?;
        listed.retain(|(pack, _)| directories.contains_key(pack));
        for (pack, size) in reading.choose(&listed) {
            self.stop_when_cancelled()?;
            if !reading.goes_on() {
                break;
            }
            if let Some(is_sound) = self.read_pack(pack, size)? {
                reading.note(pack, is_sound);
            }
        }
        self.entries(index, &mut directories)?;
        self.blame_packs(index)
    }

    /// Reads the directories of packs; returns what those say that are sound.
    fn directories(&mut self, listed: &[(PackId, u64)], index: &Index) -> Result<HashMap<PackId, Listed>> {
        let mut directories = HashMap::new();
        let known: HashSet<PackId> = index.runs().iter().flat_map(|run| run.packs.iter().copied()).collect();
        for (pack, _) in listed {
            self.stop_when_cancelled()?;
            match self.repository.pack_directory(*pack) {
                Ok(directory) => {
                    self.outcome.packs += 1;
                    directories.insert(*pack, Listed::new(&directory, known.contains(pack)));
                }
                Err(Error::Damaged { key, what, .. }) => {
                    let number = self.find(key, what, FROM_A_COPY);
                    self.unreadable(*pack, number);
                }
                Err(error) if error.is_not_found() => {}
                // The medium cannot read it.
                Err(error) if error.kind() == crate::ErrorKind::Damaged => {
                    let what = format!("it cannot be read: {error}");
                    let number = self.find(pack_key(*pack)?.as_str(), what, FROM_A_COPY);
                    self.unreadable(*pack, number);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(directories)
    }

    fn unreadable(&mut self, pack: PackId, number: usize) {
        self.damage.packs.insert(pack, PackDamage::Unreadable);
        self.lost_packs.insert(pack, number);
    }

    /// Compares the parity of a pack with its digests, and with the pack where that is sound.
    fn parity(&mut self, pack: PackId, bytes: Option<&[u8]>) -> Result<()> {
        let Some(size) = self.parity.get(&pack).copied() else { return Ok(()) };
        let key = parity_key(pack)?;
        let flaw = match self.repository.store().get(&key, size) {
            Ok((parity, _)) => {
                self.outcome.parity += 1;
                check_object(pack, &parity, bytes).err()
            }
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => None,
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        if let Some(what) = flaw {
            self.find(key.as_str(), what, REMAKE);
            self.damage.parity.insert(pack);
        }
        Ok(())
    }

    /// Reads a pack and compares every byte: whether it is sound, or nothing when it has gone.
    fn read_pack(&mut self, id: PackId, size: u64) -> Result<Option<bool>> {
        let key = pack_key(id)?;
        let bytes = match self.repository.store().get(&key, size) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let number = self.find(key.as_str(), format!("it cannot be read: {error}"), FROM_A_COPY);
                self.unreadable(id, number);
                return Ok(Some(false));
            }
        };
        self.outcome.read_bytes += bytes.len() as u64;
        self.control.advance(bytes.len() as u64);
        let flaws = match pack_flaws(self.repository, id, &bytes)? {
            Ok(flaws) => flaws,
            Err(what) => {
                let number = self.find(key.as_str(), what, FROM_A_COPY);
                self.unreadable(id, number);
                return Ok(Some(false));
            }
        };
        let mut damaged = BTreeSet::new();
        for flaw in flaws {
            damaged.insert(flaw.offset);
            let what =
                format!("at offset {}: {}; {} blobs are lost", flaw.offset, flaw.what, flaw.blobs.len());
            let number = self.find(key.as_str(), what, FROM_A_COPY);
            for blob in flaw.blobs {
                self.bad.entry(blob).or_default().push((id, number));
            }
        }
        let is_sound = damaged.is_empty();
        self.parity(id, is_sound.then_some(bytes.as_slice()))?;
        if !is_sound {
            self.damage.packs.insert(id, PackDamage::Frames(damaged));
        }
        Ok(Some(is_sound))
    }
}
