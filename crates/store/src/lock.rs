//! Locks: what a service does not delete before its time, whoever asks.
//!
//! Some services keep an object, or the version of it that was locked, until a moment that its owner set. Such a lock holds
//! against whoever has the keys of the bucket: it is what is left when everything else has fallen into wrong hands.

use std::fmt;
use std::time::SystemTime;

use crate::{Error, Key, Result};

/// Who may take a lock away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// Who has a special permission.
    Governance,
    /// Nobody, not even the owner of the account.
    Compliance,
}

impl LockMode {
    /// Its name, as S3 has it in small letters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The lock of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who may take it away.
    pub mode: LockMode,
    /// When it ends by itself, by the service's clock.
    pub until: SystemTime,
}

/// The locks of a store whose service has them.
pub trait Locks: Send + Sync {
    /// The lock of an object; `None` for one that has none, or whose lock has ended.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); or the service fails, or does not tell this key.
    fn lock_of(&self, key: &Key) -> Result<Option<Lock>>;

    /// Locks an object, or makes its lock last longer.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); the bucket was not made for locks; the object has a lock that holds longer
    /// or more strictly; or the service fails, or does not let this key do so.
    fn lock(&self, key: &Key, lock: Lock) -> Result<()>;

    /// The service's time, as far as its last answer tells; else this machine's.
    fn clock(&self) -> SystemTime;
}

/// That a service has no locks.
pub(crate) fn unsupported(store: &str) -> Error {
    Error::Unsupported { store: store.to_owned(), what: "its service locks no objects".to_owned() }
}
