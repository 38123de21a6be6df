//! One order while it is worked on: what is told to the daemon, and when to stop.
//!
//! The daemon gives the order to nobody else before this worker has been silent for longer than its lease; so a worker that
//! does not get through stops by its own clock when its lease is over, counted from when it last *sent* what was answered.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use leeward_api::client::WorkClient;
use leeward_runs::state::Level;
use leeward_site::worker::{Bench, Ended, Kept, Line, Order, Progress, Report};

use crate::failure::{Code, Failure};
use crate::interrupt;

/// How often the daemon hears of the work at least.
const BEAT: Duration = Duration::from_millis(1000);
/// How long to wait before a report is sent again.
const AGAIN: Duration = Duration::from_millis(300);
/// Lines that wait to be told, at most; what comes then is not told.
const LINES_MAX: usize = 5000;
/// Lines of one report.
const LINES_OF_REPORT: usize = 500;

/// An order that is worked on.
pub(super) struct Session<'a> {
    client: &'a WorkClient,
    order: &'a Order,
    /// The number of the last report. Held while one is sent: they go one by one.
    sequence: Mutex<u64>,
    lines: Mutex<Vec<Line>>,
    present: Mutex<Option<(String, Progress)>>,
    heard: Mutex<Instant>,
    stop: AtomicBool,
    /// Nothing that is told counts any more.
    gone: AtomicBool,
    done: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Session<'a> {
    pub fn new(client: &'a WorkClient, order: &'a Order) -> Self {
        Self {
            client,
            order,
            sequence: Mutex::new(0),
            lines: Mutex::default(),
            present: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    /// Does the work while the daemon hears of it.
    pub fn watched(&self, work: impl FnOnce() -> Ended) -> Result<Ended, Failure> {
        std::thread::scope(|scope| {
            let beat = std::thread::Builder::new().name("report".to_owned());
            let begun = beat.spawn_scoped(scope, || {
                // Also after it was told to stop: the daemon waits for the end for as long as it hears of it.
                while !self.done.load(Ordering::Acquire) && !self.is_cut_off() {
                    // What fails is tried again by the next; whether to stop was noted.
                    let _ = self.send(None, None);
                    std::thread::park_timeout(BEAT);
                }
            });
            let beat = begun.map_err(|error| {
                Failure::new(Code::Failed, format!("the system gives no threads: {error}"))
            })?;
            // Also where the work panics: who told for ever that all is well would keep its order for ever.
            let _over = Over { done: &self.done, beat: beat.thread() };
            Ok(work())
        })
    }

    /// Tells how the order has ended.
    pub fn end(&self, ended: Ended) -> Result<(), String> {
        if let Some(bytes) = peak_memory() {
            self.log(Level::Info, &format!("the worker's peak memory: {bytes} bytes"));
        }
        while lock(&self.lines).len() > LINES_OF_REPORT {
            self.send(None, None)?;
        }
        self.send(None, Some(ended))
    }

    /// Sends a report until it is answered or the lease is over.
    fn send(&self, kept: Option<Kept>, ended: Option<Ended>) -> Result<(), String> {
        let mut sequence = lock(&self.sequence);
        let (note, progress) = lock(&self.present).clone().unzip();
        let lines = {
            let mut lines = lock(&self.lines);
            let count = lines.len().min(LINES_OF_REPORT);
            lines.drain(..count).collect()
        };
        *sequence += 1;
        let note = note.unwrap_or_default();
        let report = Report { sequence: *sequence, note, progress, lines, kept, ended };
        loop {
            let sent = Instant::now();
            let error = match self.client.report(&self.order.task, &report) {
                Ok(reply) => {
                    *lock(&self.heard) = sent;
                    if reply.stop {
                        self.stop.store(true, Ordering::Release);
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            if WorkClient::is_gone(&error) || WorkClient::is_shut_out(&error) || self.is_lease_over() {
                self.stop.store(true, Ordering::Release);
                self.gone.store(true, Ordering::Release);
                return Err(error.to_string());
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn is_cut_off(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.is_lease_over()
    }

    fn is_lease_over(&self) -> bool {
        lock(&self.heard).elapsed() > Duration::from_secs(self.order.lease_seconds)
    }
}

/// Ends the reports when it goes.
struct Over<'a> {
    done: &'a AtomicBool,
    beat: &'a Thread,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.beat.unpark();
    }
}

impl Bench for Session<'_> {
    fn log(&self, level: Level, text: &str) {
        let mut lines = lock(&self.lines);
        if lines.len() < LINES_MAX {
            lines.push(Line { level, text: text.to_owned() });
        }
    }

    fn progress(&self, note: &str, progress: Progress) {
        let mut present = lock(&self.present);
        match present.as_mut() {
            Some((known, at)) if known == note => *at = progress,
            _ => *present = Some((note.to_owned(), progress)),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || interrupt::is_requested() || self.is_lease_over()
    }

    fn keep(&self, kept: &Kept) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.send(Some(kept.clone()), None).map_err(Into::into)
    }
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
