//! Who works on what: orders that steps offer, and the workers that have taken them.
//!
//! A step waits here ([`Board::work`]) while a worker works; what the worker reports is handled in the step's own thread, and
//! answered when that is done: a checkpoint is kept before its sender goes on.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leeward_remote::objects::{ObjectVersion, SharedObjects};
use leeward_runs::step::Fault;

use super::{Ended, Order, Reply, Report};

/// How much longer than its lease a worker is waited for before it is lost.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a worker that was told to stop is waited for.
const STOP_TIME: Duration = Duration::from_secs(20);
/// How long such a worker may be silent meanwhile: one that works is heard each second, and one that is not cannot be waited for
/// when the daemon itself ends, and takes no more reports.
const STOP_SILENCE: Duration = Duration::from_secs(5);
/// How long a report waits for its step.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(200);

/// A worker, as it is known by its token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    /// A standing one: its name.
    Standing(String),
    /// The temporary one of a run: the run's id.
    Run(String),
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Standing(name) => write!(f, "worker {name}"),
            Self::Run(_) => f.write_str("the run's worker"),
        }
    }
}

/// What of a source a worker may read: these objects, in these states.
#[derive(Clone)]
pub struct Grant {
    /// The source.
    pub objects: SharedObjects,
    /// What may be read.
    pub names: BTreeMap<String, ObjectVersion>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a worker may go without a word.
    pub lease: Duration,
    /// How long an order may lie before a worker takes it.
    pub claim: Duration,
}

/// Why a worker is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The order is not its any more, or never was.
    Gone,
    /// The step has no time for it: it may try again.
    Busy,
}

/// Why an order did not come to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Nobody took it.
    NotTaken,
    /// The worker was not heard any more.
    Lost,
    /// The step failed at what it was told, or is to stop.
    Fault(Fault),
}

/// An order to be offered.
pub(crate) struct Offered<'a> {
    pub writer: &'a Writer,
    pub order: Order,
    pub grant: Option<Grant>,
    pub patience: Patience,
    /// Whether the step is to stop.
    pub is_stopped: &'a dyn Fn() -> bool,
}

struct Offer {
    writer: Writer,
    order: Order,
    grant: Option<Grant>,
    holder: Option<Holder>,
    stop: bool,
}

/// The process that has an order.
struct Holder {
    process: String,
    heard: Instant,
    /// The last report that the step has handled.
    handled: u64,
    /// One that it has not.
    waiting: Option<Report>,
}

#[derive(Default)]
struct Tasks {
    offers: BTreeMap<String, Offer>,
    seen: BTreeMap<Writer, Instant>,
}

/// Orders and who has them. In memory: see the head of this module.
#[derive(Default)]
pub struct Board {
    tasks: Mutex<Tasks>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a worker an order, if there is one for it. The process that has one already and says so again gets the same one:
    /// its answer was lost.
    pub fn claim(&self, writer: &Writer, process: &str) -> Option<Order> {
        let mut tasks = self.lock();
        tasks.seen.insert(writer.clone(), Instant::now());
        let mut mine = tasks.offers.values_mut().filter(|offer| offer.writer == *writer && !offer.stop);
        let again = |offer: &Offer| {
            offer.holder.as_ref().is_none_or(|holder| {
                holder.process == process && holder.handled == 0 && holder.waiting.is_none()
            })
        };
        let offer = mine.find(|offer| again(offer))?;
        offer.holder =
            Some(Holder { process: process.to_owned(), heard: Instant::now(), handled: 0, waiting: None });
        let order = offer.order.clone();
        drop(tasks);
        self.changed.notify_all();
        Some(order)
    }

    /// When a worker was last heard.
    #[must_use]
    pub fn seen(&self, writer: &Writer) -> Option<Instant> {
        self.lock().seen.get(writer).copied()
    }

    /// Forgets when a worker was heard: another one is to come in its place.
    pub fn forget(&self, writer: &Writer) {
        self.lock().seen.remove(writer);
    }

    /// What the worker that has an order may read for it.
    ///
    /// # Errors
    /// The order is not its.
    pub fn grant(&self, writer: &Writer, task: &str) -> Result<Grant, Refused> {
        let tasks = self.lock();
        let offer = tasks.offers.get(task).filter(|offer| offer.writer == *writer && offer.holder.is_some());
        offer.and_then(|offer| offer.grant.clone()).ok_or(Refused::Gone)
    }

    /// Whether a process of a worker has an order.
    ///
    /// # Errors
    /// It has not.
    pub fn held(&self, writer: &Writer, task: &str, process: &str) -> Result<(), Refused> {
        let tasks = self.lock();
        let offer = tasks.offers.get(task).filter(|offer| offer.writer == *writer);
        let holder = offer.and_then(|offer| offer.holder.as_ref());
        holder.filter(|holder| holder.process == process).map(|_| ()).ok_or(Refused::Gone)
    }

    /// Hands a report to the step and waits until it has handled it.
    ///
    /// # Errors
    /// The order is not this worker's any more; or the step has no time.
    pub fn report(
        &self,
        writer: &Writer,
        task: &str,
        process: &str,
        report: Report,
    ) -> Result<Reply, Refused> {
        let (sequence, ends) = (report.sequence, report.ended.is_some());
        let end = Instant::now() + ANSWER_TIME;
        let mut tasks = self.lock();
        tasks.seen.insert(writer.clone(), Instant::now());
        let mut handed = Some(report);
        loop {
            let offer = tasks.offers.get_mut(task).filter(|offer| offer.writer == *writer);
            let holder = offer.and_then(|offer| {
                let stop = offer.stop;
                offer.holder.as_mut().filter(|holder| holder.process == process).map(|holder| (holder, stop))
            });
            let Some((holder, stop)) = holder else {
                // The step has taken the end and gone on.
                return if ends && handed.is_none() { Ok(Reply::default()) } else { Err(Refused::Gone) };
            };
            holder.heard = Instant::now();
            if holder.handled >= sequence {
                return Ok(Reply { stop });
            }
            if holder.waiting.is_none() && handed.is_some() {
                holder.waiting = handed.take();
                self.changed.notify_all();
            } else if holder.waiting.as_ref().is_some_and(|waiting| waiting.sequence == sequence) {
                // The same one, sent again while the first still waits.
                handed = None;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Refused::Busy);
            }
            tasks = self.changed.wait_timeout(tasks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Offers an order and waits until a worker has done it; `handle` is given every report, in this thread.
    pub(crate) fn work(
        &self,
        offered: Offered<'_>,
        handle: &mut dyn FnMut(&Report) -> Result<(), Fault>,
    ) -> Result<Ended, Gone> {
        let task = offered.order.task.clone();
        let offer = Offer {
            writer: offered.writer.clone(),
            order: offered.order,
            grant: offered.grant,
            holder: None,
            stop: false,
        };
        self.lock().offers.insert(task.clone(), offer);
        self.changed.notify_all();
        let mut waiting =
            Waiting { board: self, task, begun: Instant::now(), stopped: None, patience: offered.patience };
        loop {
            if (offered.is_stopped)() {
                waiting.stop()?;
            }
            let Some(report) = waiting.next()? else { continue };
            let handled = handle(&report);
            match (handled, report.ended) {
                (Err(Fault::Stopped), _) => waiting.stop()?,
                (Err(fault), _) => return Err(Gone::Fault(fault)),
                (Ok(()), Some(Ended::Stopped)) if waiting.stopped.is_some() => {
                    return Err(Gone::Fault(Fault::Stopped));
                }
                (Ok(()), Some(ended)) => return Ok(ended),
                (Ok(()), None) => {}
            }
            waiting.handled(report.sequence);
        }
    }
}

/// A step that waits for a worker. When it goes, its order goes: nothing that is told of it counts any more.
struct Waiting<'a> {
    board: &'a Board,
    task: String,
    begun: Instant,
    stopped: Option<Instant>,
    patience: Patience,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.board.lock().offers.remove(&self.task);
        self.board.changed.notify_all();
    }
}

impl Waiting<'_> {
    /// Tells the worker to stop; an error when it has none, or was waited for long enough.
    fn stop(&mut self) -> Result<(), Gone> {
        let since = *self.stopped.get_or_insert_with(Instant::now);
        let mut tasks = self.board.lock();
        let Some(offer) = tasks.offers.get_mut(&self.task) else { return Err(Gone::Fault(Fault::Stopped)) };
        offer.stop = true;
        let is_heard = offer.holder.as_ref().is_some_and(|holder| holder.heard.elapsed() < STOP_SILENCE);
        match is_heard && since.elapsed() < STOP_TIME {
            true => Ok(()),
            false => Err(Gone::Fault(Fault::Stopped)),
        }
    }

    /// The next report, or none for now.
    fn next(&self) -> Result<Option<Report>, Gone> {
        let mut tasks = self.board.lock();
        for is_last in [false, true] {
            let holder = tasks.offers.get_mut(&self.task).and_then(|offer| offer.holder.as_mut());
            match holder {
                // It stays with the holder until it is handled.
                Some(holder) if holder.waiting.is_some() => return Ok(holder.waiting.clone()),
                Some(holder) if holder.heard.elapsed() > self.patience.lease + MARGIN => {
                    return Err(Gone::Lost);
                }
                None if self.begun.elapsed() > self.patience.claim => return Err(Gone::NotTaken),
                _ if is_last => {}
                _ => {
                    let waited = self.board.changed.wait_timeout(tasks, NAP);
                    tasks = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        Ok(None)
    }

    fn handled(&self, sequence: u64) {
        let mut tasks = self.board.lock();
        if let Some(holder) = tasks.offers.get_mut(&self.task).and_then(|offer| offer.holder.as_mut()) {
            holder.waiting = None;
            holder.handled = holder.handled.max(sequence);
        }
        drop(tasks);
        self.board.changed.notify_all();
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
