//! An encrypted repository without its keys: what anybody who holds the objects can do.

use leeward_store::SharedStore;
use leeward_store::bucket::RequestCounts;

use super::manage::KeyInfo;
use crate::backup::Control;
use crate::check::{CheckOutcome, ReadData};
use crate::image::{ImageName, ImageRef};
use crate::repository::Repository;
use crate::{Config, Result};

/// An encrypted repository that was opened without a key. Every stored byte can be checked, refs can be read though not
/// believed; nothing can be read or written.
pub struct KeylessRepository(Repository);

impl KeylessRepository {
    /// Opens a repository without its keys; one that is not encrypted needs none, and opens as well.
    ///
    /// # Errors
    /// There is none, it needs a newer version, or the store fails.
    pub fn open(store: SharedStore) -> Result<Self> {
        Repository::open_keyless(store).map(Self)
    }

    /// What was fixed when the repository was made, by the word of the store.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.0.config()
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn location(&self) -> &str {
        self.0.location()
    }

    /// What requests its store was sent since it was opened; `None` where it is a directory.
    #[must_use]
    pub fn requests(&self) -> Option<RequestCounts> {
        self.0.requests()
    }

    /// The names of all images, in order.
    ///
    /// # Errors
    /// The store fails.
    pub fn images(&self) -> Result<Vec<ImageName>> {
        self.0.images()
    }

    /// The ref of an image, by the word of the store.
    ///
    /// # Errors
    /// There is no such image, its ref is damaged, or the store fails.
    pub fn image(&self, name: &ImageName) -> Result<ImageRef> {
        self.0.image(name)
    }

    /// The wrapped keys, by the word of the store.
    ///
    /// # Errors
    /// The store fails.
    pub fn wrapped_keys(&self) -> Result<Vec<KeyInfo>> {
        self.0.wrapped_keys()
    }

    /// Bytes of all packs, for progress.
    ///
    /// # Errors
    /// The store fails.
    pub fn pack_bytes(&self) -> Result<u64> {
        self.0.pack_bytes()
    }

    /// Checks what can be checked without keys: with [`ReadData::All`] every stored byte against the digest that goes with
    /// it. The outcome says what could not be looked into.
    ///
    /// # Errors
    /// The store fails, or the work is cancelled. What is wrong with the repository is no error but a finding.
    pub fn check(&self, read: ReadData, control: &dyn Control) -> Result<CheckOutcome> {
        self.0.check(read, control)
    }
}
