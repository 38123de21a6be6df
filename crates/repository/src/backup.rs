//! From a disk to a snapshot.
//!
//! The disk is cut into leaves (the chunks under one node of the lowest level, 8 MiB by default), which workers take one
//! after the other. A worker reads what the source calls data, leaves out what is zero, names every chunk, and stores
//! the ones that the repository lacks: those of one stretch together, as a frame. Chunk names of a leaf become its node
//! at once, so memory does not grow with the disk but for one name per leaf.

//!
//! When a changed-block map tells what differs from an earlier snapshot, only that is read, and the rest of the tree is
//! taken over: whole subtrees by their names, without looking at them.

mod job;
mod storing;
mod stream;
mod tree;

use std::collections::{BTreeMap, HashSet};

use leeward_disk::Source;

use crate::id::SnapshotId;
use crate::image::{ImageName, ImageRef, SnapshotEntry};
use crate::repository::Repository;
use crate::session::Published;
use crate::snapshot::{
    BackupStatistics, CaptureMode, CaptureRecord, Consistency, GroupRecord, MANIFEST_VERSION, Snapshot,
    SourceRecord, VIRTUAL_SIZE_MAX,
};
use crate::writer::Writer;
use crate::{Error, ErrorKind, Result};
use job::{Job, Read};
use storing::{Counters, Root, Storing};
pub use stream::{Give, Given, Take};
use tree::{Base, Tree};

/// What is to be backed up, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The image to which the snapshot is added.
    pub image: ImageName,
    /// Where the content comes from, for the manifest.
    pub source: SourceRecord,
    /// How far the content agrees with itself.
    pub consistency: Consistency,
    /// Names and values given by the person.
    pub tags: BTreeMap<String, String>,
    /// Number of threads that read, hash and compress.
    pub threads: usize,
}

/// One disk of a group.
pub struct Member<'a> {
    /// The image to which the snapshot is added.
    pub image: ImageName,
    /// The disk.
    pub source: &'a dyn Source,
    /// Where the content comes from, for the manifest.
    pub record: SourceRecord,
    /// What has changed since an earlier snapshot; without it the whole disk is read.
    pub changed: Option<Changed>,
    /// How it was captured, for the manifest; a fall-back to reading the whole disk is noted in it.
    pub capture: Option<CaptureRecord>,
}

/// One disk that comes from its first byte to its last.
pub struct Stream<'a> {
    /// The image to which the snapshot is added.
    pub image: ImageName,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Where the content comes from, for the manifest.
    pub record: SourceRecord,
    /// Names and values beside those of the group.
    pub tags: BTreeMap<String, String>,
    /// Gives its bytes.
    pub give: Box<Give<'a>>,
}

/// What has changed on a disk since a snapshot was taken of it.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The snapshot. Where nothing has changed, the new snapshot is the same.
    pub base: SnapshotId,
    /// Offset and length in bytes of what may have changed, in order and apart.
    pub ranges: Vec<(u64, u64)>,
}

/// What concerns all disks of a group.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// Identity of the group and the machine; the images are filled in. None for disks that only travel together.
    pub group: Option<GroupRecord>,
    /// How far the content agrees with itself.
    pub consistency: Consistency,
    /// Names and values given by the person.
    pub tags: BTreeMap<String, String>,
    /// Number of threads that read, hash and compress.
    pub threads: usize,
}

/// Watches and stops long work.
pub trait Control: Sync {
    /// So many more bytes are done, of the disk's size or, where a changed-block map is used, of what it names.
    fn advance(&self, bytes: u64);

    /// Whether to stop as soon as possible.
    fn is_cancelled(&self) -> bool;

    /// Asked once when everything is read and stored, right before publication: whether the source can be believed.
    ///
    /// # Errors
    /// It cannot; nothing is then published.
    fn confirm(&self) -> Result<()> {
        Ok(())
    }
}

/// Asked right before publication: who cancelled by then gets nothing published, however far the work was.
pub(crate) fn confirm(control: &dyn Control) -> Result<()> {
    match control.is_cancelled() {
        true => Err(Error::Interrupted),
        false => control.confirm(),
    }
}

/// Watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unattended;

impl Control for Unattended {
    fn advance(&self, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What a backup made.
#[derive(Debug, Clone)]
pub struct BackupOutcome {
    /// The new snapshot.
    pub id: SnapshotId,
    /// Its manifest.
    pub snapshot: Snapshot,
}

impl Repository {
    /// Backs a disk up as a new snapshot of an image. When this returns, the snapshot survives anything.
    ///
    /// # Errors
    /// The source or the store fails, the work is cancelled, or a collection declared this writer dead. What was
    /// stored until then is used by the next backup.
    pub fn backup(
        &self,
        source: &dyn Source,
        options: &BackupOptions,
        control: &dyn Control,
    ) -> Result<BackupOutcome> {
        let member = Member {
            image: options.image.clone(),
            source,
            record: options.source.clone(),
            changed: None,
            capture: None,
        };
        let group = GroupOptions {
            group: None,
            consistency: options.consistency,
            tags: options.tags.clone(),
            threads: options.threads,
        };
        let outcomes = self.backup_group(&[member], &group, control)?;
        outcomes.into_iter().next().ok_or_else(|| Error::Invalid("nothing was backed up".to_owned()))
    }

    /// Backs several disks up, one after the other, and publishes their snapshots at once: either all of them are kept
    /// or none. When this returns, they survive anything.
    ///
    /// A changed-block map is used when the snapshot that it follows is still kept, of the same size and cut, and
    /// readable; otherwise the whole disk is read, and the reason is noted in the manifest.
    ///
    /// # Errors
    /// As [`Repository::backup`]; two members have one image; or the source was not confirmed.
    pub fn backup_group(
        &self,
        members: &[Member<'_>],
        options: &GroupOptions,
        control: &dyn Control,
    ) -> Result<Vec<BackupOutcome>> {
        let disks = members.iter().map(|member| (&member.image, member.source.virtual_size()));
        check_disks(disks)?;
        let images = members.iter().map(|member| member.image.clone()).collect();
        self.publish_group(images, options, control, &mut |number, writer| {
            self.capture(&members[number], options, writer, control)
        })
    }

    /// As [`Repository::backup_group`], of disks that come from their first byte to their last, one after the other. Each
    /// is compared with its image's last snapshot by digests as it comes; nothing of it is kept elsewhere.
    ///
    /// # Errors
    /// As [`Repository::backup`]; two disks have one image; a disk has another size than was said; or who gives failed.
    pub fn backup_streams(
        &self,
        streams: &mut [Stream<'_>],
        options: &GroupOptions,
        control: &dyn Control,
    ) -> Result<Vec<BackupOutcome>> {
        check_disks(streams.iter().map(|stream| (&stream.image, stream.virtual_size)))?;
        let images = streams.iter().map(|stream| stream.image.clone()).collect();
        self.publish_group(images, options, control, &mut |number, writer| {
            self.take_stream(&mut streams[number], options, writer, control)
        })
    }

    /// Has each disk of a group captured, in order, and publishes their snapshots at once.
    fn publish_group(
        &self,
        images: Vec<ImageName>,
        options: &GroupOptions,
        control: &dyn Control,
        capture: &mut dyn FnMut(usize, &Writer) -> Result<Snapshot>,
    ) -> Result<Vec<BackupOutcome>> {
        let created = self.now();
        let names: Vec<&str> = images.iter().map(ImageName::as_str).collect();
        let mut writer = Writer::begin(self, format!("backup of {}", names.join(", ")))?;
        self.complete_sessions_leniently()?;
        let mut drafts = Vec::with_capacity(images.len());
        for number in 0..images.len() {
            match capture(number, &writer) {
                Ok(draft) => drafts.push(draft),
                Err(error) => {
                    // What is stored so far is kept for the next run; the first error is the one to tell.
                    let _ = writer.abandon();
                    return Err(error);
                }
            }
        }
        writer.flush()?;
        share_stored(&mut drafts, writer.stored_bytes());
        let group = options
            .group
            .clone()
            .map(|group| GroupRecord { images: images.iter().map(ToString::to_string).collect(), ..group });
        let mut outcomes: Vec<BackupOutcome> = Vec::with_capacity(drafts.len());
        for mut snapshot in drafts {
            snapshot.group.clone_from(&group);
            snapshot.created = created.to_string();
            snapshot.session = writer.session_id().unwrap_or_default().to_owned();
            match self.put_snapshot(&snapshot) {
                Ok(id) => outcomes.push(BackupOutcome { id, snapshot }),
                Err(error) => {
                    let stored: Vec<SnapshotId> = outcomes.iter().map(|outcome| outcome.id).collect();
                    self.withdraw_snapshots(&stored);
                    return Err(error);
                }
            }
        }
        let published = images.into_iter().zip(&outcomes).map(|(image, outcome)| Published {
            image,
            entry: SnapshotEntry {
                id: outcome.id,
                created,
                virtual_size: outcome.snapshot.virtual_size,
                group: group.as_ref().map(|group| group.id.clone()),
                tags: outcome.snapshot.tags.clone(),
                holds: Vec::new(),
                origin: None,
            },
        });
        writer.commit(published.collect(), || confirm(control))?;
        Ok(outcomes)
    }

    /// Stores what is new of a disk as it comes, and returns the manifest but for what the group fills in.
    fn take_stream(
        &self,
        stream: &mut Stream<'_>,
        options: &GroupOptions,
        writer: &Writer,
        control: &dyn Control,
    ) -> Result<Snapshot> {
        // Read after the session was registered: what this ref holds cannot be collected from here on.
        let image = self.read_ref(&stream.image)?.map(|(image, _)| image);
        let last = image.as_ref().and_then(|image| image.snapshots.last()).map(|entry| entry.id);
        let hint = self.parent_tree(last, writer)?;
        let storing = Storing::new(self, writer, stream.virtual_size, hint, control);
        let root = stream::store(&storing, options.threads.max(1), stream.give.as_mut())?;
        let mut tags = options.tags.clone();
        tags.extend(stream.tags.clone());
        Ok(self.draft(
            (&stream.image, stream.virtual_size),
            (root, storing.into_counters()),
            (last, None),
            (stream.record.clone(), options.consistency, tags),
        ))
    }

    /// Reads one disk, stores what is new, and returns the manifest but for what the group fills in.
    pub(crate) fn capture(
        &self,
        member: &Member<'_>,
        options: &GroupOptions,
        writer: &Writer,
        control: &dyn Control,
    ) -> Result<Snapshot> {
        // Read after the session was registered: what this ref holds cannot be collected from here on.
        let image = self.read_ref(&member.image)?.map(|(image, _)| image);
        let last = image.as_ref().and_then(|image| image.snapshots.last()).map(|entry| entry.id);
        let mut capture = member.capture.clone();
        let mut parent = last;
        let mut attempt = None;
        if let Some(changed) = &member.changed {
            let base = self.base(member, changed, image.as_ref(), writer);
            let run = base.and_then(|base| {
                let job = Job::new(self, member.source, writer, None, control);
                let tree = job.run(options.threads.max(1), Read::Changed(&base))?;
                let mut counters = job.into_counters();
                counters.data = (base.data_bytes + counters.data).saturating_sub(counters.replaced);
                Ok((tree, counters))
            });
            match run {
                Ok(done) => {
                    parent = Some(changed.base);
                    attempt = Some(done);
                }
                Err(error) if error.kind() == ErrorKind::Damaged || is_unfit(&error) => {
                    let capture = capture.get_or_insert(CaptureRecord {
                        mode: CaptureMode::Full,
                        reason: None,
                        bitmap: None,
                        changed_bytes: None,
                    });
                    capture.mode = CaptureMode::Full;
                    capture.reason = Some(format!("the snapshot before cannot be built on: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        let made = match attempt {
            Some(done) => done,
            None => {
                let hint = self.parent_tree(last, writer)?;
                let job = Job::new(self, member.source, writer, hint, control);
                let tree = job.run(options.threads.max(1), Read::All)?;
                (tree, job.into_counters())
            }
        };
        Ok(self.draft(
            (&member.image, member.source.virtual_size()),
            made,
            (parent, capture),
            (member.record.clone(), options.consistency, options.tags.clone()),
        ))
    }

    /// The manifest of a disk, but for what the group fills in.
    fn draft(
        &self,
        (image, virtual_size): (&ImageName, u64),
        ((root, root_level), counters): (Root, Counters),
        (parent, capture): (Option<SnapshotId>, Option<CaptureRecord>),
        (source, consistency, tags): (SourceRecord, Consistency, BTreeMap<String, String>),
    ) -> Snapshot {
        let config = self.config();
        Snapshot {
            manifest_version: MANIFEST_VERSION,
            image: image.to_string(),
            virtual_size,
            chunk_bits: config.chunk_bits,
            fanout_bits: config.fanout_bits,
            root_level,
            root,
            parents: parent.into_iter().collect(),
            group: None,
            capture,
            source,
            consistency,
            tags,
            origin: None,
            created: String::new(),
            session: String::new(),
            tool: crate::config::tool(),
            statistics: BackupStatistics {
                data_bytes: counters.data,
                read_bytes: counters.read,
                new_bytes: counters.new,
                stored_bytes: 0,
            },
        }
    }

    /// The snapshot that a changed-block map follows, if one can build on it.
    fn base(
        &self,
        member: &Member<'_>,
        changed: &Changed,
        image: Option<&ImageRef>,
        writer: &Writer,
    ) -> Result<Base> {
        let unfit = |what: &str| Error::Unfit { snapshot: changed.base, what: what.to_owned() };
        // Only a snapshot that is in the ref now is safe from collections until this session ends.
        if image.and_then(|image| image.entry(changed.base)).is_none() {
            return Err(unfit("it is not kept any more"));
        }
        let snapshot = self.snapshot(changed.base)?;
        let config = self.config();
        if snapshot.virtual_size != member.source.virtual_size() {
            return Err(unfit("the disk had another size"));
        }
        if (snapshot.chunk_bits, snapshot.fanout_bits) != (config.chunk_bits, config.fanout_bits) {
            return Err(unfit("it was cut otherwise"));
        }
        let data_bytes = snapshot.statistics.data_bytes;
        Base::new(Tree::open(self, &snapshot)?, data_bytes, changed, writer.is_settled(), config)
    }

    /// The tree of the parent snapshot: a hint that saves lookups, never believed about content.
    fn parent_tree(&self, parent: Option<SnapshotId>, writer: &Writer) -> Result<Option<Tree>> {
        // While something is condemned every reuse has to be looked up, and the hint saves nothing. When a pack is
        // missing, the parent may be damaged: only the lookup tells what has to be stored again.
        let Some(parent) = parent.filter(|_| writer.is_settled()) else { return Ok(None) };
        let config = self.config();
        match self.snapshot(parent) {
            Ok(snapshot)
                if snapshot.chunk_bits == config.chunk_bits && snapshot.fanout_bits == config.fanout_bits =>
            {
                Ok(Some(Tree::open(self, &snapshot)?))
            }
            // A damaged parent must not stop a backup: the backup then mends what it can.
            Ok(_) | Err(Error::Damaged { .. }) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Disks of a group share packs: what was added to the store is divided by what each had that was new.
fn share_stored(drafts: &mut [Snapshot], stored: u64) {
    let total: u64 = drafts.iter().map(|draft| draft.statistics.new_bytes).sum();
    let mut left = stored;
    let count = drafts.len();
    for (index, draft) in drafts.iter_mut().enumerate() {
        let share = u128::from(stored) * u128::from(draft.statistics.new_bytes) / u128::from(total.max(1));
        let share = if index + 1 == count { left } else { (share as u64).min(left) };
        draft.statistics.stored_bytes = share;
        left -= share;
    }
}

fn is_unfit(error: &Error) -> bool {
    error.is_not_found() || matches!(error, Error::Unfit { .. })
}

fn check_disks<'a>(disks: impl Iterator<Item = (&'a ImageName, u64)>) -> Result<()> {
    let mut seen = HashSet::new();
    for (image, virtual_size) in disks {
        if virtual_size > VIRTUAL_SIZE_MAX {
            return Err(Error::Invalid(format!(
                "the disk says that it has {virtual_size} bytes, more than any disk can have"
            )));
        }
        if !seen.insert(image) {
            return Err(Error::Invalid(format!("two disks of the group are to become image {image}")));
        }
    }
    Ok(())
}
