//! What may become of a ref and of a session in the hands of one who may only add. Pure functions.

use jiff::{SignedDuration, Timestamp};
use leeward_repository::SnapshotEntry;
use leeward_repository::verify::{RefRecord, SessionState};

/// How far the time of a new snapshot may lie ahead of the server's clock. A snapshot of the year 3000 would be the newest for
/// ever, and retention by time would forget the others for it.
const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(5);

/// The entries that a change adds, or why it is not a mere addition.
pub(super) fn added<'a>(
    old: Option<&RefRecord>,
    new: &'a RefRecord,
) -> Result<Vec<&'a SnapshotEntry>, String> {
    let generation = old.map_or(0, |old| old.image_ref.generation);
    if generation.checked_add(1) != Some(new.image_ref.generation) {
        return Err(format!(
            "it goes from generation {generation} to {}, not to the next: an old ref may have been replayed",
            new.image_ref.generation
        ));
    }
    let mut old = old.map(|old| old.entries.as_slice()).unwrap_or_default();
    let mut added = Vec::new();
    for (value, entry) in new.entries.iter().zip(&new.image_ref.snapshots) {
        match old {
            [first, rest @ ..] if first == value => old = rest,
            _ => added.push(entry),
        }
    }
    if let [first, ..] = old {
        let id = first.get("id").and_then(serde_json::Value::as_str).unwrap_or("unknown");
        let changed = added.iter().any(|entry| entry.id.to_string() == id);
        let what = if changed { "changes or moves" } else { "removes" };
        return Err(format!("it {what} the entry of snapshot {}", id.chars().take(12).collect::<String>()));
    }
    let mut ids: Vec<_> = new.image_ref.snapshots.iter().map(|entry| entry.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("it has snapshot {} twice", pair[0].short())),
        None => Ok(added),
    }
}

/// Refuses an entry from the future.
pub(super) fn is_of_now(entry: &SnapshotEntry, now: Timestamp) -> Result<(), String> {
    match entry.created.duration_since(now) > AHEAD_MAX {
        true => Err(format!(
            "snapshot {} says that it is of {}, but it is {now} on the server",
            entry.id.short(),
            entry.created
        )),
        false => Ok(()),
    }
}

/// Whether a writer's own session may go from one state to another.
pub(super) fn session_step(old: &SessionState, new: &SessionState) -> Result<(), String> {
    match (old, new) {
        (SessionState::Open, _) => Ok(()),
        (SessionState::Revoked, _) => Err("it was revoked".to_owned()),
        (SessionState::Committed(_), _) => Err("it is committed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leeward_repository::{ImageRef, SnapshotId};
    use serde_json::{Value, json};

    fn entry(id: u8, tag: &str) -> Value {
        json!({"id": SnapshotId([id; 32]).to_string(), "created": "2026-01-01T00:00:00Z", "virtual_size": 1,
               "tags": {tag: ""}, "holds": []})
    }

    fn image_ref(generation: u64, entries: &[Value]) -> RefRecord {
        let value = json!({"ref_version": 1, "image": "a", "generation": generation, "snapshots": entries});
        let image_ref: ImageRef = serde_json::from_value(value).unwrap();
        RefRecord { image_ref, entries: entries.to_vec() }
    }

    #[test]
    fn only_additions_pass() {
        let old = image_ref(4, &[entry(1, "x"), entry(2, "y")]);
        let next = |entries: &[Value]| image_ref(5, entries);
        let more = next(&[entry(1, "x"), entry(2, "y"), entry(3, "z")]);
        assert_eq!(added(Some(&old), &more).unwrap().len(), 1);
        let between = next(&[entry(1, "x"), entry(3, "z"), entry(2, "y")]);
        assert_eq!(added(Some(&old), &between).unwrap().len(), 1);
        for (bad, what) in [
            (next(&[entry(1, "x"), entry(3, "z")]), "removes"),
            (next(&[entry(1, "changed"), entry(2, "y")]), "changes"),
            (next(&[entry(2, "y"), entry(1, "x")]), "changes or moves"),
            (next(&[]), "removes"),
            (image_ref(4, &more.entries), "replayed"),
            (image_ref(6, &more.entries), "replayed"),
            (next(&[entry(1, "x"), entry(2, "y"), entry(2, "y")]), "twice"),
            (next(&[entry(1, "x"), entry(2, "y"), entry(2, "other")]), "twice"),
        ] {
            let why = added(Some(&old), &bad).unwrap_err();
            assert!(why.contains(what), "{why}");
        }
        assert!(added(None, &image_ref(1, &[entry(1, "x")])).is_ok());
        assert!(added(None, &image_ref(2, &[entry(1, "x")])).is_err());
    }

    #[test]
    fn a_field_that_nobody_knows_is_kept_as_well() {
        let mut strange = entry(1, "x");
        strange["later"] = json!(1);
        let old = image_ref(1, &[strange]);
        assert!(added(Some(&old), &image_ref(2, &[entry(1, "x"), entry(2, "y")])).is_err());
    }

    #[test]
    fn the_future_is_refused() {
        let record = image_ref(1, &[entry(1, "x")]);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(is_of_now(&record.image_ref.snapshots[0], at("2025-12-31T23:56:00Z")).is_ok());
        assert!(is_of_now(&record.image_ref.snapshots[0], at("2025-12-31T23:54:00Z")).is_err());
    }
}
