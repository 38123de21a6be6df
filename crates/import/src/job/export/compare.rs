//! `compare_object`: the object read back as an import would read it, and compared with the snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leeward_disk::{Format, SharedSource, default_threads, is_zero, walk_extents};
use leeward_remote::objects::ObjectVersion;
use leeward_repository::{Control, RestoreMode};
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::send::{Made, head, is_same};
use super::{ExportFormat, ExportInputs, WRITE};
use crate::image::{Disk, ImageOptions};
use crate::job::Places;
use crate::job::fault::{self, Watching};
use crate::job::snapshot::{self, Found, SnapshotName};
use crate::pour::{Piece, PourOptions, Stopped, pour};

/// Bytes of the snapshot that are read at once.
const PIECE_BYTES: u64 = 2 << 20;

/// What the step keeps: a version of the object that was not found to be the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doubt {
    pub version: ObjectVersion,
}

/// The step.
pub(super) struct Compare(pub Arc<dyn Places>);

impl Step for Compare {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: ExportInputs = context.inputs()?;
        let made: Made = context.needed(WRITE)?;
        let bucket = self.0.bucket(&made.bucket).map_err(fault::of_place)?;
        let gone = |what: &str, hint: &str| {
            Fault::lasting(format!("{}: {what} since it was written", made.object), hint)
        };
        let found = head(&bucket, &made.object)?
            .ok_or_else(|| gone("the object was removed", "retry write_object, which writes it again"))?;
        if !is_same(&found.version, &made.version) {
            let hint =
                "what is there now stays: set another object, or replace to true, and retry write_object";
            return Err(gone("the object was replaced", hint));
        }
        let name = SnapshotName { image: inputs.image.clone(), snapshot: inputs.snapshot.clone() };
        let origin = Found::look(self.0.as_ref(), &name)?;
        let format = match inputs.format {
            ExportFormat::Qcow2 => Some(Format::Qcow2),
            ExportFormat::Raw => Some(Format::Raw),
            ExportFormat::Vmdk => Some(Format::Vmdk),
            ExportFormat::Vhd | ExportFormat::VhdFixed => Some(Format::Vhd),
            ExportFormat::Vhdx => Some(Format::Vhdx),
            ExportFormat::Zst => None,
        };
        let size = origin.entry.virtual_size;
        let options = ImageOptions { format, expanded_bytes_max: size.max(1), ..ImageOptions::default() };
        let watching = Watching { context, note: "opening the object" };
        let image = crate::image::open(&bucket.objects, &made.object, &found, &options, &watching)
            .map_err(|error| fault::of_import(&error))?;
        let [disk] = image.disks.as_slice() else {
            return Err(differs(&made.object, "it holds no one disk"));
        };
        // Images have whole sectors only, and some whole MiB; what is behind the disk is compared as zeros.
        let rounded = if inputs.format == ExportFormat::VhdFixed { 1 << 20 } else { 512 };
        if ![size, size.next_multiple_of(rounded)].contains(&disk.virtual_size()) {
            return Err(differs(&made.object, &format!("its disk has {} bytes", disk.virtual_size())));
        }
        let compared = match disk.source() {
            Some(source) => compare_chunks(context, &origin, &source, &made.object),
            None => compare_stream(context, &origin, disk, &made.object),
        };
        if let Err(Fault::Failed(_)) = &compared {
            // Who has the object written again wants it written, not found.
            context.keep(&Doubt { version: made.version.clone() })?;
        }
        compared?;
        context.say(format!("{} was read back: it is the disk of the snapshot, byte for byte", made.object));
        Outcome::done(&serde_json::json!({
            "bucket": made.bucket, "object": made.object, "object_bytes": found.bytes, "virtual_bytes": size,
            "digests": found.digests,
        }))
    }
}

fn differs(object: &str, what: &str) -> Fault {
    Fault::lasting(
        format!("{object} is not the disk of the snapshot: {what}"),
        "see the bucket's medium; retry write_object, which writes it again, or cancel the run, which removes it",
    )
}

/// Tells a run's state how far a comparison is.
struct Watch<'a> {
    context: &'a Context,
    total: u64,
    done: AtomicU64,
}

impl Control for Watch<'_> {
    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.context.progress(done.min(self.total), Some(self.total), "reading back and comparing");
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_stopped()
    }
}

/// By the names of the chunks, so the snapshot's own content is not read again.
fn compare_chunks(context: &Context, origin: &Found, disk: &SharedSource, object: &str) -> Result<(), Fault> {
    let failed = |error: leeward_repository::Error| snapshot::fault_of(&error);
    let known = origin.repository.snapshot(origin.entry.id).map_err(failed)?;
    let watch = Watch { context, total: known.virtual_size, done: AtomicU64::new(0) };
    let mode = RestoreMode::Compare(disk.as_ref());
    let outcome = origin.repository.restore(&known, mode, default_threads(), &watch).map_err(failed)?;
    match outcome.differing_bytes {
        0 => Ok(()),
        bytes => {
            let first = outcome.differing_offsets.first().copied().unwrap_or(0);
            Err(differs(object, &format!("{bytes} bytes differ, the first at byte {first} of the disk")))
        }
    }
}

/// What can be read in order only: beside the snapshot's content.
fn compare_stream(context: &Context, origin: &Found, disk: &Disk, object: &str) -> Result<(), Fault> {
    let source = origin.source()?;
    let failed = |error: leeward_disk::Error| fault::of_import(&error.into());
    let mut position = 0;
    let mut take = |piece: Piece| -> Result<(), Fault> {
        context.check()?;
        let (is_same, length) = match &piece {
            Piece::Data(data) => {
                let mut expected = vec![0; data.len()];
                source.read_at(&mut expected, position).map_err(failed)?;
                (expected == *data, data.len() as u64)
            }
            Piece::Zeros(length) => (is_empty(&source, position, *length)?, *length),
        };
        if !is_same {
            let what = format!("something differs in the {length} bytes at byte {position} of the disk");
            return Err(differs(object, &what));
        }
        position += length;
        Ok(())
    };
    let watching = Watching { context, note: "reading back and comparing" };
    pour(disk, &PourOptions::default(), &watching, &mut take).map(|_| ()).map_err(|stopped| match stopped {
        _ if context.is_stopped() => Fault::Stopped,
        Stopped::Read(error) => fault::of_import(&error),
        Stopped::Taken(fault) => fault,
    })
}

/// Whether a stretch of the snapshot is zero.
fn is_empty(source: &SharedSource, offset: u64, length: u64) -> Result<bool, Fault> {
    let mut empty = true;
    let mut buffer = Vec::new();
    walk_extents(source.as_ref(), offset, length, |extent| {
        let mut position = extent.offset;
        while empty && extent.kind.is_data() && position < extent.end() {
            buffer.resize(PIECE_BYTES.min(extent.end() - position) as usize, 0);
            source.read_at(&mut buffer, position)?;
            empty = is_zero(&buffer);
            position += buffer.len() as u64;
        }
        Ok::<(), leeward_disk::Error>(())
    })
    .map_err(|error| fault::of_import(&error.into()))?;
    Ok(empty)
}
