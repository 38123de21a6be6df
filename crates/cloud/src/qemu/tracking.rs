//! Changed blocks for programs of others: bitmaps under a name of a person's choice.
//!
//! A chain has one bitmap on each disk, which records from the last point on. A point starts new ones and stops the old
//! ones, as a backup does; once a point has been taken over, the old ones go. A program that was killed in between
//! leaves both, and both together tell what has changed since the point *before*: the next one merges them. Unlike for
//! a backup that is always right, because the chain has one reader, and what it did not finish it has to read again.

use serde_json::json;

use super::bitmap::{Bitmap, GRANULARITY, Mode};
use super::capture::Claim;
use super::machine::{Machine, MachineDisk};
use super::owner::PREFIX;
use super::qmp::Qmp;
use crate::{Error, Result};

/// The longest name: bitmaps of qcow2 have names of 1023 bytes at most.
const NAME_BYTES_MAX: usize = 64;

/// What the names of a chain's bitmaps begin with; `None` for what cannot be its name.
#[must_use]
pub fn prefix(name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_sound = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain);
    is_sound.then(|| format!("{PREFIX}cbt-{name}."))
}

/// The chain to which a bitmap belongs.
#[must_use]
pub fn chain(bitmap: &str) -> Option<&str> {
    let (name, _) = bitmap.strip_prefix(PREFIX)?.strip_prefix("cbt-")?.split_once('.')?;
    prefix(name).map(|_| name)
}

/// What is known of the changes of a disk since the last point.
#[must_use]
pub fn decide(disk: &MachineDisk, prefix: &str) -> Mode {
    let found: Vec<_> = disk.bitmaps.iter().filter(|bitmap| bitmap.name.starts_with(prefix)).collect();
    let full = |reason: &str| Mode::Full { reason: reason.to_owned() };
    match found[..] {
        [] => full(
            "the disk has no bitmap of this name: the machine was started anew, or it was not tracked before",
        ),
        _ if found.iter().any(|bitmap| bitmap.inconsistent) => {
            full("the bitmap is inconsistent: QEMU ended without storing it")
        }
        [bitmap] if bitmap.recording && !bitmap.busy => Mode::Incremental { bitmap: bitmap.name.clone() },
        _ => full("the bitmap is in use, or did not record all the time"),
    }
}

/// The bitmaps of all chains on the disks of a machine, with the names of the disks.
///
/// # Errors
/// QEMU does not answer.
pub fn list(monitor: &mut Qmp, machine: &Machine) -> Result<Vec<(String, Bitmap)>> {
    let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let mut found = Vec::new();
    for node in nodes.as_array().into_iter().flatten() {
        // While a point is served a filter of QEMU is between the device and this node: only the file tells.
        let is_disk = |disk: &&MachineDisk| node["node-name"] == disk.node.as_str();
        let is_file = |disk: &&MachineDisk| !disk.file.is_empty() && node["file"] == disk.file.as_str();
        let disk = machine.disks.iter().find(is_disk).or_else(|| machine.disks.iter().find(is_file));
        let Some(disk) = disk else { continue };
        let bitmaps = Bitmap::list(&node["dirty-bitmaps"]).into_iter();
        let of_chains = bitmaps.filter(|bitmap| chain(&bitmap.name).is_some());
        found.extend(of_chains.map(|bitmap| (disk.name.clone(), bitmap)));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Begins to record the changes of disks.
///
/// # Errors
/// QEMU refuses, or a disk is tracked under this name already. Then nothing has changed.
pub fn start(claim: &mut Claim, disks: &[MachineDisk], prefix: &str, point: &str) -> Result<()> {
    if let Some(disk) = disks.iter().find(|disk| !of_chain(disk, prefix).is_empty()) {
        let what = format!(
            "disk {} is tracked under this name already: stop that first, or go on with it",
            disk.name
        );
        return Err(Error::Busy { peer: claim.monitor().peer().to_owned(), what });
    }
    let add = |disk: &MachineDisk| {
        let data = json!({
            "node": disk.node, "name": format!("{prefix}{point}"), "granularity": GRANULARITY,
            "persistent": disk.keeps_bitmaps,
        });
        ("block-dirty-bitmap-add", data)
    };
    claim.monitor().transaction(&disks.iter().map(add).collect::<Vec<_>>())
}

/// Forgets what was recorded. Returns the number of bitmaps that were removed.
///
/// # Errors
/// QEMU refuses, because somebody uses a bitmap, for example; some may be gone already.
pub fn stop(claim: &mut Claim, disks: &[MachineDisk], prefix: &str) -> Result<usize> {
    let mut removed = 0;
    for disk in disks {
        for bitmap in of_chain(disk, prefix) {
            let name = json!({ "node": disk.node, "name": bitmap.name });
            claim.monitor().execute("block-dirty-bitmap-remove", name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Merges what an unfinished point left. Returns the names of the disks where it did. The disks have to be discovered
/// anew afterwards.
///
/// # Errors
/// QEMU refuses; then nothing has changed.
pub fn mend(claim: &mut Claim, disks: &[MachineDisk], prefix: &str) -> Result<Vec<String>> {
    let (mut actions, mut mended) = (Vec::new(), Vec::new());
    for disk in disks {
        let found = of_chain(disk, prefix);
        let [kept, others @ ..] = &found[..] else { continue };
        // A bitmap that records nothing and has no successor has missed something.
        let is_sound = found.iter().all(|bitmap| !bitmap.inconsistent && !bitmap.busy);
        if others.is_empty() || !is_sound || !found.iter().any(|bitmap| bitmap.recording) {
            continue;
        }
        let on = |name: &str| json!({ "node": disk.node, "name": name });
        if !kept.recording {
            actions.push(("block-dirty-bitmap-enable", on(&kept.name)));
        }
        let names: Vec<_> = others.iter().map(|bitmap| bitmap.name.as_str()).collect();
        let merge = json!({ "node": disk.node, "target": kept.name, "bitmaps": names });
        actions.push(("block-dirty-bitmap-merge", merge));
        actions.extend(names.iter().map(|name| ("block-dirty-bitmap-remove", on(name))));
        mended.push(disk.name.clone());
    }
    if !actions.is_empty() {
        claim.monitor().transaction(&actions)?;
    }
    Ok(mended)
}

fn of_chain<'a>(disk: &'a MachineDisk, prefix: &str) -> Vec<&'a Bitmap> {
    disk.bitmaps.iter().filter(|bitmap| bitmap.name.starts_with(prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_told_apart_by_their_names() {
        let one = prefix("nightly").unwrap();
        assert_eq!(chain(&format!("{one}77")), Some("nightly"));
        assert!(!prefix("nightly-2").unwrap().starts_with(&one));
        for wrong in ["", "a.b", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(prefix(wrong), None, "{wrong}");
        }
        for other in ["leeward-01234567-77", "cbt-x.1", "leeward-cbt-.1", "leeward-cbt-x"] {
            assert_eq!(chain(other), None, "{other}");
        }
    }
}
