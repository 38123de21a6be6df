//! Tags and holds of snapshots that both sides have: the target gets what it lacks.

use std::collections::BTreeMap;

use crate::Result;
use crate::image::{ImageName, SnapshotEntry};
use crate::repository::Repository;

use super::select::Match;

/// Adds tags and holds of the source to the snapshots of the target; returns how many of them changed. A tag that both
/// have keeps the value that it has at the target. Nothing is taken away: what was released at one side may still count
/// at the other.
pub(super) fn merge(to: &Repository, matches: &[Match]) -> Result<usize> {
    let mut images: BTreeMap<&ImageName, Vec<&Match>> = BTreeMap::new();
    for found in matches.iter().filter(|found| add(&mut found.there.clone(), &found.here)) {
        images.entry(&found.image).or_default().push(found);
    }
    let mut changed = 0;
    for (image, matches) in images {
        let mut count = 0;
        to.change_ref(image, false, |image_ref| {
            count = 0;
            for found in &matches {
                // One that was forgotten meanwhile stays so.
                if let Some(entry) = image_ref.entry_mut(found.there.id) {
                    count += usize::from(add(entry, &found.here));
                }
            }
            Ok(count > 0)
        })?;
        changed += count;
    }
    Ok(changed)
}

/// Adds what `entry` lacks; whether it lacked anything.
fn add(entry: &mut SnapshotEntry, other: &SnapshotEntry) -> bool {
    let mut has_changed = false;
    for (name, value) in &other.tags {
        if !entry.tags.contains_key(name) {
            entry.tags.insert(name.clone(), value.clone());
            has_changed = true;
        }
    }
    for hold in &other.holds {
        if entry.holds.iter().all(|known| known.name != hold.name) {
            entry.holds.push(hold.clone());
            has_changed = true;
        }
    }
    has_changed
}
