//! `leeward check`, `stats`, `rebuild-index`: is all well, mending what is not, and what it costs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::SignedDuration;
use leeward_protect::check::{Turn, parse_budget};
use leeward_repository::{
    Budget, CheckOutcome, ImageStatistics, KeylessRepository, ReadData, Repository, TurnReport,
};

use leeward_store::bucket::RequestCounts;

use super::lock;
use super::repair;
use super::repository::{RepositoryArgument, Watch};
use super::retain::span;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::{requests, size};

/// Check that everything is there and is what it should be, and mend what is not
#[derive(Args)]
pub struct CheckArguments {
    /// Read and compare every stored byte
    #[arg(long)]
    read_data: bool,
    /// Read and compare a share of the packs, chosen anew each time, as in 10%
    #[arg(long, value_name = "PERCENT", conflicts_with = "read_data", value_parser = parse_percent)]
    read_data_subset: Option<f64>,
    /// Check an encrypted repository without a key: with --read-data every stored byte, but no trees and no content
    #[arg(long, conflicts_with_all = ["budget", "repair"])]
    without_keys: bool,
    /// Read and compare so much (10GiB) or so long (30min), or both (10GiB,30min): the packs that were read longest ago
    #[arg(long, value_name = "BUDGET", value_parser = parse_budget, conflicts_with_all = ["read_data_subset", "repair"])]
    budget: Option<Budget>,
    /// Also look whether what snapshots need is locked so long after they were made, as in 30d
    #[arg(long, value_name = "SPAN", value_parser = span, conflicts_with_all = ["without_keys", "budget", "repair"])]
    locks: Option<SignedDuration>,
    #[command(flatten)]
    repair: repair::RepairArguments,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number: f64 =
        text.trim_end_matches('%').trim().parse().map_err(|_| format!("{text:?} is no percentage"))?;
    if (0.0..=100.0).contains(&number) {
        Ok(number / 100.0)
    } else {
        Err("give a percentage from 0 to 100".to_owned())
    }
}

/// A repository that is to be checked, with or without its keys.
enum Opened {
    WithKeys(Box<Repository>),
    Without(Box<KeylessRepository>),
}

impl Opened {
    fn new(repository: &RepositoryArgument, without_keys: bool) -> Result<Self, Failure> {
        Ok(if without_keys {
            Self::Without(Box::new(repository.open_keyless()?))
        } else {
            Self::WithKeys(Box::new(repository.open_examined()?))
        })
    }

    fn pack_bytes(&self) -> Result<u64, Failure> {
        Ok(match self {
            Self::WithKeys(repository) => repository.pack_bytes()?,
            Self::Without(repository) => repository.pack_bytes()?,
        })
    }

    fn requests(&self) -> Option<RequestCounts> {
        match self {
            Self::WithKeys(repository) => repository.requests(),
            Self::Without(repository) => repository.requests(),
        }
    }

    fn check(&self, read: ReadData, watch: &Watch) -> leeward_repository::Result<CheckOutcome> {
        match self {
            Self::WithKeys(repository) => repository.check(read, watch),
            Self::Without(repository) => repository.check(read, watch),
        }
    }
}

/// Runs `check`. Exit code 4 when something is wrong.
pub fn check(
    arguments: &CheckArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let read = match arguments.read_data_subset {
        Some(share) => ReadData::Share(share),
        None if arguments.read_data => ReadData::All,
        None => ReadData::No,
    };
    if arguments.repair.is_asked_for() {
        // What is not read is not found, so all is read where nothing else is said.
        let read = if read == ReadData::No { ReadData::All } else { read };
        return repair::run(&arguments.repair, repository, read, output);
    }
    if let Some(budget) = arguments.budget {
        return check_in_turn(&repository.open_examined()?, budget, output);
    }
    let opened = Opened::new(repository, arguments.without_keys)?;
    let total = match read {
        ReadData::No => 0,
        ReadData::All => opened.pack_bytes()?,
        ReadData::Share(share) => (opened.pack_bytes()? as f64 * share) as u64,
    };
    let started = Instant::now();
    let watch = Watch::new(output, total, "check");
    let result = opened.check(read, &watch);
    watch.finish();
    let outcome = result?;
    if output.is_json() {
        output.json_line(&requests::With::new(&outcome, opened.requests()));
    }
    tell(&outcome, started.elapsed(), output);
    requests::tell(opened.requests(), output);
    if let (Some(period), Opened::WithKeys(repository)) = (arguments.locks, &opened)
        && !lock::look(repository, period, output)?
    {
        return Ok(Code::Damaged.into());
    }
    Ok(code_of(&outcome))
}

/// The bytes of packs that a check is going to read.
pub fn bytes_to_read(repository: &Repository, read: ReadData) -> Result<u64, Failure> {
    Ok(match read {
        ReadData::No => 0,
        ReadData::All => repository.pack_bytes()?,
        ReadData::Share(share) => (repository.pack_bytes()? as f64 * share) as u64,
    })
}

fn code_of(outcome: &CheckOutcome) -> ExitCode {
    if outcome.findings.is_empty() { ExitCode::SUCCESS } else { Code::Damaged.into() }
}

/// Tells what a check saw.
pub fn tell(outcome: &CheckOutcome, time: Duration, output: &Output) {
    output.line(format!(
        "Checked {} snapshots, {} tree nodes, {} chunks, {} packs, read {} of data, in {}",
        outcome.snapshots,
        outcome.nodes,
        outcome.chunks,
        outcome.packs,
        size::show(outcome.read_bytes),
        size::show_time(time)
    ));
    if outcome.parity > 0 {
        output.line(format!("Compared {} parity objects with their packs", outcome.parity));
    }
    if outcome.packs_without_parity > 0 {
        output.line(format!(
            "{} packs have no parity, which new ones get: check --repair makes it, and reads them whole for that",
            outcome.packs_without_parity
        ));
    }
    for limit in &outcome.not_checked {
        output.line(format!("Not checked {limit}"));
    }
    for finding in &outcome.findings {
        output.line(format!("DAMAGED {}: {}", finding.object, finding.what));
        output.line(format!("  touches {}", show_touches(&finding.touches)));
        output.line(format!("  hint: {}", finding.advice));
    }
    if outcome.findings.is_empty() {
        output.line("No damage found");
    } else {
        output.line(format!("{} objects are damaged", outcome.findings.len()));
    }
}

/// The snapshots that a damage touches, for people.
pub fn show_touches(touches: &[String]) -> String {
    if touches.is_empty() { "no snapshot".to_owned() } else { touches.join(", ") }
}

/// Where the record of what was verified lies: it belongs to whoever checks.
fn record_path(repository: &Repository) -> Result<PathBuf, Failure> {
    let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = home("XDG_STATE_HOME").or_else(|| Some(home("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| {
        Failure::new(Code::Usage, "there is no place for the record of what was verified")
            .hint("set XDG_STATE_HOME or HOME")
    })?;
    Ok(state.join("leeward/verified").join(&repository.config().repository_id))
}

fn check_in_turn(repository: &Repository, budget: Budget, output: &Output) -> Result<ExitCode, Failure> {
    let path = record_path(repository)?;
    let mut flaw: Option<String> = None;
    let mut note = |found: &str| {
        eprintln!("leeward: {}: {found}; the turn starts anew", path.display());
        flaw = Some(found.to_owned());
    };
    let started = Instant::now();
    let total = budget.bytes.unwrap_or(u64::MAX).min(repository.pack_bytes()?);
    let watch = Watch::new(output, total, "check");
    let result = leeward_protect::check::in_turn(repository, &path, budget, &watch, &mut note);
    watch.finish();
    let Turn { outcome, report: turn } = result?;
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "check": outcome, "turn": turn, "started_anew": flaw, "requests": requests::value(repository.requests()),
        }));
    }
    tell(&outcome, started.elapsed(), output);
    tell_turn(&turn, output);
    requests::tell(repository.requests(), output);
    Ok(code_of(&outcome))
}

fn tell_turn(turn: &TurnReport, output: &Output) {
    let state = match turn.oldest {
        Some(oldest) => {
            format!(
                "all {} packs are verified, the oldest on {}",
                turn.packs,
                oldest.strftime("%Y-%m-%d %H:%M:%SZ")
            )
        }
        None => format!(
            "{} of {} packs ({} of {}) were not verified yet",
            turn.unverified_packs,
            turn.packs,
            size::show(turn.unverified_bytes),
            size::show(turn.bytes)
        ),
    };
    let pace = match (turn.checks_for_a_turn, turn.seconds_for_a_turn) {
        (Some(checks), Some(seconds)) => {
            format!(
                "; a full turn takes {checks} checks like this one, {} at the pace so far",
                size::show_seconds(seconds)
            )
        }
        (Some(checks), None) => format!("; a full turn takes {checks} checks like this one"),
        (None, _) => String::new(),
    };
    output.line(format!("Read {} packs in turn; {state}{pace}", turn.read_packs));
}

/// Runs `rebuild-index`.
pub fn rebuild_index(repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    let repository = repository.open_examined()?;
    let started = Instant::now();
    let watch = Watch::new(output, repository.pack_bytes()?, "rebuild-index");
    let result = repository.rebuild_index(&watch);
    watch.finish();
    let outcome = result?;
    if output.is_json() {
        output.json_line(&outcome);
    }
    output.line(format!(
        "The index was made anew from {} packs: {} blobs, in {}",
        outcome.packs,
        outcome.blobs,
        size::show_time(started.elapsed())
    ));
    for (pack, why) in &outcome.unreadable {
        output.line(format!("DAMAGED {pack}: {why}"));
    }
    Ok(if outcome.unreadable.is_empty() { ExitCode::SUCCESS } else { Code::Damaged.into() })
}

/// Runs `stats`.
pub fn stats(repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    let statistics = repository.open()?.statistics()?;
    if output.is_json() {
        output.json_line(&statistics);
        return Ok(ExitCode::SUCCESS);
    }
    output.line(format!(
        "{:<32} {:>9} {:>11} {:>11} {:>11} {:>11}",
        "IMAGE", "SNAPSHOTS", "LOGICAL", "DATA", "UNIQUE", "STORED"
    ));
    let line = |name: &str, sums: &ImageStatistics| {
        output.line(format!(
            "{name:<32} {:>9} {:>11} {:>11} {:>11} {:>11}",
            sums.snapshots,
            size::show(sums.logical_bytes),
            size::show(sums.data_bytes),
            size::show(sums.unique_bytes),
            size::show(sums.stored_bytes)
        ));
    };
    for (name, sums) in &statistics.images {
        line(name.as_str(), sums);
    }
    let total = &statistics.total;
    line("(all, shared chunks once)", total);
    output.line(format!(
        "store {} ({} packs of {} in all, index {}); dedupe {}, compression {}",
        size::show(statistics.store_bytes),
        statistics.packs,
        size::show(statistics.pack_bytes),
        size::show(statistics.index_bytes),
        size::show_ratio(total.data_bytes, total.unique_bytes),
        size::show_ratio(total.unique_bytes, total.stored_bytes)
    ));
    output.line(format!(
        "index {} entries, {} of memory",
        statistics.index_entries,
        size::show(statistics.index_memory_bytes)
    ));
    Ok(ExitCode::SUCCESS)
}
