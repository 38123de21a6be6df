//! Deleting what nothing needs, while backups run.
//!
//! The protocol, with the reasons why it is safe, is in `docs/collection.md`. In short: what seems unused is
//! *condemned* by publishing a list; writers that begin after that never refer to it; the collection waits for the
//! writers that began before; then it looks again at everything that is published, spares what is needed after all,
//! and *decides* by replacing the list; only what is on a decided list is deleted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::SignedDuration;

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::condemned::FoundList;
use crate::frame::{BlobKind, FrameDecoder, FrameEncoder};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::image::REFS;
use crate::index::{Index, Run, merge, run, visit_sorted};
use crate::mark::{Live, Marks};
use crate::repository::{Damage, INDEX, PACKS, Repository, SNAPSHOTS, pack_key, put_once, run_key};
use crate::session::{FoundSession, SESSIONS, State};
use crate::tree::Node;
use crate::window::WINDOW;
use crate::writer::Writer;
use crate::{Error, Result};

/// How to collect.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// A pack is rewritten when more than this share of its blobs is unused, from 0 to 1.
    pub unused_max: f64,
    /// Sessions to declare dead though their processes cannot be seen from here.
    pub revoke: Vec<String>,
    /// For how long what was forgotten can be brought back. With zero it is let go at once, and no clock is asked.
    pub window: SignedDuration,
    /// Believe this machine's clock though the repository's times give reason to doubt it.
    pub trust_clock: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { unused_max: 0.3, revoke: Vec::new(), window: WINDOW, trust_clock: false }
    }
}

/// What a collection means to do, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CollectOutcome {
    /// Snapshots that are kept.
    pub snapshots: usize,
    /// Snapshots that were forgotten and can still be brought back.
    pub forgotten: usize,
    /// Why nothing forgotten was let go: the clock of this machine is in doubt.
    pub clock_doubt: Option<String>,
    /// Packs in which nothing is used.
    pub unused_packs: usize,
    /// Their bytes.
    pub unused_bytes: u64,
    /// Packs whose used blobs are copied into new packs.
    pub rewritten_packs: usize,
    /// Their bytes.
    pub rewritten_bytes: u64,
    /// Manifests that nothing holds.
    pub unused_manifests: usize,
    /// Bytes deleted.
    pub deleted_bytes: u64,
    /// Bytes written for copies.
    pub written_bytes: u64,
    /// Packs that are condemned and wait for backups to end.
    pub pending_packs: usize,
    /// The sessions for which they wait, with what they do.
    pub waits_for: Vec<String>,
}

/// What a look at the repository says about a pack.
#[derive(Debug, Default, Clone, Copy)]
struct PackUse {
    used: u64,
    total: u64,
}

/// A plan for a collection: pure values.
#[derive(Debug, Default)]
struct Plan {
    unused: Vec<PackId>,
    rewrite: Vec<PackId>,
    manifests: Vec<SnapshotId>,
}

/// Packs below this share of the full size count as small.
const SMALL_SHARE: u64 = 8;
/// So many small packs are worth rewriting into few.
const SMALL_PACKS: usize = 16;

/// Decides which packs go and which are rewritten.
fn plan(
    uses: &HashMap<PackId, PackUse>,
    sizes: &HashMap<PackId, u64>,
    unused_max: f64,
    pack_bytes: u64,
) -> (Vec<PackId>, Vec<PackId>) {
    let (mut unused, mut rewrite, mut small) = (Vec::new(), Vec::new(), Vec::new());
    for (pack, size) in sizes {
        let pack_use = uses.get(pack).copied().unwrap_or_default();
        let unused_share = 1.0 - pack_use.used as f64 / pack_use.total.max(1) as f64;
        if pack_use.used == 0 {
            unused.push(*pack);
        } else if unused_share > unused_max {
            rewrite.push(*pack);
        } else if *size < pack_bytes / SMALL_SHARE {
            small.push(*pack);
        }
    }
    if small.len() >= SMALL_PACKS {
        rewrite.extend(small);
    }
    unused.sort_unstable();
    rewrite.sort_unstable();
    (unused, rewrite)
}

impl Repository {
    /// What a collection would do now. Changes nothing.
    ///
    /// # Errors
    /// Something that a live snapshot needs is missing or damaged, or the store fails.
    pub fn plan_collect(&self, options: &CollectOptions) -> Result<CollectOutcome> {
        let (due, clock_doubt) = self.due(options)?;
        let live = self.live()?.without(&due);
        let blobs = Blobs::with_index(self, self.load_index()?);
        let (plan, _, mut outcome) = self.look(&blobs, &live, options)?;
        outcome.clock_doubt = clock_doubt;
        outcome.describe(&plan, &blobs.index().states().present);
        Ok(outcome)
    }

    /// Deletes what nothing needs. Safe while backups, restores and other collections run; what a running backup
    /// may still refer to is left for the next collection.
    ///
    /// # Errors
    /// Something that a live snapshot needs is missing or damaged (then nothing is deleted), the store fails, or the
    /// work is cancelled. The next collection goes on where this one stopped.
    pub fn collect(&self, options: &CollectOptions, control: &dyn Control) -> Result<CollectOutcome> {
        self.end_dead_sessions(&options.revoke)?;
        self.complete_sessions()?;
        let clock_doubt = self.let_go(options)?;
        let mut deleted_bytes = 0;
        for _ in 1..LOOKS_MAX {
            match self.collect_once(options, control, &mut deleted_bytes) {
                // Another collection has merged a run, and the store does not let those read on who have it open.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
                Ok(outcome) => return Ok(CollectOutcome { clock_doubt, ..outcome }),
            }
        }
        let outcome = self.collect_once(options, control, &mut deleted_bytes)?;
        Ok(CollectOutcome { clock_doubt, ..outcome })
    }

    /// Goes on with the lists that are there, and makes a new one. What is deleted is added to `deleted_bytes`.
    fn collect_once(
        &self,
        options: &CollectOptions,
        control: &dyn Control,
        deleted_bytes: &mut u64,
    ) -> Result<CollectOutcome> {
        let mut outcome = CollectOutcome::default();
        for list in self.condemned_lists()? {
            *deleted_bytes += self.finish_list(list, &mut outcome)?;
        }

        let (live, blobs) = self.look_at_all()?;
        let (plan, marks, looked) = self.look(&blobs, &live, options)?;
        let CollectOutcome { pending_packs, waits_for, .. } = outcome;
        outcome = CollectOutcome { pending_packs, waits_for, ..looked };
        outcome.describe(&plan, &blobs.index().states().present);
        if control.is_cancelled() {
            return Err(Error::Interrupted);
        }
        if !plan.rewrite.is_empty() {
            outcome.written_bytes = self.rewrite(&marks, &plan.rewrite, control)?;
        }
        if !(plan.unused.is_empty() && plan.rewrite.is_empty() && plan.manifests.is_empty()) {
            let packs = plan.unused.iter().chain(&plan.rewrite).copied().collect();
            let list = self.condemn(packs, plan.manifests)?;
            *deleted_bytes += self.finish_list(list, &mut outcome)?;
        } else if blobs.index().runs().len() > RUNS_MAX || !blobs.index().speaks_of_present_packs() {
            self.merge_runs(&HashSet::new())?;
        }
        *deleted_bytes += self.sweep_parity()?;
        *deleted_bytes += self.store().sweep_leftovers()?;
        outcome.deleted_bytes = *deleted_bytes;
        outcome.waits_for.sort_unstable();
        outcome.waits_for.dedup();
        Ok(outcome)
    }

    /// What is published, and an index in which all of it is found.
    ///
    /// Snapshots first: what is published between the two looks is then in the index though not among the snapshots,
    /// never the other way round. The index is compared with its names, because whatever it does not speak of is about
    /// to be deleted, and because merging would give a damaged entry a sound name.
    fn look_at_all(&self) -> Result<(Live, Blobs)> {
        let live = self.live()?;
        let mut index = self.load_index()?;
        self.verify_runs(index.runs())?;
        self.adopt_orphans(&mut index)?;
        Ok((live, Blobs::with_compared_index(self, index)))
    }

    /// Compares runs with their names.
    fn verify_runs(&self, runs: &[Arc<Run>]) -> Result<()> {
        for run in runs {
            if !run.verify()? {
                return Err(self.damaged(
                    run_key(run.id)?.as_str(),
                    "its content does not match its name; run rebuild-index",
                ));
            }
        }
        Ok(())
    }

    /// Marks what is in use, and plans.
    fn look(
        &self,
        blobs: &Blobs,
        live: &Live,
        options: &CollectOptions,
    ) -> Result<(Plan, Marks, CollectOutcome)> {
        let marks = self.mark(blobs, live)?;
        let index = &marks.index;
        let uses = pack_uses(index, &marks)?;
        let states = index.states();
        let candidates: HashMap<PackId, u64> = states
            .present
            .iter()
            .filter(|(pack, _)| !states.condemned.contains(*pack))
            .map(|(pack, size)| (*pack, *size))
            .collect();
        let (unused, rewrite) =
            plan(&uses, &candidates, options.unused_max, u64::from(self.config().pack_bytes));
        // Used chunks cannot be taken out of a pack that cannot be read; packs that hold nothing used can go all the same.
        let rewrite = if self.keyring().reads_chunks() { rewrite } else { Vec::new() };
        let kept = live.ids();
        let listed: HashSet<SnapshotId> =
            self.condemned_lists()?.into_iter().flat_map(|list| list.record.snapshots).collect();
        let manifests = self
            .store()
            .list(SNAPSHOTS)?
            .iter()
            .filter_map(|entry| entry.key.name().parse().ok())
            .filter(|id| !kept.contains(id) && !listed.contains(id))
            .collect();
        let outcome = CollectOutcome {
            snapshots: live.published.len() - live.forgotten,
            forgotten: live.forgotten,
            ..CollectOutcome::default()
        };
        Ok((Plan { unused, rewrite, manifests }, marks, outcome))
    }

    /// Declares sessions dead whose processes have ended for certain, and those that the caller names.
    pub(crate) fn end_dead_sessions(&self, revoke: &[String]) -> Result<()> {
        let sessions = self.sessions()?;
        for id in revoke {
            if !sessions.iter().any(|session| session.record.id == *id) {
                return Err(Error::Invalid(format!(
                    "there is no session {id}: collect without --revoke lists them"
                )));
            }
        }
        for session in sessions {
            let dead = session.record.state == State::Open
                && (self.has_ended(&session.record.process) || revoke.contains(&session.record.id));
            if dead && session.revoke(self)? {
                self.bury(&session)?;
            }
        }
        Ok(())
    }

    /// Takes a condemned list as far as it can be taken now; returns the bytes deleted.
    pub(crate) fn finish_list(&self, mut list: FoundList, outcome: &mut CollectOutcome) -> Result<u64> {
        if !list.record.decided {
            let waits_for = match &list.record.waits_for {
                Some(sessions) => sessions.clone(),
                None => {
                    // Whoever is registered now may have looked before the list was there; whoever registers later
                    // sees it.
                    // One that deletes refers to nothing.
                    let writers = self.sessions()?.into_iter().filter(|session| !session.record.deletes);
                    let sessions: Vec<String> = writers.map(|session| session.record.id).collect();
                    list.record.waits_for = Some(sessions.clone());
                    if !self.replace_list(&mut list)? {
                        return Ok(0);
                    }
                    sessions
                }
            };
            let alive = self.still_open(&waits_for)?;
            if !alive.is_empty() {
                outcome.pending_packs += list.record.packs.len();
                outcome.waits_for.extend(alive);
                return Ok(0);
            }
            self.complete_sessions()?;
            if !self.decide(&mut list)? {
                return Ok(0);
            }
        }
        self.delete_listed(&list)
    }

    /// The sessions among `ids` that are still open, described.
    fn still_open(&self, ids: &[String]) -> Result<Vec<String>> {
        let describe = |session: FoundSession| {
            let process = &session.record.process;
            format!(
                "{} ({} by process {} on {} since {})",
                session.record.id, session.record.purpose, process.pid, process.host, session.record.created
            )
        };
        Ok(self
            .sessions()?
            .into_iter()
            .filter(|session| session.record.state == State::Open && ids.contains(&session.record.id))
            .map(describe)
            .collect())
    }

    /// Looks again and takes from the list what is needed after all; `false` when another collection was faster.
    fn decide(&self, list: &mut FoundList) -> Result<bool> {
        let (live, blobs) = self.look_at_all()?;
        let marks = self.mark(&blobs, &live)?;
        // What was seen may not be durable yet: a forgotten snapshot, an ended session, another copy of a blob. It must
        // not come undone once something was deleted because of it.
        for prefix in [SESSIONS, REFS, PACKS, INDEX] {
            self.store().settle(prefix)?;
        }
        let kept = live.ids();
        list.record.packs.retain(|pack| !marks.needed_condemned.contains(pack));
        list.record.snapshots.retain(|snapshot| !kept.contains(snapshot));
        list.record.decided = true;
        self.replace_list(list)
    }

    /// Deletes what a decided list names, and the list last of all.
    fn delete_listed(&self, list: &FoundList) -> Result<u64> {
        let packs: HashSet<PackId> = list.record.packs.iter().copied().collect();
        self.merge_runs(&packs)?;
        let sizes: HashMap<PackId, u64> = self.present_packs()?;
        let mut deleted = 0;
        for pack in &list.record.packs {
            if self.store().delete(&pack_key(*pack)?)? {
                deleted += sizes.get(pack).copied().unwrap_or(0);
            }
        }
        self.delete_manifests(&list.record.snapshots)?;
        // The list must not go before what it names has gone for good.
        for prefix in [PACKS, INDEX, SNAPSHOTS] {
            self.store().settle(prefix)?;
        }
        self.store().delete(&list.key)?;
        Ok(deleted)
    }

    /// Merges all runs into few, without the entries of `without` and of packs that are gone.
    pub(crate) fn merge_runs(&self, without: &HashSet<PackId>) -> Result<()> {
        // Runs first, packs after: a pack that a run speaks of and that is not there is then gone, not still to come.
        let runs = self.load_runs(Damage::Refuse)?;
        self.verify_runs(&runs)?;
        let present = self.present_packs()?;
        let mut kept = HashSet::new();
        let keep = |pack: &PackId| !without.contains(pack) && present.contains_key(pack);
        merge(&runs, keep, |encoded: run::EncodedRun| {
            put_once(self.store(), &run_key(encoded.id)?, &encoded.bytes)?;
            kept.insert(encoded.id);
            Ok(())
        })?;
        // A run that was there already may have been written by another, and not be durable yet.
        self.store().settle(INDEX)?;
        for run in &runs {
            if !kept.contains(&run.id) {
                self.store().delete(&run_key(run.id)?)?;
            }
        }
        Ok(())
    }

    /// Copies what is used in some packs into new ones; returns the bytes written.
    fn rewrite(&self, marks: &Marks, packs: &[PackId], control: &dyn Control) -> Result<u64> {
        let used = used_blobs(&marks.index, marks, packs)?;
        let mut writer = Writer::begin(self, "collection".to_owned())?;
        let mut copier = Copier {
            repository: self,
            writer: &writer,
            encoder: self.frame_encoder()?,
            decoder: self.frame_decoder()?,
            content: Vec::new(),
            ids: Vec::new(),
            lengths: Vec::new(),
        };
        for pack in packs {
            if control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let Some(used) = used.get(pack) else { continue };
            match copier.copy(*pack, used) {
                // Another collection was faster: what is used of it is elsewhere by now.
                Err(error) if error.is_not_found() => copier.clear(),
                other => other?,
            }
        }
        writer.flush()?;
        let written = writer.stored_bytes();
        writer.abandon()?;
        Ok(written)
    }
}

/// How often a collection looks when others move things under it.
const LOOKS_MAX: usize = 3;
/// More runs than this are merged even when nothing is deleted.
const RUNS_MAX: usize = 32;

impl CollectOutcome {
    fn describe(&mut self, plan: &Plan, sizes: &HashMap<PackId, u64>) {
        let bytes = |packs: &[PackId]| packs.iter().filter_map(|pack| sizes.get(pack)).sum();
        self.unused_packs = plan.unused.len();
        self.unused_bytes = bytes(&plan.unused);
        self.rewritten_packs = plan.rewrite.len();
        self.rewritten_bytes = bytes(&plan.rewrite);
        self.unused_manifests = plan.manifests.len();
    }
}

/// How much of each pack is used. An entry that several runs have counts once.
fn pack_uses(index: &Index, marks: &Marks) -> Result<HashMap<PackId, PackUse>> {
    let mut uses: HashMap<PackId, PackUse> = HashMap::new();
    let mut last = None;
    visit_sorted(index.runs(), |entry, place| {
        let pack_use = uses.entry(entry.location.pack).or_default();
        pack_use.total += u64::from(last != Some(entry));
        pack_use.used += u64::from(marks.is_set(place));
        last = Some(entry);
        Ok(())
    })?;
    Ok(uses)
}

/// The used blobs of some packs.
fn used_blobs(index: &Index, marks: &Marks, packs: &[PackId]) -> Result<HashMap<PackId, HashSet<BlobId>>> {
    let mut used: HashMap<PackId, HashSet<BlobId>> =
        packs.iter().map(|pack| (*pack, HashSet::new())).collect();
    for (number, run) in index.runs().iter().enumerate() {
        run.scan::<Error>(|rank, entry| {
            if marks.is_set((number, rank))
                && let Some(used) = used.get_mut(&entry.location.pack)
            {
                used.insert(entry.id);
            }
            Ok(())
        })?;
    }
    Ok(used)
}

/// Copies blobs from old packs into new frames.
struct Copier<'a> {
    repository: &'a Repository,
    writer: &'a Writer,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    content: Vec<u8>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
}

impl Copier<'_> {
    fn copy(&mut self, pack: PackId, used: &HashSet<BlobId>) -> Result<()> {
        let key = pack_key(pack)?;
        let directory = self.repository.pack_directory(pack)?;
        let object = self.repository.store().open(&key)?;
        let (mut bytes, mut content) = (Vec::new(), Vec::new());
        for frame in &directory.frames {
            if !frame.blobs.iter().any(|id| used.contains(id)) {
                continue;
            }
            let damaged = |what: String| self.repository.damaged(key.as_str(), what);
            bytes.resize(frame.length as usize, 0);
            object.read_at(&mut bytes, u64::from(frame.offset))?;
            self.decoder.decode(directory.kind, &bytes, &mut content).map_err(damaged)?;
            let mut rest = content.as_slice();
            for id in &frame.blobs {
                let (length, name) = match directory.kind {
                    BlobKind::Chunk => {
                        let length = self.repository.config().chunk_bytes();
                        (length, rest.get(..length).map(|bytes| self.repository.keys().chunk(bytes)))
                    }
                    BlobKind::Node => {
                        let length = Node::decode(rest).map_err(damaged)?.1;
                        (length, rest.get(..length).map(|bytes| self.repository.keys().node(bytes)))
                    }
                };
                if name != Some(*id) {
                    return Err(Error::WrongContent {
                        store: self.repository.location().to_owned(),
                        kind: directory.kind.name(),
                        id: *id,
                        pack,
                    });
                }
                let (blob, after) = rest.split_at(length);
                rest = after;
                if used.contains(id) {
                    self.content.extend_from_slice(blob);
                    self.ids.push(*id);
                    self.lengths.push(length as u32);
                }
            }
            if self.content.len() + self.repository.config().chunk_bytes()
                > self.repository.config().frame_bytes()
            {
                self.flush(directory.kind)?;
            }
        }
        // Frames hold one kind only, so nothing is carried over to the next pack.
        self.flush(directory.kind)
    }

    fn clear(&mut self) {
        self.content.clear();
        self.ids.clear();
        self.lengths.clear();
    }

    fn flush(&mut self, kind: BlobKind) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode(kind, &self.content)?;
        self.content.clear();
        let (ids, lengths) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.lengths));
        match kind {
            BlobKind::Chunk => self.writer.push_chunks(&frame, ids),
            BlobKind::Node => self.writer.push_nodes(&frame, ids, lengths),
        }
    }
}
