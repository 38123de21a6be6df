//! What is known of a volume: a small JSON file beside its data.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::provider::{Fault, Performance, Tags};
use crate::{Error, ErrorKind, Result};

/// The version of the record's form.
pub(super) const VERSION: u32 = 1;
/// The largest record, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Whether a volume is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Condition {
    /// It is.
    Available,
    /// Its file is being removed, or was when the process ended.
    Deleting,
}

/// That a volume is attached to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Whether writing was not asked for.
    pub read_only: bool,
}

/// The record of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u32,
    pub name: String,
    pub bytes: u64,
    pub performance: Option<Performance>,
    pub tags: Tags,
    pub condition: Condition,
    pub created: Timestamp,
    pub attached: Option<Held>,
}

impl Record {
    /// Reads a record; `None` when there is none.
    pub(super) fn read(folder: &Path, id: &str) -> Result<Option<Self>> {
        let path = folder.join(format!("{id}.json"));
        let place = || path.display().to_string();
        let file = match OpenOptions::new().read(true).custom_flags(super::no_follow()).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::io(place(), "read the record", source))?,
        };
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(|source| Error::io(place(), "read the record", source))?;
        let wrong = |what: String| {
            let what = format!("{what}; mend it, or remove it and the .raw file beside it");
            Error::from(Fault::new(ErrorKind::Protocol, place(), "read the record of a volume", what))
        };
        if text.len() as u64 > BYTES_MAX {
            return Err(wrong("it is too large".to_owned()));
        }
        let record: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if record.version != VERSION {
            return Err(wrong(format!("it has version {}, and {VERSION} is known here", record.version)));
        }
        Ok(Some(record))
    }

    /// Puts the record in place of the one before.
    pub(super) fn write(&self, folder: &Path, id: &str) -> Result<()> {
        let path = folder.join(format!("{id}.json"));
        let failed = |source| Error::io(path.display().to_string(), "write the record", source);
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::Builder::new().prefix(".record-").tempfile_in(folder).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        sync(folder).map_err(failed)
    }

    /// Removes the record: then there is no volume any more.
    pub(super) fn remove(folder: &Path, id: &str) -> Result<()> {
        let path = folder.join(format!("{id}.json"));
        fs::remove_file(&path)
            .and_then(|()| sync(folder))
            .map_err(|source| Error::io(path.display().to_string(), "remove the record", source))
    }
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}
