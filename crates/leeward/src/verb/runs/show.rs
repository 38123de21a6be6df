//! A run as lines of text.

use std::collections::BTreeMap;

use leeward_runs::state::Progress;
use leeward_runs::{Run, StepRecord, StepState};

use crate::output::printable;
use crate::size;

/// A run with its steps.
pub fn lines(run: &Run, progress: &BTreeMap<String, Progress>) -> Vec<String> {
    let mut lines = vec![
        format!("Run      {}", run.id),
        format!("About    {}", printable(&run.subject)),
        format!(
            "Kind     {} version {}, begun by {} at {:.0}",
            run.plan.kind,
            run.plan.version,
            printable(&run.by),
            run.created
        ),
        format!("State    {}", run.state.name()),
    ];
    lines.extend(run.reason.as_ref().map(|reason| format!("Reason   {}", printable(reason))));
    lines.push(String::new());
    for record in &run.steps {
        lines.push(step(record, progress.get(&record.name)));
        if let Some(failure) = &record.failure {
            lines.push(format!("    {}", printable(&failure.message)));
            lines.push(format!("    next: {}", printable(&failure.hint)));
        }
    }
    lines
}

/// A step as a line.
pub fn step(record: &StepRecord, progress: Option<&Progress>) -> String {
    let mark = match record.state {
        StepState::Succeeded => "done",
        StepState::Skipped => "skipped",
        StepState::Failed => "FAILED",
        StepState::Running => "running",
        StepState::Waiting => "waiting",
        StepState::Pending => "-",
        StepState::Undoing | StepState::UndoWaiting => "undoing",
        StepState::Undone => "undone",
        StepState::UndoFailed => "NOT UNDONE",
    };
    let mut line = format!("{mark:<10} {:<28}", record.name);
    if let (Some(from), Some(to)) = (record.started, record.finished) {
        line.push_str(&format!(" {:>8.1} s", to.duration_since(from).as_secs_f64()));
    }
    if record.attempts > 1 {
        line.push_str(&format!("  {} attempts", record.attempts));
    }
    if let Some(reason) = &record.skipped {
        line.push_str(&format!("  {}", printable(reason)));
    }
    if let Some(progress) = progress.filter(|_| record.state == StepState::Running) {
        let total = progress.total.map(|total| format!(" of {}", size::show(total))).unwrap_or_default();
        line.push_str(&format!("  {}: {}{total}", printable(&progress.note), size::show(progress.done)));
    }
    line
}
