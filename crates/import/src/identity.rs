//! What a checkpoint belongs to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One disk of one version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// Where the object is: the bucket, without secrets.
    pub place: String,
    /// The object's name.
    pub object: String,
    /// Its version, as the service calls it.
    pub version: String,
    /// The versions of other objects that belong to the image: the extents of a split disk.
    pub parts: BTreeMap<String, String>,
    /// Which disk of the object: the name of a member, or empty where there is one only.
    pub disk: String,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetIdentity {
    /// What the caller calls it, and nobody else: the identifier that the cloud gave it. Paths of devices change owners.
    pub id: String,
    /// Its size in bytes.
    pub bytes: u64,
}
