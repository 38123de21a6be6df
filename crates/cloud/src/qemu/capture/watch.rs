//! An eye on QEMU while a capture is read: whatever happens to an overlay, a job or QEMU itself makes the content
//! doubtful, and doubtful content is not published.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::qemu::owner::PREFIX;
use crate::qemu::qmp::{Qmp, QmpEvent};
use crate::{Error, Result};

/// How often events are looked for.
const INTERVAL: Duration = Duration::from_millis(50);

/// A capture that is being read.
pub struct Watched<'a> {
    monitor: Mutex<&'a mut Qmp>,
    disks: Vec<String>,
    doubt: Mutex<Option<String>>,
    in_doubt: AtomicBool,
}

/// Runs the work while another thread looks for events.
pub(super) fn watched<T>(
    monitor: &mut Qmp,
    disks: Vec<String>,
    work: impl FnOnce(&Watched) -> T,
) -> Result<T> {
    let place = monitor.peer().to_owned();
    let watched = Watched {
        monitor: Mutex::new(monitor),
        disks,
        doubt: Mutex::default(),
        in_doubt: AtomicBool::new(false),
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = std::thread::Builder::new().name("qemu-events".to_owned()).spawn_scoped(scope, || {
            while !over.load(Ordering::Relaxed) && !watched.is_in_doubt() {
                watched.look(&mut lock(&watched.monitor));
                std::thread::park_timeout(INTERVAL);
            }
        });
        let watcher = watcher.map_err(|source| Error::io(place, "start a thread for", source))?;
        // Also when the work panics, so that the scope can end.
        let end = OnDrop(|| {
            over.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
        });
        let result = work(&watched);
        drop(end);
        Ok(result)
    })
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched<'_> {
    /// Whether what is read cannot be believed any more; [`Watched::confirm`] tells why.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Relaxed)
    }

    /// Confirms that everything that was read up to now is the content of the moment.
    ///
    /// # Errors
    /// It may not be: an overlay was full or failed, a job ended, or QEMU did.
    pub fn confirm(&self) -> Result<()> {
        let mut monitor = lock(&self.monitor);
        let peer = monitor.peer().to_owned();
        if !self.is_in_doubt() {
            // What QEMU had to tell before it answers is here after the answer.
            match monitor.settle().and_then(|()| monitor.execute("query-jobs", json!({}))) {
                Ok(jobs) => {
                    self.look_at_jobs(&jobs);
                    self.look(&mut monitor);
                }
                Err(error) => self.suspect(format!("QEMU cannot be asked any more: {error}")),
            }
        }
        match lock(&self.doubt).clone() {
            Some(what) => Err(Error::Doubtful { peer, what }),
            None => Ok(()),
        }
    }

    fn suspect(&self, what: String) {
        lock(&self.doubt).get_or_insert(what);
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    fn look(&self, monitor: &mut Qmp) {
        loop {
            match monitor.next_event(Instant::now()) {
                Ok(Some(event)) => self.look_at(&event),
                Ok(None) => break,
                Err(error) => return self.suspect(format!("QEMU went away: {error}")),
            }
        }
        if monitor.has_lost_events() {
            self.suspect("QEMU told of more events than can be kept".to_owned());
        }
    }

    fn look_at(&self, event: &QmpEvent) {
        let text = |name: &str| event.data[name].as_str().unwrap_or_default();
        match event.name.as_str() {
            "QUORUM_REPORT_BAD" => {
                if let Some(disk) = self.disk(text("node-name")) {
                    self.suspect(format!(
                        "the overlay of disk {disk} cannot hold what the guest overwrites ({}): the guest goes on, the \
                         backup cannot — allow more with --overlay-max, or name a place with more space with \
                         --overlay-dir",
                        text("error")
                    ));
                }
            }
            "JOB_STATUS_CHANGE" if matches!(text("status"), "aborting" | "concluded" | "null") => {
                if let Some(disk) = self.disk(text("id")) {
                    self.suspect(format!("the backup job of disk {disk} was ended by somebody"));
                }
            }
            _ => {}
        }
    }

    fn look_at_jobs(&self, jobs: &serde_json::Value) {
        let alive = |id: &str| {
            let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == id);
            job.is_some_and(|job| {
                !matches!(job["status"].as_str(), Some("aborting" | "concluded" | "null") | None)
            })
        };
        for (number, disk) in self.disks.iter().enumerate() {
            if !alive(&format!("{PREFIX}{number}")) {
                self.suspect(format!("the backup job of disk {disk} is gone"));
            }
        }
    }

    /// The disk to which a job or node of ours belongs.
    fn disk(&self, name: &str) -> Option<&str> {
        let rest = name.strip_prefix(PREFIX)?;
        let number: usize = rest.split('-').next()?.parse().ok()?;
        self.disks.get(number).map(String::as_str)
    }
}
