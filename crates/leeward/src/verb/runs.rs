//! `leeward run`: the runs of a site, from anywhere.

mod report;
mod show;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use leeward_api::client::SiteClient;
use leeward_remote::encode::component;
use leeward_runs::state::{LoggedLine, Summary};
use leeward_runs::{Run, RunId, RunState};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::{Output, printable};
use crate::place_of_site::{SiteArgument, failure};

/// See and steer the runs of a site
#[derive(Args)]
pub struct RunsArguments {
    #[command(flatten)]
    site: SiteArgument,
    #[command(subcommand)]
    verb: RunsVerb,
}

#[derive(Subcommand)]
enum RunsVerb {
    /// List runs, newest first
    List {
        /// Only those in this state; may be given several times
        #[arg(long)]
        state: Vec<RunState>,
        /// Only those of this kind, as in import
        #[arg(long)]
        kind: Option<String>,
        /// Only those about something with this text in its name
        #[arg(long)]
        text: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 50)]
        most: u32,
    },
    /// Show a run: its steps, how far they are, why one failed and what to do
    Show {
        /// The run
        run: RunId,
    },
    /// Print the log of a run
    Log {
        /// The run
        run: RunId,
        /// Only of this step
        #[arg(long)]
        step: Option<String>,
        /// Go on with what is written until the run ends or waits for a person
        #[arg(short, long)]
        follow: bool,
    },
    /// Wait until a run ends or waits for a person; ends with 0 only where it succeeded
    Wait {
        /// The run
        run: RunId,
    },
    /// Do what failed again, and what comes after it
    Retry {
        /// The run
        run: RunId,
        /// Do this step again, though it may have ended well, and what comes after it
        #[arg(long)]
        step: Option<String>,
        /// Change an input first, as in ad_number=2; an empty value removes it; may be given several times
        #[arg(long = "input", value_name = "NAME=VALUE")]
        inputs: Vec<String>,
    },
    /// Go on without a step that is not needed
    Skip {
        /// The run
        run: RunId,
        /// The step
        step: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Stop a run, and undo what it made
    Cancel {
        /// The run
        run: RunId,
    },
    /// Say what became of the runs of a stretch of time, by kind, schedule and image
    Report(report::ReportArguments),
    /// Undo what a held run has made
    Undo {
        /// The run
        run: RunId,
    },
}

#[derive(Deserialize)]
struct Page {
    runs: Vec<Summary>,
    next: Option<RunId>,
}

#[derive(Deserialize)]
struct Detail {
    run: Run,
    #[serde(default)]
    progress: std::collections::BTreeMap<String, leeward_runs::state::Progress>,
}

#[derive(Deserialize)]
struct Log {
    lines: Vec<LoggedLine>,
}

/// Runs the verb.
pub fn run(arguments: &RunsArguments, output: &Output) -> Result<ExitCode, Failure> {
    let client = arguments.site.client()?;
    let steer = |run: &RunId, verb: &str, body: Value| -> Result<ExitCode, Failure> {
        let run: Run = client.post(&format!("/v1/runs/{run}/{verb}"), &body).map_err(failure)?;
        if output.is_json() {
            output.json_line(&run);
        }
        output.line(format!("Run {} is {}", run.id, run.state.name()));
        Ok(ExitCode::SUCCESS)
    };
    match &arguments.verb {
        RunsVerb::List { state, kind, text, most } => {
            list(&client, state, kind.as_deref(), text.as_deref(), *most, output)
        }
        RunsVerb::Show { run } => {
            let detail = detail(&client, run)?;
            if output.is_json() {
                output.json_line(&json!({ "run": detail.run, "progress": detail.progress }));
            }
            show::lines(&detail.run, &detail.progress).iter().for_each(|line| output.line(line));
            Ok(ExitCode::SUCCESS)
        }
        RunsVerb::Log { run, step, follow } => log(&client, run, step.as_deref(), *follow, output),
        RunsVerb::Wait { run } => wait(&client, run, output),
        RunsVerb::Retry { run, step, inputs } => {
            let inputs = changes(inputs)?;
            steer(run, "retry", json!({ "step": step, "inputs": inputs }))
        }
        RunsVerb::Skip { run, step, reason } => steer(run, "skip", json!({ "step": step, "reason": reason })),
        RunsVerb::Report(arguments) => report::report(&client, arguments, output),
        RunsVerb::Cancel { run } => steer(run, "cancel", json!({})),
        RunsVerb::Undo { run } => steer(run, "undo", json!({})),
    }
}

fn list(
    client: &SiteClient,
    states: &[RunState],
    kind: Option<&str>,
    text: Option<&str>,
    most: u32,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let states: Vec<_> = states.iter().map(|state| state.name()).collect();
    let query = [
        ("state", states.join(",")),
        ("kind", kind.unwrap_or_default().to_owned()),
        ("text", text.unwrap_or_default().to_owned()),
        ("most", most.clamp(1, 1000).to_string()),
    ];
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<_> = given.map(|(name, value)| format!("{name}={}", component(value))).collect();
    let page: Page = client.get(&format!("/v1/runs?{}", query.join("&"))).map_err(failure)?;
    if page.runs.is_empty() {
        output.line("No runs");
    } else {
        output.line(format!(
            "{:<26}  {:<11} {:<8} {:>5}  {:<20}  {}",
            "RUN", "STATE", "KIND", "STEPS", "MADE", "ABOUT"
        ));
    }
    for run in &page.runs {
        if output.is_json() {
            output.json_line(run);
        }
        output.line(format!(
            "{}  {:<11} {:<8} {:>5}  {:<20}  {}",
            run.id,
            run.state.name(),
            run.kind,
            format!("{}/{}", run.steps_done, run.steps),
            run.created.strftime("%Y-%m-%d %H:%M:%SZ"),
            printable(&run.subject)
        ));
    }
    if page.next.is_some() {
        output.line("There are more; see them with --most");
    }
    Ok(ExitCode::SUCCESS)
}

fn detail(client: &SiteClient, run: &RunId) -> Result<Detail, Failure> {
    client.get(&format!("/v1/runs/{run}")).map_err(failure)
}

fn log(
    client: &SiteClient,
    run: &RunId,
    step: Option<&str>,
    follow: bool,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let mut after = 0;
    loop {
        // Looked at before the lines: what is written between the two is not missed.
        let is_over = !follow || !detail(client, run)?.run.state.is_live();
        loop {
            let step = step.map(|step| format!("&step={}", component(step))).unwrap_or_default();
            let log: Log =
                client.get(&format!("/v1/runs/{run}/log?after={after}&most=1000{step}")).map_err(failure)?;
            for line in &log.lines {
                after = line.number;
                if output.is_json() {
                    output.json_line(line);
                }
                let time = line.at.strftime("%H:%M:%S");
                output.line(format!(
                    "{time} {:<7} {}: {}",
                    line.level.name(),
                    line.step,
                    printable(&line.text)
                ));
            }
            if log.lines.len() < 1000 {
                break;
            }
        }
        if is_over || interrupt::is_requested() {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Waits for a run, with a line for each step that ends.
pub fn wait(client: &SiteClient, run: &RunId, output: &Output) -> Result<ExitCode, Failure> {
    let mut told = std::collections::BTreeSet::new();
    loop {
        let detail = detail(client, run)?;
        for step in detail.run.steps.iter().filter(|step| step.finished.is_some()) {
            if told.insert((step.name.clone(), step.tries)) {
                output.line(show::step(step, None));
            }
        }
        let state = detail.run.state;
        if !state.is_live() {
            if output.is_json() {
                output.json_line(&detail.run);
            }
            return match state {
                RunState::Succeeded => {
                    output.line(format!("Run {run} succeeded"));
                    Ok(ExitCode::SUCCESS)
                }
                _ => Err(ended_badly(&detail.run)),
            };
        }
        if interrupt::is_requested() {
            return Err(Failure::new(
                Code::Interrupted,
                format!("not waited for any more; run {run} goes on"),
            )
            .hint(format!("see it with: leeward run show {run}")));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn ended_badly(run: &Run) -> Failure {
    let reason = run.reason.as_deref().unwrap_or("no reason is known");
    let hint = match run.state {
        RunState::Held => format!(
            "mend it, then: leeward run retry {0}; or remove what it made: leeward run undo {0}",
            run.id
        ),
        _ => format!("see why with: leeward run show {}", run.id),
    };
    Failure::new(Code::Failed, format!("run {} is {}: {}", run.id, run.state.name(), printable(reason)))
        .hint(hint)
}

fn changes(inputs: &[String]) -> Result<Option<Value>, Failure> {
    if inputs.is_empty() {
        return Ok(None);
    }
    let mut changes = serde_json::Map::new();
    for input in inputs {
        let Some((name, value)) = input.split_once('=') else {
            return Err(Failure::new(
                Code::Usage,
                format!("--input {input}: write NAME=VALUE, as in ad_number=2"),
            ));
        };
        let value = match value {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        changes.insert(name.to_owned(), value);
    }
    Ok(Some(Value::Object(changes)))
}
