//! The log of changes: one line of JSON for each request that changes something, or was not let in.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Where the lines go.
pub struct Audit(Mutex<Box<dyn Write + Send>>);

/// One line.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) request: &'a str,
    pub(super) peer: Option<String>,
    pub(super) token: Option<&'a str>,
    pub(super) role: Option<&'a str>,
    pub(super) what: &'a str,
    pub(super) bytes: Option<u64>,
    pub(super) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<&'a str>,
}

impl Audit {
    /// Lines to the error output of the process.
    #[must_use]
    pub fn to_stderr() -> Self {
        Self(Mutex::new(Box::new(std::io::stderr())))
    }

    /// Lines to anything.
    #[must_use]
    pub fn to(writer: Box<dyn Write + Send>) -> Self {
        Self(Mutex::new(writer))
    }

    /// Lines at the end of a file, which is made for its owner alone where it is missing.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn to_file(path: &Path) -> std::io::Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self::to(Box::new(file)))
    }

    /// Writes a line. That a log cannot be written stops no request: a full disk of the log must not stop backups.
    pub(crate) fn note(&self, line: &impl Serialize) {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return };
        bytes.push(b'\n');
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes);
    }
}
