//! `leeward sweep`: what is left in clouds of runs that have ended.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use leeward_protect::size;
use leeward_remote::encode::component;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::{Code, Failure};
use crate::output::{Output, printable};
use crate::place_of_site::{SiteArgument, failure};

/// List the volumes and instances that runs have left in clouds and nobody looks after, and remove them
#[derive(Args)]
pub struct SweepArguments {
    #[command(flatten)]
    site: SiteArgument,
    /// Only in this target
    #[arg(long)]
    target: Option<String>,
    /// Remove these, by their ids as they are listed
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "all_ended")]
    remove: Vec<String>,
    /// Remove all that are plainly the remains of runs that have ended
    #[arg(long)]
    all_ended: bool,
}

#[derive(Deserialize)]
struct Leftovers {
    leftovers: Vec<Leftover>,
    problems: Vec<Problem>,
}

#[derive(Serialize, Deserialize)]
struct Leftover {
    id: String,
    kind: String,
    name: String,
    target: String,
    state: String,
    bytes: Option<u64>,
    created: Option<Timestamp>,
    age_seconds: Option<i64>,
    run: String,
    run_state: Option<String>,
    attached_to: Option<Vec<String>>,
    why: String,
    removable: bool,
}

#[derive(Deserialize)]
struct Problem {
    target: String,
    what: String,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Removed>,
}

#[derive(Serialize, Deserialize)]
struct Removed {
    id: String,
    target: Option<String>,
    removed: bool,
    what: String,
}

/// Runs the verb.
pub fn run(arguments: &SweepArguments, output: &Output) -> Result<ExitCode, Failure> {
    let client = arguments.site.client()?;
    if arguments.all_ended || !arguments.remove.is_empty() {
        let asked = json!({
            "ids": arguments.remove, "all_ended": arguments.all_ended, "target": arguments.target,
        });
        let done: Results = client.post("/v1/leftovers/remove", &asked).map_err(failure)?;
        return tell(&done.results, output);
    }
    let query = arguments.target.as_deref().map(|target| format!("?target={}", component(target)));
    let found: Leftovers =
        client.get(&format!("/v1/leftovers{}", query.unwrap_or_default())).map_err(failure)?;
    found.leftovers.iter().for_each(|leftover| show(leftover, output));
    if let Some(problem) = found.problems.first() {
        let what = format!("target {} cannot be asked: {}", problem.target, printable(&problem.what));
        return Err(
            Failure::new(Code::Io, what).hint("see the daemon's log; what other targets have is listed")
        );
    }
    if found.leftovers.is_empty() {
        output.line("Nothing is left");
    } else if found.leftovers.iter().any(|leftover| leftover.removable) {
        output.line("Remove what is removable with: leeward sweep --all-ended");
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(results: &[Removed], output: &Output) -> Result<ExitCode, Failure> {
    for result in results {
        if output.is_json() {
            output.json_line(result);
        }
        let done = if result.removed { "removed" } else { "not removed" };
        output.line(format!("{} {done}: {}", printable(&result.id), printable(&result.what)));
    }
    if results.is_empty() {
        output.line("Nothing was removed: nothing is plainly the remains of a run that has ended");
    }
    match results.iter().find(|result| !result.removed) {
        Some(result) => {
            let what = format!("{} was not removed: {}", printable(&result.id), printable(&result.what));
            Err(Failure::new(Code::Conflict, what).hint("see what is left, and why, with: leeward sweep"))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn show(leftover: &Leftover, output: &Output) {
    if output.is_json() {
        output.json_line(leftover);
    }
    let age = leftover.age_seconds.map(|seconds| format!(", {} h old", seconds / 3600)).unwrap_or_default();
    let bytes = leftover.bytes.map(|bytes| format!(", {}", size::show(bytes))).unwrap_or_default();
    output.line(format!(
        "{} {}  {} in {}{bytes}{age}{}",
        leftover.kind,
        printable(&leftover.id),
        printable(&leftover.name),
        leftover.target,
        if leftover.removable { ", removable" } else { "" }
    ));
    let state = leftover.run_state.as_deref().unwrap_or("not known");
    output.line(format!("  run {} ({state}): {}", printable(&leftover.run), leftover.why));
    for instance in leftover.attached_to.iter().flatten() {
        output.line(format!("  attached to {}", printable(instance)));
    }
}
