//! Carrying a transfer out and telling what came of it; what push, pull, clone, sync and seed have in common.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_repository::Repository;
use leeward_repository::transfer::{
    CountedStore, Estimate, Refused, Relay, Relayed, Selection, Traffic, Transfer, TransferOptions,
    TransferOutcome, Travelled,
};

use crate::failure::{Code, Failure};
use crate::limit::{LimitedStore, RateLimit};
use crate::output::Output;
use crate::servers::Side;
use crate::verb::push::TransferArguments;
use crate::verb::push::direct::{self, DirectWay, Way};
use crate::verb::repository::Watch;
use crate::verb::seed;
use crate::{requests, size};

/// Both repositories, with counters on what passes.
pub struct Sides {
    /// What is read.
    pub from: Repository,
    /// What is written.
    pub to: Repository,
    read: Arc<Traffic>,
    written: Arc<Traffic>,
    way: Way,
}

impl Sides {
    /// Two repositories, the second of them written no faster, and by as many streams, as the arguments say.
    pub fn new(
        (from, from_side): (Repository, Side),
        (to, to_side): (Repository, Side),
        arguments: &TransferArguments,
        output: &Output,
    ) -> Result<Self, Failure> {
        if from.location() == to.location() {
            let what = format!("{}: both sides are the same repository", from.location());
            return Err(Failure::new(Code::Usage, what).hint("give another repository as the last argument"));
        }
        let ends = [(from.location(), from_side), (to.location(), to_side)];
        let way = direct::find(ends[0], ends[1], arguments.direct, arguments.limit, output)?;
        let (read, written) = (Arc::new(Traffic::default()), Arc::new(Traffic::default()));
        let (limit, streams) = (arguments.limit.map(RateLimit::new), arguments.streams.map(usize::from));
        let bounded = |store| LimitedStore::wrap(store, limit.as_ref(), streams);
        Ok(Self {
            from: from.map_store(|store| CountedStore::wrap(store, &read)),
            to: to.map_store(|store| CountedStore::wrap(bounded(store), &written)),
            read,
            written,
            way,
        })
    }
}

/// What is done, and how.
pub struct Carry {
    /// The verb, for people.
    pub verb: &'static str,
    /// How to transfer.
    pub options: TransferOptions,
    /// Whether only to tell what would travel.
    pub dry_run: bool,
}

/// What came of it.
pub struct Carried {
    refused: usize,
}

impl Carried {
    /// The exit code: that of damage when something could not travel.
    pub fn code(&self) -> ExitCode {
        if self.refused == 0 { ExitCode::SUCCESS } else { Code::Damaged.into() }
    }
}

impl Carry {
    /// Compares, sends, and tells.
    pub fn run(&self, sides: &Sides, selection: &Selection, output: &Output) -> Result<Carried, Failure> {
        let started = Instant::now();
        let transfer = sides.from.prepare_transfer(&sides.to, selection)?;
        let path = sides.path(&transfer)?;
        let watch = Watch::new(output, transfer.virtual_bytes(), self.verb);
        if self.dry_run {
            let estimate = transfer.estimate(&watch);
            watch.finish();
            let estimate = estimate?;
            self.tell_estimate(sides, &path, &estimate, output);
            return Ok(Carried { refused: estimate.refused.len() });
        }
        let relay = match &path {
            Path::Direct(direct) => Some(*direct as &dyn Relay),
            Path::Through(_) => None,
        };
        let is_carried = self.options.is_carried || seed::is_one(sides.from.location());
        let options = TransferOptions { is_carried, ..self.options.clone() };
        let outcome = transfer.run_with(&options, relay, &watch);
        watch.finish();
        let outcome = outcome?;
        self.tell(sides, &path, &outcome, started.elapsed(), output);
        Ok(Carried { refused: outcome.refused.len() })
    }

    fn tell_estimate(&self, sides: &Sides, path: &Path<'_>, estimate: &Estimate, output: &Output) {
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "verb": self.verb, "dry_run": true, "from": sides.from.location(), "to": sides.to.location(),
                "estimate": estimate, "direct": path.value(),
            }));
        }
        tell_snapshots(&estimate.snapshots, &estimate.refused, "would travel", output);
        if estimate.is_renamed {
            output.line(format!(
                "  up to {} of content in {} chunks, encoded anew: the repositories name content differently",
                size::show(estimate.content_bytes),
                estimate.chunks
            ));
        } else if !estimate.snapshots.is_empty() {
            output.line(format!(
                "  {} in {} chunks, {} of content",
                size::show(estimate.bytes),
                estimate.chunks,
                size::show(estimate.content_bytes)
            ));
        }
        match path {
            Path::Direct(direct) if estimate.whole_packs > 0 => {
                let (packs, bytes) = (estimate.whole_packs, size::show(estimate.whole_pack_bytes));
                output
                    .line(format!("  {bytes} in {packs} packs would not pass this machine: {}", direct.by()));
            }
            Path::Through(Some(why)) if !estimate.snapshots.is_empty() => {
                output.line(format!("  all of it would pass this machine: {why}"));
            }
            _ => {}
        }
        tell_present(estimate.snapshots.len(), estimate.present, sides, output);
    }

    fn tell(
        &self,
        sides: &Sides,
        path: &Path<'_>,
        outcome: &TransferOutcome,
        time: Duration,
        output: &Output,
    ) {
        let (read, written) = (sides.read.report(), sides.written.report());
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "verb": self.verb, "dry_run": false, "from": sides.from.location(), "to": sides.to.location(),
                "direct": path.value(), "transfer": outcome, "traffic": { "from": read, "to": written }, "seconds": time.as_secs_f64(),
                "requests": {
                    "from": requests::value(sides.from.requests()), "to": requests::value(sides.to.requests()),
                },
            }));
        }
        tell_snapshots(&outcome.snapshots, &outcome.refused, "travelled", output);
        if !outcome.snapshots.is_empty() {
            output.line(format!(
                "  {} stored in {} ({}): {} chunks with {} of content",
                size::show(outcome.stored_bytes),
                size::show_time(time),
                size::show_rate(outcome.stored_bytes, time),
                outcome.chunks_sent,
                size::show(outcome.content_bytes),
            ));
            if outcome.is_renamed {
                output.line("  named and encoded anew: the repositories name content differently");
            } else {
                output.line(format!(
                    "  looked at {} tree nodes and {} chunks; {} frames passed on as they are, {} encoded anew",
                    outcome.nodes_examined,
                    outcome.chunks_examined,
                    outcome.frames_untouched,
                    outcome.frames_encoded
                ));
            }
        }
        match (path, &outcome.relayed) {
            (_, Some(relayed)) => tell_relayed(relayed, output),
            (Path::Through(Some(why)), None) if !outcome.snapshots.is_empty() => {
                output.line(format!("  all of it through this machine: {why}"));
            }
            _ => {}
        }
        if outcome.labelled > 0 {
            output.line(format!("  tags or holds of {} snapshots brought over", outcome.labelled));
        }
        tell_present(outcome.snapshots.len(), outcome.present, sides, output);
        output.line(format!(
            "  read {} from {}; sent {} to {} and read {} there",
            size::show(read.total.received_bytes),
            sides.from.location(),
            size::show(written.total.sent_bytes),
            sides.to.location(),
            size::show(written.total.received_bytes),
        ));
        for side in [&sides.from, &sides.to] {
            requests::tell_at(side.location(), side.requests(), output);
        }
    }
}

/// How packs of one transfer travel.
enum Path<'a> {
    /// From server to server.
    Direct(&'a DirectWay),
    /// Through this process; why, where it could have been otherwise.
    Through(Option<String>),
}

impl Path<'_> {
    /// For programs.
    fn value(&self) -> serde_json::Value {
        match self {
            Self::Direct(direct) => serde_json::json!({ "by": direct.by() }),
            Self::Through(Some(why)) => serde_json::json!({ "not_because": why }),
            Self::Through(None) => serde_json::Value::Null,
        }
    }
}

impl Sides {
    /// How packs travel between these repositories, of which more is known than where they are. Refused where they have to go
    /// from server to server and cannot.
    fn path(&self, transfer: &Transfer<'_>) -> Result<Path<'_>, Failure> {
        let direct = match &self.way {
            Way::Direct(direct) => direct.as_ref(),
            Way::Through(why) => return Ok(Path::Through(why.clone())),
        };
        match transfer.why_not_whole().filter(|_| !transfer.missing().is_empty()) {
            None => Ok(Path::Direct(direct)),
            Some(why) if direct.is_must() => Err(direct::refused(why)),
            Some(why) => Ok(Path::Through(Some(why.to_owned()))),
        }
    }
}

fn tell_relayed(relayed: &Relayed, output: &Output) {
    let (packs, bytes) = (relayed.packs, size::show(relayed.bytes));
    output.line(format!("  {bytes} in {packs} packs did not pass this machine: {}", relayed.by));
    if let Some(why) = &relayed.left_because {
        let left = relayed.packs_wanted.saturating_sub(relayed.packs);
        output.line(format!("  {left} packs went through this machine after all: {why}"));
    }
}

fn tell_snapshots(snapshots: &[Travelled], refused: &[Refused], what: &str, output: &Output) {
    for sent in snapshots {
        let copy = match sent.copy == sent.snapshot {
            true => String::new(),
            false => format!(" as {}", sent.copy.short()),
        };
        output.line(format!(
            "{}@{} {what}{copy} ({})",
            sent.image,
            sent.snapshot.short(),
            size::show(sent.virtual_size)
        ));
    }
    for refused in refused {
        output.line(format!(
            "{}@{} CANNOT BE HAD: {}",
            refused.image,
            refused.snapshot.short(),
            refused.reason
        ));
    }
}

fn tell_present(missing: usize, present: usize, sides: &Sides, output: &Output) {
    match (missing, present) {
        (0, 0) => output.line("Nothing to send"),
        (0, count) => {
            output.line(format!("Nothing to send: {} has all {count} snapshots", sides.to.location()))
        }
        (_, 0) => {}
        (_, count) => output.line(format!("  {count} more were there already")),
    }
}
