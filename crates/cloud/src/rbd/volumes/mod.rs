//! A pool (or a namespace in it) as a provider of volumes: each is an image.
//!
//! An image is named `NAME-DIGEST`, the digest being of its owner, so that what a lost attempt made is found by its name
//! alone, even before anything is written about it. What is known of it is one JSON text in its metadata, under `leeward`.
//! Images of other names are not touched, nor shown.

mod attachments;
mod images;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cluster, Location};
use crate::directory::name;
use crate::provider::{
    Cloud, Fault, LISTED_MAX, Provider, Reported, TagLimits, Tags, Volume, VolumeId, VolumeLimits,
    VolumeState,
};
use crate::{Error, ErrorKind, Result};

/// The one domain and the one machine: this one, which reaches the cluster.
const LOCAL: &str = "local";
/// The key of the record in an image's metadata.
const RECORD: &str = "leeward";
const KIND: &str = "rbd volume";
/// All tags go through one argument of a program.
const TAG_LIMITS: TagLimits = TagLimits { count_max: 32, key_chars_max: 100, value_chars_max: 512 };
const LIMITS: VolumeLimits = VolumeLimits { bytes_min: 512, bytes_max: 1 << 50, bytes_step: 512 };
/// How the tool ends when an image is there already, in use, or has snapshots: EEXIST, EBUSY, ENOTEMPTY.
const EXISTS: &str = "17";
const IN_USE: [&str; 2] = ["16", "39"];
/// Or writing does not come about: ENOSPC, ETIMEDOUT, EDQUOT.
const CANNOT_WRITE: [&str; 3] = ["28", "110", "122"];

/// A pool of images.
#[derive(Debug, Clone)]
pub struct RbdVolumes {
    /// Its image is any.
    pool: Location,
    name: String,
}

/// What is known of a volume beyond what the image says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    tags: Tags,
    created: Timestamp,
    /// Attached here: whether writing was not asked for.
    read_only: Option<bool>,
}

impl RbdVolumes {
    /// The pool `rbd:POOL[/NAMESPACE][?conf=FILE&id=USER]`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// Refused: what is wrong with it.
    pub fn at(text: &str) -> Result<Self> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let wrong = |what: String| Error::refused(text, "find the pool", what);
        let whole = if query.is_empty() { format!("{path}/any") } else { format!("{path}/any?{query}") };
        let pool = Location::parse(&whole)
            .unwrap_or_else(|| Err("write rbd:POOL[/NAMESPACE][?conf=FILE&id=USER]".to_owned()))
            .map_err(wrong)?;
        Ok(Self { pool, name: path.to_owned() })
    }

    /// A pool `POOL[/NAMESPACE]`, with the cluster's configuration file and the user, where they are not the usual ones.
    /// Nothing is asked of it yet.
    ///
    /// # Errors
    /// Refused: what is wrong with it.
    pub fn in_pool(pool: &str, configuration: Option<&Path>, user: Option<&str>) -> Result<Self> {
        let mut text = format!("rbd:{pool}");
        if pool.contains('?') {
            return Err(Error::refused(text, "find the pool", "write POOL or POOL/NAMESPACE"));
        }
        if let Some(user) = user {
            text.push_str(&format!("?id={user}"));
        }
        let mut found = Self::at(&text)?;
        if let Some(configuration) = configuration {
            // It is handed on in an address, where these would end it.
            if configuration.to_str().is_none_or(|path| path.contains(['&', '?', '@'])) {
                let what =
                    format!("{} cannot be named here: & ? @ stand in the way", configuration.display());
                return Err(Error::refused(text, "find the pool", what));
            }
            found.pool.configuration = Some(configuration.to_owned());
        }
        Ok(found)
    }

    /// All that a pool can do.
    #[must_use]
    pub fn cloud(self) -> Cloud {
        let this = Arc::new(self);
        Cloud {
            volumes: Arc::clone(&this) as _,
            attachments: Some(this),
            images: None,
            instances: None,
            policies: None,
        }
    }

    fn image(&self, id: &str) -> Location {
        Location { image: id.to_owned(), ..self.pool.clone() }
    }

    fn cluster(&self, id: &str) -> Cluster {
        Cluster::within_limits(&self.image(id))
    }

    fn not_found(&self, id: &str) -> Error {
        let what = "there is no such volume in this pool";
        Fault::new(ErrorKind::NotFound, self.name(), format!("look at the volume {id}"), what).into()
    }

    /// What is written about an image; nothing when an attempt ended between making it and that.
    fn record(&self, id: &str) -> Result<Option<Record>> {
        if name::digest_of(id).is_none() {
            return Err(self.not_found(id));
        }
        let metadata = self.cluster(id).metadata().map_err(|error| self.sorted(id, error))?;
        let Some(text) = metadata.get(RECORD) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let what = format!("its record cannot be read ({error}); see rbd image-meta get {id} {RECORD}");
            Fault::new(ErrorKind::Protocol, self.name(), format!("look at the volume {id}"), what).into()
        })
    }

    fn write(&self, id: &str, record: &Record) -> Result<()> {
        let text = serde_json::to_string(record)
            .map_err(|error| Error::refused(self.name(), "write the record", error.to_string()))?;
        self.cluster(id).set_metadata(RECORD, &text).map_err(|error| self.sorted(id, error))
    }

    fn tell(&self, id: &str, record: Option<Record>) -> Result<Volume> {
        let info = self.cluster(id).info().map_err(|error| self.sorted(id, error))?;
        let record = record.unwrap_or(Record {
            name: id.to_owned(),
            tags: Tags::new(),
            created: Timestamp::UNIX_EPOCH,
            read_only: None,
        });
        Ok(Volume {
            id: VolumeId::new(id),
            name: record.name,
            bytes: info.size,
            domain: LOCAL.to_owned(),
            performance: None,
            encryption_key: None,
            tags: record.tags,
            state: Reported::new(VolumeState::Available, "available"),
            created: Some(record.created),
        })
    }

    /// The tool's error in this module's kinds.
    fn sorted(&self, id: &str, error: Error) -> Error {
        match &error {
            Error::NotFound { .. } => self.not_found(id),
            Error::Command { class, description, .. } if IN_USE.contains(&class.as_str()) => {
                let action = format!("change the volume {id}");
                Error::conflict(
                    self.name(),
                    action,
                    format!("{description}; end what uses it, and remove its snapshots"),
                )
            }
            // Who waits for a pool that takes nothing more is told only that time has passed.
            Error::Command { class, .. } if CANNOT_WRITE.contains(&class.as_str()) => {
                self.image(id).full_or(error)
            }
            _ => error,
        }
    }

    /// Refuses when the pool takes nothing more: a cluster would not refuse, it would wait.
    fn check_room(&self, action: &str) -> Result<()> {
        match self.cluster("any").lack_of_room() {
            Some(what) => Err(Error::limit(self.name(), action, what)),
            None => Ok(()),
        }
    }

    fn ids(&self) -> Result<Vec<String>> {
        let listed = self.cluster("any").images();
        let mut ids = listed.map_err(|error| match error {
            Error::NotFound { .. } => {
                let what = "the cluster has no such pool, or its user may not see it";
                Fault::new(ErrorKind::NotFound, self.name(), "list the volumes", what).into()
            }
            error => error,
        })?;
        ids.retain(|id| name::digest_of(id).is_some());
        if ids.len() > LISTED_MAX {
            return Err(Error::limit(self.name(), "list the volumes", "there are more than can be"));
        }
        Ok(ids)
    }
}

impl Provider for RbdVolumes {
    fn name(&self) -> &str {
        &self.name
    }

    fn tag_limits(&self) -> TagLimits {
        TAG_LIMITS
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(500)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::RbdVolumes;
    use crate::provider::Provider;

    #[test]
    fn a_pool_is_named_without_an_image() {
        let pool = RbdVolumes::at("rbd:vms/team?id=backup&conf=/etc/ceph/b.conf").unwrap();
        assert_eq!((pool.name(), pool.image("x").to_string().as_str()), ("rbd:vms/team", "rbd:vms/team/x"));
        assert_eq!(pool.pool.user.as_deref(), Some("backup"));
        for wrong in ["", "vms", "rbd:", "rbd:a/b/c", "rbd:-a", "rbd:a?x=y", "rbd:a@b"] {
            assert!(RbdVolumes::at(wrong).is_err(), "{wrong:?}");
        }
        let pool = RbdVolumes::in_pool("vms/team", Some(Path::new("/c.conf")), Some("backup")).unwrap();
        assert_eq!(pool.image("x").to_address(), "rbd:vms/team/x?conf=/c.conf&id=backup");
        assert!(RbdVolumes::in_pool("vms", Some(Path::new("/a&id=b")), None).is_err());
        for wrong in ["", "rbd:vms", "a/b/c", "-p", "vms@s", "vms?conf=/x"] {
            assert!(RbdVolumes::in_pool(wrong, None, None).is_err(), "{wrong:?}");
        }
    }
}
