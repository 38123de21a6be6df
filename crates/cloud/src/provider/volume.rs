//! Volumes: block devices that outlive the machines they are attached to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Domain, Owner, Provider, Reported, Tags, VolumeId, VolumeState};
use crate::{Error, Result};

/// Bytes of a GiB.
pub const GIB: u64 = 1 << 30;

/// How fast a volume is, in the provider's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Performance {
    /// Volume performance units for each GB, as OCI has them: 0, 10, 20 … 120.
    VpusPerGb(u32),
    /// A class with a name: a volume type of Cinder.
    Class(String),
}

impl std::fmt::Display for Performance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::VpusPerGb(units) => write!(f, "{units} VPU/GB"),
            Self::Class(name) => f.write_str(name),
        }
    }
}

/// The sizes that volumes may have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLimits {
    /// The smallest.
    pub bytes_min: u64,
    /// The largest.
    pub bytes_max: u64,
    /// Sizes are multiples of this.
    pub bytes_step: u64,
}

impl VolumeLimits {
    /// The smallest volume that holds a disk: rounded up to a whole step, and never below the minimum.
    ///
    /// # Errors
    /// A [limit](crate::ErrorKind::Limit): the disk is larger than any volume.
    pub fn volume_bytes(&self, provider: &str, virtual_bytes: u64) -> Result<u64> {
        let rounded = virtual_bytes.max(self.bytes_min).checked_next_multiple_of(self.bytes_step.max(1));
        rounded.filter(|bytes| *bytes <= self.bytes_max).ok_or_else(|| {
            Error::limit(
                provider,
                format!("make a volume of {virtual_bytes} bytes"),
                format!(
                    "the largest volume has {} GiB; shrink the disk before the import, or choose another provider",
                    self.bytes_max / GIB
                ),
            )
        })
    }

    /// Whether a volume may have this size.
    #[must_use]
    pub fn allows(&self, bytes: u64) -> bool {
        (self.bytes_min..=self.bytes_max).contains(&bytes) && bytes.is_multiple_of(self.bytes_step.max(1))
    }
}

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// What people read.
    pub name: String,
    /// Size in bytes; as [`VolumeLimits::volume_bytes`] gives it.
    pub bytes: u64,
    /// Name of the domain: [`Domain::name`].
    pub domain: String,
    /// How fast; the provider's default without it.
    pub performance: Option<Performance>,
    /// The provider's name of the key that encrypts it; the provider's own key without it.
    pub encryption_key: Option<String>,
    /// Tags beside those of the owner.
    pub tags: Tags,
    /// The step that makes it.
    pub owner: Owner,
}

/// A volume, as the provider tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The provider's name of it.
    pub id: VolumeId,
    /// What people read.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Its domain.
    pub domain: String,
    /// How fast it is, where that is told.
    pub performance: Option<Performance>,
    /// The key that encrypts it, where it is not the provider's own.
    pub encryption_key: Option<String>,
    /// All its tags, with those of its owner.
    pub tags: Tags,
    /// Its state.
    pub state: Reported<VolumeState>,
    /// When it was made, where that is told.
    pub created: Option<Timestamp>,
}

/// A provider that has volumes.
pub trait Volumes: Provider {
    /// The availability domains, in the provider's order: the first is number 1.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn domains(&self) -> Result<Vec<Domain>>;

    /// The sizes that volumes may have.
    fn volume_limits(&self) -> VolumeLimits;

    /// Makes a volume, or finds the live one that this owner made before. It need not be usable yet.
    ///
    /// # Errors
    /// The provider failed or refused; a conflict when this owner's volume is not the one that is asked for.
    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume>;

    /// Tells of a volume.
    ///
    /// # Errors
    /// The provider failed; or it has (or shows) no such volume: not found.
    fn volume(&self, id: &VolumeId) -> Result<Volume>;

    /// All volumes that the provider shows, also such as are gone and still listed.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn volumes(&self) -> Result<Vec<Volume>>;

    /// The volumes with this tag, in any state; with `None` those that have the key at all.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn volumes_tagged(&self, key: &str, value: Option<&str>) -> Result<Vec<Volume>> {
        let has = |tags: &Tags| tags.get(key).is_some_and(|is| value.is_none_or(|value| is == value));
        Ok(self.volumes()?.into_iter().filter(|volume| has(&volume.tags)).collect())
    }

    /// Makes it faster or slower; nothing is asked of the provider when it is so already.
    ///
    /// # Errors
    /// The provider failed or refused; a conflict while the volume is changing.
    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume>;

    /// Makes it larger; nothing is asked of the provider when it is so already.
    ///
    /// # Errors
    /// The provider failed or refused; refused when it would become smaller.
    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume>;

    /// Begins to remove it; succeeds when it is gone or going.
    ///
    /// # Errors
    /// The provider failed; a conflict while it is attached or changing.
    fn delete_volume(&self, id: &VolumeId) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::{GIB, VolumeLimits};
    use crate::ErrorKind;

    const OCI: VolumeLimits = VolumeLimits { bytes_min: 50 * GIB, bytes_max: 32_768 * GIB, bytes_step: GIB };

    #[test]
    fn a_volume_is_as_large_as_its_disk_in_whole_gibibytes() {
        let gib = |bytes| OCI.volume_bytes("oci", bytes).unwrap() / GIB;
        assert_eq!((gib(0), gib(1), gib(50 * GIB)), (50, 50, 50));
        assert_eq!((gib(50 * GIB + 1), gib(64 * GIB)), (51, 64));
        // By 10^9 and one more, a disk of 100 GiB would take 108.
        assert_eq!(gib(100 * GIB), 100);
        assert_eq!(gib(32_768 * GIB), 32_768);
    }

    #[test]
    fn a_disk_that_fits_into_no_volume_is_told() {
        for bytes in [32_768 * GIB + 1, u64::MAX] {
            let error = OCI.volume_bytes("oci", bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().contains("32768 GiB"), "{error}");
        }
        assert!(OCI.allows(51 * GIB) && !OCI.allows(51 * GIB + 1) && !OCI.allows(49 * GIB));
    }
}
