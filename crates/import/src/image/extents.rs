//! The extents of a split VMDK that was uploaded as several objects.
//!
//! A descriptor comes from outside: what it names is taken from the same folder of the same bucket, by a plain name, or
//! refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use leeward_disk::{Extents, SharedStorage};
use leeward_remote::objects::SharedObjects;

use super::storage::{BlockCache, ObjectStorage};

/// Extents of a disk that lie in objects of their own, at most.
const OBJECTS_MAX: usize = 1024;

/// The objects beside a descriptor.
pub(super) struct Beside {
    objects: SharedObjects,
    /// What the names of all of them begin with: empty, or ending with a slash.
    folder: String,
    cache: Arc<BlockCache>,
    /// The versions of those that were opened.
    opened: Mutex<BTreeMap<String, String>>,
}

impl Beside {
    pub(super) fn new(objects: SharedObjects, descriptor: &str, cache: Arc<BlockCache>) -> Self {
        let folder = descriptor.rfind('/').map_or("", |slash| &descriptor[..=slash]).to_owned();
        Self { objects, folder, cache, opened: Mutex::default() }
    }

    /// The versions of the objects that were opened.
    pub(super) fn opened(&self) -> BTreeMap<String, String> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "objects under {:?} in {}", self.folder, self.objects.name())
    }
}

impl Extents for Beside {
    fn extent(&self, name: &str) -> Result<SharedStorage, String> {
        if name.contains(['/', '\\']) || name.starts_with('.') || name.chars().any(char::is_control) {
            return Err("an extent is named by a plain name, of an object beside the descriptor".to_owned());
        }
        let object = format!("{}{name}", self.folder);
        let head = self.objects.head(&object).map_err(|error| error.to_string())?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.len() >= OBJECTS_MAX {
            return Err(format!("the disk has more than {OBJECTS_MAX} extents"));
        }
        let before = opened.insert(object.clone(), head.version.0.clone());
        if before.is_some_and(|before| before != head.version.0) {
            return Err("it was replaced while the image was opened".to_owned());
        }
        drop(opened);
        let storage =
            ObjectStorage::new(Arc::clone(&self.objects), &object, head.version, head.bytes, &self.cache);
        Ok(Arc::new(storage))
    }
}
