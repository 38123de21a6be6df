//! Backups of machines, as steps of runs.

use std::sync::Arc;

use leeward_repository::{ImageName, Repository, SnapshotEntry};
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde_json::{Value, json};

use super::backup::{BackupInputs, Places, RUN_TAG};
use super::{Attended, Ground, Machine, Opening, fault, open};
use crate::machine::{DiskDone, MachineDone};
use crate::size;

/// The step of one machine.
pub(super) struct BackUpMachine {
    pub ground: Arc<dyn Ground>,
    pub places: Arc<Places>,
    pub machine: String,
}

impl Step for BackUpMachine {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: BackupInputs = context.inputs()?;
        let Machine { mut backup, limit_write } = self.ground.machine(&self.machine).map_err(|what| {
            Fault::lasting(what, "see [machine.NAME] in the site's configuration, and start the daemon again")
        })?;
        let _place = self.places.take(context)?;
        let repository = open(&self.ground, &Opening { limit_write, ..Opening::default() })?;
        // What an earlier attempt has committed, and had no time to publish, is published before it is looked for.
        repository.complete_sessions_leniently().map_err(|error| fault(&error.into(), context))?;
        let run = context.run_id().to_string();
        let made = made_before(&repository, &backup.image, &run).map_err(|error| fault(&error, context))?;
        if let Some(made) = made {
            context.say(format!("a group of {} snapshots was made before the daemon ended", made.len()));
            let disk =
                |(image, entry): &(ImageName, SnapshotEntry)| json!({ "image": image, "snapshot": entry.id });
            let disks: Vec<Value> = made.iter().map(disk).collect();
            return Ok(Outcome::Done(json!({ "image": backup.image, "disks": disks })));
        }
        backup.full |= inputs.full;
        backup.tags.insert(RUN_TAG.to_owned(), run);
        let note = format!("{} to {}", self.machine, backup.image);
        let done =
            backup.back_up(&repository, &Attended(context, &note)).map_err(|error| fault(&error, context))?;
        tell(&done, context);
        let disks: Vec<Value> = done.disks.iter().map(output).collect();
        Ok(Outcome::Done(json!({
            "image": backup.image,
            "consistency": done.moment.consistency,
            "consistency_reason": done.moment.reason,
            "disks": disks,
        })))
    }
}

fn tell(done: &MachineDone, context: &Context) {
    for disk in &done.disks {
        let snapshot = &disk.outcome.snapshot;
        let how = match snapshot.capture.as_ref().and_then(|capture| capture.reason.as_ref()) {
            Some(reason) => format!("read whole: {reason}"),
            None => "what has changed was read".to_owned(),
        };
        let statistics = &snapshot.statistics;
        context.say(format!(
            "disk {}: snapshot {}@{}, {how}; read {}, new {}, stored {}",
            disk.name,
            snapshot.image,
            disk.outcome.id.short(),
            size::show(statistics.read_bytes),
            size::show(statistics.new_bytes),
            size::show(statistics.stored_bytes)
        ));
    }
}

fn output(disk: &DiskDone) -> Value {
    let snapshot = &disk.outcome.snapshot;
    json!({
        "disk": disk.name,
        "image": snapshot.image,
        "snapshot": disk.outcome.id,
        "group": snapshot.group.as_ref().map(|group| &group.id),
        "virtual_size": snapshot.virtual_size,
        "capture": snapshot.capture,
        "statistics": snapshot.statistics,
    })
}

/// The whole group that an earlier attempt of a run has published.
fn made_before(
    repository: &Repository,
    image: &ImageName,
    run: &str,
) -> crate::Result<Option<Vec<(ImageName, SnapshotEntry)>>> {
    let prefix = format!("{image}/");
    let mut made = Vec::new();
    for name in repository.images()?.into_iter().filter(|name| name.as_str().starts_with(&prefix)) {
        let entries = repository.image(&name)?.snapshots;
        let is_its_own = |entry: &SnapshotEntry| entry.tags.get(RUN_TAG).is_some_and(|tag| tag == run);
        made.extend(entries.into_iter().rev().find(is_its_own).map(|entry| (name, entry)));
    }
    let Some((_, first)) = made.first() else { return Ok(None) };
    let Some(group) = repository.snapshot(first.id)?.group else { return Ok(None) };
    made.retain(|(_, entry)| entry.group.as_ref() == Some(&group.id));
    // A part of a group is not the machine at one moment: what is missing was not published.
    let is_there = |wanted: &String| made.iter().any(|(name, _)| name.as_str() == wanted);
    let is_whole = group.images.iter().all(is_there);
    Ok(is_whole.then_some(made))
}
