//! What a run counts as, and the sums.

use std::collections::BTreeMap;

use jiff::Timestamp;
use leeward_protect::job::BACKUP;
use leeward_runs::{Run, RunState, StepRecord, StepState};
use serde_json::Value;

use crate::config::RpoTargets;

use super::{ImageReport, ReportGroup};

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Became {
    Succeeded,
    Partial,
    Failed,
    Cancelled,
    Held,
    UndoFailed,
    Waiting,
    Running,
}

/// The snapshots that a step has made, and what it says of each: of the one of a disk, of those of a machine's disks, or of those of
/// an import into the repository. They stay, whatever becomes of the run, unless that undoes them. Which snapshot was restored or
/// exported, and which ones are to be made, steps do not say in this form.
fn made(step: &StepRecord) -> impl Iterator<Item = (&str, &Value)> {
    let lists = ["disks", "snapshots"].into_iter();
    let several = lists.filter_map(move |name| step.outputs.get(name)?.as_array()).flatten();
    std::iter::once(&step.outputs).chain(several).filter_map(|outputs| {
        outputs.get("snapshot")?;
        Some((outputs.get("image")?.as_str()?, outputs))
    })
}

/// Whether what a run made was removed again. Backups are never undone; imports are, where somebody cancels them.
fn is_undone(run: &Run) -> bool {
    run.steps.iter().any(|step| step.state == StepState::Undone)
}

/// What a run counts as.
pub(super) fn became(run: &Run) -> Became {
    let made_of = |has: bool| run.steps.iter().any(|step| made(step).next().is_some() == has);
    let is_partial = run.plan.kind == BACKUP && made_of(true) && made_of(false);
    match run.state {
        RunState::Succeeded
        | RunState::Failed
        | RunState::Cancelled
        | RunState::Held
        | RunState::UndoFailed
            if is_partial =>
        {
            Became::Partial
        }
        RunState::Succeeded => Became::Succeeded,
        RunState::Failed => Became::Failed,
        RunState::Cancelled => Became::Cancelled,
        RunState::Held => Became::Held,
        RunState::UndoFailed => Became::UndoFailed,
        RunState::Queued => Became::Waiting,
        RunState::Running | RunState::Cancelling | RunState::Undoing => Became::Running,
    }
}

fn number(outputs: &Value, path: &str) -> u64 {
    outputs.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// Bytes that were added to the repository for a snapshot.
fn stored(outputs: &Value) -> u64 {
    number(outputs, "/statistics/stored_bytes").max(number(outputs, "/stored_bytes"))
}

/// Bytes of data that a step says to have written to volumes.
fn written(step: &StepRecord) -> u64 {
    let disks = step.outputs.get("disks").and_then(Value::as_array);
    let is_written = |disk: &&Value| disk.get("volume").is_some();
    disks.into_iter().flatten().filter(is_written).map(|disk| number(disk, "/data_bytes")).sum()
}

#[derive(Default)]
struct Image {
    stored_bytes: u64,
    ended: Vec<Timestamp>,
}

/// Sums of runs.
#[derive(Default)]
pub(super) struct Tally {
    groups: BTreeMap<(String, Option<String>), (ReportGroup, Vec<f64>)>,
    images: BTreeMap<String, Image>,
}

impl Tally {
    /// Counts a run.
    pub fn add(&mut self, run: &Run) {
        let key = (run.plan.kind.clone(), run.labels.get("schedule").cloned());
        let (group, seconds) = self.groups.entry(key).or_default();
        group.begun += 1;
        let became = became(run);
        *match became {
            Became::Succeeded => &mut group.succeeded,
            Became::Partial => &mut group.partial,
            Became::Failed => &mut group.failed,
            Became::Cancelled => &mut group.cancelled,
            Became::Held => &mut group.held,
            Became::UndoFailed => &mut group.undo_failed,
            Became::Waiting => &mut group.waiting,
            Became::Running => &mut group.running,
        } += 1;
        if let Some(finished) = run.finished.filter(|_| became == Became::Succeeded) {
            seconds.push(finished.duration_since(run.created).as_secs_f64().max(0.0));
        }
        for step in &run.steps {
            group.written_bytes += written(step);
            // What the run had delivered before it was begun again and undone stays.
            let stays = step.delivered > 0 || !is_undone(run);
            for (image, outputs) in made(step) {
                group.read_bytes += number(outputs, "/statistics/read_bytes");
                group.stored_bytes += stored(outputs);
                if let Some(ended) = step.finished.filter(|_| stays) {
                    let image = self.images.entry(image.to_owned()).or_default();
                    image.stored_bytes += stored(outputs);
                    image.ended.push(ended);
                }
            }
        }
    }

    /// The sums, at the end of the stretch of time.
    pub fn end(self, end: Timestamp, rpo: &RpoTargets) -> (Vec<ReportGroup>, Vec<ImageReport>) {
        let group = |((kind, schedule), (group, mut seconds)): (_, (ReportGroup, Vec<f64>))| {
            seconds.sort_by(f64::total_cmp);
            // The lower one of two in the middle: a time that a run did need.
            let median_seconds = seconds.get(seconds.len().saturating_sub(1) / 2).copied();
            let longest_seconds = seconds.last().copied();
            ReportGroup { kind, schedule, median_seconds, longest_seconds, ..group }
        };
        let image = |(image, mut of): (String, Image)| {
            of.ended.sort_unstable();
            let last = *of.ended.last()?;
            let gaps = of.ended.iter().zip(of.ended.iter().skip(1).chain([&end]));
            let gaps: Vec<i64> = gaps.map(|(one, next)| next.as_second() - one.as_second()).collect();
            let longest = gaps.iter().copied().max().unwrap_or(0);
            let target = rpo.seconds_of(&image);
            let misses = target.map(|target| gaps.iter().filter(|gap| **gap > target).count() as u64);
            Some(ImageReport {
                image,
                backups: of.ended.len() as u64,
                stored_bytes: of.stored_bytes,
                last,
                longest_gap_seconds: longest.max(0),
                rpo_target_seconds: target,
                rpo_misses: misses,
            })
        };
        (self.groups.into_iter().map(group).collect(), self.images.into_iter().filter_map(image).collect())
    }
}
