//! `leeward server restore-state`: a daemon's state out of its repository.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leeward_site::{Restored, Restoring, restore};

use crate::failure::{Code, Failure};
use crate::output::{Output, printable};
use crate::verb::repository::RepositoryArgument;

/// Rebuild the state of a site's daemon from its repository: what the daemon stores there each hour
///
/// Runs, what was heard of objects, schedules and tokens come back, and the configuration as it was, as site.toml beside them.
/// What is in DIR is moved aside first. Runs that were under way when the copy was made, and that make things elsewhere, wait for
/// a person. Secrets are in no copy: passphrases, private keys, secrets of events.
#[derive(Args)]
pub struct RestoreStateArguments {
    /// The state directory: what `state` in the configuration names
    directory: PathBuf,
    /// Which copy: latest, ~1, the beginning of a digest, or a time
    #[arg(long, value_name = "SPEC", default_value = "latest")]
    at: String,
    /// The site, where the repository has the state of several
    #[arg(long, value_name = "NAME")]
    site_name: Option<String>,
    /// Show what would be done, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(
    arguments: &RestoreStateArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let directory = std::path::absolute(&arguments.directory)
        .map_err(|error| Failure::new(Code::Usage, format!("{}: {error}", arguments.directory.display())))?;
    let restoring = Restoring {
        site: arguments.site_name.clone(),
        at: arguments.at.clone(),
        directory,
        dry_run: arguments.dry_run,
    };
    let restored = restore(&repository, &restoring).map_err(|error| match error {
        leeward_site::Error::Repository(error) => error.into(),
        error => super::failure(error).hint("see docs/schedules.md; the present state is as it was"),
    })?;
    if output.is_json() {
        let mut value = serde_json::to_value(&restored).unwrap_or_default();
        value["dry_run"] = arguments.dry_run.into();
        output.json_line(&value);
    }
    tell(&restored, arguments.dry_run, output);
    Ok(ExitCode::SUCCESS)
}

fn tell(restored: &Restored, dry_run: bool, output: &Output) {
    let would = if dry_run { "Would restore" } else { "Restored" };
    output.line(format!(
        "{would} the state of site {} as it was at {}, to {}: {} runs",
        printable(&restored.about.site),
        restored.about.copied.strftime("%Y-%m-%d %H:%M:%SZ"),
        restored.directory.display(),
        restored.runs
    ));
    if let Some(kept) = &restored.kept {
        let is = if dry_run { "would be moved" } else { "is" };
        output.line(format!("  the state that was there {is} in {}", kept.display()));
    }
    if let Some(config) = &restored.about.config {
        output.line(format!(
            "  the configuration as it was is beside it, as site.toml; its place was {}",
            printable(config)
        ));
    }
    for run in &restored.held {
        output.line(format!(
            "  run {run} was under way: look at what it has made since, then leeward run retry {run}"
        ));
    }
    output.line("  what sources were seen to have since then is noticed again: see [source.NAME] watch before you start");
}
