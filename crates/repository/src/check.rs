//! Is everything there, and is it what it should be?
//!
//! Every stored object is looked at: configuration, refs, sessions, condemned lists, manifests, index runs, pack
//! directories, tree nodes; with `read_data` also every stored byte of the packs. What is wrong is told by object, with
//! the snapshots that it touches. Without keys, stored bytes are compared with the digests that go with them.

mod sealed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::condemned::{CONDEMNED, CondemnedRecord};
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId, RunId, SnapshotId, domain, stored_digest};
use crate::image::{ImageName, REFS};
use crate::index::{Entry, Index, PackStates, Run};
use crate::pack::{self, Directory};
use crate::record::{Kind, RECORD_BYTES_MAX};
use crate::repository::{INDEX, PACKS, Repository, SNAPSHOTS, pack_key, run_key};
use crate::session::{SESSIONS, SessionRecord, State, session_key};
use crate::tree::Node;
use crate::{Error, Result};

/// How much of the packs to read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ReadData {
    /// Only what describes them.
    #[default]
    No,
    /// Every byte.
    All,
    /// Every byte of this share of them, from 0 to 1, chosen anew each time.
    Share(f64),
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Key of the object, or the name of what is missing.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The snapshots that it touches, as `IMAGE@DIGEST`.
    pub touches: Vec<String>,
    /// What to do about it.
    pub advice: &'static str,
}

/// What a check saw.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct CheckOutcome {
    /// Snapshots whose trees were walked.
    pub snapshots: usize,
    /// Tree nodes read and compared with their names.
    pub nodes: u64,
    /// Chunks looked up, each once for each leaf that holds it.
    pub chunks: u64,
    /// Packs whose directories were read and compared with their names.
    pub packs: usize,
    /// Bytes of packs that were read and compared.
    pub read_bytes: u64,
    /// What could not be looked into, for want of a key.
    pub not_checked: Vec<&'static str>,
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
}

/// How often a check is done when collections move things under it.
const LOOKS_MAX: usize = 3;
const FROM_A_COPY: &str =
    "restore this object from another copy of the repository, or forget the snapshots that it touches";
const LOST_REF: &str =
    "restore this object from another copy of the repository; until then collections keep the snapshots";
const REBUILD: &str = "run rebuild-index";
const HARMLESS: &str = "nothing is lost; delete the object";
const NO_COLLECT: &str = "nothing is lost; delete the object while no collect runs";

impl Repository {
    /// Checks the repository.
    ///
    /// # Errors
    /// The store fails, or the work is cancelled. What is wrong with the repository is no error but a finding.
    pub fn check(&self, read: ReadData, control: &dyn Control) -> Result<CheckOutcome> {
        let mut seen = self.store().list(INDEX)?;
        for _ in 1..LOOKS_MAX {
            let outcome = self.check_once(read, control)?;
            if outcome.findings.is_empty() {
                return Ok(outcome);
            }
            // What seems to be missing may have been moved by a collection meanwhile.
            let now = self.store().list(INDEX)?;
            if now == seen {
                return Ok(outcome);
            }
            seen = now;
        }
        self.check_once(read, control)
    }

    fn check_once(&self, read: ReadData, control: &dyn Control) -> Result<CheckOutcome> {
        let mut check = Check {
            repository: self,
            control,
            outcome: CheckOutcome::default(),
            bad: HashMap::new(),
            missing: Vec::new(),
            snapshots: Vec::new(),
        };
        check.tell_limits();
        check.wrapped_keys()?;
        // Refs first: what is published later is not looked for.
        check.small_objects()?;
        // As in `load_index`, but what is damaged becomes a finding.
        let condemned = match self.condemned_packs() {
            // It has been told already.
            Err(Error::Damaged { .. }) => HashSet::new(),
            other => other?,
        };
        let runs = check.runs()?;
        let present = self.present_packs()?;
        let blobs = Blobs::with_compared_index(self, Index::new(runs, PackStates { present, condemned }));
        check.packs(&blobs, read)?;
        if check.has_keys() {
            check.trees(&blobs)?;
        }
        check.drop_harmless();
        let mut outcome = check.outcome;
        outcome.findings.sort();
        Ok(outcome)
    }
}

type BadCopies = HashMap<BlobId, Vec<(PackId, usize)>>;

struct Check<'a> {
    repository: &'a Repository,
    control: &'a dyn Control,
    outcome: CheckOutcome,
    /// Copies of blobs that cannot be had: in which pack, and the number of the finding that says so.
    bad: BadCopies,
    /// Findings about packs that are missing: they matter only when something published is in them.
    missing: Vec<usize>,
    /// What is published: image and snapshot.
    snapshots: Vec<(ImageName, SnapshotId)>,
}

impl Check<'_> {
    fn find(&mut self, object: impl Into<String>, what: impl Into<String>, advice: &'static str) -> usize {
        self.outcome.findings.push(Finding {
            object: object.into(),
            what: what.into(),
            touches: Vec::new(),
            advice,
        });
        self.outcome.findings.len() - 1
    }

    fn stop_when_cancelled(&self) -> Result<()> {
        if self.control.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn small_objects(&mut self) -> Result<()> {
        let store = self.repository.store();
        for entry in store.list(REFS)? {
            let Some(name) = ImageName::from_key(&entry.key) else {
                self.find(entry.key.as_str(), "its name is not that of an image", HARMLESS);
                continue;
            };
            match self.repository.read_ref(&name) {
                Ok(Some((image, _))) => {
                    self.snapshots.extend(image.snapshots.iter().map(|entry| (name.clone(), entry.id)));
                }
                Ok(None) => {}
                Err(Error::Damaged { key, what, .. }) => {
                    let number = self.find(key, what, FROM_A_COPY);
                    self.outcome.findings[number].touches = vec![format!("{name} (all of its snapshots)")];
                }
                Err(error) => return Err(error),
            }
        }
        for (prefix, kind) in [(SESSIONS, Kind::Session), (CONDEMNED, Kind::Condemned)] {
            for entry in store.list(prefix)? {
                let bytes = match store.get(&entry.key, RECORD_BYTES_MAX) {
                    Ok((bytes, _)) => bytes,
                    Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                let flaw = match kind {
                    Kind::Session => {
                        match self.repository.decode_record::<SessionRecord>(kind, &entry.key, &bytes) {
                            Ok(SessionRecord { state: State::Committed { snapshots }, .. }) => {
                                // Published, though its writer did not get to the refs.
                                let published = snapshots.into_iter();
                                self.snapshots.extend(published.map(|one| (one.image, one.entry.id)));
                                None
                            }
                            other => other.err(),
                        }
                    }
                    _ => self.repository.decode_record::<CondemnedRecord>(kind, &entry.key, &bytes).err(),
                };
                let flaw = flaw.map(|error| match error {
                    Error::Damaged { what, .. } => what,
                    other => other.to_string(),
                });
                if let Some(what) = flaw {
                    let advice = if kind == Kind::Condemned { NO_COLLECT } else { HARMLESS };
                    self.find(entry.key.as_str(), what, advice);
                }
            }
        }
        self.snapshots.sort_unstable();
        self.snapshots.dedup();
        if !self.has_keys() {
            return self.stored_manifests();
        }
        let published: HashSet<SnapshotId> = self.snapshots.iter().map(|(_, id)| *id).collect();
        for (id, snapshot) in self.repository.stranded_snapshots(&published)? {
            // The first backup of an image has no ref yet while it runs.
            if session_key(&snapshot.session).is_some_and(|key| store.open(&key).is_ok()) {
                continue;
            }
            let Ok(image) = snapshot.image.parse::<ImageName>() else { continue };
            let what = "it is missing, but snapshots of the image are there";
            let number = self.find(image.key()?.as_str(), what, LOST_REF);
            self.outcome.findings[number].touches.push(format!("{image}@{}", id.short()));
        }
        for entry in store.list(SNAPSHOTS)? {
            let Ok(id) = entry.key.name().parse::<SnapshotId>() else {
                self.find(entry.key.as_str(), "its name is not a digest", HARMLESS);
                continue;
            };
            // Those that are published are read with their trees.
            if !published.contains(&id)
                && let Err(Error::Damaged { key, what, .. }) = self.repository.snapshot(id)
            {
                self.find(key, format!("{what} (no image holds it)"), HARMLESS);
            }
        }
        Ok(())
    }

    /// Opens and checks the index runs; those that are sound are returned.
    fn runs(&mut self) -> Result<Vec<std::sync::Arc<Run>>> {
        let store = self.repository.store();
        let mut runs = Vec::new();
        for entry in store.list(INDEX)? {
            self.stop_when_cancelled()?;
            let Ok(id) = entry.key.name().parse::<RunId>() else {
                self.find(entry.key.as_str(), "its name is not a digest", HARMLESS);
                continue;
            };
            let object = match store.open(&run_key(id)?) {
                Ok(object) => object,
                Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match Run::open(id, object, store.name()).and_then(|run| Ok((run.verify()?, run))) {
                Ok((true, run)) => runs.push(std::sync::Arc::new(run)),
                Ok((false, _)) => {
                    self.find(entry.key.as_str(), "its content does not match its name", REBUILD);
                }
                Err(Error::Damaged { key, what, .. }) => {
                    self.find(key, what, REBUILD);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
    }

    fn packs(&mut self, blobs: &Blobs, read: ReadData) -> Result<()> {
        let index = blobs.index();
        let mut listed: Vec<(PackId, u64)> =
            index.states().present.iter().map(|(pack, size)| (*pack, *size)).collect();
        listed.sort_unstable();
        for entry in self.repository.store().list(PACKS)? {
            if entry.key.name().parse::<PackId>().is_err() {
                self.find(entry.key.as_str(), "its name is not a digest", HARMLESS);
            }
        }
        let mut frames: HashMap<PackId, Vec<(u32, u32)>> = HashMap::new();
        let mut known: HashSet<PackId> =
            index.runs().iter().flat_map(|run| run.packs.iter().copied()).collect();
        let mut unreadable = HashSet::new();
        for (pack, size) in &listed {
            self.stop_when_cancelled()?;
            match self.repository.pack_directory(*pack) {
                Ok(directory) => {
                    self.outcome.packs += 1;
                    self.indexed(*pack, &directory, &index, known.remove(pack))?;
                    frames.insert(
                        *pack,
                        directory.frames.iter().map(|frame| (frame.offset, frame.length)).collect(),
                    );
                    if self.is_chosen(read) {
                        self.read_pack(*pack, *size, &index)?;
                    }
                }
                Err(Error::Damaged { key, what, .. }) => {
                    let number = self.find(key, what, FROM_A_COPY);
                    self.blame_pack(*pack, number, &index)?;
                    unreadable.insert(*pack);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.entries(&index, &frames, &unreadable)
    }

    fn is_chosen(&self, read: ReadData) -> bool {
        match read {
            ReadData::No => false,
            ReadData::All => true,
            ReadData::Share(share) => {
                let mut random = [0; 8];
                // Without randomness everything is read: more work, never less.
                getrandom::fill(&mut random).is_err()
                    || (u64::from_le_bytes(random) as f64) < share * u64::MAX as f64
            }
        }
    }

    /// Every blob of a pack must be in the index.
    fn indexed(&mut self, pack: PackId, directory: &Directory, index: &Index, known: bool) -> Result<()> {
        if !known {
            // Left by a writer that died, or being written right now: the next backup takes it into the index.
            return Ok(());
        }
        for frame in &directory.frames {
            for blob in &frame.blobs {
                let mut found = false;
                for run in index.runs() {
                    run.find(blob, |_, location| found |= location.pack == pack)?;
                }
                if !found {
                    self.find(
                        format!("packs/{pack}"),
                        format!("the index lacks its {} {blob}", directory.kind.name()),
                        REBUILD,
                    );
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Every entry of the index must point to a frame.
    fn entries(
        &mut self,
        index: &Index,
        frames: &HashMap<PackId, Vec<(u32, u32)>>,
        unreadable: &HashSet<PackId>,
    ) -> Result<()> {
        let mut missing: BTreeMap<PackId, usize> = BTreeMap::new();
        for run in index.runs() {
            let mut wrong: Option<Entry> = None;
            run.scan::<Error>(|_, entry| {
                let pack = entry.location.pack;
                match frames.get(&pack) {
                    None if unreadable.contains(&pack) => {}
                    None => *missing.entry(pack).or_default() += 1,
                    Some(frames) => {
                        if frames.binary_search(&(entry.location.offset, entry.location.length)).is_err() {
                            wrong = Some(entry);
                        }
                    }
                }
                Ok(())
            })?;
            if let Some(entry) = wrong {
                let what =
                    format!("its entry for {} points to no frame of pack {}", entry.id, entry.location.pack);
                self.find(format!("index/{}", run.id), what, REBUILD);
            }
        }
        for (pack, count) in missing {
            // It may have been written after the packs were listed.
            if self.repository.store().open(&pack_key(pack)?).is_ok() {
                continue;
            }
            let number = self.find(
                format!("packs/{pack}"),
                format!("it is missing; the index has {count} blobs in it"),
                FROM_A_COPY,
            );
            self.missing.push(number);
            self.blame_pack(pack, number, index)?;
        }
        Ok(())
    }

    /// Notes that the blobs of a pack cannot be had from it.
    fn blame_pack(&mut self, pack: PackId, number: usize, index: &Index) -> Result<()> {
        let mut blobs = Vec::new();
        for run in index.runs() {
            run.scan::<Error>(|_, entry| {
                if entry.location.pack == pack {
                    blobs.push(entry.id);
                }
                Ok(())
            })?;
        }
        for blob in blobs {
            self.bad.entry(blob).or_default().push((pack, number));
        }
        Ok(())
    }

    /// Takes out the packs that are missing and that nothing published needs: a run may go on speaking of a pack that a
    /// collection deleted, until the next one merges it.
    fn drop_harmless(&mut self) {
        let findings = std::mem::take(&mut self.outcome.findings);
        let needed = |(number, finding): &(usize, Finding)| {
            !(finding.touches.is_empty() && self.missing.contains(number))
        };
        self.outcome.findings =
            findings.into_iter().enumerate().filter(needed).map(|(_, finding)| finding).collect();
    }

    /// Reads a pack and compares every byte.
    fn read_pack(&mut self, id: PackId, size: u64, index: &Index) -> Result<()> {
        let key = pack_key(id)?;
        let bytes = match self.repository.store().get(&key, size) {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let number = self.find(key.as_str(), format!("it cannot be read: {error}"), FROM_A_COPY);
                return self.blame_pack(id, number, index);
            }
        };
        self.outcome.read_bytes += bytes.len() as u64;
        self.control.advance(bytes.len() as u64);
        let directory = match pack::parse(id, &bytes) {
            Ok(directory) => directory,
            Err(what) => {
                let number = self.find(key.as_str(), what, FROM_A_COPY);
                return self.blame_pack(id, number, index);
            }
        };
        let mut decoder = self.repository.frame_decoder()?;
        let mut content = Vec::new();
        for frame in &directory.frames {
            let start = frame.offset as usize;
            let stored = bytes.get(start..start + frame.length as usize).unwrap_or_default();
            let flaw = if stored_digest(domain::FRAME, &[stored]) != frame.digest {
                Some("the bytes of the frame do not match their digest".to_owned())
            } else if !self.looks_into(directory.kind) {
                None
            } else {
                let decoded = decoder.decode(directory.kind, stored, &mut content);
                decoded.err().or_else(|| self.wrong_blob(directory.kind, &content, &frame.blobs))
            };
            if let Some(flaw) = flaw {
                let what =
                    format!("at offset {}: {flaw}; {} blobs are lost", frame.offset, frame.blobs.len());
                let number = self.find(key.as_str(), what, FROM_A_COPY);
                for blob in &frame.blobs {
                    self.bad.entry(*blob).or_default().push((id, number));
                }
            }
        }
        Ok(())
    }

    /// The first blob of a frame whose content does not match its name.
    fn wrong_blob(&self, kind: BlobKind, content: &[u8], blobs: &[BlobId]) -> Option<String> {
        let keys = self.repository.keys();
        let mut rest = content;
        for id in blobs {
            let (length, name) = match kind {
                BlobKind::Chunk => {
                    let length = self.repository.config().chunk_bytes();
                    (length, rest.get(..length).map(|bytes| keys.chunk(bytes)))
                }
                BlobKind::Node => match Node::decode(rest) {
                    Ok((_, length)) => (length, Some(keys.node(&rest[..length]))),
                    Err(what) => return Some(what),
                },
            };
            if name != Some(*id) {
                return Some(format!("{} {id} does not match its name", kind.name()));
            }
            rest = &rest[length..];
        }
        (!rest.is_empty()).then(|| "the frame holds more than its blobs".to_owned())
    }

    fn trees(&mut self, blobs: &Blobs) -> Result<()> {
        let mut walker = TreeWalker { blobs, seen: HashMap::new(), nodes: 0, chunks: 0, fresh: Vec::new() };
        for (image, id) in std::mem::take(&mut self.snapshots) {
            self.stop_when_cancelled()?;
            let label = format!("{image}@{}", id.short());
            let snapshot = match self.repository.snapshot(id) {
                Ok(snapshot) => snapshot,
                Err(Error::Damaged { key, what, .. }) => {
                    let number = self.find(key, what, FROM_A_COPY);
                    self.outcome.findings[number].touches.push(label);
                    continue;
                }
                Err(error) if error.is_not_found() => {
                    // Forgotten while the check ran?
                    let gone =
                        self.repository.read_ref(&image)?.is_none_or(|(image, _)| image.entry(id).is_none());
                    if !gone {
                        let number =
                            self.find(format!("snapshots/{id}"), "the manifest is missing", FROM_A_COPY);
                        self.outcome.findings[number].touches.push(label);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.outcome.snapshots += 1;
            let Some(root) = snapshot.root else { continue };
            let touched = walker.node(root, snapshot.root_level, &self.bad)?;
            for (id, what) in std::mem::take(&mut walker.fresh) {
                let number = self.find(what, "it cannot be had".to_owned(), FROM_A_COPY);
                // In no pack that is known.
                self.bad.entry(id).or_default().push((PackId([0; 32]), number));
            }
            for id in touched {
                for (_, number) in self.bad.get(&id).into_iter().flatten() {
                    let touches = &mut self.outcome.findings[*number].touches;
                    if touches.last() != Some(&label) {
                        touches.push(label.clone());
                    }
                }
            }
        }
        (self.outcome.nodes, self.outcome.chunks) = (walker.nodes, walker.chunks);
        Ok(())
    }
}

/// Walks trees, each subtree once.
struct TreeWalker<'a> {
    blobs: &'a Blobs,
    /// Subtrees walked, with the bad blobs found in them.
    seen: HashMap<BlobId, BTreeSet<BlobId>>,
    nodes: u64,
    chunks: u64,
    /// Bad blobs that no finding names yet, with how to name them.
    fresh: Vec<(BlobId, String)>,
}

impl TreeWalker<'_> {
    /// The bad blobs in the subtree of a node.
    fn node(&mut self, id: BlobId, level: u8, bad: &BadCopies) -> Result<BTreeSet<BlobId>> {
        if let Some(found) = self.seen.get(&id) {
            return Ok(found.clone());
        }
        let mut found = BTreeSet::new();
        match self.blobs.node(id, level) {
            Ok(node) => {
                self.nodes += 1;
                for child in node.children.into_iter().flatten() {
                    if level > 0 {
                        found.extend(self.node(child, level - 1, bad)?);
                    } else {
                        self.chunks += 1;
                        if !self.has_chunk(child, bad)? {
                            found.insert(child);
                        }
                    }
                }
            }
            Err(error) if error.kind() == crate::ErrorKind::Damaged || error.is_not_found() => {
                if !bad.contains_key(&id) {
                    self.fresh.push((id, format!("tree node {id} ({error})")));
                }
                found.insert(id);
            }
            Err(error) => return Err(error),
        }
        self.seen.insert(id, found.clone());
        Ok(found)
    }

    /// Whether a copy of the chunk is there that is not known to be bad.
    fn has_chunk(&mut self, id: BlobId, bad: &BadCopies) -> Result<bool> {
        let Some(bad) = bad.get(&id) else {
            if self.blobs.index().locate(&id)?.is_some() {
                return Ok(true);
            }
            return Ok(self.note_missing(id));
        };
        let places = self.blobs.index().places(&id)?;
        Ok(places.iter().any(|(location, _)| bad.iter().all(|(pack, _)| *pack != location.pack)))
    }

    fn note_missing(&mut self, id: BlobId) -> bool {
        if !self.fresh.iter().any(|(other, _)| *other == id) {
            self.fresh.push((id, format!("chunk {id} (not in the index)")));
        }
        false
    }
}
