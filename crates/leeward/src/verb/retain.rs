//! `leeward forget`, `undelete` and `collect`: letting go of snapshots, changing one's mind, letting go of data.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use jiff::{SignedDuration, Span};
pub use leeward_protect::retain::span;
use leeward_repository::{
    CollectOptions, CollectOutcome, Decision, ImageName, KeepRules, Repository, SnapshotId, SnapshotSpec,
};

use super::repository::{RepositoryArgument, Watch};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::{requests, size};

/// Forget snapshots: those that are named, or those that no rule keeps. Until a collect lets them go, a week later if
/// nobody says otherwise, undelete brings them back
#[derive(Args)]
pub struct ForgetArguments {
    /// An image to apply the rules to, or snapshots to forget (IMAGE@SPEC)
    #[arg(required_unless_present = "all", value_name = "IMAGE[@SPEC]")]
    what: Vec<String>,
    /// Apply the rules to all images
    #[arg(long, conflicts_with = "what")]
    all: bool,
    /// Keep so many of the last snapshots
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: usize,
    /// Keep the last snapshot of so many hours
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_hourly: usize,
    /// Keep the last snapshot of so many days
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: usize,
    /// Keep the last snapshot of so many weeks
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: usize,
    /// Keep the last snapshot of so many months
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: usize,
    /// Keep the last snapshot of so many years
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_yearly: usize,
    /// Keep all that are not older than this, as in 30d, 12h or 1y
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Span>,
    /// Keep all that carry this tag; may be given several times
    #[arg(long, value_name = "NAME")]
    keep_tag: Vec<String>,
    /// Show what would be forgotten, and forget nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl ForgetArguments {
    fn rules(&self) -> KeepRules {
        KeepRules {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            tags: self.keep_tag.clone(),
        }
    }
}

/// Runs `forget`.
pub fn forget(
    arguments: &ForgetArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let rules = arguments.rules();
    let (named, images): (Vec<&String>, Vec<&String>) =
        arguments.what.iter().partition(|what| what.contains('@'));
    let by_rules = !images.is_empty() || !rules.is_empty();
    if by_rules && !named.is_empty() {
        return Err(Failure::new(Code::Usage, "either name snapshots or give images and rules, not both"));
    }
    // All are found before any is forgotten: what `~1` means changes with the first.
    let mut found: BTreeMap<ImageName, Vec<SnapshotId>> = BTreeMap::new();
    for text in &named {
        let spec: SnapshotSpec = text.parse()?;
        let id = repository.resolve(&spec)?.id;
        let ids = found.entry(spec.image).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    for (image, ids) in &found {
        if !arguments.dry_run {
            repository.forget(image, ids)?;
        }
        tell(image, ids, arguments.dry_run, output);
    }
    let images: Vec<ImageName> = if arguments.all {
        repository.images()?
    } else {
        images.into_iter().map(|name| name.parse()).collect::<Result<_, _>>()?
    };
    for image in &images {
        forget_by_rules(&repository, image, &rules, arguments.dry_run, output)?;
    }
    if !arguments.dry_run {
        output.line("They can be brought back (leeward undelete) until leeward collect lets them go, after its --window");
    }
    Ok(ExitCode::SUCCESS)
}

fn forget_by_rules(
    repository: &Repository,
    image: &ImageName,
    rules: &KeepRules,
    dry_run: bool,
    output: &Output,
) -> Result<(), Failure> {
    let decisions = leeward_protect::retain::plan(repository, image, rules)?;
    for decision in &decisions {
        show(image, decision, output);
    }
    let ids: Vec<SnapshotId> = match dry_run {
        true => decisions.iter().filter(|decision| !decision.keep).map(|decision| decision.id).collect(),
        false => leeward_protect::retain::forget(repository, image, &decisions)?,
    };
    tell(image, &ids, dry_run, output);
    Ok(())
}

fn show(image: &ImageName, decision: &Decision, output: &Output) {
    if output.is_json() {
        output.json_line(&serde_json::json!({"image": image, "decision": decision}));
    }
    output.line(format!(
        "{:<6} {image}@{} {}  {}",
        if decision.keep { "keep" } else { "forget" },
        decision.id.short(),
        decision.created.strftime("%Y-%m-%d %H:%M:%SZ"),
        decision.reasons.join(", ")
    ));
}

fn tell(image: &ImageName, ids: &[SnapshotId], dry_run: bool, output: &Output) {
    if output.is_json() {
        output.json_line(&serde_json::json!({"image": image, "forgotten": ids, "dry_run": dry_run}));
    }
    let verb = if dry_run { "Would forget" } else { "Forgot" };
    output.line(format!(
        "{verb} {} of {image}",
        match ids.len() {
            1 => format!("snapshot {}", ids[0].short()),
            count => format!("{count} snapshots"),
        }
    ));
}

/// Bring a forgotten snapshot back; log --forgotten lists those that can be
#[derive(Args)]
pub struct UndeleteArguments {
    /// The snapshot: IMAGE@DIGEST, IMAGE@TAG or IMAGE@TIME; IMAGE alone is the one that was forgotten last
    snapshot: SnapshotSpec,
}

/// Runs `undelete`.
pub fn undelete(
    arguments: &UndeleteArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let image = &arguments.snapshot.image;
    let id = repository.resolve_forgotten(&arguments.snapshot)?.id;
    repository.undelete(image, id)?;
    if output.is_json() {
        output.json_line(&serde_json::json!({"image": image, "undeleted": id}));
    }
    output.line(format!("Snapshot {} of {image} is kept again", id.short()));
    Ok(ExitCode::SUCCESS)
}

/// Delete what no snapshot needs; safe while backups run
#[derive(Args)]
pub struct CollectArguments {
    /// Rewrite a pack when more than this percentage of it is unused
    #[arg(long, value_name = "PERCENT", default_value_t = 30.0)]
    max_unused: f64,
    /// Declare a backup dead that cannot be seen from here, by its session; it may then not publish any more
    #[arg(long, value_name = "SESSION")]
    revoke: Vec<String>,
    /// Let go of forgotten snapshots after so long, as in 7d or 12h; 0 lets them go now
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "7d")]
    window: SignedDuration,
    /// Believe the clock of this machine though it is far from all times in the repository
    #[arg(long)]
    trust_clock: bool,
    /// Show what would be deleted, and delete nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs `collect`.
pub fn collect(
    arguments: &CollectArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if !(0.0..=100.0).contains(&arguments.max_unused) {
        return Err(Failure::new(Code::Usage, "--max-unused takes a percentage from 0 to 100"));
    }
    let repository = repository.open()?;
    let options = CollectOptions {
        unused_max: arguments.max_unused / 100.0,
        revoke: arguments.revoke.clone(),
        window: arguments.window,
        trust_clock: arguments.trust_clock,
    };
    let started = Instant::now();
    let outcome = if arguments.dry_run {
        repository.plan_collect(&options)?
    } else {
        let watch = Watch::new(output, 0, "collect");
        let result = repository.collect(&options, &watch);
        watch.finish();
        result?
    };
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "collect": outcome, "dry_run": arguments.dry_run, "seconds": started.elapsed().as_secs_f64(),
            "requests": requests::value(repository.requests()),
        }));
    }
    report(&outcome, arguments.dry_run, started.elapsed(), output);
    requests::tell(repository.requests(), output);
    Ok(ExitCode::SUCCESS)
}

fn report(outcome: &CollectOutcome, dry_run: bool, time: std::time::Duration, output: &Output) {
    output.line(format!("{} snapshots are kept", outcome.snapshots));
    if outcome.forgotten > 0 {
        output.line(format!("{} are forgotten and can be brought back: leeward undelete", outcome.forgotten));
    }
    if let Some(doubt) = &outcome.clock_doubt {
        output.line(format!(
            "No forgotten snapshot was let go: {doubt}. Set the clock, or collect with --trust-clock"
        ));
    }
    output.line(format!(
        "{} packs are unused ({}), {} are to be rewritten ({}), {} manifests are unused",
        outcome.unused_packs,
        size::show(outcome.unused_bytes),
        outcome.rewritten_packs,
        size::show(outcome.rewritten_bytes),
        outcome.unused_manifests
    ));
    if dry_run {
        return;
    }
    output.line(format!(
        "Deleted {}, wrote {}, in {}",
        size::show(outcome.deleted_bytes),
        size::show(outcome.written_bytes),
        size::show_time(time)
    ));
    if outcome.pending_packs > 0 {
        output.line(format!(
            "{} packs wait for running backups and go with the next collect:",
            outcome.pending_packs
        ));
        for session in &outcome.waits_for {
            output.line(format!("  {session}"));
        }
    }
}
