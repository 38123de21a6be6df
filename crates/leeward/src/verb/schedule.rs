//! `leeward schedule`: what a site begins by the clock.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use leeward_remote::encode::component;
use leeward_runs::{RunId, RunState};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Output, printable};
use crate::place_of_site::{SiteArgument, failure};

/// See and steer what a site begins by the clock: backups, checks, retention, imports
#[derive(Args)]
pub struct ScheduleArguments {
    #[command(flatten)]
    site: SiteArgument,
    #[command(subcommand)]
    verb: ScheduleVerb,
}

#[derive(Subcommand)]
enum ScheduleVerb {
    /// List the schedules: their times, what came of the last one, when the next run begins
    List,
    /// Begin a run of a schedule now
    Fire {
        /// The schedule
        name: String,
        /// Have a backup read everything, not what has changed
        #[arg(long)]
        full: bool,
        /// Wait until it has ended, and end with 0 only where it succeeded
        #[arg(short, long)]
        wait: bool,
    },
    /// Have a schedule begin nothing by the clock
    Pause {
        /// The schedule
        name: String,
    },
    /// Have a paused schedule go on; what passed meanwhile is not made up for
    Resume {
        /// The schedule
        name: String,
    },
}

#[derive(Deserialize)]
struct Listing {
    schedules: Vec<Schedule>,
}

#[derive(Serialize, Deserialize)]
struct Schedule {
    name: String,
    job: String,
    times: String,
    jitter_seconds: i64,
    catch_up: String,
    paused: bool,
    paused_by: Option<String>,
    next: Option<Timestamp>,
    last_slot: Option<Timestamp>,
    last_run: Option<RunId>,
    last_state: Option<RunState>,
    last_reason: Option<String>,
    note: Option<String>,
}

#[derive(Deserialize)]
struct Begun {
    run: RunId,
    new: bool,
}

/// Runs the verb.
pub fn run(arguments: &ScheduleArguments, output: &Output) -> Result<ExitCode, Failure> {
    let client = arguments.site.client()?;
    let path = |name: &str, verb: &str| format!("/v1/schedules/{}/{verb}", component(name));
    match &arguments.verb {
        ScheduleVerb::List => {
            let listing: Listing = client.get("/v1/schedules").map_err(failure)?;
            if listing.schedules.is_empty() {
                output.line("No schedules; [schedule.NAME] in the site's configuration makes one");
            }
            listing.schedules.iter().for_each(|schedule| show(schedule, output));
            Ok(ExitCode::SUCCESS)
        }
        ScheduleVerb::Fire { name, full, wait } => {
            let begun: Begun = client.post(&path(name, "fire"), &json!({ "full": full })).map_err(failure)?;
            output.line(format!("Run {} is begun", begun.run));
            if *wait {
                return super::runs::wait(&client, &begun.run, output);
            }
            if output.is_json() {
                output.json_line(&json!({ "run": begun.run, "new": begun.new }));
            }
            output.line(format!("See it with: leeward run show {}", begun.run));
            Ok(ExitCode::SUCCESS)
        }
        ScheduleVerb::Pause { name } => {
            let schedule: Schedule = client.post(&path(name, "pause"), &json!({})).map_err(failure)?;
            show(&schedule, output);
            Ok(ExitCode::SUCCESS)
        }
        ScheduleVerb::Resume { name } => {
            let schedule: Schedule = client.post(&path(name, "resume"), &json!({})).map_err(failure)?;
            show(&schedule, output);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(schedule: &Schedule, output: &Output) {
    if output.is_json() {
        output.json_line(schedule);
    }
    let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let next = match (schedule.paused, schedule.next) {
        (true, _) => format!("paused by {}", printable(schedule.paused_by.as_deref().unwrap_or("somebody"))),
        (false, Some(next)) => format!("next {}", time(next)),
        (false, None) => "never again".to_owned(),
    };
    output.line(format!("{:<20} {:<7} {:<24} {next}", schedule.name, schedule.job, schedule.times));
    if let Some(run) = &schedule.last_run {
        let state = schedule.last_state.map_or("forgotten", RunState::name);
        let reason = schedule.last_reason.as_deref().map(|reason| format!(": {}", printable(reason)));
        output.line(format!("  last run {run} {state}{}", reason.unwrap_or_default()));
    }
    if let Some(note) = &schedule.note {
        let slot = schedule.last_slot.map(|slot| format!("{}: ", time(slot))).unwrap_or_default();
        output.line(format!("  {slot}{}", printable(note)));
    }
}
