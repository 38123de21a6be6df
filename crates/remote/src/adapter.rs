//! What there is to know about a bucket beside its objects.

use std::time::Duration;

use jiff::SignedDuration;
use leeward_store::Result;
use leeward_store::bucket::{Bucket, Comparison};

use crate::settings::Settings;

/// The bucket of a service, bare of all layers: one attempt for each call.
pub trait Adapter: Bucket {
    /// Makes the bucket itself, if it is not there and the service lets this key do so.
    ///
    /// # Errors
    /// The service does not make it.
    fn make(&self) -> Result<()>;

    /// Makes what a first repository needs and nobody makes by hand. Called before a probe.
    ///
    /// # Errors
    /// The service does not make it.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Reads the settings of the bucket.
    fn settings(&self) -> Settings;

    /// How far the service's clock was ahead of this machine's when it last answered, if it told the time.
    fn clock_ahead(&self) -> Option<SignedDuration> {
        None
    }

    /// Gives versions back without the quotes around them from now on, which some servers want.
    fn use_bare_tags(&self, _bare: bool) {}

    /// The most that the service promises when writers race: a probe may find more by luck.
    fn promises(&self) -> Comparison;

    /// How far reads and listings may lag behind writes.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}
