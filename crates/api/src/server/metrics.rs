//! Figures for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the classes of durations, in seconds.
const BOUNDS: [f64; 7] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

#[derive(Default)]
struct Durations {
    counts: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

/// What a server has done since it began.
#[derive(Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    durations: Mutex<BTreeMap<&'static str, Durations>>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    pub(super) fn count(&self, class: &'static str, status: u16, time: Duration) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((class, status)).or_default() +=
            1;
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        let found = durations.entry(class).or_default();
        let seconds = time.as_secs_f64();
        for (count, bound) in found.counts.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        found.count += 1;
        found.seconds += seconds;
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All figures in the text format of Prometheus.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "# HELP leeward_requests_total Requests by class and status.\n# TYPE leeward_requests_total counter"
        )?;
        for ((class, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(text, "leeward_requests_total{{class=\"{class}\",status=\"{status}\"}} {count}")?;
        }
        for (name, bytes, what) in [
            ("received", &self.received, "Bytes of bodies received."),
            ("sent", &self.sent, "Bytes of bodies sent."),
        ] {
            let total = bytes.load(Ordering::Relaxed);
            writeln!(
                text,
                "# HELP leeward_{name}_bytes_total {what}\n# TYPE leeward_{name}_bytes_total counter"
            )?;
            writeln!(text, "leeward_{name}_bytes_total {total}")?;
        }
        let name = "leeward_request_seconds";
        writeln!(text, "# HELP {name} Time to the first byte of the answer.\n# TYPE {name} histogram")?;
        for (class, found) in self.durations.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (bound, count) in BOUNDS.iter().zip(found.counts) {
                writeln!(text, "{name}_bucket{{class=\"{class}\",le=\"{bound}\"}} {count}")?;
            }
            writeln!(text, "{name}_bucket{{class=\"{class}\",le=\"+Inf\"}} {}", found.count)?;
            writeln!(text, "{name}_sum{{class=\"{class}\"}} {}", found.seconds)?;
            writeln!(text, "{name}_count{{class=\"{class}\"}} {}", found.count)?;
        }
        Ok(())
    }
}
