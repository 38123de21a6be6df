//! Who may ask: tokens with a role, confined to image prefixes, with a quota and an end.
//!
//! A token is 256 random bits, shown once when it is made. The file keeps its digest only, so whoever reads the file cannot
//! use what it says. The file is for its owner alone and is replaced whole; a server sees a change with the next request.

mod book;

pub use book::TokenBook;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use leeward_repository::ImageName;
use serde::{Deserialize, Serialize};

/// What a token's text begins with, so that it is recognised where it should not be.
const TEXT_PREFIX: &str = "lwt_";
const DIGEST_CONTEXT: &str = "leeward 2026-11 token digest";
/// The largest file of tokens, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, also what a repository is: configuration and wrapped keys.
    Admin,
    /// Everything on the images: also forget and collect.
    Operator,
    /// Adds; changes and removes nothing that is there.
    Writer,
    /// Reads.
    Reader,
    /// Writes volumes for a site's daemon, as the worker of the token's name; nothing of a repository.
    Worker,
}

impl Role {
    /// The role's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Worker => "worker",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Admin, Self::Operator, Self::Writer, Self::Reader, Self::Worker]
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| format!("{text:?} is no role: use admin, operator, writer, reader or worker"))
    }
}

/// What can go wrong with a file of tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path}: cannot {action} the file of tokens")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("{path}: others may read or write this file of tokens (mode {mode:o}) — run: chmod 600 {path}")]
    Open {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// It makes no sense.
    #[error("{path}: not a file of tokens: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// What was asked for is not possible.
    #[error("{0}")]
    Invalid(String),
}

/// A token as the file keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Random; tells a token from a later one of the same name.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Images under which it is confined; everything when empty. `web` covers `web` and `web/root`, not `web-01`.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Bytes that may be stored with it.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// Until when it is valid.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// Counts how often what it has stored was set back to nothing.
    #[serde(default)]
    pub epoch: u32,
    /// Digest of its text: 64 hexadecimal digits.
    digest: String,
}

impl Token {
    /// Whether it is confined to some images.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// Whether it may touch this image at all.
    #[must_use]
    pub fn covers(&self, image: &ImageName) -> bool {
        !self.is_confined() || self.prefixes.iter().any(|prefix| is_under(image.as_str(), prefix))
    }

    /// Whether it was valid until before now.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Whether a name is a prefix's own, or lies under it.
pub(crate) fn is_under(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Images under which it is confined; everything when empty.
    pub prefixes: Vec<String>,
    /// Bytes that may be stored with it.
    pub quota_bytes: Option<u64>,
    /// Until when it is valid.
    pub expires: Option<Timestamp>,
}

/// The text of a token, which only its owner has. Does not print.
pub struct TokenText(String);

impl TokenText {
    /// Takes a token's text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place where it is shown or sent.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn digest(&self) -> blake3::Hash {
        blake3::Hash::from_bytes(blake3::derive_key(DIGEST_CONTEXT, self.0.as_bytes()))
    }
}

impl std::fmt::Debug for TokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenText(…)")
    }
}

/// All tokens of a server, and the quotas of prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFile {
    tokens_version: u32,
    /// The tokens.
    pub tokens: Vec<Token>,
    /// Bytes that all tokens confined under a prefix may store together.
    #[serde(default)]
    pub prefix_quotas: BTreeMap<String, u64>,
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Invalid(format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TokenFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, others may read it, or it makes no sense.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let name = || path.display().to_string();
        let failed = |source| Error::Io { path: name(), action: "read", source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Open { path: name(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let damaged = |what: String| Error::Damaged { path: name(), what };
        let found: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if found.tokens_version != 1 {
            return Err(damaged(format!("its version is {}", found.tokens_version)));
        }
        Ok(found)
    }

    /// As [`TokenFile::load`]; an empty one where there is no file.
    ///
    /// # Errors
    /// As [`TokenFile::load`].
    pub fn load_or_new(path: &Path) -> Result<Self, Error> {
        match Self::load(path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { tokens_version: 1, ..Self::default() })
            }
            other => other,
        }
    }

    /// Replaces the file; whoever reads it sees the old or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::Invalid(error.to_string()))?;
        replace_file(path, &bytes).map_err(|source| Error::Io {
            path: path.display().to_string(),
            action: "write",
            source,
        })
    }

    /// Adds a token and returns its text, which is nowhere else.
    ///
    /// # Errors
    /// The name is taken or a prefix is none, or the system gives no random bytes.
    pub fn add(&mut self, new: NewToken) -> Result<TokenText, Error> {
        if new.name.is_empty() || new.name.len() > 64 || new.name.chars().any(char::is_control) {
            return Err(Error::Invalid("a token's name has 1 to 64 characters".to_owned()));
        }
        if self.tokens.iter().any(|token| token.name == new.name) {
            return Err(Error::Invalid(format!("there is a token {:?} already — remove it first", new.name)));
        }
        for prefix in &new.prefixes {
            check_prefix(prefix)?;
        }
        let text = TokenText(format!("{TEXT_PREFIX}{}", hex(&random::<32>()?)));
        self.tokens.push(Token {
            id: hex(&random::<8>()?),
            name: new.name,
            role: new.role,
            prefixes: new.prefixes,
            quota_bytes: new.quota_bytes,
            expires: new.expires,
            created: Timestamp::now(),
            epoch: 0,
            digest: text.digest().to_hex().to_string(),
        });
        Ok(text)
    }

    /// Removes a token; `false` when there is none of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.name != name);
        self.tokens.len() < before
    }

    /// Bounds what all tokens under a prefix store together, or ends that bound.
    ///
    /// # Errors
    /// The prefix is none.
    pub fn set_prefix_quota(&mut self, prefix: &str, bytes: Option<u64>) -> Result<(), Error> {
        check_prefix(prefix)?;
        match bytes {
            Some(bytes) => self.prefix_quotas.insert(prefix.to_owned(), bytes),
            None => self.prefix_quotas.remove(prefix),
        };
        Ok(())
    }

    /// The token with this text, compared in constant time with all of them.
    #[must_use]
    pub fn find(&self, text: &TokenText) -> Option<&Token> {
        let digest = text.digest();
        let mut found = None;
        for token in &self.tokens {
            // The comparison of two hashes takes the same time wherever they differ.
            if blake3::Hash::from_hex(&token.digest).is_ok_and(|known| known == digest) {
                found = Some(token);
            }
        }
        found
    }
}

fn check_prefix(prefix: &str) -> Result<(), Error> {
    prefix
        .parse::<ImageName>()
        .map(|_| ())
        .map_err(|error| Error::Invalid(format!("the prefix cannot be used: {error}")))
}

/// Writes a file for its owner alone, whole or not at all.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let number: [u8; 8] = random().map_err(std::io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = directory.join(format!(".{name}.{}", hex(&number)));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(&directory)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(name: &str) -> NewToken {
        NewToken {
            name: name.to_owned(),
            role: Role::Writer,
            prefixes: vec!["web".to_owned()],
            quota_bytes: None,
            expires: None,
        }
    }

    #[test]
    fn a_token_is_found_by_its_text_alone_and_the_file_does_not_have_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let mut file = TokenFile::load_or_new(&path).unwrap();
        let text = file.add(writer("a")).unwrap();
        let other = file.add(writer("b")).unwrap();
        file.save(&path).unwrap();
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(!stored.contains(text.reveal()) && !stored.contains(&text.reveal()[4..20]));
        assert!(!format!("{text:?}").contains(&text.reveal()[4..20]));
        let mut file = TokenFile::load(&path).unwrap();
        assert_eq!(file.find(&text).unwrap().name, "a");
        assert_eq!(file.find(&other).unwrap().name, "b");
        assert!(file.find(&TokenText::new("lwt_00")).is_none());
        assert!(file.add(writer("a")).is_err(), "names are unique");
        assert!(file.remove("a") && file.find(&text).is_none());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        TokenFile::load_or_new(&path).unwrap().save(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(TokenFile::load(&path), Err(Error::Open { .. })));
    }

    #[test]
    fn a_prefix_covers_whole_parts_of_names_only() {
        assert!(is_under("web", "web") && is_under("web/root", "web"));
        assert!(!is_under("web-01", "web") && !is_under("we", "web"));
        let mut bad = writer("x");
        bad.prefixes = vec!["../x".to_owned()];
        assert!(TokenFile::default().add(bad).is_err());
    }
}
