//! What an import and a recovery ask of a cloud: volumes, their attachments, images, instances, backup
//! policies.
//!
//! One trait for each ability, so that what cannot be done has no method; [`Cloud`] holds those that a provider has. The
//! calls block, and none waits for a state to come about: who wants that asks again after
//! [`Provider::poll_interval`] and reads the state's [`Progress`].
//!
//! What always holds:
//! - Creating is **find before create**. Every creation names its [`Owner`], a step of a run. What that step made before,
//!   in an attempt whose answer was lost, is found and returned; so a step that is repeated makes one thing, whether the
//!   provider has idempotency tokens or only tags. A thing that is found but does not fit what is asked for is a
//!   [conflict](crate::ErrorKind::Conflict), never a second one.
//! - Removing what is not there, or is going already, succeeds.
//! - A refusal is sorted by what a caller can do about it: see [`ErrorKind`](crate::ErrorKind) and
//!   [`Error::is_passing`](crate::Error::is_passing). Calls that may be repeated are repeated a few times inside.
//! - Everything that a provider answers is bounded in size and number.
//!
//! To add a provider, write a folder like `oci/` and run it through `tests/conformance`.

mod attachment;
mod domain;
mod fault;
mod id;
mod image;
mod instance;
mod owner;
mod policy;
mod state;
mod tags;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Result};
pub(crate) use attachment::LUN;

pub use attachment::{Attachment, AttachmentKind, AttachmentSpec, Attachments, Device, Here};
pub use domain::{Domain, choose_domain};
pub use fault::Fault;
pub use id::{AttachmentId, ImageId, InstanceId, PolicyId, VolumeId};
pub use image::{Filling, IMAGE_TAG, Image, ImageDigest, ImageSpec, ImageState, Images};
pub use instance::{Instance, InstanceSpec, Instances, UserData};
pub use owner::{Owner, RUN_TAG, STEP_TAG, Token};
pub use policy::{BackupPolicies, BackupPolicy};
pub use state::{AttachmentState, Goal, InstanceState, Progress, Reported, State, VolumeState, ending};
pub use tags::{Fitted, TagLimits, Tags};
pub use volume::{GIB, Performance, Volume, VolumeLimits, VolumeSpec, Volumes};

/// The most things of one kind that a listing may have; more is taken for a broken provider.
pub const LISTED_MAX: usize = 100_000;

/// What every ability shares.
pub trait Provider: Send + Sync {
    /// What it is called in messages: `oci eu-frankfurt-1`, `directory /srv/volumes`.
    fn name(&self) -> &str;

    /// What tags may be.
    fn tag_limits(&self) -> TagLimits;

    /// How long to pause before asking for a state again.
    fn poll_interval(&self) -> Duration;
}

/// The abilities of one provider.
#[derive(Clone)]
pub struct Cloud {
    /// Volumes; every provider has them.
    pub volumes: Arc<dyn Volumes>,
    /// Attaching volumes to what runs, so that they can be written.
    pub attachments: Option<Arc<dyn Attachments>>,
    /// Making volumes of images that are sent there.
    pub images: Option<Arc<dyn Images>>,
    /// Launching workers.
    pub instances: Option<Arc<dyn Instances>>,
    /// Backup policies of the provider's own.
    pub policies: Option<Arc<dyn BackupPolicies>>,
}

impl Cloud {
    /// The ability to attach volumes.
    ///
    /// # Errors
    /// Refused: the provider has none.
    pub fn attachments(&self) -> Result<&Arc<dyn Attachments>> {
        self.attachments.as_ref().ok_or_else(|| {
            Error::refused(
                self.volumes.name(),
                "attach a volume",
                "its volumes are made of images, and are attached to no machine from here",
            )
        })
    }
}

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cloud({})", self.volumes.name())
    }
}
