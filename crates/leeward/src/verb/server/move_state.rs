//! `leeward server move-state`: the state of one daemon into the database that several share.

use std::process::ExitCode;

use clap::Args;
use leeward_site::{Going, Moved, move_state};

use super::PlaceArgument;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::{Output, printable};
use crate::progress::Progress;

/// Move the state of a site's daemon from its files into the empty database that its configuration names
///
/// For a site that ran with one daemon and is to have several: runs with their events and logs, what was heard of objects,
/// schedules and notices. End the daemon first. All of it is moved, and compared, or nothing; a database that has the state of a
/// site is refused. The files stay, and no daemon starts on them any more. Runs that have not ended go on with the first daemon
/// that starts.
#[derive(Args)]
pub struct MoveStateArguments {
    #[command(flatten)]
    place: PlaceArgument,
    /// Show what would be moved, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &MoveStateArguments, output: &Output) -> Result<ExitCode, Failure> {
    let config = arguments.place.load()?;
    let progress = Progress::new(output, 0, "moving the state");
    let mut watch = |going: &Going| {
        let doing = if going.compares { "comparing" } else { "moving" };
        progress.note(&format!("{doing} {}: {} of {}", going.rows, going.done, going.of));
        !interrupt::is_requested()
    };
    let moved = move_state(&config, arguments.dry_run, &mut watch).map_err(failure)?;
    progress.finish();
    if output.is_json() {
        let mut value = serde_json::to_value(&moved).unwrap_or_default();
        value["dry_run"] = arguments.dry_run.into();
        output.json_line(&value);
    }
    tell(&moved, arguments.dry_run, output);
    Ok(ExitCode::SUCCESS)
}

fn failure(error: leeward_site::Error) -> Failure {
    match error {
        leeward_site::Error::Interrupted => Failure::new(Code::Interrupted, "interrupted: nothing was moved"),
        error => super::failure(error).hint("see docs/operations.md, From one daemon to several"),
    }
}

fn tell(moved: &Moved, dry_run: bool, output: &Output) {
    let (site, directory) = (printable(&moved.site), moved.directory.display());
    if let Some(at) = moved.moved_before {
        output.line(format!(
            "The state of site {site} is in {} since {}; there is nothing to move",
            moved.database,
            at.strftime("%Y-%m-%d %H:%M:%SZ")
        ));
        return;
    }
    let would = if dry_run { "Would move" } else { "Moved" };
    output.line(format!("{would} the state of site {site} from {directory} into {}", moved.database));
    for (rows, count) in moved.lines() {
        output.line(format!("  {count:>10} {rows}"));
    }
    if moved.live > 0 {
        output.line(format!(
            "  runs that have not ended: {}; they go on with the first daemon that starts",
            moved.live
        ));
    }
    if !dry_run {
        output.line(format!(
            "  the files stay in {directory} as they were, and no daemon starts on them: moved.json"
        ));
        output.line("  next: leeward server, here and where the other daemons are to be");
    }
}
