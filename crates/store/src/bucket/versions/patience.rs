//! Requests that are repeated: while they fail in passing, and while reads may lag.

use std::sync::Arc;
use std::time::Duration;

use super::Surroundings;
use crate::bucket::store::BucketObject;
use crate::{ErrorKind, Object, Result};

/// How often a request that failed in a passing way is sent, where repeating does no harm.
pub(super) const TRIES_MAX: u32 = 5;
/// The first pause before a request is repeated; each further one is twice as long.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// In so many steps the time passes in which reads may lag.
const STEPS: u32 = 4;

/// Repeats a request while it fails in a passing way.
pub(super) fn again<T>(surroundings: &dyn Surroundings, request: impl Fn() -> Result<T>) -> Result<T> {
    let mut pause = PAUSE;
    for _ in 1..TRIES_MAX {
        match request() {
            Err(error) if error.is_transient() => surroundings.pause(pause),
            other => return other,
        }
        pause *= 2;
    }
    request()
}

/// Repeats a read of an object that never changes and is not found, for as long as reads may lag.
pub(super) fn until_shown<T>(
    surroundings: &dyn Surroundings,
    lag: Duration,
    read: impl Fn() -> Result<T>,
) -> Result<T> {
    for _ in 0..STEPS {
        match again(surroundings, &read) {
            Err(error) if error.kind() == ErrorKind::NotFound && !lag.is_zero() => {
                surroundings.pause(lag / STEPS + Duration::from_nanos(1));
            }
            other => return other,
        }
    }
    again(surroundings, &read)
}

/// An object that never changes, read by ranges. That one request was shown it does not mean that the next one is.
pub(super) struct PatientObject {
    object: BucketObject,
    lag: Duration,
    surroundings: Arc<dyn Surroundings>,
}

impl PatientObject {
    pub(super) fn new(object: BucketObject, lag: Duration, surroundings: &Arc<dyn Surroundings>) -> Self {
        Self { object, lag, surroundings: Arc::clone(surroundings) }
    }
}

impl Object for PatientObject {
    fn size(&self) -> u64 {
        self.object.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let buffer = std::cell::RefCell::new(buffer);
        until_shown(self.surroundings.as_ref(), self.lag, || {
            self.object.read_at(&mut buffer.borrow_mut(), offset)
        })
    }
}
