//! `write_object`: the object, sent in parts.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use leeward_remote::http::Bytes;
use leeward_remote::objects::{Existing, Metadata, ObjectHead, ObjectVersion, Part, Parts};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use leeward_store::{Error as StoreError, ErrorKind as StoreKind, RateLimit};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::compare::Doubt;
use super::{Asked, Bucket, COMPARE, ExportInputs, RUN_KEY, SNAPSHOT_KEY, WRITE};
use crate::job::snapshot::{Found, SnapshotName};
use crate::job::{Places, fault};

/// The smallest part, in bytes: small ones take little memory.
const PART_BYTES_MIN: u64 = 16 << 20;
/// Bytes of parts that are sent at once, at most, and parts: what there is in memory.
const FLIGHT_BYTES: u64 = 64 << 20;
const FLIGHT_PARTS: u64 = 4;
/// How many of the parts that there may be are planned for: what is compressed is not foreseen to the byte.
const PARTS_SHARE: u64 = 9;
/// How often what was sent is kept.
const KEEP_EVERY: Duration = Duration::from_secs(2);
const NAP: Duration = Duration::from_millis(100);

/// What the step keeps for its next attempt, and for its undo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// An upload that was to be begun, and the uploads of that object that were there before: of others.
    beginning: Option<Beginning>,
    /// The upload that is under way.
    upload: Option<Upload>,
    /// The objects that were made, in all attempts.
    made: Vec<Made>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Beginning {
    bucket: String,
    object: String,
    others: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Upload {
    of: Asked,
    id: String,
    part_bytes: u64,
    /// The tags of the parts that are there, without a gap.
    tags: Vec<String>,
    /// The position behind them.
    position: u64,
    /// Their bytes.
    bytes: u64,
    /// Whether the object may have been made of them.
    is_completing: bool,
}

/// What the step leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    of: Asked,
    pub bucket: String,
    pub object: String,
    pub version: ObjectVersion,
    pub bytes: u64,
}

/// The step.
pub(super) struct Write(pub Arc<dyn Places>);

/// How a bucket is written.
fn parts_of<'a>(name: &str, bucket: &'a Bucket) -> Result<&'a dyn Parts, Fault> {
    bucket.objects.parts().ok_or_else(|| {
        Fault::lasting(
            format!("bucket {name}: this service takes no exports"),
            "name a bucket of S3, OCI or Swift, or a directory, then retry the step",
        )
    })
}

/// What a service says that does not do what was asked.
fn refused(error: &StoreError) -> Fault {
    let text = leeward_store::with_causes(error);
    match error.kind() {
        StoreKind::AlreadyExists => Fault::lasting(
            text,
            "set another object, or replace to true, then retry the step; nothing was overwritten",
        ),
        StoreKind::NoSpace => Fault::passing(text, "free some room there, then retry the step"),
        StoreKind::Denied | StoreKind::Unsupported => {
            Fault::lasting(text, "see the rights of the bucket's credentials, then retry the step")
        }
        _ => Fault::passing(text, "see that the bucket answers, then retry the step"),
    }
}

/// The object, where there is one.
pub(super) fn head(bucket: &Bucket, object: &str) -> Result<Option<ObjectHead>, Fault> {
    match bucket.objects.head(object) {
        Ok(head) => Ok(Some(head)),
        Err(error) if error.kind() == StoreKind::NotFound => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// Whether two versions are the same: some services quote them here and not there.
pub(super) fn is_same(one: &ObjectVersion, other: &ObjectVersion) -> bool {
    one.0.trim_matches('"') == other.0.trim_matches('"')
}

/// Whether the metadata says that this run wrote an object. That alone says little: the metadata of a file lies beside it, and stays
/// there when somebody puts another file in its place.
fn is_marked(context: &Context, head: &ObjectHead) -> bool {
    head.metadata.get(RUN_KEY).map(String::as_str) == Some(context.run_id().as_str())
}

impl Made {
    /// Whether an object is this one: by its version, or by its size where nothing more is known.
    fn is_it(&self, context: &Context, head: &ObjectHead) -> bool {
        let is_it = match self.version.0.is_empty() {
            true => self.bytes == head.bytes,
            false => is_same(&self.version, &head.version),
        };
        is_it && is_marked(context, head)
    }
}

impl Kept {
    /// All that this run may have made. What was asked for last may have been made, and its answer have been lost: its version is
    /// not known then.
    fn made(&self) -> Vec<Made> {
        let completing = self.upload.iter().filter(|upload| upload.is_completing);
        let lost = completing.map(|upload| Made {
            bucket: upload.of.bucket.clone(),
            object: upload.of.object.clone(),
            version: ObjectVersion(String::new()),
            bytes: upload.bytes,
            of: upload.of.clone(),
        });
        lost.chain(self.made.iter().cloned()).collect()
    }

    /// Whether an object in that place is one that this run has made.
    fn has_made(&self, context: &Context, asked: &Asked, head: &ObjectHead) -> bool {
        let is_there = |made: &Made| (&made.bucket, &made.object) == (&asked.bucket, &asked.object);
        self.made().iter().any(|made| is_there(made) && made.is_it(context, head))
    }
}

/// Gives up what attempts before have begun. Of the uploads whose names were never learnt it is told which they are by which were
/// there before.
fn give_up(places: &dyn Places, context: &Context, kept: &mut Kept) -> Result<(), Fault> {
    if let Some(upload) = &kept.upload {
        let bucket = places.bucket(&upload.of.bucket).map_err(fault::of_place)?;
        let parts = parts_of(&upload.of.bucket, &bucket)?;
        parts.abort(&upload.of.object, &upload.id).map_err(|error| refused(&error))?;
        context.say(format!("the unfinished upload of {} is given up", upload.of.object));
        kept.upload = None;
        context.keep(&*kept)?;
    }
    if let Some(Beginning { bucket: name, object, others }) = &kept.beginning {
        let bucket = places.bucket(name).map_err(fault::of_place)?;
        let parts = parts_of(name, &bucket)?;
        for lost in parts.unfinished(object).map_err(|error| refused(&error))? {
            if !others.contains(&lost) {
                parts.abort(object, &lost).map_err(|error| refused(&error))?;
                context.say(format!("an upload of {object} whose beginning was not told is given up"));
            }
        }
        kept.beginning = None;
        context.keep(&*kept)?;
    }
    Ok(())
}

impl Step for Write {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: ExportInputs = context.inputs()?;
        let asked = Asked::from(&inputs);
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        let bucket = self.0.bucket(&inputs.bucket).map_err(fault::of_place)?;
        let parts = parts_of(&inputs.bucket, &bucket)?;
        let there = head(&bucket, &inputs.object)?;
        let mine = there.as_ref().filter(|head| kept.has_made(context, &asked, head)).cloned();
        let doubt: Option<Doubt> = context.kept_by(COMPARE)?;
        let is_doubted =
            |head: &ObjectHead| doubt.as_ref().is_some_and(|doubt| is_same(&doubt.version, &head.version));
        if let Some(head) = mine.as_ref().filter(|head| !is_doubted(head))
            && let Some(made) = Self::made(&kept, &asked, head)
        {
            context.say(format!("{} was written before the daemon ended", inputs.object));
            // What may be left of the upload: its object stays.
            if let Some(upload) = &kept.upload {
                let ended = parts.abort(&upload.of.object, &upload.id);
                ended.map_err(|error| refused(&error))?;
            }
            return Self::leave(context, &mut kept, made);
        }
        if there.is_some() && mine.is_none() && !inputs.replace {
            let (store, key) = (bucket.objects.name().to_owned(), inputs.object.clone());
            return Err(refused(&StoreError::AlreadyExists { store, key }));
        }
        let is_other = |made: &Made| (&made.bucket, &made.object) != (&asked.bucket, &asked.object);
        if kept.made.iter().any(is_other) {
            remove(self.0.as_ref(), context, kept.made.iter().filter(|made| is_other(made)))?;
            kept.made.retain(|made| !is_other(made));
            context.keep(&kept)?;
        }
        if kept.upload.as_ref().is_none_or(|upload| upload.of != asked) {
            give_up(self.0.as_ref(), context, &mut kept)?;
        }
        let name = SnapshotName { image: inputs.image.clone(), snapshot: inputs.snapshot.clone() };
        let found = Found::look(self.0.as_ref(), &name)?;
        let source = found.source()?;
        let identity = found.entry.id.as_bytes().first_chunk().copied().unwrap_or_default();
        let body = Body::new(&source, inputs.format, &inputs.object, &identity)?;
        if kept.upload.is_none() {
            let snapshot = format!("{}@{}", found.image, found.entry.id);
            begin(context, &mut kept, parts, &asked, &body, snapshot)?;
        }
        let Some(mut upload) = kept.upload.clone() else { return Err(Fault::Stopped) };
        if upload.bytes > 0 {
            context.say(format!("going on after {} parts of {} bytes", upload.tags.len(), upload.bytes));
        }
        let job = Job { context, parts, body: &body, limit: bucket.limit.as_deref(), object: &inputs.object };
        let sent = job.send(&mut upload, &mut |upload| {
            context.keep(&Kept { upload: Some(upload.clone()), ..kept.clone() })
        });
        sent.map_err(|stopped| match stopped {
            Broken::Fault(fault) => fault,
            Broken::Gone(error) => lost(context, &kept, &error),
            Broken::Refused(error) => refused(&error),
        })?;
        upload.is_completing = true;
        kept.upload = Some(upload.clone());
        context.keep(&kept)?;
        context.check()?;
        // Looked at again: it took a while, and somebody may have put another one there meanwhile.
        let before = head(&bucket, &inputs.object)?.map(|head| head.version);
        let is_unchanged =
            mine.is_some_and(|mine| before.as_ref().is_some_and(|now| is_same(now, &mine.version)));
        let existing = if inputs.replace || is_unchanged { Existing::Replace } else { Existing::Keep };
        let done = parts.complete(&inputs.object, &upload.id, &upload.tags, upload.bytes, existing);
        let version = match done {
            Ok(version) => version,
            // Its answer may have been lost, and this be the second time.
            Err(error) => match head(&bucket, &inputs.object)?.filter(|head| is_marked(context, head)) {
                Some(head) if head.bytes == upload.bytes && before.as_ref() != Some(&head.version) => {
                    // What may be left of the upload: its object stays.
                    if let Err(error) = parts.abort(&inputs.object, &upload.id) {
                        let what = format!("what is left of the upload of {}: {error}", inputs.object);
                        context.log(Level::Warning, &what);
                    }
                    head.version
                }
                _ if error.kind() == StoreKind::NotFound => return Err(lost(context, &kept, &error)),
                // What is there is not this upload's, which is known now.
                _ if error.kind() == StoreKind::AlreadyExists => {
                    kept.upload = Some(Upload { is_completing: false, ..upload });
                    context.keep(&kept)?;
                    return Err(refused(&error));
                }
                _ => return Err(refused(&error)),
            },
        };
        context.say(format!(
            "{}: {} bytes in {} parts, of {}",
            inputs.object,
            upload.bytes,
            upload.tags.len(),
            inputs.format
        ));
        let made =
            Made { bucket: inputs.bucket, object: inputs.object, version, bytes: upload.bytes, of: asked };
        Self::leave(context, &mut kept, made)
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        let mut kept: Kept = context.kept()?.unwrap_or_default();
        remove(self.0.as_ref(), context, kept.made().iter())?;
        give_up(self.0.as_ref(), context, &mut kept)
    }
}

/// Removes objects that this run has made, unless it has delivered them. What somebody has put in their place stays.
fn remove<'a>(
    places: &dyn Places,
    context: &Context,
    made: impl Iterator<Item = &'a Made>,
) -> Result<(), Fault> {
    let is_delivered = context.run().step(WRITE).is_some_and(|step| step.delivered > 0);
    for made in made {
        let Made { bucket: name, object, .. } = made;
        let bucket = places.bucket(name).map_err(fault::of_place)?;
        match head(&bucket, object)? {
            Some(_) if is_delivered => context.say(format!("{object} stays: the run had delivered it")),
            Some(head) if made.is_it(context, &head) => {
                bucket.objects.delete(object).map_err(|error| refused(&error))?;
                context.say(format!("{object} is removed"));
            }
            Some(_) => context.say(format!("{object} is not this run's: it stays")),
            None => {}
        }
    }
    Ok(())
}

impl Write {
    /// What an attempt before has made, if this object is it.
    fn made(kept: &Kept, asked: &Asked, head: &ObjectHead) -> Option<Made> {
        let before = kept.made.iter().rfind(|made| made.of == *asked && made.bytes == head.bytes);
        if let Some(made) = before {
            return Some(Made { version: head.version.clone(), ..made.clone() });
        }
        let upload = kept.upload.as_ref().filter(|upload| upload.is_completing && upload.of == *asked)?;
        (upload.bytes == head.bytes).then(|| Made {
            of: asked.clone(),
            bucket: asked.bucket.clone(),
            object: asked.object.clone(),
            version: head.version.clone(),
            bytes: head.bytes,
        })
    }

    fn leave(context: &Context, kept: &mut Kept, made: Made) -> Result<Outcome, Fault> {
        (kept.upload, kept.beginning) = (None, None);
        kept.made.retain(|before| (&before.bucket, &before.object) != (&made.bucket, &made.object));
        kept.made.push(made.clone());
        context.keep(&*kept)?;
        Outcome::done(&made)
    }
}

/// The service has no such upload any more: a rule of the bucket, or somebody, has given it up.
fn lost(context: &Context, kept: &Kept, error: &StoreError) -> Fault {
    if let Err(fault) = context.keep(&Kept { made: kept.made.clone(), ..Kept::default() }) {
        return fault;
    }
    context.log(Level::Warning, &leeward_store::with_causes(error));
    Fault::passing("the upload is not there any more", "it is begun again")
}

/// Begins the upload. What was there before is kept first: an upload whose name was never learnt is found by it.
fn begin(
    context: &Context,
    kept: &mut Kept,
    parts: &dyn Parts,
    asked: &Asked,
    body: &Body,
    snapshot: String,
) -> Result<(), Fault> {
    let most = *parts.part_bytes().end();
    let planned = (u64::from(parts.parts_max()) / 10).max(1) * PARTS_SHARE;
    let part_bytes = PART_BYTES_MIN.max(body.bytes_max().div_ceil(planned).next_multiple_of(1 << 20));
    if part_bytes > most {
        return Err(Fault::lasting(
            format!("{} bytes are more than an object can have there", body.bytes_max()),
            "export it to another bucket, or in another format",
        ));
    }
    let others = parts.unfinished(&asked.object).map_err(|error| refused(&error))?;
    kept.beginning = Some(Beginning { bucket: asked.bucket.clone(), object: asked.object.clone(), others });
    context.keep(&*kept)?;
    let metadata = Metadata::from([
        (RUN_KEY.to_owned(), context.run_id().to_string()),
        (SNAPSHOT_KEY.to_owned(), snapshot),
    ]);
    let id = parts.begin(&asked.object, &metadata).map_err(|error| refused(&error))?;
    kept.upload = Some(Upload {
        of: asked.clone(),
        id,
        part_bytes,
        tags: Vec::new(),
        position: 0,
        bytes: 0,
        is_completing: false,
    });
    kept.beginning = None;
    context.keep(&*kept)
}

/// Why not all was sent.
enum Broken {
    Fault(Fault),
    /// There is no such upload any more.
    Gone(StoreError),
    Refused(StoreError),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A part that was sent.
struct Sent {
    number: u32,
    bytes: u64,
    /// The position behind it.
    next: u64,
    tag: Result<String, StoreError>,
}

/// The sending while it is done.
struct Job<'a> {
    context: &'a Context,
    parts: &'a dyn Parts,
    body: &'a Body,
    limit: Option<&'a RateLimit>,
    object: &'a str,
}

impl Job<'_> {
    /// Sends what is not there yet. This thread makes parts while others send them.
    fn send(
        &self,
        upload: &mut Upload,
        keep: &mut dyn FnMut(&Upload) -> Result<(), Fault>,
    ) -> Result<(), Broken> {
        let at_once = (FLIGHT_BYTES / upload.part_bytes).clamp(1, FLIGHT_PARTS);
        let id = upload.id.clone();
        let (jobs, taken) = channel::<(Part, u64)>();
        let (done, results) = channel::<Sent>();
        let taken = Mutex::new(taken);
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                let (done, taken, id) = (done.clone(), &taken, &id);
                scope.spawn(move || self.work(id, taken, &done));
            }
            drop(done);
            let mut ahead = BTreeMap::new();
            let result = self.feed(upload, &mut ahead, at_once, (&jobs, &results), keep);
            drop(jobs);
            // What is on its way is still told, so that it need not be sent again.
            results.iter().for_each(|sent| drop(settle(upload, &mut ahead, sent)));
            keep(upload)?;
            result
        })
    }

    fn work(&self, id: &str, taken: &Mutex<Receiver<(Part, u64)>>, done: &Sender<Sent>) {
        loop {
            let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((part, next)) = job else { return };
            let tag = self.parts.send(self.object, id, &part);
            let (number, bytes) = (part.number, part.content.len() as u64);
            if done.send(Sent { number, bytes, next, tag }).is_err() {
                return;
            }
        }
    }

    fn feed(
        &self,
        upload: &mut Upload,
        ahead: &mut BTreeMap<u32, Sent>,
        at_once: u64,
        (jobs, results): (&Sender<(Part, u64)>, &Receiver<Sent>),
        keep: &mut dyn FnMut(&Upload) -> Result<(), Fault>,
    ) -> Result<(), Broken> {
        let (end, mut zeros) = (self.body.end(), None);
        let (mut position, mut offset) = (upload.position, upload.bytes);
        let mut number = u32::try_from(upload.tags.len()).unwrap_or(u32::MAX);
        let (mut flying, mut kept) = (0, Instant::now());
        // An object has one part at least, though that be empty.
        while position < end || flying > 0 || number == 0 {
            self.context.check()?;
            self.context.progress(upload.position, Some(end), "sending");
            if flying < at_once && (position < end || number == 0) {
                self.pay(upload.part_bytes.min(end - position))?;
                let check = || self.context.check();
                let piece = self.body.part(position, upload.part_bytes, &mut zeros, &check)?;
                number += 1;
                if number > self.parts.parts_max() {
                    let what = "the object has more parts than there may be";
                    return Err(Fault::lasting(what, "export it as qcow2").into());
                }
                let bytes = piece.content.len() as u64;
                let part = Part { number, offset, content: Bytes::from(piece.content) };
                (position, offset, flying) = (piece.next, offset + bytes, flying + 1);
                // The others end when this does.
                let _ = jobs.send((part, position));
                continue;
            }
            match results.recv_timeout(NAP) {
                Ok(sent) => {
                    flying -= 1;
                    settle(upload, ahead, sent)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Fault::Stopped.into()),
            }
            if kept.elapsed() > KEEP_EVERY {
                keep(upload)?;
                kept = Instant::now();
            }
        }
        self.context.progress(end, Some(end), "sending");
        Ok(())
    }

    fn pay(&self, bytes: u64) -> Result<(), Fault> {
        let Some(limit) = self.limit else { return Ok(()) };
        limit.wait(bytes, &|| self.context.is_stopped());
        self.context.check()
    }
}

/// Takes note of a part, and of those that had waited for it.
fn settle(upload: &mut Upload, ahead: &mut BTreeMap<u32, Sent>, sent: Sent) -> Result<(), Broken> {
    if let Err(error) = sent.tag {
        return Err(match error.kind() {
            StoreKind::NotFound => Broken::Gone(error),
            _ => Broken::Refused(error),
        });
    }
    ahead.insert(sent.number, sent);
    while let Some(sent) = ahead.remove(&u32::try_from(upload.tags.len() + 1).unwrap_or(u32::MAX)) {
        if let Ok(tag) = sent.tag {
            upload.tags.push(tag);
            upload.position = sent.next;
            upload.bytes += sent.bytes;
        }
    }
    Ok(())
}
