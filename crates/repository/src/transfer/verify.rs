//! A second look at what was published: everything below the new snapshots is found at the target.

use std::collections::HashSet;

use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::BlobId;
use crate::repository::Repository;
use crate::{Error, Result};

use super::Travelled;

/// Walks the snapshots in the target by an index that was just opened: reads every node, and finds every chunk.
pub(super) fn verify(to: &Repository, snapshots: &[Travelled]) -> Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    let blobs = Blobs::open(to)?;
    let mut seen = HashSet::new();
    for sent in snapshots {
        let snapshot = to.snapshot(sent.copy)?;
        if let Some(root) = snapshot.root {
            below(&blobs, root, snapshot.root_level, &mut seen).map_err(|error| match error {
                Error::MissingBlob { store, kind, id, .. } => {
                    let whom =
                        format!(", which the new snapshot {} of {} needs", sent.copy.short(), sent.image);
                    Error::MissingBlob { store, kind, id, whom }
                }
                other => other,
            })?;
        }
    }
    Ok(())
}

fn below(blobs: &Blobs, id: BlobId, level: u8, seen: &mut HashSet<BlobId>) -> Result<()> {
    if !seen.insert(id) {
        return Ok(());
    }
    for child in blobs.node(id, level)?.children.into_iter().flatten() {
        if level > 0 {
            below(blobs, child, level - 1, seen)?;
        } else {
            blobs.locate(BlobKind::Chunk, child)?;
        }
    }
    Ok(())
}
