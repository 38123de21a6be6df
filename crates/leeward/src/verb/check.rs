//! `leeward check`, `stats`, `rebuild-index`: is all well, what does it cost, and mending the index.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use leeward_repository::{CheckOutcome, ImageStatistics, KeylessRepository, ReadData, Repository};

use super::repository::{RepositoryArgument, Watch};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::size;

/// Check that everything is there and is what it should be
#[derive(Args)]
pub struct CheckArguments {
    /// Read and compare every stored byte
    #[arg(long)]
    read_data: bool,
    /// Read and compare a share of the packs, chosen anew each time, as in 10%
    #[arg(long, value_name = "PERCENT", conflicts_with = "read_data", value_parser = parse_percent)]
    read_data_subset: Option<f64>,
    /// Check an encrypted repository without a key: with --read-data every stored byte, but no trees and no content
    #[arg(long)]
    without_keys: bool,
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
            Self::WithKeys(Box::new(repository.open()?))
        })
    }

    fn pack_bytes(&self) -> Result<u64, Failure> {
        Ok(match self {
            Self::WithKeys(repository) => repository.pack_bytes()?,
            Self::Without(repository) => repository.pack_bytes()?,
        })
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
    let opened = Opened::new(repository, arguments.without_keys)?;
    let read = match arguments.read_data_subset {
        Some(share) => ReadData::Share(share),
        None if arguments.read_data => ReadData::All,
        None => ReadData::No,
    };
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
        output.json_line(&outcome);
    }
    output.line(format!(
        "Checked {} snapshots, {} tree nodes, {} chunks, {} packs, read {} of data, in {}",
        outcome.snapshots,
        outcome.nodes,
        outcome.chunks,
        outcome.packs,
        size::show(outcome.read_bytes),
        size::show_time(started.elapsed())
    ));
    for limit in &outcome.not_checked {
        output.line(format!("Not checked {limit}"));
    }
    for finding in &outcome.findings {
        output.line(format!("DAMAGED {}: {}", finding.object, finding.what));
        let touches =
            if finding.touches.is_empty() { "no snapshot".to_owned() } else { finding.touches.join(", ") };
        output.line(format!("  touches {touches}"));
        output.line(format!("  hint: {}", finding.advice));
    }
    if outcome.findings.is_empty() {
        output.line("No damage found");
        return Ok(ExitCode::SUCCESS);
    }
    output.line(format!("{} objects are damaged", outcome.findings.len()));
    Ok(Code::Damaged.into())
}

/// Runs `rebuild-index`.
pub fn rebuild_index(repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
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
