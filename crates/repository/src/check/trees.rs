//! The trees of everything that is published.

use std::collections::{BTreeSet, HashMap};

use crate::blobs::Blobs;
use crate::id::{BlobId, PackId};
use crate::mark::Seen;
use crate::{Error, Result};

use super::{BadCopies, Check, FROM_A_COPY};

impl Check<'_> {
    pub(super) fn trees(&mut self, blobs: &Blobs) -> Result<()> {
        let mut walker = TreeWalker {
            blobs,
            seen: Seen::new(&blobs.index()),
            touched: HashMap::new(),
            nodes: 0,
            chunks: 0,
            fresh: Vec::new(),
        };
        for (image, id) in self.snapshots.clone() {
            self.stop_when_cancelled()?;
            let label = format!("{image}@{}", id.short());
            let snapshot = match self.repository.snapshot(id) {
                Ok(snapshot) => snapshot,
                Err(Error::Damaged { key, what, .. }) => {
                    let number = self.find(key, what, FROM_A_COPY);
                    self.outcome.findings[number].touches.push(label);
                    self.damage.manifests.insert(id, image);
                    continue;
                }
                Err(error) if error.is_not_found() => {
                    // Forgotten while the check ran?
                    let gone =
                        self.repository.read_ref(&image)?.is_none_or(|(image, _)| image.entry(id).is_none());
                    if !gone {
                        let number =
                            self.find(format!("snapshots/{id}"), "the manifest is missing", FROM_A_COPY);
                        self.outcome.findings[number].touches.push(label);
                        self.damage.manifests.insert(id, image);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.outcome.snapshots += 1;
            let Some(root) = snapshot.root else { continue };
            let touched = walker.node(root, snapshot.root_level, &self.bad)?;
            for (id, what) in std::mem::take(&mut walker.fresh) {
                let number = self.find(what, "it cannot be had".to_owned(), FROM_A_COPY);
                self.damage.blobs += 1;
                // In no pack that is known.
                self.bad.entry(id).or_default().push((PackId([0; 32]), number));
            }
            for id in touched {
                for (_, number) in self.bad.get(&id).into_iter().flatten() {
                    let touches = &mut self.outcome.findings[*number].touches;
                    if touches.last() != Some(&label) {
                        touches.push(label.clone());
                    }
                }
            }
        }
        (self.outcome.nodes, self.outcome.chunks) = (walker.nodes, walker.chunks);
        Ok(())
    }
}

/// Walks trees, each subtree once.
struct TreeWalker<'a> {
    blobs: &'a Blobs,
    /// Subtrees walked.
    seen: Seen,
    /// The bad blobs found in them, where there are any.
    touched: HashMap<BlobId, BTreeSet<BlobId>>,
    nodes: u64,
    chunks: u64,
    /// Bad blobs that no finding names yet, with how to name them.
    fresh: Vec<(BlobId, String)>,
}

impl TreeWalker<'_> {
    /// The bad blobs in the subtree of a node.
    fn node(&mut self, id: BlobId, level: u8, bad: &BadCopies) -> Result<BTreeSet<BlobId>> {
        if !self.seen.insert(&id)? {
            return Ok(self.touched.get(&id).cloned().unwrap_or_default());
        }
        let mut found = BTreeSet::new();
        match self.blobs.node(id, level) {
            Ok(node) => {
                self.nodes += 1;
                for child in node.children.into_iter().flatten() {
                    if level > 0 {
                        found.extend(self.node(child, level - 1, bad)?);
                    } else {
                        self.chunks += 1;
                        if !self.has_chunk(child, bad)? {
                            found.insert(child);
                        }
                    }
                }
            }
            Err(error) if error.kind() == crate::ErrorKind::Damaged || error.is_not_found() => {
                if !bad.contains_key(&id) {
                    self.fresh.push((id, format!("tree node {id} ({error})")));
                }
                found.insert(id);
            }
            Err(error) => return Err(error),
        }
        if !found.is_empty() {
            self.touched.insert(id, found.clone());
        }
        Ok(found)
    }

    /// Whether a copy of the chunk is there that is not known to be bad.
    fn has_chunk(&mut self, id: BlobId, bad: &BadCopies) -> Result<bool> {
        let Some(bad) = bad.get(&id) else {
            if self.blobs.index().locate(&id)?.is_some() {
                return Ok(true);
            }
            return Ok(self.note_missing(id));
        };
        let places = self.blobs.index().places(&id)?;
        Ok(places.iter().any(|(location, _)| bad.iter().all(|(pack, _)| *pack != location.pack)))
    }

    fn note_missing(&mut self, id: BlobId) -> bool {
        if !self.fresh.iter().any(|(other, _)| *other == id) {
            self.fresh.push((id, format!("chunk {id} (not in the index)")));
        }
        false
    }
}
