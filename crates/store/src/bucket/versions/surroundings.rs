//! What a store without comparison takes from its machine: random numbers, pauses, and how long things take.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Random numbers, pauses and a clock of this process alone. A simulation brings its own, so that a seed gives the same run again.
pub trait Surroundings: Send + Sync {
    /// A random number, never 0; no two processes may ever get the same.
    ///
    /// # Errors
    /// The system gives no random bytes.
    fn number(&self) -> Result<u64>;

    /// Lets at least so much time pass.
    fn pause(&self, time: Duration);

    /// The time since some moment, for how long a request takes; nothing rests on it.
    fn time(&self) -> Duration;
}

/// The machine that this process runs on.
pub(super) struct Machine(Instant);

impl Machine {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Surroundings for Machine {
    fn number(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        loop {
            getrandom::fill(&mut bytes).map_err(|error| Error::Unsupported {
                store: "this machine".to_owned(),
                what: format!("the system gives no random bytes: {error}"),
            })?;
            match u64::from_le_bytes(bytes) {
                0 => {}
                number => return Ok(number),
            }
        }
    }

    fn pause(&self, time: Duration) {
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }

    fn time(&self) -> Duration {
        self.0.elapsed()
    }
}
