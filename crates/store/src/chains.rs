//! Objects that a store keeps in several parts, of which some may be lost or overwritten.
//!
//! Where a service does not compare, an object that changes is a chain of versions in many small parts
//! ([`VersionedStore`](crate::bucket::VersionedStore)). Whoever deletes or overwrites parts behind the store's back may so
//! take the value from an object; often enough is left to tell what it was.

use crate::{Key, Result};

/// An object that cannot be read because parts of it are lost or were overwritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedChain {
    /// Key of the object.
    pub key: Key,
    /// What is wrong with it.
    pub what: String,
    /// Whether what is left tells the value.
    pub is_determined: bool,
}

/// Mending of objects that are kept in several parts.
pub trait Chains: Send + Sync {
    /// The objects that cannot be read.
    ///
    /// # Errors
    /// The service fails.
    fn damaged(&self) -> Result<Vec<DamagedChain>>;

    /// Gives an object the value back that its remaining parts tell. `false` when they do not tell it, or when it can be
    /// read. A value that was decided is never made into another one.
    ///
    /// # Errors
    /// The service fails, or others change the object all the time.
    fn mend(&self, key: &Key) -> Result<bool>;

    /// Gives an object whose value is lost a new one.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) when it can be read, or somebody else gave it a value in the meantime; or
    /// the service fails.
    fn replace_lost(&self, key: &Key, content: &[u8]) -> Result<()>;
}
