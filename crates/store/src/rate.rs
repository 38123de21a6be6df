//! A limit on how fast bytes are moved.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much may be done at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);
/// How long one wait lasts before it is asked whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// Bytes per second, shared by everything that it limits.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: u64,
    /// When all that was granted so far will have been paid for.
    paid_until: Mutex<Instant>,
}

impl RateLimit {
    /// A limit of so many bytes per second, at least one.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self { bytes_per_second: bytes_per_second.max(1), paid_until: Mutex::new(Instant::now()) })
    }

    /// Waits until `bytes` more may be moved, or `stop` says so.
    pub fn wait(&self, bytes: u64, stop: &dyn Fn() -> bool) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let due = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            // What was not used is lost, but for a short burst.
            let now = Instant::now();
            *paid_until = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now)) + cost;
            *paid_until
        };
        while !stop() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_over_time_and_is_shared() {
        let limit = RateLimit::new(10 << 20);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..8).for_each(|_| limit.wait(128 << 10, &|| false)));
            }
        });
        // 4 MiB at 10 MiB/s, less the burst. Longer waits are the machine's doing.
        assert!(started.elapsed() >= Duration::from_millis(280), "{:?}", started.elapsed());
    }

    #[test]
    fn a_wait_ends_when_it_is_told_to() {
        let limit = RateLimit::new(1);
        let started = Instant::now();
        limit.wait(3600, &|| started.elapsed() > Duration::from_millis(100));
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
