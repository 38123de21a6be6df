//! The check of one stored object by whoever holds no key.
//!
//! Every stored form carries digests that need no secret (`docs/format.md`, Names). So a server can refuse an object whose
//! bytes are not what its name says before anybody relies on it, also when it cannot read what the object means. What it
//! can read besides, it learns here: the packs of a run, the image of a manifest, the entries of a ref, the state of a
//! session.
//!
//! What always holds: bytes are hostile until they are checked, and nothing is allocated on their word alone.

mod names;

pub use names::verify_names;

use std::sync::Arc;

use leeward_store::{Error as StoreError, Object, Result as StoreResult};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::condemned::{CONDEMNED, CondemnedRecord};
use crate::config::Config;
use crate::frame::{CONTENT_BYTES_MAX, HEADER_BYTES as FRAME_HEADER_BYTES};
use crate::id::{DIGEST_BYTES, IdKeys, domain, from_hex, stored_digest};
use crate::image::REFS;
use crate::index::Run;
use crate::pack::{self, FOOTER_BYTES, HEADER_BYTES, le32};
use crate::parity::check_object;
use crate::repository::{INDEX, PACKS, PARITIES, SNAPSHOTS};
use crate::session::{SESSIONS, SessionRecord, State};
use crate::snapshot::Snapshot;
use crate::{BlobKind, ImageName, ImageRef, PackId, SnapshotEntry, SnapshotId};

/// Bytes of a record before its payload; see `docs/format.md`.
const RECORD_HEADER_BYTES: usize = 40;
/// Bytes of the authenticator that may follow a clear payload.
const AUTHENTICATOR_BYTES: usize = 32;

/// What a checked object is, as far as that can be told without a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Inspected {
    /// What was fixed when the repository was made.
    Config,
    /// A wrapped key.
    WrappedKey,
    /// A pack of blobs of one kind.
    Pack(BlobKind),
    /// What mends a pack.
    Parity,
    /// A run of the index, and the packs that it speaks of.
    Run(Vec<PackId>),
    /// A manifest, and the image that it was made for; none where it is encrypted.
    Manifest(Option<ImageName>),
    /// The ref of an image.
    Ref(RefRecord),
    /// A session.
    Session(SessionState),
    /// What a collection means to delete.
    Condemned,
}

/// A ref with its entries also as they stand there: fields that this version does not know count as well when two are
/// compared.
#[derive(Debug, Clone, PartialEq)]
pub struct RefRecord {
    /// The ref.
    pub image_ref: ImageRef,
    /// Its entries, in order.
    pub entries: Vec<Value>,
}

/// What a session has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// Its writer is at work.
    Open,
    /// These snapshots are published.
    Committed(Vec<(ImageName, SnapshotEntry)>),
    /// Its writer may not publish any more.
    Revoked,
}

/// Checks an object against its key, without any key of the repository.
///
/// # Errors
/// What is wrong with it, for people; the sentence continues "the object cannot be accepted: ".
pub fn verify_object(key: &str, bytes: &[u8]) -> Result<(), String> {
    inspect(key, bytes).map(|_| ())
}

/// As [`verify_object`], and tells what the object is.
///
/// # Errors
/// As [`verify_object`].
pub fn inspect(key: &str, bytes: &[u8]) -> Result<Inspected, String> {
    match key.split_once('/') {
        None if key == "config" => config(bytes),
        Some((PACKS, name)) => pack_object(name, bytes),
        Some((PARITIES, name)) => check_object(name.parse()?, bytes, None).map(|()| Inspected::Parity),
        Some((INDEX, name)) => run_object(name, bytes),
        Some((SNAPSHOTS, name)) => manifest(name, bytes),
        Some((REFS, name)) => image_ref(name, bytes),
        Some((SESSIONS, name)) => session(name, bytes),
        Some((CONDEMNED, name)) => condemned(name, bytes),
        Some(("keys", _)) => record(bytes, 7).map(|_| Inspected::WrappedKey),
        _ => Err("a repository has no object of such a name".to_owned()),
    }
}

/// Whether a repository is encrypted, from its configuration.
///
/// # Errors
/// What is wrong with the configuration.
pub fn is_encrypted(config: &[u8]) -> Result<bool, String> {
    let payload = record(config, 1)?.ok_or("the configuration must be readable")?;
    Ok(value::<Config>(payload)?.is_encrypted())
}

/// Kind and place of the directory of a pack, from its first and last 64 bytes.
///
/// # Errors
/// What is wrong with it.
pub fn pack_outline(header: &[u8; 64], footer: &[u8; 64], size: u64) -> Result<(BlobKind, u64), String> {
    let footer = pack::read_footer(footer, size)?;
    let kind =
        BlobKind::from_number(header[10]).ok_or_else(|| format!("its kind {} is not known", header[10]))?;
    Ok((kind, footer.directory_offset))
}

fn config(bytes: &[u8]) -> Result<Inspected, String> {
    let Some(payload) = record(bytes, 1)? else {
        return Err("the configuration must be readable".to_owned());
    };
    value::<Config>(payload).map(|_| Inspected::Config)
}

fn pack_object(name: &str, bytes: &[u8]) -> Result<Inspected, String> {
    let id: PackId = name.parse()?;
    if bytes.len() < HEADER_BYTES + FOOTER_BYTES {
        return Err("it is too short for a pack".to_owned());
    }
    let directory = pack::parse(id, bytes)?;
    for entry in &directory.frames {
        let flaw = |what: &str| format!("the frame at byte {}: {what}", entry.offset);
        let start = entry.offset as usize;
        let frame = start
            .checked_add(entry.length as usize)
            .and_then(|end| bytes.get(start..end))
            .ok_or_else(|| flaw("it lies outside the pack"))?;
        if stored_digest(domain::FRAME, &[frame]) != entry.digest {
            return Err(flaw("its bytes do not match the digest in the directory"));
        }
        frame_header(directory.kind, frame).map_err(|what| flaw(&what))?;
    }
    Ok(Inspected::Pack(directory.kind))
}

/// The cipher of a frame is not looked at: its digest covers what is stored, whatever it means.
fn frame_header(kind: BlobKind, frame: &[u8]) -> Result<(), String> {
    if frame.len() < FRAME_HEADER_BYTES || &frame[..4] != b"LWFR" {
        return Err("it does not begin as a frame does".to_owned());
    }
    if frame[6] != kind as u8 {
        return Err(format!("it is of kind {}, in a pack of kind {}", frame[6], kind as u8));
    }
    if le32(frame, 8) as usize > CONTENT_BYTES_MAX {
        return Err(format!("it says that it holds {} bytes, more than a frame may", le32(frame, 8)));
    }
    match le32(frame, 12) as usize == frame.len() - FRAME_HEADER_BYTES {
        true => Ok(()),
        false => Err("its length contradicts the directory".to_owned()),
    }
}

/// An object in memory, to open a run from.
struct Bytes(Vec<u8>);

impl Object for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> StoreResult<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buffer.len()).and_then(|end| self.0.get(start..end));
        let bytes = found.ok_or_else(|| StoreError::Io {
            store: "the object".to_owned(),
            action: "read",
            key: "itself".to_owned(),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        })?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

fn run_object(name: &str, bytes: &[u8]) -> Result<Inspected, String> {
    let id: crate::id::RunId = name.parse()?;
    if stored_digest(domain::RUN, &[bytes]).as_bytes() != id.as_bytes() {
        return Err("its bytes do not match its name".to_owned());
    }
    let run =
        Run::open(id, Arc::new(Bytes(bytes.to_vec())), "the object").map_err(|error| error.to_string())?;
    let mut last = None;
    run.scan(|rank, entry| {
        let is_in_order = last.is_none_or(|last| last <= entry.id);
        last = Some(entry.id);
        match is_in_order {
            true => Ok(()),
            false => Err(crate::Error::Invalid(format!("its entry {rank} is out of order"))),
        }
    })
    .map_err(|error| error.to_string())?;
    Ok(Inspected::Run(run.packs.clone()))
}

fn manifest(name: &str, bytes: &[u8]) -> Result<Inspected, String> {
    let id: SnapshotId = name.parse()?;
    let Some(payload) = record(bytes, 2)? else {
        return Ok(Inspected::Manifest(None));
    };
    // What has no cipher belongs to a repository whose names anybody can compute.
    if bytes[11] == 0 && IdKeys::new(&[0; 32]).snapshot(payload) != id {
        return Err("its content does not match its name".to_owned());
    }
    let snapshot: Snapshot = value(payload)?;
    if let Some(flaw) = snapshot.flaw() {
        return Err(flaw);
    }
    let image = snapshot.image.parse().map_err(|error: crate::Error| error.to_string())?;
    Ok(Inspected::Manifest(Some(image)))
}

fn image_ref(name: &str, bytes: &[u8]) -> Result<Inspected, String> {
    let Some(payload) = record(bytes, 3)? else {
        return Err("a ref must be readable".to_owned());
    };
    let image_ref: ImageRef = value(payload)?;
    if image_ref.image.as_str().replace('/', "%2F") != name {
        return Err(format!("it is the ref of {}", image_ref.image));
    }
    if image_ref.ref_version != 1 {
        return Err(format!("its version is {}, which is not known here", image_ref.ref_version));
    }
    let whole: Value = value(payload)?;
    let entries = whole.get("snapshots").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(Inspected::Ref(RefRecord { image_ref, entries }))
}

fn session(name: &str, bytes: &[u8]) -> Result<Inspected, String> {
    let Some(payload) = record(bytes, 4)? else {
        return Err("a session must be readable".to_owned());
    };
    let record: SessionRecord = value(payload)?;
    named_at_random(name, &record.id)?;
    Ok(Inspected::Session(match record.state {
        State::Open => SessionState::Open,
        State::Revoked => SessionState::Revoked,
        State::Committed { snapshots } => SessionState::Committed(
            snapshots.into_iter().map(|published| (published.image, published.entry)).collect(),
        ),
    }))
}

fn condemned(name: &str, bytes: &[u8]) -> Result<Inspected, String> {
    let Some(payload) = record(bytes, 5)? else {
        return Err("a condemned list must be readable".to_owned());
    };
    let list: CondemnedRecord = value(payload)?;
    named_at_random(name, &list.id)?;
    Ok(Inspected::Condemned)
}

fn named_at_random(name: &str, id: &str) -> Result<(), String> {
    if from_hex::<16>(name).is_none() {
        return Err("its name is not 32 hexadecimal digits".to_owned());
    }
    match name == id {
        true => Ok(()),
        false => Err(format!("its content says that it is {}", id.chars().take(40).collect::<String>())),
    }
}

fn value<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("its content cannot be read: {error}"))
}

/// The payload of a record where it is clear; none where it is encrypted. Record 3 of the ciphers leaves the payload clear
/// and puts an authenticator behind it, which takes a key to check.
fn record(bytes: &[u8], kind: u8) -> Result<Option<&[u8]>, String> {
    let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or("it is too short for a record")?;
    if stored_digest(domain::RECORD, &[content]).as_bytes() != digest {
        return Err("its bytes do not match its digest".to_owned());
    }
    let (header, payload) =
        content.split_at_checked(RECORD_HEADER_BYTES).ok_or("it is too short for a record")?;
    if &header[..8] != b"LEEWARDR" || header[8..10] != [1, 0] {
        return Err("it is not a record of version 1".to_owned());
    }
    if header[10] != kind {
        return Err(format!("it is a record of kind {}, not {kind}", header[10]));
    }
    let length = le32(header, 12) as usize;
    match header[11] {
        0 if length == payload.len() => Ok(Some(payload)),
        2 if length == payload.len() => Ok(None),
        3 if length == payload.len() || length + AUTHENTICATOR_BYTES == payload.len() => {
            let end = payload.len().checked_sub(AUTHENTICATOR_BYTES).ok_or("it is too short")?;
            Ok(Some(&payload[..end]))
        }
        0 | 2 | 3 => Err(format!("it holds {} bytes but says {length}", payload.len())),
        other => Err(format!("it has cipher {other}, which is not known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InitOptions;
    use crate::frame::FrameEncoder;
    use crate::id::BlobId;
    use crate::index::run;
    use crate::pack::PackBuilder;

    fn pack() -> (String, Vec<u8>) {
        let config = Config::new(&InitOptions::default(), String::new()).unwrap();
        let mut encoder = FrameEncoder::new(1, &Arc::new(crate::Keyring::plain())).unwrap();
        let mut builder = PackBuilder::new(BlobKind::Node, &config).unwrap();
        let frame = encoder.encode(BlobKind::Node, b"content").unwrap();
        builder.push(&frame, vec![BlobId([1; 32])]);
        let sealed = builder.seal();
        (format!("packs/{}", sealed.id), sealed.bytes)
    }

    #[test]
    fn every_flipped_byte_of_a_pack_is_noticed() {
        let (key, bytes) = pack();
        assert_eq!(inspect(&key, &bytes), Ok(Inspected::Pack(BlobKind::Node)));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            assert!(verify_object(&key, &bad).is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            assert!(verify_object(&key, &bytes[..length]).is_err(), "length {length}");
        }
        assert!(verify_object(&format!("packs/{}", "0".repeat(64)), &bytes).is_err());
    }

    #[test]
    fn every_flipped_byte_of_a_run_is_noticed() {
        let location =
            crate::index::Location { pack: PackId([7; 32]), offset: 64, length: 30, content_offset: 0 };
        let entries: Vec<run::Entry> =
            (0..20).map(|number| run::Entry { id: BlobId([number; 32]), location }).collect();
        let encoded = run::encode(&entries);
        let key = format!("index/{}", encoded.id);
        assert_eq!(inspect(&key, &encoded.bytes), Ok(Inspected::Run(vec![PackId([7; 32])])));
        for at in 0..encoded.bytes.len() {
            let mut bad = encoded.bytes.clone();
            bad[at] ^= 1;
            assert!(verify_object(&key, &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn objects_of_other_names_and_kinds_are_refused() {
        let (_, bytes) = pack();
        for key in ["", "tmp/x", "lock", "packs", "packs/zz", "other/name", "config", "refs/a", "sessions/00"]
        {
            assert!(verify_object(key, &bytes).is_err(), "{key}");
        }
    }
}
