//! Progress of long work: bytes, rate, time left, on one line of the terminal.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use crate::output::Output;
use crate::size;

/// At most five lines per second.
const INTERVAL: Duration = Duration::from_millis(200);

/// Progress of work whose length in bytes is known. Silent without a terminal. Shared by the threads that do the work.
pub struct Progress {
    label: String,
    total_bytes: u64,
    done_bytes: AtomicU64,
    started: Instant,
    /// When the line was last drawn; `None` when nothing is to be shown.
    drawn: Option<Mutex<Instant>>,
}

impl Progress {
    /// Begins to show work of `total_bytes`.
    pub fn new(output: &Output, total_bytes: u64, label: impl Into<String>) -> Self {
        let started = Instant::now();
        Self {
            label: label.into(),
            total_bytes,
            done_bytes: AtomicU64::new(0),
            started,
            drawn: output.shows_progress().then(|| Mutex::new(started)),
        }
    }

    /// Notes that `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(drawn) = &self.drawn else { return };
        // A thread that finds another one drawing goes on with its work.
        let mut drawn = match drawn.try_lock() {
            Ok(drawn) => drawn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if drawn.elapsed() >= INTERVAL {
            *drawn = Instant::now();
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", self.line(done, self.started.elapsed()));
        }
    }

    /// Shows a text instead of bytes, for work that has none.
    pub fn note(&self, text: &str) {
        let Some(Ok(mut drawn)) = self.drawn.as_ref().map(Mutex::try_lock) else { return };
        if drawn.elapsed() >= INTERVAL {
            *drawn = Instant::now();
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
        }
    }

    /// Takes the line away.
    pub fn finish(&self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
        let left = self.total_bytes.saturating_sub(done);
        let percent = (done as f64 / self.total_bytes.max(1) as f64 * 100.0).min(100.0);
        let time = if rate > 0.0 { size::show_seconds((left as f64 / rate) as u64) } else { "?".to_owned() };
        format!(
            "{}: {percent:.0} % — {} of {}, {}/s, {time} left",
            self.label,
            size::show(done),
            size::show(self.total_bytes),
            size::show(rate as u64),
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Output, OutputArguments};

    #[test]
    fn the_line_says_bytes_rate_and_time_left() {
        let progress = Progress::new(&Output::new(&OutputArguments::default()), 8 << 30, "converting");
        assert_eq!(
            progress.line(2 << 30, Duration::from_secs(4)),
            "converting: 25 % — 2.0 GiB of 8.0 GiB, 512.0 MiB/s, 12 s left"
        );
    }
}
