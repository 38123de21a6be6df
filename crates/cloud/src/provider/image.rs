//! Images that a provider keeps, and volumes that are made of them: for providers whose volumes nobody here can attach.

use jiff::Timestamp;
use leeward_remote::http::Bytes;
use serde::{Deserialize, Serialize};

use super::{Goal, ImageId, Owner, Progress, Provider, Reported, State, Tags, Volume, VolumeId, VolumeSpec};
use crate::Result;

/// The tag of a volume that names the image that it was made of.
pub const IMAGE_TAG: &str = "leeward-image";

/// States of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    /// There is a record, and no bytes yet.
    Empty,
    /// Its bytes are coming; of an upload that broke off perhaps for ever.
    Filling,
    /// It has all its bytes.
    Full,
    /// Being removed.
    Deleting,
    /// Gone, though the provider still tells of it.
    Deleted,
    /// Not usable.
    Faulty,
    /// A word that is not known here.
    Unknown,
}

impl State for ImageState {
    fn progress(self, goal: Goal) -> Progress {
        match (self, goal) {
            (Self::Full, Goal::Use) | (Self::Deleted, Goal::End) => Progress::Ready,
            (Self::Empty | Self::Filling | Self::Unknown, Goal::Use) => Progress::Changing,
            (Self::Deleting | Self::Unknown, Goal::End) => Progress::Changing,
            (_, Goal::Use | Goal::End) => Progress::Broken,
        }
    }
}

/// An image that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// What people read.
    pub name: String,
    /// Tags beside those of the owner.
    pub tags: Tags,
    /// The step that makes it.
    pub owner: Owner,
}

/// What a provider computed of the bytes that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDigest {
    /// `sha512` …
    pub algorithm: String,
    /// In hexadecimal digits.
    pub value: String,
}

/// An image, as the provider tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The provider's name of it.
    pub id: ImageId,
    /// What people read.
    pub name: String,
    /// How many bytes it has, once that is known.
    pub bytes: Option<u64>,
    /// Their digest, once that is known.
    pub digest: Option<ImageDigest>,
    /// All its tags, with those of its owner.
    pub tags: Tags,
    /// Its state.
    pub state: Reported<ImageState>,
    /// When it was made, where that is told.
    pub created: Option<Timestamp>,
}

/// The bytes of an image on their way. Dropped before its end, it breaks off.
pub trait Filling {
    /// Gives the next bytes, and waits while those before them are on their way.
    ///
    /// # Errors
    /// The provider refused or broke off: it cannot go on, and another image is needed.
    fn push(&mut self, bytes: Bytes) -> Result<()>;

    /// Waits until the provider has all of them.
    ///
    /// # Errors
    /// The provider refused or broke off. Without an answer it may have them all the same: the image's digest tells.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A provider that makes volumes of images that were sent to it.
pub trait Images: Provider {
    /// Makes the record of an image, or finds the one that this owner made before and that has no bytes yet.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn create_image(&self, spec: &ImageSpec) -> Result<Image>;

    /// Tells of an image.
    ///
    /// # Errors
    /// The provider failed; or it has (or shows) no such image: not found.
    fn image(&self, id: &ImageId) -> Result<Image>;

    /// The images with this tag, in any state.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn images_tagged(&self, key: &str, value: &str) -> Result<Vec<Image>>;

    /// Begins to send the bytes of an image that is empty; there will be just so many.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn fill(&self, id: &ImageId, bytes: u64) -> Result<Box<dyn Filling>>;

    /// Removes an image; succeeds when it is gone or going.
    ///
    /// # Errors
    /// The provider failed; a conflict while something depends on it.
    fn delete_image(&self, id: &ImageId) -> Result<()>;

    /// Makes a volume with an image's bytes at its beginning, or finds the live one that this owner made of it before. It
    /// need not be usable yet. It has the tag [`IMAGE_TAG`].
    ///
    /// # Errors
    /// The provider failed or refused; a conflict when this owner's volume is another, or made of another image.
    fn volume_of_image(&self, spec: &VolumeSpec, image: &ImageId) -> Result<Volume>;

    /// Says whether machines may boot from a volume.
    ///
    /// # Errors
    /// The provider failed or refused.
    fn set_bootable(&self, volume: &VolumeId, is_bootable: bool) -> Result<()>;

    /// What the provider says about why a volume is faulty; `None` where it says nothing.
    ///
    /// # Errors
    /// The provider cannot be asked.
    fn why_faulty(&self, volume: &VolumeId) -> Result<Option<String>>;

    /// Whether volumes of these sizes, in bytes, still fit into what the project may have.
    ///
    /// # Errors
    /// A limit: which; or the provider failed.
    fn check_room(&self, volumes: &[u64]) -> Result<()>;
}
