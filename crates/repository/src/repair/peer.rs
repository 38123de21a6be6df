//! Another repository, from which what is not here is had. Whatever it gives is compared with names from here.

use std::collections::HashMap;

use crate::blobs::Blobs;
use crate::check::pack_flaws;
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::image::{ImageName, ImageRef};
use crate::repository::{Repository, pack_key};
use crate::{Error, Result};

/// The largest pack that is taken whole, in bytes: twice what a writer may make.
const PACK_BYTES_MAX: u64 = 512 << 20;

/// A peer with its index open.
pub(crate) struct Peer {
    repository: Repository,
    blobs: Blobs,
    packs: HashMap<PackId, u64>,
}

/// What a peer has, or nothing where it lacks it or what it has is damaged. That its store fails is an error.
fn had<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() || error.kind() == crate::ErrorKind::Damaged => Ok(None),
        Err(error @ (Error::Interrupted | Error::Store(_))) => Err(error),
        Err(_) => Ok(None),
    }
}

impl Peer {
    pub(crate) fn open(repository: &Repository) -> Result<Self> {
        // Damaged runs are left out and packs without a run looked into, once: not for each blob that is missing.
        let mut index = repository.load_index_to_read(true)?;
        repository.adopt_orphans_in_memory(&mut index)?;
        let packs = index.states().present.clone();
        Ok(Self {
            repository: repository.clone(),
            blobs: Blobs::with_compared_index(repository, index),
            packs,
        })
    }

    /// Whether its index speaks of a blob.
    pub(super) fn speaks_of(&self, id: &BlobId) -> Result<bool> {
        Ok(had(self.blobs.index().locate(id))?.flatten().is_some())
    }

    /// A blob, compared with its name under the keys of `own`.
    pub(super) fn blob(&self, own: &Repository, kind: BlobKind, id: BlobId) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = had(self.blobs.bytes(kind, id))? else { return Ok(None) };
        let (name, has_length) = match kind {
            BlobKind::Chunk => (own.keys().chunk(&bytes), bytes.len() == own.config().chunk_bytes()),
            BlobKind::Node => (own.keys().node(&bytes), true),
        };
        Ok((name == id && has_length).then_some(bytes))
    }

    /// The text of a manifest, compared with its name under the keys of `own`.
    pub(super) fn manifest(&self, own: &Repository, id: SnapshotId) -> Result<Option<Vec<u8>>> {
        let text = had(self.repository.snapshot_text(id))?;
        Ok(text.filter(|text| own.keys().snapshot(text) == id))
    }

    /// The ref of an image. There is no name to compare it with.
    pub(super) fn image(&self, name: &ImageName) -> Result<Option<ImageRef>> {
        Ok(had(self.repository.read_ref(name))?.flatten().map(|(image, _)| image))
    }

    /// The bytes of a pack of this name, all of them compared with it.
    pub(super) fn pack(&self, own: &Repository, id: PackId) -> Result<Option<Vec<u8>>> {
        let Some(size) = self.packs.get(&id).filter(|size| **size <= PACK_BYTES_MAX) else { return Ok(None) };
        let got = self.repository.store().get(&pack_key(id)?, *size).map_err(Error::from);
        let Some((bytes, _)) = had(got)? else { return Ok(None) };
        let is_sound = pack_flaws(own, id, &bytes)?.is_ok_and(|flaws| flaws.is_empty());
        Ok(is_sound.then_some(bytes))
    }
}
