//! `leeward check --repair`: mending what a check finds.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use leeward_repository::{ChainRepair, ReadData, RepairOptions, RepairOutcome, RepairPlan, Repository};

use super::check::{bytes_to_read, show_touches, tell};
use super::repository::{RepositoryArgument, Watch};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::unlock::OtherArguments;
use crate::{requests, size};

/// Options of `check` that concern mending.
#[derive(Args)]
pub struct RepairArguments {
    /// Mend what is damaged, from what is here and from peers; reads every stored byte unless a subset is given
    #[arg(long)]
    repair: bool,
    /// A repository to take from what is not here; may be given several times, the first is asked first
    #[arg(long, value_name = "PEER", requires = "repair")]
    from: Vec<String>,
    /// With --repair: show what would be done, and do nothing
    #[arg(short = 'n', long, requires = "repair")]
    dry_run: bool,
    /// With --repair: delete damaged condemned lists, because no collect runs anywhere
    #[arg(long, requires = "repair")]
    no_collect_runs: bool,
    /// With --repair: a damaged ref gets all snapshots that a peer's ref has, also those of which nothing is here
    #[arg(long, requires = "repair")]
    whole_refs: bool,
    /// With --repair: make damaged refs again though a damaged manifest may have stood in one of them
    #[arg(long, requires = "repair")]
    incomplete_refs: bool,
    #[command(flatten)]
    other: OtherArguments,
}

impl RepairArguments {
    /// Whether anything is to be mended.
    pub fn is_asked_for(&self) -> bool {
        self.repair
    }
}

/// Opens the repository. Where its configuration cannot be read, what is left of it may tell what it was.
fn open(
    arguments: &RepairArguments,
    place: &RepositoryArgument,
    output: &Output,
) -> Result<Repository, Failure> {
    let opened = place.open_examined();
    let is_hopeless = |failure: &Failure| !matches!(failure.code(), Code::Damaged | Code::NotFound);
    if arguments.dry_run || opened.as_ref().err().is_none_or(is_hopeless) {
        return opened;
    }
    let mended = match place.open_examined_store() {
        Ok(store) => Repository::mend_chains(store.as_ref())?,
        Err(_) => return opened,
    };
    if mended.is_empty() {
        return opened;
    }
    for ChainRepair { object, what, .. } in mended {
        output.line(format!("restore  {object} from its other parts ({what})"));
    }
    place.open_examined()
}

/// Runs `check --repair`. Exit code 4 when something is still wrong.
pub fn run(
    arguments: &RepairArguments,
    place: &RepositoryArgument,
    read: ReadData,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = &open(arguments, place, output)?;
    let open = |peer: &String| place.open_other_examined(peer, &arguments.other);
    let peers = arguments.from.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let options = RepairOptions {
        peers: &peers,
        read,
        no_collect_runs: arguments.no_collect_runs,
        whole_refs: arguments.whole_refs,
        incomplete_refs: arguments.incomplete_refs,
    };
    let started = Instant::now();
    let watch = Watch::new(output, bytes_to_read(repository, read)?, "check");
    if arguments.dry_run {
        let planned = repository.plan_repair(&options, &watch);
        watch.finish();
        let (found, plan) = planned?;
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "check": found, "plan": plan, "dry_run": true, "requests": requests::value(repository.requests()),
            }));
        }
        tell(&found, started.elapsed(), output);
        tell_plan(&plan, &arguments.from, output);
        requests::tell(repository.requests(), output);
        let is_well = found.findings.is_empty();
        return Ok(if is_well { ExitCode::SUCCESS } else { Code::Damaged.into() });
    }
    let repaired = repository.repair(&options, &watch);
    watch.finish();
    let outcome = repaired?;
    if output.is_json() {
        output.json_line(&requests::With::new(&outcome, repository.requests()));
    }
    tell(&outcome.found, started.elapsed(), output);
    if outcome.found.findings.is_empty() && outcome.plan.is_empty() {
        requests::tell(repository.requests(), output);
        return Ok(ExitCode::SUCCESS);
    }
    tell_plan(&outcome.plan, &arguments.from, output);
    tell_outcome(&outcome, output);
    output.line("After the repair:");
    tell(&outcome.left, started.elapsed(), output);
    requests::tell(repository.requests(), output);
    let is_well = outcome.left.findings.is_empty();
    Ok(if is_well { ExitCode::SUCCESS } else { Code::Damaged.into() })
}

fn tell_plan(plan: &RepairPlan, peers: &[String], output: &Output) {
    let peer = |number: usize| peers.get(number).map_or("a peer", String::as_str);
    for mended in &plan.chains {
        let value = mended.value.as_ref().map_or_else(String::new, |value| format!(": {value}"));
        output.line(format!("restore  {} from its other parts ({}){value}", mended.object, mended.what));
    }
    for key in &plan.drop {
        output.line(format!("delete   {key}, which cannot be read"));
    }
    for manifest in &plan.manifests {
        let from = peer(manifest.peer);
        output.line(format!(
            "fetch    the manifest of {}@{} from {from}",
            manifest.image,
            manifest.snapshot.short()
        ));
    }
    for planned in &plan.refs {
        let last = planned.snapshots.last().map_or_else(String::new, |last| {
            format!(", the last {} of {}", last.id.short(), last.created.strftime("%Y-%m-%d %H:%M:%SZ"))
        });
        output.line(format!(
            "make     the ref of {} with {} snapshots{last}",
            planned.image,
            planned.snapshots.len()
        ));
        if planned.left_out > 0 {
            output.line(format!(
                "  a peer tells of {} more, of which nothing is here; --whole-refs takes them as well",
                planned.left_out
            ));
        }
    }
    if plan.rebuild_index {
        output.line("rebuild  the index from the packs");
    }
    for pack in &plan.heal_packs {
        output.line(format!("mend     packs/{pack} by its parity"));
    }
    for left in &plan.unhealed {
        output.line(format!("  {} has parity that is not enough: {}", left.object, left.why));
    }
    for pack in &plan.remake_parity {
        output.line(format!("make     parity/{pack} anew"));
    }
    if !plan.make_parity.is_empty() {
        output.line(format!(
            "make     the parity of {} packs that have none, which takes reading {}",
            plan.make_parity.len(),
            size::show(plan.make_parity_bytes)
        ));
    }
    for replaced in &plan.replace_packs {
        output.line(format!("replace  packs/{} by the same of {}", replaced.pack, peer(replaced.peer)));
    }
    if !plan.blobs.is_empty() {
        output.line(format!(
            "store    {} blobs again: {} from damaged packs, {} from peers",
            plan.blobs.len(),
            plan.copied_blobs,
            plan.fetched_blobs
        ));
    }
    for pack in &plan.condemn_packs {
        output.line(format!("delete   packs/{pack} after that"));
    }
    for manifest in &plan.condemn_manifests {
        output.line(format!("delete   snapshots/{manifest}, which is damaged and which nothing holds"));
    }
    for left in &plan.cannot {
        output.line(format!("CANNOT MEND {}: {}", left.object, left.why));
        output.line(format!("  touches {}", show_touches(&left.touches)));
    }
}

fn tell_outcome(outcome: &RepairOutcome, output: &Output) {
    output.line(format!(
        "Stored {} blobs again, {} of them from peers; wrote {}, deleted {}",
        outcome.stored_blobs,
        outcome.peer_blobs,
        size::show(outcome.written_bytes),
        size::show(outcome.deleted_bytes)
    ));
    if outcome.renewed_packs > 0 {
        output.line(format!(
            "{} packs could not be replaced in their place: what they hold is in new packs",
            outcome.renewed_packs
        ));
    }
    if outcome.made_parity > 0 {
        output.line(format!("Made the parity of {} packs", outcome.made_parity));
    }
    for left in &outcome.failed {
        output.line(format!("NOT MENDED {}: {}", left.object, left.why));
        output.line(format!("  touches {}", show_touches(&left.touches)));
    }
    if outcome.pending_packs > 0 {
        output.line(format!(
            "{} damaged packs wait for running backups and go with the next collect:",
            outcome.pending_packs
        ));
        for session in &outcome.waits_for {
            output.line(format!("  {session}"));
        }
    }
}
