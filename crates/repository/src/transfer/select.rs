//! Which snapshots travel: what is wanted of one side, less what the other has. Only refs and sessions are read.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::SnapshotId;
use crate::image::{ImageName, SnapshotEntry};
use crate::repository::Repository;
use crate::session::State;
use crate::{Error, Result};

use super::Travelled;

/// Snapshots of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// The image.
    pub image: ImageName,
    /// One snapshot of it, or all that are kept.
    pub snapshot: Option<SnapshotId>,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All snapshots of all images.
    All,
    /// These.
    Picks(Vec<Pick>),
}

/// The published snapshots of some images, in the order of their refs.
pub(super) type Published = BTreeMap<ImageName, Vec<SnapshotEntry>>;

/// A snapshot that the target lacks.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) image: ImageName,
    /// As the source has it.
    pub(super) entry: SnapshotEntry,
}

impl Candidate {
    pub(super) fn travelled(&self, copy: SnapshotId) -> Travelled {
        Travelled {
            image: self.image.clone(),
            snapshot: self.entry.id,
            copy,
            created: self.entry.created,
            virtual_size: self.entry.virtual_size,
        }
    }
}

/// A snapshot that both sides have.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub(super) image: ImageName,
    pub(super) here: SnapshotEntry,
    pub(super) there: SnapshotEntry,
}

/// What comparing the refs of both sides came to.
pub(super) struct Selected {
    /// Oldest first, so that parents come before their children.
    pub(super) missing: Vec<Candidate>,
    pub(super) matches: Vec<Match>,
    pub(super) present: usize,
}

/// Reads what is published of some images, or of all.
pub(super) fn published(repository: &Repository, images: Option<&BTreeSet<ImageName>>) -> Result<Published> {
    let is_wanted = |image: &ImageName| images.is_none_or(|images| images.contains(image));
    let mut found = Published::new();
    let add = |entries: &mut Vec<SnapshotEntry>, entry: SnapshotEntry| {
        if entries.iter().all(|other| other.id != entry.id) {
            entries.push(entry);
        }
    };
    // Sessions first: a commit that moves into its ref between the two looks is then seen twice, never missed.
    let mut committed = Vec::new();
    for session in repository.sessions()? {
        if let State::Committed { snapshots } = session.record.state {
            committed.extend(snapshots.into_iter().filter(|published| is_wanted(&published.image)));
        }
    }
    let names = match images {
        Some(images) => images.iter().cloned().collect(),
        None => repository.images()?,
    };
    for name in names {
        if let Some((image, _)) = repository.read_ref(&name)? {
            // Also of an image of which nothing is left.
            let entries = found.entry(name).or_default();
            image.snapshots.into_iter().for_each(|entry| add(entries, entry));
        }
    }
    for published in committed {
        add(found.entry(published.image).or_default(), published.entry);
    }
    Ok(found)
}

/// Compares what is wanted with what is there.
pub(super) fn select(from: &Repository, to: &Repository, selection: &Selection) -> Result<Selected> {
    let wanted = match selection {
        Selection::All => published(from, None)?,
        Selection::Picks(picks) => picked(from, picks)?,
    };
    let images = wanted.keys().cloned().collect();
    let there = published(to, Some(&images))?;
    let mut selected = Selected { missing: Vec::new(), matches: Vec::new(), present: 0 };
    for (image, entries) in wanted {
        let present = there.get(&image).map_or(&[][..], Vec::as_slice);
        for entry in entries {
            match present.iter().find(|other| other.is_same_as(&entry)) {
                None => selected.missing.push(Candidate { image: image.clone(), entry }),
                Some(other) => {
                    selected.present += 1;
                    let (image, there) = (image.clone(), other.clone());
                    selected.matches.push(Match { image, here: entry, there });
                }
            }
        }
    }
    selected.missing.sort_by(|a, b| {
        (a.entry.created, &a.image, a.entry.id).cmp(&(b.entry.created, &b.image, b.entry.id))
    });
    Ok(selected)
}

fn picked(from: &Repository, picks: &[Pick]) -> Result<Published> {
    let images = picks.iter().map(|pick| pick.image.clone()).collect();
    let mut published = published(from, Some(&images))?;
    let mut wanted: BTreeMap<&ImageName, BTreeSet<SnapshotId>> = BTreeMap::new();
    for Pick { image, snapshot } in picks {
        let Some(entries) = published.get(image) else {
            return Err(Error::NoImage { store: from.location().to_owned(), image: image.to_string() });
        };
        let names = wanted.entry(image).or_default();
        match snapshot {
            None => names.extend(entries.iter().map(|entry| entry.id)),
            Some(id) if entries.iter().any(|entry| entry.id == *id) => {
                names.insert(*id);
            }
            Some(id) => return Err(Error::NoSnapshot { image: image.to_string(), wanted: id.short() }),
        }
    }
    for (image, entries) in &mut published {
        entries.retain(|entry| wanted.get(image).is_some_and(|names| names.contains(&entry.id)));
    }
    Ok(published)
}
